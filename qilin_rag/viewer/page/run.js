// The page of one run: its state as it changes, what it found so far, and what it was made with.
// @ts-check
import { ask } from "./ask.js";
import "./chinese_view.js";
import "./chinese_live.js";
import { byId, make } from "./dom.js";
import { listen } from "./events.js";
import { followRun, openSamples } from "./run_samples.js";
import {
  bytesText, costText, count, doneText, leftText, outcomesText, progressBar, rateText, secondsText, stateBadge, timeText, tokensText,
} from "./shown.js";
import { say, sayStatic, switchBy } from "./words.js";

/**
 * @typedef {import("./live_types.js").Figure} Figure
 * @typedef {import("./live_types.js").Row} Row
 * @typedef {import("./live_types.js").RunFacts} RunFacts
 * @typedef {import("./types.js").Child} Child
 */

const key = new URLSearchParams(location.search).get("run") ?? "";
/** @type {Row | null} */
let row = null;
/** @type {RunFacts | null} */
let facts = null;

/** @param {string} text */
function notice(text) {
  byId("notice").hidden = text === "";
  byId("notice").textContent = text;
}

/** @param {Row} now */
function drawState(now) {
  byId("state").replaceChildren(
    stateBadge(now),
    ...[now.state === "complete" ? say("{n} questions", { n: doneText(now) }) : doneText(now), outcomesText(now), rateText(now), now.left_s === null ? "" : `${say("Time left")} ${leftText(now)}`,
      now.cost === null || now.cost.amount === null ? "" : `${say("Cost")} ${costText(now.cost)}`]
      .filter(Boolean).map((text) => make("span", {}, text)));
  byId("progress").replaceChildren(...(now.state === "unreadable" ? [] : [progressBar(now)]));
  byId("why").hidden = now.why === null;
  byId("why").textContent = now.why ?? "";
  document.title = `${now.state === "running" && now.total ? `${Math.floor((100 * now.done) / now.total)}% ` : ""}${key}`;
}

function drawLinks() {
  const board = row?.state === "complete" ? make("a", { href: `/board?${new URLSearchParams({ run: key })}` }, say("In the leaderboard")) : null;
  const downloads = (facts?.downloads ?? []).map((name) =>
    make("a", { href: `/api/file?${new URLSearchParams({ run: key, name })}`, download: name }, name));
  byId("links").replaceChildren(...(board ? [board] : []), ...(downloads.length ? [make("span", { class: "fact" }, say("Downloads")), ...downloads] : []));
}

/** @param {Record<string, Figure>} figures */
const drawTable = (figures) => make("div", { class: "scroll" }, make("table", { id: "figures-table" },
  make("thead", {}, make("tr", {}, ["Metric", "value", "95% interval", "scored", "signature"].map((name, at) =>
    make("th", { scope: "col", class: at === 4 ? "signature" : at > 0 ? "figure" : null }, say(name))))),
  make("tbody", {}, Object.entries(figures).map(([name, figure]) => make("tr", {},
    make("th", { scope: "row", class: "text", title: figure.signature }, name),
    make("td", { class: "figure" }, figure.value === null ? say("unscored") : figure.value.toFixed(4)),
    make("td", { class: "figure", title: figure.no_interval }, figure.ci95 === null ? "-" : figure.ci95.map((end) => end.toFixed(4)).join(" .. ")),
    make("td", { class: "figure" }, `${count(figure.n)}/${count(figure.n + figure.n_unscored)}`),
    make("td", { class: "text signature" }, figure.signature))))));

function drawFigures() {
  const { figures, why_no_figures, figure_remarks, doubts, repeats, remarks } = facts ?? {};
  const hasFigures = figures !== undefined && Object.keys(figures).length > 0;
  byId("figures").replaceChildren(
    hasFigures ? drawTable(figures)
      : make("p", { class: "hint text" }, why_no_figures ?? say("No figures yet: a run is scored once all its questions were asked.")),
    ...[...(remarks ?? []), ...(repeats ? [repeats] : []), ...(doubts ?? []), ...(figure_remarks ?? [])]
      .map((line) => make("p", { class: "remark text" }, line)));
}

/** The seconds of the stages. @param {RunFacts} now */
function timesText({ times, calls_s }) {
  if (!times) return "";
  const parts = [];
  const isRunning = row?.state === "running"; // the times of its session are written as if it had been killed
  const [sessions, untimed, cutOff] = [times.sessions, times.untimed, times.cut_off].map((n) => Math.max(0, n - Number(isRunning)));
  if (sessions > untimed) {
    parts.push(secondsText(times.retrieval_s + times.generation_s + times.scoring_s));
    if (sessions > 1) parts.push(say("in {n} sessions", { n: sessions }));
    parts.push(say("retrieval {r}, generation {g}, scoring {s}",
      { r: secondsText(times.retrieval_s), g: secondsText(times.generation_s), s: secondsText(times.scoring_s) }));
  }
  if (calls_s) parts.push(say("all calls together {s}", { s: secondsText(calls_s) }));
  if (untimed) parts.push(say("{n} sessions killed: not in these seconds", { n: untimed }));
  if (cutOff) parts.push(say("{n} sessions cut off: their calls under way are not in these tokens", { n: cutOff }));
  return parts.join("; ");
}

/** @param {Row} now */
function costLine(now) {
  if (now.cost === null) return "";
  const parts = [costText(now.cost)];
  if (now.cost.unknown) parts.push(now.cost.unknown);
  if (now.cost.as_of) parts.push(say("prices of {date}", { date: now.cost.as_of }));
  return parts.join("; ");
}

