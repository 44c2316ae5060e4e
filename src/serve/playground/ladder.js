// How small can you go: one image through every child, biggest first.

import * as api from './api.js';
import { byId, el, digits, mmacs, ms, percent } from './dom.js';

let running = null;

/** Forgets the answers to another image. */
export function reset(hasPicture) {
  running?.abort();
  running = null;
  byId('ladder-run').disabled = !hasPicture;
  byId('ladder-run').textContent = 'Ask every child';
  byId('ladder-row').replaceChildren();
  byId('ladder-text').textContent = 'The same image through every child, from the biggest down to the smallest.';
}

/** Asks all `children` about `picture`, or stops asking. */
export async function toggle(picture, children) {
  if (running) {
    running.abort();
    return;
  }
  reset(true);
  running = new AbortController();
  const { signal } = running;
  byId('ladder-run').textContent = 'Stop';
  try {
    await climb(
      picture,
      [...children].sort((a, b) => b.mflops - a.mflops),
      signal,
    );
  } catch (error) {
    if (!signal.aborted) byId('ladder-text').textContent = error.message;
  }
  // Another image may have begun anew meanwhile.
  if (running?.signal === signal) {
    running = null;
    byId('ladder-run').textContent = 'Ask every child';
  }
}

async function climb(picture, children, signal) {
  const row = byId('ladder-row');
  row.replaceChildren(...children.map((child) => el('li', { class: 'rung waiting' }, head(child), el('p', { class: 'says' }, '…'))));
  let truth = picture.label;
  const answers = [];
  for (const [index, child] of children.entries()) {
    const answer = await api.classify(picture.blob, { child: child.id, top_k: 1 }, signal);
    if (signal.aborted) return;
    const [best] = answer.predictions;
    truth ??= best.label;
    answers.push({ child, best, isRight: best.label === truth });
    const isFirstWrong = !answers[index].isRight && answers.slice(0, index).every((other) => other.isRight);
    row.children[index].replaceWith(rung(answers[index], answer.timing_ms, isFirstWrong));
    byId('ladder-text').textContent = summary(answers, truth, picture.label !== null, children.length);
  }
}

const head = (child) => el('p', { class: 'cost' }, el('b', null, digits(child.mflops)), ' MMACs');

function rung({ child, best, isRight }, timing, isFirstWrong) {
  const verdict = isRight ? 'right' : 'wrong';
  return el(
    'li',
    { class: `rung ${verdict}${isFirstWrong ? ' first' : ''}` },
    head(child),
    el('p', { class: 'says' }, el('span', { class: 'mark', role: 'img', 'aria-label': verdict }, isRight ? '✓' : '✗'), best.label),
    el('p', { class: 'note' }, percent(best.probability)),
    el('p', { class: 'note' }, ms(timing.inference)),
    isFirstWrong ? el('p', { class: 'flag' }, 'first wrong') : null,
  );
}

/** What the answers so far come to, and what counts as wrong. */
function summary(answers, truth, isKnown, count) {
  const rule = isKnown
    ? `Right is the example's label, ${truth}.`
    : `What it shows is not known; right is the biggest child's answer, ${truth}.`;
  const wrong = answers.findIndex((answer) => !answer.isRight);
  const cost = (index) => mmacs(answers.at(index).child.mflops);
  if (wrong === 0) return `Even the biggest child, ${cost(0)}, is wrong. ${rule}`;
  if (wrong > 0) return `Right down to ${cost(wrong - 1)}; the first wrong answer comes at ${cost(wrong)}. ${rule}`;
  if (answers.length < count) return rule;
  const times = digits(answers[0].child.mflops / answers.at(-1).child.mflops, 2);
  return `Right down to the smallest: ${cost(-1)}, ${times} times smaller than the biggest. ${rule}`;
}
