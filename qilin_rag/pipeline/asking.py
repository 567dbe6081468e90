"""Ask an LLM many things at a time, and write each reply to disk as soon as it arrives."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from operator import length_hint
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from qilin_rag.config.run import LLMConfig
from qilin_rag.core.cache import cache_dir
from qilin_rag.core.errors import QilinError
from qilin_rag.core.event_loops import for_each, run_async
from qilin_rag.core.progress import Advance
from qilin_rag.core.text import clean, fewest_tokens
from qilin_rag.core.third_party import third_party
from qilin_rag.core.types import Completion, Exchange, RenderedPrompt, Status
from qilin_rag.llms import LLM, LLMError
from qilin_rag.llms.cache import ResponseCache
from qilin_rag.llms.cached_answers import cached_completion, has_answer, status_of
from qilin_rag.llms.ceiling import waiting_as
from qilin_rag.llms.replies import FILTER_SAID, FILTERED, REFUSED, STOP, read_ending
from qilin_rag.llms.same_refusals import SameRefusals, without_numbers
from qilin_rag.llms.serving.server import serving
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.prompts.templates import PromptTooLongError, estimated_tokens

logger = logging.getLogger(__name__)


def most_frequent_reason(lost: Iterable[Exchange]) -> str:
    """Return the end of a message about lines without an answer: the most frequent reason, and its count."""
    reasons = [line.error or line.why_unanswered for line in lost]
    if not reasons:
        return ""
    [(most, n)] = Counter(map(without_numbers, reasons)).most_common(1)
    first = next(reason for reason in reasons if without_numbers(reason) == most)
    return f"; {'all' if n == len(reasons) else f'most often ({n} of {len(reasons)})'}: {first}"


def is_too_many(failed: int, total: int, fail_on_error: float) -> bool:
    """Return whether more failed than allowed; `fail_on_error` is a share if it is below 1, else a number."""
    return failed > (fail_on_error * total if fail_on_error < 1 else fail_on_error)


T = TypeVar("T")
E = TypeVar("E", bound=Exchange)


class Asking(NamedTuple):
    """An LLM and how it is asked: one request each, so many at a time, or by batch.

    Without `waits`, batches are submitted, and those that have ended are read; then comes a `SubmittedError`.
    """

    llm: LLM
    concurrency: int
    cache: ResponseCache | None = None
    batch: bool = False
    waits: bool = True


class Asked(NamedTuple, Generic[E]):
    """A finished line, and the completion that the response cache should keep, with its key.

    `is_refused`: the LLM refused the request, and said why.
    """

    line: E
    kept: tuple[str, Completion] | None = None
    is_refused: bool = False


class Reply(NamedTuple):
    """A completion and its prompt; `key` is the cache key to keep it under, None if it must not be kept."""

    prompt: RenderedPrompt
    completion: Completion
    key: str | None


def ask_all(
    asking: Asking,
    jobs: Iterable[T],
    ask: Callable[[T], Awaitable[Asked[E]]],
    directory: RunDirectory,
    advance: Advance,
    file_name: str,
    use: Callable[[E], None] | None = None,
) -> None:
    """Call `ask` for every job, `asking.concurrency` at a time, and append each result to the file at once.

    With `asking.batch`, the jobs run until all wait for a reply, which a batch brings them: as many as it can hold.

    A job is taken from the iterator when its turn comes. `use` gets each line when it is in the file.
    """
    with directory.line_writer(file_name) as writer:
        same = SameRefusals(directory.path / file_name)

        def finish(asked: Asked[E], mark: Callable[[int], None] | None) -> None:
            writer.write(asked.line, mark)
            advance(failed=asked.line.is_lost)
            same.end(asked.line, asked.is_refused)
            if use is not None:
                use(asked.line)

        try:
            if asking.batch:
                run_async(lambda: _ask_by_batch(asking, jobs, ask, same, finish, directory.path / file_name))
            else:
                run_async(lambda: _ask_all(asking, jobs, ask, same, finish))
        finally:
            if asking.cache:
                asking.cache.close()


@contextmanager
def started(config: LLMConfig, log: Path) -> Iterator[LLM]:
    """Yield the LLM that `config` starts here: at a server, or by batch as an engine that answers files of requests."""
    if config.batch:
        from qilin_rag.llms.batch.offline import offline

        with offline(config.llm, config.llm_label, log) as llm:
            yield llm
    else:
        with serving(config.llm, config.llm_label, log) as served:
            yield served


@contextmanager
def opened(config: LLMConfig, log: Path) -> Iterator[Asking]:
    """Yield a ready LLM. Starts its server first if it has one of its own, and stops it on exit."""
    cache = ResponseCache(cache_dir() / "responses.sqlite") if config.cache else None
    with started(config, log) if config.serve else nullcontext(config.llm) as served:
        with third_party(f"llm {served.called()}"):
            served.check()
        yield Asking(served, config.concurrency, cache, config.batch)


Finish = Callable[[Asked[E], Callable[[int], None] | None], None]


async def _ask_all(
    asking: Asking, jobs: Iterable[T], ask: Callable[[T], Awaitable[Asked[E]]], same: SameRefusals, finish: Finish[E]
) -> None:
    """Ask about all jobs; the first error that stops the run cancels the calls in flight."""

    async def do(job: T) -> None:
        await same.begin()
        asked = await ask(job)
        finish(asked, None)
        _keep(asking, asked)

    try:
        await for_each(jobs, do, asking.concurrency)
    finally:
        await _close(asking.llm)


async def _ask_by_batch(
    asking: Asking,
    jobs: Iterable[T],
    ask: Callable[[T], Awaitable[Asked[E]]],
    same: SameRefusals,
    finish: Finish[E],
    path: Path,
) -> None:
    """Ask about all jobs by batch; what came by batch is marked as used when its line is in the file `path`."""
    from qilin_rag.llms.batch.services import collecting

    async with collecting(asking.llm, path, length_hint(jobs, sys.maxsize), asking.waits) as collector:

        async def do(job: T) -> None:
            with collector.standing_by():  # those before it may have to get their replies first
                await same.begin()
            async with collector.job() as collected:
                asked = await ask(job)
                is_by_batch = bool(collected.taken) and not asked.line.cached
                if is_by_batch:
                    asked = asked._replace(line=asked.line.model_copy(update={"batch": True, "latency_s": None}))
                finish(asked, collected.mark if collected.taken else None)
            _keep(asking, asked)

        try:
            with waiting_as(collector.standing_by):
                await for_each(jobs, do, collector.n_workers, collector.worker_ended)
        finally:
            await _close(asking.llm)


def _keep(asking: Asking, asked: Asked[Any]) -> None:
    """Keep an answer in the response cache, after its line, so that a cached one is never of this run's own."""
    if asked.kept and asking.cache:
        asking.cache.put(*asked.kept)


