// Which image is asked about: dropped, pasted, chosen, or an example.

import * as api from './api.js';
import { byId, el } from './dom.js';

/** Below this side, in pixels, an image is enlarged with sharp edges, so that it can be made out. */
const SMALL_PX = 128;

/** Wires the panel; `onPicture({blob, name, label})` hears of every new image. */
export function start(examples, onPicture) {
  const show = (picture) => {
    preview(picture);
    onPicture(picture);
  };
  const take = (file) => {
    if (!file) return;
    press(null);
    show({ blob: file, name: file.name || 'pasted image', label: null });
  };
  byId('file').addEventListener('change', (event) => take(event.target.files[0]));
  document.addEventListener('paste', (event) => take(imageOf(event.clipboardData)));
  dropOnto(byId('drop'), take);

  const buttons = examples.map((example, index) => {
    const alt = example.label ?? `Example ${index + 1}`;
    const choose = async () => {
      press(buttons[index]);
      const blob = await api.blob(example.url);
      // Another image may have been taken while this one was on its way.
      if (buttons[index].getAttribute('aria-pressed') === 'true') show({ blob, name: example.source ?? alt, label: example.label });
    };
    const title = [alt, example.source, example.licence].filter(Boolean).join(' · ');
    return el(
      'button',
      { type: 'button', class: 'example', 'aria-pressed': 'false', title, onclick: choose },
      el('img', { src: example.url, alt, onload: (event) => sharpen(event.target) }),
    );
  });
  byId('examples').replaceChildren(...buttons);
  byId('examples').hidden = buttons.length === 0;
  const press = (pressed) => buttons.forEach((button) => button.setAttribute('aria-pressed', String(button === pressed)));
  buttons[0]?.click();
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
