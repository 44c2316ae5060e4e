// A child's configuration, for whoever points at it.

import { el, mmacs, ms, percent, whole } from './dom.js';

const list = (values) => [values].flat().join(' ');

/** The child in a few lines: its numbers, and one row a stage. */
export function configuration(child) {
  const { choices } = child;
  const numbers = [
    mmacs(child.mflops),
    child.latency_ms === null ? null : ms(child.latency_ms),
    child.accuracy === null ? null : percent(child.accuracy, 2),
  ];
  const row = (cells, tag = 'td') =>
    el(
      'tr',
      null,
      cells.map((cell) => el(tag, tag === 'th' ? { scope: 'col' } : null, cell)),
    );
  const stage = (each, index) => row([String(index + 1), list(each.channels), list(each.kernel), list(each.expansion)]);
  return [
    el('p', { class: 'tip-title' }, child.id, child.added ? el('span', null, ' added') : null),
    el('p', null, numbers.filter(Boolean).join(' · ')),
    el('p', null, `${whole(child.params)} parameters · ${child.resolution} px`),
    el(
      'table',
      null,
      el('thead', null, row(['stage', 'channels', 'kernel', 'expansion'], 'th')),
      el('tbody', null, choices.stages.map(stage)),
    ),
    el('p', { class: 'tip-ends' }, `stem ${choices.stem} · head ${choices.head}`),
  ];
}
