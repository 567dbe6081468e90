"""Relevance from clicks: what a user clicked of the notes exposed for a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def clicked(details: Sequence[Mapping[str, Any]] | None) -> list[int]:
    """The notes with a click among the elements of a details column, by position, each once."""
    clicks = [item for item in details or [] if item["click"] == 1]
    by_position = sorted(clicks, key=lambda item: (item["position"] is None, item["position"] or 0))
    return list(dict.fromkeys(item["note_idx"] for item in by_position))
