"""Train SASRec (Kang and McAuley 2018): predict the next click from the user's clicks before the request.

Each click of the train requests is an example. Its history ends before its request, so that clicks of one request,
which have no times of their own, do not predict one another.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import atomic_path
from qilin_rag.core.progress import stage
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.clicks import Kind, histories
from qilin_rag.data.exposures import MISSING
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.rankers.examples import contrasts
from qilin_rag.rankers.trained import Recipe, TrainedRanker

if TYPE_CHECKING:
    from qilin_rag.rankers.sequence_network import SequenceNetwork, Sequences

_WEIGHTS = "model.safetensors"
_N_CANDIDATES = 65_536  # scored at a time


class SASRec(TrainedRanker):
    """Self-attentive sequential recommendation (Kang and McAuley 2018) over clicks of search and recommendation.

    It reads no text and no query. Notes are known by id alone: one that was not clicked in train has the mean score of
    all that were, and is left out of histories.

    Example:
        >>> SASRec(history_length=20, negatives="shown").changed()
        {'history_length': 20, 'negatives': 'shown'}
    """

    reads_clicks: ClassVar[bool] = True

    history_length: PositiveInt = 50
    """The most clicks of a history, the latest ones."""
    clicks_of: Kind = "both"
    """The clicks that histories hold: those of search, of recommendation, or both."""
    negatives: Literal["random", "shown"] = "random"
    """Notes that a click is told from: random ones of train, as in the paper, or those of its request not clicked."""
    n_negatives: PositiveInt = 1
    """The number of negatives of a click."""
    width: PositiveInt = 50
    """The width of the embeddings and of the blocks."""
    n_blocks: PositiveInt = 2
    """The number of blocks of self-attention."""
    n_heads: PositiveInt = 1
    """The number of heads; a divisor of `width`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """The share of units that are dropped in training."""
    optimizer: Literal["lamb", "adamw"] = "adamw"
    batch_size: PositiveInt = 128
    score_batch_size: PositiveInt = 512
    """The number of histories that are encoded at a time."""
    epochs: Annotated[float, Field(gt=0)] = 20.0
    patience: PositiveInt = 20
    gradient_checkpointing: Literal[False] = False
    """Always false: sasrec has no gradient checkpointing."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> SASRec:
        if self.width % self.n_heads:
            raise ValueError(f"n_heads {self.n_heads} does not divide width {self.width}")
        return self

    def recipe(self, train: Requests, catalogue: Catalogue) -> Recipe:
        """Make a new network of the notes clicked in train, and an example for each click."""
        import torch
        from transformers import Trainer, TrainingArguments

        from qilin_rag.rankers.batches import as_one
        from qilin_rag.rankers.sequence_network import ClickExamples

        clicks = contrasts(train, self.n_negatives, self.seed)
        past = histories(train, catalogue.need_clicks("sasrec"), self.history_length, self.clicks_of)
        known = [clicks.positive, past.note_idx]
        if self.negatives == "shown":
            known.append(clicks.negatives[clicks.negatives != MISSING])
        notes = np.unique(np.concatenate(known))
        network = self._network(len(notes))
        network.note_idx.copy_(torch.from_numpy(notes))
        shown = network.rows_of(clicks.negatives) if self.negatives == "shown" else None
        examples = ClickExamples(
            self._sequences(network, train, catalogue),
            clicks.request,
            network.rows_of(clicks.positive),
            shown,
            self.n_negatives,
        )
        return Recipe(
            Trainer,
            TrainingArguments,
            network,
            network,
            examples,
            [{"params": list(network.parameters())}],
            given={"data_collator": as_one},
            more_arguments={"remove_unused_columns": False, "ddp_find_unused_parameters": False},
        )

    def score_with(self, fitted: SequenceNetwork, requests: Requests, catalogue: Catalogue) -> Floats:
        """Return the dot product of the history's vector and the embedding of each candidate."""
        import torch

        device = next(fitted.parameters()).device
        past = self._sequences(fitted, requests, catalogue)
        states = []
        starts = range(0, len(requests), self.score_batch_size)
        with stage("sasrec", len(starts)) as advance:
            for start in starts:
                rows = np.arange(start, min(start + self.score_batch_size, len(requests)))
                batch = {name: values.to(device) for name, values in past.batch(rows).items()}
                states.append(fitted.encode(**batch).float())
                advance()
        state = torch.cat(states)
        scores: Floats = np.zeros(requests.n_candidates, np.float32)
        rows, request = fitted.rows_of(requests.note_idx), requests.request
        for start in range(0, requests.n_candidates, _N_CANDIDATES):
            part = slice(start, start + _N_CANDIDATES)
            vectors = fitted.candidate_vectors(torch.from_numpy(rows[part]).to(device)).float()
            of_request = state[torch.from_numpy(request[part]).to(device)]
            scores[part] = (of_request * vectors).sum(dim=1).cpu().numpy()
        return scores

    def save(self, fitted: SequenceNetwork, folder: Path) -> None:
        """Save the weights, with the ids of the notes."""
        from safetensors.torch import save_file

        state = {name: tensor.detach().cpu().contiguous() for name, tensor in fitted.state_dict().items()}
        with atomic_path(folder / _WEIGHTS) as weights:
            save_file(state, weights)

    def load(self, folder: Path) -> SequenceNetwork:
        """Load what `save` wrote."""
        from safetensors.torch import load_file

        weights = load_file(folder / _WEIGHTS)
        notes = weights.get("note_idx")
        network = self._network(0 if notes is None else len(notes))
        there = {name: tensor.shape for name, tensor in weights.items()}
        if there != {name: tensor.shape for name, tensor in network.state_dict().items()}:
            raise UsageError(f"{folder} was trained by another version of sasrec; train it again")
        network.load_state_dict(weights)
        network.to(self.torch_device()).eval()
        return network

    def _network(self, n_notes: int) -> SequenceNetwork:
        from qilin_rag.rankers.sequence_network import SequenceNetwork, SequenceShape

        return SequenceNetwork(
            SequenceShape(n_notes, self.history_length, self.width, self.n_blocks, self.n_heads, self.dropout)
        )

    def _sequences(self, network: SequenceNetwork, requests: Requests, catalogue: Catalogue) -> Sequences:
        from qilin_rag.rankers.sequence_network import sequences

        log = catalogue.need_clicks("sasrec")
        return sequences(network, requests, histories(requests, log, self.history_length, self.clicks_of), log)
