// The order of the leaderboard, which the plots have as well: its columns, and how it is sorted.
// @ts-check
import { isRetrieval, metricLabel, table } from "./data.js";
import { compare } from "./dom.js";
import { folded } from "./folding.js";
import { state } from "./state.js";
import { say } from "./words.js";

/**
 * @typedef {import("./types.js").BoardColumn} BoardColumn
 * @typedef {import("./types.js").Run} Run
 */

/** Columns of the leaderboard: key, heading, and what of a run stands there (for sorting). @returns {BoardColumn[]} */
export function boardColumns() {
  const { runs, metrics } = table();
  /** @type {BoardColumn[]} */
  const texts = [
    { key: "llm", label: say("LLM"), isText: true, of: (run) => run.llm },
    { key: "retriever", label: say("Retriever"), isText: true, of: (run) => run.retriever },
  ];
  if (new Set(runs.map((run) => run.prompt)).size > 1) {
    texts.push({ key: "prompt", label: say("Prompt"), isText: true, of: (run) => run.prompt });
  }
  /** @type {BoardColumn[]} */
  const figures = metrics.flatMap((metric, number) => (isRetrieval(metric) ? [] : [{
    key: `m${number}`, label: metricLabel(number), number, of: (run) => run.figures[number]?.value ?? null,
  }]));
  const spent = runs.some((run) => run.completion_tokens || run.uncounted || run.first_asked);
  /** @type {BoardColumn[]} */
  const spending = !spent ? [] : [
    { key: "tokens", label: say("Tokens"), of: (run) => (run.prompt_tokens === null && run.completion_tokens === null ? null : Number(run.prompt_tokens) + Number(run.completion_tokens)) },
    { key: "cost", label: say("Cost"), of: (run) => run.cost.amount },
  ];
  /** @type {BoardColumn[]} */
  const latency = !runs.some((run) => run.latency) ? [] : [
    { key: "median", label: say("Median s"), title: say("seconds a call"), of: (run) => run.latency?.median_s ?? null },
    { key: "p95", label: say("95th pct s"), title: say("seconds a call"), of: (run) => run.latency?.p95_s ?? null },
  ];
  return [...texts, ...figures, ...spending, ...latency];
}

/** Whether a run has all words of the filter. @param {Run} run @param {string[]} words */
function isListed({ llm, retriever, prompt, run }, words) {
  const text = folded([llm, retriever, prompt, run].join(" "));
  return words.every((word) => text.includes(word));
}

/**
 * The runs that the filter leaves, as places in the table's list, in the order that is chosen; at first that of the
 * leaderboard command.
 */
export function boardOrder() {
  const { runs } = table();
  const words = folded(state.boardFilter).split(/\s+/u).filter(Boolean);
  const places = runs.flatMap((run, at) => (isListed(run, words) ? [at] : []));
  const sort = state.boardSort;
  const column = sort && boardColumns().find(({ key }) => key === sort.key);
  if (!column) return places;
  return places.sort((one, other) => compare(column.of(runs[one]), column.of(runs[other]), sort.down) || one - other);
}
