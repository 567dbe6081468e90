"""Work in processes of loky, which don't import the user's script again and end with this process."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, Pipe
from typing import Any, TypeVar

from qilin_rag.core.errors import QilinError

Item = TypeVar("Item")
Result = TypeVar("Result")

_UNDER_WAY = 2  # items for each process: one that it works on, and one that waits


def in_processes(
    n_processes: int,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    who: str,
    advice: str = "",
    begin: Callable[..., object] | None = None,
    given: tuple[Any, ...] = (),
) -> Generator[Result, None, None]:
    """Yield the result of `work` for each item, in the order in which they are done.

    Few items and results are in memory at a time. Close the generator to end the processes: `contextlib.closing`.

    Args:
        n_processes: The number of processes.
        work: Called in a process with one item; its exceptions are raised here.
        items: Read as they are needed. Items and results are pickled.
        who: The processes in a message: "a process that indexes notes".
        advice: What to do if a process ends, besides running the command again.
        begin: Called once in each process with `given`, before its first item.
        given: Arguments of `begin`; may hold queues of loky.

    Raises:
        QilinError: A process ended before its work was done.
    """
    from loky import ProcessPoolExecutor

    _let_loky_kill()
    alive, kept_open = Pipe(duplex=False)
    with alive, kept_open:
        pool = ProcessPoolExecutor(
            n_processes,
            initializer=_begin,
            initargs=(alive, begin, given),
            env={
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if isinstance(path, str)),
                "PYTHONSAFEPATH": "1",  # a module in the current folder is importable there only if it is here
                "LOKY_MAX_MEMORY_LEAK_SIZE": "1e15",  # a model or a dictionary is not a leak
            },
        )
        running: set[Future[Result]] = set()
        try:
            for item in items:
                running.add(pool.submit(work, item))
                if len(running) >= _UNDER_WAY * n_processes:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenProcessPool as error:
            raise QilinError(f"{who} ended{_status(error)}{advice}; the same command resumes") from error
        finally:
            pool.shutdown(wait=True, kill_workers=True)


def _let_loky_kill() -> None:
    """Let loky 3.7 kill processes without psutil and pgrep; it would warn and call a program that is not installed."""
    warnings.filterwarnings("ignore", "Failed to kill subprocesses")  # grandchildren, which ours do not have
    if os.name == "posix":
        from loky.backend.popen_loky_posix import Popen

        if not hasattr(Popen, "kill"):
            Popen.kill = Popen.terminate


def _begin(alive: Connection, begin: Callable[..., object] | None, given: tuple[Any, ...]) -> None:
    """Ignore Ctrl-C, which is for the process that started this one, and end when that process has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    if begin is not None:
        begin(*given)


def _end_with(alive: Connection) -> None:
    """End this process when the other end is closed, by its owner or by the system; nothing is ever sent."""
    alive.poll(None)
    os._exit(1)


def _status(error: BrokenProcessPool) -> str:
    """Return how the first of the processes ended, in loky's words: `{EXIT(1)}`, `{SIGKILL(-9)}`."""
    found = re.search(r"\{(\w+)\((-?\d+)\)", str(error))
    if found is None:
        return ""
    return f" by {found[1]}" if found[1].startswith("SIG") else f" with status {found[2]}"
