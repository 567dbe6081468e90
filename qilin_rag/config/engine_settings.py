"""Variables and arguments of an engine that a file may set; only a flag, by name, allows the others.

A preset, a run directory or a grid may come from somebody else. Its settings must not make the server load code, listen
to other machines, read or write files of the author's choice, or send anything anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_SECRET = re.compile(r"(?i)(^|_)(API_?KEY|KEY|TOKEN|SECRET|PASSWORD)($|_)")


# Variables that make a process load code: no setting may set them; export them instead.
_CODE = re.compile(
    r"(?i)(PATH|ENV|CC|CXX|PS4|IFS)$|PYTHON|LD_|DYLD_|BASH|SHELL|PERL|RUBY|NODE_|JAVA_|OPENSSL_|GCONV_|GLIBC_|GTK_|GIO_"
    r"|OMP_TOOL|CUDA_INJECTION|.*(PRELOAD|PLUGIN|INSECURE|LIBRAR|_MODULES?$|_SO_|LOGGING_CONFIG)"
)


_VARIABLE_NAMES = """
    ASCEND_RT_VISIBLE_DEVICES CUBLAS_WORKSPACE_CONFIG CUDA_DEVICE_MAX_CONNECTIONS CUDA_DEVICE_ORDER
    CUDA_LAUNCH_BLOCKING CUDA_VISIBLE_DEVICES GLOO_SOCKET_IFNAME HF_HUB_DISABLE_TELEMETRY HF_HUB_OFFLINE
    HIP_VISIBLE_DEVICES KMP_AFFINITY KMP_BLOCKTIME MKL_NUM_THREADS NUMEXPR_NUM_THREADS NVIDIA_TF32_OVERRIDE
    NVIDIA_VISIBLE_DEVICES OMP_DYNAMIC OMP_NUM_THREADS OMP_PLACES OMP_PROC_BIND OMP_SCHEDULE OPENBLAS_NUM_THREADS
    PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF ROCR_VISIBLE_DEVICES TOKENIZERS_PARALLELISM TRANSFORMERS_OFFLINE
    VLLM_DISABLE_COMPILE_CACHE ZE_AFFINITY_MASK
"""
_VARIABLES = frozenset(_VARIABLE_NAMES.split())
_PREFIXES = ("VLLM_", "NCCL_", "GGML_CUDA_", "FLASHINFER_", "TORCH_NCCL_")


# Parts of names about code, files, addresses or access: VLLM_PLUGINS, NCCL_DEBUG_FILE, VLLM_HOST_IP.
_VARIABLE_WORDS = """
    ADDR ADDRESS ARGS BIN CACHE CERT CLS CMD CODE COMM COMMAND COMPILER CONF CONFIG DEV DIR DUMP ENDPOINT EXEC FILE
    FOLDER HOOK HOST IMPORT INSECURE IP LIB LIBRARIES LIBRARY LOCATION MODELSCOPE MODULE ORIGIN PATH PLUGIN PLUGINS
    PROXY PTXAS REGISTRY REMOTE ROOT RPC RUNTIME S3 SERVER SHELL SO STORE TEMPLATE TRACE URI URL USER WORKSPACE
"""


_PARTS = frozenset(_VARIABLE_WORDS.split())
_ARGUMENT_WORDS = """
    address addr allow allowed app cert certs certfile class cls code config connector cors credentials dir endpoint
    executor file grpc headers host hostname hostnames ip key keyfile keys mcp media methods middleware module
    origin origins overrides path plugin plugins processor processors proxy ray remote root rpc server socket ssl
    tls token trace traces trust trusted uds url urls webui