/** @param {RunFacts} now */
function firstAsked({ first_asked }) {
  if (!first_asked) return "";
  const asked = say("when first asked: {tokens}, {cost}", { tokens: tokensText(first_asked), cost: costText(first_asked.cost) });
  return `${say("{n} from the cache", { n: first_asked.n })}; ${asked}`;
}

function drawFacts() {
  if (row === null || facts === null) return;
  const { latency } = facts;
  const tokens = [tokensText(row.usage), row.cached && !facts.first_asked ? say("{n} from the cache", { n: row.cached }) : "",
    row.retries ? say("{n} tries beyond the first", { n: row.retries }) : ""];
  /** @type {[string, string][]} */
  const pairs = [
    ["Data", row.data], ["Retriever", row.retriever], ["LLM", row.llm], ["Prompt", row.prompt],
    ["Started", timeText(row.started)], ["Updated", timeText(row.updated)], ["Time", timesText(facts)],
    ["Latency", latency ? say("median {m} s, 95th percentile {p} s ({n} calls)", { m: latency.median_s.toFixed(2), p: latency.p95_s.toFixed(2), n: latency.n }) : ""],
    ["Tokens", [...tokens, firstAsked(facts)].filter(Boolean).join("; ")], ["Cost", costLine(row)],
  ];
  byId("facts").replaceChildren(...pairs.filter(([, text]) => text)
    .map(([name, text]) => make("div", {}, make("dt", {}, say(name)), make("dd", { class: "text" }, text))));
}

/**
 * A part that is closed at first; its content is made when it is opened.
 * @param {string} title
 * @param {() => Child | Promise<Child>} content
 */
function part(title, content) {
  const body = make("div");
  const details = make("details", {}, make("summary", {}, title), body);
  details.addEventListener("toggle", async () => {
    if (!details.open) return;
    try {
      body.replaceChildren(make("div", {}, await content()));
    } catch (error) {
      body.replaceChildren(make("p", { class: "remark text" }, error instanceof Error ? error.message : String(error)));
    }
    for (const log of body.querySelectorAll("pre.log")) log.scrollTop = log.scrollHeight;
  });
  return details;
}

const pre = (/** @type {string} */ text) => make("pre", { class: "text" }, text);

/** @param {string} name */
async function drawLog(name) {
  const log = await ask("/api/log", { run: key, name });
  return [
    log.n_left_out ? make("p", { class: "hint" }, say("{n} earlier bytes are left out.", { n: count(log.n_left_out) })) : null,
    make("pre", { class: "text log", tabindex: 0 }, log.text),
  ];
}

function drawMore() {
  const { prompt, settings, identity, files, logs } = /** @type {RunFacts} */ (facts);
  const open = new Set([...byId("more").querySelectorAll("details[open] > summary")].map((summary) => summary.textContent));
  const texts = Object.entries(prompt?.texts ?? {});
  const parts = [
    prompt && part(say("Prompt of this run"), () => [
      pre(prompt.facts),
      texts.length ? null : make("p", { class: "hint" }, say("The template of this hash is not on this machine; each question shows the prompt that was sent.")),
      texts.map(([name, text]) => [make("h4", {}, say(name)), pre(text)]),
    ]),
    settings && part(say("Settings"), () => pre(settings)),
    identity && part(say("Identity"), () => make("dl", { class: "pairs" }, Object.entries(identity).filter(([, text]) => text)
      .map(([name, text]) => make("div", {}, make("dt", {}, say(name)), make("dd", { class: "text yaml" }, text ?? ""))))),
    part(say("Files"), () => make("table", { class: "files" }, make("tbody", {}, files.map((file) =>
      make("tr", {}, make("td", { class: "text" }, file.name), make("td", { class: "figure" }, bytesText(file.n_bytes))))))),
    ...logs.map((name) => part(`${say("Logs")}: ${name}`, () => drawLog(name))),
  ].filter((each) => each instanceof HTMLDetailsElement);
  byId("more").replaceChildren(...parts);
  for (const each of parts) each.open = open.has(each.querySelector("summary")?.textContent ?? "");
}

async function load() {
  facts = /** @type {RunFacts} */ (await ask("/api/run", { run: key }));
  row = facts.row ?? row;
  if (row !== null) drawState(row);
  byId("figures-part").hidden = facts.settings === undefined;
  drawLinks();
  drawFigures();
  drawFacts();
  drawMore();
}

/** @param {import("./live_types.js").Changes} changes */
async function update(changes) {
  const [now] = changes.rows;
  const gone = say("There is no such run any more.");
  if (now === undefined) {
    if (changes.gone.length || changes.is_first) notice(gone);
    return;
  }
  if (byId("notice").textContent === gone) notice(""); // its folder was moved, and is back
  const before = row;
  row = now;
  drawState(now);
  drawFacts();
  followRun(now);
  if (before?.state !== now.state || before?.is_read !== now.is_read) await load().catch((error) => notice(error.message));
}

sayStatic(document);
switchBy(byId("language"));
byId("title").textContent = key;
load().then(() => {
  openSamples(key, row);
  document.documentElement.dataset.ready = "";
  const lost = say("The connection to the view is lost. If it was restarted, open the address that it printed.");
  listen({ run: key }, update, (isConnected) => {
    if (!isConnected) notice(lost);
    else if (byId("notice").textContent === lost) notice("");
  });
}, (error) => notice(error.message));
