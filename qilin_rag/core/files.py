"""Files: written so that a crash leaves the old or the new content, and validated when they are read."""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

from pydantic import BaseModel, FailFast, TypeAdapter, ValidationError

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.plain_files import batches_of_lines, open_plain, read_plain
from qilin_rag.core.types import Exchange, Sample

T = TypeVar("T", bound=BaseModel)
SCHEMA_VERSION = 1
_TEMPORARY = ".tmp"
_MOST_LOOKS = 5
_MOST_DEPTH = 100
_CHARS_AT_ONCE = 2**18


def expanded(path: str | Path) -> Path:
    """Return a path with `~` replaced by the user's home; `~` of an unknown user stays."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a run directory.

    Raises:
        UsageError: if the file does not exist, can't be read or is not a JSON object.
    """
    try:
        content = json.loads(read_plain(path).decode(), parse_constant=_no_number)
    except FileNotFoundError:
        raise UsageError(f"{path.parent} is not a finished run directory: {path.name} does not exist") from None
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} is not valid JSON: {error}; move it away, and the same command makes it again"
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a JSON object")
    if _is_deep(content):
        raise UsageError(f"{path}: more than {_MOST_DEPTH} lists or objects in each other; move it away")
    return content


def _is_deep(value: Any) -> bool:
    """Return whether a value is nested so deeply that a program which walks through it may fail."""
    values = [value]
    for _ in range(_MOST_DEPTH):
        nested = (each.values() if isinstance(each, dict) else each for each in values)
        values = [inner for each in nested for inner in each if isinstance(inner, dict | list)]
        if not values:
            return False
    return True


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def validated(model: type[T], path: Path, content: dict[str, Any]) -> T:
    """Return the content of a file as `model`.

    Raises:
        UsageError: if the content does not fit the model, or has a schema version that this program does not read.
    """
    if "schema_version" in model.model_fields and (version := content.get("schema_version")) != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: schema version {version}, this program reads {SCHEMA_VERSION}; "
            "write elsewhere with runs_dir (--runs-dir)"
        )
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `out` (new or empty) when all is written, else is removed."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not empty; name a new folder")
    try:
        with atomic_folder(out) as temporary:
            yield temporary
    except OSError as error:
        raise QilinError(f"{out} can't be written: {error.strerror or error}; nothing is left of it") from error


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`. It replaces `folder` when the block ends, and is removed if the block fails.

    Raises:
        OSError: if the folder can't be written, or `folder` is not empty by then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder.parent, glob.escape(folder.name))
    temporary = _temporary(folder)
    temporary.mkdir(0o700)
    try:
        yield temporary
        for path in temporary.rglob("*"):
            if path.is_file():
                _sync(path)
        temporary.chmod(0o755)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_out(path: Path, option: str = "--out") -> None:
    """Check, before any work is done, that an output file can be written.

    Args:
        path: The file.
        option: The option that names it.

    Raises:
        UsageError: if the path is a folder, or its folder does not exist.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"{str(path)!r} ({option}) must be a file in a folder that exists")


def write_text(path: Path, text: str | Iterable[str]) -> None:
    """Write a whole file in one step, so that a reader or a crash finds the old or the new content.

    A device or a pipe is written to directly, and a link stays a link.

    Args:
        path: The file.
        text: Its text, or the parts of a text that is too long to have it in memory twice.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with writing(path), path.open("wb", buffering=0) as file:
            _write_parts(file, text)
        return
    with writing(path):
        replace_text(path, text)


def replace_text(path: Path, text: str | Iterable[str]) -> None:
    """Write a plain file like `write_text`, but raise OSError if the system refuses."""
    with atomic_path(path) as temporary, open_new(temporary) as file:
        _write_parts(file, text)


def _write_parts(file: IO[bytes], text: str | Iterable[str]) -> None:
    """Write a text, or its parts, small ones together."""
    held: list[str] = []
    n_chars = 0
    for part in [text] if isinstance(text, str) else text:
        held.append(part)
        n_chars += len(part)
        if n_chars >= _CHARS_AT_ONCE:
            write_all(file, "".join(held).encode())
            held, n_chars = [], 0
    write_all(file, "".join(held).encode())


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a free path beside `path` to write a file to; the file replaces `path` when the block ends.

    The file is synced to disk first, so that a crash leaves the old or the new file. If the block fails, the new file
    is removed and the old one stays. A link stays a link.

    Raises:
        OSError: if the file can't be written or renamed.

    >>> from tempfile import mkdtemp
    >>> path = Path(mkdtemp()) / "figures.txt"
    >>> with atomic_path(path) as temporary:
    ...     _ = temporary.write_text("1")
    ...     path.exists()
    False
    >>> path.read_text()
    '1'
    """
    path = path.resolve()
    remove_leftovers(path.parent, glob.escape(path.name))
    temporary = _temporary(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _temporary(path: Path) -> Path:
    """Return a free path beside this one, whose name holds the process and machine that write it."""
    return path.parent / f".{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY}"


def is_writer_running(temporary: Path) -> bool | None:
    """Return whether the process that writes this temporary file runs; None if its name does not tell."""
    found = re.fullmatch(rf"\..*\.{_host()}-([0-9]+)-[0-9a-f]+{re.escape(_TEMPORARY)}", temporary.name)
    if not found or os.name != "posix":  # on other systems, checking a process may end it
        return None
    return _is_running(int(found[1]))


def remove_leftovers(folder: Path, names: str = "*") -> None:
    """Remove temporary files of killed processes of this machine whose targets match `names` (a glob)."""
    for left in folder.glob(f".{names}.{_host()}-*{_TEMPORARY}"):
        if is_writer_running(left) is not False:
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def open_new(path: Path, mode: str = "xb") -> IO[bytes]:
    """Open a file for unbuffered writing.

    Raises:
        OSError: if the path is a link, or the file exists and `mode` is `xb`.
    """

    def no_link(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    return open(path, mode, buffering=0, opener=no_link)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a write that the system refuses (full disk, no permission) into one line that names the file."""
    try:
        yield
    except OSError as error:
        raise QilinError(
            f"{path} can't be written: {error.strerror or error}; what was written before is kept"
        ) from error


class LineWriter:
    """A writer that appends one exchange per line, each by one write that the system has before `write` returns."""

    def __init__(self, file: IO[bytes]) -> None:
        """Use `file`, which is open for appending and unbuffered."""
        self._file, self._path = file, Path(file.name)

    def write(self, exchange: Exchange, before: Callable[[int], None] | None = None) -> None:
        """Append one line. `before` is called first, with the number of bytes that the file will have."""
        content = exchange.model_dump_json().encode() + b"\n"
        with writing(self._path):
            if before is not None:
                before(os.fstat(self._file.fileno()).st_size + len(content))
            write_all(self._file, content)


def write_all(file: IO[bytes], content: bytes) -> None:
    """Write all of `content`: one unbuffered write may write only a part (full disk, signal)."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def mend_last_line(path: Path) -> None:
    """Cut off an incomplete last line, or add the missing line break of a complete one."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        content_end = file.seek(0, os.SEEK_END)
        line_start = _start_of_last_line(file, content_end)
        if line_start == content_end:
            return
        file.seek(line_start)
        try:
            json.loads(file.read())
        except (ValueError, RecursionError):
            file.truncate(line_start)
        else:
            file.write(b"\n")


def _start_of_last_line(file: IO[bytes], end: int) -> int:
    """Return the offset just after the last line break before `end`."""
    block_end = end
    while block_end > 0:
        block_start = max(0, block_end - 65536)
        file.seek(block_start)
        index = file.read(block_end - block_start).rfind(b"\n")
        if index >= 0:
            return block_start + index + 1
        block_end = block_start
    return 0


def read_lines(path: Path, model: type[T], half_line_ok: bool = False) -> Iterator[T]:
    """Yield every line of a file of a run directory as `model`; none if it does not exist.

    Raises:
        UsageError: if the file is not a plain one, or a line is not valid or too long; the error names its number.
    """
    try:
        file = open_plain(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}") from error
    with file:
        yield from lines_of(path, file, model, half_line_ok)


def lines_of(path: Path, file: IO[bytes], model: type[T], half_line_ok: bool = False) -> Iterator[T]:
    """Yield the lines of an open file like `read_lines`."""
    line_number = 1
    for lines, has_end in batches_of_lines(path, file):
        try:  # all at once takes half the time
            rows = rows_of(model).validate_json(b"[%b]" % b",".join(lines))
        except ValidationError:
            rows = []
        if len(rows) == len(lines):
            yield from rows
        else:
            yield from _one_by_one(path, lines, line_number, model, half_line_ok and not has_end)
        line_number += len(lines)


@functools.cache
def rows_of(model: type[T]) -> TypeAdapter[list[T]]:
    """Return the reader of a list of rows, which takes half the time of as many readers of one."""
    rows = list[model]  # type: ignore[valid-type]
    return TypeAdapter(Annotated[rows, FailFast()])  # else the errors of a million lines would take gigabytes


def _one_by_one(path: Path, lines: Sequence[bytes], number: int, model: type[T], half_line_ok: bool) -> Iterator[T]:
    """Yield lines until one that is not valid; `number` is that of the first."""
    for at, line in enumerate(lines, start=number):
        try:
            yield model.model_validate_json(line)
        except ValidationError as error:
            if half_line_ok:
                return
            hint = "; correct or remove the line, or start again with fresh (run --fresh)" if model is Sample else ""
            raise UsageError(f"{path}, line {at}: not a {_noun(path)}: {error.errors()[0]['msg']}{hint}") from error


def _noun(path: Path) -> str:
    """Return the name of what one line of a file holds: sample, score, question."""
    return path.stem.rpartition(".")[2].partition("-")[0].removesuffix("s")


def as_lines(rows: Iterable[BaseModel]) -> str:
    """Return these rows as the text of a JSONL file."""
    return "".join(f"{row.model_dump_json()}\n" for row in rows)
