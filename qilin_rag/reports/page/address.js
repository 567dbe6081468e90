// The address: its fragment keeps the question that is open, the runs, and the filters, so that a reload finds them.
const KEPT = [["s", "search"], ["st", "status"], ["lo", "low"], ["hi", "high"], ["cmp", "compare"]];
const NO_FILTERS = { search: "", inAnswers: false, status: "", low: null, high: null, compare: "", sort: { key: "place", down: false } };

/** The filters that are set, by their short names. */
function filterFields() {
  const fields = KEPT.filter(([, key]) => state[key] !== NO_FILTERS[key]).map(([name, key]) => [name, state[key]]);
  if (state.inAnswers) fields.push(["in", 1]);
  if (state.metric) fields.push(["m", state.metric]);
  if (state.sort.key !== "place") fields.push(["sort", `${state.sort.down ? "-" : ""}${state.sort.key}`]);
  return fields;
}

/** Set of questions and runs; nothing where all is as the page opens. */
function runFields(runs = [state.a, state.b]) {
  const fields = index.tables.length > 1 ? [["t", state.t]] : [];
  return [...fields, ...["a", "b"].flatMap((key, at) => (runs[at] === null ? [] : [[key, table().runs[runs[at]].run]]))];
}

/** The address within the page under which a question is opened with the runs chosen now. */
const questionHash = (place, runs = [state.a, state.b]) =>
  `#${new URLSearchParams([["q", table().ids[place]], ...runFields(runs), ...filterFields()])}`;

/** The address of the list of questions; none where nothing is chosen. */
function listHash() {
  const filters = filterFields();
  return filters.length || state.b !== null ? `#${new URLSearchParams([...runFields(), ...filters])}` : "";
}

/** Say in the address what the list shows; an open question has its own. */
function keepInAddress() {
  if (openPlace !== null || !isFollowed) return;
  history.replaceState(null, "", listHash() || location.pathname + location.search);
}

/** Take the filters from an address, and show them in their controls. */
function takeFilters(fields) {
  const number = (name) => (fields.get(name) === null || Number.isNaN(Number(fields.get(name))) ? null : Number(fields.get(name)));
  const oneOf = (name, allowed) => (allowed.includes(fields.get(name)) ? fields.get(name) : "");
  const key = (fields.get("sort") ?? "place").replace(/^-/, "");
  Object.assign(state, {
    search: fields.get("s") ?? "", inAnswers: fields.has("in"),
    status: oneOf("st", index.statuses), compare: oneOf("cmp", COMPARISONS.map(([value]) => value)),
    low: number("lo"), high: number("hi"), metric: table().metrics[number("m")] ? number("m") : 0,
    sort: { key, down: (fields.get("sort") ?? "").startsWith("-") },
  });
  for (const id of ["search", "status", "low", "high", "compare"]) byId(id).value = state[id] ?? "";
  byId("metric").value = String(state.metric);
  byId("in-answers").checked = state.inAnswers;
}

/** Whether the address has been read: until then it is not written. */
let isFollowed = false;

/** Open, or close, what the address says, with its runs and filters. */
async function followHash() {
  const fields = new URLSearchParams(location.hash.slice(1));
  const t = Number(fields.get("t") ?? state.t);
  if (t !== state.t && index.tables[t]) await chooseTable(t);
  const named = (key) => table().runs.findIndex(({ run }) => run === fields.get(key));
  if (location.hash) {
    takeFilters(fields);
    const [a, b] = [named("a"), named("b")];
    await chooseRuns(a < 0 ? state.a : a, b < 0 ? null : b);
  }
  isFollowed = true;
  if (!fields.has("q")) {
    if (byId("question").open) byId("question").close();
    return;
  }
  const place = table().ids.indexOf(fields.get("q"));
  if (place < 0) {
    byId("found").textContent = `There is no question ${fields.get("q")} in this report.`;
    return;
  }
  await showQuestion(place);
}
