"""Real vLLM and real llama.cpp serve a random embedding model and a random reranker, as the local folder has them."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Cli, is_alive, launch
from tests.llms.test_real_servers import descendants, python_with

BERT_TO_GGUF = Path(__file__).with_name("bert_to_gguf.py")
POSITIONS, TOLERANCE = 256, 1e-3
WIDTH = 64  # of two heads: vLLM's attention on the CPU has none of under 32
QUERIES = ["咖啡怎么冲", "what is a cat?", "多肉换盆", "辞职"]
TEXTS = ["手冲咖啡的水温在九十二度左右。", "a cat sat", "多肉夏天要少浇水。" * 8, "x"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder, whose files don't say how it pools, and a cross-encoder."""
    pytest.importorskip("sentence_transformers", reason="needs qilin-rag[neural]")
    from safetensors.torch import load_file, save_file

    from tests.rankers.tiny_bert import write_tiny_bert
    from tests.rankers.tiny_rerankers import write_cross_encoder

    folder = tmp_path_factory.mktemp("models")
    write_tiny_bert(folder / "encoder", [*QUERIES, *TEXTS], WIDTH, positions=POSITIONS)
    write_cross_encoder(folder / "reranker", [*QUERIES, *TEXTS], positions=POSITIONS)
    weights = folder / "reranker/model.safetensors"
    tensors = load_file(weights)
    types = tensors["bert.embeddings.token_type_embeddings.weight"]
    types[1] = types[0]  # llama.cpp gives every token the first type, as rerankers made from XLM-R have it
    save_file(tensors, weights, {"format": "pt"})
    return folder


@contextmanager
def served(model: str, *options: object) -> Iterator[tuple[str, list[str]]]:
    """The address that `serve` prints, and the command that it says to type next; nothing is left of the server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = launch("serve", model, "--port", port, "--log", "server.log", *options)
    assert process.stdout is not None and process.stderr is not None
    address = process.stdout.readline().strip()
    assert address.startswith(f"http://127.0.0.1:{port}/v1"), process.communicate()[1]
    lines: list[str] = []
    while not (lines and lines[-1].startswith("ready")):
        lines.append(process.stderr.readline())
    started = descendants(process.pid)
    try:
        yield address, shlex.split(lines[-1].partition("terminal: ")[2])[1:]
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.splitlines()[-1]) == (130, "interrupted; the server is stopped")
    assert not list(filter(is_alive, started))


def check_vectors(folder: Path, address: str, name: str) -> None:
    """The server's vectors of all texts are those of the folder."""
    from qilin_rag.retrievers.dense.retriever import BiEncoder

    local = BiEncoder(model=str(folder), precision="fp32", device="cpu", pooling="mean")
    there = BiEncoder(model=name, base_url=address)
    texts = [*QUERIES, *TEXTS]
    ours, theirs = (each.embed_queries(texts) for each in (local, there))
    assert theirs.shape == (len(texts), WIDTH)
    assert np.abs(ours - theirs).max() < TOLERANCE
    assert np.abs(ours[0] - ours[1]).max() > 10 * TOLERANCE


def check_run(data_dir: Path, cli: Cli, command: Sequence[str]) -> None:
    """The command that `serve` printed runs as it is, on any data."""
    done = cli(*command, "--data", data_dir, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["counts"]["ok"] == 3


def scores(address: str, query: str) -> list[float]:
    """The score of each text, as the server says it."""
    body = json.dumps({"model": "reranker", "query": query, "documents": TEXTS}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        results: list[dict[str, Any]] = json.load(response)["results"]
    return [result["relevance_score"] for result in sorted(results, key=lambda result: int(result["index"]))]


def as_gguf(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    python = python_with("QILIN_RAG_LLAMACPP_PYTHON", ".llamacpp", "xllamacpp", "gguf")
    monkeypatch.setenv("QILIN_RAG_LLAMACPP_PYTHON", python)
    subprocess.run([python, BERT_TO_GGUF, folder, f"{folder}.gguf"], check=True, capture_output=True)
    return f"gguf:{folder}.gguf"


@pytest.mark.slow
def test_llamacpp_gives_the_vectors_of_the_folder(
    models: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path, cli: Cli
) -> None:
    pytest.importorskip("faiss", reason="needs qilin-rag[neural]")
    with served(f"embed:{as_gguf(models / 'encoder', monkeypatch)}") as (address, command):
        check_vectors(models / "encoder", address, "encoder")
        check_run(data_dir, cli, command)


@pytest.mark.slow
def test_llamacpp_gives_the_scores_of_the_folder(
    models: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path, cli: Cli
) -> None:
    from sentence_transformers import CrossEncoder
    from torch.nn import Identity

    local = CrossEncoder(str(models / "reranker"), device="cpu")
    with served(f"rerank:{as_gguf(models / 'reranker', monkeypatch)}") as (address, command):
        for query in QUERIES:
            pairs = [(query, text) for text in TEXTS]
            expected = local.predict(pairs, activation_fn=Identity())  # llama.cpp gives logits
            assert np.ptp(expected) > 10 * TOLERANCE
            assert np.allclose(scores(address, query), expected, atol=TOLERANCE, rtol=TOLERANCE)
        check_run(data_dir, cli, command)


@pytest.mark.vllm
def test_vllm_gives_the_vectors_of_the_folder(
    models: Path, monkeypatch: pytest.MonkeyPatch, data_dir: Path, cli: Cli
) -> None:
    pytest.importorskip("faiss", reason="needs qilin-rag[neural]")
    monkeypatch.setenv("QILIN_RAG_VLLM_PYTHON", python_with("QILIN_RAG_VLLM_PYTHON", ".vllm", "vllm", "transformers"))
    settings = ["dtype=float32", "environment.VLLM_CPU_KVCACHE_SPACE=1", "extra_arguments=[--enforce-eager]"]
    options = [f"--set=llm.engine.{setting}" for setting in settings]
    with served(f"embed:{models / 'encoder'}", *options) as (address, command):
        check_vectors(models / "encoder", address, "encoder")
        check_run(data_dir, cli, command)
