"""The interface of a scorer, and the rule which samples count.

Answers are scored, whole or cut off (`Exchange.is_answered`). A question without an answer, whatever the reason, is
unscored: its value is None, never a silent 0. Only a reader that takes no tokens has empty answers, which score as the
metric has it (0).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple, Self

from qilin_rag.core.extras import missing_modules, require
from qilin_rag.core.registry import Component
from qilin_rag.core.text import normalise, simplify, strip_markup
from qilin_rag.core.types import Question, Sample, Score

NORMALISATION = "nfkc_casefold"
"""How signatures call `text.normalise`."""


class Scorer(Component):
    """Scores samples against their questions, all of a run in one call."""

    @abstractmethod
    def signatures(self) -> dict[str, str]:
        """The metrics this scorer gives, each with the signature that says exactly how it is computed.

        Parts stand between `|`. One where the highest value is not the best says so, `best:lowest`: no value of it is
        marked as the best of a table.
        """

    @abstractmethod
    def score(self, samples: Sequence[Sample], questions: Sequence[Question]) -> list[Score]:
        """One score for each sample and metric; `questions[i]` belongs to `samples[i]`."""

    def unavailable(self) -> str | None:
        """Why this can't be used as things stand (what would have to be installed or fetched); None where it can.

        Asked of metrics nobody named, so it must be quick and import nothing heavy.
        """
        return None

    def foresee(self, answers: Sequence[Iterable[str]]) -> None:
        """The answers of each of several runs that are about to be scored one by one.

        Who works hard on a text may keep what it made of one that comes again. Nothing has to be done here.
        """

    def for_run(self, top_k: int, ignores_k: bool) -> Self:
        """Return the scorer of a run that asks its retriever for `top_k` notes a question.

        `ignores_k`: the retriever gives all it has, whatever it is asked for. For figures that depend on it.
        """
        return self

    def prepare(self) -> None:
        """Load what scoring needs. Called before the first question is asked, so that what is broken costs nothing."""


class Remarked(NamedTuple):
    """A value with something to say about it, which is counted in the summary: "cut to 512 tokens".

    None: unscored, and the reason says why.
    """

    value: float | None
    reason: str | None = None


class AnswerScorer(Scorer):
    """A scorer with one metric that looks at the answer and its references only: the easy one to write.

    Example:
        >>> import qilin_rag as qr
        >>> class Polite(AnswerScorer):
        ...     metric = "polite"
        ...
        ...     def signatures(self):
        ...         return {"polite": f"polite|v{self.version}"}
        ...
        ...     def score_answers(self, answers, references):
        ...         return [float("请" in answer) for answer in answers]
        >>> qr.score(["请遮阴", "遮阴"], ["遮阴", "遮阴"], metrics=[Polite()]).values
        {'polite': [1.0, 0.0]}
    """

    metric: ClassVar[str]

    @abstractmethod
    def score_answers(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> Sequence[float | Remarked]:
        """The value of each answer, given its reference answers; a `Remarked` one where there is more to say."""

    def score(self, samples: Sequence[Sample], questions: Sequence[Question]) -> list[Score]:
        """Score the answers that count; the others get None and the reason."""
        counted = [i for i, sample in enumerate(samples) if sample.is_answered]
        values = self.score_answers([samples[i].answer for i in counted], [questions[i].references for i in counted])
        by_row = dict(zip(counted, values, strict=True))
        return [self._judge(sample, by_row.get(i)) for i, sample in enumerate(samples)]

    def _judge(self, sample: Sample, found: float | Remarked | None) -> Score:
        if found is None:
            found = Remarked(None, sample.why_unanswered)
        value, reason = found if isinstance(found, Remarked) else Remarked(float(found))
        if value is not None and not math.isfinite(value):
            value, reason = None, "not a number"
        return Score(question_id=sample.question_id, metric=self.metric, value=value, reason=reason)


class TextScorer(AnswerScorer):
    """An answer scorer that compares the bare texts: without markup, in one width and case.

    `strip_markup` removes citation markers and emphasis marks from both sides first. With `simplify` traditional
    characters of both sides are read as simplified ones (OpenCC).
    """

    version: ClassVar[int] = 2
    only_if_set: ClassVar[frozenset[str]] = frozenset({"simplify"})

    strip_markup: bool = True
    simplify: bool = False

    def unavailable(self) -> str | None:
        """OpenCC is needed for `simplify`."""
        missing = self.simplify and missing_modules("opencc")
        return "opencc not installed, pip install 'qilin-rag[han]'" if missing else super().unavailable()

    def prepare(self) -> None:
        """Refuse `simplify` where OpenCC is not installed, before anything is asked."""
        if self.simplify:
            require("han", "opencc", what="simplify")

    @property
    def treatment(self) -> str:
        """The part of the signature that says what is done to texts."""
        stripped = "citations+emphasis" if self.strip_markup else "nothing"
        return f"strip:{stripped}|norm:{NORMALISATION}{'|han:simplified' if self.simplify else ''}"

    def prepare_text(self, text: str) -> str:
        """The text that is compared."""
        text = strip_markup(text) if self.strip_markup else text
        return normalise(simplify(text) if self.simplify else text)
