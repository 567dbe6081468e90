// Axes: ranges around values of any size, and round numbers in them.
// @ts-check

const MOST_TICK_CHARS = 12;

/**
 * Round numbers that divide a range in about `n` parts; its ends, if no double could tell such numbers apart.
 * @param {number} low
 * @param {number} high
 * @param {number} n
 */
export function ticks(low, high, n) {
  const rough = high / n - low / n;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough) ?? Number.NaN;
  const [first, last] = [Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)];
  if (![first, last].every(Number.isSafeInteger) || last < first || last - first > 2 * n) {
    return { list: [...new Set([low, high])].filter(Number.isFinite), decimals: 4 };
  }
  const list = Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  return { list, decimals: Math.min(100, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))) };
}

/** A number at an axis: in full if there is room. @param {number} value @param {number} decimals */
export function tickText(value, decimals) {
  const text = value.toFixed(decimals);
  return text.length <= MOST_TICK_CHARS ? text : value.toExponential(3);
}

/** A range with some room around these values; those that differ by rounding alone are one value. @param {number[]} values */
export function range(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const size = Math.max(Math.abs(low), Math.abs(high));
  const apart = high / 2 - low / 2;
  const room = apart > Math.max(size * 5e-7, 5e-13) ? apart * 0.12 : size > 1e-12 ? size * 0.1 : 0.1;
  const within = (/** @type {number} */ value) => Math.min(Number.MAX_VALUE, Math.max(-Number.MAX_VALUE, value));
  return [within(low - room), within(high + room)];
}

/**
 * Where a value lies in a range, from 0 to 1; halves, since the difference of two numbers may be infinite.
 * @param {number} value
 * @param {number} low
 * @param {number} high
 */
export const fraction = (value, low, high) => (value / 2 - low / 2) / (high / 2 - low / 2);
