// The data: an index that is read at once, and the scores of the chosen runs.
// @ts-check
import { state } from "./state.js";

/**
 * @typedef {import("./types.js").Index} Index
 * @typedef {import("./types.js").Run} Run
 * @typedef {import("./types.js").Metric} Metric
 * @typedef {import("./types.js").Columns} Columns
 */

/** @type {Index} */
export let index;
/** @type {Map<number, Columns>} */
let columns = new Map();

/** @param {Index} used */
export function useIndex(used) {
  index = used;
}

/** Keep the scores of the runs that are chosen now. @param {Map<number, Columns>} ofRuns */
export function useColumns(ofRuns) {
  columns = ofRuns;
}

export const table = () => index.tables[state.t];
/** @param {Run} run */
export const fullLabel = (run) => `${run.llm} · ${run.retriever}`;
/** What tells the run apart: if all have one LLM, the retriever does. @param {Run} run */
export const runLabel = (run) => (table().runs.some(({ llm }) => llm !== run.llm) ? fullLabel(run) : run.retriever);
/** @param {Metric} metric */
export const isRetrieval = (metric) => metric.of_hits;
/** @param {number | null | undefined} value */
export const shown = (value) => (value === null || value === undefined ? "–" : value.toFixed(4));

/** The status of a chosen run's answer. @param {number} run @param {number} place */
export const statusOf = (run, place) => index.statuses[Number(columns.get(run)?.statuses[place])] ?? "";

/** A score of a chosen run. @param {number} run @param {number} place @param {number} metric */
export const scoreOf = (run, place, metric = state.metric) => columns.get(run)?.scores[metric]?.[place] ?? null;

/** Metrics that two signatures share are told apart by a number; the signatures stand below the leaderboard. @param {number} number */
export function metricLabel(number) {
  const { name } = table().metrics[number];
  const same = table().metrics.flatMap((metric, at) => (metric.name === name ? [at] : []));
  return same.length > 1 ? `${name} (${same.indexOf(number) + 1})` : name;
}
