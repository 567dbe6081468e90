"""Training by transformers' Trainer: killed and gone on with, the same on two processes, optimizers and schedule."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")

from qilin_rag.core.errors import UsageError  # noqa: E402
from qilin_rag.core.progress import Advance, watched_by  # noqa: E402
from qilin_rag.core.registry import RANKERS  # noqa: E402
from qilin_rag.data import load_dataset  # noqa: E402
from qilin_rag.data.catalogue import Catalogue  # noqa: E402
from qilin_rag.data.requests import Floats, Requests  # noqa: E402
from qilin_rag.models.pretrained import quiet_loading  # noqa: E402
from qilin_rag.rankers import training  # noqa: E402
from qilin_rag.rankers.trained import read_ranker  # noqa: E402
from qilin_rag.rankers.training import LOG, make_optimizer, train_ranker, training_arguments, warm_up  # noqa: E402
from tests.rankers.made import Toy, made_requests  # noqa: E402


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue(load_dataset("sample").notes)


class Killed(BaseException):
    pass


class KillAt:
    """Watches training, and ends it after so many steps."""

    def __init__(self, n_steps: int) -> None:
        self.left, self.done = n_steps, 0

    @contextmanager
    def stage(self, name: str, total: int, done: int) -> Iterator[Advance]:
        is_training = name == "training"
        if is_training:
            self.done = done

        def advance(n: int = 1, failed: bool = False) -> None:
            self.left -= is_training
            if is_training and not self.left:
                raise Killed

        yield advance


def log_of(out: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (out / LOG).read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "epoch"} for line in lines]


def model_of(out: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(out / "model" / "model.safetensors")  # type: ignore[no-any-return]


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_killed_and_resumed_is_as_if_it_had_not_been(catalogue: Catalogue, tmp_path: Path, optimizer: str) -> None:
    ranker = Toy(batch_size=16, epochs=2, optimizer=optimizer, log_every=1, evaluate_every=6, patience=99)
    requests = made_requests(), made_requests(20, seed=5)
    whole = train_ranker(ranker, *requests, catalogue, tmp_path / "whole")
    for n_steps in (3, 10, 9):
        with watched_by(KillAt(n_steps)), pytest.raises(Killed):
            train_ranker(ranker, *requests, catalogue, tmp_path / "killed")
    (tmp_path / "killed" / "checkpoints" / "checkpoint-99").mkdir()  # of a crash while it was written
    watcher = KillAt(999)
    with watched_by(watcher):
        resumed = train_ranker(ranker, *requests, catalogue, tmp_path / "killed")
    assert watcher.done == 12
    assert resumed[1:] == whole[1:]
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    assert [line["step"] for line in log_of(tmp_path / "whole") if "loss" in line] == list(range(1, whole.n_steps + 1))
    for name, values in model_of(tmp_path / "whole").items():
        assert np.array_equal(values, model_of(tmp_path / "killed")[name])
    with watched_by(KillAt(1)):
        assert train_ranker(ranker, *requests, catalogue, tmp_path / "whole") == whole


def test_accumulated_batches_are_as_one(catalogue: Catalogue, tmp_path: Path) -> None:
    """The same losses, gradients and weights, though the model's `forward` takes any argument."""
    requests = made_requests(), made_requests(20, seed=5)
    settings = {"max_steps": 12, "optimizer": "adamw", "log_every": 1, "dropout": 0.0}
    train_ranker(Toy(batch_size=32, **settings), *requests, catalogue, tmp_path / "one")
    train_ranker(Toy(batch_size=8, gradient_accumulation=4, **settings), *requests, catalogue, tmp_path / "four")
    for one, four in zip(log_of(tmp_path / "one"), log_of(tmp_path / "four"), strict=True):
        assert four == pytest.approx(one, rel=1e-4)
    for name, values in model_of(tmp_path / "one").items():
        assert np.allclose(values, model_of(tmp_path / "four")[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("generation", "is_bf16"), [(7, False), (9, True)])
def test_a_process_trains_on_one_gpu_in_bf16_where_it_has_that(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generation: int, is_bf16: bool
) -> None:
    """Of two it sees: the trainer would take both with doubled batches, and twice the epochs in as many steps."""
    for name, value in {"is_available": True, "device_count": 2, "current_device": 0, "set_device": None}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *of, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *of: SimpleNamespace(major=generation))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda *of: True)  # older ones emulate it
    ranker = Toy(batch_size=16, epochs=2)
    with quiet_loading():
        arguments = training_arguments(ranker, ranker.recipe(made_requests(), catalogue), tmp_path)
    assert (str(arguments.device), arguments.n_gpu, arguments.train_batch_size) == ("cuda:0", 1, 16)
    assert arguments.max_steps == 2 * 60 * 8 // 16
    assert arguments.bf16 == is_bf16


