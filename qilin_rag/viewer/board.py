"""The leaderboard and the questions behind it: the page of the report, whose data is asked for piece by piece."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from qilin_rag.core.plain_files import file_state
from qilin_rag.core.types import Judgement, Question, Sample, Score
from qilin_rag.data import NoteStore
from qilin_rag.pipeline.cost import Tally
from qilin_rag.pipeline.run_directory import JUDGEMENTS, SAMPLES, SUMMARY, Manifest, RunDirectory
from qilin_rag.pipeline.run_notes import open_data
from qilin_rag.reports.cells import ResultTable
from qilin_rag.reports.contents import QuestionInRun, answers_of, columns_of, question_of, scores_of
from qilin_rag.reports.judged import judgements_of_runs
from qilin_rag.reports.leaderboard import leaderboard_of
from qilin_rag.reports.measured import RunCache, State, state_of_files
from qilin_rag.reports.noise import noise_of
from qilin_rag.reports.overview import directories_of, index_of, metrics_of, table_of
from qilin_rag.reports.thumbnails import NoteThumbnails, images_sent, open_thumbnails
from qilin_rag.viewer.app import data, page
from qilin_rag.viewer.folders import Folders
from qilin_rag.viewer.images import image_of
from qilin_rag.viewer.kept import Kept
from qilin_rag.viewer.lines import LineFinder, find_parts
from qilin_rag.viewer.shell import markup, shell


class _Table(NamedTuple):
    """One set of questions: its leaderboard, its runs by the names of the board, noise curves, notes and images."""

    board: ResultTable
    directories: dict[str, RunDirectory]
    manifests: dict[str, Manifest]
    questions: dict[str, Question]
    noise: dict[str, dict[str, Any]]
    notes: NoteStore | None
    why_no_notes: str
    thumbnails: NoteThumbnails | None
    why_no_images: str


class _Board(NamedTuple):
    """The tables of some runs; `version` changes if a run does."""

    version: str
    tables: list[_Table]


class Boards:
    """Leaderboards of runs, kept until a run changes.

    Args:
        folders: The runs.
        cache: Keeps what was read of each run.
        images: Whether the images of notes are shown.
    """

    def __init__(self, folders: Folders, cache: RunCache, images: bool = True) -> None:
        self._folders, self._cache, self._images = folders, cache, images
        self._boards: Kept[_Board] = Kept(4)
        self._judgements: Kept[dict[Path, dict[str, list[Judgement]]]] = Kept(16)
        self._tallies: Kept[Tally] = Kept(32)
        self._finder = LineFinder()

    def index(self, request: Request) -> dict[str, Any]:
        """Return what the page needs at once: the tables without anything about single questions."""
        board = self._board(request, "run")
        tables = [
            table_of(
                each.board,
                each.manifests,
                list(each.questions.values()),
                each.why_no_notes,
                each.noise,
                each.why_no_images,
            )
            for each in board.tables
        ]
        return {**index_of(tables), "board": board.version}

    def version(self, request: Request) -> str:
        """Return the version that the index would have now; nothing but the state of the files is read."""
        return _version(*self._state(request, "run"))

    def columns(self, request: Request) -> dict[str, Any]:
        """Return statuses and scores of a run."""
        table = self._table(request)
        directory = _run(table, request.query_params.get("run", ""))
        questions = list(table.questions.values())
        samples = directory.read_samples_of(questions).values()
        return columns_of(samples, scores_of(directory.read_scores(), questions, metrics_of(table.board)))

    def answers(self, request: Request) -> list[str]:
        """Return the answers of a run."""
        table = self._table(request)
        directory = _run(table, request.query_params.get("run", ""))
        return answers_of(directory.read_samples_of(table.questions.values()).values())

    def question(self, request: Request) -> dict[str, Any]:
        """Return everything about one question, for the runs that are named."""
        table = self._table(request)
        question = table.questions.get(request.query_params.get("id", ""))
        if question is None:
            raise HTTPException(404, "there is no such question")
        directories = [_run(table, name) for name in request.query_params.getlist("run")[:2]]
        judged = self._judged(directories, table)
        answered = [self._answered(each, question, table, judged[each.path]) for each in directories]
        return question_of(question, answered, table.notes, table.thumbnails)

    def thumbnail(self, request: Request) -> Response:
        """Return a small copy of an image of a note."""
        return image_of(self._table(request).thumbnails, request)

    def _answered(
        self, directory: RunDirectory, question: Question, table: _Table, judged: dict[str, list[Judgement]]
    ) -> QuestionInRun:
        samples = self._finder.find(directory.path / SAMPLES, question.id, Sample)
        if not samples:
            raise HTTPException(404, "the run has no answer to this question")
        scores = self._finder.find(directory.scores_path(), question.id, Score)
        [row] = scores_of(scores, [question], metrics_of(table.board))
        is_cut = samples[-1].short_count and self._tally(directory, table).is_cut(samples[-1])
        parts = find_parts(self._finder, directory.path, samples[-1])
        return QuestionInRun(samples[-1], row, is_cut, judged.get(question.id, []), parts)

    def _tally(self, directory: RunDirectory, table: _Table) -> Tally:
        """Return what tells whether a prompt was cut, which the counts of all questions decide."""
        return self._tallies.get(
            directory.path,
            file_state(directory.path / SAMPLES),
            lambda: Tally(directory.read_samples_of(table.questions.values()).values()),
        )

    def _judged(self, directories: Sequence[RunDirectory], table: _Table) -> dict[Path, dict[str, list[Judgement]]]:
        paths = [directory.path for directory in directories]
        around = {folder for path in paths for folder in (path.parent, path.parent.parent)}
        files = sorted(file for folder in around for file in folder.glob(f"*/{JUDGEMENTS}"))
        state = (
            table.manifests[next(iter(table.manifests))].question_set_sha256,
            tuple(files),
            tuple(map(file_state, files)),
        )
        return self._judgements.get(tuple(paths), state, lambda: judgements_of_runs(directories, table.questions))

    def _table(self, request: Request) -> _Table:
        """Return the table that a part of the page is about."""
        board = self._board(request, "of")
        if board.version != request.query_params.get("board"):
            raise HTTPException(409, "the runs have changed since the page was loaded; load it again")
        number = request.query_params.get("t", "")
        if not number.isascii() or not number.isdecimal() or len(number) > 4 or int(number) >= len(board.tables):
            raise HTTPException(404, "there is no such table")
        return board.tables[int(number)]

    def _board(self, request: Request, name: str) -> _Board:
        paths, states = self._state(request, name)
        return self._boards.get(paths, states, lambda: _make(paths, states, self._cache, self._images))

    def _state(self, request: Request, name: str) -> tuple[tuple[Path, ...], tuple[State | None, ...]]:
        paths = tuple(self._folders.runs_of(request, name))
        return paths, tuple(map(_figures_state, paths))


def routes(folders: Folders, cache: RunCache, images: bool = True) -> list[BaseRoute]:
    """Return the routes of the leaderboard.

    Args:
        folders: The runs.
        cache: Keeps what was read of each run.
        images: Whether the images of notes are shown.
    """
    boards = Boards(folders, cache, images)
    return [
        page("/board", _page),
        data("/api/board", boards.index),
        data("/api/version", boards.version),
        data("/api/columns", boards.columns),
        data("/api/answers", boards.answers),
        data("/api/question", boards.question),
        data("/api/thumbnail", boards.thumbnail),
    ]


def _page(_: Request) -> str:
    return shell("qilin-rag report", "board_page", markup("results.html", "qilin_rag.reports"), "/board")


def _make(paths: Sequence[Path], states: tuple[State | None, ...], cache: RunCache, images: bool) -> _Board:
    tables = []
    with cache.lock:
        boards = leaderboard_of(paths, cache=cache)
    for board in boards:
        directories = directories_of(board, paths)
        manifests = {name: directory.read_manifest() for name, directory in directories.items()}
        questions = {question.id: question for question in next(iter(directories.values())).read_questions()}
        noise = noise_of(directories, manifests, questions)
        dataset, why_no_notes = open_data(manifests.values())
        thumbnails, why = open_thumbnails(dataset, manifests.values(), is_asked=images) if images else (None, "")
        why_no_images = why if images_sent(manifests.values()) else ""
        notes = dataset.notes if dataset else None
        tables.append(
            _Table(board, directories, manifests, questions, noise, notes, why_no_notes, thumbnails, why_no_images)
        )
    return _Board(_version(paths, states), tables)


def _figures_state(path: Path) -> State | None:
    """Return what changes if the figures of a run do; None as long as it has none, however its answers grow."""
    return state_of_files(path) if (path / SUMMARY).exists() else None


def _version(paths: Sequence[Path], states: Sequence[State | None]) -> str:
    return hashlib.sha256(repr((paths, states)).encode()).hexdigest()[:16]


def _run(table: _Table, name: str) -> RunDirectory:
    if name not in table.directories:
        raise HTTPException(404, "there is no such run in this table")
    return table.directories[name]
