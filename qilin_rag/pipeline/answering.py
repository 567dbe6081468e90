"""Retrieve -> prompt -> generate: the questions of a run that have no answer yet, many at a time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from qilin_rag.config.run import RunConfig
from qilin_rag.core.errors import UsageError
from qilin_rag.core.progress import Advance
from qilin_rag.core.third_party import third_party
from qilin_rag.core.types import Hit, MissingNotes, Note, Question, RenderedPrompt, Sample
from qilin_rag.data import NoteStore
from qilin_rag.llms import ContextOverflowError
from qilin_rag.pipeline.asking import Asked, Asking, Reply, as_line, ask_all, complete
from qilin_rag.pipeline.run_directory import SAMPLES, RunDirectory
from qilin_rag.prompts.answer import NoteForm, Prompt
from qilin_rag.retrievers import Retriever, checked_rankings

logger = logging.getLogger(__name__)


class Retrieved(NamedTuple):
    """What a question gets: hits whose text is there, and how many others there were."""

    hits: list[Hit]
    n_missing: int = 0


class Job(NamedTuple):
    """One question to ask."""

    question: Question
    found: Retrieved


def pending_questions(questions: Sequence[Question], finished: dict[str, Sample]) -> list[Question]:
    """Return the questions to ask: those without an answer on disk, but for what a filter held back."""
    return [question for question in questions if question.id not in finished or not finished[question.id].is_settled]


def render(config: RunConfig, question: Question, notes: Sequence[Note]) -> RenderedPrompt:
    """The prompt for a question from its notes, best first."""
    prompt: Prompt = config.prompt
    return prompt.render(question.query, notes, config.llm.prompt_budget, NoteForm.of(config), question.id)


def answer(
    asking: Asking,
    config: RunConfig,
    notes: NoteStore,
    jobs: Sequence[Job],
    directory: RunDirectory,
    advance: Advance,
    file_name: str = SAMPLES,
) -> None:
    """Answer these questions from what was retrieved for them; each sample is on disk the moment it is done."""
    ask_all(asking, jobs, lambda job: _answer(asking, config, notes, job), directory, advance, file_name)


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


async def _answer(asking: Asking, config: RunConfig, store: NoteStore, job: Job) -> Asked[Sample]:
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
        notes = store.get([hit.note_idx for hit in found.hits])
        while True:
            prompt = render(config, question, notes)
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
