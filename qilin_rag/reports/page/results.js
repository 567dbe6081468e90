// The page of results, in the report and in the viewer: what it does when it opens, and when somebody chooses something.
// @ts-check
import { comparisons, keepInAddress, questionHash, takeFilters } from "./address.js";
import { chooseRuns, chooseTable, followAddress, numbered } from "./choose.js";
import { index } from "./data.js";
import { buttonById, byId, dialogById, inputById, selectById, setOptions } from "./dom.js";
import { filterBoard } from "./leaderboard.js";
import { drawNoise } from "./noise.js";
import { drawIntervals, drawScatter } from "./plots.js";
import { showQuestion, step } from "./question.js";
import { drawQuestions, filterQuestions } from "./questions.js";
import { setState, state } from "./state.js";
import { say, sayStatic, switchBy } from "./words.js";

/** @typedef {import("./types.js").State} State */

function clearFilters() {
  takeFilters(new URLSearchParams(state.metric ? { m: String(state.metric) } : {}));
  setState({ page: 0 });
  filterQuestions();
}

/**
 * A control that sets a part of the state and filters anew.
 * @param {string} id
 * @param {string} event
 * @param {(control: HTMLInputElement) => Partial<State>} read
 */
function filterBy(id, event, read) {
  byId(id).addEventListener(event, () => {
    setState({ ...read(inputById(id)), page: 0 });
    filterQuestions();
  });
}

/** @param {HTMLInputElement} input */
const numberIn = (input) => (input.value === "" ? null : Number(input.value));

/** The runs in the selects of the list or of an open question. @param {"run" | "question"} prefix @returns {[number, number | null]} */
function runsIn(prefix) {
  const [a, b] = ["a", "b"].map((key) => selectById(`${prefix}-${key}`).value);
  return [Number(a), b === "" ? null : Number(b)];
}

function listenToChoices() {
  selectById("table").addEventListener("change", () => chooseTable(Number(selectById("table").value)));
  byId("interval-metric").addEventListener("change", drawIntervals);
  byId("noise-metric").addEventListener("change", drawNoise);
  for (const id of ["scatter-x", "scatter-y"]) byId(id).addEventListener("change", drawScatter);
  for (const key of ["a", "b"]) {
    byId(`run-${key}`).addEventListener("change", () => chooseRuns(...runsIn("run")));
    byId(`question-${key}`).addEventListener("change", async () => {
      const place = state.open;
      if (place === null) return;
      history.replaceState(null, "", questionHash(place, runsIn("question")));
      await chooseRuns(...runsIn("question"));
      await showQuestion(place);
    });
  }
}

function listenToFilters() {
  byId("board-filter").addEventListener("input", () => {
    filterBoard(inputById("board-filter").value);
    keepInAddress();
  });
  filterBy("search", "input", ({ value }) => ({ search: value }));
  filterBy("in-answers", "change", ({ checked }) => ({ inAnswers: checked }));
  filterBy("status", "change", ({ value }) => ({ status: value }));
  filterBy("compare", "change", ({ value }) => ({ compare: value }));
  filterBy("metric", "change", ({ value }) => ({ metric: Number(value) }));
  filterBy("low", "input", (input) => ({ low: numberIn(input) }));
  filterBy("high", "input", (input) => ({ high: numberIn(input) }));
  buttonById("reset").addEventListener("click", clearFilters);
  for (const [id, by] of /** @type {[string, number][]} */ ([["earlier", -1], ["later", 1]])) {
    buttonById(id).addEventListener("click", () => {
      setState({ page: state.page + by });
      drawQuestions();
      byId("questions-title").scrollIntoView();
    });
  }
}

function listenToQuestion() {
  buttonById("previous").addEventListener("click", () => step(-1));
  buttonById("next").addEventListener("click", () => step(1));
  buttonById("close").addEventListener("click", () => dialogById("question").close());
  dialogById("question").addEventListener("close", () => {
    setState({ open: null });
    keepInAddress();
  });
  document.addEventListener("keydown", (event) => { // focus may be on nothing: a button that was pressed may be disabled by now
    if (state.open === null || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target instanceof Element && event.target.matches("select, input")) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
}

function listenToWindow() {
  let drawnWidth = window.innerWidth;
  window.addEventListener("hashchange", followAddress);
  window.addEventListener("resize", () => {
    if (window.innerWidth === drawnWidth) return;
    drawnWidth = window.innerWidth;
    drawIntervals();
    drawScatter();
    drawNoise();
  });
}

/** Show the results of the index; the index and the source of data are chosen before. */
export async function startResults() {
  sayStatic(document);
  switchBy(byId("language"));
  setOptions(selectById("table"), numbered(index.tables.map(({ data, ids }) => say("{data}, {n} questions", { data, n: ids.length }))), "0");
  byId("table-choice").hidden = index.tables.length < 2;
  setOptions(selectById("status"), [["", say("any")], ...index.statuses.map((status) => /** @type {[string, string]} */ ([status, say(status)]))]);
  setOptions(selectById("compare"), comparisons());
  listenToChoices();
  listenToFilters();
  listenToQuestion();
  listenToWindow();
  await chooseTable(0);
  await followAddress();
  document.documentElement.setAttribute("data-ready", "");
}
