"""A server of our own, for one run or until its user ends it: started, waited for, watched, and stopped."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from pydantic import PrivateAttr

from qilin_rag.config.presets import preset_file, preset_settings
from qilin_rag.core.errors import UsageError, naming_file
from qilin_rag.core.types import Completion, RenderedPrompt
from qilin_rag.llms.base import LLM, FatalLLMError
from qilin_rag.llms.image_tokens import Rule
from qilin_rag.llms.openai_compatible import OpenAICompatible
from qilin_rag.llms.serving.engines import Engine, build_engine
from qilin_rag.llms.serving.process import EngineProcess, check_context
from qilin_rag.llms.serving.tasks import GENERATE, Task

logger = logging.getLogger(__name__)
HOST = "127.0.0.1"
POLL_S = 0.2
SAY_EVERY_S = 15.0
REQUEST_TIMEOUT_S = 5.0


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
        self._process = EngineProcess(engine, log)
        check_context(engine, context_length)
        self._engine, self._name, self._context_length, self.log = engine, name, context_length, log
        self._follow, self._task = follow, task
        self._wanted_port = engine.port or port
        self.start_s = 0.0

    def __enter__(self) -> Self:
        self._port = _free_port(self._wanted_port)
        command = self._engine.command(self._name, self._context_length, self._port, self._task)
        try:
            self._process.start(command)
            self._wait_until_ready()
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
        return self._process.has_ended

    def ended_error(self, when: str) -> FatalLLMError:
        """Return how the server ended, with the reason from its log."""
        return self._process.ended_error(when)

    def stop(self) -> None:
        """End the server and all its processes; kill those that do not end when asked."""
        self._process.stop()

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
                    f"(llm.engine.start_timeout_s); its log, {self.log}, ends with: {self._process.reason()}"
                )
            if now - reported >= SAY_EVERY_S:
                reported = now
                logger.info("%s is starting, %.0f s: %s", self._engine.title, now - started, self._process.last_line())
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
        served = cls(client=client.model_copy(update={"base_url": server.address}), price=client.price)
        served._server = server
        return served

    def with_client(self, client: OpenAICompatible) -> Self:
        """Return another client of the same server, with other settings."""
        return type(self).by(self._server, client)

    @property
    def prompt_budget(self) -> int | None:
        """Return the client's budget."""
        return self.client.prompt_budget

    @property
    def answer_budget(self) -> int | None:
        """Return the client's most tokens of an answer."""
        return self.client.answer_budget

    @property
    def image_rule(self) -> Rule | None:
        """Return the client's rule of counting images."""
        return self.client.image_rule

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
