"""What can go wrong, in one line a person can act on; each kind knows its exit code."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable

_MOST_NAMES = 20


class QilinError(Exception):
    """Anything we stop for on purpose; its text says what, where and what to do next."""

    exit_code = 1


class UsageError(QilinError):
    """Wrong use: a bad option, configuration, prompt or data file."""

    exit_code = 2


class FailedSamplesError(QilinError):
    """The run finished, but more of its samples failed than `fail_on_error` allows."""

    exit_code = 3


def unknown_name(kind: str, name: str, known: Iterable[str], see: str = "") -> UsageError:
    """The error for a name that is not in a table, with the nearest names suggested; the command `see` lists all."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {shown or 'none'}"
    hint += f" ({see})" if see else ""
    return UsageError(f"unknown {kind} {reprlib.repr(name)}; {hint}")
