"""The page that asks people for labels; nothing that it sends or is sent says which run an answer is from."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from importlib.resources import files
from typing import Annotated, Any, TypeVar

from pydantic import Field, StrictInt, ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import BaseRoute, Route

from qilin_rag.core.environment import now
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.label_rules import annotator_name
from qilin_rag.core.labels import SIDES, Choice, Label, Side
from qilin_rag.core.text import clean
from qilin_rag.core.types import Frozen
from qilin_rag.viewer.app import build_app, data, page
from qilin_rag.viewer.label_agreement import label_agreement
from qilin_rag.viewer.label_task import Item, OpenTask
from qilin_rag.viewer.labels import ConflictError, LabelStore

logger = logging.getLogger(__name__)
_MOST_COMMENT_CHARS = 2000
M = TypeVar("M", bound=Frozen)
V = TypeVar("V")


class SentLabel(Frozen):
    """A label as the page sends it."""

    id: str
    task_sha256: str
    question_id: str
    annotator: str
    choice: Choice | None = None
    ratings: dict[Side, dict[str, StrictInt]] = {}
    comment: Annotated[str, Field(max_length=_MOST_COMMENT_CHARS)] = ""
    seconds: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class SentUndo(Frozen):
    """The wish to withdraw a label."""

    id: str
    annotator: str


def label_site(store: LabelStore) -> Starlette:
    """Return the application that asks for labels, and shows nothing else.

    Args:
        store: The task and its labels.
    """

    def asked(make: Callable[[LabelStore, Request], Any]) -> Callable[[Request], Any]:
        return functools.partial(_blinded, make, store)

    routes: list[BaseRoute] = [
        Route("/", lambda request: RedirectResponse("/label", 303)),
        page("/label", lambda request: files("qilin_rag.viewer").joinpath("page/label.html").read_text("utf-8")),
        data("/api/label/next", asked(_next)),
        data("/api/label/progress", asked(_progress)),
        data("/api/label", asked(_add), methods=("POST",)),
        data("/api/label/undo", asked(_undo), methods=("POST",)),
    ]
    return build_app(routes)


def _blinded(make: Callable[[LabelStore, Request], Any], store: LabelStore, request: Request) -> Any:
    """Answer a request; an error of the machine is told on the console, since its text names files and runs."""
    try:
        return make(store, request)
    except ConflictError as error:
        raise HTTPException(409, str(error)) from error
    except (QilinError, OSError) as error:
        logger.error("%s", error)
        raise HTTPException(
            500, "the labels can't be read or written; the console of `qilin-rag view` says why"
        ) from error


def _annotator(store: LabelStore, given: str) -> str:
    return store.spelling(_checked(lambda: annotator_name(given)))


def _sent(model: type[M], request: Request) -> M:
    return _checked(lambda: model.model_validate_json(request.state.body))


def _checked(make: Callable[[], V]) -> V:
    """Refuse what a request holds, if it is wrong."""
    try:
        return make()
    except ValidationError as error:
        first = error.errors()[0]
        raise HTTPException(400, f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")) from error
    except UsageError as error:
        raise HTTPException(400, str(error)) from error


def _next(store: LabelStore, request: Request) -> dict[str, Any]:
    annotator = _annotator(store, request.query_params.get("annotator", ""))
    item = store.next_item(annotator)
    settings = store.task.settings
    return {
        "task": {
            "sha256": store.task.sha256,
            "sides": SIDES[: len(store.task.run_names)],
            "criteria": settings.criteria,
        },
        "annotator": annotator,
        "item": item and _shown(store.task, item, annotator),
        "progress": store.progress(annotator),
    }


def _shown(task: OpenTask, item: Item, annotator: str) -> dict[str, Any]:
    """Return a question with its answers, each on the side that was drawn for it."""
    places = task.sides(item.question.id, annotator)
    notes = [[{"title": title, "text": text} for title, text in item.prompt_notes[place]] for place in places]
    return {
        "question_id": item.question.id,
        "query": item.question.query,
        "references": item.question.references if task.settings.show.references else None,
        "answers": [item.answers[place] for place in places],
        "notes": notes if task.settings.show.notes else None,
    }


def _progress(store: LabelStore, request: Request) -> dict[str, Any]:
    found = label_agreement(store.labels())
    return {
        **store.progress(_annotator(store, request.query_params.get("annotator", ""))),
        "agreement": [each.model_dump() for each in found],
    }


def _add(store: LabelStore, request: Request) -> dict[str, Any]:
    sent = _sent(SentLabel, request)
    if sent.task_sha256 != store.task.sha256:
        raise HTTPException(409, "this label is of another task; load the page again")
    if sent.question_id not in store.task.items:
        raise HTTPException(400, "there is no such question")
    with_name = _annotator(store, sent.annotator)
    _checked(lambda: store.task.check(sent.choice, sent.ratings))
    label = _checked(
        lambda: Label(
            **{**sent.model_dump(), "annotator": with_name, "comment": clean(sent.comment)},
            sides=store.task.sides(sent.question_id, with_name),
            at=now(),
        )
    )
    is_new = store.add(label)
    return {"is_new": is_new, "progress": store.progress(with_name)}


def _undo(store: LabelStore, request: Request) -> dict[str, Any]:
    sent = _sent(SentUndo, request)
    annotator = _annotator(store, sent.annotator)
    is_new = store.withdraw(annotator, sent.id)
    return {"is_new": is_new, "progress": store.progress(annotator)}
