"""Two processes, each with half of the batch, learn what one learns with all of it: every kind of ranker.

Defect 9: gradients that stay on the query's device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
pytest.importorskip("datasets", reason="needs datasets: pip install 'qilin-rag[rankers]'")
pytest.importorskip("peft", reason="needs peft: pip install 'qilin-rag[rankers]'")
pytest.importorskip("PIL.Image", reason="needs pillow: pip install 'qilin-rag[rankers]'")
pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")

from qilin_rag.data import load_dataset
from qilin_rag.data.catalogue import Catalogue, open_catalogue
from qilin_rag.data.requests import read_requests
from qilin_rag.data.source import open_source
from qilin_rag.rankers.biencoder import BiEncoder
from qilin_rag.rankers.crossencoder import CrossEncoder
from qilin_rag.rankers.training import train_ranker
from tests.rankers import dcn, test_biencoder, test_crossencoder, test_vlm
from tests.rankers.conftest import MakeWorld
from tests.rankers.made import made_requests
from tests.rankers.random_vlm import write_tiny_vlm
from tests.rankers.small_bert import write_bert
from tests.rankers.small_corpus import CHARACTERS, small_catalogue, write_small_corpus
from tests.rankers.test_training import log_of
from tests.rankers.tiny_bert import write_tiny_bert
from tests.rankers.two_processes import Training, on_two_processes

pytestmark = pytest.mark.slow

COUNTS = {"notes": 300, "searches": 20, "recommendations": 300, "dqa": 5, "users": 30}


def biencoder(out: Path, n_processes: int, data: str, model: str, **settings: Any) -> None:
    chosen = {"max_steps": 8, "evaluate_every": 4, "n_negatives": 2, "batch_size": 24 // n_processes}
    ranker = BiEncoder(model=model, **test_biencoder.SETTINGS | chosen | settings)
    train_ranker(ranker, made_requests(), made_requests(20, seed=5), small_catalogue(Path(data)), out)


def crossencoder(out: Path, n_processes: int, model: str) -> None:
    catalogue = Catalogue(load_dataset("sample").notes)
    chosen = {"batch_size": 16 // n_processes, "max_steps": 8, "log_every": 1, "evaluate_every": 4}
    ranker = CrossEncoder(model=model, **test_crossencoder.SETTINGS | chosen)
    requests = test_crossencoder.requests_on(catalogue), test_crossencoder.requests_on(catalogue, 20, 5)
    train_ranker(ranker, *requests, catalogue, out)


def dcn_v2(out: Path, n_processes: int, world: str) -> None:
    source = open_source(world)
    train, validation = (read_requests(source, "recommendation", split, 0.1) for split in ("train", "validation"))
    ranker = dcn.small(dropout=0.0, batch_size=256 // n_processes, max_steps=8, log_every=1, evaluate_every=4)
    train_ranker(ranker, train, validation, open_catalogue(source), out)


def vlm(out: Path, n_processes: int, model: str, notes: str) -> None:
    ranker = test_vlm.small(Path(model), batch_size=8 // n_processes, max_steps=5, evaluate_every=5)
    catalogue = open_catalogue(open_source(notes))
    train_ranker(ranker, made_requests(16), made_requests(4, seed=1), catalogue, out)


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory, make_world: MakeWorld) -> dict[str, Training]:
    folder = tmp_path_factory.mktemp("given")
    of_biencoder = {
        "data": str(write_small_corpus(folder / "small")),
        "model": str(write_tiny_bert(folder / "tiny", [CHARACTERS, "好坏q0123456789"])),
    }
    texts = [note.text for note in load_dataset("sample").notes]
    covers = test_vlm.write_notes(folder / "covers")
    return {
        "biencoder by dot product": Training(biencoder, {**of_biencoder, "similarity": "dot", "scale": 0.2}),
        "biencoder by cosine": Training(biencoder, {**of_biencoder, "similarity": "cosine", "scale": 20.0}),
        "crossencoder": Training(crossencoder, {"model": str(write_bert(folder / "bert", texts, dropout=0.0))}),
        "dcn-v2": Training(dcn_v2, {"world": str(make_world(COUNTS).folder)}),
        "vlm": Training(vlm, {"model": str(write_tiny_vlm(folder / "vlm")), "notes": str(covers)}),
    }


@pytest.fixture(scope="module")
def by_two(trainings: dict[str, Training], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two processes trained; they are started once."""
    out = tmp_path_factory.mktemp("two")
    on_two_processes(trainings, out)
    return out


@pytest.mark.parametrize("name", ["biencoder by dot product", "biencoder by cosine", "crossencoder", "dcn-v2", "vlm"])
def test_two_processes_learn_as_one_with_the_doubled_batch(
    trainings: dict[str, Training], by_two: Path, tmp_path: Path, name: str
) -> None:
    """Losses are compared to 1e-4, norms of the gradients and MRR to a thousandth."""
    train, given = trainings[name]
    train(tmp_path / "one", 1, **given)
    one, two = log_of(tmp_path / "one"), log_of(by_two / name)
    assert [line.keys() for line in one] == [line.keys() for line in two]
    assert any("loss" in line for line in one) and any("mrr@10" in line for line in one)
    for line, other in zip(one, two, strict=True):
        assert other.get("loss", 0) == pytest.approx(line.get("loss", 0), abs=1e-4, rel=0)
        assert other == pytest.approx(line, abs=1e-4, rel=1e-3)
