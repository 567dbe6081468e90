"""What a run would do, and what it would cost: all that is free is done, no LLM is called, no run is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from qilin_rag.answering import Retrieved, System, calls_left, kept_answer, pending_questions, third_party
from qilin_rag.config import RunConfig, cache_dir
from qilin_rag.cost import tokens_cost
from qilin_rag.downloads import NotHereError, no_downloads
from qilin_rag.errors import QilinError
from qilin_rag.llms import LLM
from qilin_rag.llms.cache import ResponseCache, request_key
from qilin_rag.pipeline import select_questions
from qilin_rag.prompts import NoteForm, PromptTooLongError, RenderedPrompt, estimated_tokens, load_prompt
from qilin_rag.provenance import run_directory
from qilin_rag.retrieval_work import work_before
from qilin_rag.scoring import build_scorers
from qilin_rag.sharing import Shared
from qilin_rag.types import Cost, Frozen, LeftOut, Message, Question

T = TypeVar("T")


class Call(Frozen):
    """One call that would be made; `prompt_tokens` is our estimate."""

    question_id: str
    prompt_tokens: int
    messages: list[Message]


class Plan(Frozen):
    """What would be asked, and what it would cost.

    `steps` are what a run does first and a dry run does not: downloads, and encoding by a model. Without them prompts
    can't be made: `prompt_tokens` and costs are then unknown, and `calls` the most there can be.
    Of `questions` (or judgements), `answered` ones have an answer in `run` already, `cached` ones in the response cache
    (or will, by an earlier run of the sweep), and `too_long` ones fail unasked; `calls` are left (with `--repeat`
    several to a question). `cache_unknown`: why it can't be told what is cached from before (then nothing is).
    `prompt_tokens` is an estimate, on the long side, `answer_tokens` the most that the answers may have: `cost_from` is
    for answers of no length, `cost_to` for the longest. `examples`: the longest prompt, the middle, the shortest.
    """

    run: str
    steps: list[str] = []
    questions: int
    answered: int
    cached: int
    cache_unknown: str | None
    too_long: int
    calls: int
    prompt_tokens: int | None
    answer_tokens: int | None
    cost_from: Cost
    cost_to: Cost
    left_out: LeftOut
    examples: list[Call]


class _Asked(NamedTuple):
    question: Question
    found: Retrieved
    prompt: RenderedPrompt


def priced(llm: LLM, n_calls: int, prompt_tokens: int) -> dict[str, Any]:
    """The fields of a plan that say what so many calls take."""
    if not llm.takes_tokens:
        prompt_tokens = 0
    most = llm.answer_budget if llm.takes_tokens else 0
    answer_tokens = None if most is None and n_calls else (most or 0) * n_calls
    return {
        "calls": n_calls,
        "prompt_tokens": prompt_tokens,
        "answer_tokens": answer_tokens,
        "cost_from": tokens_cost(prompt_tokens, 0, llm.price),
        "cost_to": tokens_cost(prompt_tokens, answer_tokens, llm.price),
    }


def spread(items: Sequence[T]) -> list[T]:
    """The first, the one in the middle and the last."""
    return [items[i] for i in sorted({0, len(items) // 2, len(items) - 1})] if items else []


def plan(config: RunConfig, shared: Shared | None = None) -> Plan:
    """What `run` would ask, from the same search, prompts and run directory; nothing is written there.

    Neither key nor server are needed; without them it is not known what the cache holds.
    """
    shared = shared or Shared()
    with no_downloads():
        return _plan(config, shared)


def _plan(config: RunConfig, shared: Shared) -> Plan:
    steps = []
    try:
        build_scorers(config.metrics)
    except NotHereError as error:
        steps.append(str(error))
    prompt = load_prompt(config.prompt)
    retriever, llm = shared.retriever(config), shared.llm(config)
    try:
        dataset, reranker = shared.dataset(config), shared.reranker(config)
    except NotHereError as error:
        return _unplanned(llm, [*steps, str(error)])
    questions = select_questions(dataset.askable, config)
    shared.count_defects(config, questions)
    system = System(
        retriever,
        dataset.notes,
        prompt,
        llm,
        config.top_k,
        config.missing_notes,
        config.concurrency,
        NoteForm.of(config),
    )
    try:
        directory = run_directory(config, dataset, system, reranker)
    except NotHereError as error:
        return _unplanned(llm, [*steps, str(error)], n_questions=len(questions))
    finished = {} if config.fresh else directory.read_samples()[0]
    pending = pending_questions(questions, finished)
    if pending and (before := work_before(retriever, reranker, dataset.notes, len(pending))):
        steps += before
        return _unplanned(llm, steps, str(directory.path), len(questions), len(pending), config.repeat)
    asked = _rendered(system, pending, shared.retrieve(config, pending))
    cached, cache_unknown = found_in_cache(config, [each.prompt for each in asked], llm, shared)
    left = [each for each, is_cached in zip(asked, cached, strict=True) if not is_cached]
    times = {question.id: config.repeat for question in pending}
    if finished:
        again = calls_left(questions, finished, directory.read_repeats(), config.repeat)
        repeated = [question for question in questions if question.id in again]
        left = left + _rendered(system, repeated, [Retrieved(finished[each.id].hits) for each in repeated])
        times |= again
    calls = sorted((_call(each) for each in left), key=lambda call: -call.prompt_tokens)
    n_calls = sum(times[call.question_id] for call in calls)
    return Plan(
        **priced(llm, n_calls, sum(call.prompt_tokens * times[call.question_id] for call in calls)),
        run=str(directory.path),
        steps=steps,
        questions=len(questions),
        answered=len(questions) - len(pending),
        cached=sum(cached),
        cache_unknown=cache_unknown,
        too_long=len(pending) - len(asked),
        left_out=_left_out(asked),
        examples=spread(calls),
    )


def _unplanned(
    llm: LLM, steps: list[str], run: str = "", n_questions: int = 0, n_pending: int | None = None, repeat: int = 1
) -> Plan:
    """A plan that ends before the prompts, since they need what a dry run does not do."""
    n_left = n_questions if n_pending is None else n_pending
    free = priced(llm, 0, 0)
    unknown = Cost(unknown="known when the notes of each question are")
    costs = {} if llm.price is None and not llm.takes_tokens else {"cost_from": unknown, "cost_to": unknown}
    return Plan(
        **{**free, "calls": n_left * repeat, "prompt_tokens": None, "answer_tokens": None, **costs},
        run=run,
        steps=steps,
        questions=n_questions,
        answered=n_questions - n_left,
        cached=0,
        cache_unknown=None,
        too_long=0,
        left_out=LeftOut(),
        examples=[],
    )


def found_in_cache(
    config: RunConfig, prompts: Sequence[RenderedPrompt], llm: LLM, shared: Shared
) -> tuple[list[bool], str | None]:
    """Of which of these prompts the answer is in the cache, or will be when they are asked; or why we can't tell.

    What the server says of its model is a part of the key, so it has to be asked (once), which is free.
    """
    path = cache_dir() / "responses.sqlite"
    if not prompts or not _uses_cache(config) or _key(prompts[0], llm) is None:
        return [False] * len(prompts), None
    unknown = shared.once(("check", id(llm)), lambda: _why_not_there(llm)) if path.exists() else None
    by_earlier_runs: set[str | None] = shared.once("planned requests", set)
    keys = [_key(prompt, llm) for prompt in prompts]
    cache = ResponseCache(path, ask_again=unknown is not None or not path.exists())
    try:
        found = [
            key is not None and (key in by_earlier_runs or kept_answer(llm, cache, key) is not None) for key in keys
        ]
    finally:
        cache.close()
    by_earlier_runs.update(keys)
    return found, unknown


def _rendered(system: System, questions: Sequence[Question], found: Sequence[Retrieved]) -> list[_Asked]:
    """The prompts, without those that are too long even with no note."""
    asked = []
    for question, retrieved in zip(questions, found, strict=True):
        notes = system.notes.get([hit.note_idx for hit in retrieved.hits])
        try:
            asked.append(_Asked(question, retrieved, system.render(question, notes)))
        except PromptTooLongError:
            continue
    return asked


def _uses_cache(config: RunConfig) -> bool:
    """Whether the run would; what a server of our own answers is not kept."""
    return config.cache and not config.fresh and not config.serve and config.repeat == 1


def _why_not_there(llm: LLM) -> str | None:
    try:
        with third_party(f"llm {llm.called()}"):
            llm.check()
    except QilinError as error:
        return str(error)
    return None


def _key(prompt: RenderedPrompt, llm: LLM) -> str | None:
    with third_party(f"llm {llm.called()}"):
        request = llm.request(prompt)
        return None if request is None else request_key(request)


def _call(asked: _Asked) -> Call:
    messages = asked.prompt.messages
    return Call(question_id=asked.question.id, prompt_tokens=estimated_tokens(messages), messages=messages)


def _left_out(asked: Sequence[_Asked]) -> LeftOut:
    return LeftOut(
        not_in_data=sum(each.found.n_missing for each in asked),
        too_long=sum(each.prompt.notes_given - len(each.prompt.notes) for each in asked),
        questions_without_notes=sum(
            not each.prompt.notes and each.prompt.notes_given + each.found.n_missing > 0 for each in asked
        ),
    )
