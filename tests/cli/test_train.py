"""`train`, and `rank` with what it wrote, as typed: interrupted and gone on with, on two processes, on both tasks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.synth import resolve_world, synthesize
from tests.conftest import Cli

pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
pytest.importorskip("torch", reason="needs torch (make test-all installs it)")

TOY = "tests.rankers.made:Toy"
SETTINGS = ["--set", "ranker.n_notes=300", "--set", "ranker.epochs=3", "--set", "ranker.learning_rate=0.02"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "qilin"
    synthesize(resolve_world({"notes": 300, "searches": 900, "recommendations": 300, "dqa": 30, "users": 30}, 1), out)
    return out


def test_train_then_rank(cli: Cli, world: Path) -> None:
    done = cli("train", TOY, "--data", world, "--out", "toy", *SETTINGS, "--set", "ranker.validation_share=0.1")
    assert done.code == 0, done.err
    assert done.out.startswith("MRR@10 on validation 0.") and done.out.endswith("\ntoy\n")
    again = cli(
        "train", TOY, "--data", world, "--out", "toy", *SETTINGS, "--set", "ranker.validation_share=0.1", "--json"
    )
    assert again.err == "" and json.loads(again.out)["out"] == "toy"
    other = cli("train", TOY, "--data", world, "--out", "toy", *SETTINGS)
    assert (other.code, "holds another training (other validation_share, train, validation)" in other.err) == (2, True)
    assert "so it must be named (--ranker)" in cli("rank", "--checkpoint", "toy", "--data", world).err
    ranked = cli("rank", "--checkpoint", "toy", "--ranker", TOY, "--data", world, "--json")
    assert ranked.code == 0, ranked.err
    of = {name: figure["value"] for name, figure in json.loads(ranked.out)["metrics"].items()}
    chance = json.loads(cli("rank", "--ranker", "random", "--data", world, "--json").out)["metrics"]
    assert of["mrr@10"] > chance["mrr@10"]["value"]  # popular notes are clicked more, whatever was asked
    Path("toy").rename("moved")
    shown = cli("rank", "--checkpoint", "moved", "--ranker", TOY, "--data", world)
    assert f"{json.loads(ranked.out)['run']} exists already" in shown.err
    assert "may have seen the test clicks" not in shown.out and "trained: toy" in shown.out  # it reads no counts


def test_training_that_is_interrupted_goes_on(cli: Cli, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn import functional

    command = ["train", TOY, "--data", world, "--out", "halted", *SETTINGS, "--task", "search,recommendation"]
    real, left = functional.binary_cross_entropy_with_logits, [60]

    def stop_after_some(*arguments: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(functional, "binary_cross_entropy_with_logits", stop_after_some)
    done = cli(*command)
    assert (done.code, "the checkpoints in halted are kept; the same command resumes" in done.err) == (130, True)
    assert list(Path("halted/checkpoints").iterdir())
    left[0] = 10**9
    done = cli(*command, "--json")
    assert json.loads(done.out)["n_steps"] > 60
    assert {path.name for path in Path("halted").iterdir()} == {"ranker.json", "model", "log.jsonl"}


@pytest.mark.slow
def test_on_two_processes(world: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    train = ["-m", "qilin_rag", "train", TOY, "--data", world, "--out", tmp_path / "out", "--set", "ranker.device=cpu"]
    settings = [*SETTINGS, "--set", "ranker.max_steps=20"]
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [*map(str, [*torchrun, *train, *settings])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("MRR@10 on validation") == 1
