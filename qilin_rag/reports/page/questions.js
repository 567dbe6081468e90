// The questions: searched, filtered, sorted, a page at a time.
// @ts-check
import { keepInAddress, questionHash } from "./address.js";
import { metricLabel, scoreOf, shown, statusOf, table } from "./data.js";
import { buttonById, byId, compare, make, sortHeading } from "./dom.js";
import { folded } from "./folding.js";
import { openAnswers } from "./source.js";
import { chosenRuns, setState, state } from "./state.js";
import { say } from "./words.js";

/** @typedef {{ key: string, label: string, isFigure?: boolean, of(place: number): string | number | null }} Column */

const PAGE_ROWS = 50;
let latestFilter = 0;

/** Whether the two scores stand to each other as asked. @param {number | null} one @param {number | null} other */
function compares(one, other) {
  if (!state.compare || state.b === null) return true;
  if (one === null || other === null) return false;
  return { more: one > other, less: one < other, differ: one !== other, same: one === other }[state.compare];
}

/** Places of the questions whose answer by one of the chosen runs holds the text. @param {string} needle */
async function foundInAnswers(needle) {
  /** @type {Set<number>} */
  const found = new Set();
  for (const run of chosenRuns()) {
    for (const [place, answer] of (await openAnswers(run)).entries()) {
      if (folded(answer).includes(needle)) found.add(place);
    }
  }
  return found;
}

/** Filter and sort anew; of several calls under way only the last one draws. */
export async function filterQuestions() {
  const turn = ++latestFilter;
  const needle = folded(state.search.trim());
  const { ids, queries } = table();
  const inAnswers = needle && state.inAnswers ? await foundInAnswers(needle) : new Set();
  if (turn !== latestFilter) return;
  const { a, b, status, low, high, sort } = state;
  const kept = ids.map((_, place) => place).filter((place) => {
    const score = scoreOf(a, place);
    return (!needle || inAnswers.has(place) || folded(queries[place]).includes(needle) || folded(ids[place]) === needle)
      && (!status || statusOf(a, place) === status)
      && (low === null || (score !== null && score >= low))
      && (high === null || (score !== null && score <= high))
      && compares(score, b === null ? null : scoreOf(b, place));
  });
  const column = questionColumns().find(({ key }) => key === sort.key);
  if (column) kept.sort((one, other) => compare(column.of(one), column.of(other), sort.down) || one - other);
  const lastPage = Math.max(0, Math.ceil(kept.length / PAGE_ROWS) - 1);
  setState({ order: kept, page: Math.min(state.page, lastPage) });
  drawQuestions();
  keepInAddress();
}

/** @returns {Column[]} */
function questionColumns() {
  const name = metricLabel(state.metric);
  const { a, b } = state;
  /** @type {Column[]} */
  const columns = [
    { key: "query", label: say("Question"), of: (place) => table().queries[place] },
    { key: "status", label: say("Status"), of: (place) => statusOf(a, place) },
    { key: "a", label: b === null ? name : `${name} A`, isFigure: true, of: (place) => scoreOf(a, place) },
  ];
  if (b === null) return columns;
  const difference = (/** @type {number} */ place) => {
    const [one, other] = [scoreOf(a, place), scoreOf(b, place)];
    return one === null || other === null ? null : other - one;
  };
  return [
    ...columns,
    { key: "b", label: `${name} B`, isFigure: true, of: (place) => scoreOf(b, place) },
    { key: "difference", label: "B − A", isFigure: true, of: difference },
  ];
}

/** @param {number} value */
const signed = (value) => (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(4);

/** @param {Column} column @param {number} place */
function questionCell(column, place) {
  if (column.key === "query") {
    return make("td", { class: "query text" }, make("a", { href: questionHash(place) }, table().queries[place] || table().ids[place]));
  }
  if (column.key === "status") return make("td", { class: "status" }, statusBadge(statusOf(state.a, place)));
  const value = /** @type {number | null} */ (column.of(place));
  if (column.key !== "difference" || value === null) return make("td", { class: "figure" }, shown(value));
  return make("td", { class: `figure ${value > 0 ? "up" : value < 0 ? "down" : ""}` }, signed(value));
}

/** Draw the page of the list that is chosen. */
export function drawQuestions() {
  const columns = questionColumns();
  const sortBy = (/** @type {Column} */ { key }) => {
    setState({ sort: { key, down: state.sort.key === key ? !state.sort.down : false }, page: 0 });
    filterQuestions();
  };
  const rows = state.order.slice(state.page * PAGE_ROWS, (state.page + 1) * PAGE_ROWS);
  byId("questions").replaceChildren(
    make("thead", {}, make("tr", {}, columns.map((column) =>
      sortHeading(column.label, state.sort.key === column.key ? state.sort.down : null, () => sortBy(column),
        { class: column.isFigure ? "figure" : column.key })))),
    make("tbody", {}, rows.map((place) => make("tr", {}, columns.map((column) => questionCell(column, place))))));
  const n = state.order.length;
  byId("found").textContent = say("{n} of {all} questions", { n: n.toLocaleString("en"), all: table().ids.length.toLocaleString("en") });
  const pages = Math.max(1, Math.ceil(n / PAGE_ROWS));
  byId("page").textContent = say("Page {page} of {pages}", { page: state.page + 1, pages });
  buttonById("earlier").disabled = state.page === 0;
  buttonById("later").disabled = state.page >= pages - 1;
}

/** @param {string} status */
export const statusBadge = (status) => make("span", { class: `badge ${status}` }, say(status));
