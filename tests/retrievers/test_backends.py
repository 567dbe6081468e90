"""Encoding notes by ONNX Runtime and OpenVINO: torch's vectors in fp32, int8 only if it is close, and kept exports."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.arrays import save_array
from qilin_rag.core.cache import entries
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.retrievers.dense import backends
from qilin_rag.retrievers.dense.retriever import BiEncoder
from tests.conftest import QUESTIONS, Cli, write_jsonl

pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
pytest.importorskip("faiss", reason="needs faiss-cpu")
pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
from tests.retrievers.tiny_models import save, static

NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino", "nncf"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    text = "冷萃咖啡怎么做多肉养手冲水温粗研磨粉克毫升藏小时后过滤度比闷蒸秒夏六月起遮阴"
    notes = [{"note_idx": i, "title": text[i % 30 :][:5], "content": f"{text[: 3 + i % 30]}{i}"} for i in range(70)]
    write_jsonl(folder / "notes.jsonl", notes)
    write_jsonl(folder / "dqa.jsonl", [QUESTIONS[2]])
    return folder


@pytest.fixture
def small(data: Path) -> Dataset:
    return load_dataset(str(data))


@pytest.fixture(params=list(NEEDS))
def backend(request: pytest.FixtureRequest) -> str:
    for module in NEEDS[request.param]:
        pytest.importorskip(module, reason=f"needs {module}: pip install 'qilin-rag[{request.param}]'")
    return str(request.param)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def one_cache(own_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Share a cache among the tests here, so that the tiny model is exported once."""
    monkeypatch.setenv("QILIN_RAG_CACHE", str(cache))


def write(model: Path, notes: Any, folder: Path, **settings: Any) -> Any:
    retriever = BiEncoder(model=str(model), **settings)
    retriever.write_index(notes, folder)
    return np.load(folder / "vectors.npy").astype(np.float32)


def cosines(vectors: Any, others: Any) -> Any:
    return (vectors * others).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(others, axis=1)


def test_vectors_in_fp32_are_those_of_torch(backend: str, small: Dataset, made_model: Path, tmp_path: Path) -> None:
    torch_vectors = write(made_model, small.notes, tmp_path / "torch", precision="fp32")
    vectors = write(made_model, small.notes, tmp_path / backend, precision="fp32", backend=backend)
    assert vectors == pytest.approx(torch_vectors, abs=1e-4 + 2**-11)  # kept in 16 bits
    kept = json.loads((tmp_path / backend / "encoding.json").read_text())
    assert (kept["backend"], kept["precision"], kept["n_texts"]) == (backend, "fp32", 32)
    assert kept["least_cosine"] > 0.99999
    assert not (tmp_path / "torch" / "encoding.json").exists()


