"""Call hooks about a run, each in a process of its own with a limit of time; none of them can fail the run."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from qilin_rag.core.errors import QilinError
from qilin_rag.core.files import write_text
from qilin_rag.core.plugins import one_line
from qilin_rag.core.progress import stage
from qilin_rag.core.registry import HOOKS
from qilin_rag.pipeline.hooks.ids import IDS, is_id, read_ids

if TYPE_CHECKING:
    from qilin_rag.pipeline.hooks.base import Hook

logger = logging.getLogger(__name__)
REQUEST, ANSWER = "request.json", "answer.json"
"""The files by which a process of a hook is asked, and answers."""
_WORKER = "qilin_rag.pipeline.hooks.worker"
_MOST_CHARS = 300


def split_names(given: Sequence[str]) -> list[str]:
    """Return the names of hooks, which may be separated by commas, without duplicates."""
    return list(dict.fromkeys(name.strip() for each in given for name in each.split(",") if name.strip()))


def check_hooks(names: Sequence[str]) -> None:
    """Check hooks before something is spent.

    Raises:
        UsageError: A hook does not exist, or its packages are not installed.
    """
    for name in names:
        HOOKS.create(name, {}).check()


@contextmanager
def hooked(names: Sequence[str], path: Path) -> Iterator[None]:
    """Call hooks when the work inside has ended, or when an error has ended it; an interrupt calls none.

    Args:
        names: The hooks.
        path: The directory of the run that the work writes.
    """
    try:
        yield
    except QilinError as error:
        call_failed(names, path, error)
        raise
    call_ended(names, path)


def call_ended(names: Sequence[str], path: Path) -> int:
    """Call hooks about a complete run, and log a warning of each that failed; return how many failed."""
    return _call(names, path, None)


def call_failed(names: Sequence[str], path: Path, error: QilinError) -> None:
    """Call hooks about a run that an error stopped, if it has begun."""
    if any((path / name).is_file() for name in ("manifest.json", "ranking.json")):
        _call(names, path, " ".join(str(error).split()))


def _call(names: Sequence[str], path: Path, reason: str | None) -> int:
    if not names:
        return 0
    n_failed = 0
    with stage("tracking", len(names)) as advance:
        for name in names:
            error = _call_one(name, path, reason)
            if error is not None:
                n_failed += 1
                again = "" if reason is not None else f"; to try again: qilin-rag track {path} --with {name}"
                logger.warning("track %s: %s is not tracked: %s%s", name, path, error, again)
            advance(failed=error is not None)
    return n_failed


def _call_one(name: str, path: Path, reason: str | None) -> str | None:
    """Call one hook; return why it failed, in one line."""
    try:
        hook: Hook = HOOKS.create(name, {})
        ids = read_ids(path)
        request = {"hook": name, "path": str(path.resolve()), "tracked_as": ids.get(name), "reason": reason}
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            answer = _asked(Path(folder), request, hook.timeout_s)
        id = answer.get("id")
        if isinstance(id, str) and is_id(id) and ids.get(name) != id:
            write_text(path / IDS, json.dumps(ids | {name: id}, indent=2) + "\n")
    except Exception as error:  # also one of the user's own class
        line = one_line(error)
        return _without_passwords(line.partition(": ")[2] if isinstance(error, QilinError) else line)
    failure = answer.get("error")
    return None if failure is None else _without_passwords(str(failure))


def _asked(folder: Path, request: dict[str, str | None], timeout_s: float) -> dict[str, object]:
    """Return what the process of a hook answers; everything that it starts is stopped at the end."""
    (folder / REQUEST).write_text(json.dumps(request), encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if isinstance(path, str)),
        "PYTHONSAFEPATH": "1",
        "PYTHONWARNINGS": "ignore",
    }
    output = folder / "output"
    with output.open("wb") as to:
        process = subprocess.Popen(
            [sys.executable, "-m", _WORKER, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=to,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise QilinError(f"no answer within {timeout_s:g} s") from None
        finally:
            _end(process)
    said = output.read_text(encoding="utf-8", errors="replace").strip()
    logger.debug("output of %s: %s", request["hook"], said)
    try:
        answer = json.loads((folder / ANSWER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        last = said.splitlines()[-1] if said else "no output"
        raise QilinError(f"its process ended with status {code}: {last}") from None
    return answer if isinstance(answer, dict) else {}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process, and the processes that it has started."""
    if os.name == "posix":
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()
    process.wait()


def _without_passwords(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//***@", " ".join(text.split()))[:_MOST_CHARS]
