"""Place runs by their query stage: the level of the factor, and the name of the system without it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qilin_rag.config.spec import NO_QUERY
from qilin_rag.core.registry import QUERIES, describe

_NAMES = ("none", "oracle", "oracle_top_k", "random", "recorded", "trec", "mixed")
_NOT_BY_TEXT = {f"retriever/{name}" for name in _NAMES}


def query_level(identity: Mapping[str, Any]) -> str | None:
    """Return the query stage of a run with its changed settings; None if its retriever does not search by text."""
    retriever, stage = identity.get("retriever"), identity.get("query")
    if not isinstance(stage, Mapping):
        is_by_text = not isinstance(retriever, Mapping) or retriever.get("component") not in _NOT_BY_TEXT
        return NO_QUERY if is_by_text else None
    name = _name(stage)
    fields = QUERIES.resolve(name).model_fields if QUERIES.is_registered(name) else {}
    usual = {key: field.default for key, field in fields.items() if key in stage and key != "llm"}
    return describe(name, {key: stage[key] for key, default in usual.items() if stage[key] != default})


def without_query(label: str, identity: Mapping[str, Any]) -> str:
    """Return the label of a retriever without its query stage."""
    stage = identity.get("query")
    if not isinstance(stage, Mapping):
        return label
    return re.sub(rf" \+ {re.escape(_name(stage))}(?: [^+]*?)?(?= \+ |$)", "", label, count=1)


def _name(stage: Mapping[str, Any]) -> str:
    """Return the name of a query stage from its identity."""
    known_as = str(stage.get("component") or stage.get("class"))
    return known_as.removeprefix("query/")
