"""Retrieve -> prompt -> generate: the questions of a run that have no answer yet, many at a time."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from qilin_rag.config import RunConfig, cache_dir
from qilin_rag.data import NoteStore
from qilin_rag.errors import QilinError, UsageError
from qilin_rag.llms import LLM, ContextOverflowError, LLMError
from qilin_rag.llms.cache import ResponseCache, request_key
from qilin_rag.llms.replies import FILTER_SAID, FILTERED, LENGTH, PASSING, REFUSED, STOP, read_ending
from qilin_rag.llms.same_refusals import SameRefusals
from qilin_rag.llms.servers import serving
from qilin_rag.progress import Advance
from qilin_rag.prompts import BEST_FIRST, NoteForm, Prompt, PromptTooLongError, RenderedPrompt, estimated_tokens
from qilin_rag.retrievers import Retriever, checked_rankings
from qilin_rag.store import SAMPLES, RunDirectory
from qilin_rag.text import clean, fewest_tokens, has_words
from qilin_rag.types import NO_TOKENS, Completion, Exchange, Hit, Mark, MissingNotes, Note, Question, Sample, Status

logger = logging.getLogger(__name__)

T = TypeVar("T")
E = TypeVar("E", bound=Exchange)


class System(NamedTuple):
    """What is evaluated: a retriever over notes, a prompt, and an LLM."""

    retriever: Retriever
    notes: NoteStore
    prompt: Prompt
    llm: LLM
    top_k: int
    missing_notes: MissingNotes
    concurrency: int
    form: NoteForm = BEST_FIRST
    cache: ResponseCache | None = None

    def render(self, question: Question, notes: Sequence[Note]) -> RenderedPrompt:
        """The prompt for a question from its notes, best first."""
        return self.prompt.render(question.query, notes, self.llm.prompt_budget, self.form, question.id)


class Retrieved(NamedTuple):
    """What a question gets: hits whose text is there, and how many others there were."""

    hits: list[Hit]
    n_missing: int = 0


class Job(NamedTuple):
    """One question to ask."""

    question: Question
    found: Retrieved


class Asking(NamedTuple):
    """An LLM and how it is asked."""

    llm: LLM
    concurrency: int
    cache: ResponseCache | None = None


class Asked(NamedTuple, Generic[E]):
    """A line that is done, and what the response cache should keep of it: an answer, whole or cut off.

    `is_refused`: the LLM gave no reply to it, and said why.
    """

    line: E
    kept: tuple[str, Completion] | None = None
    is_refused: bool = False


class Reply(NamedTuple):
    """A completion with the prompt it answers; `key`: the one under which a new one is to be kept."""

    prompt: RenderedPrompt
    completion: Completion
    key: str | None


def pending_questions(questions: Sequence[Question], finished: dict[str, Sample]) -> list[Question]:
    """Return the questions to ask: those without an answer on disk, but for what a filter held back."""
    return [question for question in questions if question.id not in finished or not finished[question.id].is_settled]


def answer(
    system: System,
    jobs: Sequence[Job],
    directory: RunDirectory,
    advance: Advance,
    file_name: str = SAMPLES,
) -> None:
    """Answer these questions from what was retrieved for them; each sample is on disk the moment it is done."""
    asking = Asking(system.llm, system.concurrency, system.cache)
    ask_all(asking, jobs, lambda job: _answer(asking, system, job), directory, advance, file_name)


def ask_all(
    asking: Asking,
    jobs: Iterable[T],
    ask: Callable[[T], Awaitable[Asked[E]]],
    directory: RunDirectory,
    advance: Advance,
    file_name: str,
) -> None:
    """`ask` all jobs, so many at a time; what comes back is a line of the file the moment it is there.

    Jobs are taken from the iterator when their turn comes.
    """
    with directory.line_writer(file_name) as writer:
        same = SameRefusals(directory.path / file_name)

        def finish(asked: Asked[E]) -> None:
            writer.write(asked.line)
            advance(failed=asked.line.is_lost)
            same.end(asked.line, asked.is_refused)

        async def ask_in_turn(job: T) -> Asked[E]:
            await same.begin()
            return await ask(job)

        try:
            _run_async(lambda: _ask_all(asking, jobs, ask_in_turn, finish))
        finally:
            if asking.cache:
                asking.cache.close()


def search(retriever: Retriever, notes: NoteStore, questions: Sequence[Question], k: int) -> list[list[Hit]]:
    """The ranking of each question; one that is none is a UsageError."""
    name = f"retriever {retriever.called()}"
    with third_party(name):
        found = retriever.search(questions, notes, k)
        return checked_rankings(name, questions, found, None if retriever.ignores_k else k)


def known_notes(rankings: Sequence[Sequence[Hit]], notes: NoteStore, missing_notes: MissingNotes) -> list[Retrieved]:
    """The hits that a question gets; those that name no note of the data are an error, or skipped and counted."""
    missing = notes.missing(sorted({hit.note_idx for ranking in rankings for hit in ranking}))
    if missing and missing_notes == "error":
        shown = ", ".join(map(str, missing[:10])) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise UsageError(f"the retriever names notes that are not in the data: {shown}; --missing-notes skip goes on")
    gone = set(missing)
    return [_without(gone, ranking) for ranking in rankings]


def _without(missing: set[int], hits: Sequence[Hit]) -> Retrieved:
    """The hits that are there, ranked anew."""
    there = [hit for hit in hits if hit.note_idx not in missing]
    if len(there) < len(hits):
        there = [hit.model_copy(update={"rank": rank}) for rank, hit in enumerate(there, start=1)]
    return Retrieved(there, len(hits) - len(there))


@contextmanager
def opened(config: RunConfig, llm: LLM, log: Path) -> Iterator[Asking]:
    """An LLM that is there, its server started where it is ours (what that says goes to `log`), and how it is asked."""
    cache = ResponseCache(cache_dir() / "responses.sqlite") if config.cache else None
    with serving(llm, config.llm_label, log) if config.serve else nullcontext(llm) as served:
        with third_party(f"llm {served.called()}"):
            served.check()
        yield Asking(served, config.concurrency, cache)


@contextmanager
def third_party(name: str) -> Iterator[None]:
    """Whatever a component of the user's own raises becomes one line that names it; --verbose shows where."""
    try:
        yield
    except QilinError:
        raise
    except Exception as error:
        logger.debug("%s failed", name, exc_info=True)
        raise QilinError(f"{name} failed: {type(error).__name__}: {error}") from error


