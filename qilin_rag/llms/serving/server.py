"""A server of our own, for one run or until its user ends it: started, waited for, watched, and stopped.

The server runs below a keeper (keeper.py), which ends it with all its processes however we end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr

from qilin_rag.config.presets import preset_file, preset_settings
from qilin_rag.core.cache import in_use
from qilin_rag.core.errors import UsageError, naming_file
from qilin_rag.core.files import open_new
from qilin_rag.core.text import clean
from qilin_rag.core.types import Completion, RenderedPrompt
from qilin_rag.llms.base import LLM, FatalLLMError
from qilin_rag.llms.openai_compatible import OpenAICompatible
from qilin_rag.llms.serving.engines import Engine, build_engine
from qilin_rag.llms.serving.tasks import GENERATE, Task

logger = logging.getLogger(__name__)
HOST = "127.0.0.1"
POLL_S = 0.2
SAY_EVERY_S = 15.0
REQUEST_TIMEOUT_S = 5.0
STOP_MARGIN_S = 10.0
TAIL_BYTES = 1 << 16
_REASON_LINES = 3
_LINE_CHARS = 240


# A line in which Python, or a command line, reports an error, after vLLM's prefix of every line.
_ERROR = re.compile(r"(?:^|[\])] )(?=[\w.]*(?:Error|Exception): \S|[\w.]+: error: \S)")


class Server:
    """A server process: `with Server(engine, ...) as server:` begins when it answers, and ends all its processes.

    Args:
        engine: The engine.
        name: The model's name at the server.
        context_length: The most tokens of prompt and answer; None takes the model's own.
        log: The file for the server's output.
        port: The port if the engine sets none; None takes a free one.
        follow: A function that is called repeatedly while the server starts (`serve` shows the log with it).
        task: What the server makes of texts.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        context_length: int | None,
        log: Path,
        port: int | None = None,
        follow: Callable[[], None] = lambda: None,
        task: Task = GENERATE,
    ) -> None:
        """Set the server without starting it."""
        if os.name != "posix":
            raise UsageError(
                "servers can be started on Linux and macOS only; start one elsewhere and set base_url (--base-url)"
            )
        if context_length and engine.max_model_len and engine.max_model_len < context_length:
            raise UsageError(
                f"llm.context_length ({context_length}) is more than the server's llm.engine.max_model_len "
                f"({engine.max_model_len}); set both: --set llm.context_length={engine.max_model_len}"
            )
        self._engine, self._name, self._context_length, self.log = engine, name, context_length, log
        self._follow, self._task = follow, task
        self._wanted_port = engine.port or port
        self._keeper: subprocess.Popen[bytes] | None = None
        self.start_s = 0.0

    def __enter__(self) -> Self:
        self._port = _free_port(self._wanted_port)
        command = self._engine.command(self._name, self._context_length, self._port, self._task)
        keeper = Path(__file__).with_name("keeper.py")
        logger.info("starting %s, log: %s", self._engine.title, self.log)
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open_new(self.log, "wb") as log:
                in_use(self.log, by=self)
                self._keeper = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(keeper), str(self._engine.stop_timeout_s), *command],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._engine.variables(),
                    start_new_session=True,  # Ctrl-C must reach us only
                )
            self._wait_until_ready()
        except OSError as error:
            self.stop()
            raise UsageError(f"the server's log {self.log} can't be written: {error.strerror}") from error
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Return the base_url for a client."""
        return f"http://{HOST}:{self._port}/v1"

    @property
    def has_ended(self) -> bool:
        """Return whether the server has ended."""
        return self._keeper is None or self._keeper.poll() is not None

    def ended_error(self, when: str) -> FatalLLMError:
        """Return how the server ended, with the reason from its log."""
        code = self._keeper.returncode if self._keeper else 0
        how = f"was killed by {signal.Signals(code - 128).name}" if code > 128 else f"ended with exit code {code}"
        hint = " (out of memory?)" if code == 128 + signal.SIGKILL else ""
        return FatalLLMError(f"{self._engine.title} {how}{hint} {when}: {_reason(self.log)}; its whole log: {self.log}")

    def stop(self) -> None:
        """End the server and all its processes; kill those that do not end when asked."""
        if self._keeper is None:
            return
        keeper = self._keeper
        if keeper.poll() is None:
            keeper.send_signal(signal.SIGTERM)
        if keeper.stdin:
            keeper.stdin.close()
        try:
            keeper.wait(self._engine.stop_timeout_s + STOP_MARGIN_S)
        except subprocess.TimeoutExpired:
            keeper.kill()
            logger.warning("the processes below %d of %s did not end", keeper.pid, self._engine.title)
        self._keeper = None

    def facts(self) -> dict[str, Any]:
        """Return what the manifest records: engine, version, settings, named environment variables."""
        version = _get(f"http://{HOST}:{self._port}/version") or {}
        served = [model for model in _models(self._port) if model.get("id") == self._name]
        return {
            "engine": self._engine.title,
            "version": version.get("version") or self._engine.installed_version(),
            "model": self._name,
            "context_length": served[0].get("max_model_len", self._context_length) if served else None,
            "settings": self._engine.model_dump(mode="json", exclude={"python", "environment", "allowed"}),
            "environment": self._engine.recorded_variables(),
            "start_s": round(self.start_s, 1),
        }

    def _wait_until_ready(self) -> None:
        started = reported = time.monotonic()
        while not self._is_ready():
            now = time.monotonic()
            if self.has_ended:
                raise self.ended_error("before it was ready")
            if now - started > self._engine.start_timeout_s:
                raise FatalLLMError(
                    f"{self._engine.title} was not ready after {self._engine.start_timeout_s:g} s "
                    f"(llm.engine.start_timeout_s); its log, {self.log}, ends with: {_reason(self.log)}"
                )
            if now - reported >= SAY_EVERY_S:
                reported = now
                logger.info("%s is starting, %.0f s: %s", self._engine.title, now - started, _last_line(self.log))
            self._follow()
            time.sleep(POLL_S)
        self.start_s = time.monotonic() - started
        logger.info("%s serves %s at %s after %.0f s", self._engine.title, self._name, self.address, self.start_s)

    def _is_ready(self) -> bool:
        if _get(f"http://{HOST}:{self._port}/health") is None:
            return False
        return any(model.get("id") == self._name for model in _models(self._port)) and not self.has_ended


class Served(LLM):
    """The client of a server of ours: when the server ends, every waiting call fails with the reason."""

    client: OpenAICompatible

    _server: Server = PrivateAttr()
    _death: asyncio.Task[None] | None = PrivateAttr(default=None)

    @classmethod
    def by(cls, server: Server, client: OpenAICompatible) -> Self:
        """Return `client` connected to `server`."""
        served = cls(client=client.model_copy(update={"base_url": server.address}))
        served._server = server
        return served

    def with_client(self, client: OpenAICompatible) -> Self:
        """Return another client of the same server, with other settings."""
        return type(self).by(self._server, client)

    @property
    def prompt_budget(self) -> int | None:
        """Return the client's budget."""
        return self.client.prompt_budget

    def check(self) -> dict[str, Any]:
        """Return the facts of the client's check, and of the server that we started."""
        return self.client.check() | self._server.facts()

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        """Return the client's answer, unless the server ends first."""
        if self._death is None:
            self._death = asyncio.create_task(self._watch())
        call = asyncio.create_task(self.client.generate(prompt))
        try:
            await asyncio.wait({call, self._death}, return_when=asyncio.FIRST_COMPLETED)
            if call.done() and call.exception() is None:
                return call.result()
            if self._server.has_ended:
                raise self._server.ended_error("in the middle of the run (every finished answer is kept)")
            return await call
        finally:
            call.cancel()

    async def _watch(self) -> None:
        while not self._server.has_ended:
            await asyncio.sleep(POLL_S)

    async def close(self) -> None:
        """Stop watching, and close the client."""
        if self._death is not None:
            self._death.cancel()
            self._death = None
        await self.client.close()


