// The parts of an answer as judges took it apart: nuggets, claims and cited sentences, each with a mark.
// @ts-check
import { make } from "./dom.js";
import { say } from "./words.js";

/**
 * @typedef {import("./types.js").Child} Child
 * @typedef {import("./types.js").JudgedParts} JudgedParts
 * @typedef {import("./types.js").CheckedClaim} CheckedClaim
 * @typedef {import("./types.js").JudgedSentence} JudgedSentence
 * @typedef {import("./types.js").Support} Support
 */

const MOST_OPEN = 8;
const MOST_SHOWN = 500;

/** The parts of an answer; nothing if no judge took it apart. @param {JudgedParts | undefined} parts */
export function judgedParts({ nuggets, claims, support } = {}) {
  return [
    nuggets && nuggetsPart(nuggets),
    claims && claimsPart(claims),
    support && sentencesPart(support),
  ];
}

/** @param {NonNullable<JudgedParts["nuggets"]>} judged */
function nuggetsPart({ judge, bank, nuggets }) {
  const [n, partial] = ["support", "partial_support"].map((kind) => nuggets.filter(({ assignment }) => assignment === kind).length);
  return partOf(say("Nuggets: {n} of {all} supported, {partial} in part", { n, all: nuggets.length, partial }), nuggets,
    ({ text, importance, assignment }) => [supportMark(assignment), words(text, importance === "vital" ? say("vital") : say("okay"))],
    say("judged by {judge}, bank {bank}", { judge, bank: bank.slice(0, 8) }));
}

/** @param {NonNullable<JudgedParts["claims"]>} judged */
function claimsPart({ judge, answer_claims: own, reference_claims: ofReferences, n_notes: nNotes }) {
  const by = nNotes === null ? say("judged by {judge}; it is not known which notes the prompt held", { judge }) : say("judged by {judge}", { judge });
  const draw = (/** @type {CheckedClaim} */ claim) => [statedMark(claim.is_supported), words(claim.text, nNotes ? notesOf(claim) : "")];
  const [n, m] = [own, ofReferences].map((claims) => claims?.filter((claim) => claim.is_supported).length ?? 0);
  return [
    own ? partOf(say("Claims of the answer: {n} of {all} stated by the references", { n, all: own.length }), own, draw, by)
      : make("p", { class: "hint" }, say("Claims of the answer: not judged")),
    ofReferences ? partOf(say("Claims of the references: {n} of {all} stated by the answer", { n: m, all: ofReferences.length }), ofReferences, draw, by)
      : make("p", { class: "hint" }, say("Claims of the references: not judged")),
  ];
}

/** The notes that state a claim. @param {CheckedClaim} claim */
function notesOf({ notes }) {
  if (notes === null) return say("notes: not judged");
  return notes.length ? say("notes: {numbers}", { numbers: notes.join(", ") }) : say("notes: none");
}

/** @param {NonNullable<JudgedParts["support"]>} judged */
function sentencesPart({ judge, sentences }) {
  const citations = sentences.flatMap((sentence) => sentence.citations);
  const counts = {
    n: sentences.filter((sentence) => sentence.citations.length > 0).length,
    all: sentences.length,
    full: citations.filter(({ support }) => support === "support").length,
    citations: citations.length,
  };
  return partOf(say("Sentences: {n} of {all} cite notes, {full} of {citations} citations supported", counts), sentences,
    (sentence) => [words(sentence.text), make("div", { class: "citations" }, citationsOf(sentence))],
    say("judged by {judge}", { judge }));
}

/** @param {JudgedSentence} sentence */
const citationsOf = ({ citations }) => (citations.length === 0 ? make("small", {}, say("no citation"))
  : [
    citations.slice(0, MOST_SHOWN).map(({ number, note_idx: note, support }) => make("span", { class: "citation" },
      `[${number}] `, note === null ? verdict("no", "✗", say("no such note")) : supportMark(support))),
    leftOut(citations.length),
  ]);

/**
 * A list that is closed at first if it is long.
 * @template T
 * @param {string} title
 * @param {T[]} items
 * @param {(item: T) => Child} draw
 * @param {string} by
 */
const partOf = (title, items, draw, by) => make("details", { class: "judged", open: items.length <= MOST_OPEN },
  make("summary", {}, title),
  make("ul", {}, items.slice(0, MOST_SHOWN).map((item) => make("li", {}, draw(item)))),
  leftOut(items.length),
  make("p", { class: "hint text" }, by));

/** @param {number} n */
const leftOut = (n) => (n > MOST_SHOWN ? make("p", { class: "hint" }, say("{n} more are not shown.", { n: n - MOST_SHOWN })) : null);

/** A text, and a remark behind it. @param {string} text @param {string} [remark] */
const words = (text, remark = "") => make("div", { class: "words" },
  make("span", { class: "text" }, text), remark ? [" ", make("small", {}, remark)] : null);

/** How far a text supports another. @param {Support | null} support */
function supportMark(support) {
  if (support === "support") return verdict("yes", "✓", say("support"));
  if (support === "partial_support") return verdict("partial", "◐", say("partial"));
  if (support === "not_support") return verdict("no", "✗", say("no support"));
  return verdict("none", "?", say("not judged"));
}

/** Whether a claim is stated. @param {boolean | null} isStated */
function statedMark(isStated) {
  if (isStated === null) return verdict("none", "?", say("not judged"));
  return isStated ? verdict("yes", "✓", say("stated")) : verdict("no", "✗", say("not stated"));
}

/** A verdict by shape and by word. @param {string} kind @param {string} shape @param {string} word */
const verdict = (kind, shape, word) => make("span", { class: `verdict ${kind}` }, make("span", { "aria-hidden": "true" }, shape), ` ${word}`);
