"""Tasks without runs, and an annotator in a process of its own: `python -m tests.viewer.labelling FOLDER NAME`."""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path
from typing import Any

from qilin_rag.core.labels import Label
from qilin_rag.core.types import Question
from qilin_rag.viewer.label_task import Item, LabelTask, OpenTask
from qilin_rag.viewer.labels import LabelStore


def made_task(n: int = 8, n_shared: int = 2, n_runs: int = 2, **settings: Any) -> OpenTask:
    """A task with these numbers of questions, of those that every annotator gets, and of runs."""
    task = LabelTask(name="made", runs=[f"run{i}" for i in range(n_runs)], **settings)
    items = {
        str(i): Item(
            Question(id=str(i), query=f"q{i}", references=[f"reference {i}"]),
            [f"answer {i} of {place}" for place in range(n_runs)],
            [[] for _ in range(n_runs)],
            i < n_shared,
        )
        for i in range(n)
    }
    return OpenTask(task, [f"run-{place}" for place in range(n_runs)], items, f"hash of {n}", [])


def made_label(task: OpenTask, question_id: str, annotator: str, **fields: Any) -> Label:
    """A label of this question, by default a tie."""
    known: dict[str, Any] = {
        "id": secrets.token_hex(8),
        "task_sha256": task.sha256,
        "question_id": question_id,
        "annotator": annotator,
        "sides": task.sides(question_id, annotator),
        "choice": "tie",
        "seconds": 1.5,
        "at": "2026-01-01T00:00:00+00:00",
    }
    return Label(**{**known, **fields})


def label_all(task: OpenTask, folder: Path, annotator: str, pause_s: float = 0) -> list[str]:
    """Label every question that this annotator gets, and return them."""
    store = LabelStore(task, folder)
    done = []
    while item := store.next_item(annotator):
        assert store.add(made_label(task, item.question.id, annotator))
        done.append(item.question.id)
        time.sleep(pause_s)
    return done


if __name__ == "__main__":
    print("begins", flush=True)  # noqa: T201
    label_all(made_task(60, 20), Path(sys.argv[1]), sys.argv[2], pause_s=0.01)
