// Two plots in SVG, drawn to the width there is.
const COLOURS = 8;

/** The runs in the order of the leaderboard, with their figure under a metric. */
const plotted = (metric) =>
  boardOrder().map((run) => ({ run, figure: table().runs[run].figures[metric] })).filter(({ figure }) => figure?.value != null);

const MOST_TICK_CHARS = 12;

/** Round numbers that divide a range in about `n` parts; its ends, where no double could tell such numbers apart. */
function ticks(low, high, n) {
  const rough = high / n - low / n;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const [first, last] = [Math.ceil(low / step - 1e-9), Math.floor(high / step + 1e-9)];
  if (![first, last].every(Number.isSafeInteger) || last < first || last - first > 2 * n) {
    return { list: [...new Set([low, high])].filter(Number.isFinite), decimals: 4 };
  }
  const list = Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  return { list, decimals: Math.min(100, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))) };
}

/** A number at an axis: in full where there is room. */
function tickText(value, decimals) {
  const text = value.toFixed(decimals);
  return text.length <= MOST_TICK_CHARS ? text : value.toExponential(3);
}

/** A range with some room around these values; those that differ by rounding alone are one value. */
function range(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const size = Math.max(Math.abs(low), Math.abs(high));
  const apart = high / 2 - low / 2;
  const room = apart > Math.max(size * 5e-7, 5e-13) ? apart * 0.12 : size > 1e-12 ? size * 0.1 : 0.1;
  const within = (value) => Math.min(Number.MAX_VALUE, Math.max(-Number.MAX_VALUE, value));
  return [within(low - room), within(high + room)];
}

/** Where a value lies in a range, from 0 to 1; halves, since the difference of two numbers may be none. */
const fraction = (value, low, high) => (value / 2 - low / 2) / (high / 2 - low / 2);

function drawIntervals() {
  const box = byId("intervals");
  const metric = Number(byId("interval-metric").value);
  const rows = plotted(metric);
  if (!rows.length) return box.replaceChildren(make("p", { class: "hint" }, "No run has a figure under this metric."));
  const [width, rowHeight, left, right] = [box.clientWidth, 40, 12, 12];
  const height = rows.length * rowHeight + 30;
  const [low, high] = range(rows.flatMap(({ figure }) => [figure.value, ...(figure.ci95 ?? [])]));
  const x = (value) => left + fraction(value, low, high) * (width - left - right);
  const axis = ticks(low, high, width < 500 ? 4 : 8);
  box.replaceChildren(draw("svg", { width, height, role: "img", "aria-label": `${metricLabel(metric)}: mean and 95% interval of each run` },
    axis.list.map((value) => [
      draw("line", { class: "grid", x1: x(value), x2: x(value), y1: 0, y2: height - 22 }),
      draw("text", { class: "tick", x: x(value), y: height - 6, "text-anchor": "middle" }, tickText(value, axis.decimals)),
    ]),
    rows.map(({ run, figure }, at) => {
      const y = at * rowHeight + 28;
      const [from, to] = figure.ci95 ?? [figure.value, figure.value];
      const figures = figure.ci95 ? `${shown(figure.value)} (${shown(from)} to ${shown(to)})` : shown(figure.value);
      return draw("g", { class: `row ${figure.is_best ? "best" : ""}` },
        draw("title", {}, `${runLabel(table().runs[run])}: ${figures}`),
        draw("text", { class: "label", x: left, y: y - 10 }, cut(runLabel(table().runs[run]), (width - left - right) / 7.5)),
        draw("line", { class: "whisker", x1: x(from), x2: x(to), y1: y, y2: y }),
        [from, to].map((end) => draw("line", { class: "whisker", x1: x(end), x2: x(end), y1: y - 5, y2: y + 5 })),
        draw("circle", { class: "dot", cx: x(figure.value), cy: y, r: 5 }));
    })));
}

/** A label that fits: by its width in Latin letters, a Chinese one counting two. */
function cut(text, room) {
  let used = 0;
  for (const [at, char] of Array.from(text).entries()) {
    used += char.codePointAt(0) > 0x2e7f ? 2 : 1;
    if (used > room) return Array.from(text).slice(0, at - 1).join("") + "…";
  }
  return text;
}

