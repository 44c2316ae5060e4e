// The live strip: how the server does, from `/metrics`.

import * as api from './api.js';
import { byId, digits, ms, percent, stack, svg } from './dom.js';
import { parse, quantile } from './prometheus.js';

const EVERY_MS = 2000;
const WINDOW_MS = 60_000;
const ROUTE = '/classify';
/** Requests a second are those of the last samples, so that the number follows the load. */
const RATE_SAMPLES = 5;

/** Samples of the last minute, oldest first. */
const history = [];
let describeChild = (id) => id;
let notify = () => {};

/**
 * Begins to read; `describe(id)` names a child. `onOther(isReload)` hears that the server has reloaded its model, or that another
 * process answers, whose model may be the same.
 */
export function start(describe, onOther) {
  describeChild = describe;
  notify = onOther;
  const tick = async () => {
    // The first reading says what the page began with, whether or not somebody looks.
    if (!document.hidden || history.length === 0) {
      // A server that restarts is back soon; the strip then goes on by itself.
      await read().catch(() => {
        byId('live').classList.add('stale');
      });
    }
    setTimeout(tick, EVERY_MS);
  };
  tick();
}

/** The counters that the strip shows, from one reading. */
function pick(samples) {
  const reading = {
    at: performance.now(),
    process: null,
    reloads: 0,
    requests: 0,
    queue: 0,
    buckets: new Map(),
    children: new Map(),
    met: new Map(),
  };
  for (const { name, labels, value } of samples) {
    if (name === 'bignas_http_requests_total' && labels.route === ROUTE) reading.requests += value;
    else if (name === 'process_start_time_seconds') reading.process = value;
    else if (name === 'bignas_model_reloads_total' && labels.outcome === 'ok') reading.reloads = value;
    else if (name === 'bignas_queue_depth') reading.queue = value;
    else if (name === 'bignas_http_request_seconds_bucket' && labels.route === ROUTE)
      reading.buckets.set(labels.le === '+Inf' ? Infinity : Number(labels.le), value);
    else if (name === 'bignas_child_requests_total') reading.children.set(labels.child, value);
    else if (name === 'bignas_budget_met_total') reading.met.set(labels.met, value);
  }
  return reading;
}

async function read() {
  const now = pick(parse(await api.metrics()));
  const last = history.at(-1);
  // Counters of another process belong to a server that has restarted, or to another behind the same address.
  if (last && (now.process !== last.process || now.requests < last.requests || now.reloads !== last.reloads)) {
    history.length = 0;
    notify(now.process === last.process);
  }
  history.push(now);
  while (now.at - history[0].at > WINDOW_MS) history.shift();
  byId('live').classList.remove('stale');
  show(history[0], now);
}

/** By how much each counter of a map has grown. */
const growth = (before, after) => new Map([...after].map(([key, value]) => [key, value - (before.get(key) ?? 0)]));

const rate = (from, to) => (to.at > from.at ? ((to.requests - from.requests) * 1000) / (to.at - from.at) : 0);

function show(first, now) {
  byId('live-rate').textContent = `${digits(Number(rate(history.at(-Math.min(history.length, RATE_SAMPLES + 1)), now).toFixed(2)), 2)} /s`;
  byId('live-queue').textContent = String(now.queue);
  const buckets = [...growth(first.buckets, now.buckets)];
  for (const [id, at] of [
    ['live-p50', 0.5],
    ['live-p99', 0.99],
  ]) {
    const seconds = quantile(buckets, at);
    byId(id).textContent = seconds === null ? '–' : ms(seconds * 1000);
  }
  const met = growth(first.met, now.met);
  const answers = (met.get('true') ?? 0) + (met.get('false') ?? 0);
  byId('live-met').textContent = answers ? percent(met.get('true') / answers, met.get('false') ? 1 : 0) : '–';
  mix(growth(first.children, now.children));
  spark();
}

function mix(children) {
  const total = [...children.values()].reduce((sum, count) => sum + count, 0);
  const parts = [...children]
    .map(([id, value]) => ({ name: describeChild(id), value }))
    .sort((a, b) => a.value - b.value)
    .reverse();
  const node = byId('live-mix');
  const text = byId('live-mix-text');
  if (total === 0) {
    node.replaceChildren();
    node.setAttribute('aria-label', 'No classification in the last minute');
    text.textContent = 'none in the last minute';
    return;
  }
  const asked = parts.filter((part) => part.value > 0);
  stack(
    node,
    asked.map((part, index) => ({ ...part, className: `mix-${Math.min(index, 5)}` })),
    (value) => percent(value / total, 0),
  );
  const named = asked.slice(0, 2).map((part) => `${part.name} ${percent(part.value / total, 0)}`);
  text.textContent = asked.length > 2 ? `${named.join(' · ')} · ${asked.length - 2} more` : named.join(' · ');
}

function spark() {
  const node = byId('live-spark');
  const [width, height] = [64, 18];
  const rates = history.slice(1).map((reading, index) => rate(history[index], reading));
  const most = Math.max(...rates, 1);
  const step = width / (WINDOW_MS / EVERY_MS);
  const bars = rates
    .slice(-Math.floor(width / step))
    .reverse()
    .map((value, index) => {
      const tall = Math.max((value / most) * height, 1);
      return svg('rect', { x: width - (index + 1) * step, y: height - tall, width: step * 0.7, height: tall });
    });
  node.setAttribute('viewBox', `0 0 ${width} ${height}`);
  node.replaceChildren(...bars);
}
