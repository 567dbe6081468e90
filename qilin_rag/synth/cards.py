"""Facts that only an image tells: which notes have a text card, what it says, and the files that record it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from qilin_rag.synth.corpus import cover_path
from qilin_rag.synth.dice import Bools, Dice, Ints
from qilin_rag.synth.shelf import Shelf
from qilin_rag.synth.words import CONCEPTS_PER_TOPIC, Lexicon
from qilin_rag.synth.world import World

PLACE = 1
"""The card is the second image of its note, so that it is not seen with the cover alone."""
CARDS = pa.schema([("note_idx", pa.int64()), ("image_path", pa.string()), ("text", pa.string())])
CARD_ANSWERS = pa.schema([("search_idx", pa.int64()), ("note_idx", pa.int64()), ("fact", pa.string())])
_LEAST_AND_MOST = {
    "几月": (1, 12, "月"),
    "多少钱": (15, 980, "元"),
    "要多久": (5, 95, "分钟"),
    "有几种": (2, 30, "种"),
    "多久一次": (2, 60, "天"),
    "几点开门": (5, 11, "点"),
}
"""The numbers that a card gives to each question that has one for an answer: the least, the most, and the unit."""


class CardFact(NamedTuple):
    """A fact on the card of a note, with the question that it answers."""

    note: int
    text: str


class Cards:
    """The text cards of notes."""

    def __init__(self, world: World, dice: Dice, shelf: Shelf, lexicon: Lexicon) -> None:
        self._share, self._dice, self._shelf, self._lexicon = world.cards, dice, shelf, lexicon

    def exist(self, notes: Ints) -> Bools:
        """Return which notes have a card."""
        return (self._dice.uniform("card", notes) < self._share) & (self._shelf.n_images(notes) > PLACE)

    def lines(self, note: int) -> list[str]:
        """Return the lines of a note's card: what it is about, and a fact to each question."""
        notes = np.array([note])
        concept = self._shelf.concept(notes)
        name = self._lexicon.concepts[concept, self._shelf.form(notes)][0]
        flavour = self._lexicon.flavours[concept[0] // CONCEPTS_PER_TOPIC, 0]
        headline = self._lexicon.tokens[name] + self._lexicon.tokens[flavour]
        return [headline, *(self._say(note, question) for question in _LEAST_AND_MOST)]

    def fact(self, notes: Iterable[int], question: str) -> CardFact | None:
        """Return what the first of these notes with a card says to a question; None if no card says anything."""
        if self._share == 0 or question not in _LEAST_AND_MOST:
            return None
        wanted = np.fromiter(notes, np.int64)
        found = wanted[self.exist(wanted)].tolist()
        return CardFact(found[0], self._say(found[0], question)) if found else None

    def rows(self, notes: Ints) -> pa.RecordBatch:
        """Return the table of cards for those of these notes that have one."""
        having = notes[self.exist(notes)].tolist()
        texts = ["\n".join(self.lines(note)) for note in having]
        return pa.RecordBatch.from_pydict(
            {"note_idx": having, "image_path": [card_path(note) for note in having], "text": texts}, schema=CARDS
        )

    def _say(self, note: int, question: str) -> str:
        least, most, unit = _LEAST_AND_MOST[question]
        number = least + int(self._dice.below(most - least + 1, f"fact/{question}", np.array([note]))[0])
        return f"{question}：{number}{unit}"


def card_path(note: int) -> str:
    """Return the path of a note's card, relative to the folder of the tables."""
    return str(Path(cover_path(note)).with_stem(str(PLACE)))


def write_cards(out: Path, cards: Cards, notes: Ints, written: Bools) -> None:
    """Draw the cards of those notes that have one; `written` records which exist."""
    from qilin_rag.synth.text_cards import draw_card

    new = np.unique(notes)
    new = new[cards.exist(new) & ~written[new]]
    written[new] = True
    for note in new.tolist():
        path = out / card_path(note)
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_card(cards.lines(note)).convert("L").save(path, compress_level=1)
