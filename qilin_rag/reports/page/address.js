// The address: its fragment keeps the question that is open, the runs, and the filters, so that a reload finds them.
// @ts-check
import { index, table } from "./data.js";
import { byId, inputById, selectById } from "./dom.js";
import { setState, state } from "./state.js";
import { say } from "./words.js";

/** @typedef {import("./types.js").State} State */

/** @type {[short: string, key: "search" | "status" | "low" | "high" | "compare"][]} */
const KEPT = [["s", "search"], ["st", "status"], ["lo", "low"], ["hi", "high"], ["cmp", "compare"]];

/** How A and B are compared: the values of the filter, with their labels. @returns {[string, string][]} */
export const comparisons = () =>
  [["", say("any")], ["more", say("A higher")], ["less", say("B higher")], ["differ", say("different")], ["same", say("equal")]];

/** The filters that are set, by their short names. @returns {[string, string][]} */
function filterFields() {
  /** @type {[string, string][]} */
  const fields = KEPT.flatMap(([name, key]) => (state[key] === "" || state[key] === null ? [] : [[name, String(state[key])]]));
  if (state.boardFilter) fields.push(["lf", state.boardFilter]);
  if (state.inAnswers) fields.push(["in", "1"]);
  if (state.metric) fields.push(["m", String(state.metric)]);
  if (state.sort.key !== "place") fields.push(["sort", `${state.sort.down ? "-" : ""}${state.sort.key}`]);
  return fields;
}

/**
 * Set of questions and runs.
 * @param {(number | null)[]} runs
 * @returns {[string, string][]}
 */
function runFields(runs) {
  /** @type {[string, string][]} */
  const fields = index.tables.length > 1 ? [["t", String(state.t)]] : [];
  for (const [at, run] of runs.entries()) {
    if (run !== null) fields.push(["ab"[at], table().runs[run].run]);
  }
  return fields;
}

/** The address within the page of a question with these runs. @param {number} place @param {(number | null)[]} runs */
export const questionHash = (place, runs = [state.a, state.b]) =>
  `#${new URLSearchParams([["q", table().ids[place]], ...runFields(runs), ...filterFields()])}`;

/** The address of the answers behind a figure. @param {number} run @param {number} metric */
export const figureHash = (run, metric) =>
  `#${new URLSearchParams([...runFields([run]), ["m", String(metric)], ...(state.boardFilter ? [["lf", state.boardFilter]] : [])])}`;

/** The address of the list of questions; empty if nothing is chosen. */
function listHash() {
  const filters = filterFields();
  return filters.length || state.b !== null ? `#${new URLSearchParams([...runFields([state.a, state.b]), ...filters])}` : "";
}

/** Say in the address what the list shows; an open question has its own. */
export function keepInAddress() {
  if (state.open !== null || !state.isFollowed) return;
  history.replaceState(null, "", listHash() || location.pathname + location.search);
}

/** Take the filters from an address, and show them in their controls. @param {URLSearchParams} fields */
export function takeFilters(fields) {
  const number = (/** @type {string} */ name) => {
    const text = fields.get(name);
    return text === null || Number.isNaN(Number(text)) ? null : Number(text);
  };
  const oneOf = (/** @type {string} */ name, /** @type {string[]} */ allowed) => {
    const text = fields.get(name) ?? "";
    return allowed.includes(text) ? text : "";
  };
  const sort = fields.get("sort") ?? "place";
  const metric = number("m") ?? 0;
  setState({
    search: fields.get("s") ?? "", inAnswers: fields.has("in"),
    status: oneOf("st", index.statuses), compare: oneOf("cmp", comparisons().map(([value]) => value)),
    low: number("lo"), high: number("hi"), metric: table().metrics[metric] ? metric : 0,
    sort: { key: sort.replace(/^-/, ""), down: sort.startsWith("-") },
  });
  for (const [, key] of KEPT) /** @type {HTMLInputElement | HTMLSelectElement} */ (byId(key)).value = String(state[key] ?? "");
  selectById("metric").value = String(state.metric);
  inputById("in-answers").checked = state.inAnswers;
}
