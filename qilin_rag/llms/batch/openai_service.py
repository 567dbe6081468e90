"""OpenAI's batch API, also of other servers that have `/files` and `/batches` in its form."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn, TypeVar
from urllib.parse import quote

from qilin_rag.llms.base import FatalLLMError, LLMError
from qilin_rag.llms.batch.service import (
    ERRORS,
    OUTPUT,
    BatchService,
    BatchState,
    NoBatchError,
    OverQuotaError,
    TooLargeError,
    UnsureError,
)
from qilin_rag.llms.client import RefusedError
from qilin_rag.llms.endpoint import Endpoint
from qilin_rag.llms.refusal_bodies import Refusal, read_refusal
from qilin_rag.llms.refusals import as_error
from qilin_rag.llms.retry import TransientError

T = TypeVar("T")
_ENDED: Mapping[str, Any] = {
    "completed": "completed",
    "expired": "expired",
    "cancelled": "cancelled",
    "canceled": "cancelled",
    "failed": "failed",
}
_NO_PATH = (404, 405, 501)
_PAGE = 100  # batches of a page of the list
_MOST_PAGES = 10_000
_TOO_LARGE = re.compile(
    r"(file|body|entity|payload).{0,40}(too large|too big)|(file|size|bytes).{0,40}(exceed|limit)|larger than",
    re.IGNORECASE,
)
_ENQUEUED = re.compile(r"enqueued|token_limit_exceeded|too many (active |concurrent |running )?batch", re.IGNORECASE)


class OpenAIBatches(BatchService):
    """The batches at an address."""

    name: ClassVar[str] = "openai"
    window: ClassVar[str | None] = "24h"
    """The time within which a batch is answered; None is not sent."""
    tag_name: ClassVar[str] = "qilin_rag"
    """The key of a batch's metadata that holds its tag."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Set the address; nothing is sent yet."""
        self.endpoint = endpoint

    async def upload(self, path: Path, tag: str) -> str | None:
        """Send the file of requests; return its id."""
        name = f"qilin-rag-{tag}.jsonl"
        try:
            reply = await self.endpoint.send_file("/files", {"purpose": "batch"}, path, name)
        except RefusedError as error:
            refusal = error.read([])
            if error.status == 413 or (error.status in (400, 422) and _TOO_LARGE.search(refusal.words)):
                raise TooLargeError(refusal.words or "HTTP 413") from error
            self._refuse(refusal, "POST /files")
        return self._id(reply, "POST /files")

    async def create(self, file_id: str | None, path: Path, tag: str) -> str:
        """Create a batch of an uploaded file, with the tag in its metadata; return its id."""
        window = {"completion_window": self.window} if self.window else {}
        body = {"input_file_id": file_id, "endpoint": self.url, **window, "metadata": {self.tag_name: tag}}
        try:
            return self._id(await self.endpoint.post("/batches", body), "POST /batches")
        except RefusedError as error:
            refusal = error.read([])
            if (error.status >= 500 or error.status in (408, 409, 425)) and error.status not in _NO_PATH:
                raise UnsureError(f"HTTP {error.status}: {refusal.words}") from error
            if error.status in (400, 403, 429) and _is_over_quota(refusal):
                raise OverQuotaError(refusal.words) from error
            self._refuse(refusal, "POST /batches")
        except TransientError as error:
            raise UnsureError(str(error)) from error

    async def find(self, tag: str, file_id: str | None) -> str | None:
        """Look for a batch on all pages of the list."""
        after = ""
        for _ in range(_MOST_PAGES):
            path = f"/batches?limit={_PAGE}" + (f"&after={quote(after, safe='')}" if after else "")
            page = await self._read(self.endpoint.get(path), "GET /batches")
            batches = page.get("data")
            if not isinstance(batches, list):
                raise self.endpoint.unreadable("GET /batches: no list of batches")
            for batch in (each for each in batches if isinstance(each, dict)):
                metadata = batch.get("metadata")
                has_tag = isinstance(metadata, dict) and metadata.get(self.tag_name) == tag
                if has_tag or (file_id is not None and batch.get("input_file_id") == file_id):
                    return self._id(batch, "GET /batches")
            last = batches[-1].get("id") if batches and isinstance(batches[-1], dict) else None
            if not page.get("has_more") or not last or last == after:
                return None
            after = str(last)
        raise FatalLLMError(f"{self.endpoint.base_url}: the list of batches has no end")

    async def state(self, batch_id: str) -> BatchState:
        """Return the state of a batch."""
        try:
            reply = await self.endpoint.get(f"/batches/{quote(batch_id, safe='')}")
        except RefusedError as error:
            if error.status == 404:
                raise NoBatchError(error.read([]).words) from error
            self._refuse(error.read([]), "GET /batches/ID")
        return _state_of(self._object(reply, "GET /batches/ID"))

    async def download(self, state: BatchState, folder: Path) -> None:
        """Fetch the files of a batch that has ended."""
        if state.n_done and OUTPUT not in state.outputs:
            raise TransientError("the batch names no file of its output yet")
        for name, file_id in state.outputs.items():
            try:
                await self.endpoint.download(f"/files/{quote(file_id, safe='')}/content", folder / name)
            except RefusedError as error:
                refusal = error.read([])
                if error.status == 404:
                    raise TransientError(f"file {file_id} does not exist yet (HTTP 404: {refusal.words})") from error
                self._refuse(refusal, "GET /files/ID/content")

    async def cancel(self, batch_id: str) -> BatchState:
        """Cancel a batch."""
        path = f"/batches/{quote(batch_id, safe='')}/cancel"
        return _state_of(await self._read(self.endpoint.post(path, {}), "POST /batches/ID/cancel"))

    async def close(self) -> None:
        """Close the connections."""
        await self.endpoint.close()

    async def _read(self, call: Awaitable[Any], what: str) -> dict[str, Any]:
        """Return the object of a reply."""
        try:
            reply = await call
        except RefusedError as error:
            self._refuse(error.read([]), what)
        return self._object(reply, what)

    def _object(self, reply: Any, what: str) -> dict[str, Any]:
        if not isinstance(reply, dict):
            raise self.endpoint.unreadable(f"{what}: no object")
        return reply

    def _id(self, reply: Any, what: str) -> str:
        found = reply.get("id") if isinstance(reply, dict) else None
        if not isinstance(found, str) or not found:
            if isinstance(reply, dict) and (refusal := read_refusal(400, {}, reply)).words:
                self._refuse(refusal, what)  # Zhipu refuses with status 200, too
            raise self.endpoint.unreadable(f"{what}: no id")
        return found

    def _refuse(self, refusal: Refusal, what: str) -> NoReturn:
        """Raise the error for a refusal: nothing can succeed, or the same call may succeed later."""
        words = self.endpoint.redacted(refusal.words)[:300]
        if refusal.status in _NO_PATH and what.startswith("POST /") and "ID" not in what:
            why = f"{what}: HTTP {refusal.status}{f': {words}' if words else ''}"
            raise FatalLLMError(
                f"{self.endpoint.base_url} has no batches ({why}); leave out batch (--batch), or name another server"
            )
        error = as_error(refusal, self.endpoint.caller)
        if isinstance(error, LLMError):
            raise FatalLLMError(f"{self.endpoint.base_url}: {what} is refused ({error})")
        raise error


def _state_of(batch: Mapping[str, Any]) -> BatchState:
    said = str(batch.get("status") or "unknown")
    found = batch.get("request_counts")
    counts = found if isinstance(found, dict) else {}
    done, failed = (n if isinstance(n := counts.get(name), int) and n > 0 else 0 for name in ("completed", "failed"))
    files = {OUTPUT: batch.get("output_file_id"), ERRORS: batch.get("error_file_id")}
    status = _ENDED.get(said.lower(), "open")
    refusal = read_refusal(None, {}, batch.get("errors")) if status == "failed" else None
    return BatchState(
        status=status,
        said=said,
        n_done=done,
        n_failed=failed,
        outputs={name: str(id) for name, id in files.items() if id},
        reason="" if refusal is None else refusal.words or ", ".join(sorted(refusal.codes)) or "without a word",
        is_over_quota=refusal is not None and _is_over_quota(refusal),
    )


def _is_over_quota(refusal: Refusal) -> bool:
    """Return whether the service has too much enqueued; an account without credit is not meant."""
    return _ENQUEUED.search(" ".join([refusal.words, *refusal.codes])) is not None
