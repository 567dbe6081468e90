// The source of data of the viewer: its server, asked for one run or one question at a time.
// @ts-check
import { index } from "./data.js";

/** @typedef {import("./types.js").Source} Source */

/**
 * Ask the server.
 * @param {string} what
 * @param {number} t
 * @param {number[]} runs
 * @param {Record<string, string>} [more]
 */
async function ask(what, t, runs, more = {}) {
  const fields = new URLSearchParams({ board: index.board ?? "", t: String(t), ...more });
  for (const key of new URLSearchParams(location.search).getAll("run")) fields.append("of", key);
  for (const run of runs) fields.append("run", index.tables[t].runs[run].run);
  const reply = await fetch(`/api/${what}?${fields}`);
  if (!reply.ok) throw new Error(`${reply.status} ${(await reply.text()).slice(0, 300)}`);
  return reply.json();
}

/** @type {Source} */
export const served = {
  openColumns: (t, run) => ask("columns", t, [run]),
  openAnswers: (t, run) => ask("answers", t, [run]),
  openQuestion: (t, place, runs) => ask("question", t, runs, { id: index.tables[t].ids[place] }),
};
