// The family as a picture: accuracy against cost.

import { digits, mmacs, ms, percent, svg } from './dom.js';
import { domain, scale, ticks } from './scale.js';

/** Room around the plot in pixels; the slider below it has the same, so that its thumb stands under the budget. */
export const MARGIN = { top: 14, right: 16, bottom: 34, left: 48 };
const WORDS = { loaded: 'loaded', disk: 'on disk', unbuilt: 'not built' };
/** How far from the bottom children stand whose accuracy nobody has measured, in pixels. */
const UNKNOWN_PX = 12;
/** How far around its point a child is clicked: a finger is no pointer, and where others are near, the next one has its own. */
const REACH_PX = { min: 4, max: 14 };

/** The two costs that a child can be drawn against. */
export const AXES = {
  mflops: { cost: (child) => child.mflops, text: mmacs, title: 'MMACs: millions of multiply-adds for one image' },
  latency_ms: { cost: (child) => child.latency_ms, text: ms, title: 'ms for one image, median on this server' },
};

/** The end of the cost axis: it begins at zero. */
export function costDomain(children, axis) {
  const costs = children.map(AXES[axis].cost).filter((cost) => cost !== null);
  return [0, Math.max(...costs, 1e-3) * 1.06];
}

/** Draws into `root`. `view`: children, axis, budget, chosen (an id), width, height; `on`: pick, point, leave. */
export function draw(root, view, on) {
  const { width, height } = view;
  const x = scale(costDomain(view.children, view.axis), [MARGIN.left, width - MARGIN.right]);
  const known = view.children.filter((child) => child.accuracy !== null).map((child) => child.accuracy);
  const room = known.length ? domain(known, 0.14) : [0, 1];
  const range = [Math.max(room[0], 0), Math.min(room[1], 1)];
  const y = scale(range, [height - MARGIN.bottom - (known.length < view.children.length ? 3 * UNKNOWN_PX : 0), MARGIN.top]);
  const at = (child) => [x(AXES[view.axis].cost(child)), child.accuracy === null ? height - MARGIN.bottom - UNKNOWN_PX : y(child.accuracy)];
  const { cost } = AXES[view.axis];
  const drawn = view.children.filter((child) => cost(child) !== null).sort((a, b) => cost(a) - cost(b));

  root.setAttribute('viewBox', `0 0 ${width} ${height}`);
  if (!root.firstChild) root.append(svg('g', { class: 'under', 'aria-hidden': 'true' }), svg('g', { class: 'children' }));
  const [under, marks] = root.children;
  under.replaceChildren(
    svg('g', { class: 'axes' }, grid(view, x, y, range)),
    beyond(view, x),
    svg('path', {
      class: 'front',
      d: front(
        drawn.filter((child) => child.accuracy !== null),
        at,
      ),
    }),
  );
  place(marks, drawn, at, view, on);
}

function grid(view, x, y, range) {
  const { width, height } = view;
  const across = ticks(0, x.invert(width - MARGIN.right), width < 420 ? 4 : 7);
  const up = ticks(range[0] * 100, range[1] * 100, 5);
  const bottom = height - MARGIN.bottom;
  return [
    ...up.values.flatMap((value) => [
      svg('line', { x1: MARGIN.left, x2: width - MARGIN.right, y1: y(value / 100), y2: y(value / 100) }),
      svg('text', { x: MARGIN.left - 8, y: y(value / 100) + 4, 'text-anchor': 'end' }, `${value.toFixed(up.decimals)} %`),
    ]),
    view.children.some((child) => child.accuracy === null)
      ? svg('text', { x: MARGIN.left - 8, y: bottom - UNKNOWN_PX + 4, 'text-anchor': 'end' }, 'n/a')
      : null,
    svg('line', { class: 'base', x1: MARGIN.left, x2: width - MARGIN.right, y1: bottom, y2: bottom }),
    ...across.values.map((value) => svg('text', { x: x(value), y: bottom + 16, 'text-anchor': 'middle' }, value.toFixed(across.decimals))),
    svg('text', { class: 'title', x: width - MARGIN.right, y: height - 3, 'text-anchor': 'end' }, AXES[view.axis].title),
  ];
}

/** The budget as a line, and what lies beyond it in shade. */
function beyond(view, x) {
  const [top, bottom] = [MARGIN.top, view.height - MARGIN.bottom];
  const right = view.width - MARGIN.right;
  const at = Math.min(Math.max(x(view.budget), MARGIN.left), right);
  return svg(
    'g',
    null,
    svg('rect', { class: 'beyond', x: at, y: top, width: right - at, height: bottom - top }),
    svg('line', { class: 'budget-line', x1: at, x2: at, y1: top, y2: bottom + 4 }),
  );
}

