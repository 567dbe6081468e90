"""Score pairs by late interaction: each query and each note is encoded once, whatever the number of its pairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from qilin_rag.models.batches import Rows
from qilin_rag.models.late_interaction import encode_tokens, max_sim
from qilin_rag.models.sentence_encoder import Task
from qilin_rag.rankers.pairs import Keep
from qilin_rag.rankers.score_store import Pair

if TYPE_CHECKING:
    import torch
    from sentence_transformers import MultiVectorEncoder


class TokenScorer:
    """Scores pairs by the MaxSim of their token vectors, and holds those of the queries that it has seen."""

    def __init__(
        self,
        encoder: MultiVectorEncoder,
        name: str,
        query_prefix: str | None,
        passage_prefix: str | None,
        batch_size: int | None,
    ) -> None:
        """Set the model, its name for errors, and how it is used (`encode_tokens`)."""
        self._encoder = encoder
        self._name = name
        self._query_prefix = query_prefix
        self._passage_prefix = passage_prefix
        self._batch_size = batch_size
        self._queries: dict[str, torch.Tensor] = {}

    def score_pairs(self, pairs: Sequence[Pair], keep: Keep) -> None:
        """Score each pair, and give the scores of a batch of notes to `keep` at once."""
        self._encode_queries(list(dict.fromkeys(query for query, _ in pairs)))
        places: dict[str, list[int]] = defaultdict(list)
        for place, (_, text) in enumerate(pairs):
            places[text].append(place)
        texts = list(places)
        for rows, vectors in self._encode(texts, "document"):
            of_batch: list[int] = []
            scores: list[float] = []
            for row, vector in zip(rows.tolist(), vectors, strict=True):
                of_text = places[texts[row]]
                queries = [self._queries[pairs[place][0]] for place in of_text]
                scores += max_sim(self._encoder, queries, [vector])[:, 0].tolist()
                of_batch += of_text
            keep(of_batch, scores)

    def _encode_queries(self, queries: Sequence[str]) -> None:
        unknown = [query for query in queries if query not in self._queries]
        for rows, vectors in self._encode(unknown, "query"):
            self._queries |= {unknown[row]: vector for row, vector in zip(rows.tolist(), vectors, strict=True)}

    def _encode(self, texts: Sequence[str], task: Task) -> Iterator[tuple[Rows, list[torch.Tensor]]]:
        kind, prefix = ("query", self._query_prefix) if task == "query" else ("note", self._passage_prefix)
        return encode_tokens(
            self._encoder,
            texts,
            task,
            prefix=prefix,
            batch_size=self._batch_size,
            named=(self._name, [f"{kind} {text[:50]!r}" for text in texts]),
        )
