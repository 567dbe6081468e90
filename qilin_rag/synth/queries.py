"""Queries: the name of a concept, words of its topic, and an ending; reformulated within a session."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import NamedTuple

import numpy as np

from qilin_rag.synth.corpus import Users
from qilin_rag.synth.dice import Bools, Dice, Floats, Ints
from qilin_rag.synth.sessions import SessionPlan
from qilin_rag.synth.shelf import Shelf
from qilin_rag.synth.words import CONCEPTS_PER_TOPIC, FLAVOURS_PER_TOPIC, QUESTIONS, WISHES, Lexicon
from qilin_rag.synth.world import Reformulation, World

ENDINGS = ("", *QUESTIONS, *WISHES)
_LONGEST = 4
_ATTEMPTS = 30
_KEEPS_CONCEPT = 0.8
_MEANT_BY_TASTE = 0.5


class Query(NamedTuple):
    """The parts of a query."""

    concept: int
    form: int
    first_flavour: int
    n_flavours: int
    ending: int


class Queries(NamedTuple):
    """The queries of all searches, by the number of the search."""

    parts: Ints
    """One row per search, one column per field of Query."""
    source: Floats
    """1 to 8; NaN if it is missing."""

    @property
    def concept(self) -> Ints:
        """Return the concept that each query asks about."""
        return self.parts[:, 0]

    @property
    def form(self) -> Ints:
        """Return which of the concept's names each query uses."""
        return self.parts[:, 1]

    @property
    def ending(self) -> Ints:
        """Return the ending of each query, as its position in ENDINGS."""
        return self.parts[:, 4]

    @property
    def is_factoid(self) -> Bools:
        """Return whether each query asks for a fact."""
        return (self.ending >= 1) & (self.ending <= len(QUESTIONS))


def reformulation(before: str, after: str) -> Reformulation:
    """Return the kind of a reformulation by the sets of characters, with the kinds of the paper."""
    old, new = set(before), set(after)
    if old == new:
        return "repeat"
    if old < new:
        return "add"
    if new < old:
        return "delete"
    return "change" if old & new else "others"


class QueryText:
    """Builds the texts of queries."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon

    def of(self, query: Query) -> str:
        """Return the text of one query."""
        words, (concept, form, first, n, ending) = self._lexicon, query
        flavours = words.flavours[concept // CONCEPTS_PER_TOPIC]
        parts = [words.concepts[concept, form], *(flavours[(first + i) % FLAVOURS_PER_TOPIC] for i in range(n))]
        return "".join(words.tokens[token] for token in parts) + ENDINGS[ending]


def make_queries(
    world: World, dice: Dice, shelf: Shelf, users: Users, lexicon: Lexicon, plan: SessionPlan, seed: int
) -> Queries:
    """Return a query for every search, in the order of the plan; later ones of a session change the one before."""
    searches = np.flatnonzero(plan.is_search)
    n = len(searches)
    numbers = np.arange(n)
    user = plan.user[searches]
    liked = np.take_along_axis(
        users.topics(user), dice.below(world.taste_topics, "query-taste", numbers)[:, None], axis=1
    )[:, 0]
    by_taste = dice.uniform("query-way", numbers) < _MEANT_BY_TASTE
    topic = np.where(by_taste, liked, shelf.topics_at_random("query-topic", numbers))
    concepts = (topic * CONCEPTS_PER_TOPIC + dice.below(CONCEPTS_PER_TOPIC, "query-concept", numbers)).tolist()
    session = plan.session[searches].tolist()
    maker = _Maker(world, Random(f"{seed}/queries"), QueryText(lexicon))
    parts = np.empty((n, len(Query._fields)), np.int64)
    query: Query | None = None
    for i in range(n):
        before = query if i and session[i] == session[i - 1] else None
        query = maker.next(concepts[i], before)
        parts[i] = query
    source = 1.0 + dice.choose(world.sources, "source", numbers)
    source[dice.uniform("no-source", numbers) < world.no_source] = np.nan
    return Queries(parts, source)


class _Maker:
    """Makes one query after another."""

    def __init__(self, world: World, random: Random, text: QueryText) -> None:
        self._world, self._random, self._text = world, random, text
        self._kinds, self._kind_shares = zip(*world.reformulations.items(), strict=True)
        self._lengths, self._length_shares = zip(*world.lengths.items(), strict=True)
        self._endings = {
            (factoid, n): [ENDINGS.index(text) for text in texts if len(text) == n]
            for factoid, texts in ((True, QUESTIONS), (False, WISHES))
            for n in range(1, _LONGEST + 1)
        }

    def next(self, concept: int, before: Query | None) -> Query:
        """Return a query about this concept, or a reformulation of the query before."""
        if before is None:
            return self._fresh(concept, self._random.getrandbits(1))
        [kind] = self._random.choices(self._kinds, self._kind_shares)
        old = self._text.of(before)
        for _ in range(_ATTEMPTS):
            query = self._changed(kind, before, concept)
            if query is not None and reformulation(old, self._text.of(query)) == kind:
                return query
        return self._fresh(concept, self._random.getrandbits(1))  # no part is left to remove or add

    def _changed(self, wanted: str, before: Query, concept: int) -> Query | None:
        match wanted:
            case "repeat":
                return before
            case "add":
                return before._replace(n_flavours=before.n_flavours + 1) if before.n_flavours < 5 else None
            case "delete":
                return before._replace(n_flavours=before.n_flavours - 1) if before.n_flavours else None
            case "change":
                keeps = self._random.random() < _KEEPS_CONCEPT
                return self._fresh(before.concept, before.form if keeps else 1 - before.form)
        return self._fresh(concept, self._random.getrandbits(1))

    def _fresh(self, concept: int, form: int) -> Query:
        """Return a query of a wanted length: the name has 2 characters, each word of the topic 2 more."""
        random = self._random
        [length] = random.choices(self._lengths, self._length_shares)
        factoid = random.random() < self._world.factoid_queries
        rest = length - 2
        n_ending = next(self._ending_lengths(rest))
        if not self._endings[factoid, n_ending]:
            factoid = not factoid
        ending = random.choice(self._endings[factoid, n_ending])
        return Query(concept, form, random.randrange(FLAVOURS_PER_TOPIC), (rest - n_ending) // 2, ending)

    def _ending_lengths(self, rest: int) -> Iterator[int]:
        """Yield lengths of an ending that leave room for whole words, starting with a likely one."""
        fitting = [n for n in range(1, _LONGEST + 1) if n <= rest and (rest - n) % 2 == 0]
        self._random.shuffle(fitting)
        yield from (n for n in fitting if (rest - n) // 2 < FLAVOURS_PER_TOPIC)
