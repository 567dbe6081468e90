// The questions of a run in the order in which they were answered, and one of them in full.
// @ts-check
import { ask } from "./ask.js";
import { buttonById, byId, dialogById, make } from "./dom.js";
import { judgedParts } from "./judged_parts.js";
import { imagesSent, noteImages } from "./note_images.js";
import { count } from "./shown.js";
import { say } from "./words.js";

/**
 * @typedef {import("./live_types.js").Asked} Asked
 * @typedef {import("./live_types.js").PromptImages} PromptImages
 * @typedef {import("./live_types.js").Brief} Brief
 * @typedef {import("./live_types.js").Briefs} Briefs
 * @typedef {import("./live_types.js").Row} Row
 * @typedef {import("./live_types.js").Text} Text
 */

const PAGE = 200;
const PAUSE_MS = 300;
let key = "";
/** @type {Briefs} */
let shown = { n: 0, from: 0, rows: [], is_read: true };
/** Whether the page shows the newest questions, and goes on to newer ones. */
let isFollowing = true;
/** How many there are by the last event, and by the last answer. */
let nWanted = -1;
let nKnown = -1;
let isAsking = false;
/** Whether the leaderboard has this run. */
let isComplete = false;
/** @type {number | null} */
let open = null;

/** Show the questions of a run. @param {string} run @param {Row | null} row */
export function openSamples(run, row) {
  key = run;
  isComplete = row?.state === "complete";
  show(null);
}

/** Show newer questions when they come. @param {Row} row */
export async function followRun(row) {
  isComplete = row.state === "complete";
  nWanted = row.done + row.failed; // changes when a question is asked again, too
  if (isAsking) return;
  isAsking = true;
  while (nKnown !== nWanted && (isFollowing || shown.rows.length < PAGE)) {
    nKnown = nWanted;
    await show(isFollowing ? null : shown.from);
  }
  isAsking = false;
}

/** @param {number | null} from */
async function show(from) {
  try {
    shown = await ask("/api/samples", from === null ? { run: key } : { run: key, from: String(from) });
    isFollowing = from === null;
    draw();
    const part = shown;
    if (!part.is_read) setTimeout(() => part === shown && show(from), PAUSE_MS);
  } catch (error) {
    byId("range").textContent = error instanceof Error ? error.message : String(error);
  }
}

function draw() {
  const box = byId("samples-box");
  const isAtEnd = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  const { n, from, rows } = shown;
  byId("range").textContent = n === 0 ? say("No question is answered yet.")
    : say("{from} to {to} of {n}", { from: count(from + 1), to: count(from + rows.length), n: count(n) });
  byId("samples").querySelector("tbody")?.replaceChildren(...rows.map(drawBrief));
  buttonById("earlier").disabled = from === 0;
  buttonById("later").disabled = from + rows.length >= n;
  buttonById("newest").hidden = n <= PAGE || isFollowing;
  for (const id of ["earlier", "later"]) buttonById(id).hidden = n <= PAGE;
  if (isFollowing && isAtEnd) box.scrollTop = box.scrollHeight;
}

/** @param {Brief} brief */
const drawBrief = (brief) => make("tr", {},
  make("td", { class: "figure place" }, brief.place + 1),
  make("td", { class: "query text" },
    make("button", { type: "button", class: "link", click: () => openSample(brief.place) }, brief.query || brief.id),
    brief.is_earlier ? make("small", {}, ` ${say("asked again later")}`) : null),
  make("td", {}, make("span", { class: `badge ${brief.status}` }, say(brief.status))),
  make("td", { class: "beginning text" }, brief.answer, brief.is_whole ? null : "…"));

/** @param {number} place */
async function openSample(place) {
  const brief = shown.rows[place - shown.from];
  if (brief === undefined) return;
  open = place;
  byId("sample-title").textContent = brief.query || brief.id;
  byId("place").textContent = say("{n} of {all}", { n: place + 1, all: shown.n });
  buttonById("previous").disabled = place <= shown.from;
  buttonById("next").disabled = place + 1 >= shown.from + shown.rows.length;
  byId("sample-body").replaceChildren();
  const dialog = dialogById("sample");
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  byId("sample-title").focus();
  try {
    const asked = await ask("/api/sample", { run: key, id: brief.id });
    if (open !== place) return;
    byId("sample-body").replaceChildren(make("div", {}, drawAsked(asked)));
    const images = await ask("/api/sample_images", { run: key, id: brief.id });
    if (open === place) byId("sample-body").append(make("div", {}, drawImages(images)));
  } catch (error) {
    byId("sample-body").replaceChildren(make("p", { class: "remark text" }, error instanceof Error ? error.message : String(error)));
  }
}