def _run_async(work: Callable[[], Any]) -> None:
    """Run a coroutine to its end, in a thread of its own where a loop is running already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work())
        return
    raised: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]


def calls_left(
    questions: Sequence[Question], finished: Mapping[str, Sample], repeats: Iterable[Sample], times: int
) -> dict[str, int]:
    """Count how often each answered question must be asked again, so that `times` calls are settled."""
    done = Counter(sample.question_id for sample in repeats if sample.is_settled)
    return {
        question.id: left
        for question in questions
        if question.id in finished and finished[question.id].is_answered
        if (left := times - 1 - done[question.id]) > 0
    }


async def _ask_all(
    asking: Asking, jobs: Iterable[T], ask: Callable[[T], Awaitable[Asked[E]]], finish: Callable[[Asked[E]], None]
) -> None:
    """Ask all jobs, so many at a time; the first error that stops the run cancels what is under way."""
    queue = iter(jobs)

    async def worker() -> None:
        for job in queue:
            asked = await ask(job)
            finish(asked)
            if asked.kept and asking.cache:  # after the line, so that a cached answer is never one of this run's own
                asking.cache.put(*asked.kept)
            await asyncio.sleep(0)  # a reader that never waits must not keep Ctrl-C waiting either

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(asking.concurrency):
                group.create_task(worker())
    except* QilinError as errors:
        raise errors.exceptions[0] from None
    finally:
        try:
            await asking.llm.close()
        except Exception as error:
            logger.warning("closing %s failed: %s", asking.llm.called(), error)


async def _answer(asking: Asking, system: System, job: Job) -> Asked[Sample]:
    """One question through prompt and LLM."""
    question, found = job
    sample: dict[str, Any] = {
        "question_id": question.id,
        "query": question.query,
        "messages": [],
        "hits": found.hits,
        "notes_missing": found.n_missing,
        "notes_given": len(found.hits),
        "notes_used": 0,
    }

    async def ask() -> Reply:
        notes = system.notes.get([hit.note_idx for hit in found.hits])
        while True:
            prompt = system.render(question, notes)
            sample.update(
                messages=prompt.messages,
                notes_used=len(prompt.notes),
                prompt_notes=[note.note_idx for note in prompt.notes],
            )
            try:
                return await complete(asking, prompt)
            except ContextOverflowError:
                if not prompt.notes:
                    raise
                kept = {note.note_idx for note in prompt.notes}  # whole notes go, the worst first, wherever they stand
                notes = [note for note in notes if note.note_idx in kept][:-1]

    return await as_line(Sample, sample, ask)


async def as_line(kind: type[E], fields: dict[str, Any], ask: Callable[[], Awaitable[Reply]]) -> Asked[E]:
    """A line with these fields and the reply of `ask`; what can't be answered becomes a failed one with the reason.

    `ask` may add to the fields.
    """
    fields |= {"answer": "", "raw": ""}
    try:
        prompt, completion, key = await ask()
        done = kind(**fields | _outcome(completion), short_count=_is_short(prompt, completion))
        return Asked(done, (key, completion) if key and done.is_answered else None)
    except LLMError as error:
        failed = kind(**fields, status="failed", error=clean(str(error)), retries=error.retries)
        return Asked(failed, is_refused=True)
    except PromptTooLongError as error:
        return Asked(kind(**fields, status="failed", error=clean(str(error))))
    except QilinError:
        raise
    except Exception as error:  # an LLM of the user's own may raise anything; it costs this question only
        logger.debug("%s %s", *next(iter(fields.items())), exc_info=True)
        return Asked(kind(**fields, status="failed", error=clean(f"{type(error).__name__}: {error}")))


async def complete(asking: Asking, prompt: RenderedPrompt) -> Reply:
    """The LLM's answer, or that to an earlier request like this."""
    request = asking.llm.request(prompt) if asking.cache else None
    if request is None or asking.cache is None:
        return Reply(prompt, await asking.llm.generate(prompt), None)
    key = request_key(request)
    if found := kept_answer(asking.llm, asking.cache, key):
        return Reply(prompt, found.model_copy(update={"cached": True, "latency_s": 0.0, "retries": 0}), None)
    return Reply(prompt, await asking.llm.generate(prompt), key)


