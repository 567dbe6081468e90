// What is chosen: a set of questions, the runs A and B, and what an address says of them.
// @ts-check
import { takeFilters } from "./address.js";
import { index, isRetrieval, metricLabel, runLabel, table, useColumns } from "./data.js";
import { byId, dialogById, inputById, make, selectById, setOptions } from "./dom.js";
import { drawBoard, drawJudged, drawRemarks, drawRetrieval, filterBoard } from "./leaderboard.js";
import { hasNoise } from "./noise.js";
import { showQuestion } from "./question.js";
import { filterQuestions } from "./questions.js";
import { openColumns } from "./source.js";
import { setState, state } from "./state.js";
import { say } from "./words.js";

const LONGEST_LABEL = 40; // of a select, in letters
let latestChoice = 0;

/** Options of a select whose values are places. @param {string[]} labels @returns {[string, string][]} */
export const numbered = (labels) => labels.map((label, at) => [String(at), label]);

/** Show a set of questions, with its best run by the first metric as A. @param {number} t */
export async function chooseTable(t) {
  const { runs, metrics } = index.tables[t];
  const values = runs.map((run) => run.figures[0]?.value ?? -Infinity);
  useColumns(new Map());
  setState({ t, a: Math.max(0, values.indexOf(Math.max(...values))), b: null, metric: 0, boardSort: null, page: 0 });
  selectById("table").value = String(t);
  const labels = numbered(metrics.map((_, at) => metricLabel(at)));
  const [retrieval, answers] = [true, false].map((kind) => labels.filter((_, at) => isRetrieval(metrics[at]) === kind));
  setOptions(selectById("interval-metric"), labels, "0");
  setOptions(selectById("metric"), labels, "0");
  setOptions(selectById("scatter-x"), retrieval, retrieval[0] && String(preferredRetrieval()));
  setOptions(selectById("scatter-y"), answers, answers[0]?.[0]);
  byId("scatter-part").hidden = !retrieval.length || !answers.length;
  setOptions(selectById("noise-metric"), answers, answers[0]?.[0]);
  byId("noise-part").hidden = !answers.length || !hasNoise();
  drawMade();
  const runLabels = numbered(distinctLabels(runs.map(runLabel)));
  for (const id of ["run-a", "question-a"]) setOptions(selectById(id), runLabels, String(state.a));
  for (const id of ["run-b", "question-b"]) setOptions(selectById(id), [["", say("none")], ...runLabels], "");
  drawBoard();
  drawRetrieval();
  drawJudged();
  drawRemarks();
  await chooseRuns(state.a, null);
}

/** The metric of retrieval that is shown first: the recall that most runs have. */
function preferredRetrieval() {
  const { runs, metrics } = table();
  const nRuns = (/** @type {number} */ number) => runs.filter((run) => run.figures[number]?.value != null).length;
  const ofHits = metrics.map((_, number) => number).filter((number) => isRetrieval(metrics[number]));
  const recalls = ofHits.filter((number) => metrics[number].name.startsWith("recall@"));
  return (recalls.length ? recalls : ofHits.slice(0, 1)).reduce((best, number) => (nRuns(number) > nRuns(best) ? number : best));
}

function drawMade() {
  const { runs, data, ids } = table();
  byId("made").replaceChildren(make("span", { class: "text" }, data), ": ",
    runs.length === 1 ? say("1 run") : say("{n} runs", { n: runs.length }),
    say(", {n} questions. Made {when} by qilin-rag {version}.", {
      n: ids.length.toLocaleString("en"), when: index.made.replace("T", " ").replace("+00:00", " UTC"), version: index.version,
    }));
}

/** Labels without the beginning that all share, if they are too long for a select to show what tells them apart. @param {string[]} labels */
function distinctLabels(labels) {
  if (labels.length < 2 || Math.max(...labels.map((label) => label.length)) <= LONGEST_LABEL) return labels;
  let n = 0;
  while (labels.every((label) => label[n] !== undefined && label[n] === labels[0][n])) n++;
  const start = Math.max(labels[0].lastIndexOf(" ", n - 1), labels[0].lastIndexOf("/", n - 1)) + 1;
  return start > 8 ? labels.map((label) => `… ${label.slice(start)}`) : labels;
}

/** Choose the runs, and list the questions when their scores are there; of several calls under way the last one counts. @param {number} a @param {number | null} b */
export async function chooseRuns(a, b) {
  const turn = ++latestChoice;
  for (const id of ["run-a", "question-a"]) selectById(id).value = String(a);
  for (const id of ["run-b", "question-b"]) selectById(id).value = b === null ? "" : String(b);
  byId("questions").setAttribute("aria-busy", "true");
  try {
    const runs = b === null ? [a] : [a, b];
    const opened = await Promise.all(runs.map(openColumns));
    if (turn !== latestChoice) return;
    useColumns(new Map(runs.map((run, at) => [run, opened[at]])));
    setState({ a, b });
    byId("compare-choice").hidden = b === null;
    if (b === null && ["b", "difference"].includes(state.sort.key)) setState({ sort: { key: "place", down: false } });
    await filterQuestions();
  } catch (error) {
    if (turn !== latestChoice) return;
    byId("found").textContent = say("The scores can't be opened: {why}.", { why: /** @type {Error} */ (error).message });
  }
  if (turn === latestChoice) byId("questions").removeAttribute("aria-busy");
}

/** Open, or close, what the address says, with its runs and filters. */
export async function followAddress() {
  const fields = new URLSearchParams(location.hash.slice(1));
  const t = Number(fields.get("t") ?? state.t);
  if (t !== state.t && index.tables[t]) await chooseTable(t);
  if (location.hash) {
    takeFilters(fields);
    inputById("board-filter").value = fields.get("lf") ?? "";
    if (inputById("board-filter").value !== state.boardFilter) filterBoard(inputById("board-filter").value);
    const [a, b] = ["a", "b"].map((key) => table().runs.findIndex(({ run }) => run === fields.get(key)));
    await chooseRuns(a < 0 ? state.a : a, b < 0 ? null : b);
  }
  setState({ isFollowed: true });
  const id = fields.get("q");
  if (id === null) {
    if (dialogById("question").open) dialogById("question").close();
    return;
  }
  const place = table().ids.indexOf(id);
  if (place < 0) {
    byId("found").textContent = say("There is no question {id} in this report.", { id });
    return;
  }
  await showQuestion(place);
}
