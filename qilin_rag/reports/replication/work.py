"""Do the parts one after another, each once: what is done is found again by its fingerprint."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.core.directories import locked
from qilin_rag.core.errors import QilinError, UsageError, unknown_name
from qilin_rag.core.files import read_json, validated, write_text
from qilin_rag.core.progress import stage
from qilin_rag.core.types import Frozen
from qilin_rag.data.schema import TABLES
from qilin_rag.data.source import open_source
from qilin_rag.pipeline.run_directory import MANIFEST as RUN
from qilin_rag.rankers.ranking_directory import MANIFEST as RANKING
from qilin_rag.reports.replication.answer_parts import answer_parts
from qilin_rag.reports.replication.log_parts import log_parts
from qilin_rag.reports.replication.part import Choices, Lack, PaperPart, State, Workplace
from qilin_rag.reports.replication.ranking_parts import ranking_parts

logger = logging.getLogger(__name__)
_PARTS = "parts"


class PartRecord(Frozen):
    """The file of a part that is done: `parts/NAME.json`."""

    fingerprint: str
    seconds: float
    result: dict[str, Any]


class PartOutcome(NamedTuple):
    """The outcome of a part.

    Attributes:
        part: The part.
        state: `to do` is only for a part that is planned.
        record: Its result, if it is done.
        lacks: What is lacking for it.
        error: Why it failed.
        is_new: Whether this call did it.
    """

    part: PaperPart
    state: State
    record: PartRecord | None = None
    lacks: Sequence[Lack] = ()
    error: str = ""
    is_new: bool = False


class Replication(NamedTuple):
    """All parts and what became of them, in the order of the paper.

    Attributes:
        place: The data and the machine.
        outcomes: The outcome of each part; one that was not chosen is done from before, to do, or missing.
        chosen: The names of the chosen parts.
    """

    place: Workplace
    outcomes: list[PartOutcome]
    chosen: frozenset[str]

    @property
    def n_failed(self) -> int:
        """Return the number of parts that failed."""
        return sum(outcome.state == "failed" for outcome in self.outcomes)


def all_parts() -> list[PaperPart]:
    """Return all parts, the cheap ones first."""
    return [*log_parts(), *ranking_parts(), *answer_parts()]


def chosen_parts(names: Sequence[str] | None) -> frozenset[str]:
    """Return the names of the parts that are, or begin with the words of, one of these names; all of them for None.

    Raises:
        UsageError: if a name is of no part.
    """
    parts = all_parts()
    for name in names or ():
        if not any(_is_of(part, name) for part in parts):
            raise unknown_name("part", name, {*(part.section for part in parts), *(part.name for part in parts)})
    return frozenset(part.name for part in parts if names is None or any(_is_of(part, name) for name in names))


def _is_of(part: PaperPart, name: str) -> bool:
    return part.name == name or part.name.startswith(f"{name}-")


def plan_parts(choices: Choices, names: Sequence[str] | None = None) -> Replication:
    """Return what `replicate` would do; nothing is done, written or downloaded."""
    chosen = chosen_parts(names)
    place = _workplace(choices, fetch=False)
    return Replication(place, [_looked_at(part, place) for part in all_parts()], chosen)


def replicate(choices: Choices, names: Sequence[str] | None = None) -> Replication:
    """Do the chosen parts, or resume them; an error of one part does not stop the others.

    Raises:
        UsageError: if the data does not exist, `out` is a folder of something else, or another process works in it.
    """
    chosen = chosen_parts(names)
    place = _workplace(choices, fetch=True)
    out = choices.out
    if out.exists() and not (out.is_dir() and ((out / _PARTS).is_dir() or _is_new(out))):
        raise UsageError(f"{out} exists and is not the folder of an earlier replication; name a new folder (--out)")
    with locked(out, "out (--out)"):
        (out / _PARTS).mkdir(exist_ok=True)
        outcomes = []
        with stage("parts of the paper", len(chosen)) as advance:
            for part in all_parts():
                if part.name not in chosen:
                    outcomes.append(_looked_at(part, place))
                    continue
                outcomes.append(_done(part, place))
                advance(failed=outcomes[-1].state == "failed")
    return Replication(place, outcomes, chosen)


def _is_new(out: Path) -> bool:
    """Return whether a folder holds nothing but the lock of a process that was killed at once."""
    return {path.name for path in out.iterdir()} <= {".lock"}


def _workplace(choices: Choices, fetch: bool) -> Workplace:
    return Workplace(choices, open_source(choices.data, list(TABLES), fetch=fetch))


def _looked_at(part: PaperPart, place: Workplace) -> PartOutcome:
    """Return whether a part is done, could be done, or lacks something; an error of looking is the part's own."""
    try:
        if lacks := part.lacks(place):
            return PartOutcome(part, "missing", lacks=lacks)
        record = _record_of(part, place)
    except QilinError as error:
        return _failed(part, error)
    return PartOutcome(part, "to do" if record is None else "done", record)


def _done(part: PaperPart, place: Workplace) -> PartOutcome:
    outcome = _looked_at(part, place)
    if outcome.state != "to do":
        return outcome
    began = time.monotonic()
    try:
        result = part.do(place)
        seconds = round(time.monotonic() - began, 1)
        # Training may have changed what the result is made of, so the fingerprint is made after it.
        record = PartRecord(fingerprint=part.fingerprint(place), seconds=seconds, result=result)
        write_text(_file_of(part, place), record.model_dump_json(indent=2) + "\n")
    except QilinError as error:
        return _failed(part, error)
    except Exception as error:  # a defect in one part must not lose the others
        logger.warning("%s failed", part.name, exc_info=True)
        return _failed(part, error)
    return PartOutcome(part, "done", record, is_new=True)


def _failed(part: PaperPart, error: Exception) -> PartOutcome:
    text = " ".join(str(error).split()) or "no reason is given"
    return PartOutcome(
        part, "failed", error=text if isinstance(error, QilinError) else f"{type(error).__name__}: {text}"
    )


def _file_of(part: PaperPart, place: Workplace) -> Path:
    return place.choices.out / _PARTS / f"{part.name}.json"


def _record_of(part: PaperPart, place: Workplace) -> PartRecord | None:
    """Return the result of a part that was done on the same data, by the same program and settings; else None."""
    path = _file_of(part, place)
    if not path.exists():
        return None
    try:
        record = validated(PartRecord, path, read_json(path))
    except UsageError as error:
        logger.warning("%s; the part is done again", error)
        return None
    if record.fingerprint != part.fingerprint(place):
        return None
    if (run := record.result.get("run")) and not _has_run(place.choices.out / "runs" / str(run)):
        return None
    return record


def _has_run(path: Path) -> bool:
    return any((path / name).is_file() for name in (RANKING, RUN))
