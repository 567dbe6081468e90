"""Find runs on disk: those in folders of runs, and the one that a part of a name stands for."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import counted
from qilin_rag.pipeline.run_directory import MANIFEST
from qilin_rag.rankers.ranking_directory import MANIFEST as RANKING

logger = logging.getLogger(__name__)

DEFAULT_FOLDER = Path("runs")


def find_runs(folders: Sequence[Path], manifest: str = MANIFEST, begin: str = "qilin-rag run") -> list[Path]:
    """Return the run directories in folders of runs, without duplicates.

    A folder that is a run itself stands for that run. If a folder holds no run, the folders in it are searched, and the
    log says so.

    Args:
        folders: Folders of runs.
        manifest: The name of the file that makes a folder a run.
        begin: The command that an error names.

    Raises:
        UsageError: A folder does not exist.
    """
    if absent := next((folder for folder in folders if not folder.is_dir()), None):
        raise UsageError(f"{absent} is not a folder of runs; begin with: {begin}")
    distinct = {folder.resolve(): folder for folder in folders}.values()
    found = [path for folder in distinct for path in _runs_of(folder, manifest)]
    return list({path.resolve(): path for path in sorted(found)}.values())


def folders_below(folder: Path) -> dict[Path, int]:
    """Return the subfolders of a folder of runs that hold runs of their own, with the number of runs."""
    return dict(Counter(path.parent for path in _one_level_down(folder)))


def describe_rankings(folders: Sequence[Path]) -> str:
    """Return how to show the rankings in folders without a run; empty if they hold none."""
    n_rankings = sum(len(_inside(folder, RANKING)) for folder in folders)
    return f"; it holds {counted(n_rankings, 'ranking')}: qilin-rag leaderboard --task search" if n_rankings else ""


def find_run(name: Path, folders: Sequence[Path] = ()) -> Path:
    """Return the run directory that a path, or a part of a name, stands for.

    A path to a run is that run. Else it is the only run whose name, or whose fingerprint at the end of the name, begins
    so: in the folder that the path names, or in `folders` (default: runs) and their subfolders.

    Raises:
        UsageError: There is no such run, or there are several.
    """
    if (name / MANIFEST).is_file():
        return name
    if name.name in ("", "..") or name.is_file():
        return name
    matching = runs_meant(name, folders)
    if len(matching) > 1:
        shown = ", ".join(str(path) for path in matching[:5]) + (", ..." if len(matching) > 5 else "")
        raise UsageError(f"{name} may be any of {len(matching)} runs; write more of its name: {shown}")
    if matching:
        return matching[0]
    if name.is_dir():
        return name  # the reader says what is missing in it
    raise UsageError(
        f"{name} is not a finished run directory: {MANIFEST} does not exist; to see the runs: qilin-rag list runs"
    )


def runs_meant(name: Path, folders: Sequence[Path] = ()) -> list[Path]:
    """Return the runs that a part of a name may stand for (see `find_run`).

    Args:
        name: The part of a name, with or without a folder.
        folders: Folders of runs. Default: runs.
    """
    places = folders or [DEFAULT_FOLDER]
    if len(name.parts) > 1:
        places = [name.parent, *(folder / name.parent for folder in places)]
    return _meant(name.name, [path for place in places for path in _inside(place)]) or _meant(
        name.name, [path for place in places for path in _one_level_down(place)]
    )


def _meant(part: str, runs: Sequence[Path]) -> list[Path]:
    """Return the runs of this name, else those whose name it may be a part of."""
    distinct = list({path.resolve(): path for path in runs}.values())
    return [path for path in distinct if path.name == part] or [path for path in distinct if is_meant(part, path.name)]


def is_meant(part: str, name: str) -> bool:
    """Return whether a part of a name stands for a run: it begins the run's name or its fingerprint."""
    return name.startswith(part) or name.rpartition("-")[2].startswith(part)


def _runs_of(folder: Path, manifest: str) -> list[Path]:
    if (folder / manifest).is_file():
        return [folder if folder.name else folder.resolve()]
    if found := _inside(folder, manifest):
        return found
    if found := _one_level_down(folder, manifest):
        parents = ", ".join(str(parent) for parent in dict.fromkeys(path.parent for path in found))
        logger.info("%s holds no run itself; these are the runs of %s", folder, parents)
    return found


def _inside(folder: Path, manifest: str = MANIFEST) -> list[Path]:
    return sorted(file.parent for file in folder.glob(f"*/{manifest}"))


def _one_level_down(folder: Path, manifest: str = MANIFEST) -> list[Path]:
    return sorted(file.parent for file in folder.glob(f"*/*/{manifest}"))
