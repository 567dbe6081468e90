"""Export labels with the names of the runs, which the annotators did not see."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import write_text
from qilin_rag.core.labels import SIDES, Label
from qilin_rag.core.spreadsheet import csv_text
from qilin_rag.viewer.label_task import OpenTask

Row = dict[str, str | int | float | None]


def check_format(out: Path) -> None:
    """Check, before any work is done, that the name of an export says its format.

    Raises:
        UsageError: if it ends neither in .csv nor in .jsonl.
    """
    if out.suffix not in (".csv", ".jsonl"):
        raise UsageError(f"{out} is neither .csv nor .jsonl; the ending says what is written")


def export_labels(task: OpenTask, labels: Iterable[Label], out: Path) -> None:
    """Write one row for each label.

    Args:
        task: The task of the labels.
        labels: The labels that count.
        out: The file to write, .csv or .jsonl.
    """
    rows = [label_row(task, label) for label in labels]
    if out.suffix == ".jsonl":
        write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    else:
        header = columns(task)
        write_text(out, csv_text(header, ([row[name] for name in header] for row in rows)))


def columns(task: OpenTask) -> list[str]:
    """Return the columns of an export, in their order."""
    sides = SIDES[: len(task.run_names)]
    ratings = [f"{name}.{side.lower()}" for name in task.settings.criteria for side in sides]
    compared = ["choice", "preferred"] if len(sides) == 2 else []
    runs = [f"run_{side.lower()}" for side in sides]
    return ["question_id", "query", "annotator", *runs, *compared, *ratings, "comment", "seconds", "at"]


def label_row(task: OpenTask, label: Label) -> Row:
    """Return a label as a row: which run was A, which B, and which was preferred.

    Args:
        task: The task of the label.
        label: The label.
    """
    runs = dict(zip(SIDES, (task.run_names[place] for place in label.sides), strict=False))
    row: Row = {
        "question_id": label.question_id,
        "query": task.items[label.question_id].question.query,
        "annotator": label.annotator,
        "choice": label.choice,
        "preferred": next((run for side, run in runs.items() if side == label.choice), label.choice),
        "comment": label.comment,
        "seconds": label.seconds,
        "at": label.at,
    }
    row |= {f"run_{side.lower()}": run for side, run in runs.items()}
    row |= {f"{name}.{side.lower()}": value for side, of in label.ratings.items() for name, value in of.items()}
    return {name: row[name] for name in columns(task)}
