// The leaderboard: answers, a row a run; below them retrieval, a row a retriever.
const BOARD_TEXTS = [["llm", "LLM"], ["retriever", "Retriever"], ["prompt", "Prompt"]];

/** Columns of the leaderboard: key, heading, and what of a run stands there (for sorting). */
function boardColumns() {
  const { runs, metrics } = table();
  const texts = BOARD_TEXTS.filter(([key]) => key !== "prompt" || new Set(runs.map((run) => run.prompt)).size > 1)
    .map(([key, label]) => ({ key, label, isText: true, of: (run) => run[key] }));
  const figures = metrics.map((_, number) => ({
    key: `m${number}`, label: metricLabel(number), number, of: (run) => run.figures[number]?.value ?? null,
  })).filter(({ number }) => !isRetrieval(metrics[number]));
  const spent = runs.some((run) => run.completion_tokens || run.uncounted || run.first_asked);
  const spending = !spent ? [] : [
    { key: "tokens", label: "Tokens", of: (run) => (run.prompt_tokens === null && run.completion_tokens === null ? null : run.prompt_tokens + run.completion_tokens) },
    { key: "cost", label: "Cost", of: (run) => run.cost.amount },
  ];
  const latency = !runs.some((run) => run.latency) ? [] : [
    { key: "median", label: "Median s", title: "seconds a call", of: (run) => run.latency?.median_s ?? null },
    { key: "p95", label: "95th pct s", title: "seconds a call", of: (run) => run.latency?.p95_s ?? null },
  ];
  return [...texts, ...figures, ...spending, ...latency];
}

/** The runs, as places in the table's list, in the order that is chosen; at first that of the leaderboard command. */
function boardOrder() {
  const places = table().runs.map((_, at) => at);
  const column = boardColumns().find(({ key }) => key === state.boardSort?.key);
  if (!column) return places;
  const value = (at) => column.of(table().runs[at]);
  return places.sort((one, other) => compare(value(one), value(other), state.boardSort.down) || one - other);
}

function figureCell(figure) {
  if (!figure) return make("td", { class: "figure" }, "–");
  if (figure.value === null) return make("td", { class: "figure" }, "unscored");
  return make("td", { class: figure.is_best ? "figure best" : "figure" },
    make("span", { "data-marks": figure.marks, title: meaning(figure) }, shown(figure.value)),
    figure.ci95 ? make("small", {}, `${shown(figure.ci95[0])}–${shown(figure.ci95[1])}`)
      : figure.no_interval ? make("small", { title: figure.no_interval }, "no interval") : null,
    figure.n_unscored ? make("small", {}, `${figure.n} of ${figure.n + figure.n_unscored} scored`) : null);
}

/** The marks of a figure in words. */
function meaning(figure) {
  const { in_row: inRow, over_none: gain } = figure;
  const tied = (of, { p, untold }) => `tied with the best of its ${of}${p == null ? "" : `, adjusted p ${p.toFixed(4)}`}${untold ? ` (${untold})` : ""}`;
  const digits = (value) => (value > 0 ? "+" : "") + value.toFixed(4);
  return [
    figure.best ? "best of its column or only row" : figure.tied ? tied("column or only row", figure) : null,
    inRow?.best ? "best of its row" : inRow?.tied ? tied("row", inRow) : null,
    gain ? `${digits(gain.difference)} to none${gain.ci95 ? ` (${gain.ci95.map(digits).join(" to ")})` : ""}, p ${gain.p.toFixed(4)}, by Holm ${gain.p_holm.toFixed(4)}` : null,
  ].filter((words) => words !== null).join("; ") || null;
}

