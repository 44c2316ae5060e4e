// The same child in the visitor's own browser, beside the server.

import * as api from './api.js';
import { byId, el, ms, percent, softmax } from './dom.js';

/** Differences in probability below this are not written out. */
const SMALL = 0.0001;

let model = null;
let worker = null;
/** Runs that the worker has not answered, by number. */
const pending = new Map();
let runs = 0;
/** The picture and the answer that a run is compared with, and the result of that run. */
let subject = null;

/** Wires the panel. */
export function start() {
  byId('here-run').addEventListener('click', run);
}

/** Takes what the server says of its model; without the runtime, the panel says so. */
export function describe(described) {
  model = described;
  if (model.onnxruntime_web !== null) return;
  byId('here-text').textContent =
    'Run here is off: this server was started without onnxruntime-web (--onnxruntime-web DIR; make serve fetches it). ' +
    'The file can be downloaded all the same.';
}

/** Takes an answer with its picture, `{picture, answer}`; null where there is none. */
export function offer(offered) {
  if (subject && offered && subject.picture === offered.picture && isSame(subject.answer, offered.answer)) {
    const isMeasured = subject.answer.child.latency_ms !== offered.answer.child.latency_ms;
    subject.answer = offered.answer;
    if (isMeasured && subject.result) compare(subject);
    return;
  }
  subject = offered && { ...offered, result: null };
  byId('here-body').replaceChildren();
  byId('here-run').disabled = !subject || model.onnxruntime_web === null;
  const link = byId('download');
  if (subject) {
    const { id } = subject.answer.child;
    link.href = api.onnx(id);
    link.download = `${id}.onnx`;
    link.removeAttribute('aria-disabled');
  } else {
    link.removeAttribute('href');
    link.setAttribute('aria-disabled', 'true');
  }
}

/** Whether two answers about one picture are those of one network; where a replaced model has the child too, they are not. */
function isSame(a, b) {
  const isNear = ({ label, probability }, index) =>
    b.predictions[index]?.label === label && Math.abs(b.predictions[index].probability - probability) < SMALL;
  return a.child.id === b.child.id && a.predictions.every(isNear);
}

async function run() {
  const mine = subject;
  const { id, resolution } = mine.answer.child;
  mine.result = null;
  byId('here-run').disabled = true;
  byId('here-body').replaceChildren(el('p', { class: 'note' }, 'Fetching the child and running it …'));
  let show;
  try {
    const graph = await api.bytes(api.onnx(id));
    mine.result = await ask({ graph, picture: mine.picture.blob, preprocessing: model.preprocessing, resolution });
    show = () => compare(mine);
  } catch (error) {
    show = () => byId('here-body').replaceChildren(el('p', { class: 'problem', role: 'alert' }, error.message));
  }
  // Another child may have answered meanwhile, or about another picture.
  if (subject !== mine) return;
  byId('here-run').disabled = false;
  show();
}

/** Has the worker run a child, so that the page stays awake. */
function ask(message) {
  worker ??= open();
  runs += 1;
  const number = runs;
  return new Promise((resolve, reject) => {
    pending.set(number, { resolve, reject });
    worker.postMessage({ ...message, number, runtime: new URL(model.onnxruntime_web, location.href).href }, [message.graph]);
  });
}

function open() {
  const opened = new Worker('/playground/worker.js', { type: 'module' });
  opened.onmessage = ({ data: { number, error, ...result } }) => {
    const { resolve, reject } = pending.get(number);
    pending.delete(number);
    if (error) reject(new Error(error));
    else resolve(result);
  };
  opened.onerror = (event) => {
    worker = null;
    for (const { reject } of pending.values()) reject(new Error(event.message || 'the worker could not be started'));
    pending.clear();
  };
  return opened;
}

function compare({ answer, result: { logits, times } }) {
  const probabilities = softmax(logits);
  const predictions = probabilities.map((probability, index) => ({ label: model.labels[index], index, probability }));
  predictions.sort((a, b) => b.probability - a.probability);
  const median = [...times].sort((a, b) => a - b)[Math.floor(times.length / 2)];
  const gap = Math.max(...answer.predictions.map(({ index, probability }) => Math.abs(probability - probabilities[index])));
  const agrees = predictions[0].index === answer.predictions[0].index;
  const server = answer.child.latency_ms;
  const column = (name, best, time, note) =>
    el(
      'div',
      null,
      el('dt', null, name),
      el('dd', null, el('b', null, best.label), ` ${percent(best.probability)}`),
      el('dd', { class: 'time' }, time),
      el('dd', { class: 'note' }, note),
    );
  byId('here-body').replaceChildren(
    el(
      'div',
      { class: 'versus' },
      el(
        'dl',
        null,
        column('This browser', predictions[0], ms(median), `median of ${times.length} runs`),
        column(
          'The server',
          answer.predictions[0],
          server === null ? '–' : ms(server),
          server === null ? 'not measured yet' : 'median, measured alone',
        ),
      ),
      el(
        'div',
        { class: 'verdict' },
        el('p', { class: agrees ? 'good' : 'bad' }, agrees ? '✓ Same answer' : '✗ Another answer'),
        el(
          'p',
          { class: 'note' },
          `Probabilities differ by ${gap < SMALL ? `less than ${percent(SMALL, 2)}` : `up to ${percent(gap, 2)}`}.`,
        ),
        el('p', { class: 'note' }, 'The browser runs it as WebAssembly, on one thread.'),
      ),
    ),
  );
  byId('here-body').dataset.gap = String(gap);
}
