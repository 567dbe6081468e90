"""Fuse the rankings of several retrievers, by rank or by score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveInt, field_serializer, model_validator

from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import RETRIEVERS
from qilin_rag.core.ties import ranked
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.base import Retriever, checked_rankings, min_max
from qilin_rag.retrievers.fusion import RRF_K, reciprocal_ranks
from qilin_rag.retrievers.parts import Composite, named_part, split_part


def _named(parts: Any) -> list[dict[str, Any]]:
    if not isinstance(parts, list | tuple):
        raise ValueError("expected a list of retrievers, such as [bm25, recorded:dpr]")
    return [named_part(part) for part in parts]


def _is_same(one: Retriever, other: Retriever) -> bool:
    """Return whether two retrievers are the same, apart from the folder of their index."""
    return type(one) is type(other) and one.model_dump(exclude={"index"}) == other.model_dump(exclude={"index"})


class Hybrid(Composite):
    """The rankings of several retrievers, fused by reciprocal rank or by a weighted sum of scores.

    A note's score is the sum of what each retriever that found it adds:

    - `rrf` (Cormack et al. 2009): weight / (rrf_k + rank);
    - `sum`: weight * (score - lowest) / (highest - lowest), over this retriever's hits of the question. It is the
    weight if all hits score the same. The last hit adds 0, as much as a note that was not found.

    Example:
        >>> import qilin_rag as qr
        >>> hybrid = qr.Hybrid(of=[qr.BM25(), qr.BM25(analyzer="char")], weights=[2, 1])
        >>> qr.run(retriever=hybrid, limit=20, metrics="rouge_l").metrics["recall@5"].n
        20
    """

    part_setting: ClassVar[str] = "of"
    version: ClassVar[int] = 2
    nested: ClassVar[bool] = True

    of: Annotated[list[Any], BeforeValidator(_named), Field(min_length=2)]
    """The retrievers, two or more: each a name, a mapping with `name` and its settings, or in Python a retriever."""
    fusion: Literal["rrf", "sum"] = "rrf"
    """How rankings are fused: rrf (reciprocal rank fusion), or sum (weighted sum of scaled scores)."""
    rrf_k: Annotated[int, Field(ge=0)] = RRF_K
    """The constant of rrf, an integer from 0: the higher, the less the first ranks stand out."""
    weights: list[Annotated[float, Field(gt=0, le=1e6)]] | None = None
    """One number above 0 for each retriever. Default: 1 for each."""
    depth: PositiveInt = 100
    """The number of notes that each retriever is asked for, at least the run's `top_k`."""

    @model_validator(mode="after")
    def _make_parts(self) -> Hybrid:
        for number, (name, settings) in enumerate(map(split_part, self.of)):
            cls = RETRIEVERS.resolve(name)
            if cls is Hybrid:  # weights can express the same on one readable line
                raise ValueError("a part of hybrid can't be hybrid; list its parts instead")
            if issubclass(cls, Composite):
                raise ValueError(f"a part of hybrid can't be {name}, which knows the reference notes")
            part = RETRIEVERS.create(name, settings, at=f"retriever.of.{number}")
            if any(_is_same(part, other) for _, other in self._parts):
                raise ValueError(f"{name} is named twice; give it a weight instead")
            self._parts.append((name, part))
        if self.weights is not None and len(self.weights) != len(self._parts):
            raise ValueError(f"{len(self.weights)} weights for {len(self._parts)} retrievers")
        if self.fusion != "rrf" and self.rrf_k != RRF_K:
            raise ValueError("rrf_k is a setting of fusion rrf")
        return self

    @field_serializer("of")
    def _whole(self, of: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Serialise the parts with all their settings, as they are used."""
        return self.in_full()

    @property
    def most_hits(self) -> int:
        """Return `depth`: rankings are fused of so many hits."""
        return self.depth

    def identity(self) -> dict[str, Any]:
        """Return the identity of each part, and the settings of the fusion."""
        return super().identity() | {"of": [part.identity() for part in self.parts]}

    def changed(self, base: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """Return the changed settings, with the parts under their names in tables."""
        return super().changed(base) | {"of": self.called_parts()}

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return the best `k` notes of each question by the fused scores."""
        if k > self.depth:
            raise UsageError(
                f"retriever hybrid: {k} notes are wanted of rankings of {self.depth}; raise retriever.depth, or ask "
                "for fewer"
            )
        shares: list[dict[int, list[float]]] = [{} for _ in questions]
        for (name, part), weight in zip(self._parts, self.weights or [1.0] * len(self._parts), strict=True):
            found = part.search(questions, notes, self.depth)
            rankings = checked_rankings(f"hybrid: {name}", questions, found, None if part.ignores_k else self.depth)
            for of_question, hits in zip(shares, rankings, strict=True):
                first = hits[: self.depth]
                for hit, share in zip(first, self._shares(first), strict=True):
                    of_question.setdefault(hit.note_idx, []).append(weight * share)
        return [
            ranked({note_idx: math.fsum(of_note) for note_idx, of_note in of_question.items()}, question.query, k)
            for question, of_question in zip(questions, shares, strict=True)
        ]

    def _shares(self, hits: Sequence[Hit]) -> list[float]:
        """Return what each hit of one retriever adds to the fused score, before its weight."""
        if self.fusion == "rrf":
            return reciprocal_ranks(hits, self.rrf_k)
        return min_max(hits)
