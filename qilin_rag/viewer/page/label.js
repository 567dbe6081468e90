// The label page: shows one question with its answers, takes what a person says of them, and gets it stored.
// @ts-check
import { buttonById, byId, dialogById, inputById, make } from "./dom.js";
import { deliver, forget, load, openProgress, pending, remember, undo } from "./label_server.js";
import { LABEL_CHINESE } from "./label_words.js";
import { addChinese, say, sayStatic, switchBy } from "./words.js";

/**
 * @typedef {import("./label_types.js").Choice} Choice
 * @typedef {import("./label_types.js").Item} Item
 * @typedef {import("./label_types.js").Next} Next
 * @typedef {import("./label_types.js").Row} Row
 */

const NAME = "qilin-rag-annotator";
const comment = /** @type {HTMLTextAreaElement} */ (byId("comment"));

/** What is shown, and what has been said of it so far. @type {{ next: Next | null, id: string, since: number, choice: Choice | null, rows: Row[], marked: number, isBusy: boolean }} */
const now = { next: null, id: "", since: 0, choice: null, rows: [], marked: 0, isBusy: false };

/** @param {string} text @param {boolean} [isWrong] */
function tell(text, isWrong = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("wrong", isWrong);
}

/** @param {string} shown */
function show(shown) {
  for (const id of ["who", "item", "done"]) byId(id).hidden = id !== shown;
  byId("choices").hidden = buttonById("save").hidden = shown !== "item";
  byId("actions").hidden = shown === "who";
}

function askName() {
  show("who");
  inputById("name").focus();
}

async function begin() {
  const name = inputById("name").value.trim();
  if (name === "") return;
  localStorage.setItem(NAME, name);
  await showNext();
}

/** Show the next question, after what an earlier visit could not send. */
async function showNext() {
  now.isBusy = true;
  const name = localStorage.getItem(NAME) ?? "";
  let next = await load(name, tell);
  const unsent = next && pending(next.task, next.annotator);
  if (next && unsent) {
    await deliver(unsent, tell);
    forget(next.task, next.annotator);
    next = await load(name, tell);
  }
  now.next = next;
  now.isBusy = false;
  if (next === null) return askName();
  byId("annotator").textContent = next.annotator;
  byId("other-name").hidden = byId("so-far").hidden = byId("all").hidden = false;
  showProgress();
  if (next.item === null) show("done");
  else fill(next, next.item);
}

function showProgress() {
  const progress = now.next?.progress;
  if (progress === undefined) return;
  const bar = /** @type {HTMLProgressElement} */ (byId("bar"));
  bar.max = Math.max(progress.total, 1);
  bar.value = progress.done;
  byId("count").textContent = say("{done} of {total}", { done: progress.done, total: progress.total });
  buttonById("undo").disabled = progress.last === null;
}

/** @param {Next} next @param {Item} item */
function fill(next, item) {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  now.id = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  now.since = performance.now();
  now.choice = null;
  now.rows = next.task.sides.flatMap((side) => Object.keys(next.task.criteria).map((criterion) => ({ side, criterion, value: null })));
  now.marked = 0;
  comment.value = "";
  byId("question-title").replaceChildren(make("span", {}, item.query));
  byId("references").replaceChildren(...folded("References ({n})", item.references, true));
  byId("answers").className = `runs n${item.answers.length}`;
  byId("answers").replaceChildren(...item.answers.map((answer, place) => side(next, item, answer, place)));
  byId("choices").replaceChildren(...(item.answers.length === 2 ? choiceButtons() : []));
  mark();
  show("item");
  byId("question-title").focus({ preventScroll: true });
  scrollTo(0, 0);
}

/** @param {string} title @param {string[] | null} texts @param {boolean} open */
function folded(title, texts, open) {
  if (texts === null || texts.length === 0) return [];
  return [make("details", { open }, make("summary", {}, say(title, { n: texts.length })),
    texts.map((text) => make("div", { class: "reference body text" }, text)))];
}

/** @param {Next} next @param {Item} item @param {string} answer @param {number} place */
function side(next, item, answer, place) {
  const letter = next.task.sides[place];
  const isOne = item.answers.length === 1;
  const notes = item.notes?.[place].map((note) => `${note.title}\n${note.text}`) ?? null;
  return make("section", { class: "side", "data-side": letter, "aria-label": isOne ? false : letter },
    !isOne && make("h3", {}, make("span", { class: "letter" }, letter)),
    make("div", { class: "answer body text" }, answer),
    folded("Notes ({n})", notes, false),
    now.rows.map((row, number) => row.side === letter && scale(next, row, number)));
}

