"""Kill a command, or fill its disk, at any of its writes: a forked child runs it and counts what it changes on disk.

Counted are Python's own calls below a folder: files opened for writing, renames, removals, new folders (audit events),
os.fsync, the writes of run directories, and files that torch and safetensors save: these write in C, which Python
doesn't see, so the calls are counted. What SQLite and pyarrow write isn't.
"""

from __future__ import annotations

import errno
import io
import os
import resource
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from qilin_rag.cli import main
from qilin_rag.core import files

Kind = Literal["kill", "full"]
_MOVES = ("os.rename", "os.remove")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Ended(NamedTuple):
    """How a command ended: exit code (minus the signal where it was killed), what it wrote, how much it changed."""

    code: int
    out: str
    err: str
    n_events: int


def run_with(
    arguments: Sequence[object],
    folder: Path,
    kind: Kind | None = None,
    at: int = 0,
) -> Ended:
    """Run a command in a child process, struck at its `at`-th event (from 1) below `folder`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as count:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside a server's idle thread
            child = os.fork()
        if child == 0:
            _be_the_command(arguments, _Disk(folder, kind, at), (out, err, count))
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, err, count):
            file.seek(0)
            texts.append(file.read().decode())
    return Ended(os.waitstatus_to_exitcode(status), texts[0], texts[1], int(texts[2] or 0))


def _be_the_command(arguments: Sequence[object], disk: _Disk, files: tuple[IO[bytes], ...]) -> None:
    """In the child; never returns."""
    code = 99
    try:
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(os.dup(file.fileno()), "wb")) for file in files[:2])
        sys.argv = ["qilin-rag", *map(str, arguments)]
        disk.watch()
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        disk.is_over = True
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.write(files[2].fileno(), str(disk.n_events).encode())
        os._exit(code)


class _Disk:
    """Counts what changes below a folder; at the event `at` it kills this process, or is full from then on."""

    def __init__(self, folder: Path, kind: Kind | None, at: int) -> None:
        self._folder, self._kind, self._at = str(folder.resolve()), kind, at
        self._lock = threading.RLock()
        self.n_events = 0
        self.is_over = False

    def watch(self) -> None:
        """For the rest of this process: an audit hook stays."""
        sync, write_all = os.fsync, files.write_all

        def fsync(fd: Any) -> None:
            self._event("os.fsync", Path(f"/proc/self/fd/{fd}").readlink())
            sync(fd)

        def write(file: IO[bytes], content: bytes) -> None:
            def half() -> None:
                file.write(content[: len(content) // 2])

            self._event("write", Path(f"/proc/self/fd/{file.fileno()}").readlink(), half)
            write_all(file, content)

        os.fsync, files.write_all = fsync, write
        if "torch" in sys.modules:
            import safetensors.torch
            import torch

            torch.set_num_threads(1)  # those that it began before the fork are gone
            torch.save = self._struck(torch.save)
            safetensors.torch.save_file = self._struck(safetensors.torch.save_file)
        sys.addaudithook(self._audit)

    def _struck(self, save: Callable[..., None]) -> Callable[..., None]:
        """`save`, whose file is cut off in its middle when it is struck: the system refuses a longer one."""

        def saved(content: Any, path: Any, *more: Any, **named: Any) -> None:
            def half() -> None:
                save(content, path, *more, **named)
                with no_file_beyond(Path(path).stat().st_size // 2):
                    save(content, path, *more, **named)

            self._event("save", path, half)
            save(content, path, *more, **named)

        return saved

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & _WRITES:
                self._event(event, path)
        elif event in (*_MOVES, "os.mkdir"):
            self._event(event, arguments[0])

    def _event(self, event: str, path: Any, half: Callable[[], None] = lambda: None) -> None:
        if self.is_over or not isinstance(path, str | bytes | os.PathLike):
            return
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - no further system call
        if not name.startswith(self._folder):
            return
        with self._lock:
            self.n_events += 1
            n = self.n_events
        if self._kind == "kill":
            is_struck = n == self._at
        else:
            is_struck = self._kind == "full" and (n == self._at or (n > self._at and event not in _MOVES))
        if is_struck:
            self._strike(path, half)

    def _strike(self, path: Any, half: Callable[[], None]) -> None:
        kind, self._kind = self._kind, None  # what `half` does is not struck
        try:
            half()
        finally:
            self._kind = kind
            if kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))


@contextmanager
def no_file_beyond(n_bytes: int) -> Iterator[None]:
    """The system refuses to let any file of this process grow beyond that."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
