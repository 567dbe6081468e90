// Two plots in SVG, drawn to the width there is.
// @ts-check
import { fraction, range, ticks, tickText } from "./axes.js";
import { boardOrder } from "./board.js";
import { metricLabel, runLabel, shown, table } from "./data.js";
import { byId, draw, make, selectById } from "./dom.js";
import { say } from "./words.js";

const COLOURS = 8;
const TALLEST = 720; // .tall in style.css
const SCROLLBAR = 16;

/** The runs in the order of the leaderboard, with their figure under a metric. @param {number} metric */
function plotted(metric) {
  return boardOrder().flatMap((run) => {
    const figure = table().runs[run].figures[metric];
    return figure?.value == null ? [] : [{ run, figure: { ...figure, value: figure.value } }];
  });
}

export function drawIntervals() {
  const box = byId("intervals");
  const metric = Number(selectById("interval-metric").value);
  const rows = plotted(metric);
  if (!rows.length) return box.replaceChildren(make("p", { class: "hint" }, say("No run has a figure under this metric.")));
  const [rowHeight, left, right] = [40, 12, 12];
  const height = rows.length * rowHeight + 30;
  const width = box.clientWidth - (height > TALLEST ? SCROLLBAR : 0);
  const [low, high] = range(rows.flatMap(({ figure }) => [figure.value, ...(figure.ci95 ?? [])]));
  const x = (/** @type {number} */ value) => left + fraction(value, low, high) * (width - left - right);
  const axis = ticks(low, high, width < 500 ? 4 : 8);
  box.replaceChildren(draw("svg", { width, height, role: "img", "aria-label": say("{metric}: mean and 95% interval of each run", { metric: metricLabel(metric) }) },
    axis.list.map((value) => [
      draw("line", { class: "grid", x1: x(value), x2: x(value), y1: 0, y2: height - 22 }),
      draw("text", { class: "tick", x: x(value), y: height - 6, "text-anchor": "middle" }, tickText(value, axis.decimals)),
    ]),
    rows.map(({ run, figure }, at) => {
      const y = at * rowHeight + 28;
      const [from, to] = figure.ci95 ?? [figure.value, figure.value];
      const figures = figure.ci95 ? say("{value} ({low} to {high})", { value: shown(figure.value), low: shown(from), high: shown(to) }) : shown(figure.value);
      return draw("g", { class: `row ${figure.is_best ? "best" : ""}` },
        draw("title", {}, `${runLabel(table().runs[run])}: ${figures}`),
        draw("text", { class: "label", x: left, y: y - 10 }, cut(runLabel(table().runs[run]), (width - left - right) / 7.5)),
        draw("line", { class: "whisker", x1: x(from), x2: x(to), y1: y, y2: y }),
        [from, to].map((end) => draw("line", { class: "whisker", x1: x(end), x2: x(end), y1: y - 5, y2: y + 5 })),
        draw("circle", { class: "dot", cx: x(figure.value), cy: y, r: 5 }));
    })));
}

/** A label that fits: by its width in Latin letters, a Chinese one counting two. @param {string} text @param {number} room */
function cut(text, room) {
  let used = 0;
  for (const [at, char] of Array.from(text).entries()) {
    used += (char.codePointAt(0) ?? 0) > 0x2e7f ? 2 : 1;
    if (used > room) return `${Array.from(text).slice(0, at - 1).join("")}…`;
  }
  return text;
}

