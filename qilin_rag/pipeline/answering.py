"""Answer the pending questions of a run: retrieve, render the prompt and generate, many at a time."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from qilin_rag.config.run import RunConfig
from qilin_rag.core.errors import UsageError
from qilin_rag.core.progress import Advance
from qilin_rag.core.third_party import third_party
from qilin_rag.core.types import Hit, MissingNotes, Note, Question, RenderedPrompt, Sample
from qilin_rag.data import NoteStore
from qilin_rag.data.note_images import NoteImages
from qilin_rag.llms import ContextOverflowError
from qilin_rag.pipeline.asking import Asked, Asking, Reply, as_line, ask_all, complete
from qilin_rag.pipeline.jobs import Coming, Job, Retrieved
from qilin_rag.pipeline.note_pictures import PictureReader
from qilin_rag.pipeline.run_directory import SAMPLES, RunDirectory
from qilin_rag.prompts.answer import NO_PICTURES, NoteForm, Pictures, Prompt
from qilin_rag.retrievers import Retriever, checked_rankings

logger = logging.getLogger(__name__)


def pending_questions(questions: Sequence[Question], finished: dict[str, Sample]) -> list[Question]:
    """Return the questions that have no settled sample on disk; a filtered answer counts as settled."""
    return [question for question in questions if question.id not in finished or not finished[question.id].is_settled]


def render(
    config: RunConfig, question: Question, notes: Sequence[Note], pictures: Mapping[int, Pictures] = NO_PICTURES
) -> RenderedPrompt:
    """Render the prompt of a question from its notes, which are given best first, and their pictures by note_idx."""
    prompt: Prompt = config.prompt
    return prompt.render(question.query, notes, config.llm.prompt_budget, NoteForm.of(config), question.id, pictures)


def answer(
    asking: Asking,
    config: RunConfig,
    notes: NoteStore,
    jobs: Iterable[Job],
    directory: RunDirectory,
    advance: Advance,
    file_name: str = SAMPLES,
    images: NoteImages | None = None,
    use: Callable[[Sample], None] | None = None,
) -> None:
    """Answer questions from what was retrieved for them; write each sample to disk as soon as it is complete.

    `use` gets each sample that is on disk.
    """
    reader = PictureReader(images, config)
    ask_all(asking, jobs, lambda job: _answer(asking, config, notes, reader, job), directory, advance, file_name, use)


def search(retriever: Retriever, notes: NoteStore, questions: Sequence[Question], k: int) -> list[list[Hit]]:
    """Search for the ranking of each question; raise a UsageError if a result is not a ranking."""
    name = f"retriever {retriever.called()}"
    with third_party(name):
        found = retriever.search(questions, notes, k)
        return checked_rankings(name, questions, found, None if retriever.ignores_k else k)


def known_notes(rankings: Sequence[Sequence[Hit]], notes: NoteStore, missing_notes: MissingNotes) -> list[Retrieved]:
    """Keep the hits that the data has a note for; raise an error for the others, or skip and count them."""
    missing = notes.missing(sorted({hit.note_idx for ranking in rankings for hit in ranking}))
    if missing and missing_notes == "error":
        shown = ", ".join(map(str, missing[:10])) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise UsageError(
            f"the retriever names notes that are not in the data: {shown}; "
            "to leave them out: missing_notes=skip (--missing-notes skip)"
        )
    gone = set(missing)
    return [without_notes(gone, ranking) for ranking in rankings]


def without_notes(unwanted: Collection[int], hits: Sequence[Hit]) -> Retrieved:
    """Leave out the hits of these notes, and rank the others again."""
    there = [hit for hit in hits if hit.note_idx not in unwanted]
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


async def _answer(
    asking: Asking, config: RunConfig, store: NoteStore, reader: PictureReader, job: Job
) -> Asked[Sample]:
    """Ask one question; drop the worst note and ask again as long as the prompt is too long for the LLM."""
    question, found, lost = job
    if isinstance(found, Coming):
        found = await found.get()
    sample: dict[str, Any] = {
        "question_id": question.id,
        "query": question.query,
        "messages": [],
        "hits": found.hits,
        "notes_missing": found.n_missing,
        "notes_given": len(found.hits),
        "notes_used": 0,
    }

    if lost is not None:
        return Asked(Sample(**sample, answer="", raw="", status="failed", error=lost))

    async def ask() -> Reply:
        notes = store.get([hit.note_idx for hit in found.hits])
        read = await reader.read([note.note_idx for note in notes])
        while True:
            prompt = render(config, question, notes, read.pictures)
            sample.update(
                messages=prompt.messages,
                notes_used=len(prompt.notes),
                prompt_notes=[note.note_idx for note in prompt.notes],
                **read.sent_with(prompt),
            )
            try:
                return await complete(asking, prompt)
            except ContextOverflowError:
                if not prompt.notes:
                    raise
                kept = {note.note_idx for note in prompt.notes}  # whole notes go, the worst first, wherever they stand
                notes = [note for note in notes if note.note_idx in kept][:-1]

    return await as_line(Sample, sample, ask)
