// From an image file to the square that a network sees: what `src/image` does on the server, step by step.

/** Decodes a file to `{width, height, channels, data}`, grey or RGB of 8 bits, upright and over `background`. */
export async function decode(file, channels, background) {
  // The bytes as they are stored: neither colour profile nor alpha may change them.
  const bitmap = await createImageBitmap(file, { imageOrientation: 'from-image', premultiplyAlpha: 'none', colorSpaceConversion: 'none' });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8ClampedArray(width * height * channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += channels) {
    const alpha = rgba[from + 3];
    const over = (channel) => Math.floor((rgba[from + channel] * alpha + background[channel] * (255 - alpha) + 127) / 255);
    const [red, green, blue] = [over(0), over(1), over(2)];
    if (channels === 1) {
      // Where red, green and blue are equal, this is their value.
      data[to] = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16;
    } else {
      data[to] = red;
      data[to + 1] = green;
      data[to + 2] = blue;
    }
  }
  return { width, height, channels, data };
}

/** Resizes the shorter side and cuts the square at the centre: `{size, channels, data}`. */
export function centreCrop(pixels, { resize, filter, crop }) {
  const shorter = Math.min(pixels.width, pixels.height);
  const target = Math.max(resize ?? shorter, crop);
  const across = centre(pixels.width, shorter, target, crop);
  const down = centre(pixels.height, shorter, target, crop);
  // An axis that is not resized has weights of 1, and comes through unchanged.
  const columns = fixed(weights(pixels.width, across, crop, filter));
  const rows = fixed(weights(pixels.height, down, crop, filter));
  return { size: crop, channels: pixels.channels, data: resample(pixels, columns, rows, crop) };
}

/** Along one axis: where the crop starts in the resized image, and how many source pixels one resized pixel spans. */
function centre(length, shorter, target, crop) {
  const resized = Math.floor((length * target) / shorter);
  return { start: roundToEven(Math.max(resized - crop, 0) / 2), step: length / resized };
}

function roundToEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: (x) => cubic(Math.abs(x)) },
};

/** Keys' cubic with A = -0.5. */
function cubic(x) {
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

/** For each of `size` output pixels, the first source pixel it reads and the weights from there; wider where it shrinks. */
function weights(length, { start, step }, size, filter) {
  const { support, weight } = FILTERS[filter];
  const stretch = Math.max(step, 1);
  return Array.from({ length: size }, (_, position) => {
    const middle = (start + position + 0.5) * step;
    const first = Math.max(Math.floor(middle - support * stretch), 0);
    const last = Math.min(Math.ceil(middle + support * stretch), length);
    const raw = Array.from({ length: last - first }, (_ignored, index) => weight((first + index + 0.5 - middle) / stretch));
    const sum = raw.reduce((total, value) => total + value, 0);
    return { first, values: raw.map((value) => value / sum) };
  });
}

/** The weights as whole numbers of 16 bits, as many of them behind the point as the largest weight allows: what the server counts with. */
function fixed(taps) {
  const largest = Math.max(...taps.flatMap((tap) => tap.values));
  let bits = 0;
  while (bits < 21 && Math.round(largest * 2 ** (bits + 1)) < 2 ** 15) bits += 1;
  const whole = (value) => Math.sign(value) * Math.round(Math.abs(value) * 2 ** bits);
  return { bits, taps: taps.map(({ first, values }) => ({ first, values: values.map(whole) })) };
}

/** Columns first and rounded to bytes, then rows, in the server's order. */
function resample({ width, channels, data }, columns, rows, size) {
  const stride = width * channels;
  const output = new Uint8ClampedArray(size * size * channels);
  const line = new Uint8ClampedArray(stride);
  rows.taps.forEach(({ first, values }, y) => {
    for (let at = 0; at < stride; at += 1) {
      let sum = 2 ** (rows.bits - 1);
      for (let tap = 0; tap < values.length; tap += 1) sum += data[(first + tap) * stride + at] * values[tap];
      line[at] = sum >> rows.bits;
    }
    columns.taps.forEach((column, x) => {
      for (let channel = 0; channel < channels; channel += 1) {
        let sum = 2 ** (columns.bits - 1);
        column.values.forEach((value, tap) => {
          sum += line[(column.first + tap) * channels + channel] * value;
        });
        output[(y * size + x) * channels + channel] = sum >> columns.bits;
      }
    });
  });
  return output;
}
