// The questions: searched, filtered, sorted, a page at a time.
const PAGE_ROWS = 50;
const COMPARISONS = [["", "any"], ["more", "A higher"], ["less", "B higher"], ["differ", "different"], ["same", "equal"]];
let latestFilter = 0;

/** Whether the two scores stand to each other as asked. */
function compares(one, other) {
  if (!state.compare || state.b === null) return true;
  if (one === null || other === null) return false;
  return { more: one > other, less: one < other, differ: one !== other, same: one === other }[state.compare];
}

/** Places of the questions whose answer by one of the chosen runs holds the text. */
async function foundInAnswers(needle) {
  const found = new Set();
  for (const run of [state.a, state.b]) {
    if (run === null) continue;
    (await openRun(run)).forEach(({ answer }, place) => folded(answer).includes(needle) && found.add(place));
  }
  return found;
}

/** Filter and sort anew; of several calls under way only the last one draws. */
async function filterQuestions() {
  const turn = ++latestFilter;
  const needle = folded(state.search.trim());
  const { ids, queries } = table();
  const inAnswers = needle && state.inAnswers ? await foundInAnswers(needle) : new Set();
  if (turn !== latestFilter) return;
  const kept = ids.map((_, place) => place).filter((place) => {
    const score = scoreOf(state.a, place);
    return (!needle || inAnswers.has(place) || folded(queries[place]).includes(needle) || folded(ids[place]) === needle)
      && (!state.status || statusOf(state.a, place) === state.status)
      && (state.low === null || (score !== null && score >= state.low))
      && (state.high === null || (score !== null && score <= state.high))
      && compares(score, state.b === null ? null : scoreOf(state.b, place));
  });
  const { key, down } = state.sort;
  const column = questionColumns().find((one) => one.key === key);
  state.order = column ? kept.sort((one, other) => compare(column.of(one), column.of(other), down) || one - other) : kept;
  state.page = Math.min(state.page, Math.max(0, Math.ceil(state.order.length / PAGE_ROWS) - 1));
  drawQuestions();
  keepInAddress();
}

function difference(place) {
  const [one, other] = [scoreOf(state.a, place), scoreOf(state.b, place)];
  return one === null || other === null ? null : other - one;
}

function questionColumns() {
  const name = metricLabel(state.metric);
  const columns = [
    { key: "query", label: "Question", of: (place) => table().queries[place] },
    { key: "status", label: "Status", of: (place) => statusOf(state.a, place) },
    { key: "a", label: state.b === null ? name : `${name} A`, isFigure: true, of: (place) => scoreOf(state.a, place) },
  ];
  return state.b === null ? columns : [
    ...columns,
    { key: "b", label: `${name} B`, isFigure: true, of: (place) => scoreOf(state.b, place) },
    { key: "difference", label: "B − A", isFigure: true, of: difference },
  ];
}

const signed = (value) => (value === null ? "–" : (value > 0 ? "+" : value < 0 ? "−" : "") + Math.abs(value).toFixed(4));

function drawQuestions() {
  const columns = questionColumns();
  const sortBy = (column) => {
    state.sort = { key: column.key, down: state.sort.key === column.key ? !state.sort.down : false };
    state.page = 0;
    filterQuestions();
  };
  const rows = state.order.slice(state.page * PAGE_ROWS, (state.page + 1) * PAGE_ROWS);
  byId("questions").replaceChildren(
    make("thead", {}, make("tr", {}, columns.map((column) =>
      sortHeading(column.label, state.sort.key === column.key ? state.sort.down : null, () => sortBy(column),
        { class: column.isFigure ? "figure" : column.key })))),
    make("tbody", {}, rows.map((place) => make("tr", {}, columns.map((column) => {
      if (column.key === "query") {
        return make("td", { class: "query text" }, make("a", { href: questionHash(place) }, table().queries[place] || table().ids[place]));
      }
      if (column.key === "status") return make("td", { class: "status" }, statusBadge(statusOf(state.a, place)));
      const value = column.of(place);
      if (column.key !== "difference") return make("td", { class: "figure" }, shown(value));
      return make("td", { class: `figure ${value > 0 ? "up" : value < 0 ? "down" : ""}` }, signed(value));
    })))));
  const n = state.order.length;
  byId("found").textContent = `${n.toLocaleString("en")} of ${table().ids.length.toLocaleString("en")} questions`;
  const pages = Math.max(1, Math.ceil(n / PAGE_ROWS));
  byId("page").textContent = `Page ${state.page + 1} of ${pages}`;
  byId("earlier").disabled = state.page === 0;
  byId("later").disabled = state.page >= pages - 1;
}

const statusBadge = (status) => make("span", { class: `badge ${status}` }, status);
