"""Store labels: appended to one file by any number of annotators and processes, none lost, none twice.

Whoever writes holds a lock between processes and reads first what others wrote. The line is on disk before the page is
told that it is stored. A question that goes to one annotator is held for them while they look at it. A label that comes
late is kept nevertheless.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from qilin_rag.core.environment import now
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.files import mend_last_line, open_new, replace_text, write_all, writing
from qilin_rag.core.labels import Label, parse_labels, standing
from qilin_rag.viewer.label_task import Item, OpenTask

HOLD_S = 30 * 60
_WAIT_S, _POLL_S = 10, 0.005


class ConflictError(QilinError):
    """A label that contradicts one that is stored."""


class _Hold(NamedTuple):
    """The question that an annotator looks at."""

    question_id: str
    until: float


class LabelStore:
    """The labels of a task in `folder/NAME.jsonl`.

    Args:
        task: The task.
        folder: The folder of labels; it is made when the first label is stored.

    Raises:
        UsageError: if the file holds labels of another task, or can't be read.
    """

    def __init__(self, task: OpenTask, folder: Path) -> None:
        name = task.settings.name
        self.task, self.path = task, folder / f"{name}.jsonl"
        self._lock_path, self._held_path = folder / f".{name}.lock", folder / f".{name}.held.json"
        self._lock = threading.Lock()
        self._lines: list[Label] = []
        self._n_read = 0
        self._read()

    def labels(self) -> list[Label]:
        """Return the labels that count, in the order in which they were made."""
        with self._lock:
            self._read()
            return standing(self._lines)

    def spelling(self, annotator: str) -> str:
        """Return a name as its owner wrote it first: `an` is who labelled as `An`.

        Args:
            annotator: The name, from `annotator_name`.
        """
        known = [*(each.annotator for each in self.labels()), *self._read_held()]
        return next((name for name in known if name.casefold() == annotator.casefold()), annotator)

    def next_item(self, annotator: str) -> Item | None:
        """Return the next question for an annotator, and hold it; None if there is none left.

        Args:
            annotator: The name of the annotator.
        """
        with self._locked():
            held = self._read_held()
            labels = standing(self._lines)
            left = _left(self.task, labels, held, annotator)
            own = held.get(annotator)
            chosen = own.question_id if own and own.question_id in left else next(iter(left), None)
            self._hold(held, annotator, chosen)
        return None if chosen is None else self.task.items[chosen]

    def add(self, label: Label) -> bool:
        """Store a label; return whether it is new.

        Args:
            label: The label, valid in itself. One with the `id` of a stored label is that label, sent again.

        Raises:
            ConflictError: if its annotator labelled the question before, or its `id` belongs to another label.
            QilinError: if it can't be written; then nothing is.
        """
        with self._locked():
            if known := next((each for each in self._lines if each.id == label.id), None):
                if (known.annotator, known.question_id) != (label.annotator, label.question_id):
                    raise ConflictError("another label has this id")
                return False
            if any(
                (each.annotator, each.question_id) == (label.annotator, label.question_id)
                for each in standing(self._lines)
            ):
                raise ConflictError("you labelled this question before; undo that label to change it")
            self._append(label)
        return True

    def withdraw(self, annotator: str, label_id: str) -> bool:
        """Withdraw the last label of an annotator, so that its question comes back; return whether it stood until now.

        Args:
            annotator: The name of the annotator.
            label_id: The `id` of the label; one that is withdrawn stays so.

        Raises:
            ConflictError: if this is not the annotator's last label.
            QilinError: if it can't be written; then nothing is.
        """
        with self._locked():
            own = [each for each in standing(self._lines) if each.annotator == annotator]
            if not own or own[-1].id != label_id:
                if any((each.id, each.annotator) == (label_id, annotator) for each in self._withdrawn()):
                    return False
                raise ConflictError("this is not your last label")
            self._append(own[-1].model_copy(update={"kind": "withdrawn", "at": now()}))
            self._hold(self._read_held(), annotator, own[-1].question_id)
        return True

    def progress(self, annotator: str) -> dict[str, Any]:
        """Return how much is done, by an annotator and by all, and the annotator's last label.

        Args:
            annotator: The name of the annotator.
        """
        with self._lock:
            self._read()
            labels, held = standing(self._lines), self._read_held()
        own = [each for each in labels if each.annotator == annotator]
        return {
            "done": len(own),
            "total": len(own) + len(_left(self.task, labels, held, annotator)),
            "all_done": len({each.question_id for each in labels}),
            "all_total": len(self.task.items),
            "n_annotators": len({each.annotator for each in labels}),
            "last": own[-1].id if own else None,
        }

    def _withdrawn(self) -> list[Label]:
        return [line for line in self._lines if line.kind == "withdrawn"]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock between processes, with all that was written before mended and read."""
        with self._lock, writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._lock_path, timeout=_WAIT_S, poll_interval=_POLL_S):
                mend_last_line(self.path)
                self._read()
                yield

    def _read(self) -> None:
        """Read the lines that were written since the last time."""
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            raise UsageError(f"{self.path} is not a plain file; move it away")
        if not self.path.exists() or self.path.stat().st_size < self._n_read:
            self._lines, self._n_read = [], 0
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._n_read)
            content = file.read()
        content = content[: content.rfind(b"\n") + 1]  # what is after it may be half a line
        lines = parse_labels(self.path, content, first=len(self._lines) + 1)
        for number, line in enumerate(lines, start=len(self._lines) + 1):
            self._check(line, number)
        self._lines += lines
        self._n_read += len(content)

    def _check(self, line: Label, number: int) -> None:
        """Check that a line is a label of this task."""
        if line.task_sha256 != self.task.sha256:
            raise UsageError(
                f"{self.path} holds labels of another task: its settings, questions or answers have changed; "
                "give this task another name"
            )
        if line.question_id not in self.task.items or sorted(line.sides) != list(range(len(self.task.run_names))):
            raise UsageError(f"{self.path}, line {number}: not a label of this task; remove the line")
        try:
            self.task.check(line.choice, line.ratings)
        except UsageError as error:
            raise UsageError(f"{self.path}, line {number}: {error}; remove the line") from error

    def _append(self, line: Label) -> None:
        """Append a line, on disk when this returns."""
        content = line.model_dump_json().encode() + b"\n"
        with open_new(self.path, "ab") as file:
            write_all(file, content)
            os.fsync(file.fileno())
        self._lines.append(line)
        self._n_read += len(content)

    def _read_held(self) -> dict[str, _Hold]:
        """Return the question that each annotator looks at; a damaged file holds none."""
        try:
            content = json.loads(self._held_path.read_bytes())
            held = {str(name): _Hold(str(question_id), float(until)) for name, (question_id, until) in content.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}
        return {name: hold for name, hold in held.items() if time.time() < hold.until <= time.time() + HOLD_S}

    def _hold(self, held: dict[str, _Hold], annotator: str, question_id: str | None) -> None:
        if question_id is None:
            held.pop(annotator, None)
        else:
            held[annotator] = _Hold(question_id, time.time() + HOLD_S)
        replace_text(self._held_path, json.dumps(held, ensure_ascii=True))


def _left(task: OpenTask, labels: list[Label], held: dict[str, _Hold], annotator: str) -> list[str]:
    """Return the questions that an annotator can get, in their order."""
    own = {each.question_id for each in labels if each.annotator == annotator}
    taken = {each.question_id for each in labels if each.annotator != annotator}
    taken |= {hold.question_id for name, hold in held.items() if name != annotator}
    return [each for each, item in task.items.items() if each not in own and (item.is_shared or each not in taken)]
