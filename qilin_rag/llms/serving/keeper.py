"""Runs a server and leaves none of its processes, however its owner ends: python -I -S keeper.py GRACE COMMAND

The owner holds the other end of standard input, which the system closes when the owner ends, even by kill -9. Then, on
SIGTERM, or after the server has ended, all processes of the server get SIGTERM. Those that still run GRACE seconds
later are killed. The exit code is the server's. It uses the standard library only, so that any Python runs it, and
quickly.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

POLL_S = 0.1
KILL_WAIT_S = 5.0
PR_SET_CHILD_SUBREAPER = 36
ended: dict[int, int] = {}
told_to_end = False


def main(grace_s: float, command: list[str]) -> int:
    """Run `command` until it ends or must end, then end all its processes."""
    for name in ("SIGINT", "SIGHUP", "SIGTERM"):  # handlers, since the server would inherit ignored signals
        signal.signal(getattr(signal, name), _tell_to_end if name == "SIGTERM" else lambda signum, frame: None)
    if sys.platform == "linux":  # orphans of the server become our children, so that they can be found
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0).pid
    while not (_reaped(server) or told_to_end):
        if select.select([0], [], [], POLL_S)[0] and not os.read(0, 1):
            break
    for signum, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, KILL_WAIT_S)):
        deadline = time.monotonic() + wait_s
        anything = _signal_all(server, signum)
        while anything and time.monotonic() < deadline:
            time.sleep(POLL_S / 2)
            anything = _signal_all(server, 0 if signum == signal.SIGTERM else signum)  # signal once; 0 only checks
    status = ended.get(server, -signal.SIGKILL)
    return status if status >= 0 else 128 - status


def _tell_to_end(signum: int, frame: FrameType | None) -> None:
    global told_to_end
    told_to_end = True


def _reaped(pid: int) -> bool:
    """Collect children that ended, adopted ones as well; return whether `pid` is among them."""
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return pid in ended


def _signal_all(server: int, signum: int) -> bool:
    """Signal the server's group and its descendants outside the group; return False if none is left."""
    _reaped(server)
    anything = False
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(server, signum)
        anything = True
    with suppress(OSError):  # only Linux has this file
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            anything = True
            if int(pid) != server:
                os.kill(int(pid), signum)
    return anything


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