async def _close(llm: LLM) -> None:
    try:
        await llm.close()
    except Exception as error:
        logger.warning("closing %s failed: %s", llm.called(), error)


async def as_line(kind: type[E], fields: dict[str, Any], ask: Callable[[], Awaitable[Reply]]) -> Asked[E]:
    """Make a line of `fields` and the reply of `ask`; a call that fails gives a failed line with the reason.

    `ask` may add to the fields.
    """
    fields |= {"answer": "", "raw": ""}
    try:
        prompt, completion, key = await ask()
        done = kind(**fields | _outcome(completion), short_count=_is_short(prompt, completion))
        return Asked(done, (key, completion) if key and done.is_answered else None)
    except LLMError as error:
        lost = {"retries": error.retries, "discarded": error.discarded}
        failed = kind(**fields, status="failed", error=clean(str(error)), **lost)
        return Asked(failed, is_refused=True)
    except PromptTooLongError as error:
        return Asked(kind(**fields, status="failed", error=clean(str(error))))
    except QilinError:
        raise
    except Exception as error:  # an LLM of the user's own may raise anything; it costs this question only
        logger.debug("%s %s", *next(iter(fields.items())), exc_info=True)
        return Asked(kind(**fields, status="failed", error=clean(f"{type(error).__name__}: {error}")))


async def complete(asking: Asking, prompt: RenderedPrompt) -> Reply:
    """Return the LLM's answer, from the response cache if it holds one for the same request."""
    return Reply(prompt, *await cached_completion(asking.llm, asking.cache, prompt))


def _is_short(prompt: RenderedPrompt, completion: Completion) -> bool:
    """Return whether the server counted fewer tokens than this prompt must have."""
    counted = completion.usage.prompt_tokens
    if not counted or 3 * counted >= estimated_tokens(prompt.messages):  # quickly said, and true of nearly all
        return False
    return counted < sum(fewest_tokens(message["content"]) for message in prompt.messages)


def _outcome(completion: Completion) -> dict[str, Any]:
    """Return the fields of a sample that come from the completion."""
    status, marks = status_of(completion)
    return {
        "answer": clean(completion.text),
        "raw": clean(completion.raw),
        "model": clean(completion.model),
        "finish_reason": clean(completion.finish_reason),
        "usage": completion.usage,
        "latency_s": completion.latency_s,
        "cached": completion.cached,
        "retries": completion.retries,
        "batch": completion.batch,
        "discarded": completion.discarded,
        "status": status,
        "marks": marks,
        "error": _why_unanswered(status, completion),
    }


def _why_unanswered(status: Status, completion: Completion) -> str | None:
    """Return why there is no answer; None if there is one, or if a filter withheld it without a reason."""
    if status == "failed":
        return clean(f"the answer ended with {completion.finish_reason!r}")
    if completion.finish_reason == FILTERED and (completion.why_empty or "").startswith(FILTER_SAID):
        return clean(completion.why_empty or "")
    if read_ending(completion.finish_reason) == REFUSED:
        return clean(completion.why_empty or "refused")
    if has_answer(completion) or completion.finish_reason == FILTERED:
        return None
    why = completion.why_empty or "there is nothing to be seen in the answer"
    is_odd = status == "empty" and read_ending(completion.finish_reason) != STOP
    return clean(f"{why}; it ended with {completion.finish_reason!r}" if is_odd else why)
