"""Description of a data set in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from qilin_rag.core.stats import paired_tests
from qilin_rag.core.text import query_key
from qilin_rag.data.clock import LATE_HOUR, check_clock
from qilin_rag.data.defects import count_defects, has_query
from qilin_rag.data.encodings import present_columns, read_batches
from qilin_rag.data.exposures import Exposures, read_exposures
from qilin_rag.data.image_files import ImageFiles
from qilin_rag.data.log_settings import LogSettings
from qilin_rag.data.notes import open_notes
from qilin_rag.data.questions import FLAGS, read_questions
from qilin_rag.data.schema import ALL_TABLES, REQUEST_TABLES, TABLES, details_column
from qilin_rag.data.sessions import app_sessions, pause_sessions
from qilin_rag.data.source import Source

Figures = dict[str, dict[str, int | float | str]]
Values = npt.NDArray[np.float64]
_MOST_LOOKED_FOR = 10_000


def describe(source: Source) -> Figures:
    """Describe a data set in figures by subject.

    Returns:
        Figures of each table, the notes, the questions with answers, the positions and sessions of requests, and the
        evidence for or against the assumed clock of searches. Lengths are in characters.
    """
    tables = source.tables()
    figures: Figures = {}
    for name in tables:
        encoding, files = source.files(name)
        key = [ALL_TABLES[name].key]
        n_rows = sum(len(batch.rows) for path in files for batch in read_batches(encoding, path, ALL_TABLES[name], key))
        figures[f"table {name}"] = {"rows": n_rows, "columns": len(present_columns(encoding, files, ALL_TABLES[name]))}
    if "notes" in tables:
        figures["notes"] = _notes(source)
        if images := _images(source):
            figures["images"] = images
    if "dqa" in tables:
        figures["answers"] = _answers(source)
    if logs := _logs(source):
        figures["results"] = _results(logs)
        if ids := _ids(logs):
            figures["note_idx against clicks"] = ids
        figures["sessions"] = _sessions(logs, source.log)
        figures["clock"] = _clock(logs, source.log)
    return figures


def _logs(source: Source) -> dict[str, Exposures]:
    """Return the tables whose rows hold results that were shown, with positions as stored."""
    as_they_are = source._replace(log=source.log.model_copy(update={"position_zero": "top"}))
    logs = {}
    for name in (name for name in REQUEST_TABLES if name in source.tables()):
        encoding, files = source.files(name)
        if details_column(TABLES[name]) in present_columns(encoding, files, TABLES[name]):
            logs[name] = read_exposures(as_they_are, name)
    return {name: log for name, log in logs.items() if len(log)}


def _results(logs: Mapping[str, Exposures]) -> dict[str, int | float | str]:
    """Return the number of results shown, and the numbers of unusual positions."""
    at_zero = {name: log.position == 0 for name, log in logs.items()}
    return {
        "shown": sum(len(log.note_idx) for log in logs.values()),
        "at position 0": sum(int(mask.sum()) for mask in at_zero.values()),
        "requests with position 0": sum(len(np.unique(logs[name].request[mask])) for name, mask in at_zero.items()),
        "without a position": sum(int((log.position < 0).sum()) for log in logs.values()),
    }


def _ids(logs: Mapping[str, Exposures]) -> dict[str, int | float | str]:
    """Return how well the id of a note alone separates the clicked results of a request from the others."""
    aucs = np.concatenate([id_auc(log.request, log.note_idx, log.actions[:, 0]) for log in logs.values()])
    if not len(aucs):
        return {}
    mean = float(aucs.mean())
    figures: dict[str, int | float | str] = {
        "AUC within a request, mean": mean,
        "requests with a click and a result without": len(aucs),
    }
    [from_chance] = paired_tests(aucs[:, None] - 0.5, np.arange(len(aucs)))
    if interval := from_chance.interval:
        low, high = max(0.0, interval.low + 0.5), min(1.0, interval.high + 0.5)
        figures["its 95% interval"] = f"{low:.3f} to {high:.3f}"
        if not low <= 0.5 <= high:
            which = "higher" if mean > 0.5 else "lower"
            figures["what it says"] = (
                f"clicked notes have {which} ids: ordering ties by id, or reading the id, leaks the clicks; "
                "qilin_rag orders ties by a hash"
            )
    return figures


def id_auc(request: npt.NDArray[np.int64], note_idx: npt.NDArray[np.int64], clicked: npt.NDArray[np.bool_]) -> Values:
    """Return the AUC of the ids for the clicks, for each request that has both clicked and other notes.

    The AUC is the share of pairs of a clicked and another note in which the clicked note has the higher id; .5 means
    that ids tell nothing. A note that was shown twice counts once, and is clicked if it ever was.
    """
    order = np.lexsort((~clicked, note_idx, request))
    request, note_idx, clicked = request[order], note_idx[order], clicked[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (request[1:] != request[:-1]) | (note_idx[1:] != note_idx[:-1])
    request, clicked = request[is_first], clicked[is_first]
    n, n_clicked = np.bincount(request), np.bincount(request, clicked)
    place = np.arange(len(request)) - (np.cumsum(n) - n)[request]  # rank by id, from 0
    below = np.bincount(request, np.where(clicked, place, 0)) - n_clicked * (n_clicked - 1) / 2
    has_both = (n_clicked > 0) & (n_clicked < n)
    auc: Values = below[has_both] / (n_clicked * (n - n_clicked))[has_both]
    return auc


def _sessions(logs: Mapping[str, Exposures], settings: LogSettings) -> dict[str, int | float | str]:
    """Return the number and length of the sessions of each kind."""
    parts = list(logs.values())
    kinds = {
        "of the app (session_idx)": [app_sessions(part, parts) for part in parts],
        f"by pauses over {settings.session_gap_s / 60:g} minutes": [
            pause_sessions(part, parts, settings.session_gap_s) for part in parts
        ],
    }
    figures: dict[str, int | float | str] = {}
    for what, found in kinds.items():
        number = np.concatenate([sessions.number for sessions in found])
        n_sessions, n_inside = len(np.unique(number[number >= 0])), int((number >= 0).sum())
        figures[what] = n_sessions
        figures[f"{what}: requests, mean"] = n_inside / n_sessions if n_sessions else 0.0
        if n_inside < len(number):
            figures[f"{what}: requests in none"] = len(number) - n_inside
    return figures


def _clock(logs: Mapping[str, Exposures], settings: LogSettings) -> dict[str, int | float | str]:
    """Return the assumed shift of the clock of searches, and the times in the data for or against it."""
    check = check_clock(logs, settings)
    figures: dict[str, int | float | str] = {"searches are stamped ahead by, hours (assumed)": check.shift_s / 3600}
    for kind, times in check.tests.items():
        figures[f"{kind}_test requests with a time"] = times.n
        figures[f"{kind}_test requests after {LATE_HOUR}:00 in Beijing"] = times.n_late
        figures[f"{kind}_test, the earliest in Beijing"] = times.earliest
    figures["sessions of the app with both kinds"] = check.n_sessions
    if check.ahead_h is not None:
        figures["in these, searches are stamped ahead by, hours (median)"] = check.ahead_h
    return figures


def _notes(source: Source) -> dict[str, int | float | str]:
    encoding, files = source.files("notes")
    columns = ["note_title", "note_content"]
    titles: list[int] = []
    contents: list[int] = []
    for path in files:
        for batch in read_batches(encoding, path, TABLES["notes"], columns):
            for lengths, column in zip((titles, contents), batch.rows.columns, strict=True):
                lengths += pc.fill_null(pc.utf8_length(column), 0).to_pylist()
    return {
        "without text": sum(not title and not content for title, content in zip(titles, contents, strict=True)),
        **_lengths("title", titles),
        **_lengths("content", contents),
    }


def _images(source: Source) -> dict[str, int | float | str]:
    """Return how many images the notes name, and the places of some of them, spread over all."""
    encoding, files = source.files("notes")
    if "image_path" not in present_columns(encoding, files, TABLES["notes"]):
        return {}
    n_notes = n_names = 0
    looked_for: list[str] = []
    step = 1
    for path in files:
        for batch in read_batches(encoding, path, TABLES["notes"], ["image_path"]):
            lists = batch.rows.column(0)
            n_notes += pc.sum(pc.greater(pc.fill_null(pc.list_value_length(lists), 0), 0)).as_py() or 0
            names = pc.list_flatten(lists)
            looked_for += names.take(list(range(-n_names % step, len(names), step))).to_pylist()
            n_names += len(names)
            while len(looked_for) > _MOST_LOOKED_FOR:
                looked_for, step = looked_for[::2], 2 * step
    images = ImageFiles(source.folder)
    places = Counter(images.kind_of_place(name) for name in looked_for if name)
    return {
        "notes with images": n_notes,
        "named": n_names,
        "archives": sum(1 for _ in images.archives()),
        "looked for": len(looked_for),
        **dict(sorted(places.items())),
    }


def _answers(source: Source) -> dict[str, int | float | str]:
    """Return figures of the answers shown, by the feedback they had, and of the notes they cite."""
    questions = read_questions(*source.files("dqa"), answers="shown")
    has_feedback = any(flag in question.meta for question in questions for flag in FLAGS["engaged"])
    selections = {
        f"{name}": sum(any(question.meta.get(flag) == 1 for flag in flags) for question in questions)
        for name, flags in FLAGS.items()
        if flags and has_feedback
    }
    cited = [note_idx for question in questions for note_idx in question.reference_notes]
    figures: dict[str, int | float | str] = {
        "shown": len(questions),
        **selections,
        "distinct queries": len({query_key(question.query) for question in questions}),
        **_lengths("answer", [len(text) for question in questions for text in question.references]),
        "reference notes a question, mean": len(cited) / len(questions),
    }
    if "notes" in source.tables():
        defects = count_defects(questions, open_notes(*source.files("notes")))
        figures["reference notes not in the data"] = defects.dangling_notes
        figures["answers with such reference notes"] = defects.questions_with_dangling_notes
    figures["with an empty query"] = sum(not has_query(question) for question in questions)
    return figures


def _lengths(what: str, lengths: Sequence[int]) -> dict[str, int | float]:
    values = np.array(lengths or [0])
    return {f"{what} length, median": float(np.median(values)), f"{what} length, longest": int(values.max())}