def test_the_best_model_is_kept_and_training_stops_early(catalogue: Catalogue, tmp_path: Path) -> None:
    ranker = Toy(batch_size=16, epochs=50, optimizer="adamw", evaluate_every=5, patience=3)
    done = train_ranker(ranker, made_requests(), made_requests(20, seed=5), catalogue, tmp_path / "out")
    assert done.mrr_at_10 == 1
    assert done.n_steps == done.step + 3 * 5
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"ranker.json", "model", LOG}


@pytest.mark.parametrize("settings", [{"max_steps": 13}, {"epochs": 10, "patience": 2}])
def test_killed_while_the_result_is_written(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """Training is over then, by its last step or early: no further one is taken. The folder may have been moved."""
    ranker = Toy(batch_size=16, evaluate_every=3, **settings)
    requests = made_requests(), made_requests(20, seed=5)
    whole = train_ranker(ranker, *requests, catalogue, tmp_path / "whole")

    def killed(*of: Any) -> None:
        raise Killed

    with monkeypatch.context() as context, pytest.raises(Killed):
        context.setattr(training, "save_ranker", killed)
        train_ranker(ranker, *requests, catalogue, tmp_path / "killed")
    (tmp_path / "killed").rename(tmp_path / "moved")
    assert train_ranker(ranker, *requests, catalogue, tmp_path / "moved")[1:] == whole[1:]
    assert log_of(tmp_path / "moved") == log_of(tmp_path / "whole")
    for name, values in model_of(tmp_path / "whole").items():
        assert np.array_equal(values, model_of(tmp_path / "moved")[name])


def test_a_model_that_went_astray_is_said(catalogue: Catalogue, tmp_path: Path) -> None:
    """Its scores are NaN, and the order that sorting gives those would be judged as any other."""

    class Astray(Toy):
        def score_with(self, fitted: Any, requests: Requests, *others: Any, **named: Any) -> Floats:
            return np.full(requests.n_candidates, np.nan, np.float32)

    with pytest.raises(UsageError, match="lower learning_rate"):
        train_ranker(Astray(max_steps=3), made_requests(), made_requests(20, seed=5), catalogue, tmp_path / "out")
    assert not (tmp_path / "out" / "ranker.json").exists()


def test_only_the_first_process_begins_a_folder(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one may meet it while its first file is written, which is no folder of someone else's."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "half-written").touch()
    requests = made_requests(), made_requests(20, seed=5)
    with watched_by(KillAt(1)), pytest.raises(UsageError, match="is not a training"):
        train_ranker(Toy(max_steps=2), *requests, catalogue, tmp_path / "out")
    monkeypatch.setenv("RANK", "1")
    with watched_by(KillAt(1)), pytest.raises(Killed):
        train_ranker(Toy(max_steps=2), *requests, catalogue, tmp_path / "out")


def test_a_folder_in_which_is_being_trained_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    """The second would take the checkpoint that the first is writing for what a crash left, and remove it."""
    ranker, requests = Toy(batch_size=16, max_steps=3), (made_requests(), made_requests(20, seed=5))
    second: list[str] = []

    class Meanwhile:
        @contextmanager
        def stage(self, name: str, total: int, done: int) -> Iterator[Advance]:
            def advance(n: int = 1, failed: bool = False) -> None:
                if not second:
                    second.append("begins")
                    with pytest.raises(UsageError) as found:
                        train_ranker(ranker, *requests, catalogue, tmp_path / "out")
                    second.append(str(found.value))

            yield advance

    with watched_by(Meanwhile()):
        train_ranker(ranker, *requests, catalogue, tmp_path / "out")
    [said] = second[1:]
    assert said.startswith(f"{tmp_path / 'out'} is in use by another training")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"ranker.json", "model", LOG}


def test_another_training_is_refused(catalogue: Catalogue, tmp_path: Path) -> None:
    requests = made_requests(), made_requests(20, seed=5)
    train_ranker(Toy(max_steps=2), *requests, catalogue, tmp_path / "out")
    with pytest.raises(UsageError, match=r"holds another training \(other max_steps\)"):
        train_ranker(Toy(max_steps=3), *requests, catalogue, tmp_path / "out")
    with pytest.raises(UsageError, match=r"\(other train\)"):
        train_ranker(Toy(max_steps=2), made_requests(30), requests[1], catalogue, tmp_path / "out")
    with watched_by(KillAt(1)), pytest.raises(Killed):
        train_ranker(Toy(max_steps=9), *requests, catalogue, tmp_path / "killed")
    with pytest.raises(UsageError, match=r"\(other seed\)"):
        train_ranker(Toy(max_steps=9, seed=1), *requests, catalogue, tmp_path / "killed")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="is not a training"):
        train_ranker(Toy(), *requests, catalogue, tmp_path / "mine")


