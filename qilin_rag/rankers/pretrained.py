"""Rank by a pretrained reranker as it is, without training: a cross-encoder, a generative or a late-interaction one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt, PrivateAttr

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.files import expanded
from qilin_rag.core.text import short_path
from qilin_rag.models.families import RerankerFamily, is_language_model, is_late_interaction, reranker_family_of
from qilin_rag.models.late_interaction import load_multi_vector
from qilin_rag.models.pretrained import (
    check_all_loaded,
    fetch_model,
    longest_input,
    model_sha256,
    quiet_loading,
    why_not_loaded,
    within_gpu_memory,
)
from qilin_rag.rankers.late_interaction import TokenScorer
from qilin_rag.rankers.pairs import Keep, PairRanker
from qilin_rag.rankers.score_store import Pair
from qilin_rag.rankers.trained import torch_device

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

_OF_LATE_INTERACTION = ("query_prefix", "passage_prefix")
_LENGTH = 1024  # tokens, unless the model reads fewer


class Pretrained(PairRanker):
    """A pretrained reranker: any CrossEncoder of sentence-transformers, a generative or a late-interaction one.

    Its scores are those of `CrossEncoder.predict`. A generative reranker whose files do not hold its prompt is asked in
    the words that its family documents (Qwen3-Reranker, bge-reranker-v2-gemma, mxbai-rerank v2). The scores of a
    late-interaction model (ColBERT), which its files tell, are those of `MultiVectorEncoder.similarity`.

    Args:
        model (str): A folder or a hub name of a reranker.
        instruction (str): The task, for models that take one. Default: that of the model or of its family.
        query_prefix (str): Text before each query, for late-interaction models; "" for none. Default: the model's own.
        passage_prefix (str): Text before each note, for late-interaction models; "" for none. Default: the model's own.
        max_length (int): The most tokens of a pair with its prompt; the note is cut. Default: 1024, or the model's
            limit. Of a late-interaction model: the most tokens of a note. Default: as its files say.
        precision (str): The precision of the model, fp32 or bf16.
        batch_size (int): The number of pairs, or of notes, that are read at a time.
        device (str): A torch device. Default: the GPU of this process, else cpu.

    Raises:
        UsageError: if the model can't be loaded, or does not give one score a pair.

    Example:
        >>> Pretrained(model="BAAI/bge-reranker-v2-m3", max_length=512).title
        'bge-reranker-v2-m3'
    """

    argument: ClassVar[str | None] = "model"
    operational: ClassVar[frozenset[str]] = frozenset({"batch_size", "device"})
    only_if_set: ClassVar[frozenset[str]] = frozenset(_OF_LATE_INTERACTION)

    model: str = "BAAI/bge-reranker-v2-m3"
    instruction: str | None = None
    query_prefix: str | None = None
    passage_prefix: str | None = None
    max_length: Annotated[int, Field(ge=8)] | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    batch_size: PositiveInt = 32
    device: str | None = None

    _found: tuple[Path, str] | None = PrivateAttr(default=None)
    _encoder: CrossEncoder | None = PrivateAttr(default=None)
    _token_scorer: TokenScorer | None = PrivateAttr(default=None)

    @property
    def title(self) -> str:
        """Return the model's name, a folder's with digits of the hash of its content."""
        label = short_path(self.model, self._find()[1] if expanded(self.model).is_dir() else "")
        return label.rpartition("/")[2] or label

    def check(self) -> str:
        """Say which model is read, by which prompt."""
        folder = self._find()[0]
        family = reranker_family_of(folder, self.model)
        asked = f", asked in the words of {family.name}" if family else ""
        asked = ", which compares token vectors" if is_late_interaction(folder) else asked
        return f"model {self.model}" + ("" if str(folder) == self.model else f", in {folder}") + asked

    def identity(self) -> dict[str, Any]:
        """Identify the model by its content, and the prompt by its text."""
        folder, sha256 = self._find()
        family = reranker_family_of(folder, self.model)
        asked = {} if family is None else {"template": family.template}
        return super().identity() | {"model": sha256, **asked}

    @property
    def by_note(self) -> bool:
        """Return whether it is a late-interaction model, which encodes each note once."""
        return is_late_interaction(self._find()[0])

    def score_pairs(self, pairs: Sequence[Pair], keep: Keep) -> None:
        """Score in batches of similar length."""
        if self.by_note:
            self._late_interaction().score_pairs(pairs, keep)
            return
        import torch

        encoder = self._model()
        activation = encoder.activation_fn
        order = np.argsort([-len(query) - len(text) for query, text in pairs], kind="stable")
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size].tolist()
            with torch.no_grad(), within_gpu_memory("lower rerank.batch_size"):
                logits = encoder.predict(
                    [pairs[row] for row in rows],
                    batch_size=len(rows),
                    prompt=self.instruction,
                    show_progress_bar=False,
                    activation_fn=torch.nn.Identity(),
                )
                keep(rows, activation(torch.as_tensor(logits, dtype=torch.float64)).tolist())

    def _find(self) -> tuple[Path, str]:
        """Return the model's folder and the hash of its content."""
        if self._found is None:
            folder = fetch_model(self.model)
            self._check_settings(is_late_interaction(folder))
            self._found = folder, model_sha256(folder)
        return self._found

    def _check_settings(self, compares_tokens: bool) -> None:
        """Raise a UsageError for a setting that a model of this kind does not have."""
        others = ("instruction",) if compares_tokens else _OF_LATE_INTERACTION
        for name in others:
            if getattr(self, name) is not None:
                kind = "a late-interaction model" if compares_tokens else "no late-interaction model"
                raise UsageError(f"rerank.{name}: model {self.model!r} is {kind}, without such a setting; leave it out")

    def _late_interaction(self) -> TokenScorer:
        """Load a late-interaction model."""
        require("neural", "torch", "sentence_transformers", what="a pretrained reranker")
        if self._token_scorer is None:
            import torch

            device = str(torch_device(self.device))
            encoder = load_multi_vector(
                self._find()[0], self.model, device, self.max_length, setting="rerank.max_length"
            )
            encoder = encoder.to(torch.bfloat16 if self.precision == "bf16" else torch.float32)
            prefixes = self.query_prefix, self.passage_prefix
            self._token_scorer = TokenScorer(encoder, self.model, *prefixes, self.batch_size)
        return self._token_scorer

    def _model(self) -> CrossEncoder:
        require("neural", "torch", "sentence_transformers", what="a pretrained reranker")
        if self._encoder is None:
            self._encoder = self._load(self._find()[0])
        return self._encoder

    def _load(self, folder: Path) -> CrossEncoder:
        """Load the model; all its weights must exist, and it must give one score a pair."""
        import torch
        from sentence_transformers import CrossEncoder

        family = reranker_family_of(folder, self.model)
        if family is None and is_language_model(folder) and not (folder / "modules.json").is_file():
            raise UsageError(
                f"model {self.model!r} is a language model, and neither its files (modules.json) nor its name say how "
                "it reranks; name a reranker"
            )
        device = torch_device(self.device)
        messages: list[str] = []
        try:
            with quiet_loading() as messages:
                encoder = CrossEncoder(
                    str(folder),
                    device=str(device),
                    local_files_only=True,
                    processor_kwargs={"chat_template": family.template} if family else None,
                )
                encoder = encoder.to(torch.bfloat16 if self.precision == "bf16" else torch.float32)
        except Exception as error:  # any error of torch, transformers or tokenizers on unsuitable files
            raise UsageError(f"model {self.model!r} can't be loaded: {why_not_loaded(error, messages)}") from error
        check_all_loaded(self.model, messages, "(?!)")
        if encoder.num_labels != 1:
            raise UsageError(
                f"model {self.model!r} gives {encoder.num_labels} scores a pair, a reranker gives one; name a reranker"
            )
        if encoder.tokenizer.pad_token is None:
            raise UsageError(f"model {self.model!r} can't be used: its tokenizer has no padding token")
        if family:
            _read_answer(encoder, family, self.model)
        self._limit(encoder)
        return encoder.eval()

    def _limit(self, encoder: CrossEncoder) -> None:
        """Set the number of tokens that are read: as set, else as few as tokenizer, model and default allow."""
        limits = [limit for limit in (longest_input(encoder.model), encoder.max_seq_length) if limit]
        most = min(limits, default=math.inf)
        if self.max_length is not None and self.max_length > most:
            raise UsageError(f"rerank.max_length {self.max_length}: model {self.model!r} reads {most} tokens at most")
        encoder.max_seq_length = int(self.max_length or min(most, _LENGTH))


def _read_answer(encoder: CrossEncoder, family: RerankerFamily, name: str) -> None:
    """Have the score made of the tokens that the family documents."""
    from sentence_transformers.cross_encoder.modules import LogitScore

    for module in encoder:
        if isinstance(module, LogitScore):
            module.true_token_id = _token(encoder, family.relevant, name)
            module.false_token_id = family.irrelevant and _token(encoder, family.irrelevant, name)


def _token(encoder: CrossEncoder, token: str, name: str) -> int:
    """Return the number of a token that the tokenizer must have."""
    number = encoder.tokenizer.convert_tokens_to_ids(token)
    if number is None or number == encoder.tokenizer.unk_token_id:
        raise UsageError(f"model {name!r} can't be used: its tokenizer has no token {token!r}, which is its answer")
    return int(number)
