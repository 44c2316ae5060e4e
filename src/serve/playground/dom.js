// Elements, numbers as people read them, and nothing else.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element; `on…` attributes are listeners. */
export const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);

/** The same for SVG. */
export const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** Three significant digits, without an exponent. */
export function digits(value, significant = 3) {
  if (value === 0) return '0';
  const decimals = Math.max(0, significant - 1 - Math.floor(Math.log10(Math.abs(value))));
  return value.toLocaleString('en', { minimumFractionDigits: Math.min(decimals, 4), maximumFractionDigits: Math.min(decimals, 4) });
}

export const ms = (value) =>
  value >= 1000 ? `${digits(value / 1000)} s` : `${value < 0.01 ? digits(value, 1) : digits(value, value < 1 ? 2 : 3)} ms`;
export const mmacs = (value) => `${digits(value)} MMACs`;
export const percent = (fraction, decimals = 1) => `${(fraction * 100).toFixed(decimals)} %`;
export const whole = (value) => value.toLocaleString('en');

/** Probabilities of `logits`. */
export function softmax(logits) {
  const highest = Math.max(...logits);
  const raised = Array.from(logits, (logit) => Math.exp(logit - highest));
  const sum = raised.reduce((total, value) => total + value, 0);
  return raised.map((value) => value / sum);
}

/** One bar made of parts `{name, value, className}`, as long as their sum; what is drawn stands in its label too. */
export function stack(node, parts, describe) {
  const total = parts.reduce((sum, part) => sum + part.value, 0);
  node.replaceChildren(
    ...parts
      .filter((part) => part.value > 0)
      .map((part) => {
        const segment = el('span', { class: part.className, title: `${part.name} ${describe(part.value)}` });
        segment.style.flexGrow = part.value / total;
        return segment;
      }),
  );
  node.setAttribute('aria-label', parts.map((part) => `${part.name} ${describe(part.value)}`).join(', '));
}