/** @param {Next} next @param {Row} row @param {number} number */
function scale(next, row, number) {
  const [low, high] = next.task.criteria[row.criterion];
  const values = Array.from({ length: high - low + 1 }, (_, step) => low + step);
  return make("div", { class: "rating", "data-row": number, role: "group", "aria-label": say("{criterion} of {side}", { criterion: row.criterion, side: row.side }) },
    make("span", { class: "text" }, row.criterion),
    make("span", { class: "scale" }, values.map((value) =>
      make("button", { type: "button", "data-value": value, "aria-pressed": "false", click: () => rate(number, value) }, value))));
}

function choiceButtons() {
  /** @type {[Choice, string, string][]} */
  const choices = [["A", say("{side} is better", { side: "A" }), "A"], ["tie", say("Tie"), "T"], ["both_bad", say("Both bad"), "X"],
    ["B", say("{side} is better", { side: "B" }), "B"]];
  return choices.map(([choice, label, key]) =>
    make("button", { type: "button", "data-choice": choice, "aria-pressed": "false", click: () => choose(choice) }, `${label} `, make("kbd", {}, key)));
}

/** @param {Choice} choice */
function choose(choice) {
  if (now.isBusy || now.next?.item?.answers.length !== 2) return;
  now.choice = choice;
  tell("");
  mark();
}

/** @param {number} number @param {number} value */
function rate(number, value) {
  if (now.isBusy) return;
  now.rows[number].value = value;
  tell("");
  markRow(number + 1);
}

/** Let the digits rate another criterion. @param {number} number */
function markRow(number) {
  now.marked = Math.max(0, Math.min(number, now.rows.length - 1));
  mark();
  document.querySelector(".rating.is-next")?.scrollIntoView({ block: "nearest" });
}

/** Show what has been said, and which criterion the digits rate. */
function mark() {
  for (const button of document.querySelectorAll("[data-choice]")) {
    button.setAttribute("aria-pressed", String(button.getAttribute("data-choice") === now.choice));
  }
  for (const element of document.querySelectorAll("[data-side]")) {
    element.classList.toggle("is-chosen", element.getAttribute("data-side") === now.choice);
  }
  for (const group of document.querySelectorAll("[data-row]")) {
    const row = Number(group.getAttribute("data-row"));
    group.classList.toggle("is-next", row === now.marked);
    for (const button of group.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(Number(button.getAttribute("data-value")) === now.rows[row].value));
    }
  }
}

/** @returns {string | null} */
function missing() {
  if (now.next?.item?.answers.length === 2 && now.choice === null) return say("First say which answer is better.");
  const unrated = now.rows.find((row) => row.value === null);
  return unrated ? say("First rate: {what}.", { what: say("{criterion} of {side}", { criterion: unrated.criterion, side: unrated.side }) }) : null;
}

async function save() {
  if (now.isBusy || now.next === null || now.next.item === null) return;
  const lacking = missing();
  if (lacking !== null) return tell(lacking, true);
  /** @type {Record<string, Record<string, number>>} */
  const ratings = {};
  for (const { side, criterion, value } of now.rows) ratings[side] = { ...ratings[side], [criterion]: value ?? 0 };
  const label = {
    id: now.id,
    task_sha256: now.next.task.sha256,
    question_id: now.next.item.question_id,
    annotator: now.next.annotator,
    choice: now.choice,
    ratings,
    comment: comment.value,
    seconds: Math.min(Math.round((performance.now() - now.since) / 100) / 10, 1e6),
  };
  now.isBusy = true;
  tell(say("Saving …"));
  remember(now.next.task, label);
  const why = await deliver(label, tell);
  forget(now.next.task, label.annotator);
  await showNext();
  tell(why === null ? say("Saved.") : say("Not saved: {why}", { why }), why !== null);
}

async function takeBack() {
  if (now.isBusy || !now.next?.progress.last) return;
  now.isBusy = true;
  const why = await undo(now.next.annotator, now.next.progress.last);
  await showNext();
  tell(why ?? say("The last label is withdrawn; its question is back."), why !== null);
}

