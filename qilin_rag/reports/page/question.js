// One question, opened: its references and notes, and for one or two runs hits, prompt, answer and scores.
// @ts-check
import { questionHash } from "./address.js";
import { fullLabel, index, metricLabel, scoreOf, shown, statusOf, table } from "./data.js";
import { buttonById, byId, dialogById, make } from "./dom.js";
import { judgedParts } from "./judged_parts.js";
import { imagesSent, noteImages } from "./note_images.js";
import { statusBadge } from "./questions.js";
import { compareTexts } from "./shared_text.js";
import { openQuestion } from "./source.js";
import { chosenRuns, setState, state } from "./state.js";
import { say } from "./words.js";

/**
 * @typedef {import("./types.js").Child} Child
 * @typedef {import("./types.js").OpenedQuestion} OpenedQuestion
 * @typedef {import("./types.js").Told} Told
 * @typedef {import("./types.js").Judgement} Judgement
 * @typedef {ReturnType<typeof compareTexts>[number]} Compared
 */

let latestOpening = 0;

/** Open a question for the chosen runs. @param {number} place */
export async function showQuestion(place) {
  const turn = ++latestOpening;
  setState({ open: place });
  const dialog = dialogById("question");
  if (!dialog.open) {
    byId("question-body").replaceChildren();
    dialog.showModal();
    byId("question-title").focus();
  }
  byId("question-title").replaceChildren(make("span", { class: "text" }, table().queries[place]),
    make("small", { class: "text" }, say(" question {id}", { id: table().ids[place] })));
  const at = state.order.indexOf(place);
  byId("place").textContent = at < 0 ? "" : say("{n} of {all}", { n: at + 1, all: state.order.length });
  buttonById("previous").disabled = at <= 0;
  buttonById("next").disabled = at < 0 || at >= state.order.length - 1;
  const runs = chosenRuns();
  try {
    const opened = await openQuestion(place, runs);
    if (turn !== latestOpening) return;
    byId("question-body").replaceChildren(...questionBody(place, runs, opened));
  } catch (error) {
    if (turn !== latestOpening) return;
    byId("question-body").replaceChildren(make("p", { class: "remark" },
      say("This question can't be opened: {why}.", { why: String(/** @type {Error} */ (error).message) })));
  }
  dialog.scrollTop = 0;
}

/** @param {number} place @param {number[]} runs @param {OpenedQuestion} opened */
function questionBody(place, runs, opened) {
  const { reference_notes: referenceNotes } = opened;
  return [
    make("p", { class: "hint" }, make("mark", {}, say("Marked")),
      say(" text is shared with the reference: the longest common subsequence of tokens, which ROUGE-L counts.")),
    make("div", { class: `runs n${runs.length}` }, runs.map((run, at) => runColumn(place, run, at, opened))),
    make("section", {}, make("h3", {}, say("Reference notes ({n})", { n: referenceNotes.length })),
      table().why_no_notes ? noNotes() : null,
      table().why_no_images ? make("p", { class: "remark text" }, say("The images of the notes are not shown: {why}", { why: table().why_no_images })) : null,
      opened.images_left_out ? make("p", { class: "remark" }, say("The images of this question are left out: the report holds no more.")) : null,
      referenceNotes.length ? referenceNotes.map((note) => noteItem(opened, note, "")) : make("p", { class: "hint" }, say("None are known."))),
  ];
}

const noNotes = () => make("p", { class: "remark text" },
  say("The texts of the notes are not in this report ({why}); the prompt below an answer has what the LLM was given.", { why: table().why_no_notes }));

/** @param {number} place @param {number} run @param {number} at @param {OpenedQuestion} opened */
function runColumn(place, run, at, opened) {
  const { hits, messages, told } = opened.runs[at];
  const { references, reference_notes: referenceNotes } = opened;
  const [best, ...others] = compareTexts(told.answer, references);
  const pair = (/** @type {Compared | undefined} */ found) => make("div", { class: opened.runs.length === 1 ? "pair" : "" },
    block(say("Answer"), "answer", found ? found.answer : [told.answer]),
    found ? block(referenceLabel(found.number, references.length), "reference", found.reference) : null,
    found?.isTooLong ? make("p", { class: "remark" }, say("Too long to mark what is shared.")) : null);
  return make("article", { class: "run" },
    make("h3", {}, make("span", { class: "letter" }, "AB"[at]), make("span", { class: "text" }, fullLabel(table().runs[run]))),
    make("p", { class: "facts" }, statusBadge(statusOf(run, place)), scoreFacts(place, run, told)),
    told.error ? make("p", { class: "remark text" }, told.error) : null,
    told.prompt_cut ? make("p", { class: "remark" }, say("The server read only a part of this prompt, by its own count of tokens.")) : null,
    (told.marks ?? []).map((mark) => make("p", { class: "remark" }, say(index.doubts[mark]))),
    pair(best),
    others.length ? make("details", {}, make("summary", {}, say("Other references ({n})", { n: others.length })), others.map(pair)) : null,
    judgedParts(told.parts),
    told.raw ? make("details", {}, make("summary", {}, say("What the model wrote, whole")), make("pre", { class: "text" }, told.raw)) : null,
    make("details", { class: "hits", open: true },
      make("summary", {}, hitsLabel(hits.length, told)),
      told.n_images || told.images_left_out ? make("p", { class: "hint text" }, imagesSent(told.n_images, told.images_left_out)) : null,
      told.notes_missing ? make("p", { class: "remark" }, say("{n} more hits are not in the data.", { n: told.notes_missing })) : null,
      hits.map(([note, score], rank) => noteItem(opened, note, `${rank + 1}.`, score, referenceNotes.includes(note)))),
    (told.judgements ?? []).map(judgementItem),
    make("details", { class: "prompt" }, make("summary", {}, messages.length ? say("Prompt") : say("Prompt: not known")),
      messages.map(([role, text]) => block(role, "message", [text]))),
    make("p", { class: "hint text" }, callFacts(told)));
}

