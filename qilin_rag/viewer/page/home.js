// The list of runs: sorted, filtered, kept up to date, and a place to choose runs from.
// @ts-check
import "./chinese_view.js";
import "./chinese_live.js";
import { buttonById, byId, compare, inputById, make, selectById, setOptions, sortHeading } from "./dom.js";
import { listen } from "./events.js";
import { costText, doneText, leftText, outcomesText, progressBar, rateText, stateBadge, timeText } from "./shown.js";
import { say, sayStatic, switchBy } from "./words.js";

/**
 * @typedef {import("./live_types.js").Row} Row
 * @typedef {{ key: string, label: string, of: (row: Row) => string | number | null, isFigure?: boolean, isFirstDown?: boolean,
 *   draw: (row: Row) => import("./types.js").Child }} Column
 */

const ORDER = ["running", "interrupted", "unreadable", "complete"];
/** @type {Map<string, Row>} */
const rows = new Map();
/** @type {Map<string, HTMLTableRowElement>} */
const drawn = new Map();
/** @type {Set<string>} */
const chosen = new Set();
let sort = { key: "state", down: false };
let metric = "";

const rated = (/** @type {Row} */ row) => (row.state === "complete" ? row.figures[metric] ?? null : null);

/** @type {Column[]} */
const COLUMNS = [
  { key: "name", label: "Run", of: (row) => row.key, draw: drawName },
  { key: "state", label: "State", of: (row) => ORDER.indexOf(row.state), draw: drawState },
  { key: "progress", label: "Progress", of: (row) => (row.total ? row.done / row.total : null), isFirstDown: true, draw: drawProgress },
  { key: "rate", label: "Rate", of: (row) => row.rate, isFigure: true, isFirstDown: true, draw: rateText },
  { key: "left", label: "Time left", of: (row) => row.left_s, isFigure: true, draw: leftText },
  { key: "cost", label: "Cost", of: (row) => row.cost?.amount ?? null, isFigure: true, isFirstDown: true, draw: drawCost },
  { key: "metric", label: "", of: rated, isFigure: true, isFirstDown: true, draw: (row) => rated(row)?.toFixed(4) ?? "" },
  { key: "data", label: "Data", of: (row) => row.data, draw: (row) => row.data },
  { key: "retriever", label: "Retriever", of: (row) => row.retriever, draw: (row) => row.retriever },
  { key: "llm", label: "LLM", of: (row) => row.llm, draw: (row) => row.llm },
  { key: "prompt", label: "Prompt", of: (row) => row.prompt, draw: (row) => row.prompt },
  { key: "started", label: "Started", of: (row) => row.started, isFirstDown: true, draw: drawStarted },
];
const TEXTS = ["name", "data", "retriever", "llm", "prompt"];

/** @param {Row} row */
function drawName(row) {
  const address = row.kind === "run" ? `/run?${new URLSearchParams({ run: row.key })}` : "/rankings";
  return [make("a", { href: address, class: "name" }, row.key), row.kind === "ranking" ? make("small", {}, ` ${say("ranking")}`) : null];
}

/** @param {Row} row */
function drawState(row) {
  return [stateBadge(row), row.why === null ? null : make("small", { class: "why text" }, row.why)];
}

/** @param {Row} row */
function drawProgress(row) {
  return [
    row.state === "complete" ? null : progressBar(row),
    make("span", { class: "done", title: row.is_read ? null : say("more is being read") }, doneText(row)),
    outcomesText(row) ? make("small", { class: "outcomes" }, outcomesText(row)) : null,
  ];
}

/** @param {Row} row */
function drawCost(row) {
  return row.cost === null ? null : make("span", { title: row.cost.unknown }, costText(row.cost));
}

/** @param {Row} row */
function drawStarted(row) {
  return timeText(row.started).split(" ").flatMap((part) => [make("span", { class: "whole" }, part), " "]);
}

/** The columns that are shown: that of a metric only if a run has figures. */
const shownColumns = () => COLUMNS.filter((column) => column.key !== "metric" || metric !== "");

/** @param {Row} row */
function drawRow(row) {
  const known = drawn.get(row.id);
  const columns = shownColumns();
  const told = row.state === "unreadable" ? columns.slice(0, 2) : columns;
  const cells = told.map((column, at) => {
    const isText = TEXTS.includes(column.key);
    const label = column.key === "metric" ? metric : say(column.label);
    const span = at + 1 === told.length ? 1 + columns.length - told.length : 1;
    return make("td", { class: `${column.key}${column.isFigure ? " figure" : ""}${isText ? " text" : ""}`, "data-label": label, colspan: span > 1 && span },
      column.draw(row));
  });
  if (known === undefined) {
    const tr = make("tr", { class: row.state }, make("td", { class: "choice" }, checkBox(row)), cells);
    drawn.set(row.id, tr);
    return;
  }
  known.className = row.state;
  cells.forEach((cell, at) => {
    const old = known.children[at + 1];
    if (old === undefined) known.append(cell);
    else if (!old.isEqualNode(cell)) old.replaceWith(cell);
  });
  while (known.children.length > cells.length + 1) known.lastElementChild?.remove();
}

/** @param {Row} row */
function checkBox(row) {
  if (row.kind === "ranking") return null;
  const box = make("input", { type: "checkbox", "aria-label": say("Choose {name}", { name: row.key }) });
  box.addEventListener("change", () => {
    if (box.checked) chosen.add(row.key);
    else chosen.delete(row.key);
    drawChosen();
  });
  return box;
}

