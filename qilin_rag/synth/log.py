"""Simulation of a log: what users ask, are shown, click and are told, in batches of requests."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from qilin_rag.synth.answers import write_answers
from qilin_rag.synth.cards import Cards
from qilin_rag.synth.clicks import click
from qilin_rag.synth.corpus import Users
from qilin_rag.synth.dice import Bools, Dice, Floats
from qilin_rag.synth.exposures import Searches, ShownNotes, expose
from qilin_rag.synth.queries import Query, QueryText, make_queries
from qilin_rag.synth.re_search import search_again
from qilin_rag.synth.sessions import plan_requests
from qilin_rag.synth.shelf import Shelf
from qilin_rag.synth.tables import LogTables, assign
from qilin_rag.synth.texts import Writer
from qilin_rag.synth.words import Lexicon
from qilin_rag.synth.world import World

MOST_RECENT = 20


class Corpus:
    """The notes and users of a world, and what writes their texts."""

    def __init__(self, world: World) -> None:
        self.world, self.dice = world, Dice(world.seed)
        self.shelf = Shelf(world, self.dice)
        self.lexicon = Lexicon(self.dice, self.shelf.n_topics)
        self.writer = Writer(world, self.dice, self.shelf, self.lexicon)
        self.cards = Cards(world, self.dice, self.shelf, self.lexicon)
        self.users = Users(world, self.dice, self.shelf)


class Simulation:
    """All requests of a world: their plan, their queries, the table of each, and whether an answer was shown."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        world, dice = corpus.world, corpus.dice
        self.plan = plan_requests(world, dice)
        planned = make_queries(world, dice, corpus.shelf, corpus.users, corpus.lexicon, self.plan, world.seed)
        self.table, self.answered = assign(world, dice, self.plan, planned)
        self.queries, self.re_search = search_again(world, dice, self.plan, planned, self.answered)

    def batches(self, size: int) -> Iterator[LogTables]:
        """Yield the outcomes of all requests in the order of the plan, `size` requests at a time."""
        corpus, plan, queries = self.corpus, self.plan, self.queries
        world, dice, shelf = corpus.world, corpus.dice, corpus.shelf
        text = QueryText(corpus.lexicon)
        history = History(corpus.users)
        for start in range(0, len(self.table), size):
            rows = np.arange(start, min(start + size, len(self.table)))
            searched = plan.is_search[rows]
            number = np.where(searched, plan.number[rows], 0)
            requests = Searches(
                rows=rows,
                is_search=searched,
                user=plan.user[rows],
                concept=np.where(searched, queries.concept[number], -1),
                form=np.where(searched, queries.form[number], -1),
                is_factoid=searched & queries.is_factoid[number],
                is_answered=self.answered[rows],
                ending=np.where(searched, queries.ending[number], 0),
            )
            source: Floats = np.where(searched, queries.source[number], np.nan)
            shown = expose(world, dice, shelf, corpus.users, requests)
            clicks = click(world, dice, shelf, requests, plan.ordinal[rows], source, shown)
            answers = write_answers(world, dice, shelf, corpus.writer, corpus.lexicon, corpus.cards, requests, shown)
            recent = history.read(requests, shown, clicks.actions["click"])
            pseudo = iter(_pseudo_queries(corpus.writer, [recent[i] for i in np.flatnonzero(~searched)]))
            query = [
                text.of(Query(*queries.parts[n].tolist())) if is_search else next(pseudo)
                for n, is_search in zip(number.tolist(), searched.tolist(), strict=True)
            ]
            yield LogTables(
                requests, self.table[rows], shown, clicks, answers, self.re_search.take(rows), recent, query, source
            )


class History:
    """The latest clicks of each user, newest first: those before this log, then those in it."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._user = -1
        self._clicked: deque[int] = deque(maxlen=MOST_RECENT)

    def read(self, requests: Searches, shown: ShownNotes, clicked: Bools) -> list[list[int]]:
        """Return the earlier clicks of each request; requests must come by user and time."""
        names = np.unique(requests.user)
        past = dict(zip(names.tolist(), self._users.past_clicks(names, MOST_RECENT).tolist(), strict=True))
        bounds = np.searchsorted(shown.request, np.arange(len(requests.rows) + 1))
        recent = []
        for i, user in enumerate(requests.user.tolist()):
            if user != self._user:
                self._user, self._clicked = user, deque(past[user][: 1 + user % MOST_RECENT], maxlen=MOST_RECENT)
            recent.append(list(self._clicked))
            of_request = slice(bounds[i], bounds[i + 1])
            self._clicked.extendleft(shown.note[of_request][clicked[of_request]].tolist())
        return recent


def _pseudo_queries(writer: Writer, recent: list[list[int]]) -> list[str]:
    """Return the paper's queries of recommendations: titles of recently clicked notes, joined by spaces."""
    notes = np.unique(np.array([note for notes in recent for note in notes], np.int64))
    titles = dict(zip(notes.tolist(), writer.titles(notes).to_pylist() if len(notes) else [], strict=True))
    return [" ".join(titles[note] for note in dict.fromkeys(notes)) for notes in recent]
