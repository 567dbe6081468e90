"""End a command on SIGTERM and SIGHUP as on Ctrl-C: in order, with one line, and 128 + the signal as exit code."""

from __future__ import annotations

import signal
from types import FrameType

_received = signal.SIGINT


class Interrupted(SystemExit):
    """Ends a command after a signal; `hint` tells the user what was kept and what to do."""

    def __init__(self, hint: str) -> None:
        super().__init__(128 + signal.SIGINT)
        self.hint = hint


def install() -> None:
    """Make SIGTERM and SIGHUP act like Ctrl-C, except a signal that is ignored (nohup)."""
    for name in ("SIGTERM", "SIGHUP"):
        signum = getattr(signal, name, None)  # Windows has no SIGHUP
        if signum is not None and signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, _as_ctrl_c)


def _as_ctrl_c(signum: int, frame: FrameType | None) -> None:
    global _received
    _received = signal.Signals(signum)
    handler = signal.getsignal(signal.SIGINT)  # asyncio has one of its own while it runs
    if not callable(handler):
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


def is_interrupt(end: SystemExit) -> bool:
    """Return True if a command was ended by Ctrl-C, SIGTERM or SIGHUP."""
    return end.code == 128 + signal.SIGINT


def exit_code() -> int:
    """Return the shell's exit code for the received signal."""
    return 128 + _received


def describe(end: SystemExit) -> str:
    """Return the line to print."""
    name = "interrupted" if _received == signal.SIGINT else f"ended by {_received.name}"
    hint = getattr(end, "hint", "")
    return f"{name}; {hint}" if hint else name
