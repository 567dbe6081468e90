"""Watches what a command does to the world: the programs it starts, the places it connects to, the keys it shows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SECRET = "sk-of-the-cloud-0123456789"
_STARTED = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn")
_HARMLESS_PROGRAMS = ("git", "nvidia-smi", "uname", "ldconfig")
_watching: list[Watch] = []


class Watch:
    """What happened while it watched; whatever leaves this machine, or starts a program, is stopped as well."""

    def __init__(self) -> None:
        self.programs: list[str] = []
        self.places: list[str] = []

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event in _STARTED:
            program = str(args[0])
            if Path(program).name not in _HARMLESS_PROGRAMS:
                self.programs.append(program)
                raise PermissionError(f"stopped: {program}")
        elif event == "socket.getaddrinfo" and args[0] not in (None, "localhost", "127.0.0.1", "::1"):
            self.places.append(str(args[0]))
            raise ConnectionRefusedError(f"stopped: {args[0]}")
        elif event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in ("127.0.0.1", "::1"):
            self.places.append(str(args[1]))
            raise ConnectionRefusedError(f"stopped: {args[1]}")


def _hear(event: str, args: tuple[Any, ...]) -> None:
    for watch in _watching:
        watch.hear(event, args)


@contextmanager
def watched() -> Iterator[Watch]:
    """Watch this process; the hook can't be taken away again, so there is one."""
    if not getattr(sys, "_qilin_rag_watched", False):
        sys.addaudithook(_hear)
        sys._qilin_rag_watched = True  # type: ignore[attr-defined]
    watch = Watch()
    _watching.append(watch)
    try:
        yield watch
    finally:
        _watching.remove(watch)


def shown_in(folder: Path, *texts: str) -> list[str]:
    """Where the secret can be read: files below a folder, and texts."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    found = [str(path) for path in files if SECRET.encode() in path.read_bytes()]
    return found + [text for text in texts if SECRET in text]
