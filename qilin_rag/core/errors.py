"""Errors that a user can act on, each one line of text with its own exit code."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

_MOST_NAMES = 20
_LISTED = ("retriever", "query", "llm", "prompt", "metric", "ranker", "hook")
"""Kinds of names that the command `list` prints."""
INSTEAD = {
    "rouge_l_word": "rouge_l with metrics.rouge_l.tokens=word",
    "ef_search": "retriever.faiss=ivf and retriever.n_probe",  # a setting of hnsw
}
"""Names of earlier versions, each with its replacement."""


class QilinError(Exception):
    """An expected error; its text says what is wrong, where, and what to do next.

    The command line prints the text and exits with `exit_code`.

    Args:
        message (str): One line of text.

    Attributes:
        exit_code (int): The exit code of the command line: 1.

    Example:
        >>> import qilin_rag as qr
        >>> try:
        ...     run = qr.run(retriever="bm26")
        ... except qr.QilinError as error:
        ...     print(error)
        retriever 'bm26' does not exist; did you mean 'bm25'? (qilin-rag list retrievers)
    """

    exit_code = 1


class UsageError(QilinError):
    """A usage error: a wrong option, configuration, prompt or data file.

    Args:
        message (str): One line of text.

    Attributes:
        exit_code (int): The exit code of the command line: 2.

    Example:
        >>> import qilin_rag as qr
        >>> qr.run(retriever={"name": "bm25", "k1": "abc"})
        Traceback (most recent call last):
            ...
        qilin_rag.core.errors.UsageError: retriever bm25: setting 'k1' is 'abc': ... (retriever.k1)
    """

    exit_code = 2


class FailedSamplesError(QilinError):
    """An error of a finished run in which more samples failed than `fail_on_error` allows.

    The run directory is complete; the same run asks only the failed questions again.

    Args:
        message (str): One line of text.

    Attributes:
        exit_code (int): The exit code of the command line: 3.

    Example:
        >>> FailedSamplesError("3 of 20 questions failed").exit_code
        3
    """

    exit_code = 3


class CeilingError(QilinError):
    """An error of a run or judgement that stopped before its calls would have passed `max_cost` or `max_tokens_total`.

    What was asked is kept; the same run with a higher ceiling asks the rest.

    Args:
        message (str): One line of text.

    Attributes:
        exit_code (int): The exit code of the command line: 4.

    Example:
        >>> CeilingError("stopped before max_cost 5.00 USD").exit_code
        4
    """

    exit_code = 4


def unknown_name(
    kind: str, name: str, known: Iterable[str], problem: str = "does not exist", see: str = ""
) -> UsageError:
    """Return the error for a name that is not in a table, with the nearest names and the command that lists all.

    If the table is a part of what is registered, `problem` says which: `is not in this run`.
    """
    names = sorted(set(known))
    if (last := name.rpartition(".")[2]) in INSTEAD:
        return UsageError(f"{kind} {reprlib.repr(name)} is gone; write {INSTEAD[last]}")
    near = [repr(each) for each in difflib.get_close_matches(name, names, n=3, cutoff=0.5)]
    if kind in _LISTED and problem == "does not exist":
        see = see or f"qilin-rag list {'queries' if kind == 'query' else f'{kind}s'}"
    shown = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {shown or 'none'}"
    hint += f" ({see})" if see else ""
    return UsageError(f"{kind} {reprlib.repr(name)} {problem}; {hint}")


@contextmanager
def naming_file(path: Path | None, alone: Callable[[], object]) -> Iterator[None]:
    """Name a file in an error of its settings. `alone` reads it without other settings: the same error is the file's.

    Example:
        >>> def read() -> None:
        ...     raise UsageError("setting 'k2' does not exist")
        >>> with naming_file(Path("run.yaml"), read):
        ...     read()
        Traceback (most recent call last):
            ...
        qilin_rag.core.errors.UsageError: run.yaml: setting 'k2' does not exist
    """
    try:
        yield
    except UsageError as error:
        if path is None or str(path) in str(error):
            raise
        try:
            alone()
        except UsageError as of_file:
            if str(of_file) == str(error):
                raise UsageError(f"{path}: {error}") from error
        raise


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first problem of a validation error in one line: the setting, the problem, the allowed values."""
    first = error.errors()[0]
    setting = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return str(unknown_name("setting", setting, model.model_fields))
    if first["type"] == "missing":
        return f"setting {setting!r} is missing"
    problem = first["msg"].removeprefix("Value error, ")
    if not setting:  # the error concerns several settings together
        return problem
    value = re.sub(r"//[^/@]*@|\?.*", "...", re.sub(r"\s+", " ", reprlib.repr(first["input"])))[
        :80
    ]  # an address may hold a key
    return f"setting {setting!r} is {value}: {problem}"
