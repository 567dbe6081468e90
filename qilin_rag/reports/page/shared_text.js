// The text that an answer shares with a reference: the longest common subsequence of tokens, which ROUGE-L counts.
// @ts-check
import { index } from "./data.js";
import { make } from "./dom.js";
import { caseless, UNSEEN } from "./folding.js";

/**
 * @typedef {import("./types.js").Child} Child
 * @typedef {{ plain: string, places: number[] }} Placed
 * @typedef {{ key: string, start: number, end: number }} Token
 */

const MOST_CELLS = 16_000_000;

/**
 * A text without what a pattern finds, each unit of it with its place in the whole text.
 * @param {Placed} text
 * @param {RegExp} pattern
 * @returns {Placed}
 */
function without({ plain, places }, pattern) {
  /** @type {[number, number][]} */
  const kept = [];
  let done = 0;
  for (const found of plain.matchAll(pattern)) {
    kept.push([done, found.index]);
    done = found.index + found[0].length;
  }
  kept.push([done, plain.length]);
  return {
    plain: kept.map(([start, end]) => plain.slice(start, end)).join(""),
    places: kept.flatMap(([start, end]) => places.slice(start, end)),
  };
}

// What NFKC may make one character of: a letter with its marks, the parts of a Korean syllable.
const COMPOSED = /[\u1100-\u11ff\ua960-\ua97c\ud7b0-\ud7fb]+|[\s\S][\p{Mn}\uff9e\uff9f]*/gu;

/**
 * What stands between a digit and what NFKC would make a part of its number: 10² is no 102.
 * @param {string} before
 * @param {string} char
 */
function apart(before, char) {
  if (!/\p{Nd}$/u.test(before)) return "";
  if (/^[⁰¹²³⁴-⁹]/u.test(char)) return "^";
  if (/^[₀-₉]/u.test(char)) return "_";
  return /^[¼-¾⅐-⅟↉①-⒛⓪]/u.test(char) ? " " : "";
}

/**
 * Tokens as the scorer makes them (markup left out, NFKC, case folded), each with its place in the text.
 * @param {string} text
 * @returns {Token[]}
 */
function tokens(text) {
  const { emphasis, markers, range, widestRange, alike } = index.markup;
  const all = { plain: text, places: Array.from({ length: text.length }, (_, i) => i) };
  let { plain, places } = [...UNSEEN, new RegExp(emphasis, "gu")].reduce(without, all);
  plain = plain.replace(/[\s\S]/gu, (char) => alike[char] ?? char).replaceAll("\0", " ");
  const isWide = (/** @type {string[]} */ [, first, last]) => Math.abs(Number(caseless(last ?? first)) - Number(caseless(first))) > widestRange;
  for (const pattern of markers) {
    plain = plain.replace(new RegExp(pattern, "giu"), (found) =>
      [...found.split(/\]\(|†/u)[0].matchAll(new RegExp(range, "giu"))].some(isWide) ? found : "\0".repeat(found.length));
  }
  let [normal, before] = ["", ""];
  /** @type {[number, number][]} */
  const ends = [];
  for (const { 0: char, index: at } of plain.replaceAll("\0", " ").matchAll(COMPOSED)) {
    const some = apart(before, char) + caseless(char);
    before = char;
    for (let i = 0; i < some.length; i++) ends.push([places[at], places[at + char.length - 1] + 1]);
    normal += some;
  }
  const token = /[a-z0-9]+|\S(?:[\u{1f3fb}-\u{1f3ff}]?\u200d\S|[\u{e0020}-\u{e007f}])*/gu;
  return Array.from(normal.matchAll(token), (found) => ({
    key: found[0],
    start: ends[found.index][0],
    end: ends[found.index + found[0].length - 1][1],
  }));
}

/**
 * Which tokens of each text belong to their longest common subsequence; null if they are too long to tell.
 * @param {Token[]} one
 * @param {Token[]} other
 */
function sharedTokens(one, other) {
  const [n, m] = [one.length, other.length];
  if ((n + 1) * (m + 1) > MOST_CELLS || Math.min(n, m) > 65535) return null;
  /** @type {Map<string, number>} */
  const ids = new Map();
  const [left, right] = [one, other].map((list) =>
    Uint32Array.from(list, ({ key }) => ids.get(key) ?? ids.set(key, ids.size).size - 1));
  const width = m + 1;
  const longest = new Uint16Array((n + 1) * width); // of what is left from token i and token j on
  for (let i = n - 1; i >= 0; i--) {
    for (let j = m - 1; j >= 0; j--) {
      const at = i * width + j;
      longest[at] = left[i] === right[j]
        ? longest[at + width + 1] + 1
        : Math.max(longest[at + width], longest[at + 1]);
    }
  }
  const isShared = [new Uint8Array(n), new Uint8Array(m)];
  for (let i = 0, j = 0; i < n && j < m; ) {
    if (left[i] === right[j]) isShared[0][i++] = isShared[1][j++] = 1;
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i++;
    else j++;
  }
  return { length: longest[0], isShared };
}

/**
 * The text with the flagged tokens in <mark>; neighbours are one.
 * @param {string} text
 * @param {Token[]} list
 * @param {Uint8Array} isShared
 * @returns {Child[]}
 */
function marked(text, list, isShared) {
  /** @type {Child[]} */
  const parts = [];
  let done = 0;
  for (let i = 0; i < list.length; i++) {
    if (!isShared[i]) continue;
    const first = i;
    while (i + 1 < list.length && isShared[i + 1]) i++;
    parts.push(text.slice(done, list[first].start), make("mark", {}, text.slice(list[first].start, list[i].end)));
    done = list[i].end;
  }
  return [...parts, text.slice(done)];
}

/**
 * An answer beside each reference: the best matching first, with F1, and both texts marked.
 * @param {string} answer
 * @param {string[]} references
 */
export function compareTexts(answer, references) {
  const own = tokens(answer);
  return references
    .map((reference, number) => {
      const others = tokens(reference);
      const shared = sharedTokens(own, others);
      const f1 = shared && own.length + others.length ? (2 * shared.length) / (own.length + others.length) : 0;
      return {
        number, f1, isTooLong: shared === null,
        answer: shared ? marked(answer, own, shared.isShared[0]) : [answer],
        reference: shared ? marked(reference, others, shared.isShared[1]) : [reference],
      };
    })
    .sort((one, other) => other.f1 - one.f1);
}
