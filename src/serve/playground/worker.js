// Runs a child with onnxruntime-web, away from the page.

import { centreCrop, decode } from './preprocess.js';
import { toInput } from './bicubic.js';

const WARM_UP_RUNS = 3;
const MAX_RUNS = 50;
/** Time for all counted runs, in milliseconds. */
const LIMIT_MS = 2000;

/** The run before: runs side by side would slow each other down. */
let before = Promise.resolve();

self.onmessage = ({ data }) => {
  before = before.then(async () => {
    try {
      self.postMessage({ number: data.number, ...(await run(data)) });
    } catch (error) {
      self.postMessage({ number: data.number, error: error.message || String(error) });
    }
  });
};

async function run({ runtime, graph, picture, preprocessing, resolution }) {
  const ort = await import(runtime);
  // More would need a page that is isolated from all others.
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = 'error';
  const channels = preprocessing.mean.length;
  const pixels = await decode(picture, channels, preprocessing.background);
  const values = toInput(centreCrop(pixels, preprocessing), resolution, preprocessing);
  const session = await ort.InferenceSession.create(new Uint8Array(graph), { executionProviders: ['wasm'], graphOptimizationLevel: 'all' });
  try {
    const feeds = { [session.inputNames[0]]: new ort.Tensor('float32', values, [1, channels, resolution, resolution]) };
    return await time(session, feeds);
  } finally {
    await session.release();
  }
}

async function time(session, feeds) {
  let logits = null;
  for (let index = 0; index < WARM_UP_RUNS; index += 1) logits = (await session.run(feeds))[session.outputNames[0]].data;
  const times = [];
  const begin = performance.now();
  while (times.length < MAX_RUNS && (times.length === 0 || performance.now() - begin < LIMIT_MS)) {
    const start = performance.now();
    await session.run(feeds);
    times.push(performance.now() - start);
  }
  return { logits: Array.from(logits), times };
}
