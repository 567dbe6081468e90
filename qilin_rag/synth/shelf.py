"""The notes without their text: every attribute as a function of the note's number, in memory that no number needs.

All notes stand on one long shelf, concept by concept, topic by topic. A note's place is (a * note_idx + b) mod N, which
can be turned round: the notes of a concept are found without an index over all of them.
"""

from __future__ import annotations

from math import gcd

import numpy as np

from qilin_rag.synth.dice import Bools, Dice, Floats, Ints
from qilin_rag.synth.words import CONCEPTS_PER_TOPIC, STYLES
from qilin_rag.synth.world import World

_GOLDEN = 0.6180339887498949
_BRANCHES = (43, 311)
"""Taxonomies of the first and the second level; the third is the topic."""


def stride(n: int) -> int:
    """A number near the golden section of n that has no divisor with it in common."""
    return next(a for a in range(max(1, int(n * _GOLDEN)), 2 * n + 2) if gcd(a, n) == 1)


class Shelf:
    """Where notes stand and what they are."""

    def __init__(self, world: World, dice: Dice) -> None:
        self.n_notes = n = world.counts.notes
        least = CONCEPTS_PER_TOPIC * 5
        self.n_topics = max(2, min(world.topics, n // max(world.notes_per_topic, least)))
        self._world, self._dice = world, dice
        self._stride = stride(n)
        self._inverse = pow(self._stride, -1, n)
        self._shift = n // 3
        shares = (np.arange(self.n_topics) + 10.0) ** -0.7
        sizes = least + np.floor(shares / shares.sum() * (n - least * self.n_topics)).astype(np.int64)
        sizes[0] += n - sizes.sum()
        self.topic_starts = np.concatenate([[0], np.cumsum(sizes)])
        parts = np.arange(CONCEPTS_PER_TOPIC) / CONCEPTS_PER_TOPIC
        inner = self.topic_starts[:-1, None] + np.floor(sizes[:, None] * parts).astype(np.int64)
        self.concept_starts = np.append(inner.ravel(), n)

    def place(self, notes: Ints) -> Ints:
        """Where on the shelf notes stand."""
        return (notes * self._stride + self._shift) % self.n_notes

    def note_at(self, places: Ints) -> Ints:
        """Which notes stand there."""
        return ((places - self._shift) % self.n_notes * self._inverse) % self.n_notes

    def concept_at(self, places: Ints) -> Ints:
        """Which concept the notes at these places are about."""
        return np.searchsorted(self.concept_starts, places, side="right") - 1

    def concept(self, notes: Ints) -> Ints:
        """What notes are about."""
        return self.concept_at(self.place(notes))

    def topic(self, notes: Ints) -> Ints:
        """The topic of that."""
        return self.concept(notes) // CONCEPTS_PER_TOPIC

    def topics_at_random(self, name: str, *indices: Ints) -> Ints:
        """Topics, each as often as it has notes."""
        return self.concept_at(self._dice.below(self.n_notes, name, *indices)) // CONCEPTS_PER_TOPIC

    def origin(self, notes: Ints) -> Ints:
        """The note whose text a note repeats but for its end: its own, or the one before it on the shelf.

        Only notes at odd places repeat one, so no chain of copies comes about.
        """
        places = self.place(notes)
        before = np.maximum(places - 1, 0)
        copies = self._dice.uniform("near-duplicate", notes) < 2 * self._world.near_duplicates
        copies &= (places % 2 == 1) & (self.concept_at(places) == self.concept_at(before))
        return np.where(copies, self.note_at(before), notes)

    def form(self, notes: Ints) -> Ints:
        """Which of the two names of its concept a note uses."""
        return self._dice.below(2, "form", self.origin(notes))

    def style(self, notes: Ints) -> Ints:
        """The kind of post, whatever the topic."""
        return self._dice.below(len(STYLES), "style", self.origin(notes))

    def popularity(self, notes: Ints) -> Floats:
        """Standard normal, cut at 3: what the counts of a note go by."""
        return np.clip(self._dice.normal("popularity", notes), -3, 3)

    def n_images(self, notes: Ints) -> Ints:
        """How many images, none for a few."""
        some = 1 + np.floor(self._dice.exponential("images", notes) * (self._world.mean_images - 0.5)).astype(np.int64)
        return np.where(self._dice.uniform("no-images", notes) < self._world.no_images, 0, np.minimum(some, 18))

    def has_cue(self, notes: Ints) -> Bools:
        """Whether the cover shows the cue; no text and no count knows of it."""
        return (self._dice.uniform("cue", notes) < self._world.cover_cue) & (self.n_images(notes) > 0)

    def is_video(self, notes: Ints) -> Bools:
        """Video rather than images and text."""
        return self._dice.uniform("video", notes) < self._world.video

    def taxonomies(self, notes: Ints) -> list[list[str]]:
        """The three levels of the taxonomy as opaque strings, "nan" where one is missing."""
        topic = self.topic(notes)
        levels = []
        for level, n in enumerate((*_BRANCHES, self.n_topics)):
            branch = topic % n  # 43 and 311 divide no further, so a branch has several topics
            missing = self._dice.uniform("no-taxonomy", notes, level) < self._world.no_taxonomy[level]
            prefix = "5ab094be481d26b8ef" if level == 0 else f"c{level}"
            names = np.array([f"{prefix}{i:0{24 - len(prefix)}d}" for i in range(n)])
            levels.append(np.where(missing, "nan", names[branch]).tolist())
        return levels
