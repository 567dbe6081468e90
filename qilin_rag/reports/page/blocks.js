// The source of data of the report: packed blocks of its own file, opened when somebody looks.
// @ts-check
import { index } from "./data.js";
import { say } from "./words.js";

/**
 * @typedef {import("./types.js").Source} Source
 * @typedef {import("./types.js").Note} Note
 */

const MOST_BLOCKS_OPEN = 24;
const LOOK_AGAIN_MS = 25;
/** @type {Map<string, Promise<any>>} */
const openBlocks = new Map();

/** The content of a block; the last ones stay open. @param {string} name */
function openBlock(name) {
  const content = openBlocks.get(name) ?? unpack(name);
  openBlocks.delete(name);
  openBlocks.set(name, content);
  const [oldest] = openBlocks.keys();
  if (openBlocks.size > MOST_BLOCKS_OPEN) openBlocks.delete(oldest);
  return content;
}

/** Unpack a block; while the file is still being read, a block is whole when something follows it. @param {string} name */
async function unpack(name) {
  while (document.readyState === "loading" && !document.getElementById(name)?.nextElementSibling) {
    await new Promise((done) => setTimeout(done, LOOK_AGAIN_MS));
  }
  const packed = document.getElementById(name)?.textContent;
  if (packed === undefined) throw new Error(`the file has no block ${name}; it may be cut off`);
  if (typeof DecompressionStream === "undefined") throw new Error(say("the browser is older than 2023"));
  const bytes = Uint8Array.from(atob(packed ?? ""), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(decoded(new Uint8Array(await new Response(stream).arrayBuffer())));
}

/**
 * The text of a block: a line of its characters, then for each character of the text its place in that line, in one
 * byte or two. Without characters, the rest is UTF-8.
 * @param {Uint8Array} bytes
 */
function decoded(bytes) {
  const end = bytes.indexOf(10);
  const [line, codes] = [bytes.subarray(0, end), bytes.subarray(end + 1)];
  const alphabet = Array.from(new TextDecoder("utf-8", { ignoreBOM: true }).decode(line));
  if (!alphabet.length) return new TextDecoder().decode(codes);
  const first = 256 - Math.ceil(Math.max(0, alphabet.length - 256) / 255); // the least byte that begins two
  const units = new Uint16Array(2 * codes.length);
  let n = 0;
  for (let at = 0; at < codes.length; ) {
    const code = codes[at++];
    const character = alphabet[code < first ? code : first + 256 * (code - first) + codes[at++]];
    units[n++] = character.charCodeAt(0);
    if (character.length > 1) units[n++] = character.charCodeAt(1);
  }
  return new TextDecoder("utf-16", { ignoreBOM: true }).decode(units.subarray(0, n));
}

/** @type {Source} */
export const blocks = {
  openColumns: (t, run) => openBlock(`t${t}-columns${run}`),

  async openAnswers(t, run) {
    const answers = await openBlock(`t${t}-run${run}`);
    return answers.map((/** @type {{ answer: string }} */ { answer }) => answer);
  },

  async openQuestion(t, place, runs) {
    const size = index.questions_per_block ?? 1;
    const [part, ...told] = await Promise.all(
      [`part${Math.floor(place / size)}`, ...runs.map((run) => `run${run}`)].map((name) => openBlock(`t${t}-${name}`)));
    const { references, reference_notes, requests, runs: asked, images_left_out } = part.questions[place % size];
    const text = (/** @type {number[]} */ lines) => lines.map((line) => part.lines[line]).join("\n");
    /** @type {Set<number>} */
    const wanted = new Set(reference_notes);
    const ofRuns = runs.map((run, at) => {
      const { hits, messages } = requests[asked[run]];
      for (const [note] of hits) wanted.add(note);
      return {
        hits,
        messages: messages.map((/** @type {[string, number[]]} */ [role, lines]) => [role, text(lines)]),
        told: told[at][place],
      };
    });
    /** @type {Record<string, Note>} */
    const notes = {};
    for (const note of wanted) {
      if (!(note in part.notes)) continue;
      const [title, lines, name] = part.notes[note];
      notes[note] = { title, text: text(lines), name: name ?? null, images: part.images?.[note] };
    }
    return { references, reference_notes, notes, runs: ofRuns, images_left_out };
  },
};
