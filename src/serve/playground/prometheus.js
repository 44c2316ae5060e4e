// Prometheus' text format, as far as the live strip reads it.

/** Samples as `{name, labels, value}`. */
export function parse(text) {
  const samples = [];
  for (const line of text.split('\n')) {
    const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const [, name, value] of (match[2] ?? '').matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    samples.push({ name: match[1], labels, value: Number(match[3]) });
  }
  return samples;
}

/** The value at `quantile` of cumulative buckets `[bound, count]`, between bounds by a straight line, as Prometheus has it. */
export function quantile(buckets, at) {
  const sorted = [...buckets].sort((a, b) => a[0] - b[0]);
  const total = sorted.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  const rank = at * total;
  let [low, below] = [0, 0];
  for (const [bound, count] of sorted) {
    if (count >= rank) return bound === Infinity ? low : low + ((bound - low) * (rank - below)) / Math.max(count - below, 1e-9);
    [low, below] = [bound, count];
  }
  return low;
}
