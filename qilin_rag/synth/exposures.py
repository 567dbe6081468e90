"""Results that are shown: candidates of each request, ordered by a noisy production ranker, at positions with gaps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qilin_rag.synth.corpus import Users
from qilin_rag.synth.dice import Bools, Dice, Floats, Ints
from qilin_rag.synth.shelf import Shelf
from qilin_rag.synth.words import CONCEPTS_PER_TOPIC
from qilin_rag.synth.world import World

MOST_POSITIONS = 200
_RANKER_WEIGHTS = {"topical": 0.5, "lexical": 1.0, "synonym": 0.4, "taste": 1.0, "popularity": 0.5}
"""The platform's own sizes of causes, so that the same notes are shown without a cause."""
_MEAN_LATE_START = 6


class Searches(NamedTuple):
    """Some requests, one value per request. Search-only values are -1 for recommendations."""

    rows: Ints
    """The positions in the plan."""
    is_search: Bools
    user: Ints
    concept: Ints
    form: Ints
    is_factoid: Bools
    is_answered: Bools
    ending: Ints
    """The position of the query's ending among those of queries."""


class ShownNotes(NamedTuple):
    """The results of some requests in the order of their positions, one value per result."""

    request: Ints
    """The number of the result's request, from 0."""
    note: Ints
    position: Ints
    topical: Floats
    lexical: Floats
    synonym: Floats
    taste: Floats
    popularity: Floats


def expose(world: World, dice: Dice, shelf: Shelf, users: Users, requests: Searches) -> ShownNotes:
    """Return the results that each request is shown."""
    request, position = _positions(world, dice, requests)
    starts = np.searchsorted(request, np.arange(len(requests.rows)))
    nth = np.arange(len(request)) - starts[request]
    note = _candidates(world, dice, shelf, users, requests, request, nth)
    matches = _matches(shelf, users, requests, request, note)
    score = world.ranker_noise * dice.normal("ranker", requests.rows[request], nth)
    for name, weight in _RANKER_WEIGHTS.items():
        score += weight * getattr(matches, name)
    best_first = np.lexsort((-score, request))
    again = (dice.uniform("repeated", requests.rows[request], nth) < world.repeated) & (nth > 0)
    best_first = np.where(again, np.roll(best_first, 1), best_first)
    columns = {name: column[best_first] for name, column in matches._asdict().items()}
    return ShownNotes(**columns | {"position": position})


def _positions(world: World, dice: Dice, requests: Searches) -> tuple[Ints, Ints]:
    """Return the positions that have a result, with the request of each."""
    rows = requests.rows

    def by_kind(name: str) -> Floats:
        return kind_of(world, requests.is_search, name)

    mean = by_kind("depth")
    mean = mean * np.where(requests.is_factoid, world.depth_if_factoid, 1)
    mean = mean * np.where(requests.is_answered, world.depth_if_answered, 1)
    twice = dice.exponential("depth/0", rows) + dice.exponential("depth/1", rows)
    depth = np.minimum(1 + np.floor(twice / 2 * (mean - 0.5)), MOST_POSITIONS).astype(np.int64)
    late = dice.uniform("late", rows) < by_kind("late_start")
    first = np.where(late, np.floor(dice.exponential("late-by", rows) * _MEAN_LATE_START), 0).astype(np.int64)
    first = np.minimum(first, depth - 1)

    n = depth - first
    request = np.repeat(np.arange(len(rows)), n)
    position = 1 + np.arange(len(request)) - np.repeat(np.cumsum(n) - n, n) + first[request]
    has_result = dice.uniform("gap-at", rows[request], position) < by_kind("shown")[request]
    has_result |= position == depth[request]
    return request[has_result], position[has_result]


def _candidates(
    world: World, dice: Dice, shelf: Shelf, users: Users, requests: Searches, request: Ints, nth: Ints
) -> Ints:
    """Return a note for each result: of the query's concept or topic, of a topic to the user's taste, or any.

    These are neighbours on the shelf from a random position on, so that a note can only repeat across these groups.
    """
    rows = requests.rows[request]
    chance = dice.uniform("candidate", rows, nth)
    concept = np.maximum(requests.concept, 0)[request]
    topic = concept // CONCEPTS_PER_TOPIC
    which = dice.below(world.taste_topics, "candidate-taste", rows, nth)
    liked = np.take_along_axis(users.topics(requests.user)[request], which[:, None], axis=1)[:, 0]

    searched = requests.is_search[request]
    of_concept = searched & (chance < world.same_concept)
    of_topic = searched & ~of_concept & (chance < world.same_concept + world.same_topic)
    of_taste = ~searched & (chance < world.of_taste)
    topic = np.where(of_taste, liked, topic)
    starts = np.where(of_concept, shelf.concept_starts[concept], shelf.topic_starts[topic])
    ends = np.where(of_concept, shelf.concept_starts[concept + 1], shelf.topic_starts[topic + 1])
    way = of_concept + 2 * of_topic + (3 + which) * of_taste
    place = starts + (dice.bits("shelf", rows, way) >> np.uint64(2)).astype(np.int64) % (ends - starts)
    place = np.where(way > 0, starts + (place - starts + nth) % (ends - starts), 0)
    anything = dice.below(shelf.n_notes, "anything", rows, nth)
    note = shelf.note_at(np.where(way > 0, place, anything))
    for attempt in range(3):  # replace a repeated note by any other note
        double = _doubles(request, note)
        if not double.any():
            break
        note[double] = dice.below(shelf.n_notes, f"other/{attempt}", rows[double], nth[double])
    return note


def _doubles(request: Ints, note: Ints) -> Bools:
    """Return whether a request has a note already."""
    order = np.lexsort((note, request))
    double = np.zeros(len(note), bool)
    same = (request[order][1:] == request[order][:-1]) & (note[order][1:] == note[order][:-1])
    double[order[1:]] = same
    return double


def _matches(shelf: Shelf, users: Users, requests: Searches, request: Ints, note: Ints) -> ShownNotes:
    """Return how well each note fits its request; a recommendation has no query to fit."""
    concept, asked_concept = shelf.concept(note), requests.concept[request]
    searched = requests.is_search[request]
    same = searched & (concept == asked_concept)
    same_form = shelf.form(note) == requests.form[request]
    return ShownNotes(
        request=request,
        note=note,
        position=np.zeros(len(note), np.int64),
        topical=(searched & (concept // CONCEPTS_PER_TOPIC == asked_concept // CONCEPTS_PER_TOPIC)).astype(float),
        lexical=(same & same_form).astype(float),
        synonym=(same & ~same_form).astype(float),
        taste=users.taste(requests.user[request], note),
        popularity=shelf.popularity(note),
    )


def kind_of(world: World, is_search: Bools, name: str) -> Floats:
    """Return a setting of each request's kind."""
    values: Floats = np.where(is_search, getattr(world.search, name), getattr(world.recommendation, name))
    return values