/** @param {number} number @param {number} n */
const referenceLabel = (number, n) => (n > 1 ? say("Reference {number} of {n}", { number: number + 1, n }) : say("Reference"));

/** How many notes were found, and how many of them the prompt holds. @param {number} n @param {Told} told */
function hitsLabel(n, { notes_given: given, notes_used: used }) {
  if (given === null) return say("Notes found: not known");
  return say("Notes found ({n}), {used} of {given} in the prompt", { n, used: used ?? say("not known how many"), given });
}

/** @param {string} title @param {string} kind @param {Child[]} children */
const block = (title, kind, children) => make("div", { class: kind }, make("h4", { class: "text" }, title),
  children.join("") === "" ? make("p", { class: "hint" }, say("(empty)")) : make("div", { class: "body text" }, children));

/** What a judge said of the answer, or of a pair of answers that it is in. @param {Judgement} judgement */
function judgementItem({ judge, runs, text }) {
  const title = runs.length > 1
    ? say("Judged by {judge}, answer A of {a}, B of {b}", { judge, a: runs[0], b: runs[1] })
    : say("Judged by {judge}", { judge });
  return make("details", { class: "judgement", open: runs.length === 1 },
    make("summary", { class: "text" }, title), make("pre", { class: "text" }, text));
}

/** @param {number} place @param {number} run @param {Told} told */
function scoreFacts(place, run, told) {
  return table().metrics.map((_, number) => {
    const reason = told.reasons?.[number];
    return make("span", { class: "fact", title: reason ?? "" }, `${metricLabel(number)} `, make("b", {}, shown(scoreOf(run, place, number))),
      reason ? make("small", { class: "text" }, ` ${reason}`) : null);
  });
}

/** What is known of the call. @param {Told} told */
function callFacts({ model, finish_reason: reason, usage, latency_s: seconds, cached }) {
  return [
    model && say("answered as {model}", { model }),
    reason && say("finish reason {reason}", { reason }),
    usage && say("{prompt} + {completion} tokens", { prompt: usage.prompt_tokens ?? "?", completion: usage.completion_tokens ?? "?" }),
    seconds && say("{seconds} s", { seconds: seconds.toFixed(2) }),
    cached && say("from the cache"),
  ].filter(Boolean).join(", ");
}

/**
 * A note: the title and the images to see, the text on opening.
 * @param {OpenedQuestion} opened
 * @param {number} note
 * @param {string} rank
 * @param {number | null} score
 * @param {boolean} isReference
 */
function noteItem({ notes }, note, rank, score = null, isReference = false) {
  const known = Object.hasOwn(notes, note) ? notes[note] : null;
  const head = [
    rank ? `${rank} ` : "", make("span", { class: "text" }, known ? known.title || say("(no title)") : ""),
    make("small", {}, say(" note {name}", { name: known?.name ?? note }), score === null ? "" : `, ${shown(score)}`),
    isReference ? make("span", { class: "badge reference" }, say("reference note")) : null,
  ];
  const kind = isReference ? "note is-reference" : "note";
  if (!known) return make("p", { class: kind }, head, table().why_no_notes ? "" : make("small", {}, say(" (not in the data)")));
  return [
    make("details", { class: kind }, make("summary", {}, head), make("div", { class: "body text" }, known.text)),
    noteImages(known.images, known.name ?? note),
  ];
}

/** Continue in the order of the list, without filling the history. @param {number} by */
export function step(by) {
  const at = state.open === null ? -1 : state.order.indexOf(state.open);
  const place = state.order[at + by];
  if (at < 0 || place === undefined) return;
  history.replaceState(null, "", questionHash(place));
  showQuestion(place);
}
