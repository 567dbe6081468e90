"""Folders of results, found by what they were made of."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import read_json
from qilin_rag.core.former import former
from qilin_rag.core.hashing import fingerprint
from qilin_rag.core.text import slug


def find_directory(runs_dir: Path, names: Sequence[str], identity: dict[str, Any], manifest: str) -> Path:
    """Return the folder of `runs_dir` that holds what has this identity, else the path of a new one.

    Args:
        runs_dir: The folder of runs.
        names: Names for people, joined to the name of a new folder.
        identity: What is looked for. The folder's name ends in the first eight digits of its fingerprint.
        manifest: The name of the JSON file in the folder whose key `fingerprint` is compared.
    """
    own = runs_dir / "-".join([*map(slug, names), fingerprint(identity)[:8]])
    if own.exists():
        return own
    for known in (fingerprint(identity), fingerprint(former(identity))):
        for path in sorted(runs_dir.glob(f"*-{known[:8]}/{manifest}")):
            with suppress(UsageError):
                kept = read_json(path).get("fingerprint")
                if not path.parent.is_symlink() and kept in (fingerprint(identity), known):
                    return path.parent
    return own
