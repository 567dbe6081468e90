"""Files written so that a crash leaves the old one or the new, and read without trust."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ValidationError

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.types import Exchange, Sample

T = TypeVar("T", bound=BaseModel)
SCHEMA_VERSION = 1
_TEMPORARY = ".tmp"
_MOST_LOOKS = 5


def expanded(path: str | Path) -> Path:
    """Return a path with `~` as the user's home; one of a user that does not exist stays as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run directory; a UsageError where there is none."""
    _check_plain(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{path.parent} is not a finished run directory: {path.name} is not there") from None
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} is not valid JSON: {error}; move it away, and the same command makes it again"
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a JSON object")
    return content


def validated(model: type[T], path: Path, content: dict[str, Any]) -> T:
    """What was read, as `model`, and of the version that this program reads where it has one; else a UsageError."""
    if "schema_version" in model.model_fields and (version := content.get("schema_version")) != SCHEMA_VERSION:
        raise UsageError(
            f"{path}: schema version {version}, this program reads {SCHEMA_VERSION}; write elsewhere with --runs-dir"
        )
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A temporary folder that becomes `out`, which must be new or empty, once all is written; else nothing is left."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there and not empty; name a new folder")
    try:
        with atomic_folder(out) as temporary:
            yield temporary
    except OSError as error:
        raise QilinError(f"{out} can't be written: {error.strerror or error}; nothing is left of it") from error


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, which takes its place when the block ends, and is removed if it fails.

    Raises:
        OSError: if it can't be written, or `folder` holds something by then.
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


def check_out(path: Path) -> None:
    """UsageError where a file named by `--out` can't be one, before anything is done for it."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"--out {str(path)!r} must be a file in a folder that is there")


def write_text(path: Path, text: str) -> None:
    """Write a whole file in one step: a reader, or a crash, finds the old content or the new.

    A device or a pipe is written to as it is, and a link stays one.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with writing(path):
            path.write_text(text, encoding="utf-8", newline="\n")
        return
    with writing(path):
        replace_text(path, text)


def replace_text(path: Path, text: str) -> None:
    """As `write_text`, of a plain file; what the system refuses is an OSError."""
    with atomic_path(path) as temporary, open_new(temporary) as file:
        write_all(file, text.encode())


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a free path beside `path` to write a file to, which takes the place of `path` when the block ends.

    By then it is on the disk, so that a crash leaves the old file or the new. If the block fails, it is removed and
    the old file stays. A link stays a link.

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
    """A free path beside this one, whose name says which process of which machine writes it."""
    return path.parent / f".{path.name}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY}"


def is_writer_running(temporary: Path) -> bool | None:
    """Return whether the process that writes this temporary file or folder runs; None if its name does not tell."""
    found = re.fullmatch(rf"\..*\.{_host()}-([0-9]+)-[0-9a-f]+{re.escape(_TEMPORARY)}", temporary.name)
    if not found or os.name != "posix":  # elsewhere asking for a process may end it
        return None
    return _is_running(int(found[1]))


def remove_leftovers(folder: Path, names: str = "*") -> None:
    """Remove what killed processes of this machine left in a folder while they wrote what has these names (a glob)."""
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
    """Open a file of our own for writing, unbuffered; a link is an OSError, and so is a file that is there (`xb`)."""

    def no_link(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)

    return open(path, mode, buffering=0, opener=no_link)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A write the system refuses (full disk, no permission) is one line that names the file."""
    try:
        yield
    except OSError as error:
        raise QilinError(
            f"{path} can't be written: {error.strerror or error}; what was written before is kept"
        ) from error


class LineWriter:
    """Appends one exchange a line, each with a single write that is with the system before `write` returns."""

    def __init__(self, file: IO[bytes]) -> None:
        """`file` is open for appending and unbuffered."""
        self._file = file

    def write(self, exchange: Exchange) -> None:
        """Append one line."""
        with writing(Path(self._file.name)):
            write_all(self._file, exchange.model_dump_json().encode() + b"\n")


def write_all(file: IO[bytes], content: bytes) -> None:
    """An unbuffered write may take a part only: a full disk, a signal."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def mend_last_line(path: Path) -> None:
    """Cut off a half last line, or end it where only its line break is missing."""
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
    """Offset just after the last line break before `end`."""
    block_end = end
    while block_end > 0:
        block_start = max(0, block_end - 65536)
        file.seek(block_start)
        found = file.read(block_end - block_start).rfind(b"\n")
        if found >= 0:
            return block_start + found + 1
        block_end = block_start
    return 0


def read_lines(path: Path, model: type[T], half_line_ok: bool = False) -> Iterator[T]:
    """Every line as `model`; a line that is not one is a UsageError with its number."""
    if not path.exists():
        return
    _check_plain(path)
    with path.open("rb") as file:
        yield from lines_of(path, file, model, half_line_ok)


def lines_of(path: Path, file: IO[bytes], model: type[T], half_line_ok: bool = False) -> Iterator[T]:
    """As `read_lines`, of a file that is open."""
    for line_number, line in enumerate(file, start=1):
        try:
            yield model.model_validate_json(line)
        except ValidationError as error:
            if half_line_ok and not line.endswith(b"\n"):
                return
            hint = "; mend or remove the line, or start anew with run --fresh" if model is Sample else ""
            raise UsageError(
                f"{path}, line {line_number}: not a {_noun(path)}: {error.errors()[0]['msg']}{hint}"
            ) from error


def _noun(path: Path) -> str:
    """What a line of a file is: sample, score, question."""
    return path.stem.rpartition(".")[2].partition("-")[0].removesuffix("s")


def as_lines(rows: Iterable[BaseModel]) -> str:
    """The text of a JSONL file of these rows."""
    return "".join(f"{row.model_dump_json()}\n" for row in rows)


def _check_plain(path: Path) -> None:
    """Opening a pipe would wait for ever."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no plain file; move it away")
