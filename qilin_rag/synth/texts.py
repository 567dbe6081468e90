"""Titles and bodies of notes, each a function of the note's number alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from qilin_rag.synth.dice import Dice, Ints, step
from qilin_rag.synth.shelf import Shelf
from qilin_rag.synth.words import Lexicon
from qilin_rag.synth.world import World

MOST_CHARACTERS = 1000
"""The longest body of a note in characters, as on the platform."""
_LEAST_TOKENS = 4
_MOST_TOKENS = 600
_SAME = 0.9
"""The share of a text that a near-duplicate repeats."""
_PHRASE = 8
_TAGS = 5
_CONCEPT, _FLAVOUR, _STICKER, _EMOJI = (int(share * 65536) for share in (0.02, 0.09, 0.015, 0.007))


class _Notes(NamedTuple):
    """The attributes that determine the text of notes."""

    notes: Ints
    origins: Ints
    topics: Ints
    styles: Ints
    names: Ints
    """Tokens of the name of their concept, and of the tag with this name."""
    name_tags: Ints


class Writer:
    """Writes the text of any notes."""

    def __init__(self, world: World, dice: Dice, shelf: Shelf, lexicon: Lexicon) -> None:
        self._world, self._dice, self._shelf, self._lexicon = world, dice, shelf, lexicon
        self._texts = pa.array(lexicon.tokens)

    def titles(self, notes: Ints) -> pa.Array:
        """Return titles: style, name of the concept and some words, 8 to 25 characters."""
        attributes, words = self._notes(notes), self._lexicon
        draws = self._dice.bits("title", attributes.origins[:, None], np.arange(9)[None, :])
        common = words.common[draws & np.uint64(len(words.common) - 1)]
        chance = (draws >> np.uint64(40)).astype(np.int64) & 0xFF
        tokens = np.zeros((len(notes), 9), np.int64)

        def any_of(words_of_kind: Ints, slot: int) -> Ints:
            return words_of_kind[(draws[:, slot] >> np.uint64(20)).astype(np.int64) % len(words_of_kind)]

        tokens[:, 0] = np.where(chance[:, 0] < 60, any_of(words.emoji, 0), 0)
        tokens[:, 1] = np.where(chance[:, 1] < 120, common[:, 1], 0)
        tokens[:, 2] = attributes.names
        tokens[:, 3] = words.styles[attributes.styles]
        tokens[:, 4] = any_of(words.separators, 4)
        flavours = words.flavours[attributes.topics]
        which = (draws[:, 5] >> np.uint64(20)).astype(np.int64) % flavours.shape[1]
        tokens[:, 5] = np.where(chance[:, 5] < 150, np.take_along_axis(flavours, which[:, None], 1)[:, 0], 0)
        tokens[:, 6:8] = np.where(chance[:, 6:8] < 180, common[:, 6:8], 0)
        end_draws = self._dice.bits("title-end", notes).astype(np.int64) & 0xFFFF
        tokens[:, 8] = np.where(end_draws < 20000, words.emoji[end_draws % len(words.emoji)], 0)
        return self._join(tokens.ravel(), np.full(len(notes), 9))

    def bodies(self, notes: Ints) -> pa.Array:
        """Return bodies: words of the language and the topic, stickers and emoji, and tags at the end."""
        attributes, words = self._notes(notes), self._lexicon
        n_tokens = np.exp(self._world.sigma_tokens * self._dice.normal("length", attributes.origins))
        lengths = np.clip(self._world.median_tokens * n_tokens, _LEAST_TOKENS, _MOST_TOKENS).astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        rows = np.repeat(np.arange(len(notes)), lengths)
        position = np.arange(len(rows)) - starts[rows]

        own_draws, origin = (self._dice.bits("body", numbers) for numbers in (notes, attributes.origins))
        draws = step(np.where(position < _SAME * lengths[rows], origin[rows], own_draws[rows]), position)
        tokens = words.common[draws & np.uint64(len(words.common) - 1)]
        choice = (draws >> np.uint64(18)).astype(np.int64) & 0x3FFFFF
        chance = (draws >> np.uint64(40)).astype(np.int64) & 0xFFFF
        bound = 0
        for share, choices in (
            (_FLAVOUR, words.flavours[attributes.topics]),
            (_CONCEPT, attributes.names[:, None]),
            (_STICKER, words.stickers[None, :]),
            (_EMOJI, words.emoji[None, :]),
        ):
            which = np.flatnonzero((chance >= bound) & (chance < bound + share))
            bound += share
            row = rows[which] if len(choices) > 1 else np.zeros(len(which), np.int64)
            tokens[which] = choices[row, choice[which] % choices.shape[1]]
        phrase = position % _PHRASE == _PHRASE - 1
        tokens[phrase] = words.punctuation[choice[phrase] % len(words.punctuation)]
        tokens[starts] = attributes.names
        tokens[starts + lengths - 1] = words.end

        tail = np.full((len(notes), 1 + _TAGS), words.line, np.int64)
        tail[:, 1] = attributes.name_tags
        flavour_tags = words.flavour_tags[attributes.topics]
        tail[:, 2:5] = np.where(
            self._dice.uniform("tags", notes[:, None], np.arange(3)[None, :]) < 0.5, flavour_tags[:, :3], 0
        )
        tail[:, 5] = words.style_tags[attributes.styles]
        every = np.empty(len(tokens) + tail.size, np.int32)
        places = np.repeat(starts + lengths, 1 + _TAGS) + np.arange(tail.size)
        in_tail = np.zeros(len(every), bool)
        in_tail[places] = True
        every[in_tail], every[~in_tail] = tail.ravel(), tokens
        return pc.utf8_slice_codeunits(self._join(every, lengths + 1 + _TAGS), 0, MOST_CHARACTERS)

    def _notes(self, notes: Ints) -> _Notes:
        origins = self._shelf.origin(notes)
        concepts, forms = self._shelf.concept(notes), self._shelf.form(notes)
        words = self._lexicon
        return _Notes(
            notes,
            origins,
            self._shelf.topic(notes),
            self._shelf.style(notes),
            words.concepts[concepts, forms],
            words.concept_tags[concepts, forms],
        )

    def _join(self, tokens: npt.NDArray[np.integer], lengths: Ints) -> pa.Array:
        """Return one text per row from the tokens of all rows."""
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        texts = self._texts.take(pa.array(tokens.astype(np.int32)))
        return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), texts), "")
