"""Serves a GGUF file through xllamacpp's OpenAI-compatible server: PYTHON llamacpp.py --model FILE --port N ...

It is run by the Python that has xllamacpp, which need not have this package. More `NAME=VALUE` arguments set
llama.cpp's own parameters by their names in xllamacpp, for example `flash_attn=true` or `n_batch=512`.
"""

from __future__ import annotations

import argparse
import json
import threading


def main() -> None:
    """Serve until a signal ends the process."""
    parser = argparse.ArgumentParser()
    for flag in ("--model", "--name"):
        parser.add_argument(flag, required=True)
    for flag in ("--port", "--context-length"):
        parser.add_argument(flag, type=int, required=True)
    parser.add_argument("--mmproj")
    parser.add_argument("--task", choices=("embed", "rerank"))
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--gpu-layers", type=int, default=-1)
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE")
    arguments = parser.parse_args()

    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    if arguments.mmproj:
        params.mmproj.path = arguments.mmproj
    params.model_alias = {arguments.name}
    params.hostnames = ["127.0.0.1"]
    params.port = arguments.port
    params.n_ctx = arguments.context_length * arguments.parallel  # llama.cpp divides it among the slots
    params.n_parallel = arguments.parallel
    params.n_gpu_layers = arguments.gpu_layers
    params.sampling.seed = 0
    if arguments.threads:
        params.cpuparams.n_threads = arguments.threads
    if arguments.task:
        params.embedding = True
        params.n_batch = params.n_ubatch = arguments.context_length  # a text that is embedded is read in one batch
    if arguments.task == "rerank":
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_RANK
    for parameter in arguments.parameters:
        name, equals, value = parameter.partition("=")
        if not equals or not hasattr(params, name):
            parser.error(f"{parameter!r}: expected NAME=VALUE with a parameter of xllamacpp.CommonParams")
        setattr(params, name, type(getattr(params, name))(json.loads(value)))
    server = xllamacpp.Server(params)
    print(f"serving {arguments.name} at {server.listening_address}", flush=True)  # noqa: T201
    threading.Event().wait()


if __name__ == "__main__":
    main()