def engine_of(llm: LLM, label: str) -> Engine:
    """Return the engine that serves this LLM.

    Raises:
        UsageError: if its settings name none.
    """
    if not isinstance(llm, OpenAICompatible):
        raise UsageError(f"llm {label} needs no server; leave out serve (--serve)")
    with naming_file(preset_file(label), lambda: build_engine(preset_settings(label)[1].get("engine"), label)):
        return build_engine(llm.engine, label)


@contextmanager
def serving(llm: LLM, label: str, log: Path) -> Iterator[Served]:
    """Yield the LLM with its own server at a free port, which ends with the block."""
    engine = engine_of(llm, label)
    assert isinstance(llm, OpenAICompatible)
    with Server(engine, llm.model, llm.context_length, log) as server:
        yield Served.by(server, llm)


def _free_port(preferred: int | None) -> int:
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # a port counts as free right after a server left it
        try:
            probe.bind((HOST, preferred or 0))
        except OSError as error:
            raise UsageError(
                f"port {preferred} is taken ({error.strerror}); name another: --set llm.engine.port=N"
            ) from error
        return int(probe.getsockname()[1])


def _get(url: str) -> dict[str, Any] | None:
    """Return the server's reply as JSON; {} if it is not JSON, None if there is no good reply."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=REQUEST_TIMEOUT_S) as response:
            reply = json.loads(response.read() or b"{}")
    except ValueError:
        return {}
    except Exception:  # http.client has many error classes: refused, reset, cut off
        return None
    return reply if isinstance(reply, dict) else {}


def _models(port: int) -> list[dict[str, Any]]:
    listed = (_get(f"http://{HOST}:{port}/v1/models") or {}).get("data")
    return [model for model in listed if isinstance(model, dict)] if isinstance(listed, list) else []


def log_lines(log: Path) -> list[str]:
    """Return the last lines of a log that are not empty, as plain text."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    plain = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", clean(text)).replace("\r", "\n")
    return [line.strip() for line in plain.split("\n") if line.strip()]


def _last_line(log: Path) -> str:
    lines = log_lines(log)
    return lines[-1][-_LINE_CHARS:] if lines else "(nothing in its log yet)"


def _reason(log: Path) -> str:
    """Return the first error at the end of the log, from which others follow, with its next lines.

    Without an error, return the last lines.
    """
    lines = log_lines(log)
    for number, line in enumerate(lines):
        if match := _ERROR.search(line):
            told = [line[match.end() :], *lines[number + 1 : number + _REASON_LINES]]
            break
    else:
        told = lines[-_REASON_LINES:]
    return " | ".join(line[:_LINE_CHARS] for line in told) or "its log is empty"
