// What the server answered, and how.

import { byId, el, mmacs, ms, percent, stack, whole } from './dom.js';

const SOURCES = {
  memory: 'in memory',
  disk: 'loaded from disk',
  shared: 'loaded from the store that servers share',
  built: 'built for this request',
};
const PHASES = ['decode', 'resolve', 'queue', 'inference'];

/** Labelled bars for predictions, most probable first. */
export function bars(predictions) {
  return el(
    'ol',
    { class: 'bars' },
    predictions.map(({ label, probability }) => {
      const fill = el('span', { class: 'fill' });
      fill.style.width = `${probability * 100}%`;
      return el(
        'li',
        null,
        el('span', { class: 'label', title: label }, label),
        el('span', { class: 'track', 'aria-hidden': 'true' }, fill),
        el('span', { class: 'value' }, percent(probability)),
      );
    }),
  );
}

/** Shows an answer of `/classify`. */
export function show(answer) {
  badge(answer.budget.met);
  // Whoever listens hears the gist, not all bars after each move of the slider.
  const [best] = answer.predictions;
  byId('answer-said').textContent =
    `${best.label}, ${percent(best.probability)}, by the child of ${mmacs(answer.child.mflops)}; ` +
    `budget ${answer.budget.met ? 'met' : 'not met'}`;
  byId('answer-body').replaceChildren(bars(answer.predictions), facts(answer), phases(answer.timing_ms));
}

/** Shows what went wrong instead of an answer. */
export const fail = (message) => instead(el('p', { class: 'problem', role: 'alert' }, message));

/** Says why nobody was asked. */
export const skip = (message) => instead(el('p', { class: 'empty', role: 'status' }, message));

function instead(node) {
  busy(false);
  byId('answer-badge').hidden = true;
  byId('answer-said').textContent = '';
  byId('answer-body').replaceChildren(node);
}

/** While the first answer is on its way, or a child is being built. */
export function busy(isBusy) {
  byId('answer').setAttribute('aria-busy', String(isBusy));
}

function badge(met) {
  const node = byId('answer-badge');
  node.hidden = false;
  node.className = `badge ${met ? 'good' : 'bad'}`;
  node.textContent = met ? '✓ budget met' : '✗ budget not met';
}

function facts({ child, source, degraded_from: better }) {
  const dataset = child.accuracy_source && `${child.accuracy_source.kind}, ${child.accuracy_source.dataset} ${child.accuracy_source.split}`;
  const rows = [
    ['Child', el('code', null, child.id)],
    ['Cost', `${mmacs(child.mflops)}, ${whole(child.params)} parameters`],
    ['Input', `${child.resolution}×${child.resolution} px`],
    [
      'Accuracy',
      child.accuracy === null ? 'not measured' : [percent(child.accuracy, 2), el('span', { class: 'note' }, ` ${dataset ?? ''}`)],
    ],
    [
      'Latency',
      child.latency_ms === null ? 'not measured yet' : [ms(child.latency_ms), el('span', { class: 'note' }, ' alone, on this server')],
    ],
    ['Source', SOURCES[source] ?? source],
    better ? ['Under load', ['instead of ', el('code', null, better)]] : null,
  ];
  return el(
    'dl',
    { class: 'facts' },
    rows.filter(Boolean).map(([name, value]) => el('div', null, el('dt', null, name), el('dd', null, value))),
  );
}

function phases(timing) {
  const known = PHASES.map((name) => ({ name, value: timing[name], className: `phase-${name}` }));
  const other = timing.total - known.reduce((sum, part) => sum + part.value, 0);
  const parts = [...known, { name: 'other', value: Math.max(other, 0), className: 'phase-other' }];
  const bar = el('span', { class: 'stack', role: 'img' });
  stack(bar, parts, ms);
  const key = parts.map((part) =>
    el('li', null, el('span', { class: `swatch ${part.className}` }), `${part.name} `, el('b', null, ms(part.value))),
  );
  return el(
    'div',
    { class: 'timing' },
    el('p', { class: 'phase-title' }, 'Time ', el('b', null, ms(timing.total))),
    bar,
    el('ul', { class: 'legend phases', 'aria-hidden': 'true' }, key),
  );
}
