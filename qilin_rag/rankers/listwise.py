"""Rank by an LLM that orders the notes of a question in windows: RankGPT (Sun et al. 2023)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, PositiveInt, PrivateAttr, model_validator

from qilin_rag.config.presets import llm_label_of, named_llm
from qilin_rag.core.cache import cache_dir
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.event_loops import for_each, run_async
from qilin_rag.core.progress import Advance, stage
from qilin_rag.core.registry import LLMS
from qilin_rag.core.text import counted, estimate_tokens
from qilin_rag.core.types import Note, Price, RerankUse, Usage
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.notes import NoteStore
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.llms.base import LLM, FilteredError, LLMError
from qilin_rag.llms.cache import ResponseCache
from qilin_rag.llms.cached_answers import cached_completion, is_answer, status_of
from qilin_rag.llms.same_refusals import SAME_REFUSALS, without_numbers
from qilin_rag.prompts.judge import quote
from qilin_rag.prompts.rerank import ListwisePrompt, load_listwise_prompt
from qilin_rag.prompts.templates import PromptTooLongError, estimated_tokens
from qilin_rag.rankers.base import Ranker
from qilin_rag.rankers.passages import matching_part
from qilin_rag.rankers.windows import UnreadableOrderError, WindowOrder, count_windows, read_order, windows

logger = logging.getLogger(__name__)
_MOST_OF_REASON = 100  # characters


class LLMReranker(Ranker):
    """An LLM as listwise reranker, as in RankGPT (Sun et al. 2023): `llm:PRESET`.

    A window slides over the hits of a question from the end to the front, and the LLM orders the notes in it. The
    windows of one question follow each other; questions are asked at the same time. A reply that can't be used is asked
    for once more; then the window keeps its order. Replies are kept in the response cache, by the whole request. The n
    notes of a question score n, n-1, ..., 1.

    Example:
        >>> LLMReranker(llm="qwen2.5-72b", window=10, step=5).title
        'llm:qwen2.5-72b'
    """

    argument: ClassVar[str | None] = "llm"
    operational: ClassVar[frozenset[str]] = frozenset({"llm", "llm_settings", "language", "concurrency"})

    llm: str
    """The LLM: a preset, `gguf:FILE`, or a class (see: list llms)."""
    llm_settings: dict[str, Any] = {}
    """Settings of the LLM that differ from its preset; on the command line rerank.llm.KEY=VALUE."""
    window: Annotated[int, Field(ge=2)] = 20
    """The number of notes that the LLM orders at a time."""
    step: PositiveInt | None = None
    """The number of notes by which the window moves on, at most `window`. Default: half of it."""
    note_chars: PositiveInt = 300
    """The most characters of a note's content, from the part that fits the query best."""
    language: Literal["zh", "en"] = "zh"
    """The language of the prompt (`prompts/rerank/`)."""
    concurrency: PositiveInt = 16
    """The most questions at a time."""

    _llm: LLM = PrivateAttr()
    _label: str = PrivateAttr()
    _prompt: ListwisePrompt = PrivateAttr()
    _use: RerankUse | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _open(self) -> LLMReranker:
        """Make the LLM and read the prompt, so that a wrong setting is an error at once."""
        if self.moves > self.window:
            raise ValueError(f"step {self.step} is larger than window {self.window}, which would leave notes out")
        settings = {**named_llm(self.llm), **self.llm_settings}
        kind = settings.pop("name")
        if _is_other_provider(self.llm, self.llm_settings):
            settings["price"] = self.llm_settings.get("price")
        self._llm = LLMS.create(kind, settings, at="rerank.llm")
        if not self._llm.takes_tokens:
            raise UsageError(f"rerank llm:{self.llm} can't order notes: it is no language model; name one (list llms)")
        self._label, _ = llm_label_of(self.llm, {"model": settings.get("model", "")}, kind, settings)
        self._prompt = load_listwise_prompt(self.language)
        return self

    @property
    def moves(self) -> int:
        """Return the number of notes by which the window moves on."""
        return self.window // 2 if self.step is None else self.step

    @property
    def title(self) -> str:
        """Return the name in tables and in names of folders."""
        return f"llm:{self._label}"

    @property
    def price(self) -> Price | None:
        """Return what the LLM's provider charges."""
        return self._llm.price

    @property
    def asked_llm(self) -> LLM:
        """Return the LLM that orders notes."""
        return self._llm

    @property
    def answer_budget(self) -> int | None:
        """Return the most tokens of a reply."""
        return self._llm.answer_budget

    def identity(self) -> dict[str, Any]:
        """Add the identity of the LLM and the hash of the prompt."""
        asked = {"llm": self._llm.identity(), "prompt": self._prompt.sha256}
        return super().identity() | {"step": self.moves, **asked}

    def differences(self) -> dict[str, Any]:
        """Return the settings that change an order and are not those of the name alone, for tables."""
        language = {} if self.language == "zh" else {"language": self.language}
        preset = {**named_llm(self.llm), "model": getattr(self._llm, "model", None)}
        return {**self.changed(), **language, **self._llm.changed(preset)}

    def recorded(self) -> dict[str, Any]:
        """Return the settings for a manifest: with all settings of the LLM, since a preset may change."""
        of_llm = self._llm.model_dump(
            mode="json", exclude={"engine"} if "engine" in type(self._llm).model_fields else {}
        )
        return {**self.model_dump(mode="json", exclude={"llm"}), "llm_settings": of_llm}

    @classmethod
    def names_code(cls, settings: Mapping[str, Any]) -> bool:
        """Return whether the LLM is a user's own code."""
        of_llm = {**named_llm(str(settings.get("llm", ""))), **(settings.get("llm_settings") or {})}
        return LLMS.names_code(of_llm.pop("name"), of_llm)

    def check(self) -> str:
        """Ask the LLM's server for its models."""
        facts = self._llm.check()
        return f"{self.title} at {facts['base_url']} answers" if "base_url" in facts else f"{self.title} can be asked"

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        """Score the candidates of each request by their places; the LLM first sees them in the order of their hash."""
        spans = list(zip(requests.offsets[:-1].tolist(), requests.offsets[1:].tolist(), strict=True))
        found = [requests.note_idx[start:end].tolist() for start, end in spans]
        scores = np.zeros(requests.n_candidates, np.float32)
        for (start, end), before, after in zip(
            spans, found, self.order(requests.queries, found, catalogue.notes), strict=True
        ):
            of_note = {note_idx: float(len(after) - place) for place, note_idx in enumerate(after)}
            scores[start:end] = [of_note[note_idx] for note_idx in before]
        return scores

    def order(
        self, queries: Sequence[str], found: Sequence[Sequence[int]], notes: NoteStore, use_cache: bool = True
    ) -> list[list[int]]:
        """Order notes by the LLM.

        Args:
            queries: The query of each question.
            found: The notes of each question by note_idx, best first.
            notes: The corpus.
            use_cache: Whether to take replies to equal requests from the response cache, and keep new ones there.

        Returns:
            The notes of each question in the new order.

        Raises:
            FatalLLMError: if the LLM can't be asked.
            UsageError: if a window is too long for the LLM.
            QilinError: if the LLM refuses all requests.
        """
        jobs = list(dict.fromkeys((query, tuple(of_query)) for query, of_query in zip(queries, found, strict=True)))
        n_windows = sum(count_windows(len(of_query), self.window, self.moves) for _, of_query in jobs)
        orders: dict[tuple[str, tuple[int, ...]], list[int]] = {}
        if n_windows:
            self._llm.check()
        session = _Session(self, ResponseCache(cache_dir() / "responses.sqlite") if use_cache else None)

        async def order(job: tuple[str, tuple[int, ...]]) -> None:
            orders[job] = await session.order_one(*job, notes, advance)

        async def order_all() -> None:
            try:
                await for_each(jobs, order, self.concurrency)
            finally:
                await self._llm.close()

        try:
            with stage("reranking", n_windows) as advance:
                run_async(order_all)
        finally:
            session.close()
            self._use = session.use if self._use is None else self._use.plus(session.use)
        session.check_answered()
        session.say()
        return [list(orders[query, tuple(of_query)]) for query, of_query in zip(queries, found, strict=True)]

    def take_use(self) -> RerankUse | None:
        """Return what was asked for since the last call; None if nothing was."""
        use, self._use = self._use, None
        return use if use and use.windows else None

    def prompt_tokens(self, queries: Sequence[str], notes: Sequence[Note], n_notes: int) -> int:
        """Estimate the tokens of one prompt about each query, with `n_notes` notes like these."""
        of_notes = sum(estimate_tokens(quote(text)) for text in self.texts("", notes)) * n_notes // max(1, len(notes))
        of_template = estimated_tokens(self._prompt.render("", [""] * n_notes).messages)
        return len(queries) * (of_notes + of_template) + sum(map(estimate_tokens, queries))

    def texts(self, query: str, notes: Sequence[Note]) -> list[str]:
        """Return the text of each note that the LLM is shown: on one line, cut to `note_chars`."""
        return [" ".join(matching_part(note, query, self.note_chars).split()) for note in notes]