def test_how_many_examples_a_step_takes_is_part_of_a_training(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes, batches and accumulated batches: by other numbers the steps that are left would be others."""
    requests = made_requests(), made_requests(20, seed=5)
    killed, done = Toy(max_steps=9, batch_size=4), Toy(max_steps=1, batch_size=4)
    with watched_by(KillAt(2)), pytest.raises(Killed):
        train_ranker(killed, *requests, catalogue, tmp_path / "killed")
    train_ranker(done, *requests, catalogue, tmp_path / "done")
    assert read_ranker(tmp_path / "done")["trained"]["n_processes"] == 1
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        for ranker, folder in ((killed, "killed"), (done, "done")):
            with pytest.raises(UsageError, match=r"by 1 process, here are 2: .* 2 batches of 4 .* instead of 1"):
                train_ranker(ranker, *requests, catalogue, tmp_path / folder)
    for name in ("batch_size", "gradient_accumulation"):
        with pytest.raises(UsageError, match=rf"\(other {name}\)"):
            train_ranker(killed.model_copy(update={name: 2}), *requests, catalogue, tmp_path / "killed")
    begun = json.loads((tmp_path / "killed" / "training.json").read_text())
    assert begun["n_processes"] == 1
    (tmp_path / "killed" / "training.json").write_text(json.dumps(begun | {"n_processes": 4}))
    with pytest.raises(UsageError, match=r"is trained by 4 processes, here are 1: .*torchrun --nproc_per_node 4"):
        train_ranker(killed, *requests, catalogue, tmp_path / "killed")
    (tmp_path / "killed" / "training.json").write_text(json.dumps(begun))
    assert train_ranker(killed, *requests, catalogue, tmp_path / "killed").n_steps == 9


def test_a_seed_that_generators_do_not_take_is_refused() -> None:
    with pytest.raises(UsageError, match="setting 'seed' is 4294967296"):
        RANKERS.create("tests.rankers.made:Toy", {"seed": 2**32})


def test_nothing_to_learn_from_is_said(catalogue: Catalogue, tmp_path: Path) -> None:
    nothing = made_requests(5, n_notes=40).with_candidates(~made_requests(5).clicked)
    with pytest.raises(UsageError, match="the validation requests have no candidate that is clicked"):
        train_ranker(Toy(), made_requests(), nothing, catalogue, tmp_path / "out")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("banana", "device 'banana' is not a torch device"),
        ("cuda:99", "device cuda:99: torch sees no such GPU here"),
        ("mps", "device mps: training is on cpu or cuda; CUDA_VISIBLE_DEVICES chooses the GPU"),
    ],
)
def test_a_device_that_is_not_there_is_said(catalogue: Catalogue, tmp_path: Path, device: str, message: str) -> None:
    """It is not trained on another one instead."""
    requests = made_requests(), made_requests(20, seed=5)
    with pytest.raises(UsageError, match=re.escape(message)):
        train_ranker(Toy(device=device), *requests, catalogue, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    if device != "mps":
        with pytest.raises(UsageError, match=re.escape(message)):
            Toy(device=device, checkpoint=tmp_path).score(requests[1], catalogue)


@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_gpu_without_enough_memory_is_one_line_and_nothing_is_lost(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    ranker, requests = Toy(batch_size=16, max_steps=9, evaluate_every=3), (made_requests(), made_requests(20, seed=5))
    n_calls = 0
    name = "binary_cross_entropy_with_logits"
    loss, score_with = getattr(torch.nn.functional, name), Toy.score_with

    def full() -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == (5 if where == "training" else 2):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 8 GiB")

    def loss_on_gpu(*of: Any) -> Any:
        full()
        return loss(*of)

    def score_on_gpu(*of: Any) -> Floats:
        full()
        return score_with(*of)

    with monkeypatch.context() as patch:
        if where == "training":
            patch.setattr(torch.nn.functional, name, loss_on_gpu)
        else:
            patch.setattr(Toy, "score_with", score_on_gpu)
        with pytest.raises(UsageError) as found:
            train_ranker(ranker, *requests, catalogue, tmp_path / "out")
    advice = {
        "training": "in a new folder, lower ranker.batch_size",
        "validation": "lower ranker.score_batch_size; the",
    }
    assert str(found.value).startswith("the GPU's memory is full (CUDA out of memory. Tried to allocate 2.00 GiB); ")
    assert advice[where] in str(found.value)
    assert (tmp_path / "out" / "checkpoints" / "checkpoint-3").is_dir()
    train_ranker(ranker, *requests, catalogue, tmp_path / "out")
    monkeypatch.setattr(Toy, "score_with", lambda *of: full())
    n_calls = 1 if where == "validation" else 4
    with pytest.raises(UsageError, match=r"memory is full .*; lower ranker"):
        Toy(checkpoint=tmp_path / "out").score(requests[1], catalogue)


def test_tensorboard_where_it_is_and_said_where_not(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = made_requests(), made_requests(20, seed=5)
    ranker = Toy(max_steps=4, log_every=1, log="tensorboard")
    with monkeypatch.context() as patched:
        patched.setattr("qilin_rag.rankers.training.missing_modules", lambda *names: list(names))
        with pytest.raises(UsageError, match="pip install tensorboard"):
            train_ranker(ranker, *requests, catalogue, tmp_path / "without")
    assert not (tmp_path / "without").exists()
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install tensorboard")
    train_ranker(ranker, *requests, catalogue, tmp_path / "with")
    assert next((tmp_path / "with" / "tensorboard").glob("events.out.tfevents.*")).stat().st_size > 200
    assert len(log_of(tmp_path / "with")) == 8  # JSON lines beside it


def test_lamb_is_as_published() -> None:
    """One step of algorithm 2 of You et al. (2020) by hand: trust ratio |w| / |r|, r from bias-corrected moments."""
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    ranker = Toy(optimizer="lamb", learning_rate=0.01)
    optimizer = make_optimizer(ranker, [{"params": [weight]}])
    weight.grad = torch.tensor([0.3, -0.4], dtype=torch.float64)
    optimizer.step()
    moved = weight.detach() - torch.tensor([3.0, 4.0], dtype=torch.float64)
    # After one step the corrected moments are g and g^2, so r = sign(g), |r| = sqrt(2), and |w| = 5.
    assert moved.tolist() == pytest.approx([-0.01 * 5 / 2**0.5, 0.01 * 5 / 2**0.5], rel=1e-6)


def test_the_learning_rate_rises_from_a_third() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3.0)
    schedule = warm_up(optimizer, 10)
    rates = []
    for _ in range(13):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(1.0)
    assert np.diff(rates[:11]) == pytest.approx(0.2)
    assert rates[10:] == pytest.approx([3.0] * 3)


def test_the_learning_rate_may_fall_to_nothing() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=3.0)
    schedule = warm_up(optimizer, 2, 6)
    rates = []
    for _ in range(7):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1.0, 2.0, 3.0, 2.25, 1.5, 0.75, 0.0])


@pytest.mark.parametrize("file_name", ["trainer_state.json", "model.safetensors", "optimizer.pt", "rng_state.pth"])
@pytest.mark.parametrize("damage", ["empty", "half", "missing"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_used(
    catalogue: Catalogue, tmp_path: Path, file_name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    ranker = Toy(batch_size=16, max_steps=12, evaluate_every=3, patience=99)
    requests = made_requests(), made_requests(20, seed=5)
    whole = train_ranker(ranker, *requests, catalogue, tmp_path / "whole")
    with watched_by(KillAt(11)), pytest.raises(Killed):
        train_ranker(ranker, *requests, catalogue, tmp_path / "killed")
    last = tmp_path / "killed" / "checkpoints" / "checkpoint-9"
    file = last / file_name
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
    resumed = train_ranker(ranker, *requests, catalogue, tmp_path / "killed")
    assert resumed[1:] == whole[1:]
    assert str(last) in caplog.text
    for name, values in model_of(tmp_path / "whole").items():
        assert np.array_equal(values, model_of(tmp_path / "killed")[name])
