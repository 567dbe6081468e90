// The data: an index that is read at once, and packed blocks that are opened when somebody looks.
const index = JSON.parse(document.getElementById("index").textContent);
const MOST_BLOCKS_OPEN = 24;
const openBlocks = new Map();

/** The content of a block; the last ones stay open. */
function openBlock(name) {
  const content = openBlocks.get(name) ?? unpack(name);
  openBlocks.delete(name);
  openBlocks.set(name, content);
  if (openBlocks.size > MOST_BLOCKS_OPEN) openBlocks.delete(openBlocks.keys().next().value);
  return content;
}

async function unpack(name) {
  if (document.readyState === "loading") {
    await new Promise((done) => document.addEventListener("DOMContentLoaded", done, { once: true }));
  }
  const bytes = Uint8Array.from(atob(document.getElementById(name).textContent), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

/** What is looked at. `order` is the questions that the filters leave, as places in the table's lists. */
const state = {
  t: 0, a: 0, b: null, metric: 0, boardSort: null,
  search: "", inAnswers: false, status: "", low: null, high: null, compare: "",
  sort: { key: "place", down: false }, page: 0, order: [],
};

const table = () => index.tables[state.t];
const fullLabel = (run) => `${run.llm} · ${run.retriever}`;
/** What tells the run apart: where all have one LLM, the retriever does. */
const runLabel = (run) => (table().runs.some(({ llm }) => llm !== run.llm) ? fullLabel(run) : run.retriever);
const isRetrieval = (metric) => metric.of_hits;
const statusOf = (run, place) => index.statuses[Number(table().runs[run].statuses[place])];
const scoreOf = (run, place, metric = state.metric) => table().runs[run].scores[metric][place];
const shown = (value) => (value === null || value === undefined ? "–" : value.toFixed(4));

const openRun = (run) => openBlock(`t${state.t}-run${run}`);
const openPart = (place) => openBlock(`t${state.t}-part${Math.floor(place / index.questions_per_block)}`);

/** Metrics that two signatures share are told apart by a number; the signatures stand below the leaderboard. */
function metricLabel(number) {
  const { name } = table().metrics[number];
  const same = table().metrics.flatMap((metric, at) => (metric.name === name ? [at] : []));
  return same.length > 1 ? `${name} (${same.indexOf(number) + 1})` : name;
}

// What nobody sees of a text, as `text.visible` in Python leaves it out: all default-ignorable code points but joiners
// between emoji and the tags of flags, and controls that are no white space.
const UNSEEN = [
  /(?![\u200d\u{e0020}-\u{e007f}])\p{Default_Ignorable_Code_Point}/gu,
  /[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u2800\ufff9-\ufffb]/gu,
  /(?<![\u2194\u2195\u2600-\u27bf\u2b00-\u2bff\u{1f300}-\u{1faff}])\u200d|\u200d(?![\u2194\u2195\u2600-\u27bf\u2b00-\u2bff\u{1f300}-\u{1faff}])/gu,
  /(?<!\u{1f3f4}[\u{e0020}-\u{e007e}]*)[\u{e0020}-\u{e007e}]|(?<!\u{1f3f4}[\u{e0020}-\u{e007e}]+)\u{e007f}|[\u{e0020}-\u{e007e}](?![\u{e0020}-\u{e007e}]*\u{e007f})/gu,
];

/** As search compares: full-width and half-width, large and small letters are one, what is not seen is left out. */
function folded(text) {
  return caseless(UNSEEN.reduce((rest, unseen) => rest.replace(unseen, ""), text));
}

const caseless = (text) => text.normalize("NFKC").toUpperCase().toLowerCase().normalize("NFKC");
