"""Define a trained ranker: its settings, the model it makes of clicks, and the folder that keeps it.

The folder holds `ranker.json` (settings, how it was trained, versions), the model's own files in `model/`, and
`log.jsonl`; during training also `training.json` (what is trained on what) and `checkpoints/`.
"""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, PrivateAttr

from qilin_rag import __version__
from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.files import write_text
from qilin_rag.core.former import renewed_name
from qilin_rag.core.registry import RANKERS
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import VALIDATION_SHARE, Floats, Requests, Split
from qilin_rag.models.pretrained import model_sha256, within_gpu_memory
from qilin_rag.rankers.base import Ranker

if TYPE_CHECKING:
    import torch
    from transformers import Trainer, TrainingArguments

MANIFEST = "ranker.json"
MODEL = "model"
LESS_TO_SCORE = "lower ranker.score_batch_size"


class Trained(NamedTuple):
    """How training ended: the model of `step` (of `n_steps`) is kept, with this MRR@10 on the validation requests."""

    out: Path
    step: int
    n_steps: int
    mrr_at_10: float


class Recipe(NamedTuple):
    """The parts that a ranker gives to transformers' Trainer: its class, and arguments beyond the common ones.

    `fitted` is the argument of `score_with`; it holds `model`. `parameters` are the optimizer's groups (with `lr` if it
    is not the ranker's learning rate). `given` goes to the trainer, `more_arguments` to its arguments.
    """

    trainer: type[Trainer]
    arguments: type[TrainingArguments]
    model: torch.nn.Module
    fitted: Any
    train_dataset: Any
    parameters: list[dict[str, Any]]
    given: dict[str, Any] = {}
    more_arguments: dict[str, Any] = {}


class TrainedRanker(Ranker):
    """A ranker with its own model, trained on clicks.

    Training ends after `epochs` (or `max_steps`), or when MRR@10 on the validation requests has not risen in `patience`
    evaluations. The best model is kept.
    """

    operational: ClassVar[frozenset[str]] = frozenset({"checkpoint", "device", "score_batch_size", "log", "workers"})
    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    pretrained: ClassVar[frozenset[str]] = frozenset()
    """Settings that name a model to start training from; they are identified by its content, not its path."""
    built_on: ClassVar[frozenset[str]] = frozenset()
    """Those of `pretrained` that the trained ranker needs as well; `load` checks their content."""
    reads_text_only: ClassVar[bool] = False
    """Whether it reads only queries and notes, so that it can rank the hits of a question (`run --rerank`)."""

    checkpoint: Path | None = None
    """The folder of a trained ranker, which `train` wrote; `rank --checkpoint` sets it."""
    device: str | None = None
    """A torch device. Default: the GPU of this process, else cpu."""
    score_batch_size: PositiveInt = 64
    """The number of candidates that are scored at a time."""
    log: Literal["jsonl", "tensorboard"] = "jsonl"
    """The training log: jsonl (`log.jsonl`), or tensorboard as well."""

    workers: NonNegativeInt = 0
    """The number of processes that read and tokenize ahead in training. A GPU waits for a process that does both."""

    optimizer: Literal["lamb", "adamw"] = "lamb"
    """lamb (You et al. 2020) or adamw, both with betas .9 and .999."""
    learning_rate: PositiveFloat = 1e-3
    """The highest learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """The weight decay of the optimizer."""
    warmup_steps: NonNegativeInt = 10
    """The steps in which the learning rate rises linearly from a third."""
    schedule: Literal["constant", "linear"] = "constant"
    """The learning rate after warm-up: constant, or linear to 0."""
    max_grad_norm: PositiveFloat = 1.0
    """The largest norm of a gradient; longer ones are clipped."""
    batch_size: PositiveInt = 32
    """The number of examples in a batch of one device."""
    gradient_accumulation: PositiveInt = 1
    """The number of batches in a step."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again to save memory."""
    epochs: PositiveFloat = 1.0
    """The number of passes over the examples; may be a fraction."""
    max_steps: PositiveInt | None = None
    """The number of steps, instead of `epochs`. Default: `epochs` counts."""
    evaluate_every: PositiveInt | None = None
    """The number of steps between evaluations. Default: ten evaluations in an epoch."""
    patience: PositiveInt = 5
    """The number of evaluations without a higher MRR@10 after which training ends."""
    log_every: PositiveInt = 10
    """The number of steps between lines of the log."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """The precision of the model: bf16, fp32, or auto (bf16 on a GPU that has it, else fp32)."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = VALIDATION_SHARE
    """The latest share of the train table: it chooses the best model, and is what `rank --split validation` ranks."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """The seed of weights, examples and their order, an integer from 0."""

    _fitted: Any = PrivateAttr(default=None)

    @abstractmethod
    def recipe(self, train: Requests, catalogue: Catalogue) -> Recipe:
        """Return a new model and the examples of these requests; torch's seed is set."""

    @abstractmethod
    def score_with(self, fitted: Any, requests: Requests, catalogue: Catalogue) -> Floats:
        """Score by this model, which may be in training; it is in evaluation mode, without gradients."""

    @abstractmethod
    def save(self, fitted: Any, folder: Path) -> None:
        """Write the model's files, safetensors and JSON, to this empty folder."""

    @abstractmethod
    def load(self, folder: Path) -> Any:
        """Load what `save` wrote onto the ranker's device, in evaluation mode."""

    def score(self, requests: Requests, catalogue: Catalogue) -> Floats:
        """Score by the model in `checkpoint`."""
        require("rankers", "torch", "transformers", what="a trained ranker")
        import torch

        if self._fitted is None:
            if self.checkpoint is None:
                raise UsageError("this ranker is not trained; name the folder that `train` wrote (--checkpoint)")
            self.torch_device()
            self._fitted = self.load(self.checkpoint / MODEL)
        with torch.no_grad(), within_gpu_memory(LESS_TO_SCORE):
            return self.score_with(self._fitted, requests, catalogue)

    def refuse_seen(self, split: Split) -> None:
        """Raise a UsageError if the split holds requests that the checkpoint was trained on, as its folder records."""
        if self.checkpoint is None or split != "dqa":
            return
        if kind := read_ranker(self.checkpoint)["trained"].get("by_answer"):
            raise UsageError(
                f"{self.checkpoint} was trained on {kind} searches of the table dqa, which the split dqa holds; rank "
                "the later ones that it has not seen: --split answered, or unanswered"
            )

    def training_settings(self) -> dict[str, Any]:
        """Return the settings that training depends on, as a folder records them."""
        return self.model_dump(mode="json", exclude=set(self.operational) | self._unset())

    def torch_device(self) -> Any:
        """Return the device of the model; raise a UsageError if this machine does not have it."""
        return torch_device(self.device)

    def identity(self) -> dict[str, Any]:
        """Identify the checkpoint by its content and by the hash of what it is built on, not by paths."""
        if self.checkpoint is None:
            return super().identity()
        settings = {name: value for name, value in super().identity().items() if name not in self.built_on}
        return settings | {"model": model_sha256(self.checkpoint / MODEL)}


