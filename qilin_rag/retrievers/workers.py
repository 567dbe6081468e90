"""Work in processes of loky's: they don't import the user's script again, and all end when this process does."""

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

_UNDER_WAY = 2  # items a process: one that it works on, and one that waits for it


def in_processes(
    n_processes: int,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    who: str,
    advice: str = "",
    begin: Callable[..., object] | None = None,
    given: tuple[Any, ...] = (),
) -> Generator[Result, None, None]:
    """Yield what `work` returns for each item, in the order in which they are done.

    Few items and results are in memory at a time. Close the generator to end the processes: `contextlib.closing`.

    Args:
        n_processes: How many processes work.
        work: Called in a process with one item; what it raises is raised here.
        items: Read as they are needed. Items and results are pickled.
        who: The processes in a message: "a process that indexes notes".
        advice: What to do if one of them ends, beside running the command again.
        begin: Called once in each process with `given`, before its first item.
        given: Arguments of `begin`; may hold queues of loky's.

    Raises:
        QilinError: If a process ends before its work is done.
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
                "PYTHONSAFEPATH": "1",  # a module in the current folder is theirs only if it is ours
                "LOKY_MAX_MEMORY_LEAK_SIZE": "1e15",  # a model or a dictionary is no leak
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
            raise QilinError(f"{who} ended{_status(error)}{advice}; the same command goes on") from error
        finally:
            pool.shutdown(wait=True, kill_workers=True)


def _let_loky_kill() -> None:
    """loky 3.7 ends processes by psutil or pgrep; if neither is installed, it warns and calls what it does not have."""
    warnings.filterwarnings("ignore", "Failed to kill subprocesses")  # their children, which ours do not have
    if os.name == "posix":
        from loky.backend.popen_loky_posix import Popen

        if not hasattr(Popen, "kill"):
            Popen.kill = Popen.terminate


def _begin(alive: Connection, begin: Callable[..., object] | None, given: tuple[Any, ...]) -> None:
    """Ctrl-C is for the process that started this one; when that has ended, so does this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    if begin is not None:
        begin(*given)


def _end_with(alive: Connection) -> None:
    """Nothing is ever sent: the other end is closed by whoever holds it, or by the system."""
    alive.poll(None)
    os._exit(1)


def _status(error: BrokenProcessPool) -> str:
    """How the first of the processes ended, as loky says it: `{EXIT(1)}`, `{SIGKILL(-9)}`."""
    found = re.search(r"\{(\w+)\((-?\d+)\)", str(error))
    if found is None:
        return ""
    return f" by {found[1]}" if found[1].startswith("SIG") else f" with status {found[2]}"
