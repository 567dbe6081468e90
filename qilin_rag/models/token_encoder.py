"""A pretrained encoder (transformers) up to one of its layers: token vectors of texts, for BERTScore."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from qilin_rag.core.errors import UsageError
from qilin_rag.models.pretrained import (
    longest_input,
    longest_input_of,
    quiet_loading,
    why_not_loaded,
    within_gpu_memory,
)

if TYPE_CHECKING:
    import torch


Precision = Literal["fp32", "bf16"]
DEFAULT_MAX_TOKENS = 512
_LONGEST_BELIEVED = 1_000_000  # tokenizers without a limit report 1e30
_LESS = "lower metrics.bertscore.batch_size, or set metrics.bertscore.device=cpu"


class Encoded(NamedTuple):
    """An encoded text.

    Attributes:
        vectors: fp32 vectors of unit length, shape (n_tokens, hidden size).
        weights: A weight per token, 0 for [CLS] and [SEP].
    """

    vectors: torch.Tensor
    weights: torch.Tensor


def max_tokens(folder: Path) -> int:
    """Return the longest input in tokens, special ones included: the lower limit of model and tokenizer, else 512.

    The limit is read from the folder's JSON files, without loading weights.
    """
    config = _read_json(folder / "config.json")
    limits = [_read_json(folder / "tokenizer_config.json", optional=True).get("model_max_length")]
    limits.append(config.get("max_position_embeddings"))
    if "model_type" in config:
        with suppress(Exception):  # loading such a folder fails, too, and reports the reason
            limits.append(longest_input_of(folder))
    limits_known = [int(limit) for limit in limits if isinstance(limit, int | float) and 0 < limit <= _LONGEST_BELIEVED]
    return min(limits_known, default=DEFAULT_MAX_TOKENS)


class Encoder:
    """The first `layer` layers of a model and its tokenizer, in one precision, whatever that of the stored weights."""

    def __init__(self, folder: Path, layer: int, precision: Precision = "fp32") -> None:
        """Load the model from `folder` onto the CPU.

        Raises:
            UsageError: if the model can't be used.
        """
        self.max_tokens = max_tokens(folder)
        messages: list[str] = []
        try:
            with quiet_loading() as messages:
                self._tokenizer = _load_tokenizer(folder)
                self._model = _load_model(folder, layer, precision)
        except UsageError:
            raise
        except Exception as error:  # broken files raise errors of several libraries
            reason = why_not_loaded(error, messages)
            raise UsageError(
                f"model {folder} can't be loaded: {reason}; fetch it again, or name another one"
            ) from error
        self.max_tokens = min(self.max_tokens, longest_input(self._model) or self.max_tokens)
        marks = (self._tokenizer.cls_token_id, self._tokenizer.sep_token_id)
        self._weightless = [token_id for token_id in marks if token_id is not None]
        n_known = self._model.get_input_embeddings().num_embeddings
        if len(self._tokenizer) > n_known:
            raise UsageError(
                f"model {folder} knows {n_known} tokens, its tokenizer {len(self._tokenizer)}: they don't belong "
                "together; fetch the model again, or name another one"
            )

    @property
    def max_text_tokens(self) -> int:
        """Return the longest text in tokens, without special ones."""
        return self.max_tokens - int(self._tokenizer.num_special_tokens_to_add())

    def tokenize(self, texts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Return the token ids of each text with special ones, and whether its end was cut off."""
        with quiet_loading():
            ids: list[list[int]] = self._tokenizer(list(texts))["input_ids"] if texts else []
            cut = [len(of_text) > self.max_tokens for of_text in ids]
            if any(cut):
                long = [text for text, is_cut in zip(texts, cut, strict=True) if is_cut]
                shorter = iter(self._tokenizer(long, truncation=True, max_length=self.max_tokens)["input_ids"])
                ids = [next(shorter) if is_cut else of_text for of_text, is_cut in zip(ids, cut, strict=True)]
        return ids, cut

    def encode(self, batch: Sequence[Sequence[int]], device: str) -> list[torch.Tensor]:
        """Return the hidden states of texts, given as token ids, computed in one pass.

        Returns:
            A tensor per text, (n_tokens, hidden size), on `device` and in the model's precision.
        """
        import torch

        tokenizer = self._tokenizer
        lengths = torch.tensor([len(ids) for ids in batch])
        rows = [torch.tensor(ids) for ids in batch]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        with torch.inference_mode(), within_gpu_memory(_LESS):
            model = self._model.to(device)
            hidden = model(padded.to(device), attention_mask=mask.long().to(device))[0]
        return [hidden[i, :n].clone() for i, n in enumerate(lengths.tolist())]

    def weighted(self, ids: Sequence[int], hidden: torch.Tensor, device: str) -> Encoded:
        """Return a text in comparable form, from its hidden states of `encode`."""
        import torch

        vectors = hidden.to(device).float()
        weights = torch.tensor([float(token_id not in self._weightless) for token_id in ids], device=device)
        return Encoded(vectors / vectors.norm(dim=-1, keepdim=True), weights)


def _load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer; refuse one without a vocabulary, which transformers makes up if files are missing."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise UsageError(f"model {folder} has no tokenizer: no tokenizer.json or vocabulary in this folder")
    if tokenizer.pad_token_id is None:
        raise UsageError(f"model {folder} can't be used: its tokenizer has no padding token; name an encoder like BERT")
    return tokenizer


def _load_model(folder: Path, layer: int, precision: Precision) -> Any:
    """Load the model up to `layer`; refuse missing weights, which would be drawn at random."""
    from transformers import AutoConfig, AutoModel
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    is_encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not (
        getattr(config, "is_encoder_decoder", False) or getattr(config, "is_decoder", False)
    )
    if not is_encoder:
        raise UsageError(f"model {folder} is not an encoder (its type is {config.model_type!r}); name one like BERT")
    if layer > config.num_hidden_layers:
        raise UsageError(f"model {folder} has {config.num_hidden_layers} layers, no layer {layer}")
    config.num_hidden_layers = layer
    model, loading_info = AutoModel.from_pretrained(
        folder, config=config, local_files_only=True, trust_remote_code=False, output_loading_info=True
    )
    if missing := sorted(name for name in loading_info["missing_keys"] if "pooler" not in name):
        raise UsageError(f"model {folder} lacks {len(missing)} of its weights, {missing[0]} for one; fetch it again")
    return (model.bfloat16() if precision == "bf16" else model.float()).eval()


def _read_json(path: Path, optional: bool = False) -> dict[str, Any]:
    if optional and not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read: {error}; fetch the model again, or name another one") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a JSON object; fetch the model again, or name another one")
    return content
