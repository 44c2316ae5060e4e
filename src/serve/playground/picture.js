// Which image is asked about: dropped, pasted, chosen, or an example.

import * as api from './api.js';
import { byId, el } from './dom.js';

/** Below this side, in pixels, an image is enlarged with sharp edges, so that it can be made out. */
const SMALL_PX = 128;

let notify = () => {};
let complain = () => {};
/** The image on the page, `{blob, name, label, url}`; the visitor's own has no `url`. */
let taken = null;
/** The example that was chosen last; null once the visitor brings an image. */
let wanted = null;
/** How often examples were offered. */
let offers = 0;

/** Wires the panel; `onPicture({blob, name, label})` hears of every new image, `onProblem(error)` of one that cannot be had. */
export function start(onPicture, onProblem) {
  notify = onPicture;
  complain = onProblem;
  byId('file').addEventListener('change', (event) => {
    take(event.target.files[0]);
    // So that the same file can be chosen again: a browser tells of changes only.
    event.target.value = '';
  });
  document.addEventListener('paste', (event) => take(imageOf(event.clipboardData)));
  dropOnto(byId('drop'), take);
}

/** Offers a model's examples, and takes one: that which is shown, else the first. An image that is none of them stays. */
export function offer(listed) {
  offers += 1;
  wanted = null;
  const examples = listed.map((example, index) => ({ ...example, alt: example.label ?? `Example ${index + 1}` }));
  byId('examples').replaceChildren(...examples.map(button));
  byId('examples').hidden = examples.length === 0;
  const next = examples.find((example) => example.url === taken?.url) ?? examples[0];
  if (taken && (taken.url === null || !next)) show({ ...taken, label: null, url: null });
  else if (next) choose(next);
}

function button(example) {
  const { url, alt } = example;
  const title = [alt, example.source, example.licence].filter(Boolean).join(' · ');
  return el(
    'button',
    { type: 'button', class: 'example', 'aria-pressed': 'false', 'data-url': url, title, onclick: () => choose(example) },
    // Under an address that it knows, a browser would show the picture that was there before.
    el('img', { src: `${url}?${offers}`, alt, onload: (event) => sharpen(event.target) }),
  );
}

async function choose(example) {
  wanted = example;
  const { url, label, alt } = example;
  try {
    const blob = await api.blob(url);
    // Another image may have been taken, or other examples offered, while this one was on its way.
    if (wanted === example) show({ blob, name: example.source ?? alt, label, url });
  } catch (error) {
    if (wanted === example) complain(error);
  }
}

/** Takes an image of the visitor's own. */
function take(file) {
  if (!file) return;
  wanted = null;
  show({ blob: file, name: file.name || 'pasted image', label: null, url: null });
}

function show(picture) {
  taken = picture;
  for (const each of byId('examples').children) each.setAttribute('aria-pressed', String(each.dataset.url === picture.url));
  preview(picture);
  notify(picture);
}

const imageOf = (transfer) => [...(transfer?.files ?? [])].find((file) => file.type.startsWith('image/'));

/** An image may be let go anywhere on the page, so that a near miss does not replace the page by the image. */
function dropOnto(zone, take) {
  const over = (event) => {
    if (!event.dataTransfer?.types.includes('Files')) return;
    event.preventDefault();
    zone.classList.add('over');
  };
  const leave = () => zone.classList.remove('over');
  document.addEventListener('dragover', over);
  document.addEventListener('dragleave', (event) => event.relatedTarget === null && leave());
  document.addEventListener('drop', (event) => {
    event.preventDefault();
    leave();
    take(imageOf(event.dataTransfer));
  });
}

const sharpen = (image) => image.classList.toggle('small', Math.max(image.naturalWidth, image.naturalHeight) < SMALL_PX);

function preview(picture) {
  const image = byId('preview');
  URL.revokeObjectURL(image.src);
  const name = picture.label ? `${picture.label} · ${picture.name}` : picture.name;
  image.onload = () => {
    sharpen(image);
    byId('picture-name').textContent = `${name} · ${image.naturalWidth}×${image.naturalHeight} px`;
  };
  image.onerror = () => {
    byId('picture-name').textContent = `${name} · this browser cannot show it`;
  };
  image.src = URL.createObjectURL(picture.blob);
  image.alt = picture.label ?? picture.name;
  image.hidden = false;
  byId('drop-hint').hidden = true;
}
