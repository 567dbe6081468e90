"""Export labels with the names of the runs, which the annotators did not see."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from qilin_rag.agreement.label_rows import HASH, Row, label_columns, write_rows
from qilin_rag.core.label_rules import answers_hash
from qilin_rag.core.labels import SIDES, Label
from qilin_rag.viewer.label_task import OpenTask


def export_labels(task: OpenTask, labels: Iterable[Label], out: Path) -> None:
    """Write one row for each label.

    Args:
        task: The task of the labels.
        labels: The labels that count.
        out: The file to write, .csv or .jsonl.
    """
    write_rows(out, _columns(task), [label_row(task, label) for label in labels])


def _columns(task: OpenTask) -> list[str]:
    return label_columns(task.settings.criteria, len(task.run_names))


def label_row(task: OpenTask, label: Label) -> Row:
    """Return a label as a row: which run was A, which B, and which was preferred.

    Args:
        task: The task of the label.
        label: The label.
    """
    runs = dict(zip(SIDES, (task.run_names[place] for place in label.sides), strict=False))
    item = task.items[label.question_id]
    row: dict[str, str | int | float | None] = {
        "question_id": label.question_id,
        "query": item.question.query,
        "annotator": label.annotator,
        "choice": label.choice,
        "preferred": next((run for side, run in runs.items() if side == label.choice), label.choice),
        "comment": label.comment,
        "seconds": label.seconds,
        "at": label.at,
        HASH: answers_hash([item.answers[place] for place in label.sides]),
    }
    row |= {f"run_{side.lower()}": run for side, run in runs.items()}
    row |= {f"{name}.{side.lower()}": value for side, of in label.ratings.items() for name, value in of.items()}
    return {name: row[name] for name in _columns(task)}
