// What the page does when it opens, and when somebody chooses something.
const LONGEST_LABEL = 40; // of a select, in letters
const numbered = (labels) => labels.map((label, at) => [String(at), label]);

/** Show a set of questions, with its best run by the first metric as A. */
async function chooseTable(t) {
  const value = (run) => run.figures[0]?.value ?? -Infinity;
  const { runs } = index.tables[t];
  const best = runs.reduce((found, run, at) => (value(run) > value(runs[found]) ? at : found), 0);
  Object.assign(state, { t, a: best, b: null, metric: 0, boardSort: null, page: 0 });
  byId("table").value = String(t);
  const { metrics, data, ids } = table();
  const labels = numbered(metrics.map((_, at) => metricLabel(at)));
  const [retrieval, answers] = [true, false].map((kind) => labels.filter((_, at) => isRetrieval(metrics[at]) === kind));
  const nRuns = (number) => runs.filter((run) => run.figures[number]?.value != null).length;
  const recalls = metrics.map((_, number) => number).filter((number) => metrics[number].of_hits && metrics[number].name.startsWith("recall@"));
  const preferred = recalls.reduce((found, number) => (found < 0 || nRuns(number) > nRuns(found) ? number : found), -1);
  setOptions(byId("interval-metric"), labels, "0");
  setOptions(byId("metric"), labels, "0");
  setOptions(byId("scatter-x"), retrieval, String(preferred < 0 ? retrieval[0]?.[0] : preferred));
  setOptions(byId("scatter-y"), answers, answers[0]?.[0]);
  byId("scatter").parentElement.hidden = !retrieval.length || !answers.length;
  byId("made").replaceChildren(make("span", { class: "text" }, data),
    `: ${runs.length} ${runs.length === 1 ? "run" : "runs"}, ${ids.length.toLocaleString("en")} questions. Made ${index.made.replace("T", " ").replace("+00:00", " UTC")} by qilin-rag ${index.version}.`);
  const runLabels = numbered(distinctLabels(runs.map(runLabel)));
  for (const id of ["run-a", "question-a"]) setOptions(byId(id), runLabels, String(state.a));
  for (const id of ["run-b", "question-b"]) setOptions(byId(id), [["", "none"], ...runLabels], "");
  drawLeaderboard();
  drawRetrieval();
  drawJudged();
  drawRemarks();
  drawIntervals();
  drawScatter();
  await chooseRuns(state.a, null);
}

/** Labels without the beginning that all share, where they are too long for a select to show what tells them apart. */
function distinctLabels(labels) {
  if (labels.length < 2 || Math.max(...labels.map((label) => label.length)) <= LONGEST_LABEL) return labels;
  let n = 0;
  while (labels.every((label) => label[n] !== undefined && label[n] === labels[0][n])) n++;
  const start = Math.max(labels[0].lastIndexOf(" ", n - 1), labels[0].lastIndexOf("/", n - 1)) + 1;
  return start > 8 ? labels.map((label) => `… ${label.slice(start)}`) : labels;
}

async function chooseRuns(a, b) {
  Object.assign(state, { a, b });
  for (const id of ["run-a", "question-a"]) byId(id).value = String(a);
  for (const id of ["run-b", "question-b"]) byId(id).value = b === null ? "" : String(b);
  byId("compare-choice").hidden = b === null;
  if (b === null && ["b", "difference"].includes(state.sort.key)) state.sort = { key: "place", down: false };
  await filterQuestions();
}

function clearFilters() {
  takeFilters(new URLSearchParams(state.metric ? { m: state.metric } : {}));
  state.page = 0;
  filterQuestions();
}

/** A control that sets a part of the state and filters anew. */
function filterBy(id, event, read) {
  byId(id).addEventListener(event, () => {
    Object.assign(state, read(byId(id)), { page: 0 });
    filterQuestions();
  });
}

const numberIn = (input) => (input.value === "" ? null : Number(input.value));

setOptions(byId("table"), numbered(index.tables.map(({ data, ids }) => `${data}, ${ids.length} questions`)), "0");
byId("table-choice").hidden = index.tables.length < 2;
byId("table").addEventListener("change", () => chooseTable(Number(byId("table").value)));
setOptions(byId("status"), [["", "any"], ...index.statuses.map((status) => [status, status])], "");
setOptions(byId("compare"), COMPARISONS, "");
byId("interval-metric").addEventListener("change", drawIntervals);
for (const id of ["scatter-x", "scatter-y"]) byId(id).addEventListener("change", drawScatter);
filterBy("search", "input", ({ value }) => ({ search: value }));
filterBy("in-answers", "change", ({ checked }) => ({ inAnswers: checked }));
filterBy("status", "change", ({ value }) => ({ status: value }));
filterBy("compare", "change", ({ value }) => ({ compare: value }));
filterBy("metric", "change", ({ value }) => ({ metric: Number(value) }));
filterBy("low", "input", (input) => ({ low: numberIn(input) }));
filterBy("high", "input", (input) => ({ high: numberIn(input) }));
byId("reset").addEventListener("click", clearFilters);

const chosenRuns = (prefix) => [Number(byId(`${prefix}-a`).value), byId(`${prefix}-b`).value === "" ? null : Number(byId(`${prefix}-b`).value)];
for (const key of ["a", "b"]) {
  byId(`run-${key}`).addEventListener("change", () => chooseRuns(...chosenRuns("run")));
  byId(`question-${key}`).addEventListener("change", async () => {
    const place = openPlace;
    history.replaceState(null, "", questionHash(place, chosenRuns("question")));
    await chooseRuns(...chosenRuns("question"));
    await showQuestion(place);
  });
}
for (const [id, by] of [["earlier", -1], ["later", 1]]) {
  byId(id).addEventListener("click", () => {
    state.page += by;
    drawQuestions();
    byId("questions-title").scrollIntoView();
  });
}
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("close").addEventListener("click", () => byId("question").close());
byId("question").addEventListener("close", () => {
  openPlace = null;
  keepInAddress();
});
document.addEventListener("keydown", (event) => { // focus may be on nothing: a button that was pressed may be disabled by now
  if (openPlace === null || event.altKey || event.ctrlKey || event.metaKey || event.target.matches("select, input")) return;
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
window.addEventListener("hashchange", followHash);
let drawnWidth = window.innerWidth;
window.addEventListener("resize", () => {
  if (window.innerWidth === drawnWidth) return;
  drawnWidth = window.innerWidth;
  drawIntervals();
  drawScatter();
});
chooseTable(0).then(followHash).then(() => document.documentElement.setAttribute("data-ready", ""));
