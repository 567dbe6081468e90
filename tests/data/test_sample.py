"""The bundled sample is what the README says of it."""

from __future__ import annotations

import re
from itertools import pairwise

from qilin_rag.core.text import mixed_tokens, normalise
from qilin_rag.data import SAMPLE_LABEL, load_dataset


def test_size_and_label() -> None:
    sample = load_dataset("sample")
    assert sample.label == SAMPLE_LABEL == "bundled sample, not Qilin"
    assert len(sample.notes) >= 200
    assert len(sample.questions) == 60
    assert sum(len(question.reference_notes) > 1 for question in sample.questions) >= 10


def test_answers_are_long_and_cite_exactly_their_notes() -> None:
    sample = load_dataset("sample")
    for question in sample.questions:
        sample.notes.get(question.reference_notes)
        for answer in question.references:
            assert 150 <= len(answer) <= 400, question.id
            cited = {int(number) for number in re.findall(r"\[第(\d+)篇\]\(#\)", answer)}
            assert cited == set(range(1, len(question.reference_notes) + 1)), question.id


def test_answers_come_from_their_notes() -> None:
    """More of an answer's character pairs stand in its reference notes than in any other note."""
    sample = load_dataset("sample")
    grams = {note.note_idx: bigrams(note.text) for note in sample.notes}
    for question in sample.questions:
        wanted = bigrams(question.references[0])
        own = set().union(*(grams[note_idx] for note_idx in question.reference_notes))
        others = max(len(wanted & grams[i]) for i in grams if i not in question.reference_notes)
        assert len(wanted & own) > others, question.id


def test_notes_look_like_the_platforms() -> None:
    notes = list(load_dataset("sample").notes)
    text = "".join(note.text for note in notes)
    assert text.count("[话题]#") > 200
    assert len(re.findall(r"\[\w{1,4}R\]", text)) > 50
    assert any(not note.title for note in notes)
    assert len({note.text for note in notes}) == len(notes)


def bigrams(text: str) -> set[str]:
    tokens = mixed_tokens(normalise(text))
    return {a + b for a, b in pairwise(tokens)}
