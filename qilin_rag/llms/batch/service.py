"""The interface of a service that answers files of requests; lines are in the form of OpenAI's by default.

`services.service_of` chooses the service by the address of the LLM. The collector calls a service in this order, and
has each id on disk before the next call: `upload`, `create`, `state` until it has ended, `download`. After a crash
between two of them, `find` tells whether the batch exists.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

from qilin_rag.core.errors import QilinError

OUTPUT, ERRORS = "output.jsonl", "errors.jsonl"
_UNFINISHED = ("batch_expired", "batch_cancelled")


class BatchLimits(NamedTuple):
    """The most requests, and bytes of the file, of one batch."""

    requests: int = 50_000
    bytes: int = 200 * 10**6


class BatchState(NamedTuple):
    """The state of a batch, as its service tells it.

    Attributes:
        status: `open` until nothing more will be answered, then how it ended: `completed`, `expired` or `cancelled`
            (what was answered can be downloaded), or `failed` (nothing was asked).
        said: The service's own word, such as `in_progress`.
        n_done: The number of requests that were answered.
        n_failed: The number of requests that were refused.
        outputs: What `download` needs, by file name: ids or addresses of the output and of the errors.
        reason: Why it failed, in the service's words.
        is_over_quota: Whether it failed since too many tokens are enqueued at the service, so that it can be submitted
            again when other batches have ended.
    """

    status: Literal["open", "completed", "expired", "cancelled", "failed"]
    said: str
    n_done: int = 0
    n_failed: int = 0
    outputs: Mapping[str, str] = MappingProxyType({})
    reason: str = ""
    is_over_quota: bool = False


class BatchReply(NamedTuple):
    """The reply to one request of a batch.

    Attributes:
        custom_id: The id of the request.
        status: The HTTP status; None if the batch ended before the request was answered.
        body: The body of the reply, as JSON: an answer, or a refusal.
    """

    custom_id: str
    status: int | None
    body: Any


class TooLargeError(Exception):
    """The service refuses a file of this size; a smaller one may be accepted."""


class SubmittedError(QilinError):
    """All that can be done without waiting is done: the batches are at the service."""


class OverQuotaError(Exception):
    """The service has too many requests or tokens enqueued; the same batch may be accepted later."""


class NoBatchError(Exception):
    """The service knows no batch of this id; right after its creation this may pass."""


class UnsureError(Exception):
    """No reply came to the request that creates a batch, so that the batch may exist or not."""


class BatchService(ABC):
    """A service of batches, for one event loop.

    Errors of all methods: `FatalLLMError` if nothing can succeed (key refused, no such path, no credit), and
    `retry.TransientError`, with the seconds to wait if the service names them, if the same call may succeed later.

    Attributes:
        name: The name of the service, which a record keeps: a batch is never looked up at another one.
        limits: What one batch can hold.
        url: The path that each line of a request names.
        outlives_command: Whether a batch is answered when the command that submitted it has ended.
        longest_poll_s: The longest time between two looks at a batch.
    """

    name: ClassVar[str]
    limits: ClassVar[BatchLimits] = BatchLimits()
    url: ClassVar[str] = "/v1/chat/completions"
    outlives_command: ClassVar[bool] = True
    longest_poll_s: ClassVar[float] = 120.0

    def write_line(self, custom_id: str, body: Mapping[str, Any]) -> str:
        """Return the line of a request, without a line break.

        Args:
            custom_id: The id of the request, of letters, digits and `-`, at most 64 characters.
            body: The body as it is sent to `/chat/completions`, without the fields of streaming.
        """
        request = {"custom_id": custom_id, "method": "POST", "url": self.url, "body": body}
        return json.dumps(request, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    @abstractmethod
    async def upload(self, path: Path, tag: str) -> str | None:
        """Send the file of requests; return its id, or None if the service takes the requests with `create`.

        Raises:
            TooLargeError: if the file is too large.
        """

    @abstractmethod
    async def create(self, file_id: str | None, path: Path, tag: str) -> str:
        """Create a batch that holds the tag, so that `find` finds it; return its id.

        Args:
            file_id: The id of the uploaded file.
            path: The file of requests.
            tag: A random text of letters and digits.

        Raises:
            OverQuotaError: if the same call may succeed when other batches have ended.
            UnsureError: if it is not known whether the batch exists.
        """

    @abstractmethod
    async def find(self, tag: str, file_id: str | None) -> str | None:
        """Return the id of the batch with this tag or input file; None if all pages of the list have none.

        Raises:
            FatalLLMError: if the service lists no batches, so that it can't be known.
        """

    @abstractmethod
    async def state(self, batch_id: str) -> BatchState:
        """Return the state of a batch.

        Raises:
            NoBatchError: if the service does not know it.
        """

    @abstractmethod
    async def download(self, state: BatchState, folder: Path) -> None:
        """Write the replies of a batch that has ended into `OUTPUT` and `ERRORS` of a folder, each whole or not at all.

        Raises:
            TransientError: if a file does not exist yet, or is cut off.
        """

    def read_reply(self, line: bytes) -> BatchReply:
        """Read a line of a downloaded file.

        Raises:
            ValueError: if it holds no reply.
        """
        value = json.loads(line)
        if not isinstance(value, dict) or not isinstance(value.get("custom_id"), str):
            raise ValueError("no custom_id")
        response, error = value.get("response"), value.get("error")
        if isinstance(error, dict) and error.get("code") in _UNFINISHED:
            return BatchReply(value["custom_id"], None, error)
        if isinstance(response, dict) and (status := response.get("status_code")):
            return BatchReply(value["custom_id"], int(status), response.get("body"))
        return BatchReply(value["custom_id"], 200, {"error": error or "neither a response nor an error"})

    @abstractmethod
    async def cancel(self, batch_id: str) -> BatchState:
        """Cancel a batch; return its state, which may stay `open` until the service has ended it."""

    async def close(self) -> None:
        """Close the connections; called once after the last call."""
        return
