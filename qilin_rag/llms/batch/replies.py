"""The replies of a batch on disk, found by the id of their request; memory holds their places alone."""

from __future__ import annotations

from typing import NamedTuple, Self

from qilin_rag.core.plain_files import open_plain
from qilin_rag.llms.batch.ledger import LedgerEntry
from qilin_rag.llms.batch.service import ERRORS, OUTPUT, BatchReply, BatchService


class _ReplyPlace(NamedTuple):
    file_name: str
    start: int
    length: int


class Replies:
    """The replies to the requests of one batch; that of a request which the batch did not finish is missing."""

    def __init__(self, entry: LedgerEntry, service: BatchService) -> None:
        """Begin empty."""
        self._entry, self._service = entry, service
        self._places: dict[str, _ReplyPlace] = {}
        self._n_twice = self._n_unknown = self._n_unread = 0

    @classmethod
    def of(cls, entry: LedgerEntry, service: BatchService) -> Self:
        """Find the replies in the files of a batch.

        A line that can't be read, or is about a request that the batch does not have, is counted. The first of two
        replies to one request counts, an answer before a refusal.
        """
        replies, asked = cls(entry, service), set(entry.read_ids())
        for file_name in (OUTPUT, ERRORS):
            replies._read(file_name, asked)
        return replies

    def _read(self, file_name: str, asked: set[str]) -> None:
        try:
            file = open_plain(self._entry.folder / file_name)
        except FileNotFoundError:
            return
        start = 0
        with file:
            for line in file:
                place, start = _ReplyPlace(file_name, start, len(line)), start + len(line)
                if not line.strip():
                    continue
                try:
                    reply = self._service.read_reply(line)
                except (ValueError, TypeError, RecursionError):
                    self._n_unread += 1
                    continue
                if reply.custom_id not in asked:
                    self._n_unknown += 1
                elif reply.custom_id in self._places:
                    self._n_twice += 1
                elif reply.status is not None:
                    self._places[reply.custom_id] = place

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, custom_id: str) -> bool:
        return custom_id in self._places

    def get(self, custom_id: str) -> BatchReply | None:
        """Read the reply to a request; None if there is none."""
        place = self._places.get(custom_id)
        if place is None:
            return None
        with open_plain(self._entry.folder / place.file_name) as file:
            file.seek(place.start)
            return self._service.read_reply(file.read(place.length))

    def remarks(self) -> list[str]:
        """Say what is wrong with the files."""
        counts = {
            "lines of its files can't be read": self._n_unread,
            "lines are about requests that it does not have": self._n_unknown,
            "requests have more than one reply, of which the first counts": self._n_twice,
        }
        return [f"{n} {what}" for what, n in counts.items() if n]
