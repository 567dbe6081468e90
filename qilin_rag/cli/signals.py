"""SIGTERM and SIGHUP end a command as Ctrl-C does: in order, with one line, and 128 + the signal as exit code."""

from __future__ import annotations

import signal
from types import FrameType

_received = signal.SIGINT


class Interrupted(SystemExit):
    """A signal ended the command; `hint` is what its user should know."""

    def __init__(self, hint: str) -> None:
        super().__init__(128 + signal.SIGINT)
        self.hint = hint


def install() -> None:
    """Let the other signals do what Ctrl-C does, wherever it is handled; one that is ignored (nohup) stays so."""
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
    """Whether a command ended by Ctrl-C or one of the other signals."""
    return end.code == 128 + signal.SIGINT


def exit_code() -> int:
    """The shell's code for the signal that came."""
    return 128 + _received


def describe(end: SystemExit) -> str:
    """The line to say."""
    name = "interrupted" if _received == signal.SIGINT else f"ended by {_received.name}"
    hint = getattr(end, "hint", "")
    return f"{name}; {hint}" if hint else name
