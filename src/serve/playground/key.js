// The field for a key, shown when the server refuses a request without one.

import { byId } from './dom.js';

let asking = null;

/** The key that the visitor gives, or null; whoever asks meanwhile waits for the same answer. It is kept in memory only. */
export function askForKey(reason) {
  asking ??= new Promise((resolve) => {
    const dialog = byId('key');
    const input = byId('key-input');
    let given = null;
    byId('key-text').textContent = reason;
    byId('key-form').onsubmit = (event) => {
      event.preventDefault();
      given = input.value;
      dialog.close();
    };
    byId('key-cancel').onclick = () => dialog.close();
    dialog.onclose = () => {
      input.value = '';
      asking = null;
      resolve(given);
    };
    dialog.showModal();
    input.focus();
  });
  return asking;
}