def kept_answer(llm: LLM, cache: ResponseCache, key: str) -> Completion | None:
    """Return the answer to an earlier request; None also where what an older version kept holds none."""
    kept = cache.get(key)
    read = kept and llm.read_again(kept)
    return read if read and _status(read)[0] in ("ok", "truncated") and _has_answer(read) else None


def _is_short(prompt: RenderedPrompt, completion: Completion) -> bool:
    """Whether the server counted fewer tokens than this prompt can have."""
    counted = completion.usage.prompt_tokens
    if not counted or 3 * counted >= estimated_tokens(prompt.messages):  # quickly said, and true of nearly all
        return False
    return counted < sum(fewest_tokens(message["content"]) for message in prompt.messages)


def _outcome(completion: Completion) -> dict[str, Any]:
    """The part of a sample that the LLM made."""
    status, marks = _status(completion)
    return {
        "answer": clean(completion.text),
        "raw": clean(completion.raw),
        "model": clean(completion.model),
        "finish_reason": clean(completion.finish_reason),
        "usage": completion.usage,
        "latency_s": completion.latency_s,
        "cached": completion.cached,
        "retries": completion.retries,
        "status": status,
        "marks": marks,
        "error": _why_unanswered(status, completion),
    }


def _status(completion: Completion) -> tuple[Status, list[Mark]]:
    """The status that a completion gives its question, with the marks of doubt."""
    ended = read_ending(completion.finish_reason)
    if ended in (REFUSED, FILTERED):
        return "filtered", []
    if ended == PASSING:
        return "failed", []
    if ended == LENGTH:
        return "truncated", completion.marks
    if not _has_answer(completion):
        return "empty", []
    return "ok", completion.marks if ended == STOP else [*completion.marks, "odd_ending"]


def _has_answer(completion: Completion) -> bool:
    return has_words(completion.text) or completion.usage == NO_TOKENS


def _why_unanswered(status: Status, completion: Completion) -> str | None:
    """The reason why there is no answer; None where there is one, or a filter held it back without a word."""
    if status == "failed":
        return clean(f"the answer ended with {completion.finish_reason!r}")
    if completion.finish_reason == FILTERED and (completion.why_empty or "").startswith(FILTER_SAID):
        return clean(completion.why_empty or "")
    if read_ending(completion.finish_reason) == REFUSED:
        return clean(completion.why_empty or "refused")
    if _has_answer(completion) or completion.finish_reason == FILTERED:
        return None
    why = completion.why_empty or "there is nothing to be seen in the answer"
    is_odd = status == "empty" and read_ending(completion.finish_reason) != STOP
    return clean(f"{why}; it ended with {completion.finish_reason!r}" if is_odd else why)
