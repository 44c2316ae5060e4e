// Axes: from values to pixels, and where the ticks are.

/** Maps `[from, to]` to pixels, and back. */
export function scale([from, to], [start, end]) {
  const map = (value) => start + ((value - from) / (to - from)) * (end - start);
  map.invert = (pixel) => from + ((pixel - start) / (end - start)) * (to - from);
  return map;
}

/** Round numbers between `from` and `to`, about `count` of them. */
export function ticks(from, to, count) {
  const rough = (to - from) / count;
  const magnitude = 10 ** Math.floor(Math.log10(rough));
  const step = magnitude * [1, 2, 5, 10].find((factor) => factor * magnitude >= rough);
  const first = Math.ceil(from / step - 1e-9);
  const values = [];
  for (let index = first; index * step <= to + step * 1e-9; index += 1) values.push(index * step);
  return { values, decimals: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

/** From just under the least to just over the most of `values`; around a single one, some room. */
export function domain(values, margin) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const room = (most - least || Math.abs(most) || 1) * margin;
  return [least - room, most + room];
}
