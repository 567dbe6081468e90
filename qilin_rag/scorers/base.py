"""Define the interface of a scorer, and which samples count.

Answers are scored, whole or cut off (`Exchange.is_answered`). A question without an answer is unscored for any reason:
its value is None, never a silent 0. Only a reader that takes no tokens has empty answers, which score 0 or what the
metric gives to an empty text.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple, Self

from qilin_rag.core.extras import missing_modules, require
from qilin_rag.core.registry import Component
from qilin_rag.core.text import normalise, simplify, strip_and_normalise, strip_markups
from qilin_rag.core.types import Question, Sample, Score

NORMALISATION = "nfkc_casefold"
"""The name of `text.normalise` in signatures."""


class Scorer(Component):
    """A scorer computes one or more metrics for the samples of a run.

    A subclass implements `signatures` and `score`; settings are pydantic fields. `AnswerScorer` is easier to write, for
    a metric that needs the answer and its references only.

    Attributes:
        one_by_one: Whether the scores of a sample are exactly the same, whatever other samples are scored with it, and
            all scores of a sample follow each other. A run then scores its answers while it asks.

    Example:
        >>> import qilin_rag as qr
        >>> class Answered(Scorer):
        ...     def signatures(self):
        ...         return {"answered": f"answered|v{self.version}"}
        ...
        ...     def score(self, samples, questions):
        ...         values = [(sample.question_id, float(sample.is_answered)) for sample in samples]
        ...         return [Score(question_id=name, metric="answered", value=value) for name, value in values]
        >>> directory = qr.run(metrics="rouge_l", limit=20).directory
        >>> questions = directory.read_questions()
        >>> samples = directory.read_samples_of(questions)
        >>> scores = Answered().score([samples[question.id] for question in questions], questions)
        >>> sum(score.value for score in scores)
        20.0
    """

    one_by_one: ClassVar[bool] = False

    @abstractmethod
    def signatures(self) -> dict[str, str]:
        """Return the metrics of this scorer, each with the signature that says exactly how it is computed.

        The parts of a signature are separated by `|`. The part `best:lowest` says that the highest value is not the
        best: no value of such a metric is marked as the best of a table.
        """

    @abstractmethod
    def score(self, samples: Sequence[Sample], questions: Sequence[Question]) -> list[Score]:
        """Score all samples of a run.

        Args:
            samples: The samples of a run.
            questions: `questions[i]` belongs to `samples[i]`.

        Returns:
            One score for each sample and metric; its value is None if the sample is unscored.
        """

    def unavailable(self) -> str | None:
        """Return why this scorer can't be used on this machine and what to install or fetch; None if it can.

        It is called for metrics that were not named, so it must be fast and import nothing heavy.
        """
        return None

    def foresee(self, answers: Sequence[Iterable[str]]) -> None:
        """Announce the answers of several runs that are about to be scored one after the other.

        A hook for scorers that cache expensive work on a text. The default does nothing.
        """

    def for_run(self, top_k: int, ignores_k: bool) -> Self:
        """Return the scorer for a run, if its figures depend on how many notes the run asks for.

        Args:
            top_k: The number of notes that the run asks its retriever for.
            ignores_k: Whether the retriever returns all it has, whatever `top_k` is.
        """
        return self

    def for_prompt(self, refusals: Sequence[str]) -> Self:
        """Return the scorer for a run, if its figures depend on how the prompt tells the LLM to refuse.

        Args:
            refusals: The sentences that the prompt's file names as `refusal`; often none.
        """
        return self

    def prepare(self) -> None:
        """Load what scoring needs. Called before the first question is asked, so that an error costs nothing."""


class Remarked(NamedTuple):
    """A value with a remark that is counted in the summary: "cut to 512 tokens".

    A value of None is unscored, for the reason given.
    """

    value: float | None
    reason: str | None = None


class AnswerScorer(Scorer):
    """A scorer with one metric that depends on the answer and its references only.

    A subclass sets `metric` and implements `signatures` and `score_answers`.

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
        """Score answers against their references.

        Args:
            answers: The answers of a run that count, as the LLM wrote them.
            references: The reference answers of each.

        Returns:
            The value of each answer; a `Remarked` value if there is something to say about it.
        """

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
    """An answer scorer that compares plain texts: without markup, in one width and case."""

    version: ClassVar[int] = 2
    only_if_set: ClassVar[frozenset[str]] = frozenset({"simplify"})

    strip_markup: bool = True
    """Whether citation markers and emphasis marks are removed from answer and references first."""
    simplify: bool = False
    """Whether traditional characters of both sides are read as simplified ones (OpenCC, extra `han`)."""

    def unavailable(self) -> str | None:
        """Return that OpenCC is missing, if `simplify` needs it."""
        missing = self.simplify and missing_modules("opencc")
        return "opencc not installed, pip install 'qilin-rag[han]'" if missing else super().unavailable()

    def prepare(self) -> None:
        """Raise an error if `simplify` is set and OpenCC is not installed, before any question is asked."""
        if self.simplify:
            require("han", "opencc", what="simplify")

    @property
    def treatment(self) -> str:
        """Return the part of the signature that says how texts are prepared."""
        stripped = "citations+emphasis" if self.strip_markup else "nothing"
        return f"strip:{stripped}|norm:{NORMALISATION}{'|han:simplified' if self.simplify else ''}"

    def prepare_text(self, text: str) -> str:
        """Return the text that is compared."""
        [prepared] = self.prepare_texts([text])
        return prepared

    def prepare_texts(self, texts: Iterable[str]) -> list[str]:
        """Return the texts that are compared; one step after the other for all texts is faster."""
        if self.strip_markup and not self.simplify:
            return strip_and_normalise(texts)
        texts = strip_markups(texts) if self.strip_markup else texts
        return [normalise(text) for text in (map(simplify, texts) if self.simplify else texts)]
