"""The notes' vectors on disk: the same bytes whoever encoded them, and however often they were stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.retrievers.dense import shards as dense_shards
from qilin_rag.retrievers.dense.retriever import BiEncoder
from qilin_rag.retrievers.resumable import kept_part
from tests.conftest import QUESTIONS, Cli, end_at_once, hear_signals, write_jsonl
from tests.retrievers.test_biencoder import encode, unit

# A build of small shards; where it shall be killed, it sleeps after some of them.
BUILD = """
import sys, time
from pathlib import Path
from qilin_rag.data import load_dataset
from qilin_rag.retrievers.dense import shards as dense_shards
from qilin_rag.retrievers.dense.retriever import BiEncoder
model, data, out, n_before, settings = sys.argv[1:]
dense_shards.SHARD_NOTES = 8
keep = dense_shards.kept_part
def keep_and_stop(folder, name, write):
    if not (kept := [path for path in folder.glob("vectors-*.npy.sha256")]) or len(kept) < int(n_before):
        return keep(folder, name, write)
    print("stopped", flush=True)
    time.sleep(600)
dense_shards.kept_part = keep_and_stop
import json
if __name__ == "__main__":
    BiEncoder(model=model, **json.loads(settings)).write_index(load_dataset(data).notes, Path(out))
"""


def write_many(folder: Path) -> Dataset:
    """Fifty notes of unlike lengths, some of them the same."""
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("冷萃咖啡怎么做多肉养"), 1 + i % 13)) for i in range(40)]
    rows = [{"note_idx": 7 * i, "title": "", "content": text} for i, text in enumerate(texts + texts[:10])]
    write_jsonl(folder / "notes.jsonl", rows)
    write_jsonl(folder / "dqa.jsonl", QUESTIONS)
    return load_dataset(str(folder))


@pytest.fixture
def many(data_dir: Path) -> Dataset:
    return write_many(data_dir)


@pytest.fixture(scope="module")
def in_one_go(made_model: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The vectors of these notes as one build in this process writes them, by shards of eight notes."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense_shards, "SHARD_NOTES", 8)
        BiEncoder(model=str(made_model), precision="fp32").write_index(write_many(folder).notes, folder / "index")
    return vectors_of(folder / "index")


def build(model: Path, data: Path, out: Path, n_before: int = 999, **settings: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", BUILD, *map(str, (model, data, out, n_before, json.dumps(settings)))]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_signals)


def finish(child: subprocess.Popen[str]) -> None:
    _, err = child.communicate(timeout=300)
    assert child.returncode == 0, err


def vectors_of(index: Path) -> bytes:
    assert sorted(path.name for path in index.iterdir()) == ["qilin_rag.json", "vectors.npy"]
    return (index / "vectors.npy").read_bytes()


def test_vectors_are_those_of_one_text_at_a_time(
    many: Dataset,
    made_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qilin_rag.retrievers.dense.shards.SHARD_NOTES", 8)
    BiEncoder(model=str(made_model)).write_index(many.notes, tmp_path / "index")
    vectors = np.load(tmp_path / "index" / "vectors.npy", allow_pickle=False)
    assert vectors.shape == (50, 16) and vectors.dtype == np.dtype("<f2")
    expected = unit(encode(made_model, [note.text for note in many.notes]))
    np.testing.assert_allclose(vectors, expected, atol=1e-3)


def test_a_build_that_was_killed_goes_on_to_the_same_bytes(
    many: Dataset,
    made_model: Path,
    data_dir: Path,
    tmp_path: Path,
    in_one_go: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped = tmp_path / "stopped"
    child = build(made_model, data_dir, stopped, n_before=3, precision="fp32")
    assert child.stdout is not None
    assert child.stdout.readline() == "stopped\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    [unfinished] = [path for path in tmp_path.iterdir() if path.name == ".stopped-building"]
    kept = {path.name: path.stat().st_mtime_ns for path in unfinished.glob("vectors-*.npy")}
    assert len(kept) == 3
    damaged = unfinished / min(kept)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    monkeypatch.setattr(dense_shards, "SHARD_NOTES", 8)
    BiEncoder(model=str(made_model), precision="fp32").write_index(many.notes, stopped)
    assert vectors_of(stopped) == in_one_go


def test_two_devices_write_the_same_bytes(
    many: Dataset, made_model: Path, tmp_path: Path, in_one_go: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dense_shards, "SHARD_NOTES", 8)
    BiEncoder(model=str(made_model), device="cpu,cpu", precision="fp32").write_index(many.notes, tmp_path / "two")
    assert vectors_of(tmp_path / "two") == in_one_go


def test_a_process_that_ends_is_one_line(many: Dataset, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("qilin_rag.retrievers.dense.shards.SHARD_NOTES", 8)
    with pytest.raises(QilinError, match=r"on one of here, there ended .*the same command resumes"):
        dense_shards.write_vectors(many.notes, tmp_path, end_at_once, ["here", "there"])


def test_the_number_of_cores_changes_no_vector(many: Dataset, made_model: Path) -> None:
    texts = [note.text for note in many.notes]
    made = []
    torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
    n_threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            made.append(BiEncoder(model=str(made_model), batch_size=2).embed_notes(texts))
    finally:
        torch.set_num_threads(n_threads)
    assert made[0].tobytes() == made[1].tobytes() == made[2].tobytes()


def test_a_device_that_is_not_there_is_one_line_and_costs_no_shard(
    many: Dataset, made_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qilin_rag.retrievers.dense.shards.SHARD_NOTES", 8)

    def kept(folder: Path, name: str, write: Any) -> None:
        if name == "vectors.npy":  # the shards joined
            raise KeyboardInterrupt
        kept_part(folder, name, write)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dense_shards, "kept_part", kept)
        BiEncoder(model=str(made_model)).write_index(many.notes, tmp_path / "index")
    shards = sorted((tmp_path / ".index-building").glob("vectors-*.npy"))
    for path in shards[3:]:
        path.unlink()
    for device in ("cpu,cuda:99", "cuda:99"):
        with pytest.raises(UsageError, match="can't be loaded"):
            BiEncoder(model=str(made_model), device=device).write_index(many.notes, tmp_path / "index")
        assert all(path.is_file() for path in shards[:3])


@pytest.mark.slow
def test_ray_writes_the_same_bytes(
    many: Dataset,
    made_model: Path,
    data_dir: Path,
    tmp_path: Path,
    in_one_go: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cluster of this machine alone, with a worker a CPU."""
    pytest.importorskip("ray", reason="needs ray (make test-all installs it)")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # beside other work they would wait for minutes
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    finish(build(made_model, data_dir, tmp_path / "there", engine="ray", precision="fp32"))
    assert vectors_of(tmp_path / "there") == in_one_go


