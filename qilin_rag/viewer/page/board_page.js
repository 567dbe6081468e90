// The report in the viewer: its index inside, the rest from the server.
// @ts-check
import "./chinese_view.js";
import { useIndex } from "./data.js";
import { byId, make } from "./dom.js";
import { startResults } from "./results.js";
import { served } from "./served.js";
import { useSource } from "./source.js";
import { say } from "./words.js";

useIndex(JSON.parse(byId("index").textContent ?? ""));
useSource(served);
startResults();

const here = new URLSearchParams(location.search).getAll("run").map((run) => ["run", run]);
const downloads = [["csv", "CSV"], ["json", "JSON"], ["md", "Markdown"], ["latex", "LaTeX"], ["html", "HTML"]];
byId("made").after(make("p", { class: "hint", id: "downloads" }, `${say("Download")}: `, downloads.map(([format, name]) =>
  [make("a", { href: `/api/download?${new URLSearchParams([["format", format], ...here])}`, download: true }, name), " "])));
