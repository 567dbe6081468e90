"""The runs that the view shows: looked up by key in folders of runs, links left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request

from qilin_rag.core.errors import UsageError
from qilin_rag.core.plain_files import is_plain
from qilin_rag.pipeline.run_directory import MANIFEST
from qilin_rag.rankers.ranking_directory import MANIFEST as RANKING


class Folders:
    """Folders of runs. What is in them is looked at anew by each call, since other processes write there.

    Args:
        folders: Folders of runs; the first is where new runs are expected.

    Raises:
        UsageError: if one is not a folder.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        if absent := next((folder for folder in folders if not folder.is_dir()), None):
            raise UsageError(f"{absent} is not a folder of runs; begin with: qilin-rag run")
        self.paths = list({folder.resolve(): folder for folder in folders}.values())

    def runs(self) -> dict[str, Path]:
        """Return the run directories of questions by key: the name, or the whole path if two have one name."""
        return self._keyed(MANIFEST)

    def rankings(self) -> dict[str, Path]:
        """Return the directories of rankings by key."""
        return self._keyed(RANKING)

    def run(self, request: Request, name: str = "run") -> Path:
        """Return the run directory that a field of an address names.

        Raises:
            HTTPException: if no run has this key: 404.
        """
        return self._found(self.runs(), request.query_params.get(name, ""))

    def runs_of(self, request: Request, name: str = "run") -> list[Path]:
        """Return the run directories that a repeated field names, all if it is not there.

        Raises:
            HTTPException: if no run has this key: 404.
        """
        known = self.runs()
        named = dict.fromkeys(request.query_params.getlist(name))
        return [self._found(known, key) for key in named] if named else list(known.values())

    @staticmethod
    def _found(known: dict[str, Path], key: str) -> Path:
        if key not in known:
            raise HTTPException(404, "there is no such run")
        return known[key]

    def _keyed(self, manifest: str) -> dict[str, Path]:
        found = [path for folder in self.paths for path in _inside(folder, manifest)]
        names = Counter(path.name for path in found)
        return {_shown(path.name if names[path.name] == 1 else str(path)): path for path in sorted(found)}


def _inside(folder: Path, manifest: str) -> list[Path]:
    """Return the run directories of a folder, of its subfolders if it holds none; the folder itself if it is a run."""
    for places in ([folder], _subfolders([folder]), _subfolders(_subfolders([folder]))):
        if found := [path for path in places if is_plain(path / manifest)]:
            return found
    return []


def _subfolders(folders: Sequence[Path]) -> list[Path]:
    return [path for folder in folders for path in _folders_in(folder)]


def _folders_in(folder: Path) -> list[Path]:
    """Return the folders in a folder, no links; none of one that can't be read, or went meanwhile."""
    try:
        with os.scandir(folder) as entries:
            return [
                folder / name for name in sorted(each.name for each in entries if each.is_dir(follow_symlinks=False))
            ]
    except OSError:
        return []


def _shown(name: str) -> str:
    """Return a name as text that can be sent: bytes that are not UTF-8 as escapes."""
    return os.fsencode(name).decode(errors="backslashreplace")