def test_a_cluster_that_is_not_there_is_one_line(
    many: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="needs ray (make test-all installs it)")

    def fails(**_: object) -> None:  # as it does, after a minute
        raise ConnectionError("ray is not there")

    monkeypatch.setattr(ray, "init", fails)
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(UsageError, match="no cluster at RAY_ADDRESS=auto: ray is not there"):
        dense_shards.write_vectors(many.notes, tmp_path, lambda device: pytest.fail("loaded"), [None], on_ray=True)


def test_a_cluster_gives_its_workers_their_devices(made_model: Path) -> None:
    with pytest.raises(ValidationError, match="device is a setting of engine local"):
        BiEncoder(model=str(made_model), device="cuda:0", engine="ray")


def test_without_ray_its_engine_is_refused(
    many: Dataset,
    made_model: Path,
    data_dir: Path,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qilin_rag.core.extras.find_spec", lambda name: None if name == "ray" else object())
    setting = f"retriever.model={made_model}"
    done = cli("index", "biencoder", "--data", data_dir, "--set", setting, "--engine", "ray", "--out", tmp_path / "x")
    assert done.code == 2
    assert "engine ray needs ray, not installed here: pip install 'qilin-rag[ray]'" in done.err
    assert cli("index", "bm25", "--data", data_dir, "--engine", "ray", "--out", tmp_path / "x").code == 2


def test_vectors_that_do_not_fit_are_refused(many: Dataset, made_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = np.full((50, 16), 1e6, np.float32)
    monkeypatch.setattr("qilin_rag.retrievers.dense.retriever.encode", lambda _, texts, *__, **___: huge[: len(texts)])
    with pytest.raises(UsageError, match="don't fit 16-bit floats; set normalize: true"):
        BiEncoder(model=str(made_model), normalize=False).search(many.questions, many.notes, 5)


def test_bf16_is_taken_where_it_is_close_to_fp32(
    many: Dataset,
    made_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """bf16 works on any CPU, natively or not."""
    monkeypatch.setattr("qilin_rag.retrievers.dense.retriever.has_native_bf16", lambda device: True)

    def vectors(name: str, **settings: Any) -> Any:
        BiEncoder(model=str(made_model), **settings).write_index(many.notes, tmp_path / name)
        return np.load(tmp_path / name / "vectors.npy", allow_pickle=False).astype(np.float32)

    monkeypatch.setattr("qilin_rag.retrievers.dense.precision.LEAST_COSINE", 0.9)
    full, half, auto = vectors("full", precision="fp32"), vectors("half", precision="bf16"), vectors("auto")
    assert (half != full).any() and (half == auto).all()
    assert (full * half).sum(axis=1).min() > 0.9
    monkeypatch.setattr("qilin_rag.retrievers.dense.precision.LEAST_COSINE", 1.1)
    assert (vectors("far") == full).all()
    with pytest.raises(UsageError, match=r"other vectors than fp32 .*leave the setting precision out"):
        vectors("refused", precision="bf16")
