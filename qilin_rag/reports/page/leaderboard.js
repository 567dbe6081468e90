// The leaderboard: answers, a row a run; below them retrieval, a row a retriever.
// @ts-check
import { figureHash } from "./address.js";
import { boardColumns, boardOrder } from "./board.js";
import { isRetrieval, metricLabel, shown, table } from "./data.js";
import { byId, make, sortHeading } from "./dom.js";
import { drawNoise } from "./noise.js";
import { drawIntervals, drawScatter } from "./plots.js";
import { setState, state } from "./state.js";
import { say } from "./words.js";

/**
 * @typedef {import("./types.js").Figure} Figure
 * @typedef {import("./types.js").Run} Run
 * @typedef {import("./types.js").Tokens} Tokens
 * @typedef {import("./types.js").Money} Money
 * @typedef {import("./types.js").BoardColumn} BoardColumn
 */

const FILTERED_FROM = 9; // runs: fewer are seen at once

/**
 * A figure with its marks and interval.
 * @param {Figure | null} figure
 * @param {string | null} href the answers behind it
 */
function figureCell(figure, href = null) {
  if (!figure) return make("td", { class: "figure" }, "–");
  if (figure.value === null) return make("td", { class: "figure" }, say("unscored"));
  return make("td", { class: figure.is_best ? "figure best" : "figure" },
    make("span", { "data-marks": figure.marks, title: meaning(figure) },
      href === null ? shown(figure.value) : make("a", { href, click: toQuestions }, shown(figure.value))),
    figure.ci95 ? make("small", {}, `${shown(figure.ci95[0])}–${shown(figure.ci95[1])}`)
      : figure.no_interval ? make("small", { title: figure.no_interval }, say("no interval")) : null,
    figure.n_unscored ? make("small", {}, say("{n} of {all} scored", { n: figure.n, all: figure.n + figure.n_unscored })) : null);
}

const toQuestions = () => byId("questions-title").scrollIntoView();

/** A signed number. @param {number} value */
const digits = (value) => (value > 0 ? "+" : "") + value.toFixed(4);

/** The marks of a figure in words. @param {Figure} figure */
function meaning(figure) {
  const { in_row: inRow, over_none: gain } = figure;
  /** @param {string} words @param {Pick<Figure, "p" | "untold">} standing */
  const tied = (words, { p, untold }) =>
    `${words}${p == null ? "" : say(", adjusted p {p}", { p: p.toFixed(4) })}${untold ? ` (${untold})` : ""}`;
  /** @param {NonNullable<Figure["over_none"]>} gain */
  const overNone = ({ difference, ci95, p, p_holm: holm }) => say("{difference} to none{interval}, p {p}, by Holm {holm}", {
    difference: digits(difference), p: p.toFixed(4), holm: holm.toFixed(4),
    interval: ci95 ? say(" ({low} to {high})", { low: digits(ci95[0]), high: digits(ci95[1]) }) : "",
  });
  return [
    figure.best ? say("best of its column or only row") : figure.tied ? tied(say("tied with the best of its column or only row"), figure) : null,
    inRow?.best ? say("best of its row") : inRow?.tied ? tied(say("tied with the best of its row"), inRow) : null,
    gain ? overNone(gain) : null,
  ].filter((words) => words !== null).join("; ") || null;
}

export function drawRetrieval() {
  const { metrics, retrieval, legend } = table();
  const columns = metrics.map((_, number) => number).filter((number) => isRetrieval(metrics[number]));
  byId("retrieval-part").hidden = !columns.length;
  byId("retrieval").replaceChildren(
    make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "text" }, say("Retriever")), columns.map((number) =>
      make("th", { scope: "col", class: "figure", title: metrics[number].signature }, metricLabel(number))))),
    make("tbody", {}, retrieval.map((row) =>
      make("tr", {}, make("th", { scope: "row", class: "text" }, row.retriever), row.figures.map((figure) => figureCell(figure))))));
  byId("legend").replaceChildren(...legend.map((line) => make("span", {}, `${say(line)} `)));
}

/**
 * Tokens, cost or seconds; below them what answers from the cache took when they were first asked.
 * @param {BoardColumn} column
 * @param {Run} run
 */