class _Window(NamedTuple):
    """The notes of a window as the LLM is shown them."""

    query: str
    texts: list[str]


class _Session:
    """Asks about windows, and counts what comes back."""

    def __init__(self, ranker: LLMReranker, cache: ResponseCache | None) -> None:
        self._ranker, self._llm, self._prompt = ranker, ranker._llm, ranker._prompt
        self._cache = cache
        self._n_refused, self._reason = 0, ""
        self.use = RerankUse()

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()

    async def order_one(self, query: str, note_idxs: Sequence[int], notes: NoteStore, advance: Advance) -> list[int]:
        """Return the notes of one question in their new order."""
        order = list(note_idxs)
        texts = dict(zip(order, self._ranker.texts(query, notes.get(order)), strict=True))
        for start, end in windows(len(order), self._ranker.window, self._ranker.moves):
            inside = order[start:end]
            read = await self._order_window(_Window(query, [texts[note_idx] for note_idx in inside]))
            if read is not None:
                order[start:end] = [inside[place] for place in read.places]
            advance(failed=read is None)
        return order

    async def _order_window(self, window: _Window) -> WindowOrder | None:
        """Return the LLM's order of a window; None if it keeps its own, since no reply can be used."""
        try:
            prompt = self._prompt.render(window.query, window.texts, self._llm.prompt_budget)
        except PromptTooLongError as error:
            raise UsageError(
                f"{self._ranker.title}: {error}; lower rerank.note_chars or rerank.window, or raise the LLM's "
                "context (rerank.llm.context_length)"
            ) from error
        why = ""
        try:
            for _ in range(2):
                completion, key = await cached_completion(self._llm, self._cache, prompt)
                if key and self._cache and is_answer(completion):
                    self._cache.put(key, completion)
                self._count(completion.usage, completion.cached)
                why = "" if is_answer(completion) else status_of(completion)[0]
                if why == "filtered":  # the filter would act again
                    break
                try:
                    read = read_order(completion.text if not why else "", len(window.texts), window.texts)
                except UnreadableOrderError as error:
                    why = why or str(error)
                    prompt = self._prompt.render_again(prompt, window.texts, completion.text)
                    continue
                self._add(windows=1, missing=read.missing, repeated=read.repeated, outside=read.outside)
                return read
        except LLMError as error:
            why = self._refused(error)
        except QilinError:
            raise
        except Exception as error:  # an LLM of the user's own may raise anything; it costs this window only
            why = self._refused(LLMError(f"{type(error).__name__}: {error}"))
        self._add(windows=1, kept={why: 1})
        return None

    def _refused(self, error: LLMError) -> str:
        """Return the reason of a failed request in short; stop if no request is ever answered."""
        if isinstance(error, FilteredError):
            return "filtered"
        self._n_refused, self._reason = self._n_refused + 1, " ".join(str(error).split())
        if self._n_refused >= SAME_REFUSALS:
            self.check_answered()
        return f"failed ({without_numbers(self._reason)[:_MOST_OF_REASON]})"

    def check_answered(self) -> None:
        """Raise a QilinError if requests failed, and none was answered."""
        if self._n_refused and not self.use.requests + self.use.cached:
            raise QilinError(
                f"{self._ranker.title}: no request was answered, and {counted(self._n_refused, 'request')} failed; "
                f"the last: {self._reason}"
            )

    def _count(self, usage: Usage, is_cached: bool) -> None:
        if is_cached:
            self._add(cached=1)
        else:
            is_counted = usage.prompt_tokens is not None and usage.completion_tokens is not None
            self._add(requests=1, uncounted=int(not is_counted), usage=usage)

    def _add(self, **counts: Any) -> None:
        self.use = self.use.plus(RerankUse(**counts))

    def say(self) -> None:
        """Log, in one line, how many windows kept their order and why, and what was wrong in other replies."""
        use = self.use
        wrong = [
            f"{n} {what}"
            for n, what in ((use.missing, "left out"), (use.repeated, "repeated"), (use.outside, "of no note"))
            if n
        ]
        if n_kept := sum(use.kept.values()):
            reasons = ", ".join(f"{n} {reason}" for reason, n in use.kept.items())
            others = f"; in the other replies, numbers of notes were wrong: {', '.join(wrong)}" if wrong else ""
            logger.warning(
                "%s: %d of %s kept the retriever's order (%.1f %%), since no reply could be used: %s%s",
                *(self._ranker.title, n_kept, counted(use.windows, "window"), 100 * n_kept / use.windows),
                *(reasons, others),
            )
        elif wrong:
            logger.info(
                "%s: numbers of notes in %s: %s", self._ranker.title, counted(use.windows, "window"), ", ".join(wrong)
            )


def _is_other_provider(name: str, changed: Mapping[str, Any]) -> bool:
    """Return whether settings name another model or address than the preset, whose price then does not count."""
    preset = named_llm(name)
    return any(key in changed and changed[key] != preset.get(key) for key in ("model", "base_url"))