/** @param {Asked} asked */
function drawAsked(asked) {
  const facts = [
    asked.model === null ? "" : say("answered as {model}", { model: asked.model }),
    asked.finish_reason === null ? "" : say("finish reason {reason}", { reason: asked.finish_reason }),
    asked.usage.prompt_tokens === null || asked.usage.completion_tokens === null ? ""
      : say("{prompt} + {completion} tokens", { prompt: asked.usage.prompt_tokens, completion: asked.usage.completion_tokens }),
    asked.latency_s ? say("{seconds} s", { seconds: asked.latency_s.toFixed(2) }) : "",
    asked.cached ? say("from the cache") : "",
    asked.notes_used === null || asked.notes_given === null ? ""
      : say("{used} of {given} notes in the prompt", { used: asked.notes_used, given: asked.notes_given }),
    imagesSent(asked.n_images, asked.images_left_out),
  ].filter(Boolean);
  return [
    make("p", { class: "facts" }, make("span", { class: `badge ${asked.status}` }, say(asked.status)),
      make("span", { class: "fact text" }, say(" question {id}", { id: asked.id }).trim()),
      facts.map((fact) => make("span", { class: "fact text" }, fact)),
      isComplete ? make("a", { href: `/board?${new URLSearchParams({ run: key })}#${new URLSearchParams({ q: asked.id })}` }, say("In the leaderboard")) : null),
    asked.error.text ? make("p", { class: "remark text" }, asked.error.text) : null,
    make("div", { class: "pair" },
      make("div", { class: "answer" }, make("h4", {}, say("Answer")), body(asked.answer)),
      make("div", { class: "reference" }, asked.references.length ? asked.references.map((reference, at) => [
        make("h4", {}, asked.references.length === 1 ? say("Reference") : say("Reference {number} of {n}", { number: at + 1, n: asked.references.length })),
        body(reference),
      ]) : make("h4", {}, say("Reference")))),
    judgedParts(asked.parts),
    asked.raw ? make("details", {}, make("summary", {}, say("What the model wrote, whole")), body(asked.raw)) : null,
    make("h3", {}, say("Prompt sent")),
    asked.messages.map((message) => make("div", { class: "message" }, make("h4", {}, say(message.role)), body(message))),
  ];
}

/** The images of the notes in the prompt. @param {PromptImages} images */
function drawImages({ why, notes }) {
  if (why) return make("p", { class: "remark text" }, say("The images of the notes are not shown: {why}", { why }));
  if (!notes.length) return null;
  const address = (/** @type {number} */ note, /** @type {number} */ n) =>
    `/api/sample_thumbnail?${new URLSearchParams({ run: key, note: String(note), n: String(n) })}`;
  return [make("h3", {}, say("Images of the notes in the prompt")), notes.map(({ note, n }) => [
    make("h4", {}, say(" note {name}", { name: note }).trim()),
    noteImages(Array.from({ length: n }, (_, at) => ({ src: address(note, at) })), note),
  ])];
}

/** @param {Text} text */
const body = (text) => [
  make("div", { class: "body" }, text.text || say("(empty)")),
  text.n_left_out ? make("p", { class: "hint" }, say("{n} more characters are left out; download samples.jsonl to read them.", { n: count(text.n_left_out) })) : null,
];

/** @param {number} step */
function goOn(step) {
  if (open !== null) openSample(open + step);
}

buttonById("earlier").addEventListener("click", () => show(Math.max(0, shown.from - PAGE)));
buttonById("later").addEventListener("click", () => show(shown.from + PAGE));
buttonById("newest").addEventListener("click", () => show(null));
buttonById("previous").addEventListener("click", () => goOn(-1));
buttonById("next").addEventListener("click", () => goOn(1));
buttonById("close").addEventListener("click", () => dialogById("sample").close());
dialogById("sample").addEventListener("close", () => { open = null; });
dialogById("sample").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") goOn(-1);
  else if (event.key === "ArrowRight") goOn(1);
});
