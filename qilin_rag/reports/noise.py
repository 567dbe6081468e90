"""Place runs of the retriever mixed on a noise curve: their share of wrong notes, and which runs make one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qilin_rag.core.types import Question
from qilin_rag.pipeline.run_directory import Manifest, RunDirectory
from qilin_rag.reports.details import Details, Hits

_LEVEL = re.compile(r" k_wrong=\d+\b")


def noise_level(identity: Mapping[str, Any]) -> int | None:
    """Return the number of wrong notes that a run asks for; None if its retriever is not mixed."""
    retriever = identity.get("retriever")
    if not isinstance(retriever, Mapping) or retriever.get("component") != "retriever/mixed":
        return None
    level = retriever.get("k_wrong")
    return level if isinstance(level, int) else None


def without_level(label: str) -> str:
    """Return the label of a retriever without its number of wrong notes."""
    return _LEVEL.sub("", label)


def share_of_wrong(hits: Hits, questions: Mapping[str, Question]) -> float | None:
    """Return the mean share of notes that are not reference notes, over the questions that have notes.

    This is RGB's noise ratio (Chen et al. 2024) of the notes that each question did get. None if none has notes.
    """
    shares = [
        sum(note not in questions[question_id].reference_notes for note in notes) / len(notes)
        for question_id, notes in hits.items()
        if notes and question_id in questions
    ]
    return sum(shares) / len(shares) if shares else None


def noise_of(
    directories: Mapping[str, RunDirectory], manifests: Mapping[str, Manifest], questions: Mapping[str, Question]
) -> dict[str, dict[str, Any]]:
    """Return the place of each run of the retriever mixed on a noise curve.

    Args:
        directories: The runs, by name.
        manifests: Their manifests, by name.
        questions: Their questions, by id.

    Returns:
        By name: `share`, and `line`, which is equal for runs that differ in LLM and number of wrong notes alone.
    """
    places = {}
    for name, directory in directories.items():
        manifest = manifests[name]
        if noise_level(manifest.identity) is None:
            continue
        share = share_of_wrong(Details(directory, manifest, dict(questions)).hits, questions)
        if share is not None:
            line = f"{without_level(manifest.labels['retriever'])}, {manifest.labels['prompt']}"
            places[name] = {"share": round(share, 4), "line": line}
    return places