def test_int8_is_taken_if_it_is_close(
    backend: str, small: Dataset, made_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The cosine that an index records is that of its vectors with those of torch."""
    full = write(made_model, small.notes, tmp_path / "torch", precision="fp32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backends.LEAST_COSINE, "int8", 0.9)
        vectors = write(made_model, small.notes, tmp_path / "close", backend=backend)
    kept = json.loads((tmp_path / "close" / "encoding.json").read_text())
    assert kept["precision"] == "int8"
    assert (vectors != full).any()
    least = float(cosines(vectors, full)[:32].min())
    assert kept["least_cosine"] == pytest.approx(least, abs=2e-3)  # in 16 bits, and by other batches
    with pytest.MonkeyPatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setitem(backends.LEAST_COSINE, "int8", 1.1)
        plain = write(made_model, small.notes, tmp_path / "far", backend=backend)
        with pytest.raises(UsageError, match=r"int8 makes other vectors than torch .*leave precision out"):
            write(made_model, small.notes, tmp_path / "refused", backend=backend, precision="int8")
    assert "under 1.1; fp32 it is" in caplog.text
    assert plain == pytest.approx(full, abs=1e-3)
    assert json.loads((tmp_path / "far" / "encoding.json").read_text())["precision"] == "fp32"


def test_a_build_that_was_stopped_resumes_to_the_same_bytes(
    backend: str, small: Dataset, made_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backends.LEAST_COSINE, "int8", 0.9)
    monkeypatch.setattr("qilin_rag.retrievers.dense.shards.SHARD_NOTES", 16)
    whole = write(made_model, small.notes, tmp_path / "whole", backend=backend)
    saved = []

    def stop(*arguments: Any, **more: Any) -> None:
        save_array(*arguments, **more)
        saved.append(arguments)
        if len(saved) == 3:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("qilin_rag.retrievers.dense.shards.save_array", stop)
        with pytest.raises(QilinError, match="the same command resumes"):
            write(made_model, small.notes, tmp_path / "stopped", backend=backend)
    monkeypatch.setitem(backends.LEAST_COSINE, "int8", 1.1)  # the build keeps the precision that it began with
    assert (write(made_model, small.notes, tmp_path / "stopped", backend=backend) == whole).all()


@pytest.mark.parametrize("backend", ["onnx"], indirect=True)
def test_an_export_is_made_once_and_a_damaged_one_again(
    backend: str, small: Dataset, made_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    first = write(made_model, small.notes, tmp_path / "first", backend=backend, precision="fp32")
    caplog.clear()
    write(made_model, small.notes, tmp_path / "second", backend=backend, precision="fp32")
    assert "exporting" not in caplog.text
    kept = [entry.path for entry in entries(["exports"]) if entry.path.is_dir()]
    for folder in kept:
        for path in folder.glob("model.*"):
            path.write_bytes(b"damaged" + path.read_bytes()[7:-1])
    again = write(made_model, small.notes, tmp_path / "third", backend=backend, precision="fp32")
    assert "is damaged; making it again" in caplog.text
    assert (again == first).all()


@pytest.mark.parametrize("backend", ["openvino"], indirect=True)
def test_an_export_is_not_that_of_texts_cut_elsewhere(
    backend: str, small: Dataset, made_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's int8 depends on typical texts as the model reads them."""
    monkeypatch.setitem(backends.LEAST_COSINE, "int8", 0.5)
    settings: dict[str, Any] = {"backend": backend, "precision": "int8"}
    monkeypatch.setenv("QILIN_RAG_CACHE", str(tmp_path / "first"))
    alone = write(made_model, small.notes, tmp_path / "alone", max_length=40, **settings)
    monkeypatch.setenv("QILIN_RAG_CACHE", str(tmp_path / "second"))
    write(made_model, small.notes, tmp_path / "short", max_length=4, **settings)
    assert (write(made_model, small.notes, tmp_path / "after", max_length=40, **settings) == alone).all()


@pytest.mark.parametrize("backend", ["onnx"], indirect=True)
def test_a_full_cache_keeps_an_export_while_it_is_read(
    backend: str, small: Dataset, made_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(made_model, small.notes, tmp_path / "first", backend=backend, precision="fp32")
    monkeypatch.setenv("QILIN_RAG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("QILIN_RAG_CACHE_GB", "0")
    again = write(made_model, small.notes, tmp_path / "again", backend=backend, precision="fp32")
    assert (again == first).all()


def test_what_does_not_go_together_is_refused(made_model: Path) -> None:
    for settings, said in (
        ({"backend": "onnx", "device": "cuda"}, "device cuda needs backend torch"),
        ({"backend": "openvino", "engine": "ray"}, "engine ray needs backend torch"),
        ({"backend": "onnx", "precision": "bf16"}, "precision bf16 needs backend torch"),
        ({"backend": "onnx", "note_input": "image"}, "encodes text alone"),
        ({"precision": "int8"}, "precision int8 needs backend onnx or openvino"),
        ({"backend": "onnx", "base_url": "http://127.0.0.1:9/v1"}, "backend is no setting of a server"),
    ):
        with pytest.raises(ValueError, match=said):
            BiEncoder(model=str(made_model), **settings)


def test_the_backend_is_part_of_the_identity_if_it_is_set(made_model: Path) -> None:
    plain = BiEncoder(model=str(made_model)).identity()
    assert "backend" not in plain
    assert BiEncoder(model=str(made_model), backend="onnx").identity() == plain | {"backend": "onnx"}


def test_a_missing_package_is_named_with_its_extra(
    small: Dataset, made_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qilin_rag.core.extras.find_spec", lambda name: None if name == "nncf" else name)
    with pytest.raises(UsageError, match=r"backend openvino needs nncf.*pip install 'qilin-rag\[openvino\]'"):
        BiEncoder(model=str(made_model), backend="openvino").search(small.questions, small.notes, 1)


def test_a_model_that_can_not_be_exported_is_one_line(
    backend: str, small: Dataset, made_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no operator for this\nand a long story")

    monkeypatch.setattr("torch.onnx.export", broken)
    monkeypatch.setenv("QILIN_RAG_CACHE", str(tmp_path / "empty"))
    said = rf"for {backend} can't be exported \(RuntimeError: no operator for this\); set backend to torch"
    with pytest.raises(UsageError, match=said):
        BiEncoder(model=str(made_model), backend=backend).search(small.questions, small.notes, 1)
    looked_up = save(tmp_path / "static", [static()])
    with pytest.raises(UsageError, match="is not one transformer that reads text alone; set backend to torch"):
        BiEncoder(model=str(looked_up), backend=backend).search(small.questions, small.notes, 1)


def test_commands_tell_the_encoder(backend: str, data: Path, made_model: Path, tmp_path: Path, cli: Cli) -> None:
    """`index` and `doctor` show the measured cosine, and hybrid retrieval searches the index."""
    of = [f"--set=retriever.{name}" for name in (f"model={made_model}", f"backend={backend}", "precision=fp32")]
    made = cli("index", "biencoder", "--data", data, "--out", "made", *of)
    assert made.code == 0, made.err
    assert f"{backend} in fp32: cosine with torch in fp32 at least 1.0000 (32 notes)" in made.out
    told = cli("doctor", "--data", data, "--retriever", "biencoder", *of, "--set=retriever.index=made", "--json")
    assert f"{backend} in fp32: cosine with torch in fp32 at least 1.0000" in told.out
    part = f"{{name: biencoder, model: {made_model}, backend: {backend}, precision: fp32, index: made}}"
    done = cli(
        "retrieve", "--data", data, "--retriever", "hybrid", f"--set=retriever.of=[bm25, {part}]", "--out", "r.trec"
    )
    assert done.code == 0, done.err
