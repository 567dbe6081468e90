"""The batches of a run or a judgement on disk, so that none is submitted twice and no reply is lost.

Each batch has a folder `batches/NAME/` with `requests.jsonl`, `record.json`, the service's `output.jsonl` and
`errors.jsonl`, and `used.jsonl`: which of its replies are in the files of the run. A record is written before each step
at the service, and again with the id that the step gave.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt

from qilin_rag.core.directories import BATCHES as BATCHES
from qilin_rag.core.environment import now
from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import (
    SCHEMA_VERSION,
    mend_last_line,
    open_new,
    read_json,
    read_lines,
    validated,
    write_all,
    write_text,
    writing,
)
from qilin_rag.core.plain_files import open_plain
from qilin_rag.core.types import Frozen

logger = logging.getLogger(__name__)
REQUESTS, RECORD, USED = "requests.jsonl", "record.json", "used.jsonl"


class BatchRecord(Frozen):
    """A batch, as far as it is known: record.json of a folder in `batches`.

    Attributes:
        schema_version: The version of this file.
        state: `written`: the requests are on disk, and the batch has no id yet; `submitted`: it has one; `fetched`: its
            replies are on disk; `closed`: all that can come of it was used.
        service: The name of the service.
        base_url: Its address.
        model: The model that is asked.
        tag: A random text in the batch's metadata, by which it is found again.
        file_name: The file of the run that gets the replies.
        requests: The number of requests.
        requests_sha256: The hash of the file of requests.
        created: The time when it was written.
        file_id: The service's id of the uploaded file.
        batch_id: The service's id of the batch.
        said: The service's last word about it, such as `in_progress`.
        ended: How it ended; None if it has not, as far as is known.
        done: The number of requests that were answered.
        failed: The number of requests that were refused.
    """

    schema_version: int = SCHEMA_VERSION
    state: Literal["written", "submitted", "fetched", "closed"] = "written"
    service: str
    base_url: str
    model: str
    tag: str
    file_name: str
    requests: NonNegativeInt
    requests_sha256: str
    created: str
    file_id: str | None = None
    batch_id: str | None = None
    said: str = ""
    ended: Literal["completed", "expired", "cancelled", "failed"] | None = None
    done: NonNegativeInt = 0
    failed: NonNegativeInt = 0


class UsedReply(Frozen):
    """A reply that is in a file of the run as soon as this file has so many bytes."""

    custom_id: str
    end: NonNegativeInt


class LedgerEntry:
    """A batch in the ledger: its folder and its record."""

    def __init__(self, folder: Path, record: BatchRecord) -> None:
        """Name the folder, and what is known of the batch."""
        self.folder, self.record = folder, record

    @property
    def requests(self) -> Path:
        """Return the path of the file of requests."""
        return self.folder / REQUESTS

    def update(self, **fields: object) -> None:
        """Change fields of the record, on disk first."""
        record = self.record.model_copy(update=fields)
        write_text(self.folder / RECORD, record.model_dump_json(indent=2) + "\n")
        self.record = record

    def read_ids(self) -> Iterator[str]:
        """Yield the id of each request."""
        with open_plain(self.requests) as file:
            for line in file:
                yield json.loads(line)["custom_id"]

    def read_used(self, size: int) -> set[str]:
        """Return the ids of the replies that are in the run's file, which has `size` bytes."""
        path = self.folder / USED
        mend_last_line(path)
        return {used.custom_id for used in read_lines(path, UsedReply) if used.end <= size}

    def mark_used(self, custom_ids: Iterable[str], end: int) -> None:
        """Note that these replies are in the run's file as soon as it has `end` bytes."""
        lines = "".join(f"{UsedReply(custom_id=each, end=end).model_dump_json()}\n" for each in custom_ids)
        with writing(self.folder / USED), open_new(self.folder / USED, "ab") as file:
            write_all(file, lines.encode())

    def discard(self) -> None:
        """Remove a batch that no service knows."""
        (self.folder / RECORD).unlink(missing_ok=True)  # first: without it the rest is a leftover
        shutil.rmtree(self.folder, ignore_errors=True)


class Ledger:
    """The batches in a folder, oldest first. Reading needs no lock; write in a locked run directory."""

    def __init__(self, directory: Path) -> None:
        """Name the directory of a run or a judgement; nothing is created or read yet."""
        self.folder = directory / BATCHES

    def entries(self) -> list[LedgerEntry]:
        """Read the records.

        Raises:
            UsageError: if a record can't be read.
        """
        folders = sorted(self.folder.iterdir()) if self.folder.is_dir() and not self.folder.is_symlink() else []
        found = []
        for folder in folders:
            path = folder / RECORD
            if folder.is_dir() and not folder.is_symlink() and path.exists():
                found.append(LedgerEntry(folder, validated(BatchRecord, path, read_json(path))))
        return found

    def remove_leftovers(self) -> None:
        """Remove folders without a record, of which nothing was sent."""
        if self.folder.is_symlink():
            raise UsageError(f"{self.folder} is a link; move it away")
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if folder.is_dir() and not folder.is_symlink() and not (folder / RECORD).exists():
                shutil.rmtree(folder, ignore_errors=True)

    def add(self, lines: Iterable[str], *, service: str, base_url: str, model: str, file_name: str) -> LedgerEntry:
        """Write the requests of a new batch, and its record; both are on disk when this returns.

        Args:
            lines: The lines of the requests.
            service: The name of the service.
            base_url: Its address.
            model: The model that is asked.
            file_name: The file of the run that gets the replies.
        """
        tag = secrets.token_hex(12)
        folder = self.folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{tag[:6]}"
        with writing(folder):
            folder.mkdir(parents=True)
        digest, n_requests = hashlib.sha256(), 0

        def written() -> Iterator[str]:
            nonlocal n_requests
            for line in lines:
                n_requests += 1
                digest.update(f"{line}\n".encode())
                yield f"{line}\n"

        write_text(folder / REQUESTS, written())
        record = BatchRecord(
            service=service,
            base_url=base_url,
            model=model,
            tag=tag,
            file_name=file_name,
            requests=n_requests,
            requests_sha256=digest.hexdigest(),
            created=now(),
        )
        entry = LedgerEntry(folder, record)
        entry.update()
        with suppress(OSError):  # the names of the files are on disk, too
            for each in (folder, self.folder):
                _sync_folder(each)
        return entry


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
