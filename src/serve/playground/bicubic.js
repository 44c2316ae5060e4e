// From the square to a network's input: what `src/image/bicubic.rs` does on the server, rounded like it to 32 bits.

const A = -0.75;
const round = Math.fround;

/** `patch`, resampled to `side` pixels and normalised: channel by channel, row by row. */
export function toInput({ size, channels, data }, side, { mean, std }) {
  const output = new Float32Array(channels * side * side);
  const taps = side === size ? null : tapsOf(size, side);
  for (let channel = 0; channel < channels; channel += 1) {
    const factor = 1 / (255 * std[channel]);
    const offset = -mean[channel] / std[channel];
    const read = (y, x) => data[(y * size + x) * channels + channel];
    for (let y = 0; y < side; y += 1) {
      for (let x = 0; x < side; x += 1) {
        const value = taps ? blend(read, taps[y], taps[x]) : read(y, x);
        output[(channel * side + y) * side + x] = value * factor + offset;
      }
    }
  }
  return output;
}

function blend(read, down, across) {
  let sum = 0;
  for (let row = 0; row < 4; row += 1) {
    let line = 0;
    for (let column = 0; column < 4; column += 1) line += read(down.index[row], across.index[column]) * across.weight[column];
    sum += line * down.weight[row];
  }
  return sum;
}

/** For every output position, the four source positions and their weights. */
function tapsOf(from, to) {
  const scale = round(from / to);
  return Array.from({ length: to }, (_, position) => {
    const middle = round(round(scale * round(position + 0.5)) - 0.5);
    const base = Math.floor(middle);
    const t = middle - base;
    return {
      index: [-1, 0, 1, 2].map((step) => Math.min(Math.max(base + step, 0), from - 1)),
      weight: [outer(t + 1), inner(t), inner(1 - t), outer(2 - t)],
    };
  });
}

/** The cubic for distances up to 1. */
const inner = (x) => ((A + 2) * x - (A + 3)) * x * x + 1;

/** The cubic for distances from 1 to 2. */
const outer = (x) => ((A * x - 5 * A) * x + 8 * A) * x - 4 * A;
