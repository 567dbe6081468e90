"""Output of a synthetic Qilin: seven tables in the hub's layout, their true causes, and a page that explains them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.resources import files
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from qilin_rag.core.files import new_folder
from qilin_rag.core.progress import stage
from qilin_rag.synth.answers import write_answers
from qilin_rag.synth.clicks import click
from qilin_rag.synth.corpus import NOTES_BATCH, Users, note_batches
from qilin_rag.synth.covers import write_covers
from qilin_rag.synth.dice import Bools, Dice, Floats, Ints
from qilin_rag.synth.exposures import Searches, ShownNotes, expose
from qilin_rag.synth.queries import Queries, Query, QueryText, make_queries
from qilin_rag.synth.sessions import SessionPlan, plan_requests
from qilin_rag.synth.shelf import Shelf
from qilin_rag.synth.tables import NAMES, TRUTH, LogTables, assign, rows, schema, truth
from qilin_rag.synth.texts import Writer
from qilin_rag.synth.words import Lexicon
from qilin_rag.synth.world import World

REQUESTS_BATCH = 4096
MOST_RECENT = 20
_GROUP_ROWS = 8192
_SHARD_ROWS = {"notes": 400_000}
_OTHER_SHARD_ROWS = 50_000


def synthesize(world: World, out: Path, images: bool = False) -> dict[str, int]:
    """Write a world to a new folder. The same world gives the same bytes.

    Args:
        world: The settings.
        out: A new or empty folder.
        images: Whether to write the covers of shown notes.

    Returns:
        The number of rows by table.
    """
    with new_folder(out) as folder:
        return _write(world, folder, images)


def _write(world: World, out: Path, images: bool) -> dict[str, int]:
    dice = Dice(world.seed)
    shelf = Shelf(world, dice)
    lexicon = Lexicon(dice, shelf.n_topics)
    writer = Writer(world, dice, shelf, lexicon)
    users = Users(world, dice, shelf)
    page = files("qilin_rag.synth").joinpath("model.md").read_text(encoding="utf-8")
    sizes = "".join(f"| {cause} | {size:g} |\n" for cause, size in world.causes.model_dump().items())
    settings = yaml.safe_dump(world.model_dump(), allow_unicode=True, sort_keys=False)
    (out / "README.md").write_text(f"{page}\n| cause | size here |\n|---|---:|\n{sizes}", encoding="utf-8")
    (out / "world.yaml").write_text(settings, encoding="utf-8")

    n_batches = -(-shelf.n_notes // NOTES_BATCH)
    with stage("notes", n_batches) as advance, Shards(out, "notes", shelf.n_notes) as notes:
        for batch in note_batches(world, dice, shelf, writer):
            notes.add(batch)
            advance()
    with Shards(out, "user_feat", users.n) as user_feat:
        for batch in users.batches():
            user_feat.add(batch)
    counts = {"notes": shelf.n_notes, "user_feat": users.n}

    plan = plan_requests(world, dice)
    queries = make_queries(world, dice, shelf, users, lexicon, plan, world.seed)
    table, answered = assign(world, dice, plan, queries)
    counts |= {name: int((table == i).sum()) for i, name in enumerate(NAMES)}
    covered = np.zeros(shelf.n_notes if images else 0, bool)
    with ExitStack() as stack:
        advance = stack.enter_context(stage("requests", -(-len(table) // REQUESTS_BATCH)))
        shards = {name: stack.enter_context(Shards(out, name, counts[name], schema(name))) for name in NAMES}
        causes = stack.enter_context(pq.ParquetWriter(out / "truth.parquet", TRUTH, compression="zstd"))
        for log in _logs(world, dice, shelf, users, writer, lexicon, plan, queries, table, answered):
            causes.write_batch(truth(log, plan))
            for name in NAMES:
                shards[name].add(rows(name, log, plan, dice, shelf))
            if images:
                write_covers(out, dice, shelf, log.shown.note, covered)
            advance()
    return counts


def _logs(
    world: World,
    dice: Dice,
    shelf: Shelf,
    users: Users,
    writer: Writer,
    lexicon: Lexicon,
    plan: SessionPlan,
    queries: Queries,
    table: Ints,
    answered: Bools,
) -> Iterator[LogTables]:
    """Yield the outcomes of all requests in batches."""
    text = QueryText(lexicon)
    history = History(users)
    for start in range(0, len(table), REQUESTS_BATCH):
        rows = np.arange(start, min(start + REQUESTS_BATCH, len(table)))
        searched = plan.is_search[rows]
        number = np.where(searched, plan.number[rows], 0)
        requests = Searches(
            rows=rows,
            is_search=searched,
            user=plan.user[rows],
            concept=np.where(searched, queries.concept[number], -1),
            form=np.where(searched, queries.form[number], -1),
            is_factoid=searched & queries.is_factoid[number],
            is_answered=answered[rows],
        )
        source: Floats = np.where(searched, queries.source[number], np.nan)
        shown = expose(world, dice, shelf, users, requests)
        clicks = click(world, dice, shelf, requests, plan.ordinal[rows], source, shown)
        answers = write_answers(world, dice, shelf, writer, lexicon, requests, shown)
        recent = history.read(requests, shown, clicks.actions["click"])
        pseudo = iter(_pseudo_queries(writer, [recent[i] for i in np.flatnonzero(~searched)]))
        query = [
            text.of(Query(*queries.parts[n].tolist())) if is_search else next(pseudo)
            for n, is_search in zip(number.tolist(), searched.tolist(), strict=True)
        ]
        yield LogTables(requests, table[rows], shown, clicks, answers, recent, query, source)


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


class Shards:
    """A table as a folder of parquet files, written as rows arrive."""

    def __init__(self, out: Path, name: str, n_rows: int, fields: pa.Schema | None = None) -> None:
        self._folder, self._fields = out / name, fields
        self._left = n_rows
        self._shard_rows = _SHARD_ROWS.get(name, _OTHER_SHARD_ROWS)
        self._n_shards = max(1, -(-n_rows // self._shard_rows))
        self._shard = -1
        self._room = 0
        self._pending: list[pa.RecordBatch] = []
        self._file: pq.ParquetWriter | None = None
        self._folder.mkdir()

    def __enter__(self) -> Shards:
        return self

    def add(self, batch: pa.RecordBatch) -> None:
        """Write more rows."""
        self._fields = batch.schema
        while len(batch):
            if not self._room:
                self._next_shard()
            part = batch.slice(0, self._room)
            batch = batch.slice(len(part))
            self._room -= len(part)
            self._pending.append(part)
            if not self._room or sum(map(len, self._pending)) >= _GROUP_ROWS:
                self._flush()

    def _next_shard(self) -> None:
        self._close()
        self._shard += 1
        name = f"train-{self._shard:05d}-of-{self._n_shards:05d}.parquet"
        self._file = pq.ParquetWriter(self._folder / name, self._fields, compression="zstd")
        self._room = self._shard_rows

    def _flush(self) -> None:
        if self._pending and self._file is not None:
            self._file.write_table(pa.Table.from_batches(self._pending), row_group_size=_GROUP_ROWS)
            self._pending = []

    def _close(self) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._shard < 0 and kind is None:
            self._next_shard()  # a table without rows is still a file
        self._close()
