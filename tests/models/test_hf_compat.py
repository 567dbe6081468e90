"""Each private thing of other packages that we use is still there, and does what we use it for."""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
transformers = pytest.importorskip("transformers", reason="needs transformers (make test-all installs it)")
pytest.importorskip("accelerate", reason="needs accelerate (make test-all installs it)")
pytest.importorskip("sentence_transformers", reason="needs sentence-transformers (make test-all installs it)")

from qilin_rag.models import hf_compat  # noqa: E402


def test_a_process_trains_on_one_gpu(tmp_path: Path) -> None:
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=4)
    assert vars(arguments)["_n_gpu"] == arguments.n_gpu
    arguments._n_gpu = 3
    assert (arguments.n_gpu, arguments.train_batch_size) == (3, 12)  # the split that is kept from happening
    hf_compat.use_one_gpu(arguments)
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 4)


def test_the_best_model_is_loaded_from_its_checkpoint(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    trainer = transformers.Trainer(model=model, args=transformers.TrainingArguments(output_dir=str(tmp_path)))
    best = {name: torch.full_like(value, 7.0) for name, value in model.state_dict().items()}
    (tmp_path / "checkpoint-1").mkdir()
    from safetensors.torch import save_file

    save_file(best, tmp_path / "checkpoint-1" / "model.safetensors")
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-1")
    hf_compat.load_best_model(trainer)
    assert model.weight.tolist() == [[7.0, 7.0]]


def test_autocast_is_an_attribute_of_the_model() -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    model = torch.nn.Linear(2, 1)
    AcceleratorState._reset_state()  # that of an earlier test's trainer
    prepared = Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
    assert "forward" in vars(prepared)
    with hf_compat.without_autocast(prepared):
        assert "forward" not in vars(prepared)
        assert prepared(torch.ones(1, 2)).dtype is torch.float32
    assert "forward" in vars(prepared)
    AcceleratorState._reset_state()


def test_trainers_of_sentence_transformers_hide_what_went_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from sentence_transformers import SentenceTransformerTrainer
    from sentence_transformers.cross_encoder import CrossEncoderTrainer

    for trainer in (SentenceTransformerTrainer, CrossEncoderTrainer):
        assert list(inspect.signature(trainer.add_model_card_callback).parameters) == ["self", "default_args_dict"]
        assert list(inspect.signature(trainer._load_from_checkpoint).parameters) == ["self", "checkpoint_path"]

        def broken(self: Any, checkpoint_path: str) -> None:
            raise OSError(f"{checkpoint_path} is damaged")

        class State:
            best_model_checkpoint, best_metric = str(tmp_path), 0.5

        theirs = type("Theirs", (trainer,), {"_load_from_checkpoint": broken, "__init__": lambda self: None})()
        ours = type("Ours", (hf_compat.SentenceTrainerMixin, type(theirs)), {})()
        theirs.state = ours.state = State()
        with caplog.at_level(logging.ERROR):
            theirs._load_best_model()  # once this raises, the mixin needs no method of its own
        with pytest.raises(OSError, match="is damaged"):
            ours._load_best_model()


def test_a_router_names_the_route_of_a_task() -> None:
    from sentence_transformers.sentence_transformer.modules import Router

    assert {"task", "modality"} <= inspect.signature(Router._resolve_route).parameters.keys()


def test_a_cpu_says_whether_it_computes_bfloat16() -> None:
    assert hf_compat.cpu_computes_bf16() in (True, False)
    assert isinstance(torch.cpu._is_avx512_bf16_supported(), bool)
    assert isinstance(torch.cpu._is_amx_tile_supported(), bool)
