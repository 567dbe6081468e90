"""Output of a synthetic Qilin: seven tables in the hub's layout, their true causes, and a page that explains them."""

from __future__ import annotations

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
from qilin_rag.synth.cards import CARD_ANSWERS, CARDS, write_cards
from qilin_rag.synth.corpus import NOTES_BATCH, note_batches
from qilin_rag.synth.covers import write_covers
from qilin_rag.synth.log import Corpus, Simulation
from qilin_rag.synth.tables import NAMES, TRUTH, card_answers, rows, schema, truth
from qilin_rag.synth.text_cards import check_drawing
from qilin_rag.synth.world import World

REQUESTS_BATCH = 4096
_GROUP_ROWS = 8192
_SHARD_ROWS = {"notes": 400_000}
_OTHER_SHARD_ROWS = 50_000


def synthesize(world: World, out: Path, images: bool = False) -> dict[str, int]:
    """Write a world to a new folder. The same world gives the same bytes.

    Args:
        world: The settings.
        out: A new or empty folder.
        images: Whether to write the covers and the text cards of shown notes.

    Returns:
        The number of rows by table.

    Raises:
        UsageError: if cards must be drawn, and Pillow or the font is not installed.
    """
    if images and world.cards:
        check_drawing("drawing text cards (cards above 0)")
    with new_folder(out) as folder:
        return _write(world, folder, images)


def _write(world: World, out: Path, images: bool) -> dict[str, int]:
    corpus = Corpus(world)
    shelf, users = corpus.shelf, corpus.users
    page = files("qilin_rag.synth").joinpath("model.md").read_text(encoding="utf-8")
    sizes = "".join(f"| {cause} | {size:g} |\n" for cause, size in world.sizes().items())
    settings = yaml.safe_dump(world.model_dump(), allow_unicode=True, sort_keys=False)
    (out / "README.md").write_text(f"{page}\n| cause | size here |\n|---|---:|\n{sizes}", encoding="utf-8")
    (out / "world.yaml").write_text(settings, encoding="utf-8")

    n_batches = -(-shelf.n_notes // NOTES_BATCH)
    with ExitStack() as stack:
        advance = stack.enter_context(stage("notes", n_batches))
        notes = stack.enter_context(Shards(out, "notes", shelf.n_notes))
        cards = stack.enter_context(_table_of(out / "cards.parquet", CARDS)) if world.cards else None
        for batch in note_batches(world, corpus.dice, shelf, corpus.writer):
            notes.add(batch)
            if cards:
                cards.write_batch(corpus.cards.rows(batch.column("note_idx").to_numpy()))
            advance()
    with Shards(out, "user_feat", users.n) as user_feat:
        for batch in users.batches():
            user_feat.add(batch)
    counts = {"notes": shelf.n_notes, "user_feat": users.n}

    simulation = Simulation(corpus)
    plan, table = simulation.plan, simulation.table
    counts |= {name: int((table == i).sum()) for i, name in enumerate(NAMES)}
    covered, drawn = np.zeros((2, shelf.n_notes if images else 0), bool)
    with ExitStack() as stack:
        advance = stack.enter_context(stage("requests", -(-len(table) // REQUESTS_BATCH)))
        shards = {name: stack.enter_context(Shards(out, name, counts[name], schema(name))) for name in NAMES}
        causes = stack.enter_context(_table_of(out / "truth.parquet", TRUTH))
        told = stack.enter_context(_table_of(out / "card_answers.parquet", CARD_ANSWERS)) if world.cards else None
        for log in simulation.batches(REQUESTS_BATCH):
            causes.write_batch(truth(log, plan))
            for name in NAMES:
                shards[name].add(rows(name, log, plan, corpus.dice, shelf))
            if told:
                told.write_batch(card_answers(log, plan))
            if images:
                write_covers(out, corpus.dice, shelf, log.shown.note, covered)
            if images and world.cards:
                cited = [note for notes in log.answers.references for note in notes]
                write_cards(out, corpus.cards, np.array([*log.shown.note.tolist(), *cited], np.int64), drawn)
            advance()
    return counts


def _table_of(path: Path, fields: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, fields, compression="zstd")


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
