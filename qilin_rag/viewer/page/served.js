// The source of data of the viewer: its server, asked for one run or one question at a time.
// @ts-check
import { ask } from "./ask.js";
import { index } from "./data.js";

/**
 * @typedef {import("./types.js").Source} Source
 * @typedef {import("./types.js").OpenedQuestion} OpenedQuestion
 */

/**
 * What names runs of a table in an address.
 * @param {number} t
 * @param {number[]} runs
 * @param {Record<string, string>} [more]
 */
function fieldsOf(t, runs, more = {}) {
  const fields = new URLSearchParams({ board: index.board ?? "", t: String(t), ...more });
  for (const key of new URLSearchParams(location.search).getAll("run")) fields.append("of", key);
  for (const run of runs) fields.append("run", index.tables[t].runs[run].run);
  return fields;
}

/**
 * Ask the server about runs of a table.
 * @param {string} what
 * @param {number} t
 * @param {number[]} runs
 * @param {Record<string, string>} [more]
 */
function askOf(what, t, runs, more = {}) {
  return ask(`/api/${what}`, fieldsOf(t, runs, more));
}

/** @type {Source} */
export const served = {
  openColumns: (t, run) => askOf("columns", t, [run]),
  openAnswers: (t, run) => askOf("answers", t, [run]),

  async openQuestion(t, place, runs) {
    /** @type {OpenedQuestion} */
    const opened = await askOf("question", t, runs, { id: index.tables[t].ids[place] });
    for (const [note, { images }] of Object.entries(opened.notes)) {
      images?.forEach((image, n) => { image.src = `/api/thumbnail?${fieldsOf(t, [], { note, n: String(n) })}`; });
    }
    return opened;
  },
};
