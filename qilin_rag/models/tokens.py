"""Turn texts into tokens: once for all batches of an encoding, or for one batch of training.

Ends of texts that a model does not read are not tokenized, and tensors are made by numpy: transformers looks at each
number of a batch in Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.models.first_tokens import with_first_tokens

if TYPE_CHECKING:
    from sentence_transformers.base.model import BaseModel

LONGEST_BELIEVED = 1_000_000  # tokenizers without a limit report 1e30


class TokenizedTexts(NamedTuple):
    """The length of each text in tokens, and a function that returns a batch of some texts as the model reads it."""

    lengths: npt.NDArray[np.int64]
    prepare: Callable[[npt.NDArray[np.int64]], dict[str, Any]]


def tokenize(encoder: BaseModel, inputs: Sequence[Any], prefix: str, task: str) -> TokenizedTexts:
    """Tokenize texts once, for a model whose first module is a transformer."""
    unpadded = {"text": {"padding": False}, "common": {"return_tensors": None}}
    features = encoder.preprocess(_only_read(encoder, inputs), prompt=prefix, task=task, processing_kwargs=unpadded)
    columns = {name: values for name, values in features.items() if isinstance(values, list)}
    common = {name: value for name, value in features.items() if name not in columns}
    lengths = np.array([len(ids) for ids in columns["input_ids"]])
    tokenizer = encoder.tokenizer
    padding = {
        "input_ids": tokenizer.pad_token_id,
        "token_type_ids": tokenizer.pad_token_type_id,
        "special_tokens_mask": 1,
    }

    def prepare(rows: npt.NDArray[np.int64]) -> dict[str, Any]:
        import torch

        longest = int(lengths[rows].max())
        padded = {}
        for name, values in columns.items():
            batch = np.full((len(rows), longest), padding.get(name, 0))
            for row, i in zip(batch, rows.tolist(), strict=True):
                row[: lengths[i]] = values[i]  # on the right, so that a token has the same position in any batch
            padded[name] = torch.from_numpy(batch)
        return {**common, **padded}

    return TokenizedTexts(lengths, prepare)


def batch_tokens(encoder: BaseModel, inputs: Sequence[Any], **how: Any) -> dict[str, Any]:
    """Return a batch as `encoder.preprocess` does; `inputs` are texts, or pairs whose first text is read whole."""
    import torch

    features = encoder.preprocess(
        _only_read(encoder, inputs), processing_kwargs={"common": {"return_tensors": None}}, **how
    )
    return {
        name: torch.from_numpy(np.array(values)) if isinstance(values, list) else values
        for name, values in features.items()
    }


def longest_text(encoder: BaseModel) -> int | None:
    """Return the most tokens that a model reads; None if there is no limit."""
    longest = encoder.max_seq_length
    return int(longest) if longest and longest < LONGEST_BELIEVED else None


def _only_read(encoder: BaseModel, inputs: Sequence[Any]) -> list[Any]:
    """Return the inputs without the ends of texts that the model does not read, if that can be told beforehand."""
    if type(encoder[0]).__name__ != "Transformer" or (longest := longest_text(encoder)) is None:
        return list(inputs)
    of_tasks = (getattr(encoder[0], name, None) or 0 for name in ("query_length", "document_length"))
    return with_first_tokens(encoder.tokenizer, inputs, max(longest, *of_tasks))