export function drawScatter() {
  const box = byId("scatter");
  const [xMetric, yMetric] = ["scatter-x", "scatter-y"].map((id) => Number(selectById(id).value));
  const inY = new Map(plotted(yMetric).map(({ run, figure }) => [run, figure]));
  const points = plotted(xMetric).filter(({ run }) => inY.has(run))
    .map(({ run, figure }, at) => ({ run, number: at + 1, right: figure.value, up: inY.get(run)?.value ?? Number.NaN }));
  if (!points.length) return box.replaceChildren(make("p", { class: "hint" }, say("No run has figures under both metrics.")));
  const [width, height, left, bottom] = [box.clientWidth, 320, 52, 40];
  const [[lowX, highX], [lowY, highY]] = [range(points.map((p) => p.right)), range(points.map((p) => p.up))];
  const x = (/** @type {number} */ value) => left + fraction(value, lowX, highX) * (width - left - 16);
  const y = (/** @type {number} */ value) => 12 + (1 - fraction(value, lowY, highY)) * (height - bottom - 12);
  const [axisX, axisY] = [ticks(lowX, highX, width < 500 ? 4 : 6), ticks(lowY, highY, 5)];
  const llms = [...new Set(table().runs.map((run) => run.llm))];
  const colour = (/** @type {number} */ run) => `c${llms.indexOf(table().runs[run].llm) % COLOURS}`;
  const inWords = (/** @type {typeof points[number]} */ { run, right, up }) =>
    `${runLabel(table().runs[run])}: ${metricLabel(xMetric)} ${shown(right)}, ${metricLabel(yMetric)} ${shown(up)}`;
  const labels = placeLabels(points.map((p) => /** @type {[number, number]} */ ([x(p.right), y(p.up)])), width, height - bottom);
  box.replaceChildren(
    draw("svg", { width, height, role: "img", "aria-label": say("{x} against {y}, a point a run", { x: metricLabel(xMetric), y: metricLabel(yMetric) }) },
      axisX.list.map((value) => [
        draw("line", { class: "grid", x1: x(value), x2: x(value), y1: 12, y2: height - bottom }),
        draw("text", { class: "tick", x: x(value), y: height - bottom + 16, "text-anchor": "middle" }, tickText(value, axisX.decimals)),
      ]),
      axisY.list.map((value) => [
        draw("line", { class: "grid", x1: left, x2: width - 16, y1: y(value), y2: y(value) }),
        draw("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, tickText(value, axisY.decimals)),
      ]),
      draw("text", { class: "axis", x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, say("{metric} (retrieval)", { metric: metricLabel(xMetric) })),
      draw("text", { class: "axis", x: 12, y: (height - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(height - bottom) / 2})` },
        say("{metric} (answers)", { metric: metricLabel(yMetric) })),
      points.map((point, at) => draw("g", { class: colour(point.run) },
        draw("title", {}, inWords(point)),
        draw("line", { class: "lead", x1: x(point.right), y1: y(point.up), x2: labels[at][0], y2: labels[at][1] }),
        draw("circle", { class: "point", cx: x(point.right), cy: y(point.up), r: 5 }))),
      points.map((point, at) =>
        draw("text", { class: "number", x: labels[at][0], y: labels[at][1] + 4, "text-anchor": "middle" }, String(point.number)))),
    make("div", { class: "tall" }, make("ol", { class: "legend" }, points.map((point) =>
      make("li", { class: colour(point.run) }, make("span", { class: "text" }, runLabel(table().runs[point.run])),
        make("span", { class: "figures" }, `${shown(point.right)}, ${shown(point.up)}`))))));
}

/**
 * A place for each number near its point, off the points and the other numbers.
 * @param {[x: number, y: number][]} points
 * @param {number} width
 * @param {number} height
 */
function placeLabels(points, width, height) {
  /** @type {[x: number, y: number][]} */
  const placed = [];
  for (const [px, py] of points) {
    /** @type {{ at: [number, number], clashes: number } | null} */
    let best = null;
    for (const distance of [14, 24, 36, 50]) {
      for (let turn = 0; turn < 12; turn++) {
        const [lx, ly] = [px + distance * Math.cos((turn * Math.PI) / 6), py + distance * Math.sin((turn * Math.PI) / 6)];
        if (lx < 60 || lx > width - 10 || ly < 10 || ly > height - 8) continue;
        const near = (/** @type {[number, number][]} */ others, /** @type {number} */ least) => others.filter(([ox, oy]) => Math.hypot(ox - lx, oy - ly) < least).length;
        const clashes = near(placed, 16) + near(points, 12);
        if (best === null || clashes < best.clashes) best = { at: [lx, ly], clashes };
      }
      if (best?.clashes === 0) break;
    }
    placed.push(best?.at ?? [px, py]);
  }
  return placed;
}