def torch_device(name: str | None) -> Any:
    """Return a device by its name, None for the GPU of this process or else cpu.

    Raises:
        UsageError: if this machine does not have it.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if has_gpu and name in (None, "cuda"):
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    try:
        device = torch.device(name or "cpu")
    except RuntimeError:
        raise UsageError(f"device {name!r} is not a torch device; there are cpu, cuda, cuda:1") from None
    if device.type == "cuda" and (device.index or 0) >= (torch.cuda.device_count() if has_gpu else 0):
        raise UsageError(f"device {name}: torch sees no such GPU here")
    return device


def save_ranker(ranker: TrainedRanker, out: Path, trained: dict[str, Any]) -> None:
    """Write the manifest of a trained ranker: its settings, how it was trained, and the versions it needs.

    It is written last: a folder that has one is complete.
    """
    content = {
        "ranker": ranker.known_as(),
        "version": ranker.version,
        "settings": ranker.training_settings(),
        "trained": trained,
        "versions": {"qilin-rag": __version__, **{package: version(package) for package in ranker.packages}},
    }
    write_text(out / MANIFEST, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def read_ranker(folder: Path) -> dict[str, Any]:
    """Read what `save_ranker` wrote; raise a UsageError if there is none."""
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if not folder.is_dir():
            raise UsageError(
                f"{folder} holds no trained ranker: no such folder; give the one that the command train wrote"
            ) from None
        raise UsageError(f"{folder} holds no trained ranker: no {MANIFEST}; the command train resumes it") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read: {error}") from error
    kinds = {"ranker": str, "settings": dict, "trained": dict}
    if not isinstance(content, dict) or not all(isinstance(content.get(name), kind) for name, kind in kinds.items()):
        raise UsageError(f"{path} is not the manifest of a trained ranker")
    return content | {"ranker": renewed_name(content["ranker"])}


def load_ranker(folder: Path, named: str | None = None, **settings: Any) -> TrainedRanker:
    """Open the trained ranker of a folder.

    `settings` (device, score_batch_size) replace those it was trained with. `named` is the ranker that the caller
    expects; the user's own code must be named there, because a file can't name code.
    """
    content = read_ranker(folder)
    kept = RANKERS.name_of_known(content["ranker"])
    name = named or kept
    if name is None:
        raise UsageError(f"{folder}: {content['ranker']!r} is not a registered ranker, so it must be named (--ranker)")
    cls = RANKERS.resolve(name)
    if cls.known_as() != content["ranker"]:
        raise UsageError(f"{folder} holds the ranker {kept or content['ranker']}, not {name}")
    if not issubclass(cls, TrainedRanker):
        raise UsageError(f"{folder}: {name} is not a ranker that is trained")
    may_be_set = (cls.operational | cls.built_on) - {"checkpoint"}
    if fixed := sorted(settings.keys() - may_be_set):
        free = ", ".join(sorted(may_be_set))
        raise UsageError(f"{folder} is trained, {fixed[0]} stays as it is; to be set: {free}")
    ranker: TrainedRanker = RANKERS.create(name, {**content["settings"], **settings, "checkpoint": folder})
    return ranker