function drawChosen() {
  byId("n-chosen").textContent = chosen.size ? say("{n} chosen", { n: chosen.size }) : "";
  buttonById("to-board").disabled = chosen.size === 0;
  buttonById("to-compare").disabled = chosen.size !== 2;
}

/** @param {string} path */
const goTo = (path) => location.assign(`${path}?${new URLSearchParams([...chosen].map((key) => ["run", key]))}`);

/** Rows with all words of the filter, in order; those that are alike by the latest. */
function orderedRows() {
  const words = inputById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const column = COLUMNS.find((each) => each.key === sort.key) ?? COLUMNS[0];
  return [...rows.values()]
    .filter((row) => {
      const text = [row.key, row.data, row.retriever, row.llm, row.prompt, say(row.state)].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    })
    .sort((one, other) => compare(column.of(one), column.of(other), sort.down) || compare(one.started, other.started, true) || compare(one.key, other.key, false));
}

function drawHead() {
  const headings = shownColumns().map((column) =>
    sortHeading(column.key === "metric" ? metric : say(column.label), sort.key === column.key ? sort.down : null, () => {
      sort = { key: column.key, down: sort.key === column.key ? !sort.down : column.isFirstDown === true };
      drawHead();
      drawOrder();
    }, { class: `${column.key}${column.isFigure ? " figure" : ""}` }));
  byId("runs").querySelector("thead")?.replaceChildren(make("tr", {}, make("th", { class: "choice" }, make("span", { class: "unseen" }, say("Choose"))), headings));
}

/** Put the rows in order; nothing moves if they are, so that focus and selection stay. */
function drawOrder() {
  const ordered = orderedRows();
  const body = /** @type {HTMLElement} */ (byId("runs").querySelector("tbody"));
  const wanted = ordered.map((row) => /** @type {HTMLTableRowElement} */ (drawn.get(row.id)));
  if (wanted.length !== body.children.length || wanted.some((tr, at) => body.children[at] !== tr)) {
    const focused = document.activeElement;
    body.replaceChildren(...wanted);
    if (focused instanceof HTMLElement && body.contains(focused)) focused.focus({ preventScroll: true });
  }
  const nRunning = ordered.filter((row) => row.state === "running").length;
  const found = rows.size === 0 ? say("No run yet; begin with: qilin-rag run")
    : ordered.length === 0 ? say("No run has these words.")
    : ordered.length === rows.size ? say(rows.size === 1 ? "1 run" : "{n} runs", { n: rows.size })
    : say("{n} of {all} runs", { n: ordered.length, all: rows.size });
  byId("found").textContent = nRunning ? `${found} · ${say("{n} running", { n: nRunning })}` : found;
}

/** Offer the metrics that runs have figures of. */
function drawMetrics() {
  const names = [...new Set([...rows.values()].flatMap((row) => Object.keys(row.figures)))];
  const select = selectById("metric");
  if (names.join("\n") === [...select.options].map((option) => option.value).join("\n")) return false;
  metric = names.includes(metric) ? metric : names.find((name) => !name.includes("@")) ?? names[0] ?? "";
  setOptions(select, names.map((name) => [name, name]), metric);
  byId("metric-choice").hidden = names.length < 2;
  return true;
}

/** @param {import("./live_types.js").Changes} changes */
function update(changes) {
  const ids = new Set(changes.rows.map((row) => row.id));
  const gone = changes.is_first ? [...rows.keys()].filter((id) => !ids.has(id)) : changes.gone;
  for (const id of gone) {
    chosen.delete(rows.get(id)?.key ?? "");
    rows.delete(id);
    drawn.delete(id);
  }
  for (const row of changes.rows) rows.set(row.id, row);
  if (drawMetrics()) drawAll();
  else for (const row of changes.rows) drawRow(row);
  drawOrder();
  drawChosen();
  document.documentElement.dataset.ready = "";
}

function drawAll() {
  drawHead();
  for (const row of rows.values()) drawRow(row);
}

/** Move by the keyboard from name to name. @param {number} step */
function move(step) {
  const names = /** @type {HTMLElement[]} */ ([...byId("runs").querySelectorAll("tbody a.name")]);
  const at = names.findIndex((name) => name.closest("tr")?.contains(document.activeElement));
  const next = at < 0 ? names[step > 0 ? 0 : names.length - 1] : names[at + step];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = /** @type {HTMLElement} */ (event.target);
  const filter = inputById("filter");
  if (target === filter) {
    if (event.key === "Escape") filter.blur();
    else if (event.key === "ArrowDown" || event.key === "Enter") move(1);
    else return;
  } else if (target instanceof HTMLSelectElement) return;
  else if (event.key === "/") filter.focus();
  else if (event.key === "ArrowDown" || event.key === "j") move(1);
  else if (event.key === "ArrowUp" || event.key === "k") move(-1);
  else if (event.key === "x") /** @type {HTMLElement | null | undefined} */ (target.closest("tr")?.querySelector("input"))?.click();
  else return;
  event.preventDefault();
});

sayStatic(document);
switchBy(byId("language"));
drawHead();
inputById("filter").addEventListener("input", drawOrder);
selectById("metric").addEventListener("change", () => {
  metric = selectById("metric").value;
  drawAll();
  drawOrder();
});
buttonById("to-board").addEventListener("click", () => goTo("/board"));
buttonById("to-compare").addEventListener("click", () => goTo("/compare"));
listen({}, update, (isConnected) => {
  byId("notice").hidden = isConnected;
  byId("notice").textContent = isConnected ? "" : say("The connection to the view is lost. If it was restarted, open the address that it printed.");
});
