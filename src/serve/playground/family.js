// The budget: chosen on the plot, or with the slider under it.

import { configuration } from './configuration.js';
import { byId } from './dom.js';
import { AXES, costDomain, draw } from './plot.js';

const STEPS = 1000;
/** Between a child and what is said about it, in pixels. */
const TIP_GAP_PX = 18;

/** The panel's state: the children, and the budget in the unit of the axis. */
const view = { children: [], axis: 'mflops', budget: 0, chosen: null, width: 0, height: 0 };
let notify = () => {};
/** The mark that the tip is about. */
let described = null;

/** Wires the panel; `onBudget()` hears of every new budget. */
export function start(onBudget) {
  notify = onBudget;
  byId('budget').addEventListener('input', (event) => setBudget(fromSlider(event.target.valueAsNumber)));
  byId('axis-mflops').addEventListener('click', () => setAxis('mflops'));
  byId('axis-latency').addEventListener('click', () => setAxis('latency_ms'));
  new ResizeObserver(redraw).observe(byId('plot'));
}

/** Begins with a model's children. */
export function begin(children) {
  hideTip();
  view.children = children;
  // In the middle of the family, so that some children fit and some do not.
  setBudget(within().length ? view.budget : costOf(children[Math.floor(children.length / 2)]));
}

/** Takes the children's new states. */
export function update(children) {
  view.children = children;
  redraw();
}

/** The budget as a query, or null where no child can meet it. */
export function budget() {
  return within().length ? { [view.axis]: view.budget } : null;
}

/** Why no child can answer. */
export function nothing() {
  const known = costs();
  return known.length
    ? `No child is within this budget; the smallest takes ${AXES[view.axis].text(Math.min(...known))}.`
    : 'No latency is measured yet.';
}

/** Shows which child answered. */
export function answered(id) {
  view.chosen = id;
  redraw();
}

/** The children within the budget, best first, as the server ranks them. */
function within() {
  const fits = (child) => AXES[view.axis].cost(child) !== null && AXES[view.axis].cost(child) <= view.budget;
  return view.children.filter(fits).sort((a, b) => (b.accuracy ?? -1) - (a.accuracy ?? -1));
}

function setAxis(axis) {
  if (axis === view.axis) return;
  const best = within()[0] ?? view.children[0];
  view.axis = axis;
  byId('axis-mflops').setAttribute('aria-pressed', String(axis === 'mflops'));
  byId('axis-latency').setAttribute('aria-pressed', String(axis === 'latency_ms'));
  // The same child stays within reach.
  setBudget(costOf(best));
}

function setBudget(value) {
  view.budget = value;
  view.chosen = within()[0]?.id ?? null;
  redraw();
  notify();
}

const end = () => costDomain(view.children, view.axis)[1];
const toSlider = (value) => Math.round((value / end()) * STEPS);
const fromSlider = (position) => Number(((Math.max(position, 1) / STEPS) * end()).toPrecision(4));

function redraw() {
  const plot = byId('plot');
  view.width = Math.max(plot.clientWidth, 260);
  view.height = plot.clientHeight;
  draw(byId('plot-svg'), view, { pick: (child) => setBudget(AXES[view.axis].cost(child)), point: showTip, leave: hideTip });
  const { text } = AXES[view.axis];
  // The slider too: its end moves with the costliest child.
  const slider = byId('budget');
  slider.value = String(toSlider(view.budget));
  slider.setAttribute('aria-valuetext', `at most ${text(view.budget)}`);
  const fitting = within().length;
  const known = costs();
  const unmeasured = view.children.length - known.length;
  const least = known.length ? `, the smallest takes ${text(Math.min(...known))}` : '';
  const count = fitting ? `${fitting} of ${view.children.length} children fit` : `none fits${least}`;
  byId('budget-text').textContent = `At most ${text(view.budget)}: ${count}${unmeasured ? `, ${unmeasured} not measured yet` : ''}`;
}

/** The costs that are known, on the axis shown. */
const costs = () => view.children.map(AXES[view.axis].cost).filter((cost) => cost !== null);

/** What a child costs; where that is not known, what the costliest does. */
const costOf = (child) => AXES[view.axis].cost(child) ?? Math.max(...costs(), 0);

function showTip({ mark, child, px, py }) {
  hideTip();
  described = mark;
  mark.setAttribute('aria-describedby', 'tip');
  const tip = byId('tip');
  tip.replaceChildren(...configuration(child));
  tip.hidden = false;
  const isLeft = px > view.width / 2;
  const left = isLeft ? px - tip.offsetWidth - TIP_GAP_PX : px + TIP_GAP_PX;
  // Beside the child, or below the plot where that would cover it.
  const fits = left >= 0 && left + tip.offsetWidth <= view.width;
  tip.style.left = `${fits ? left : 0}px`;
  tip.style.top = `${fits ? Math.max(0, Math.min(py - tip.offsetHeight / 2, view.height - tip.offsetHeight)) : view.height}px`;
}

function hideTip() {
  described?.removeAttribute('aria-describedby');
  byId('tip').hidden = true;
}
