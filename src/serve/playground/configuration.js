// A child's configuration, for whoever points at it.

import { el, mmacs, ms, percent, whole } from './dom.js';

const list = (values) => [values].flat().join(' ');

/** The child in a few lines: its numbers, and one row a stage. */
export function configuration(child) {
  const { choices } = child;
  const numbers = [
    mmacs(child.mflops),
    `${whole(child.params)} parameters`,
    `${child.resolution} px`,
    child.accuracy === null ? null : percent(child.accuracy, 2),
    child.latency_ms === null ? null : ms(child.latency_ms),
  ];
  const row = (cells, tag = 'td') => el('tr', null, cells.map((cell) => el(tag, tag === 'th' ? { scope: 'col' } : null, cell)));
  const stage = (each, index) => row([String(index + 1), list(each.channels), list(each.kernel), list(each.expansion)]);
  return [
    el('p', { class: 'tip-title' }, child.id, child.added ? el('span', null, ' added') : null),
    el('p', null, numbers.filter(Boolean).join(' · ')),
    el('table', null,
      el('thead', null, row(['stage', 'channels', 'kernel', 'expansion'], 'th')),
      el('tbody', null, row(['stem', String(choices.stem), '', '']), choices.stages.map(stage), row(['head', String(choices.head), '', '']))),
  ];
}
