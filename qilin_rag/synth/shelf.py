"""The notes without their text: every attribute is a function of the note's number, so that nothing is stored.

All notes are on one long shelf, concept by concept, topic by topic. A note's place is (a * note_idx + b) mod N, which
is invertible: the notes of a concept are found without an index over all of them.
"""

from __future__ import annotations

from math import gcd

import numpy as np

from qilin_rag.synth.dice import Bools, Dice, Floats, Ints
from qilin_rag.synth.words import CONCEPTS_PER_TOPIC, STYLES
from qilin_rag.synth.world import World

_GOLDEN = 0.6180339887498949
_BRANCHES = (43, 311)
"""The number of taxonomies of the first and second level; the third level is the topic."""


def stride(n: int) -> int:
    """Return a number near the golden section of n that is coprime to n."""
    return next(a for a in range(max(1, int(n * _GOLDEN)), 2 * n + 2) if gcd(a, n) == 1)


class Shelf:
    """The places of notes, and their attributes."""

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
        """Return the places of notes on the shelf."""
        return (notes * self._stride + self._shift) % self.n_notes

    def note_at(self, places: Ints) -> Ints:
        """Return the notes at these places."""
        return ((places - self._shift) % self.n_notes * self._inverse) % self.n_notes

    def concept_at(self, places: Ints) -> Ints:
        """Return the concepts of the notes at these places."""
        return np.searchsorted(self.concept_starts, places, side="right") - 1

    def concept(self, notes: Ints) -> Ints:
        """Return the concepts of notes."""
        return self.concept_at(self.place(notes))

    def topic(self, notes: Ints) -> Ints:
        """Return the topics of notes."""
        return self.concept(notes) // CONCEPTS_PER_TOPIC

    def topics_at_random(self, name: str, *indices: Ints) -> Ints:
        """Return random topics, each as often as it has notes."""
        return self.concept_at(self._dice.below(self.n_notes, name, *indices)) // CONCEPTS_PER_TOPIC

    def origin(self, notes: Ints) -> Ints:
        """Return the note whose text a note repeats except for its end: the note itself, or the one before it.

        "Before" means on the shelf. Only notes at odd places repeat another, so that there are no chains of copies.
        """
        places = self.place(notes)
        before = np.maximum(places - 1, 0)
        copies = self._dice.uniform("near-duplicate", notes) < 2 * self._world.near_duplicates
        copies &= (places % 2 == 1) & (self.concept_at(places) == self.concept_at(before))
        return np.where(copies, self.note_at(before), notes)

    def form(self, notes: Ints) -> Ints:
        """Return which of the two names of its concept a note uses."""
        return self._dice.below(2, "form", self.origin(notes))

    def style(self, notes: Ints) -> Ints:
        """Return the kind of post, independent of the topic."""
        return self._dice.below(len(STYLES), "style", self.origin(notes))

    def popularity(self, notes: Ints) -> Floats:
        """Return the popularity behind the counts of a note: standard normal, cut at 3."""
        return np.clip(self._dice.normal("popularity", notes), -3, 3)

    def n_images(self, notes: Ints) -> Ints:
        """Return the number of images, 0 for a few notes."""
        some = 1 + np.floor(self._dice.exponential("images", notes) * (self._world.mean_images - 0.5)).astype(np.int64)
        return np.where(self._dice.uniform("no-images", notes) < self._world.no_images, 0, np.minimum(some, 18))

    def has_cue(self, notes: Ints) -> Bools:
        """Return whether the cover shows the cue, which no text and no count reveals."""
        return (self._dice.uniform("cue", notes) < self._world.cover_cue) & (self.n_images(notes) > 0)

    def is_video(self, notes: Ints) -> Bools:
        """Return whether a note is a video, not images and text."""
        return self._dice.uniform("video", notes) < self._world.video

    def taxonomies(self, notes: Ints) -> list[list[str]]:
        """Return the three levels of the taxonomy as opaque strings, "nan" for a missing one."""
        topic = self.topic(notes)
        levels = []
        for level, n in enumerate((*_BRANCHES, self.n_topics)):
            branch = topic % n  # a branch may hold several topics
            missing = self._dice.uniform("no-taxonomy", notes, level) < self._world.no_taxonomy[level]
            prefix = "5ab094be481d26b8ef" if level == 0 else f"c{level}"
            names = np.array([f"{prefix}{i:0{24 - len(prefix)}d}" for i in range(n)])
            levels.append(np.where(missing, "nan", names[branch]).tolist())
        return levels