function drawRetrieval() {
  const { metrics, retrieval, legend } = table();
  const columns = metrics.map((_, number) => number).filter((number) => isRetrieval(metrics[number]));
  byId("retrieval-part").hidden = !columns.length;
  byId("retrieval").replaceChildren(
    make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "text" }, "Retriever"), columns.map((number) =>
      make("th", { scope: "col", class: "figure", title: metrics[number].signature }, metricLabel(number))))),
    make("tbody", {}, retrieval.map((row) =>
      make("tr", {}, make("th", { scope: "row", class: "text" }, row.retriever), row.figures.map(figureCell)))));
  byId("legend").replaceChildren(...legend.map((line) => make("span", {}, `${line} `)));
}

/** Tokens, cost or seconds; below them what answers from the cache took when they were first asked. */
function spendingCell(column, run) {
  const first = run.first_asked;
  const asked = (text) => (first ? make("small", { title: `${first.n} answers from the cache, when first asked` }, `(${text})`) : null);
  if (column.key === "tokens") {
    const sum = ({ prompt_tokens: prompt, completion_tokens: completion }) =>
      (prompt === null || completion === null ? "unknown" : (prompt + completion).toLocaleString("en"));
    const n = column.of(run);
    return make("td", { class: "figure" }, n === null ? (first ? "0" : "unknown") : n.toLocaleString("en"), first && asked(sum(first)));
  }
  if (column.key !== "cost") {
    const seconds = column.of(run);
    return make("td", { class: "figure" }, seconds === null ? "–" : seconds.toFixed(2));
  }
  const money = ({ amount, currency, at_most: atMost }) =>
    (amount === null ? "unknown" : `${atMost ? "≤ " : ""}${amount.toPrecision(3)} ${currency ?? ""}`);
  return make("td", { class: "figure", title: run.cost.unknown ?? "" }, money(run.cost), first && asked(money(first.cost)));
}

/** Ratings by judges that compared answers of these runs. */
function drawJudged() {
  byId("judged").replaceChildren(...table().judged.flatMap(({ by, rows: [header, ...rows] }) => [
    make("h3", {}, "Pairwise ratings"),
    make("p", { class: "hint text" }, by),
    make("div", { class: "scroll" }, make("table", { class: "judged" },
      make("thead", {}, make("tr", {}, header.map((name, at) => make("th", { scope: "col", class: at ? "figure" : "text" }, at ? name : "Run")))),
      make("tbody", {}, rows.map((cells) => make("tr", {}, cells.map((cell, at) => make("td", { class: at ? "figure" : "text" }, cell))))))),
  ]));
}

function drawLeaderboard() {
  const columns = boardColumns();
  const sortBy = (column) => {
    const isOwn = state.boardSort?.key === column.key;
    state.boardSort = { key: column.key, down: isOwn ? !state.boardSort.down : !column.isText };
    drawLeaderboard();
    drawIntervals();
    drawScatter();
    document.querySelector(`#leaderboard th:nth-child(${columns.indexOf(column) + 1}) button`).focus();
  };
  byId("leaderboard").replaceChildren(
    make("thead", {}, make("tr", {}, columns.map((column) =>
      sortHeading(column.label, state.boardSort?.key === column.key ? state.boardSort.down : null, () => sortBy(column),
        { class: column.isText ? "text" : "figure", title: "number" in column ? table().metrics[column.number].signature : column.title ?? null })))),
    make("tbody", {}, boardOrder().map((at) => {
      const run = table().runs[at];
      return make("tr", { title: run.run }, columns.map((column) => {
        if ("number" in column) return figureCell(run.figures[column.number]);
        return column.isText ? make("td", { class: "text" }, run[column.key]) : spendingCell(column, run);
      }));
    })));
}

function drawRemarks() {
  const { metrics, notes, why_no_notes: whyNot } = table();
  byId("remarks").querySelector("ul").replaceChildren(
    ...notes.map((note) => make("li", { class: "remark text" }, note)),
    ...(whyNot ? [make("li", { class: "remark text" }, `The texts of the notes are not in this report: ${whyNot}`)] : []),
    ...metrics.map((metric, number) => make("li", {}, `${metricLabel(number)}: `, make("code", {}, metric.signature))));
}
