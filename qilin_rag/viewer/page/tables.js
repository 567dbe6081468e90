// Tables of two runs, of an ablation and of rankers: what to show is chosen above, and kept in the address.
// @ts-check
import { ask } from "./ask.js";
import "./chinese_view.js";
import { byId, make, setOptions } from "./dom.js";
import { say, sayStatic, switchBy } from "./words.js";

/**
 * @typedef {{ title: string, header: string[], rows: string[][], lines: string[] }} Section
 * @typedef {{ question_id: string, query: string, value_a: number, value_b: number }} Moved
 */

const fields = new URLSearchParams(location.search);
const TITLES = new Map([["/compare", "Compare"], ["/ablation", "Ablation"], ["/rankings", "Rankings"]]);
const FIGURE = /^[~+\-−]?[\d.]/;

/** Load the page with another choice. @param {string} name @param {string[]} values */
function choose(name, values) {
  fields.delete(name);
  for (const value of values) fields.append(name, value);
  location.search = String(fields);
}

/**
 * A select for one field of the address.
 * @param {string} label
 * @param {string[]} values
 * @param {string} chosen
 * @param {(value: string) => void} onChange
 */
function choice(label, values, chosen, onChange) {
  const select = make("select", { change: () => onChange(select.value) });
  setOptions(select, values.map((value) => [value, value]), chosen);
  return make("label", {}, `${say(label)} `, select);
}

/** @param {Section} section */
function drawSection({ title, header, rows, lines }) {
  const isFigure = header.map((_, at) => at > 0 && rows.some((row) => FIGURE.test(row[at] ?? "")));
  const row = (/** @type {string[]} */ cells) => cells.slice(1).every((cell) => cell === "") && cells.length > 1
    ? make("tr", {}, make("th", { scope: "rowgroup", class: "text", colspan: String(header.length) }, cells[0]))
    : make("tr", {}, cells.map((cell, at) => make(at ? "td" : "th", { class: isFigure[at] ? "figure" : "text", scope: at ? null : "row" }, cell)));
  return [
    title ? make("h2", { class: "text" }, title) : null,
    header.length ? make("div", { class: "scroll" }, make("table", {},
      make("thead", {}, make("tr", {}, header.map((name, at) => make("th", { scope: "col", class: isFigure[at] ? "figure" : "text" }, at ? say(name) : name)))),
      make("tbody", {}, rows.map(row)))) : null,
    lines.map((line) => make("p", { class: "hint text" }, line)),
  ];
}

/** Questions that differ most, each a link to its answers side by side. @param {string} letter @param {Moved[]} questions @param {string} metric @param {string[]} runs */
function drawMoved(letter, questions, metric, runs) {
  if (!questions.length) return null;
  const link = (/** @type {string} */ id) =>
    `/board?${new URLSearchParams(runs.map((run) => ["run", run]))}#${new URLSearchParams([["q", id], ["a", runs[0]], ["b", runs[1]]])}`;
  return [
    make("h2", {}, say("Questions in which {letter} is higher by {metric}", { letter, metric })),
    make("div", { class: "scroll" }, make("table", {},
      make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "text" }, say("Question")), ["A", "B"].map((name) => make("th", { scope: "col", class: "figure" }, name)))),
      make("tbody", {}, questions.map((question) => make("tr", {},
        make("td", { class: "text" }, make("a", { href: link(question.question_id) }, question.query || question.question_id)),
        make("td", { class: "figure" }, question.value_a.toFixed(4)), make("td", { class: "figure" }, question.value_b.toFixed(4))))))),
  ];
}

/** @param {any} found */
function drawChoices(found) {
  const runs = fields.getAll("run");
  if (found.runs) {
    const names = ["", ...found.runs];
    const pick = (/** @type {number} */ at) => (/** @type {string} */ value) => {
      runs[at] = value;
      choose("run", [runs[0] ?? "", runs[1] ?? ""]);
    };
    byId("choices").append(choice("Run A", names, runs[0] ?? "", pick(0)), choice("Run B", names, runs[1] ?? "", pick(1)));
  }
  if (found.metrics?.length) byId("choices").append(choice("Metric", found.metrics, found.metric ?? found.moved_by, (value) => choose("metric", [value])));
  if (found.tasks) byId("choices").append(choice("Task", found.tasks, found.task, (value) => choose("task", [value])));
}

async function start() {
  const title = TITLES.get(location.pathname) ?? "";
  byId("title").textContent = say(title);
  sayStatic(document);
  switchBy(byId("language"));
  const asked = new URLSearchParams(fields);
  if (asked.getAll("run").includes("")) asked.delete("run");
  try {
    const found = await ask(`/api${location.pathname}`, asked);
    drawChoices(found);
    byId("why").textContent = found.why ?? (found.runs && asked.getAll("run").length !== 2 ? say("Choose two runs.") : "");
    byId("sections").replaceChildren(...found.sections.flatMap(drawSection).flat().filter(Boolean));
    for (const letter of ["A", "B"]) {
      const drawn = drawMoved(letter, found.moved?.[letter] ?? [], found.moved_by, fields.getAll("run"));
      if (drawn) byId("moved").append(...drawn);
    }
  } catch (error) {
    byId("why").textContent = error instanceof Error ? error.message : String(error);
    fields.delete("metric"); // which may be what is wrong
    drawChoices(await ask(`/api${location.pathname}`).catch(() => ({})));
  }
  document.documentElement.dataset.ready = "";
}

start();
