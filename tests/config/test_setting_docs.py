"""What is said of a setting: the text under it, an entry of the docstring, a sentence there, else its type."""

from __future__ import annotations

from pydantic import BaseModel

from qilin_rag.config.setting_docs import setting_docs


class Base(BaseModel):
    """A base.

    Args:
        k1: How fast a term stops counting: 0 is
            at once.
        b (float): Length of a note.

    Returns:
        k: nothing of this section.
    """

    k1: float = 0.9
    b: float = 0.4
    k: int = 5


class Made(Base):
    """Made of it. `depth`: how far it looks; then it stops.

    Attributes:
        b: Another length.
        text: Not this.
    """

    depth: int
    text: str = "x"
    """The text under it."""


def test_a_meaning_comes_from_the_nearest_place_that_has_one() -> None:
    assert {doc.name: doc.meaning for doc in setting_docs(Made)} == {
        "k1": "How fast a term stops counting: 0 is at once.",
        "b": "Another length.",
        "k": "int",
        "depth": "`depth`: how far it looks",
        "text": "The text under it.",
    }


def test_meanings_are_cut_where_a_table_has_no_room() -> None:
    assert [doc.meaning for doc in setting_docs(Made, most_chars=14)][:2] == ["How fast a ...", "Another ..."]
