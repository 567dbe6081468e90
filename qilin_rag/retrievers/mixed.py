"""Give notes whose share of right ones is known: right and wrong notes mixed, or none that answers the question.

Noise and refusal are measured so by RGB (Chen et al. 2024, https://arxiv.org/abs/2309.01431).
"""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
    field_serializer,
    model_validator,
)

from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import RETRIEVERS
from qilin_rag.core.text import counted, query_key
from qilin_rag.core.types import Hit, Note, Question
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.base import Retriever, checked_rankings
from qilin_rag.retrievers.none import NoRetriever
from qilin_rag.retrievers.oracle import Oracle
from qilin_rag.retrievers.parts import Composite, named_part, split_part

logger = logging.getLogger(__name__)
RANDOM = "random"
_NUMBER = TypeAdapter(NonNegativeInt)


class WithoutReferences(Composite):
    """A retriever that takes from another one what is not a reference note of the question."""

    def _make_part(self, value: Mapping[str, Any]) -> None:
        """Build the retriever whose hits are taken."""
        name, settings = split_part(value)
        cls = RETRIEVERS.resolve(name)
        if issubclass(cls, WithoutReferences):
            raise ValueError(f"{self.part_setting} can't be {name}; name a retriever that searches, such as bm25")
        if issubclass(cls, Oracle | NoRetriever):
            raise ValueError(f"{self.part_setting} can't be {name}, which finds no other note than reference notes")
        self._parts.append((name, RETRIEVERS.create(name, settings, at=f"retriever.{self.part_setting}")))

    def identity(self) -> dict[str, Any]:
        """Return the settings, with the identity of the part."""
        whole = super().identity()
        return whole | {self.part_setting: self._parts[0][1].identity()} if self._parts else whole

    def changed(self, base: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """Return the changed settings, with the part under its name in tables."""
        changed = super().changed(base)
        return changed | ({self.part_setting: self.called_parts()} if self.part_setting in changed else {})


class Mixed(WithoutReferences):
    """`k_right` reference notes and `k_wrong` others: how much noise can an LLM bear (RGB, Chen et al. 2024)?

    The right notes are the first reference notes, in the order they are cited. The wrong ones are drawn at random, or
    are the best hits of another retriever: hard ones. None is a reference note of the question, or has the text of one
    (apart from case, width and white space). A question's notes depend on the settings and its id only. The wrong notes
    at a lower `k_wrong` are the first of those at a higher one.

    A question with fewer reference notes than `k_right`, or fewer others than `k_wrong`, gets fewer notes; a warning
    says how many do.

    Example:
        >>> import qilin_rag as qr
        >>> mixed = qr.Mixed(k_right=1, k_wrong=4, wrong=qr.BM25())
        >>> qr.run(retriever=mixed, limit=20, metrics="rouge_l").metrics["recall@5"].value > 0
        True
    """

    argument: ClassVar[str | None] = "wrong"
    part_setting: ClassVar[str] = "wrong"

    k_right: NonNegativeInt | None = None
    """The number of reference notes. Default: the rest of `top_k`."""
    k_wrong: NonNegativeInt = 2
    """The number of other notes, at most `top_k`."""
    wrong: Annotated[Any, BeforeValidator(named_part), Field(validate_default=True)] = RANDOM
    """The other notes: random, or hard ones, the best hits of a retriever, by name or a mapping with `name` and its
    settings.
    """
    order: Literal["right_first", "wrong_first", "shuffled"] = "shuffled"
    """The order of the notes: right_first, wrong_first, or shuffled."""
    seed: int = 0
    """The seed of random notes and of a shuffled order, an integer."""

    @model_validator(mode="after")
    def _check(self) -> Mixed:
        if self.k_right == 0 == self.k_wrong:
            raise ValueError("k_right and k_wrong are both 0; for no notes, use the retriever none")
        if self.wrong["name"] != RANDOM:
            self._make_part(self.wrong)
        elif len(self.wrong) > 1:
            raise ValueError("random notes are drawn by retriever.seed; write wrong: random")
        return self

    @field_serializer("wrong")
    def _whole(self, wrong: Any) -> Any:
        """Serialise the retriever with all its settings, as it is used."""
        return self.in_full()[0] if self._parts else RANDOM

    @property
    def parts(self) -> list[Retriever]:
        """Return the retriever of hard notes, if any are asked for."""
        return super().parts if self.k_wrong else []

    @classmethod
    def usual_top_k(cls, settings: Mapping[str, Any]) -> int | None:
        """Return the number of notes, if both numbers are set."""
        numbers = (settings.get("k_right"), settings.get("k_wrong", cls.model_fields["k_wrong"].default))
        try:
            return sum(map(_NUMBER.validate_python, numbers)) or None
        except ValidationError:  # one is not set, or wrong, which is reported when the retriever is made
            return None

    def check_k(self, k: int) -> None:
        """Raise a UsageError if the notes are more than `k`."""
        n_notes = (self.k_right or 0) + self.k_wrong
        if n_notes > k:
            right = "" if self.k_right is None else f"k_right {self.k_right} and "
            raise UsageError(
                f"retriever mixed: {right}k_wrong {self.k_wrong} need {counted(n_notes, 'note')}, but top_k is {k}; "
                f"set top_k to {n_notes}, or ask for fewer"
            )

    @property
    def reads_query(self) -> bool:
        """Return False: which of its notes are right and wrong is set."""
        return False

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return the notes of each question with the scores n, n-1, ..., 1 in their order."""
        self.check_k(k)
        n_right = k - self.k_wrong if self.k_right is None else self.k_right
        barred = [Barred.of(question, notes) for question in questions]
        if self.parts:
            found = _best_others(self.called(), self.parts[0], questions, barred, notes, self.k_wrong)
            wrong = [[hit.note_idx for hit in hits] for hits in found]
        else:
            wrong = self._drawn(questions, barred, notes)
        right = [list(dict.fromkeys(question.reference_notes))[:n_right] for question in questions]
        as_asked = logging.INFO if self.k_right is None else logging.WARNING  # the rest of top_k is only a limit
        _say_short(as_asked, "reference notes", [len(each) for each in right], n_right)
        _say_short(logging.WARNING, "other notes", [len(each) for each in wrong], self.k_wrong)
        return [self._mixed(*each) for each in zip(questions, right, wrong, strict=True)]

    def _drawn(self, questions: Sequence[Question], barred: Sequence[Barred], notes: NoteStore) -> list[list[int]]:
        """Draw wrong notes at random."""
        note_idxs = np.sort(notes.note_idxs)
        drawn = []
        for question, unwanted in zip(questions, barred, strict=True):
            its: list[int] = []
            places = _permuted(len(note_idxs), random.Random(f"{self.seed} {question.id}"))
            while len(its) < self.k_wrong and (place := next(places, None)) is not None:
                if not unwanted.bars(notes.get([int(note_idxs[place])])[0]):
                    its.append(int(note_idxs[place]))
            drawn.append(its)
        return drawn

    def _mixed(self, question: Question, right: list[int], wrong: list[int]) -> list[Hit]:
        chosen = [*wrong, *right] if self.order == "wrong_first" else [*right, *wrong]
        if self.order == "shuffled":  # a note has its own number, so that the others keep their order without it
            places = {n: random.Random(f"{self.seed} {question.id} {n}").random() for n in chosen}
            chosen.sort(key=places.__getitem__)
        return [Hit(note_idx=n, score=float(len(chosen) - rank + 1), rank=rank) for rank, n in enumerate(chosen, 1)]


class Unanswerable(WithoutReferences):
    """The hits of another retriever without the reference notes: does an LLM refuse what it can't know?

    Notes with the text of a reference note (apart from case, width and white space) are left out as well. Hits from
    further down take their places.

    Example:
        >>> import qilin_rag as qr
        >>> qr.run(retriever=qr.Unanswerable(of="bm25"), limit=20, metrics="refusal").metrics["recall@5"].value
        0.0
    """

    argument: ClassVar[str | None] = "of"
    part_setting: ClassVar[str] = "of"

    of: Annotated[Any, BeforeValidator(named_part), Field(validate_default=True)] = "bm25"
    """The retriever whose hits are taken, by name or a mapping with `name` and its settings."""

    @model_validator(mode="after")
    def _check(self) -> Unanswerable:
        self._make_part(self.of)
        return self

    @field_serializer("of")
    def _whole(self, of: Any) -> Any:
        """Serialise the retriever with all its settings, as it is used."""
        return self.in_full()[0] if self._parts else of

    @property
    def most_hits(self) -> int | None:
        """Return the most hits of the other retriever, which may include reference notes."""
        return self.parts[0].most_hits

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return the best `k` hits of each question that are not reference notes, with their scores."""
        barred = [Barred.of(question, notes) for question in questions]
        return _best_others(self.called(), self.parts[0], questions, barred, notes, k)


class Barred(NamedTuple):
    """The notes that are not wrong for a question: its reference notes, and notes with the text of one."""

    ids: frozenset[int]
    texts: frozenset[str]

    @classmethod
    def of(cls, question: Question, notes: NoteStore) -> Barred:
        """Return what a question bars; reference notes that the data lacks have no text."""
        ids = frozenset(question.reference_notes)
        there = sorted(ids - set(notes.missing(question.reference_notes)))
        return cls(ids, frozenset(map(_text_key, notes.get(there))))

    def bars(self, note: Note) -> bool:
        """Return whether a note is barred."""
        return note.note_idx in self.ids or _text_key(note) in self.texts

    def others(self, hits: Sequence[Hit], notes: NoteStore) -> list[Hit]:
        """Return the hits that are not barred; a hit that the data has no note for is left to the run."""
        missing = set(notes.missing([hit.note_idx for hit in hits]))
        there = [hit.note_idx for hit in hits if hit.note_idx not in missing]
        unwanted = self.ids | {note.note_idx for note in notes.get(there) if self.bars(note)}
        return [hit for hit in hits if hit.note_idx not in unwanted]


def _best_others(
    name: str, part: Retriever, questions: Sequence[Question], barred: Sequence[Barred], notes: NoteStore, k: int
) -> list[list[Hit]]:
    """Return the best `k` hits of `part` for each question that are not barred; fewer if it finds no more.

    How many hits `part` is asked for depends on the question alone, since a retriever may find others if asked for
    more.
    """
    most = part.most_hits
    depths = {row: _asked_for(k + len(unwanted.ids), most) for row, unwanted in enumerate(barred)}
    found: dict[int, list[Hit]] = {}
    while depths:
        rows_at: dict[int, list[int]] = defaultdict(list)
        for row, depth in depths.items():
            rows_at[depth].append(row)
        depths = {}
        for depth, rows in sorted(rows_at.items()):
            group = [questions[row] for row in rows]
            rankings = checked_rankings(
                f"{name}: {part.called()}", group, part.search(group, notes, depth), None if part.ignores_k else depth
            )
            for row, hits in zip(rows, rankings, strict=True):
                others = barred[row].others(hits, notes)
                deeper = _asked_for(depth + 1, most)
                if len(others) >= k or len(hits) < depth or part.ignores_k or deeper == depth:
                    found[row] = [hit.model_copy(update={"rank": rank}) for rank, hit in enumerate(others[:k], 1)]
                else:
                    depths[row] = deeper
    return [found[row] for row in range(len(questions))]


def _asked_for(n_hits: int, most: int | None) -> int:
    """Return how many hits to ask for: the next power of 2, so that few searches serve all questions."""
    rounded = 1 << (n_hits - 1).bit_length()
    return rounded if most is None else min(rounded, most)


def _permuted(n: int, dice: random.Random) -> Iterator[int]:
    """Yield the numbers below `n` in a random order (Fisher and Yates), drawing only those that are used."""
    moved: dict[int, int] = {}
    for first in range(n):
        place = dice.randrange(first, n)
        yield moved.get(place, place)
        moved[place] = moved.get(first, first)


def _text_key(note: Note) -> str:
    return query_key(f"{note.title}\n{note.content}")


def _say_short(level: int, what: str, numbers: Sequence[int], wanted: int) -> None:
    """Say how many questions get fewer notes than wanted."""
    if n_short := sum(number < wanted for number in numbers):
        n_questions = counted(len(numbers), "question")
        logger.log(level, "mixed: %d of %s have fewer than %d %s, and get fewer", n_short, n_questions, wanted, what)
