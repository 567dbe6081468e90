// Where the page gets what is too much for the index: from blocks in the report, or from the viewer's server.
// @ts-check
import { state } from "./state.js";

/** @typedef {import("./types.js").Source} Source */

/** @type {Source | null} */
let source = null;

/** @param {Source} used */
export function useSource(used) {
  source = used;
}

function used() {
  if (source === null) throw new Error("no source of data was chosen: call useSource first");
  return source;
}

/** The statuses and scores of a run. @param {number} run */
export const openColumns = async (run) => used().openColumns(state.t, run);

/** The answers of a run, in the order of the questions. @param {number} run */
export const openAnswers = async (run) => used().openAnswers(state.t, run);

/** One question, for these runs. @param {number} place @param {number[]} runs */
export const openQuestion = async (place, runs) => used().openQuestion(state.t, place, runs);
