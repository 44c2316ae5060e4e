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
/** While children are built and measured at the server's start. */
const MEASURING_MS = 2000;

let children = [];
let subject = null;
let asking = null;
let resting = null;

async function start() {
  const model = await read();
  here.start();
  family.start(children, askSoon);
  live.start((id) => {
    const child = children.find((other) => other.id === id);
    return child ? mmacs(child.mflops) : id;
  });
  byId('ladder-run').addEventListener('click', async () => {
    await ladder.toggle(subject, children);
    await refresh();
  });
  picture.start(model.examples, (taken) => {
    subject = taken;
    ladder.reset(true);
    ask();
  });
  if (children.some((child) => child.latency_ms === null)) setTimeout(watch, MEASURING_MS);
}

function askSoon() {
  clearTimeout(resting);
  resting = setTimeout(ask, REST_MS);
}

/** Asks about the image within the budget; an earlier question that has no answer yet is withdrawn. */
async function ask() {
  clearTimeout(resting);
  asking?.abort();
  if (!subject) return;
  const budget = family.budget();
  if (budget === null) {
    answer.skip(family.nothing());
    here.offer(subject, null);
    return;
  }
  asking = new AbortController();
  const { signal } = asking;
  answer.busy(true);
  try {
    const given = await api.classify(subject.blob, budget, signal);
    if (signal.aborted) return;
    answer.show(given);
    family.answered(given.child.id);
    here.offer(subject, given);
    const isKnown = children.some((child) => child.id === given.child.id);
    if (given.source !== 'memory' || !isKnown) await refresh();
  } catch (error) {
    if (signal.aborted) return;
    answer.fail(error.message);
    here.offer(subject, null);
  } finally {
    if (!signal.aborted) answer.busy(false);
  }
}

/** Reads what the server says of its model and children; both may be others than before. */
async function read() {
  const [model, listed] = await Promise.all([api.model(), api.children()]);
  children = listed;
  here.describe(model);
  const [least, most] = [mmacs(children[0].mflops), mmacs(children.at(-1).mflops)];
  byId('model').textContent = `${model.name}: ${children.length} networks in one model, ${least} to ${most}`;
  return model;
}

/** The same behind the page's back; what cannot be had now is read another time. */
async function refresh() {
  try {
    await read();
    family.update(children);
  } catch {
    // What needs the server says so itself.
  }
}

async function watch() {
  await refresh();
  if (children.some((child) => child.latency_ms === null)) setTimeout(watch, MEASURING_MS);
}

start().catch((error) => answer.fail(`The server does not answer: ${error.message}`));
