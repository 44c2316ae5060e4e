// The page: what happens on one panel is told to the others here.

import * as answer from './answer.js';
import * as api from './api.js';
import { byId, mmacs } from './dom.js';
import * as family from './family.js';
import * as here from './here.js';
import * as ladder from './ladder.js';
import * as live from './live.js';
import * as picture from './picture.js';

/** How long the budget must rest before it is asked for: a slider moves through many. */
const REST_MS = 120;
/** How often to look for what is missing: latencies that are being measured, a new model that could not be read. */
const WATCH_MS = 2000;

let model = null;
let children = [];
let subject = null;
/** The answer on the page with its picture, `{picture, answer}`. */
let shown = null;
let asking = null;
let resting = null;
/** Whether the server has replaced its model since that was read. */
let isReplaced = false;
/** Readings come one after another, so that the latest is the one that stays. */
let reading = Promise.resolve();

async function start() {
  await read();
  here.start();
  family.start(askSoon);
  picture.start((taken) => {
    subject = taken;
    ladder.reset(true);
    ask();
  }, fail);
  byId('ladder-run').addEventListener('click', async () => {
    await ladder.toggle(subject, children);
    await refresh();
  });
  begin();
  const nameOf = (id) => {
    const child = children.find((other) => other.id === id);
    return child ? mmacs(child.mflops) : id;
  };
  live.start(nameOf, (isReload) => {
    isReplaced ||= isReload;
    refresh();
  });
  setTimeout(watch, WATCH_MS);
}

/** Begins with the model that was read. What the visitor brought stays: an image, and a budget that the family can meet. */
function begin() {
  withdraw();
  subject = null;
  ladder.reset(false);
  show(null);
  family.begin(children);
  picture.offer(model.examples);
}

function askSoon() {
  clearTimeout(resting);
  resting = setTimeout(ask, REST_MS);
}

/** Takes back a question that has no answer yet. */
function withdraw() {
  clearTimeout(resting);
  asking?.abort();
}

/** Asks about the image within the budget. */
async function ask() {
  withdraw();
  if (!subject) return;
  const budget = family.budget();
  if (budget === null) {
    answer.skip(family.nothing());
    show(null);
    return;
  }
  asking = new AbortController();
  const { signal } = asking;
  answer.busy(true);
  try {
    const given = await api.classify(subject.blob, budget, signal);
    if (signal.aborted) return;
    show({ picture: subject, answer: given });
    family.answered(given.child.id);
    const isKnown = children.some((child) => child.id === given.child.id);
    if (given.source !== 'memory' || !isKnown) await refresh();
  } catch (error) {
    if (!signal.aborted) fail(error);
  } finally {
    if (!signal.aborted) answer.busy(false);
  }
}

/** Shows an answer; null where there is none, and the panel says why. */
function show(answered) {
  shown = answered;
  if (shown) answer.show(shown.answer);
  here.offer(shown);
}

function fail(error) {
  withdraw();
  answer.fail(error.message);
  show(null);
}

/** Reads what the server says of its model and children; both may be others than before. */
async function read() {
  [model, children] = await Promise.all([api.model(), api.children()]);
  here.describe(model);
  const [least, most] = [mmacs(children[0].mflops), mmacs(children.at(-1).mflops)];
  byId('model').textContent = `${model.name}: ${children.length} networks in one model, ${least} to ${most}`;
}

/** The same behind the page's back. */
function refresh() {
  reading = reading.then(readAgain, readAgain);
  return reading;
}

async function readAgain() {
  const [before, wasReplaced] = [JSON.stringify(model), isReplaced];
  isReplaced = false;
  try {
    await read();
  } catch {
    // What needs the server says so itself. What cannot be had now is read another time.
    isReplaced ||= wasReplaced;
    return;
  }
  if (wasReplaced || JSON.stringify(model) !== before) {
    answer.skip('The server has replaced its model.');
    begin();
  } else {
    family.update(children);
    complete();
  }
}

/** An answer from before its child was measured is given the latency that is known now. */
function complete() {
  const child = shown?.answer.child;
  const latency_ms = children.find((other) => other.id === child?.id)?.latency_ms ?? null;
  if (latency_ms === null || child.latency_ms !== null) return;
  show({ ...shown, answer: { ...shown.answer, child: { ...child, latency_ms } } });
}

async function watch() {
  const isMissing = isReplaced || children.some((child) => child.latency_ms === null);
  if (isMissing && !document.hidden) await refresh();
  setTimeout(watch, WATCH_MS);
}

start().catch((error) => answer.fail(`The server does not answer: ${error.message}`));
