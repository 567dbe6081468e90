"""Several retrievers as one: their rankings of each question fused, by places or by scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveInt, PrivateAttr, field_serializer, model_validator

from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import RETRIEVERS, describe
from qilin_rag.core.ties import ranked
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.retrievers.base import Retriever, checked_rankings, min_max

_RRF_K = 60


def _named(parts: Any) -> list[dict[str, Any]]:
    """Each part as a mapping with `name` and its settings; a name alone is one without settings.

    From Python a part may be a retriever.
    """
    if not isinstance(parts, list | tuple):
        raise ValueError("expected a list of retrievers, [bm25, recorded:dpr] for one")
    parts = [{"name": part.called(), **part.own_settings()} if isinstance(part, Retriever) else part for part in parts]
    named = [{"name": part} if isinstance(part, str) else part for part in parts]
    if not all(isinstance(part, dict) and isinstance(part.get("name"), str) for part in named):
        raise ValueError("a part is a name, or a mapping with 'name' and its settings")
    return named


def _split(part: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    return part["name"], {key: value for key, value in part.items() if key != "name"}


def _is_same(one: Retriever, other: Retriever) -> bool:
    """Wherever their indexes lie."""
    return type(one) is type(other) and one.model_dump(exclude={"index"}) == other.model_dump(exclude={"index"})


class Hybrid(Retriever):
    """The rankings of several retrievers fused: by reciprocal rank, or by a weighted sum of their scores.

    `of`: the retrievers, each a name, a mapping with `name` and its settings, or in Python a retriever; each is asked
    for its first `depth` notes, whatever number is wanted in the end. `weights`: one for each, all 1 where not given.
    A note's score is the sum of what it gets from the retrievers that found it:
    `rrf` (Cormack et al. 2009): weight / (rrf_k + rank);
    `sum`: weight * (score - lowest) / (highest - lowest) over this retriever's hits of this question, 1 where all of
    them score the same. So its last hit gets as little as a note that it did not find: nothing.

    Example:
        >>> import qilin_rag as qr
        >>> hybrid = qr.Hybrid(of=[qr.BM25(), qr.BM25(analyzer="char")], weights=[2, 1])
        >>> qr.run(retriever=hybrid, limit=20, metrics="rouge_l").metrics["recall@5"].n
        20
    """

    version: ClassVar[int] = 2
    nested: ClassVar[bool] = True

    of: Annotated[list[Any], BeforeValidator(_named), Field(min_length=2)]
    fusion: Literal["rrf", "sum"] = "rrf"
    rrf_k: Annotated[int, Field(ge=0)] = _RRF_K
    weights: list[Annotated[float, Field(gt=0, le=1e6)]] | None = None
    depth: PositiveInt = 100

    _parts: list[tuple[str, Retriever]] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _make_parts(self) -> Hybrid:
        for number, (name, settings) in enumerate(map(_split, self.of)):
            if RETRIEVERS.resolve(name) is Hybrid:  # weights say what it would, in a line that can be read
                raise ValueError("a part of hybrid can't be hybrid; name the parts of that one instead")
            part = RETRIEVERS.create(name, settings, at=f"retriever.of.{number}")
            if any(_is_same(part, other) for _, other in self._parts):
                raise ValueError(f"{name} is named twice; give it a weight instead")
            self._parts.append((name, part))
        if self.weights is not None and len(self.weights) != len(self._parts):
            raise ValueError(f"{len(self.weights)} weights for {len(self._parts)} retrievers")
        if self.fusion != "rrf" and self.rrf_k != _RRF_K:
            raise ValueError("rrf_k is a setting of fusion rrf")
        return self

    @field_serializer("of")
    def _whole(self, of: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """With all settings of the parts, as they are used."""
        return [{"name": name, **part.model_dump(mode="json")} for name, part in self._parts]

    @property
    def parts(self) -> list[Retriever]:
        """The retrievers, in their order."""
        return [part for _, part in self._parts]

    @classmethod
    def names_code(cls, settings: Mapping[str, Any]) -> bool:
        """Whether one of the parts does."""
        try:
            return any(RETRIEVERS.names_code(*_split(part)) for part in _named(settings.get("of", [])))
        except ValueError:  # nothing that can be made
            return False

    def identity(self) -> dict[str, Any]:
        """That of each part, and how they are fused."""
        return super().identity() | {"of": [part.identity() for _, part in self._parts]}

    def changed(self, base: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """The parts as they are called in tables."""
        called = [
            describe(RETRIEVERS.label(name), part.changed(RETRIEVERS.implied(name))) for name, part in self._parts
        ]
        return super().changed(base) | {"of": f"({', '.join(called)})"}

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """The best `k` notes of each question by the fused scores."""
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
        """What each hit of one retriever gets, before its weight."""
        if self.fusion == "rrf":
            return [1 / (self.rrf_k + hit.rank) for hit in hits]
        return min_max(hits)