"""
_PARTS_OF_ARGUMENTS = frozenset(_ARGUMENT_WORDS.split())


# argparse accepts any unique prefix of a flag. Each prefix of these is refused.
_ARGUMENTS = (
    *("host", "uds", "api-key", "ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "middleware", "trust-remote-code"),
    *("tool-parser-plugin", "reasoning-parser-plugin", "io-processor-plugin", "logits-processors", "tool-server"),
    *("allowed-origins", "allowed-local-media-path", "allow-credentials", "worker-cls", "worker-extension-cls"),
    *("scheduler-cls", "kv-transfer-config", "log-config-file", "config", "compilation-config", "hf-overrides"),
    *("otlp-traces-endpoint", "distributed-executor-backend", "download-dir", "model", "port", "root-path"),
    *("data-parallel-address", "master-addr", "ec-transfer-config", "profiler-config", "additional-config"),
    *("enable-ssl-refresh", "trust-request-chat-template", "served-model-name", "headless", "nnodes"),
)


_HARMLESS_ARGUMENTS = frozenset(["generation-config", "override-generation-config", "reasoning-parser"])
_SHORT_ARGUMENTS = re.compile(r"-O\d|-(tp|pp|dp|ep|q)(=[\w.]+)?|-[\d.]+(e-?\d+)?")
_LLAMACPP_PARTS = _PARTS_OF_ARGUMENTS | {"alias", "cmd", "log", "logits", "out", "port", "prefix", "public", "save"}
_MODELS = frozenset(["model", "models", "lora", "vocoder", "mmproj", "draft", "repo", "hf", "docker"])


def is_secret(variable: str) -> bool:
    """Return whether a variable of this name holds a key or a password."""
    return bool(_SECRET.search(variable))


def loads_code(variable: str) -> bool:
    """Return whether a variable of this name makes a process load code."""
    return bool(_CODE.match(variable))


def is_key(argument: str) -> bool:
    """Return whether an argument gives the server a key, in any form of a command line."""
    name = re.split(r"[=\s]", argument, maxsplit=1)[0].strip("-").lower().replace("_", "-")
    return name.startswith("api-k")


def risky_variables(environment: Mapping[str, object]) -> list[str]:
    """Return the variables that a file must not set, in their order."""
    return [name for name in map(str, environment) if not _is_plain_variable(name)]


def risky_arguments(arguments: Iterable[object], engine: str = "vllm") -> list[str]:
    """Return the names of the arguments that a file must not give, in their order, as `allowed` takes them."""
    named = _of_llamacpp if engine == "llamacpp" else _of_vllm
    return [name for argument in arguments if (name := named(str(argument)))]


def _is_plain_variable(name: str) -> bool:
    if name in _VARIABLES:
        return True
    return name.startswith(_PREFIXES) and name.isascii() and _PARTS.isdisjoint(name.split("_"))


def _of_vllm(argument: str) -> str | None:
    """Return the flag without its value; None for values and for flags that only tune the engine."""
    if not argument.startswith("-"):
        return None
    flag = re.split(r"[=\s]", argument, maxsplit=1)[0]
    if not argument.startswith("--"):
        return None if _SHORT_ARGUMENTS.fullmatch(argument) else flag
    name = flag.strip("-").lower().replace("_", "-").partition(".")[0]
    name = name.removeprefix("no-")
    if name in _HARMLESS_ARGUMENTS:
        return None
    is_beginning = any(argument_known.startswith(name) for argument_known in _ARGUMENTS)
    return flag if is_beginning or not _PARTS_OF_ARGUMENTS.isdisjoint(name.split("-")) else None


def _of_llamacpp(argument: str) -> str | None:
    """Return the parameter without its value; our own program only takes NAME=VALUE, and its flags are ours."""
    name = argument.partition("=")[0].strip()
    if argument.startswith("-"):
        return name
    parts = set(re.split(r"[^a-z0-9]+", name.lower()))
    return name if parts & (_LLAMACPP_PARTS | _MODELS) else None


def named_by_flag(engine: Mapping[str, Any], setting: str, value: Any) -> list[str]:
    """Return what a flag that sets this setting of an engine allows: everything that its value names."""
    if setting == "environment" and isinstance(value, dict):
        return risky_variables(value)
    if setting == "extra_arguments" and isinstance(value, list):
        return risky_arguments(value, str(engine.get("name")))
    return []