function drawScatter() {
  const box = byId("scatter");
  const [xMetric, yMetric] = ["scatter-x", "scatter-y"].map((id) => Number(byId(id).value));
  const inY = new Map(plotted(yMetric).map(({ run, figure }) => [run, figure]));
  const points = plotted(xMetric).filter(({ run }) => inY.has(run))
    .map(({ run, figure }, at) => ({ run, number: at + 1, right: figure.value, up: inY.get(run).value }));
  if (!points.length) return box.replaceChildren(make("p", { class: "hint" }, "No run has figures under both metrics."));
  const [width, height, left, bottom] = [box.clientWidth, 320, 52, 40];
  const [[lowX, highX], [lowY, highY]] = [range(points.map((p) => p.right)), range(points.map((p) => p.up))];
  const x = (value) => left + fraction(value, lowX, highX) * (width - left - 16);
  const y = (value) => 12 + (1 - fraction(value, lowY, highY)) * (height - bottom - 12);
  const [axisX, axisY] = [ticks(lowX, highX, width < 500 ? 4 : 6), ticks(lowY, highY, 5)];
  const llms = [...new Set(table().runs.map((run) => run.llm))];
  const colour = (run) => `c${llms.indexOf(table().runs[run].llm) % COLOURS}`;
  const say = ({ run, right, up }) =>
    `${runLabel(table().runs[run])}: ${metricLabel(xMetric)} ${shown(right)}, ${metricLabel(yMetric)} ${shown(up)}`;
  const labels = placeLabels(points.map((p) => [x(p.right), y(p.up)]), width, height - bottom);
  box.replaceChildren(
    draw("svg", { width, height, role: "img", "aria-label": `${metricLabel(xMetric)} against ${metricLabel(yMetric)}, a point a run` },
      axisX.list.map((value) => [
        draw("line", { class: "grid", x1: x(value), x2: x(value), y1: 12, y2: height - bottom }),
        draw("text", { class: "tick", x: x(value), y: height - bottom + 16, "text-anchor": "middle" }, tickText(value, axisX.decimals)),
      ]),
      axisY.list.map((value) => [
        draw("line", { class: "grid", x1: left, x2: width - 16, y1: y(value), y2: y(value) }),
        draw("text", { class: "tick", x: left - 6, y: y(value) + 4, "text-anchor": "end" }, tickText(value, axisY.decimals)),
      ]),
      draw("text", { class: "axis", x: (left + width) / 2, y: height - 4, "text-anchor": "middle" }, `${metricLabel(xMetric)} (retrieval)`),
      draw("text", { class: "axis", x: 12, y: (height - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${(height - bottom) / 2})` },
        `${metricLabel(yMetric)} (answers)`),
      points.map((point, at) => draw("g", { class: colour(point.run) },
        draw("title", {}, say(point)),
        draw("line", { class: "lead", x1: x(point.right), y1: y(point.up), x2: labels[at][0], y2: labels[at][1] }),
        draw("circle", { class: "point", cx: x(point.right), cy: y(point.up), r: 5 }))),
      points.map((point, at) =>
        draw("text", { class: "number", x: labels[at][0], y: labels[at][1] + 4, "text-anchor": "middle" }, String(point.number)))),
    make("ol", { class: "legend" }, points.map((point) =>
      make("li", { class: colour(point.run) }, make("span", { class: "text" }, runLabel(table().runs[point.run])),
        make("span", { class: "figures" }, `${shown(point.right)}, ${shown(point.up)}`)))));
}

/** A place for each number near its point, off the points and the other numbers. */
function placeLabels(points, width, height) {
  const placed = [];
  for (const [px, py] of points) {
    let best = null;
    for (const distance of [14, 24, 36, 50]) {
      for (let turn = 0; turn < 12; turn++) {
        const [lx, ly] = [px + distance * Math.cos((turn * Math.PI) / 6), py + distance * Math.sin((turn * Math.PI) / 6)];
        if (lx < 60 || lx > width - 10 || ly < 10 || ly > height - 8) continue;
        const near = (others, least) => others.filter(([ox, oy]) => Math.hypot(ox - lx, oy - ly) < least).length;
        const clashes = near(placed, 16) + near(points, 12);
        if (best === null || clashes < best.clashes) best = { at: [lx, ly], clashes };
      }
      if (best?.clashes === 0) break;
    }
    placed.push(best?.at ?? [px, py]);
  }
  return placed;
}
