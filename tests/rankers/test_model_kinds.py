"""Training starts from models of many kinds: with routes, static, with positions that begin after the padding row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.data.catalogue import Catalogue
from tests.rankers.made import made_requests
from tests.rankers.small_corpus import small_catalogue, write_small_corpus

pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
pytest.importorskip("datasets", reason="needs datasets: pip install 'qilin-rag[rankers]'")
torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")

from qilin_rag.rankers.biencoder import BiEncoder  # noqa: E402
from qilin_rag.rankers.crossencoder import CrossEncoder  # noqa: E402
from qilin_rag.rankers.passages import note_texts  # noqa: E402
from qilin_rag.rankers.text_vectors import open_encoder  # noqa: E402
from qilin_rag.rankers.trained import load_ranker  # noqa: E402
from qilin_rag.rankers.training import train_ranker  # noqa: E402
from qilin_rag.retrievers.dense import retriever as retriever_biencoder  # noqa: E402
from tests.retrievers.tiny_models import routed, save, static, transformer, write_kind  # noqa: E402

FEW_STEPS: dict[str, Any] = {
    **{"device": "cpu", "optimizer": "adamw", "learning_rate": 0.01, "max_steps": 2, "evaluate_every": 2},
    **{"batch_size": 8, "n_negatives": 2},
}


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return small_catalogue(write_small_corpus(tmp_path_factory.mktemp("data") / "small"))


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kind(tmp_path_factory.mktemp("kinds") / "roberta", "roberta", max_position_embeddings=34)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {str(path.relative_to(folder)): load_file(path) for path in folder.rglob("model.safetensors")}


@pytest.mark.parametrize("kind", ["routes", "static", "roberta"])
def test_a_bi_encoder_of_any_kind_is_trained_and_serves(
    catalogue: Catalogue, roberta: Path, tmp_path: Path, kind: str
) -> None:
    """Queries and notes by their own routes; both learn; the retriever gives the ranker's scores."""
    made = {
        "routes": lambda folder: save(folder, [routed([static()], transformer(roberta))]),
        "static": lambda folder: save(folder, [static()]),
        "roberta": lambda folder: roberta,
    }
    model = made[kind](tmp_path / "model")
    requests = made_requests(30)
    requests = replace(requests, queries=["咖啡" * 100, *requests.queries[1:]])
    ranker = BiEncoder(model=str(model), max_length=32, query_prefix="", passage_prefix="", **FEW_STEPS)
    train_ranker(ranker, requests, made_requests(10, seed=5), catalogue, tmp_path / "out")
    before, after = weights(model), weights(tmp_path / "out" / "model")
    if kind != "roberta":
        assert before.keys() == after.keys()
        for name, tensors in before.items():
            assert any(not torch.equal(values, after[name][key]) for key, values in tensors.items()), name
    scores = load_ranker(tmp_path / "out", device="cpu").score(requests, catalogue)
    server = retriever_biencoder.BiEncoder(model=str(tmp_path / "out"), device="cpu")
    queries = server.embed_queries(requests.queries)
    notes = server.embed_notes(note_texts(catalogue, requests.note_idx))
    assert scores == pytest.approx((queries[requests.request] * notes).sum(axis=1), rel=1e-4, abs=1e-4)
    texts = open_encoder(str(tmp_path / "out"), "cpu")
    assert np.linalg.norm(texts.embed_queries(["咖啡"]), axis=1) == pytest.approx(1, abs=1e-5)


def test_a_cross_encoder_reads_no_further_than_its_positions(
    catalogue: Catalogue, roberta: Path, tmp_path: Path
) -> None:
    requests = made_requests(30)
    ranker = CrossEncoder(model=str(roberta), max_length=32, **FEW_STEPS)
    train_ranker(ranker, requests, made_requests(10, seed=5), catalogue, tmp_path / "out")
    long = replace(requests, queries=["咖啡" * 100 for _ in requests.queries])
    assert np.isfinite(load_ranker(tmp_path / "out", device="cpu").score(long, catalogue)).all()
    for pooling in ("cls", "mean"):
        with pytest.raises(UsageError, match=r"max_length 33: model .* reads 32 tokens at most"):
            CrossEncoder(model=str(roberta), max_length=33, pooling=pooling, **FEW_STEPS).recipe(requests, catalogue)
    with pytest.raises(UsageError, match=r"max_length 33: model .* reads 32 tokens at most"):
        BiEncoder(model=str(roberta), max_length=33, **FEW_STEPS).recipe(requests, catalogue)
