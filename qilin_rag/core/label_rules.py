"""Rules of labels that the label page and files share: names of annotators and criteria, scales, hashes of answers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator

from qilin_rag.core.errors import UsageError
from qilin_rag.core.hashing import json_hash
from qilin_rag.core.text import clean, visible

MOST_NAME_CHARS = 40
HIGHEST_RATING = 100
"""The highest rating of a scale."""
DEFAULT_CRITERIA = {"quality": (1, 5)}
"""The scale of single answers that name no criterion."""


def one_spelling(name: str) -> str:
    """Return a name in one spelling: on one line, without what nobody can see.

    Args:
        name: The name.

    >>> one_spelling(" An\u200b  Li ")
    'An Li'
    """
    return " ".join(visible(name).split())


def annotator_name(given: str) -> str:
    """Return the name of an annotator in one spelling.

    Args:
        given: The name as it was typed.

    Raises:
        UsageError: if it has no visible character, or more than 40.

    >>> annotator_name("Ａｎ ")
    'An'
    """
    name = _name(given)
    if not 1 <= len(name) <= MOST_NAME_CHARS:
        raise UsageError(f"a name has 1 to {MOST_NAME_CHARS} visible characters")
    return name


def _name(given: str) -> str:
    return one_spelling(unicodedata.normalize("NFKC", clean(given)))


class Annotators:
    """Names of annotators, each as its owner wrote it first: `an ` is who labelled as `An`.

    Example:
        >>> names = Annotators()
        >>> names.spelling("An"), names.spelling("an "), names.spelling("Bo")
        ('An', 'An', 'Bo')
    """

    def __init__(self) -> None:
        """Begin without a name."""
        self._names: dict[str, str] = {}

    def spelling(self, given: str) -> str:
        """Return the first spelling of a name; empty if it has no visible character.

        Args:
            given: The name as it was typed.
        """
        name = _name(given)
        return self._names.setdefault(name.casefold(), name)


def check_criteria(given: Iterable[tuple[str, tuple[int, int]]]) -> dict[str, tuple[int, int]]:
    """Return the lowest and highest rating by criterion, each name in one spelling.

    Args:
        given: The name and the scale of each criterion.

    Raises:
        ValueError: if a name is empty, long or there twice, or a scale is not one from 0 to 100.

    >>> check_criteria([("fluent ", (1, 5))])
    {'fluent': (1, 5)}
    """
    criteria: dict[str, tuple[int, int]] = {}
    for text, (low, high) in given:
        name = one_spelling(text)
        if not 1 <= len(name) <= MOST_NAME_CHARS:
            raise ValueError(f"{text!r:.60} is not a name of 1 to {MOST_NAME_CHARS} visible characters")
        if name in criteria:
            raise ValueError(f"{name!r} is named twice")
        if not 0 <= low < high <= HIGHEST_RATING:
            raise ValueError(f"{name!r} needs a scale from 0 to {HIGHEST_RATING}, the lowest rating first")
        criteria[name] = (low, high)
    return criteria


Criteria = Annotated[dict[str, tuple[int, int]], AfterValidator(lambda given: check_criteria(given.items()))]
"""The lowest and highest rating by criterion."""


def answers_hash(answers: Sequence[str]) -> str:
    """Return the hash of the answers that an annotator saw, which tells whether they have changed since.

    White space and what nobody can see do not count: spreadsheets change line ends.

    Args:
        answers: The answers, in the order of the sides.

    >>> answers_hash(["水温92度。\\r\\n"]) == answers_hash([" 水温92度。"]) != answers_hash(["水温93度。"])
    True
    """
    return json_hash([one_spelling(clean(text)) for text in answers], sort_keys=False, ensure_ascii=True)
