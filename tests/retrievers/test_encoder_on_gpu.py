"""What an encoder does on GPUs, which are made up here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.data import load_dataset
from qilin_rag.models.sentence_encoder import has_native_bf16
from qilin_rag.retrievers.dense.retriever import BiEncoder

torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
SentenceTransformer = pytest.importorskip(
    "sentence_transformers", reason="needs sentence-transformers"
).SentenceTransformer


@pytest.mark.parametrize("current", [0, 1])
def test_bf16_is_asked_of_the_gpu_that_encodes(monkeypatch: pytest.MonkeyPatch, current: int) -> None:
    """Of an A100 and a T4, which only emulates it."""
    generations = [8, 7]
    index = torch.cuda._utils._get_device_index

    def properties(device: object = None) -> SimpleNamespace:
        return SimpleNamespace(major=generations[current if device is None else index(device, optional=True)])

    for name, value in {"is_available": True, "device_count": 2, "current_device": current}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.version, "hip", None)
    assert has_native_bf16(torch.device("cuda:0"))
    assert not has_native_bf16(torch.device("cuda:1"))


def test_a_gpu_whose_memory_is_not_enough_costs_no_shard(
    data_dir: Path, made_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what to set; that setting goes on with what is there."""
    notes = load_dataset(str(data_dir)).notes
    monkeypatch.setattr("qilin_rag.retrievers.dense.shards.SHARD_NOTES", 2)
    retriever = BiEncoder(model=str(made_model))
    forward, n_calls = SentenceTransformer.forward, 0

    def is_full(*inputs: Any, **more: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity")
        return forward(*inputs, **more)

    monkeypatch.setattr("qilin_rag.retrievers.dense.retriever.has_native_bf16", lambda device: False)
    expected = r"memory is full \(CUDA out of memory. Tried to allocate 2.00 GiB\); model .* is 1024, set a lower one"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UsageError, match=expected):
        patch.setattr(SentenceTransformer, "forward", is_full)
        retriever.write_index(notes, tmp_path / "index")
    assert [path.name for path in (tmp_path / ".index-building").glob("*.npy")] == ["vectors-00000.npy"]

    BiEncoder(model=str(made_model), batch_size=1).write_index(notes, tmp_path / "index")
    BiEncoder(model=str(made_model)).write_index(notes, tmp_path / "whole")
    goes_on, whole = (np.load(tmp_path / name / "vectors.npy", allow_pickle=False) for name in ("index", "whole"))
    np.testing.assert_allclose(goes_on, whole, atol=1e-3)


def test_all_devices_are_the_gpus_or_none(
    data_dir: Path, made_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    retriever = BiEncoder(model=str(made_model), device="all", precision="fp32")
    encoded_on: list[Any] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        "qilin_rag.retrievers.dense.retriever.write_vectors",
        lambda notes, folder, make_encoder, devices, on_ray: encoded_on.extend(devices),
    )
    retriever.write_files(load_dataset(str(data_dir)).notes, tmp_path)
    assert encoded_on == ["cuda:0", "cuda:1"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match="device all: torch sees no GPU here"):
        retriever.embed_queries(["冷萃"])
