"""BERTScore (Zhang et al. 2020): how well the tokens of answer and reference match in the space of an encoder.

F1 is computed as by the package bert_score 0.3.13, without idf weights and without rescaling.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import ClassVar, TypeVar

from pydantic import NonNegativeFloat, PositiveInt, PrivateAttr

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import missing_modules, require
from qilin_rag.core.files import expanded
from qilin_rag.core.progress import stage
from qilin_rag.core.text import slug
from qilin_rag.models.pretrained import fetch_model, find_model, model_sha256
from qilin_rag.models.token_encoder import Encoded, Encoder, Precision, max_tokens
from qilin_rag.scorers.base import Remarked, TextScorer
from qilin_rag.scorers.kept_vectors import Ids, KeptVectors

logger = logging.getLogger(__name__)

_MODULES = ("torch", "transformers")
Pair = tuple[Ids, Ids]
T = TypeVar("T")


class BertScore(TextScorer):
    """BERTScore F1 (Zhang et al. 2020), the best over the references; 0 if a side is empty.

    It is computed as by the package bert_score 0.3.13, without idf weights and without rescaling. Vectors of references
    stay in memory as long as this object exists.

    Example:
        >>> import qilin_rag as qr
        >>> scorer = BertScore(model="hfl/chinese-roberta-wwm-ext", layer=9)
        >>> scorer.changed()
        {'model': 'hfl/chinese-roberta-wwm-ext', 'layer': 9}
    """

    metric: ClassVar[str] = "bertscore"
    operational: ClassVar[frozenset[str]] = frozenset({"batch_size", "device", "cache_gb"})

    model: str = "bert-base-chinese"
    """A hub name or a folder of a pretrained encoder."""
    layer: PositiveInt = 8
    """The layer whose output is compared; 1 is the first."""
    batch_size: PositiveInt = 32
    """The number of texts, and of pairs, that are computed at a time."""
    device: str | None = None
    """A torch device. Default: cuda if there is one, else cpu."""
    precision: Precision = "fp32"
    """The precision that the model computes in: fp32 or bf16."""
    cache_gb: NonNegativeFloat = 0.0
    """The most GB of vectors to keep in the cache folder, of all models together; 0 keeps none."""

    _found: tuple[Path, str] | None = PrivateAttr(default=None)
    _max_tokens: int | None = PrivateAttr(default=None)
    _encoder: Encoder | None = PrivateAttr(default=None)
    _kept: KeptVectors | None = PrivateAttr(default=None)
    _foreseen: set[str] = PrivateAttr(default_factory=set)

    def unavailable(self) -> str | None:
        """Return what is missing: packages, or the model if it is not on this machine."""
        if missing_table := super().unavailable():
            return missing_table
        if missing := missing_modules(*_MODULES):
            return f"{' and '.join(missing)} not installed, pip install 'qilin-rag[neural]'"
        return None if find_model(self.model) else f"model {self.model!r} is not on this machine"

    def signatures(self) -> dict[str, str]:
        """Return the signature: model with the hash of its content, layer, weighting, limit, and treatment of texts."""
        folder, digest = self._find()
        name = slug(folder.resolve().name) if expanded(self.model).exists() else self.model
        precision = "" if self.precision == "fp32" else f"|precision:{self.precision}"
        layer = f"layer:{self.layer}{precision}"
        if self._max_tokens is None:
            self._max_tokens = max_tokens(folder)
        made = f"model:{name}@{digest[:8]}|{layer}|f1:greedy|idf:no|rescale:no|max:{self._max_tokens} tokens"
        return {self.metric: f"bertscore|{made}|{self.treatment}|refs:max|v{self.version}"}

    def prepare(self) -> None:
        """Load model and tokenizer onto the CPU; raise a UsageError if they can't be used."""
        super().prepare()
        self._load()
        if self.device is not None:
            _check_device(self.device)

    def prepare_texts(self, texts: Iterable[str]) -> list[str]:
        """Return the texts that are compared."""
        return [text.strip() for text in super().prepare_texts(texts)]

    def score_answers(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[Remarked]:
        """Return the best F1 over each answer's references, with a remark if one of these texts was cut."""
        ours = self.prepare_texts(answers)
        theirs = [self.prepare_texts(targets) for targets in references]
        pairs = dict.fromkeys((a, t) for a, targets in zip(ours, theirs, strict=True) for t in targets)
        if not pairs:
            return [Remarked(0.0) for _ in answers]
        encoder = self._load()
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        token_ids, is_cut = encoder.tokenize(texts)
        ids = {text: tuple(of_text) for text, of_text in zip(texts, token_ids, strict=True)}
        cut = {text for text, was_cut in zip(texts, is_cut, strict=True) if was_cut}
        if cut:
            most = encoder.max_text_tokens
            logger.warning("bertscore: %d of %d texts were longer than %d tokens and cut", len(cut), len(texts), most)
        f1 = dict(self._match(encoder, {(ids[answer], ids[target]) for answer, target in pairs}))
        return [
            Remarked(
                max((f1[ids[answer], ids[target]] for target in targets), default=0.0),
                f"cut to {encoder.max_tokens} tokens" if not cut.isdisjoint([answer, *targets]) else None,
            )
            for answer, targets in zip(ours, theirs, strict=True)
        ]

    def foresee(self, answers: Sequence[Iterable[str]]) -> None:
        """Keep the vectors of answers that more than one of these runs has, like those of references."""
        n_runs = Counter(text for of_run in answers for text in set(self.prepare_texts(of_run)))
        self._foreseen = {text for text, n in n_runs.items() if n > 1}

    def _match(self, encoder: Encoder, pairs: Set[Pair]) -> Iterator[tuple[Pair, float]]:
        """Yield the F1 of each pair, the shortest answers first.

        The vectors of references are kept; those of answers are made here and dropped, so that memory grows with
        neither. Answers and references are never in one batch: an answer's vectors do not depend on what was kept
        before.
        """
        device, kept = self._device(), self._vectors()
        foreseen = {tuple(ids) for ids in encoder.tokenize(sorted(self._foreseen))[0]}
        targets: dict[Ids, list[Ids]] = {}
        for answer, target in sorted(pairs, key=lambda pair: [(len(ids), ids) for ids in pair]):
            targets.setdefault(answer, []).append(target)
        self._keep(encoder, {target for _, target in pairs} | (foreseen & targets.keys()), device)
        own = [answer for answer in targets if answer not in kept]
        others = [answer for answer in targets if answer in kept]
        made = (
            (batch, encoder.encode(batch, device)) for batch in _watched("bertscore: answers", own, self.batch_size)
        )
        known = ((batch, [kept.get(ids) for ids in batch]) for batch in _batches(others, self.batch_size))
        for batch, hidden in chain(made, known):
            encoded = {ids: encoder.weighted(ids, its, device) for ids, its in zip(batch, hidden, strict=True)}
            for some in _batches([(answer, target) for answer in batch for target in targets[answer]], self.batch_size):
                theirs = [encoder.weighted(target, kept.get(target), device) for _, target in some]
                yield from zip(some, _f1([encoded[answer] for answer, _ in some], theirs), strict=True)

    def _keep(self, encoder: Encoder, texts: Set[Ids], device: str) -> None:
        """Make the vectors of these texts that are not kept yet."""
        kept = self._vectors()
        kept.look(texts)
        new = sorted((ids for ids in texts if ids not in kept), key=lambda ids: (len(ids), ids))
        batches = _watched("bertscore: references", new, self.batch_size)
        kept.put(new, (its.cpu() for batch in batches for its in encoder.encode(batch, device)))

    def _vectors(self) -> KeptVectors:
        if self._kept is None:
            folder, digest = self._find()
            made_of = {"model": digest, "layer": self.layer, "precision": self.precision}
            made_by = {package: version(package) for package in ("torch", "transformers")}
            made_by["device"] = self._device().partition(":")[0]
            name = f"{folder.resolve().name[:20]}-layer{self.layer}-{self.precision}"
            self._kept = KeptVectors(name, made_of | made_by, int(self.cache_gb * 1e9))
        return self._kept

    def _find(self) -> tuple[Path, str]:
        """Return the folder of the model and the hash of its content."""
        if self._found is None:
            require("neural", *_MODULES, what="bertscore")
            folder = fetch_model(self.model)
            self._found = folder, model_sha256(folder)
        return self._found

    def _load(self) -> Encoder:
        if self._encoder is None:
            self._encoder = Encoder(self._find()[0], self.layer, self.precision)
        return self._encoder

    def _device(self) -> str:
        import torch

        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")


def _f1(answers: Sequence[Encoded], references: Sequence[Encoded]) -> list[float]:
    """Return the F1 of each pair: every token matches its most similar one on the other side, special tokens included.

    Padding tokens are masked. In bert_score they have a similarity of 0, so that its figures depend on the batch if the
    best similarity of a token is below 0, which is rare in trained encoders.
    """
    import torch

    def pad(rows: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)

    ours, theirs = pad([answer.vectors for answer in answers]), pad([target.vectors for target in references])
    our_weights, their_weights = pad([answer.weights for answer in answers]), pad([t.weights for t in references])
    there = ours.any(dim=2).unsqueeze(2) & theirs.any(dim=2).unsqueeze(1)
    similarity = (ours @ theirs.transpose(1, 2)).masked_fill(~there, -1.0)
    precision = (similarity.amax(2) * our_weights).sum(1) / our_weights.sum(1)
    recall = (similarity.amax(1) * their_weights).sum(1) / their_weights.sum(1)
    f1 = 2 * precision * recall / (precision + recall)
    is_empty = (our_weights.sum(1) == 0) | (their_weights.sum(1) == 0) | (precision + recall == 0)
    found: list[float] = f1.masked_fill(is_empty, 0.0).tolist()  # 0 / 0; NaNs of broken weights stay
    return found


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _watched(name: str, items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yield batches, as a stage whose progress is what has been taken."""
    with stage(name, len(items)) as advance:
        for batch in _batches(items, size):
            yield batch
            advance(len(batch))


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except Exception as error:  # no such device, or none left on it: one class each
        raise UsageError(f"bertscore can't use device {device!r}: {error}") from error
