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
    """What a query is made of."""

    concept: int
    form: int
    first_flavour: int
    n_flavours: int
    ending: int


class Queries(NamedTuple):
    """All searches' queries, by the number of the search."""

    parts: Ints
    """A row a search, a column a field of Query."""
    source: Floats
    """1 to 8; NaN where it is missing."""

    @property
    def concept(self) -> Ints:
        """What each asks about."""
        return self.parts[:, 0]

    @property
    def form(self) -> Ints:
        """Which of the concept's names it uses."""
        return self.parts[:, 1]

    @property
    def is_factoid(self) -> Bools:
        """Whether it asks for a fact."""
        ending = self.parts[:, 4]
        return (ending >= 1) & (ending <= len(QUESTIONS))


def reformulation(before: str, after: str) -> Reformulation:
    """What became of a query, by the sets of its characters, as the paper tells the kinds apart."""
    old, new = set(before), set(after)
    if old == new:
        return "repeat"
    if old < new:
        return "add"
    if new < old:
        return "delete"
    return "change" if old & new else "others"


class QueryText:
    """Texts of queries."""

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon

    def of(self, query: Query) -> str:
        """The text of one query."""
        words, (concept, form, first, n, ending) = self._lexicon, query
        flavours = words.flavours[concept // CONCEPTS_PER_TOPIC]
        parts = [words.concepts[concept, form], *(flavours[(first + i) % FLAVOURS_PER_TOPIC] for i in range(n))]
        return "".join(words.tokens[token] for token in parts) + ENDINGS[ending]


def make_queries(
    world: World, dice: Dice, shelf: Shelf, users: Users, lexicon: Lexicon, plan: SessionPlan, seed: int
) -> Queries:
    """A query for every search, in the order of the plan; one that follows another in its session changes it."""
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
        """A query about this concept, or what the query before it becomes."""
        if before is None:
            return self._fresh(concept, self._random.getrandbits(1))
        [wanted] = self._random.choices(self._kinds, self._kind_shares)
        old = self._text.of(before)
        for _ in range(_ATTEMPTS):
            query = self._changed(wanted, before, concept)
            if query is not None and reformulation(old, self._text.of(query)) == wanted:
                return query
        return self._fresh(concept, self._random.getrandbits(1))  # nothing is left to take away or to add

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
        """A query of a length as often as it is wanted: the name has 2 characters, each word of the topic 2 more."""
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
        """Lengths of an ending that leave room for whole words, one of the likelier first."""
        fitting = [n for n in range(1, _LONGEST + 1) if n <= rest and (rest - n) % 2 == 0]
        self._random.shuffle(fitting)
        yield from (n for n in fitting if (rest - n) // 2 < FLAVOURS_PER_TOPIC)