/** Steps along the children that no cheaper one beats. */
function front(children, at) {
  let best = -Infinity;
  let path = '';
  for (const child of [...children].sort((a, b) => at(a)[0] - at(b)[0])) {
    if (child.accuracy <= best) continue;
    best = child.accuracy;
    const [px, py] = at(child);
    path += path ? `H${px}V${py}` : `M${px} ${py}`;
  }
  return path;
}

function shape(state) {
  const name = `point ${state}`;
  if (state === 'loaded') return svg('circle', { class: name, r: 5 });
  if (state === 'disk') return svg('rect', { class: name, x: -4.5, y: -4.5, width: 9, height: 9 });
  return svg('path', { class: name, d: 'M0-5.5 5.5 4.5h-11z' });
}

/** What is read aloud for a child. */
export function describe(child) {
  const accuracy = child.accuracy === null ? 'accuracy unknown' : `accuracy ${percent(child.accuracy, 2)}`;
  const latency = child.latency_ms === null ? 'latency not measured' : ms(child.latency_ms);
  return (
    `Child ${child.id}: ${mmacs(child.mflops)}, ${latency}, ${accuracy}, ${digits(child.params / 1000)} thousand parameters, ` +
    `${child.resolution} pixels, ${WORDS[child.state]}`
  );
}

/**
 * Moves the children's marks, in the order of `drawn`. A mark stays the same element, or what is pressed or focused would be lost
 * under the pointer.
 */
function place(marks, drawn, at, view, on) {
  const old = new Map([...marks.children].map((mark) => [mark.dataset.id, mark]));
  const places = drawn.map(at);
  const points = drawn.map((child, index) => {
    const mark = old.get(child.id) ?? newMark(child.id, on);
    old.delete(child.id);
    update(mark, child, places[index], view);
    mark.querySelector('.reach').setAttribute('r', reach(index, places));
    return mark;
  });
  for (const mark of old.values()) mark.remove();
  if (points.some((mark, index) => mark !== marks.children[index])) {
    // The focused one stays where it is, or it would lose the focus: the others go around it.
    const fixed = points.indexOf(document.activeElement);
    marks.prepend(...points.slice(0, Math.max(fixed, 0)));
    marks.append(...points.slice(fixed + 1));
  }
  // One child can be reached by Tab, the others from there: the focused one, else the chosen one, else the first.
  const reached =
    points.find((mark) => mark === document.activeElement) ?? points.find((mark) => mark.dataset.id === view.chosen) ?? points[0];
  for (const mark of points) mark.setAttribute('tabindex', mark === reached ? '0' : '-1');
}

/** How far around a point a click is meant for it: half the way to the next one at most, if that can be hit at all. */
function reach(index, places) {
  const [px, py] = places[index];
  const others = places.filter((_, other) => other !== index).map(([x, y]) => Math.hypot(x - px, y - py));
  return Math.max(REACH_PX.min, Math.min(REACH_PX.max, ...others.map((distance) => distance / 2)));
}

/** What a mark stands for, and where it is. */
const shown = new WeakMap();

function newMark(id, on) {
  const point = ({ currentTarget: mark }) => on.point({ mark, ...shown.get(mark) });
  return svg(
    'g',
    {
      role: 'button',
      'data-id': id,
      onclick: (event) => on.pick(shown.get(event.currentTarget).child),
      onpointerenter: point,
      onpointerleave: on.leave,
      onfocus: point,
      onblur: on.leave,
      onkeydown: (event) => onKey(event, on),
    },
    svg('circle', { class: 'reach' }),
    svg('circle', { class: 'ring', r: 10 }),
    svg('g'),
  );
}

function update(mark, child, [px, py], view) {
  const isWithin = AXES[view.axis].cost(child) <= view.budget;
  const isChosen = child.id === view.chosen;
  const before = shown.get(mark)?.child.state;
  shown.set(mark, { child, px, py });
  mark.setAttribute('class', `child${isWithin ? '' : ' out'}${isChosen ? ' chosen' : ''}`);
  mark.setAttribute('transform', `translate(${px} ${py})`);
  mark.setAttribute('aria-label', describe(child));
  mark.setAttribute('aria-pressed', String(isChosen));
  if (before !== child.state) mark.lastChild.replaceWith(shape(child.state));
}

function onKey(event, on) {
  const mark = event.currentTarget;
  const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
  if (step) {
    (step > 0 ? mark.nextElementSibling : mark.previousElementSibling)?.focus();
  } else if (event.key === 'Enter' || event.key === ' ') {
    on.pick(shown.get(mark).child);
  } else if (event.key === 'Escape') {
    on.leave();
  } else {
    return;
  }
  event.preventDefault();
}
