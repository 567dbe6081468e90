// The report in the viewer: its index and all else from the server.
// @ts-check
import { ask } from "./ask.js";
import "./chinese_view.js";
import { index, useIndex } from "./data.js";
import { byId, make } from "./dom.js";
import { listen } from "./events.js";
import { startResults } from "./results.js";
import { served } from "./served.js";
import { useSource } from "./source.js";
import { say } from "./words.js";

const here = new URLSearchParams(location.search).getAll("run").map((run) => ["run", run]);
const changed = make("p", { class: "remark", role: "status", id: "changed", hidden: true }, `${say("The runs have changed.")} `,
  make("button", { type: "button", click: () => location.reload() }, say("Load again")));
byId("made").before(changed);

/** @type {string | undefined} */
let version;
let isOpening = true;
followRuns();
useIndex(await openIndex());
version = index.board;
useSource(served);
startResults();

/** The index of the runs in the address; what is wrong with them is said in its place. */
async function openIndex() {
  byId("made").textContent = say("Loading…");
  try {
    return await ask("/api/board", new URLSearchParams(here));
  } catch (error) {
    byId("made").className = "remark text";
    byId("made").textContent = error instanceof Error ? error.message : String(error);
    for (const part of document.querySelectorAll("main > *, #language")) /** @type {HTMLElement} */ (part).hidden = true;
    throw error;
  } finally {
    isOpening = false;
  }
}

const downloads = [["csv", "CSV"], ["json", "JSON"], ["md", "Markdown"], ["latex", "LaTeX"], ["html", "HTML"]];
byId("made").after(make("p", { class: "hint", id: "downloads" }, `${say("Download")}: `, downloads.map(([format, name]) =>
  [make("a", { href: `/api/download?${new URLSearchParams([["format", format], ...here])}`, download: true }, name), " "])));

/** Say it if a run of this page is another one now: its figures, that it is complete, or that it is gone. */
function followRuns() {
  listen({}, async ({ is_first: isFirst, rows, gone }) => {
    if (!changed.hidden || isOpening || (isFirst && version === undefined) || !(gone.length || rows.some((row) => row.state !== "running"))) return;
    const now = await ask("/api/version", new URLSearchParams(here)).catch(() => version);
    changed.hidden = now === version;
  }, () => {});
}
