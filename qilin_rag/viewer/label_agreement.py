"""Measure how far annotators agree on the questions that two of them labelled."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from itertools import combinations

from qilin_rag.agreement.annotators import cohens_kappa
from qilin_rag.core.labels import Label
from qilin_rag.core.types import Frozen


class LabelAgreement(Frozen):
    """The agreement of two annotators.

    Attributes:
        annotators: Their names.
        criterion: The criterion of the ratings; None for choices.
        n: The number of choices, or of rated answers, that both made.
        share: The share of these in which both said the same.
        kappa: Cohen's kappa, for ratings with quadratic weights; None if each said one and the same thing always.
    """

    annotators: tuple[str, str]
    criterion: str | None
    n: int
    share: float
    kappa: float | None


def label_agreement(labels: Iterable[Label]) -> list[LabelAgreement]:
    """Return the agreement of each two annotators, on their choices and by criterion.

    A choice is compared as the run that was preferred, since each annotator may have seen it on another side.

    Args:
        labels: The labels that count.
    """
    said: dict[str | None, dict[str, dict[Hashable, str | int]]] = defaultdict(lambda: defaultdict(dict))
    for label in labels:
        place = dict(zip("AB", label.sides, strict=False))
        if label.choice is not None:
            chosen = place.get(label.choice, label.choice)
            said[None][label.annotator][label.question_id] = str(chosen)
        for side, ratings in label.ratings.items():
            for name, value in ratings.items():
                said[name][label.annotator][label.question_id, place[side]] = value
    found = []
    for criterion, by_annotator in said.items():
        for one, other in combinations(sorted(by_annotator), 2):
            pairs = [
                (value, by_annotator[other][unit])
                for unit, value in by_annotator[one].items()
                if unit in by_annotator[other]
            ]
            if pairs:
                share = sum(a == b for a, b in pairs) / len(pairs)
                kappa = cohens_kappa(pairs, is_ordinal=criterion is not None)
                found.append(
                    LabelAgreement(annotators=(one, other), criterion=criterion, n=len(pairs), share=share, kappa=kappa)
                )
    return found
