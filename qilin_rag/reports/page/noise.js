// The noise curves: a score against the share of wrong notes, a line for each LLM and way of choosing notes.
// @ts-check
import { fraction, range, ticks, tickText } from "./axes.js";
import { boardOrder } from "./board.js";
import { metricLabel, shown, table } from "./data.js";
import { byId, draw, make, selectById } from "./dom.js";
import { say } from "./words.js";

const LINE_COLOURS = 8;

/** @typedef {{ share: number, value: number, low: number, high: number, hasInterval: boolean }} NoisePoint */

/** The curves under a metric, each with its points from left to right. @param {number} metric @returns {[string, NoisePoint[]][]} */
function curves(metric) {
  /** @type {Map<string, NoisePoint[]>} */
  const found = new Map();
  for (const at of boardOrder()) {
    const { llm, noise, figures } = table().runs[at];
    const figure = figures[metric];
    if (!noise || figure?.value == null) continue;
    const name = `${llm} · ${noise.line}`;
    const [low, high] = figure.ci95 ?? [figure.value, figure.value];
    const points = found.get(name) ?? [];
    points.push({ share: noise.share, value: figure.value, low, high, hasInterval: figure.ci95 !== undefined });
    found.set(name, points);
  }
  return [...found].map(([name, points]) => [name, points.sort((one, other) => one.share - other.share)]);
}

/** Whether some runs differ in the share of wrong notes. */
export const hasNoise = () => new Set(table().runs.flatMap(({ noise }) => (noise ? [noise.share] : []))).size > 1;

/** @param {NoisePoint} point */
const pointInWords = ({ share, value, low, high, hasInterval }) =>
  `${Math.round(share * 100)}%: ${hasInterval ? say("{value} ({low} to {high})", { value: shown(value), low: shown(low), high: shown(high) }) : shown(value)}`;

export function drawNoise() {
  if (!hasNoise()) return;
  const box = byId("noise");
  const metric = Number(selectById("noise-metric").value);
  const lines = curves(metric);
  const points = lines.flatMap(([, of]) => of);
  if (!points.length) return box.replaceChildren(make("p", { class: "hint" }, say("No run has a figure under this metric.")));
  const [width, height, left, bottom] = [box.clientWidth, 320, 52, 40];
  const [low, high] = range(points.flatMap((point) => [point.low, point.high]));
  const x = (/** @type {number} */ share) => left + 8 + share * (width - left - 32);
  const y = (/** @type {number} */ value) => 12 + (1 - fraction(value, low, high)) * (height - bottom - 12);
  const axis = ticks(low, high, 5);
  box.replaceChildren(
    draw("svg", { width, height, role: "img", "aria-label": say("{metric} against the share of wrong notes, with 95% intervals", { metric: metricLabel(metric) }) },
      [0, 0.2, 0.4, 0.6, 0.8, 1].map((share) => [
        draw("line", { class: "grid", x1: x(share), x2: x(share), y1: 12, y2: height - bottom }),
        draw("text", { class: "tick", x: x(share), y: height - bottom + 16, "text-anchor": "middle" }, `${Math.round(share * 100)}%`),
      ]),
      axis.list.map((value) => [
        draw("line", { class: "grid", x1: left, x2: width - 16, y1: y(value), y2: y(value) }),
        draw("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, tickText(value, axis.decimals)),
      ]),
      draw("text", { class: "axis", x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, say("share of wrong notes")),
      draw("text", { class: "axis", x: 12, y: (height - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(height - bottom) / 2})` }, metricLabel(metric)),
      lines.map(([name, of], at) => draw("g", { class: `curve c${at % LINE_COLOURS}` },
        draw("polyline", { points: of.map(({ share, value }) => `${x(share)},${y(value)}`).join(" ") }),
        of.map((point) => draw("g", {},
          draw("title", {}, `${name}, ${pointInWords(point)}`),
          point.hasInterval && draw("line", { class: "whisker", x1: x(point.share), x2: x(point.share), y1: y(point.low), y2: y(point.high) }),
          draw("circle", { class: "point", cx: x(point.share), cy: y(point.value), r: 4 })))))),
    make("ul", { class: "legend" }, lines.map(([name, of], at) =>
      make("li", { class: `c${at % LINE_COLOURS}` }, make("span", { class: "text" }, name),
        make("span", { class: "figures" }, of.map(({ value }) => shown(value)).join(", "))))));
}
