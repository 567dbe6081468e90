"""Adapt a vision-language model, which sees query, note and cover, to clicks by LoRA."""

from __future__ import annotations

import json
import logging
from copy import copy
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.files import atomic_path, write_text
from qilin_rag.core.progress import stage
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.models.pretrained import check_all_loaded, fetch_model, model_sha256, quiet_loading, why_not_loaded
from qilin_rag.models.sentence_encoder import has_native_bf16
from qilin_rag.rankers.examples import with_negatives
from qilin_rag.rankers.trained import Recipe, TrainedRanker
from qilin_rag.rankers.vlm_prompts import Prompts, Reader, read_with

logger = logging.getLogger(__name__)

ADAPTER, HEAD, BASE = "adapter", "head.safetensors", "base.json"
_ADAPTED = r".*language_model\.layers\.\d+\.self_attn\.[qkvo]_proj"
_CHUNK = 512  # candidates sorted by length at a time: few enough to keep the pictures of their requests


class FittedVLM(NamedTuple):
    """A model, its reader, and the base that it was made from."""

    model: Any
    reader: Reader
    base_sha256: str


class VLM(TrainedRanker):
    """A vision-language model: query, note text and cover in one prompt, a linear head on the mean of the last layer.

    It is trained with LoRA by binary cross-entropy on each click and `n_negatives` candidates of its request. A
    negative was not clicked, and was clicked in fewer than half of the requests of the same query that showed it.

    Example:
        >>> VLM(four_bit=False, lora_r=8).changed()
        {'four_bit': False, 'lora_r': 8}
    """

    version: ClassVar[int] = 2
    pretrained: ClassVar[frozenset[str]] = frozenset({"model"})
    built_on: ClassVar[frozenset[str]] = pretrained
    packages: ClassVar[tuple[str, ...]] = (*TrainedRanker.packages, "peft", "pillow")

    model: str = "Qwen/Qwen2-VL-2B-Instruct"
    """A folder or a hub name of Qwen2-VL or a similar model."""
    four_bit: bool = True
    """Whether the language model is loaded in 4 bits (NF4), on a CUDA GPU only."""
    lora_r: PositiveInt = 16
    """The rank of the adapters."""
    lora_alpha: PositiveFloat = 32
    """The scale of the adapters, divided by their rank."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The share of inputs of the adapters that are dropped in training."""
    max_length: Annotated[int, Field(ge=32)] = 512
    """The most tokens of a prompt, pictures included."""
    max_pixels: Annotated[int, Field(ge=28 * 28)] = 256 * 28 * 28
    """The most pixels of a picture; larger ones are shrunk."""
    history_covers: NonNegativeInt = 10
    """The number of covers of recently clicked notes that a recommendation shows."""
    n_negatives: PositiveInt = 1
    """The number of candidates of the request, not clicked, beside each click."""
    without: list[Literal["image"]] = []
    """Inputs to leave out: image."""

    optimizer: Literal["lamb", "adamw"] = "adamw"
    learning_rate: PositiveFloat = 1e-4
    warmup_steps: NonNegativeInt = 100
    batch_size: PositiveInt = 8
    score_batch_size: PositiveInt = 16

    @property
    def is_click_logit(self) -> bool:
        """Return True: it is trained on binary cross-entropy of clicks."""
        return True

    def recipe(self, train: Requests, catalogue: Catalogue) -> Recipe:
        """Make the base with new adapters and a new head; clicks and negatives are ids, read when a batch is made."""
        from transformers import Trainer, TrainingArguments

        fitted = self._new(fetch_model(self.model))
        prompts = self.prompts(fitted.reader, train, catalogue)
        rows = with_negatives(train, self.n_negatives, self.seed)
        trained = [parameter for parameter in fitted.model.parameters() if parameter.requires_grad]

        class TellingTrainer(Trainer):  # type: ignore[misc]
            """A trainer that reports at the end how many covers there were."""

            def train(self, *args: Any, **kwargs: Any) -> Any:
                try:
                    return super().train(*args, **kwargs)
                finally:
                    prompts.tell()

        return Recipe(
            trainer=TellingTrainer,
            arguments=TrainingArguments,
            model=fitted.model,
            fitted=fitted,
            train_dataset=rows.tolist(),
            parameters=[{"params": trained}],
            given={"data_collator": partial(_collate, prompts, train)},
            more_arguments={"remove_unused_columns": False},
        )

    def score_with(self, fitted: Any, requests: Requests, catalogue: Catalogue) -> Floats:
        """Return the logit of a click."""
        prompts = self.prompts(fitted.reader, requests, catalogue)
        scores: Floats = np.zeros(requests.n_candidates, np.float32)
        device = next(fitted.model.parameters()).device
        starts = range(0, requests.n_candidates, _CHUNK)
        with stage("vlm", len(starts)) as advance:
            for start in starts:
                rows = np.arange(start, min(start + _CHUNK, requests.n_candidates))
                rows = rows[np.argsort([-prompts.text_length(row) for row in rows.tolist()], kind="stable")]
                for first in range(0, len(rows), self.score_batch_size):
                    some = rows[first : first + self.score_batch_size]
                    inputs = {name: values.to(device) for name, values in prompts.batch(some).items()}
                    scores[some] = fitted.model(**inputs)["logits"].float().cpu().numpy()
                advance()
        prompts.tell()
        return scores

    def save(self, fitted: Any, folder: Path) -> None:
        """Save the adapters as peft does, the head, and which base they belong to; not the base itself."""
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        backbone = fitted.model.backbone
        (folder / ADAPTER).mkdir()
        adapter = get_peft_model_state_dict(backbone, save_embedding_layers=False)
        with atomic_path(folder / ADAPTER / "adapter_model.safetensors") as weights:
            save_file({k: v.contiguous() for k, v in adapter.items()}, weights)
        config = copy(backbone.peft_config["default"])
        config.base_model_name_or_path = self.model  # not its path
        config.save_pretrained(folder / ADAPTER)
        with atomic_path(folder / HEAD) as weights:
            save_file(fitted.model.head.state_dict(), weights)
        base = {"model": self.model, "sha256": fitted.base_sha256}
        write_text(folder / BASE, json.dumps(base, ensure_ascii=False, indent=2) + "\n")

    def load(self, folder: Path) -> Any:
        """Load onto the same base; raise a UsageError if `model` is another one now."""
        from peft import get_peft_model_state_dict, set_peft_model_state_dict
        from safetensors.torch import load_file

        base = json.loads((folder / BASE).read_text(encoding="utf-8"))
        found = fetch_model(self.model)
        if model_sha256(found) != base["sha256"]:
            raise UsageError(
                f"{folder} was trained on another model {base['model']!r} than {self.model!r} is now (or by an older "
                "version of qilin-rag, which did not count all of its files); name that model, or train again"
            )
        fitted = self._new(found)
        weights = load_file(folder / ADAPTER / "adapter_model.safetensors")
        expected = get_peft_model_state_dict(fitted.model.backbone, save_embedding_layers=False)
        if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in expected.items()}:
            raise UsageError(f"{folder / ADAPTER} does not fit these settings: its adapters are of other shapes")
        set_peft_model_state_dict(fitted.model.backbone, weights)
        fitted.model.head.load_state_dict(load_file(folder / HEAD))
        return fitted._replace(model=fitted.model.eval())

    def prompts(self, reader: Reader, requests: Requests, catalogue: Catalogue) -> Prompts:
        """Return the input of the model for each candidate of these requests."""
        with_images = "image" not in self.without
        return Prompts(reader, requests, catalogue, self.max_length, self.max_pixels, self.history_covers, with_images)

    def _new(self, folder: Path) -> FittedVLM:
        """Return the base with adapters that change nothing yet and a random head, on the device."""
        require("rankers", "torch", "transformers", "peft", "PIL", what="ranker vlm")
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForImageTextToText

        from qilin_rag.rankers.vlm_model import ClickModel

        reader = read_with(folder, self.model, self.max_pixels)
        device = self.torch_device()
        is_bf16 = device.type == "cuda" and self.precision != "fp32" and has_native_bf16(device)
        dtype = torch.bfloat16 if is_bf16 or self.precision == "bf16" else torch.float32
        more: dict[str, Any] = {}
        if self.four_bit and device.type == "cuda":
            require("rankers", "bitsandbytes", what="four_bit (false does without)")
            more["quantization_config"] = four_bits(dtype)
        elif self.four_bit:
            logger.info("no CUDA GPU: the model is loaded in full precision, not in 4 bits")
        with quiet_loading() as messages:
            try:
                whole = AutoModelForImageTextToText.from_pretrained(
                    folder, dtype=dtype, device_map={"": device}, **more
                )
            except (OSError, ValueError, RuntimeError) as error:  # torch raises one of the last when memory is full
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                reason = why_not_loaded(error, messages)
                raise UsageError(f"model {self.model!r} can't be loaded: {reason}") from error
            check_all_loaded(self.model, messages)
            config = LoraConfig(
                r=self.lora_r,
                lora_alpha=self.lora_alpha,
                lora_dropout=self.lora_dropout,
                target_modules=_ADAPTED,
            )
            backbone = get_peft_model(whole.model, config)  # without the head that writes words
        model = ClickModel(backbone, whole.config.get_text_config().hidden_size).to(device)
        return FittedVLM(model, reader, model_sha256(folder))


def four_bits(dtype: Any) -> Any:
    """Load the language model in 4 bits (NF4), computing in `dtype`; leave the small vision tower as it is."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[r"(.*\.)?visual", "lm_head"],
    )


def _collate(prompts: Prompts, train: Requests, rows: list[int]) -> dict[str, Any]:
    import torch

    return {**prompts.batch(rows), "labels": torch.from_numpy(train.clicked[rows].astype(np.float32))}
