"""Place runs of the retriever mixed on a noise curve: their share of wrong notes, and which runs make one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qilin_rag.core.types import Question
from qilin_rag.pipeline.run_directory import Manifest, RunDirectory
from qilin_rag.reports.details import Details, Hits

_BESIDE = ("prompt", "top_k", "note_fields", "note_order", "note_chars", "note_images")
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
        By name: `share`, and `line`, the name of the curve: equal for runs that differ in LLM and number of wrong notes
        alone.
    """
    mixed = {name: manifests[name] for name in directories if noise_level(manifests[name].identity) is not None}
    told = {name: _told(manifest) for name, manifest in mixed.items()}
    differing = [what for what in _BESIDE if len({str(each[what]) for each in told.values()}) > 1]
    places = {}
    for name, manifest in mixed.items():
        share = share_of_wrong(Details(directories[name], manifest, dict(questions)).hits, questions)
        if share is not None:
            beside = [f"{what} {told[name][what]}" for what in differing]
            line = ", ".join([without_level(manifest.labels["retriever"]), *beside])
            places[name] = {"share": round(share, 4), "line": line}
    return places


def _told(manifest: Manifest) -> dict[str, Any]:
    """Return the settings beside retriever and LLM that tell curves apart."""
    return {"prompt": manifest.labels["prompt"], **{what: manifest.identity.get(what) for what in _BESIDE[1:]}}
