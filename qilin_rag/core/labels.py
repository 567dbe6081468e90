"""The labels of people: one line of a labels file each, and which of them count."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StrictInt, ValidationError

from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Frozen

Side = Literal["A", "B"]
Choice = Literal["A", "B", "tie", "both_bad"]
SIDES: tuple[Side, ...] = ("A", "B")


class Label(Frozen):
    """A person's word on the answers to one question, which were shown as A and B without their runs.

    A file of labels is only appended to. A label that its annotator takes back stays, and a later line with the same
    `id` and the kind `withdrawn` says so.

    Attributes:
        id: A name that the annotator's page made: a label that is sent twice is stored once.
        kind: `label`, or `withdrawn`: the earlier line with this id no longer counts.
        task_sha256: The hash of the task: its settings, and the questions and answers that it shows.
        annotator: The name of the annotator.
        sides: The places in the task's `runs`, from 0, of the answers shown as A and B; one for a task of one run.
        choice: The preferred side, `tie` or `both_bad`; null for a task of one run.
        ratings: The ratings of each side, by criterion.
        comment: A remark of the annotator's.
        seconds: Seconds from the moment the answers were shown to the label.
        at: When the line was written, UTC.
    """

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{8,64}$")]
    kind: Literal["label", "withdrawn"] = "label"
    task_sha256: str
    question_id: str
    annotator: str
    sides: list[Annotated[int, Field(ge=0, le=1)]]
    choice: Choice | None = None
    ratings: dict[Side, dict[str, StrictInt]] = {}
    comment: str = ""
    seconds: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
    at: str


def parse_labels(path: Path, content: bytes, first: int = 1) -> list[Label]:
    """Return all lines of a labels file, or of a part of it.

    Args:
        path: The file, for errors.
        content: Whole lines.
        first: The number of the first of them, for errors.

    Raises:
        UsageError: if a line is not a label.
    """
    labels = []
    for number, line in enumerate(content.splitlines(), start=first):
        try:
            labels.append(Label.model_validate_json(line))
        except ValidationError as error:
            raise UsageError(f"{path}, line {number}: not a label: {error.errors()[0]['msg']}") from error
    return labels


def standing(lines: Iterable[Label]) -> list[Label]:
    """Return the labels that were not withdrawn.

    >>> made = Label(id="12345678", task_sha256="", question_id="1", annotator="An", sides=[0], seconds=1, at="")
    >>> standing([made]) == [made], standing([made, made.model_copy(update={"kind": "withdrawn"})])
    (True, [])
    """
    found: dict[str, Label] = {}
    for line in lines:
        if line.kind == "withdrawn":
            found.pop(line.id, None)
        else:
            found.setdefault(line.id, line)
    return list(found.values())
