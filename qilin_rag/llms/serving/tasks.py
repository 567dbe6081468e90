"""Tasks of served models: answers, vectors or scores, how a user names a model for one, and who asks it then."""

from __future__ import annotations

import logging
import shlex
from typing import Any, Literal, NamedTuple

from qilin_rag.config.presets import GGUF, named_llm
from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import expanded
from qilin_rag.models.families import assumed_pooling
from qilin_rag.models.pretrained import find_model

logger = logging.getLogger(__name__)
TaskName = Literal["generate", "embed", "rerank"]
POOLING_TASKS: dict[str, TaskName] = {"embed:": "embed", "rerank:": "rerank"}
_PORTS = {"embed": 8001, "rerank": 8002}  # beside an LLM at 8000


class Task(NamedTuple):
    """The kind of output that a server makes of texts.

    Attributes:
        name: `generate` for answers, `embed` for vectors, `rerank` for scores of a query with texts.
        pooling: How token vectors become one, if the model's own files do not state it.
    """

    name: TaskName
    pooling: str | None = None


GENERATE = Task("generate")


def task_of(given: str) -> tuple[TaskName, str]:
    """Return the task and the model that a user named.

    >>> task_of("embed:BAAI/bge-m3"), task_of("gguf:qwen.gguf")
    (('embed', 'BAAI/bge-m3'), ('generate', 'gguf:qwen.gguf'))
    """
    for prefix, name in POOLING_TASKS.items():
        if given.startswith(prefix):
            return name, given.removeprefix(prefix)
    return "generate", given


def pooling_model(task: TaskName, model: str) -> dict[str, Any]:
    """Return the settings of an endpoint that serves a model for vectors or scores.

    Args:
        task: `embed` or `rerank`.
        model: A folder, a hub name, or `gguf:FILE`.

    Raises:
        UsageError: if no model is named, or a folder holds none.
    """
    if not model.strip():
        raise UsageError(f"{task}: names no model; write {task}:FOLDER, {task}:HUB_NAME or {task}:gguf:FILE")
    if model.startswith(GGUF):
        settings = named_llm(model)
    else:
        path = expanded(model)
        if path.exists() and find_model(model) is None:
            raise UsageError(f"{path} holds no model (config.json with weights); a GGUF file is named {task}:gguf:FILE")
        folder = find_model(model) if path.exists() else None
        served_as = path.resolve().name if folder else model
        engine = {"name": "vllm"} | ({"model": str(folder)} if folder else {})
        settings = {"name": "openai", "model": served_as, "engine": engine}
    return settings | {"base_url": f"http://127.0.0.1:{_PORTS[task]}/v1"}


def with_pooling(task: TaskName, model: str) -> Task:
    """Return the task with the pooling that a local folder gets: as its family documents, if its files state none.

    Args:
        task: The task.
        model: A folder or a hub name; a model that is not on this machine is left to the engine.
    """
    if task != "embed" or expanded(model).is_file():
        return Task(task)
    try:
        folder = find_model(model)
        assumed = assumed_pooling(folder, model) if folder else None
    except ImportError:  # of transformers, without which less is known of the model
        assumed = None
    if assumed is None:
        return Task(task)
    logger.info("%s does not say how its token vectors are pooled: %s, %s", model, assumed.pooling, assumed.reason)
    return Task(task, assumed.pooling)


def next_command(task: TaskName, engine: str, model: str, address: str) -> str:
    """Return the command that asks a server for vectors or scores.

    vLLM refuses texts that are too long, unless a field of each request says that it may cut them.

    Args:
        task: `embed` or `rerank`.
        engine: The registered name of the engine.
        model: The model's name at the server.
        address: The server's address, as `served_at` returns it.
    """
    cut = "{truncate_prompt_tokens: -1}" if engine == "vllm" else ""
    if task == "embed":
        settings = {"retriever.base_url": address, "retriever.model": model, "retriever.passage_fields": cut}
        command = "qilin-rag run --retriever biencoder"
    else:
        settings = {"rerank.model": model, "rerank.extra_body": cut}
        command = f"qilin-rag run --rerank {address}"
    flags = [f"--set {shlex.quote(f'{name}={value}')}" for name, value in settings.items() if value]
    return " ".join([command, *flags])


def served_at(task: TaskName, address: str) -> str:
    """Return the address that a client of this task is given."""
    return f"{address}/rerank" if task == "rerank" else address
