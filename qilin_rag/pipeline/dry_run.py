"""Plan a run: do all that is free, call no LLM, write no run, and estimate what the run would cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qilin_rag.config.run import RunConfig, check_batch
from qilin_rag.core.downloads import NotHereError, no_downloads
from qilin_rag.core.types import Cost, LeftOut, Question
from qilin_rag.data import NoteStore
from qilin_rag.llms import LLM
from qilin_rag.pipeline.answering import calls_left, pending_questions, render
from qilin_rag.pipeline.forecast import Call, Plan, _Asked, found_in_cache, priced, spread, uses_cache
from qilin_rag.pipeline.identity import run_directory, run_identity, run_label
from qilin_rag.pipeline.jobs import Retrieved
from qilin_rag.pipeline.note_pictures import check_reader, foresee_pictures
from qilin_rag.pipeline.queries import QueryWork
from qilin_rag.pipeline.query_plan import NOT_WRITTEN, plan_queries, with_queries
from qilin_rag.pipeline.retrieval_work import work_before
from qilin_rag.pipeline.scoring import check_names
from qilin_rag.pipeline.selection import select_questions
from qilin_rag.pipeline.shared import Shared
from qilin_rag.prompts.templates import PromptTooLongError, estimated_tokens


def plan(config: RunConfig, shared: Shared | None = None) -> Plan:
    """Plan what `run` would ask, from the same search, prompts and run directory; write nothing there.

    Needs neither key nor server; without them it is not known which answers the cache holds.
    """
    shared = shared or Shared()
    with no_downloads():
        return _plan(config, shared)


def _plan(config: RunConfig, shared: Shared) -> Plan:
    steps = []
    config = shared.joined(config)
    check_reader(config)
    check_batch(config)
    try:
        check_names(config.metrics.values())
    except NotHereError as error:
        steps.append(str(error))
    try:
        dataset = shared.dataset(config)
    except NotHereError as error:
        return _unplanned(config, [*steps, str(error)])
    questions = select_questions(dataset.askable, config.limit, config.seed, config.ids)
    shared.count_defects(config, questions)
    try:
        directory = run_directory(config, dataset, run_identity(config, dataset))
    except NotHereError as error:
        return _unplanned(config, [*steps, str(error)], n_questions=len(questions))
    finished = {} if config.fresh else directory.read_samples()[0]
    pending = pending_questions(questions, finished)
    if pending:
        shared.images(config)
    work = QueryWork.of(config, shared, directory) if pending else None
    queries = work and plan_queries(work, pending, shared, config.fresh)
    if pending and (before := work_before(config.retriever, config.rerank, dataset.notes, pending)):
        steps += before
        unplanned = _unplanned(config, steps, str(directory.path), len(questions), len(pending))
        return with_queries(unplanned, queries) if queries else unplanned
    texts: dict[str, list[str]] = {}
    if work and queries and queries.answered == len(pending):
        texts = {question_id: reply.texts for question_id, reply in work.read(pending).items()}
    asked = _rendered(config, dataset.notes, pending, shared.retrieve(config, pending, texts))
    cached, cache_unknown = _found_in_cache(config, asked, shared)
    if queries and queries.answered < len(pending):
        steps.append(NOT_WRITTEN)
        cached, cache_unknown = [False] * len(asked), "the notes are not known before the queries"
    left = [each for each, is_cached in zip(asked, cached, strict=True) if not is_cached]
    times = {question.id: config.repeat for question in pending}
    if finished:
        again = calls_left(questions, finished, directory.read_repeats(), config.repeat)
        repeated = [question for question in questions if question.id in again]
        found = [Retrieved(finished[each.id].hits) for each in repeated]
        left = left + _rendered(config, dataset.notes, repeated, found)
        times |= again
    calls = sorted((_call(each) for each in left), key=lambda call: -call.prompt_tokens)
    n_calls = sum(times[call.question_id] for call in calls)
    n_images = sum(call.images * times[call.question_id] for call in calls)
    planned = Plan(
        **_priced(config, n_calls, sum(call.prompt_tokens * times[call.question_id] for call in calls), n_images),
        run=str(directory.path),
        label=run_label(config),
        steps=steps,
        questions=len(questions),
        answered=len(questions) - len(pending),
        cached=sum(cached),
        cache_unknown=cache_unknown,
        too_long=len(pending) - len(asked),
        left_out=_left_out(asked),
        examples=spread(calls),
    )
    return with_queries(planned, queries) if queries else planned


def _unplanned(
    config: RunConfig,
    steps: list[str],
    run: str | None = None,
    n_questions: int | None = None,
    n_pending: int | None = None,
) -> Plan:
    """Make a plan without prompts, since these need work that a dry run does not do."""
    llm: LLM = config.llm
    n_left = n_questions if n_pending is None else n_pending
    n_calls = None if n_left is None else n_left * config.repeat
    free = priced(llm, 0, 0)
    unknown = Cost(unknown="known when the notes of each question are")
    costs = {} if llm.price is None and not llm.takes_tokens else {"cost_from": unknown, "cost_to": unknown}
    return Plan(
        **{**free, "calls": n_calls, "prompt_tokens": None, "answer_tokens": None, **costs},
        run=run,
        label=run_label(config),
        steps=steps,
        questions=n_questions,
        answered=(n_questions or 0) - (n_left or 0),
        cached=0,
        cache_unknown=None,
        too_long=0,
        left_out=LeftOut(),
        examples=[],
    )


def _rendered(
    config: RunConfig, store: NoteStore, questions: Sequence[Question], found: Sequence[Retrieved]
) -> list[_Asked]:
    """Render the prompts; leave out those that are too long even without a note."""
    asked = []
    foreseen = foresee_pictures(config, store, (hit.note_idx for each in found for hit in each.hits))
    pictures = {note_idx: of_note for note_idx, (_, of_note) in foreseen.items()}
    for question, retrieved in zip(questions, found, strict=True):
        notes = store.get([hit.note_idx for hit in retrieved.hits])
        try:
            prompt = render(config, question, notes, pictures)
        except PromptTooLongError:
            continue
        of_prompt = [foreseen[note.note_idx] for note in prompt.notes if note.note_idx in foreseen]
        image_tokens = sum(of_note.n_tokens for _, of_note in of_prompt) if config.llm.image_rule else 0
        asked.append(_Asked(question, retrieved, prompt, sum(n for n, _ in of_prompt), image_tokens))
    return asked


def _call(asked: _Asked) -> Call:
    messages = asked.prompt.messages
    n_tokens = estimated_tokens(messages) + asked.image_tokens
    return Call(question_id=asked.question.id, prompt_tokens=n_tokens, images=asked.n_images, messages=messages)


def _found_in_cache(config: RunConfig, asked: Sequence[_Asked], shared: Shared) -> tuple[list[bool], str | None]:
    """Return for each prompt whether the cache holds its answer, or why this is unknown: no image is read here."""
    if any(each.n_images for each in asked) and uses_cache(config):
        return [False] * len(asked), "a plan reads no images, which are a part of the request"
    return found_in_cache(config, [each.prompt for each in asked], shared)


def _priced(config: RunConfig, n_calls: int, prompt_tokens: int, n_images: int) -> dict[str, Any]:
    """Return the fields of a plan that say what the calls use and cost; unknown if it is not known for images."""
    llm: LLM = config.llm
    fields = priced(llm, n_calls, prompt_tokens, config.batch) | {"images": n_images}
    if not n_images or llm.image_rule or not llm.takes_tokens:
        return fields
    why = f"how {config.llm_label} counts images is not known; --set llm.image_tokens= names a rule"
    unknown = Cost(unknown=why)
    costs = {} if llm.price is None else {"cost_from": unknown, "cost_to": unknown}
    return fields | costs | {"prompt_tokens": None, "text_tokens": prompt_tokens, "tokens_unknown": why}


def _left_out(asked: Sequence[_Asked]) -> LeftOut:
    return LeftOut(
        not_in_data=sum(each.found.n_missing for each in asked),
        too_long=sum(each.prompt.notes_given - len(each.prompt.notes) for each in asked),
        questions_without_notes=sum(
            not each.prompt.notes and each.prompt.notes_given + each.found.n_missing > 0 for each in asked
        ),
    )