function spendingCell(column, run) {
  const first = run.first_asked;
  const asked = (/** @type {string} */ text) =>
    (first ? make("small", { title: say("{n} answers from the cache, when first asked", { n: first.n }) }, `(${text})`) : null);
  if (column.key === "tokens") {
    const sum = (/** @type {Tokens} */ { prompt_tokens: prompt, completion_tokens: completion }) =>
      (prompt === null || completion === null ? say("unknown") : (prompt + completion).toLocaleString("en"));
    const n = column.of(run);
    return make("td", { class: "figure" }, n === null ? (first ? "0" : say("unknown")) : n.toLocaleString("en"), first && asked(sum(first)));
  }
  if (column.key !== "cost") {
    const seconds = column.of(run);
    return make("td", { class: "figure" }, seconds === null ? "–" : Number(seconds).toFixed(2));
  }
  const money = (/** @type {Money} */ { amount, currency, at_most: atMost }) =>
    (amount === null ? say("unknown") : `${atMost ? "≤ " : ""}${amount.toPrecision(3)} ${currency ?? ""}`);
  return make("td", { class: "figure", title: run.cost.unknown ?? "" }, money(run.cost), first && asked(money(first.cost)));
}

/** Ratings by judges that compared answers of these runs. */
export function drawJudged() {
  byId("judged").replaceChildren(...table().judged.flatMap(({ by, rows: [header, ...rows] }) => [
    make("h3", {}, say("Pairwise ratings")),
    make("p", { class: "hint text" }, by),
    make("div", { class: "scroll" }, make("table", { class: "judged" },
      make("thead", {}, make("tr", {}, header.map((name, at) => make("th", { scope: "col", class: at ? "figure" : "text" }, at ? say(name) : say("Run"))))),
      make("tbody", {}, rows.map((cells) => make("tr", {}, cells.map((cell, at) => make("td", { class: at ? "figure" : "text" }, cell))))))),
  ]));
}

/** Draw what has the order of the leaderboard. */
export function drawBoard() {
  drawLeaderboard();
  drawIntervals();
  drawScatter();
  drawNoise();
}

/** Show the runs that have these words alone. @param {string} boardFilter */
export function filterBoard(boardFilter) {
  setState({ boardFilter });
  drawBoard();
}

function drawLeaderboard() {
  const columns = boardColumns();
  const sortBy = (/** @type {BoardColumn} */ column) => {
    const { boardSort } = state;
    setState({ boardSort: { key: column.key, down: boardSort?.key === column.key ? !boardSort.down : !column.isText } });
    drawBoard();
    const heading = byId("leaderboard").querySelectorAll("th")[columns.indexOf(column)];
    heading.querySelector("button")?.focus();
  };
  const order = boardOrder();
  const { runs } = table();
  byId("board-filter-part").hidden = runs.length < FILTERED_FROM;
  byId("board-found").textContent = order.length < runs.length ? say("{n} of {all} runs", { n: order.length, all: runs.length }) : "";
  byId("leaderboard").replaceChildren(
    make("thead", {}, make("tr", {}, columns.map((column) =>
      sortHeading(column.label, state.boardSort?.key === column.key ? state.boardSort.down : null, () => sortBy(column),
        { class: column.isText ? "text" : "figure", title: column.number === undefined ? column.title : table().metrics[column.number].signature })))),
    make("tbody", {}, order.map((at) => {
      const run = table().runs[at];
      return make("tr", { title: run.run }, columns.map((column) => {
        if (column.number !== undefined) return figureCell(run.figures[column.number], figureHash(at, column.number));
        return column.isText ? make("td", { class: "text" }, column.of(run)) : spendingCell(column, run);
      }));
    })));
}

export function drawRemarks() {
  const { metrics, notes, why_no_notes: whyNot } = table();
  byId("remarks-list").replaceChildren(
    ...notes.map((note) => make("li", { class: "remark text" }, note)),
    ...(whyNot ? [make("li", { class: "remark text" }, say("The texts of the notes are not in this report: {why}", { why: whyNot }))] : []),
    ...metrics.map((metric, number) => make("li", {}, `${metricLabel(number)}: `, make("code", {}, metric.signature))));
}
