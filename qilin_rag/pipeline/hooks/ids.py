"""The ids that trackers give a run, kept in its directory: the next call updates the same run of the tracker."""

from __future__ import annotations

import re
from pathlib import Path

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import read_json

IDS = "trackers.json"
"""The file of a run directory that keeps the trackers' ids of the run, by the name of the hook."""
_ID = re.compile(r"[\w.\-]{1,200}", re.ASCII)


def read_ids(path: Path) -> dict[str, str]:
    """Return the trackers' ids of a run by the name of the hook; empty if there are none, or none that are valid."""
    try:
        known = read_json(path / IDS)
    except UsageError:
        return {}
    return {name: id for name, id in known.items() if isinstance(id, str) and is_id(id)}


def is_id(id: str) -> bool:
    """Return whether a hook may give a run this id."""
    return _ID.fullmatch(id) is not None
