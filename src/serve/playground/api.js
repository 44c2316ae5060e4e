// The server, as any client sees it.

import { askForKey } from './key.js';

/** What the server says is wrong: the sentence of its problem document. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? document.title ?? `the server answered with status ${status}`);
    this.code = document.code;
  }
}

let key = null;

/** Sends a request; asks the visitor for a key where the server wants one. */
async function send(path, init = {}) {
  const authorization = key === null ? {} : { authorization: `Bearer ${key}` };
  const response = await fetch(path, { ...init, headers: { ...init.headers, ...authorization } });
  if (response.ok) return response;
  const problem = new Problem(response.status, await response.json().catch(() => ({})));
  if (response.status !== 401) throw problem;
  const given = await askForKey(problem.message);
  if (given === null) throw problem;
  key = given;
  return send(path, init);
}

export const model = async () => (await send('/model')).json();
export const children = async () => (await (await send('/children')).json()).children;
export const metrics = async () => (await send('/metrics')).text();
export const blob = async (path) => (await send(path)).blob();
export const bytes = async (path, signal) => (await send(path, { signal })).arrayBuffer();

/** Classifies an image file under a query such as `{mflops: 3}`. */
export async function classify(picture, query, signal) {
  const init = { method: 'POST', headers: { 'content-type': 'application/octet-stream' }, body: picture, signal };
  return (await send(`/classify?${new URLSearchParams(query)}`, init)).json();
}

export const onnx = (id) => `/children/${id}/model.onnx`;
