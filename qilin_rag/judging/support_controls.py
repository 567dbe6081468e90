"""Answers whose citations are known to be right or wrong, to see what the figures of support are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qilin_rag.core.cited_sentences import cited_sentences, has_letters
from qilin_rag.core.text import sentences, strip_tags
from qilin_rag.core.types import Note, Question, Sample
from qilin_rag.judging.controls import EMPTY, saying
from qilin_rag.judging.run_answers import Answers
from qilin_rag.pipeline.selection import other_questions

QUOTES, OTHER_NOTES = "quotes its notes", "cites other notes"


def support_controls(
    questions: Sequence[Question], samples: Answers, notes: Mapping[int, Note]
) -> dict[str, list[Sample]]:
    """Return the samples of each control, in the order of the questions.

    - `quotes its notes`: the first sentence of each note in the prompt, with its number; must get about 1.
    - `cites other notes`: the run's answer, whose numbers count the notes in the prompt of a question with another
    query; must get about 0. It is left out if there is no other query.
    - `empty answer`: nothing, which is unscored since there is no sentence.

    Args:
        questions: The questions of the run.
        samples: The sample of each.
        notes: The notes of the prompts by id.
    """
    own = {sample.question_id: sample for sample in samples}
    controls = {QUOTES: [saying(sample, _quotations(sample, notes)) for sample in samples]}
    if other := other_questions(questions):
        controls[OTHER_NOTES] = [_with_notes_of(sample, own[other[sample.question_id]]) for sample in samples]
    return {**controls, EMPTY: [saying(sample, "", is_answered=True) for sample in samples]}


def _quotations(sample: Sample, notes: Mapping[int, Note]) -> str:
    numbered = enumerate(sample.known_prompt_notes or [], start=1)
    return "\n".join(_quotation(notes[note_idx], number) for number, note_idx in numbered if note_idx in notes)


def _quotation(note: Note, number: int) -> str:
    """Return the first sentence of a note that can be read as one sentence with this number; empty if none can."""
    for sentence in filter(has_letters, sentences(strip_tags(f"{note.content}\n{note.title}"))):
        line = f"{sentence}[{number}]"
        if [numbers for _, numbers in cited_sentences(line)] == [[number]]:
            return line
    return ""


def _with_notes_of(sample: Sample, other: Sample) -> Sample:
    return sample.model_copy(update={"prompt_notes": other.known_prompt_notes, "hits": [], "notes_used": None})
