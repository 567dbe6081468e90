// One question, opened: its references and notes, and for one or two runs hits, prompt, answer and scores.
let openPlace = null;
let latestOpening = 0;

async function showQuestion(place) {
  const turn = ++latestOpening;
  openPlace = place;
  const dialog = byId("question");
  if (!dialog.open) {
    byId("question-body").replaceChildren();
    dialog.showModal();
    byId("question-title").focus();
  }
  byId("question-title").replaceChildren(make("span", { class: "text" }, table().queries[place]), make("small", { class: "text" }, ` question ${table().ids[place]}`));
  const at = state.order.indexOf(place);
  byId("place").textContent = at < 0 ? "" : `${at + 1} of ${state.order.length}`;
  byId("previous").disabled = at <= 0;
  byId("next").disabled = at < 0 || at >= state.order.length - 1;
  const runs = [state.a, state.b].filter((run) => run !== null);
  try {
    const [part, ...answers] = await Promise.all([openPart(place), ...runs.map(openRun)]);
    if (turn !== latestOpening) return;
    byId("question-body").replaceChildren(...questionBody(place, part, runs, answers));
  } catch (error) {
    if (turn !== latestOpening) return;
    byId("question-body").replaceChildren(make("p", { class: "remark" },
      `This question can't be opened: ${error.message}. It needs a browser of 2023 or later.`));
  }
  dialog.scrollTop = 0;
}

function questionBody(place, part, runs, answers) {
  const question = part.questions[place % index.questions_per_block];
  const columns = runs.map((run, at) =>
    runColumn(place, run, "AB"[at], answers[at][place], question, part, runs.length === 1));
  return [
    make("p", { class: "hint" }, make("mark", {}, "Marked"), " text is shared with the reference: the longest common subsequence of tokens, which ROUGE-L counts."),
    make("div", { class: `runs n${runs.length}` }, columns),
    make("section", {}, make("h3", {}, `Reference notes (${question.reference_notes.length})`),
      table().why_no_notes ? noNotes() : null,
      question.reference_notes.length ? question.reference_notes.map((note) => noteItem(part, note, "")) : make("p", { class: "hint" }, "None are known.")),
  ];
}

const noNotes = () => make("p", { class: "remark text" },
  `The texts of the notes are not in this report (${table().why_no_notes}); the prompt below an answer has what the LLM was given.`);

function runColumn(place, run, letter, told, question, part, isAlone) {
  const { hits, messages } = question.runs[run];
  const title = fullLabel(table().runs[run]);
  const [best, ...others] = compareTexts(told.answer, question.references);
  const pair = (found) => make("div", { class: isAlone ? "pair" : "" },
    block("Answer", "answer", found ? found.answer : [told.answer]),
    found ? block(question.references.length > 1 ? `Reference ${found.number + 1} of ${question.references.length}` : "Reference", "reference", found.reference) : null,
    found?.isTooLong ? make("p", { class: "remark" }, "Too long to mark what is shared.") : null);
  return make("article", { class: "run" },
    make("h3", {}, make("span", { class: "letter" }, letter), make("span", { class: "text" }, title)),
    make("p", { class: "facts" }, statusBadge(statusOf(run, place)), ...scoreFacts(place, run, told)),
    told.error ? make("p", { class: "remark text" }, told.error) : null,
    told.prompt_cut ? make("p", { class: "remark" }, "The server read only a part of this prompt, by its own count of tokens.") : null,
    ...(told.marks ?? []).map((mark) => make("p", { class: "remark" }, index.doubts[mark])),
    pair(best),
    others.length ? make("details", {}, make("summary", {}, `Other references (${others.length})`), others.map(pair)) : null,
    told.raw ? make("details", {}, make("summary", {}, "What the model wrote, whole"), make("pre", { class: "text" }, told.raw)) : null,
    make("details", { class: "hits", open: true },
      make("summary", {}, told.notes_given === null ? "Notes found: not known" : `Notes found (${hits.length}), ${told.notes_used ?? "not known how many"} of ${told.notes_given} in the prompt`),
      told.notes_missing ? make("p", { class: "remark" }, `${told.notes_missing} more hits are not in the data.`) : null,
      hits.map(([note, score], at) => noteItem(part, note, `${at + 1}.`, score, question.reference_notes.includes(note)))),
    ...(told.judgements ?? []).map(judgementItem),
    make("details", { class: "prompt" }, make("summary", {}, messages.length ? "Prompt" : "Prompt: not known"),
      messages.map(([role, lines]) => block(role, "message", [lines.map((line) => part.lines[line]).join("\n")]))),
    make("p", { class: "hint text" }, callFacts(told)));
}

const block = (title, kind, children) =>
  make("div", { class: kind }, make("h4", { class: "text" }, title), children.join("") === "" ? make("p", { class: "hint" }, "(empty)") : make("div", { class: "body text" }, children));

/** What a judge said of the answer, or of a pair of answers that it is in. */
function judgementItem({ judge, runs, text }) {
  const about = runs.length > 1 ? `, answer A of ${runs[0]}, B of ${runs[1]}` : "";
  return make("details", { class: "judgement", open: runs.length === 1 },
    make("summary", { class: "text" }, `Judged by ${judge}${about}`), make("pre", { class: "text" }, text));
}

function scoreFacts(place, run, told) {
  return table().metrics.map((_, number) => {
    const reason = told.reasons?.[number];
    return make("span", { class: "fact", title: reason ?? "" }, `${metricLabel(number)} `, make("b", {}, shown(scoreOf(run, place, number))),
      reason ? make("small", { class: "text" }, ` ${reason}`) : null);
  });
}

function callFacts(told) {
  const { usage } = told;
  return [
    told.model && `answered as ${told.model}`,
    told.finish_reason && `finish reason ${told.finish_reason}`,
    usage && `${usage.prompt_tokens ?? "?"} + ${usage.completion_tokens ?? "?"} tokens`,
    told.latency_s && `${told.latency_s.toFixed(2)} s`,
    told.cached && "from the cache",
  ].filter(Boolean).join(", ");
}

/** A note: the title to see, the text on opening. */
function noteItem(part, note, rank, score = null, isReference = false) {
  const [title, lines, name] = part.notes[note] ?? [null, null];
  const head = [
    rank ? `${rank} ` : "", make("span", { class: "text" }, title === null ? "" : title || "(no title)"),
    make("small", {}, ` note ${name ?? note}${score === null ? "" : `, ${shown(score)}`}`),
    isReference ? make("span", { class: "badge reference" }, "reference note") : null,
  ];
  if (lines === null) return make("p", { class: isReference ? "note is-reference" : "note" }, head, table().why_no_notes ? "" : make("small", {}, " (not in the data)"));
  return make("details", { class: isReference ? "note is-reference" : "note" }, make("summary", {}, head),
    make("div", { class: "body text" }, lines.map((line) => part.lines[line]).join("\n")));
}

/** Go on in the order of the list, without filling the history. */
function step(by) {
  const place = state.order[state.order.indexOf(openPlace) + by];
  if (openPlace === null || place === undefined || state.order.indexOf(openPlace) < 0) return;
  history.replaceState(null, "", questionHash(place));
  showQuestion(place);
}