async function showAll() {
  if (!(/** @type {HTMLDetailsElement} */ (byId("all")).open) || now.next === null) return;
  const found = await openProgress(now.next.annotator);
  if (found === null) return;
  const { all_done, all_total, n_annotators, agreement } = found;
  const header = ["Annotators", "Of", "Both", "Same"].map((text) => make("th", { scope: "col" }, say(text)));
  const rows = agreement.map((each) => make("tr", {},
    make("td", { class: "text" }, each.annotators.join(", ")),
    make("td", { class: "text" }, each.criterion ?? say("choice")),
    make("td", { class: "figure" }, each.n),
    make("td", { class: "figure" }, `${(each.share * 100).toFixed(0)}%`),
    make("td", { class: "figure" }, each.kappa === null ? "–" : each.kappa.toFixed(2))));
  byId("all-body").replaceChildren(
    make("p", {}, say("{done} of {total} questions have a label; {n} annotators.", { done: all_done, total: all_total, n: n_annotators })),
    rows.length
      ? make("table", {}, make("thead", {}, make("tr", {}, header, make("th", { scope: "col" }, "κ"))), make("tbody", {}, rows))
      : make("p", { class: "hint" }, say("Nobody labelled a question that another annotator labelled.")));
}

function showKeys() {
  const isPair = now.next?.item?.answers.length === 2;
  const isRated = now.rows.length > 0;
  /** @type {[string, string][]} */
  const keys = [];
  if (isPair) keys.push([isRated ? "A B" : "A B / 1 2", say("choose a side")], ["T", say("tie")], ["X", say("both bad")]);
  if (isRated) keys.push(["0 – 9", say("rate the marked criterion, and mark the next one")], ["↑ ↓", say("mark another criterion")]);
  keys.push(["Enter / N", say("save, and go to the next question")], ["U", say("undo the last label")],
    ["C", say("write a remark; Escape leaves it")], ["?", say("show these keys")]);
  byId("keys-rows").replaceChildren(...keys.map(([key, text]) => make("tr", {}, make("td", {}, make("kbd", {}, key)), make("td", {}, text))));
  dialogById("keys").showModal();
}

/** @param {string} key */
function digit(key) {
  const row = now.rows[now.marked];
  if (row === undefined) {
    if (key === "1" || key === "2") choose(key === "1" ? "A" : "B");
    return;
  }
  const [low, high] = now.next?.task.criteria[row.criterion] ?? [1, 0];
  for (const value of [Number(key), Number(key) + 10]) {
    if (low <= value && value <= high) return rate(now.marked, value);
  }
}

/** @type {Record<string, () => void>} */
const ACTIONS = {
  a: () => choose("A"),
  b: () => choose("B"),
  t: () => choose("tie"),
  x: () => choose("both_bad"),
  u: takeBack,
  n: save,
  enter: save,
  c: () => comment.focus(),
  "?": showKeys,
  arrowdown: () => markRow(now.marked + 1),
  arrowup: () => markRow(now.marked - 1),
};

/** @param {KeyboardEvent} event */
function onKey(event) {
  if (event.isComposing || dialogById("keys").open) return;
  const target = /** @type {HTMLElement} */ (event.target);
  if (target === comment) {
    if (event.key === "Escape") comment.blur();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) save();
    return;
  }
  if (target === inputById("name")) {
    if (event.key === "Enter") begin();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const key = event.key.toLowerCase();
  const isOwnKey = key === "enter" && target.closest("button, summary") !== null && target.getAttribute("aria-pressed") !== "true";
  if (isOwnKey || (key.startsWith("arrow") && now.rows.length === 0)) return;
  if (/^[0-9]$/.test(key)) digit(key);
  else if (key in ACTIONS) ACTIONS[key]();
  else return;
  event.preventDefault();
}

addChinese(LABEL_CHINESE);
sayStatic(document);
switchBy(byId("language"));
document.addEventListener("keydown", onKey);
byId("begin").addEventListener("click", begin);
byId("save").addEventListener("click", save);
byId("undo").addEventListener("click", takeBack);
byId("other-name").addEventListener("click", () => {
  if (now.isBusy) return;
  localStorage.removeItem(NAME);
  askName();
});
byId("show-keys").addEventListener("click", showKeys);
byId("close-keys").addEventListener("click", () => dialogById("keys").close());
// else the button that opened it has the focus, and Enter opens it again instead of saving
dialogById("keys").addEventListener("close", () => byId("question-title").focus({ preventScroll: true }));
byId("all").addEventListener("toggle", showAll);
if (localStorage.getItem(NAME)) showNext();
else askName();
