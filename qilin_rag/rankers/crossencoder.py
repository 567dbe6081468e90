"""Train a cross-encoder, which reads query and note together, by sentence-transformers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt

from qilin_rag.core.errors import UsageError
from qilin_rag.core.progress import Advance, stage
from qilin_rag.core.text import visible
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.exposures import Ints
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.models.batches import ahead
from qilin_rag.models.pretrained import check_all_loaded, fetch_model, longest_input, quiet_loading, why_not_loaded
from qilin_rag.models.sentence_encoder import MAX_CHARS_PER_TOKEN
from qilin_rag.models.tokens import batch_tokens
from qilin_rag.rankers.passages import distinct_notes, matching_part, note_texts
from qilin_rag.rankers.trained import Recipe, TrainedRanker

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder as Encoder

_CHUNK_PAIRS = 8192  # candidates whose texts are held at a time, and read in order of length
_MOST_TOKENS_PER_CHAR = 4  # characters; a token has at least one byte


class CrossEncoder(TrainedRanker):
    """A cross-encoder: one number for `query [SEP] title content`, by a linear head on an encoder.

    It is trained by binary cross-entropy on each click and `n_negatives` results of its request. A negative was not
    clicked, and was clicked in fewer than half of the requests of the same query that showed it. If the model has no
    head, a random one is added. Of a pair with too many tokens the note is cut; a query is cut only beyond three
    quarters of `max_length`.

    Example:
        >>> CrossEncoder(pooling="mean", n_negatives=4).changed()
        {'pooling': 'mean', 'n_negatives': 4}
    """

    version: ClassVar[int] = 2
    packages: ClassVar[tuple[str, ...]] = (*TrainedRanker.packages, "sentence-transformers")
    pretrained: ClassVar[frozenset[str]] = frozenset({"model"})
    reads_text_only: ClassVar[bool] = True

    model: str = "bert-base-chinese"
    """A folder or a hub name of an encoder to start from."""
    max_length: Annotated[int, Field(ge=32)] = 512
    """The most tokens of a pair that are read."""
    pooling: Literal["cls", "mean"] = "cls"
    """The input of the head: cls ([CLS] or the like), or mean of all tokens (better for encoders such as e5)."""
    passage_chars: PositiveInt | None = None
    """The number of characters that are read of a longer content: those that have most in common with the query.
    Default: the beginning is read.
    """
    n_negatives: PositiveInt = 10
    """The number of results of the request, not clicked, beside each click."""

    @property
    def is_click_logit(self) -> bool:
        """Return True: it is trained on binary cross-entropy of clicks."""
        return True

    def recipe(self, train: Requests, catalogue: Catalogue) -> Recipe:
        """Load the pretrained encoder with a head, and make an example for each pair; texts are looked up by batch."""
        import torch
        from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments
        from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator

        from qilin_rag.rankers.pair_loss import PairLoss, PairTrainer

        class Pairs(CrossEncoderDataCollator):  # type: ignore[misc]
            """Looks up and tokenizes a batch."""

            def __call__(collator, features: list[dict[str, Any]]) -> dict[str, Any]:  # noqa: N805
                queries = [train.queries[row["request"]] for row in features]
                pairs = self._pairs(encoder, queries, np.array([row["note"] for row in features]), catalogue)
                labels = torch.tensor([row["label"] for row in features])
                return {**batch_tokens(encoder, pairs), "label": labels}

        encoder = self._load(fetch_model(self.model), self.model, is_new=True)
        return Recipe(
            PairTrainer,
            CrossEncoderTrainingArguments,
            encoder,
            encoder,
            self._examples(train),
            [{"params": [parameter for parameter in encoder.parameters() if parameter.requires_grad]}],
            given={"loss": PairLoss(encoder), "data_collator": Pairs(encoder.preprocess)},
            # All are used; torch would search for unused ones in an output that it can't read, and take all for unused.
            more_arguments={"ddp_find_unused_parameters": False},
        )

    def score_with(self, fitted: Any, requests: Requests, catalogue: Catalogue) -> Floats:
        """Return the logit of each distinct pair of texts: notes with the same text have the same score."""
        texts, text = np.unique(np.array(requests.queries, dtype=object), return_inverse=True)
        notes, note = distinct_notes(catalogue, requests.note_idx)
        columns = np.stack([text[requests.request], note])
        pairs, pair = np.unique(columns, axis=1, return_inverse=True)
        scores: Floats = np.empty(pairs.shape[1], np.float32)
        with stage("scoring", len(scores)) as advance:
            for start in range(0, len(scores), _CHUNK_PAIRS):
                chunk = slice(start, start + _CHUNK_PAIRS)
                queries = texts[pairs[0, chunk]].tolist()
                scores[chunk] = self._logits(fitted, queries, notes[pairs[1, chunk]], catalogue, advance)
        return scores[pair.reshape(-1)]

    def save(self, fitted: Any, folder: Path) -> None:
        """Save model and tokenizer as sentence-transformers does."""
        with quiet_loading():
            fitted.save_pretrained(str(folder), create_model_card=False)

    def load(self, folder: Path) -> Any:
        """Load the model; all its weights must exist."""
        return self._load(folder, str(folder), is_new=False)

    def _examples(self, train: Requests) -> Any:
        """Return a row of numbers for each pair."""
        from datasets import Dataset

        from qilin_rag.rankers.examples import with_negatives

        rows = with_negatives(train, self.n_negatives, self.seed)
        label = train.clicked[rows].astype(np.float32)
        return Dataset.from_dict({"request": train.request[rows], "note": train.note_idx[rows], "label": label})

    def _logits(
        self, encoder: Encoder, queries: list[str], note_idxs: Ints, catalogue: Catalogue, advance: Advance
    ) -> Floats:
        """Return the logit of each query with its note, in batches of similar length; a thread tokenizes the next."""
        import torch
        from sentence_transformers.util import batch_to_device

        pairs = self._pairs(encoder, queries, note_idxs, catalogue)
        lengths = np.array([len(query) + len(text) for query, text in pairs])
        order = np.argsort(lengths, kind="stable")
        parts = (order[start : start + self.score_batch_size] for start in range(0, len(order), self.score_batch_size))
        batches = (rows[np.argsort(-lengths[rows])] for rows in parts)  # as CrossEncoder.predict has them
        logits: Floats = np.empty(len(pairs), np.float32)
        with torch.inference_mode(), ThreadPoolExecutor(1) as pool:
            for rows, tokens in ahead(pool, lambda rows: batch_tokens(encoder, [pairs[i] for i in rows]), batches, 2):
                scores = encoder(batch_to_device(tokens, encoder.device))["scores"]
                logits[rows] = scores.float().squeeze(-1).cpu().numpy()
                advance(len(rows))
        return logits

    def _pairs(
        self, encoder: Encoder, queries: list[str], note_idxs: Ints, catalogue: Catalogue
    ) -> list[tuple[str, str]]:
        """Return what is read of each query and its note; a note is looked up once."""
        found, at = np.unique(note_idxs, return_inverse=True)
        if self.passage_chars is None:
            texts = note_texts(catalogue, found)
            read = [texts[i] for i in at]
        else:
            notes = catalogue.notes.get(found.tolist())
            read = [matching_part(notes[i], query, self.passage_chars) for i, query in zip(at, queries, strict=True)]
        most = self.max_length * MAX_CHARS_PER_TOKEN
        return [
            (self._fitting(encoder, visible(query)), visible(text)[:most])
            for query, text in zip(queries, read, strict=True)
        ]

    def _fitting(self, encoder: Encoder, query: str) -> str:
        """Cut a query that would leave less than a quarter of the length for note and separators."""
        most = self.max_length * 3 // 4
        if _MOST_TOKENS_PER_CHAR * len(query) <= most:
            return query
        places = encoder.tokenizer(
            query, add_special_tokens=False, return_offsets_mapping=True, truncation=True, max_length=most + 1
        )["offset_mapping"]
        return query if len(places) <= most else query[: places[most - 1][1]]

    def _load(self, folder: Path, name: str, is_new: bool) -> Encoder:
        """Load the model in full precision; a head may be new only at the start of training."""
        from sentence_transformers import CrossEncoder as Encoder

        messages: list[str] = []
        try:
            with quiet_loading() as messages:
                has_own_head = not (is_new and self.pooling == "mean")
                encoder = Encoder(
                    **({"model_name_or_path": str(folder)} if has_own_head else {"modules": self._mean_pooled(folder)}),
                    num_labels=1,
                    max_length=self.max_length,
                    device="cpu" if is_new else self.device,  # the trainer moves it to its device
                    local_files_only=True,
                ).float()
        except Exception as error:  # any error of torch, transformers or tokenizers on unsuitable files
            raise UsageError(f"model {name!r} can't be loaded: {why_not_loaded(error, messages)}") from error
        if encoder.tokenizer.pad_token is None:
            raise UsageError(f"model {name!r} can't be used: its tokenizer has no padding token; name one like BERT")
        inner = encoder.model.base_model_prefix
        head = rf"(?!{inner}\.)|{inner}\.pooler\." if has_own_head else r"pooler\."
        check_all_loaded(name, messages, head if is_new else "(?!)")
        limit = longest_input(encoder[0].model)
        if limit is not None and limit < self.max_length:
            raise UsageError(f"max_length {self.max_length}: model {name!r} reads {limit} tokens at most")
        encoder[0].processing_kwargs = {"text": {"truncation": "only_second"}}
        return encoder.eval()

    def _mean_pooled(self, folder: Path) -> list[Any]:
        """Return the modules: an encoder, the mean of its tokens, and a new linear head."""
        import torch
        from sentence_transformers.base.modules import Dense, Transformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        encoder = Transformer(str(folder), transformer_task="feature-extraction", max_seq_length=self.max_length)
        for name, parameter in encoder.named_parameters():
            if ".pooler." in name:  # of [CLS], not used
                parameter.requires_grad_(False)
        width = encoder.get_embedding_dimension()
        head = Dense(width, 1, activation_function=torch.nn.Identity(), module_output_name="scores")
        return [encoder, Pooling(width, "mean"), head]
