"""Train DCN-V2 on what is known of user, context and note, with texts as vectors of a frozen bi-encoder.

Every exposed candidate of the train requests is an example, clicked or not. So a negative was shown to this user and
not clicked; no negative is drawn, at random or otherwise.

On the causes of `synth`: taste depends on user and note, and changes the order within a request. The source of a query
adds the same to all candidates of a request, so that no ranker can gain by it in MRR. Its value shows in how well the
probabilities of clicks fit (log-likelihood), or in the order of candidates across requests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, PrivateAttr, field_validator, model_validator

from qilin_rag.core.errors import UsageError, unknown_name
from qilin_rag.core.files import atomic_path, write_text
from qilin_rag.core.progress import stage
from qilin_rag.core.types import Frozen
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.exposures import Ints
from qilin_rag.data.notes import NoteStore
from qilin_rag.data.requests import Floats, Requests
from qilin_rag.rankers import features
from qilin_rag.rankers.features import Columns, UserColumns
from qilin_rag.rankers.trained import Recipe, TrainedRanker

if TYPE_CHECKING:
    from qilin_rag.rankers.cross_network import CrossNetwork
    from qilin_rag.rankers.propensity import Examination
    from qilin_rag.retrievers.dense.retriever import BiEncoder

WITHOUT = ("query_source", "history", "counts", "user", "text", "position")
_WEIGHTS, _FEATURES = "model.safetensors", "features.json"
_LEAST_ESTIMATING_STEPS, _MOST_ESTIMATING_STEPS = 200, 2000

Table = Annotated[tuple[Annotated[int, Field(ge=2)], PositiveInt], Field(description="buckets and width")]


class Tables(Frozen):
    """The buckets and width of the embeddings of each id; the widths are the paper's.

    The ids of notes and users are row numbers: with a bucket for each, and one for a missing id, no two share one. The
    other ids are texts; their buckets are several times the paper's numbers of values, because hashed texts may
    collide.
    """

    gender: Table = (64, 8)
    platform: Table = (64, 8)
    age: Table = (256, 16)
    location: Table = (4096, 32)
    user_idx: Table = (15_483, 64)
    note_type: Table = (8, 8)
    taxonomy1_id: Table = (512, 16)
    taxonomy2_id: Table = (2048, 32)
    taxonomy3_id: Table = (4096, 64)
    note_idx: Table = (1_983_940, 64)

    def n_buckets(self) -> dict[str, int]:
        """Return the number of buckets by id."""
        return {name: table[0] for name, table in self}


class FittedDCN(NamedTuple):
    """A network, and the encoder of its texts (None: no text)."""

    network: CrossNetwork
    encoder: BiEncoder | None
    examination: Examination | None
    """The position bias, if clicks were weighted by it."""

    @property
    def model(self) -> CrossNetwork:
        """Return the network, which is trained."""
        return self.network


class DCNV2(TrainedRanker):
    """Deep and cross network, version 2 (Wang et al. 2021): cross layers beside a deep part.

    Example:
        >>> DCNV2(without=["counts"], debias="ipw").changed()
        {'without': ['counts'], 'debias': 'ipw'}
    """

    version: ClassVar[int] = 2
    pretrained: ClassVar[frozenset[str]] = frozenset({"encoder"})
    built_on: ClassVar[frozenset[str]] = pretrained
    only_if_set: ClassVar[frozenset[str]] = frozenset({"page_columns"})

    encoder: str | None = None
    """A folder or a hub name of the bi-encoder of queries and notes, or the folder of a trained one. Default: no text.
    """
    without: tuple[str, ...] = ()
    """Inputs to leave out: query_source, history, counts (undated: may hold the test's clicks), user, text, position.
    """
    debias: Literal["tower", "ipw", "none"] = "tower"
    """Against position bias: tower (learned, left out of scores), ipw (clicks weighted by 1 / position^-eta), or none.
    """
    position_bias_exponent: Annotated[float, Field(ge=0, le=5)] | None = None
    """The eta of ipw, from 0 to 5. Default: estimated from the train clicks."""
    most_weight: Annotated[float, Field(ge=1)] = 10.0
    """The largest weight of a click in ipw, from 1."""
    page_columns: Literal[1, 2] = 1
    """Columns of the results page, 1 or 2. With 2, odd positions are left, even ones right, and 0 is in neither: the
    tower has numbers for each column, and ipw estimates how often the right one is looked at. Default: 1, since the
    layout is only inferred, and the column of a note says little of the note, so that it biases little."""

    tables: Tables = Tables()
    """Buckets and width of the embeddings of each id."""
    n_cross_layers: NonNegativeInt = 3
    """The number of cross layers."""
    rank: PositiveInt | None = None
    """The rank of the matrices of the cross layers. Default: full."""
    hidden: tuple[PositiveInt, ...] = (512, 512)
    """The widths of the layers of the deep part."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """The share of units of the deep part that are dropped in training."""
    embedding_learning_rate: PositiveFloat = 0.1
    """The learning rate of embeddings and of the tower."""
    batch_size: PositiveInt = 2048
    score_batch_size: PositiveInt = 8192
    warmup_steps: NonNegativeInt = 100
    gradient_checkpointing: Literal[False] = False
    """Always false: dcn-v2 has no gradient checkpointing."""

    _users: tuple[Any, UserColumns] | None = PrivateAttr(default=None)
    _columns: dict[str, tuple[NoteStore, Columns]] = PrivateAttr(default_factory=dict)

    @field_validator("without")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in WITHOUT:
                raise ValueError(str(unknown_name("input", name, WITHOUT)))
        return tuple(name for name in WITHOUT if name in names)

    @model_validator(mode="after")
    def _exponent_is_used(self) -> DCNV2:
        if self.position_bias_exponent is not None and self.debias != "ipw":
            raise ValueError(f"position_bias_exponent is for debias ipw, not {self.debias}")
        if self.page_columns == 2 and self.debias == "none":
            raise ValueError("page_columns is for debias tower and ipw, not none")
        if self.page_columns == 2 and self.position_bias_exponent is not None:
            raise ValueError("page_columns 2 is estimated with the exponent; leave position_bias_exponent out")
        return self

    def identity(self) -> dict[str, Any]:
        """Identify the encoder by its content, not its path."""
        encoder = self._open_encoder()
        return super().identity() | {"encoder": None if encoder is None else _sha256(encoder)}

    @property
    def is_click_logit(self) -> bool:
        """Return whether scores are fitted to the clicks as they are, without taking out the position."""
        return self._debias == "none"

    def recipe(self, train: Requests, catalogue: Catalogue) -> Recipe:
        """Make a new network with numbers scaled by train, and an example for each candidate."""
        import torch
        from transformers import Trainer, TrainingArguments

        from qilin_rag.rankers.batches import Examples, as_one
        from qilin_rag.rankers.propensity import Examination, click_weights, position_buckets

        fitted, columns = self._new(train, catalogue)
        examination = None
        weights: Floats = np.ones(train.n_candidates, np.float32)
        if self._debias == "ipw":
            if self.position_bias_exponent is not None:
                examination = Examination(self.position_bias_exponent)
            else:
                with torch.random.fork_rng(range(torch.cuda.device_count())):
                    examination = self._estimate(self._new(train, catalogue)[0].network, train, columns)
            weights = click_weights(train.position, examination, self.most_weight)
        position = position_buckets(train.position, self.page_columns) if self._debias == "tower" else None
        examples = Examples(columns, train.clicked * weights, position)
        return Recipe(
            Trainer,
            TrainingArguments,
            fitted.network,
            fitted._replace(examination=examination),
            examples,
            self.parameters(fitted.network),
            given={"data_collator": as_one},
            more_arguments={"remove_unused_columns": False, "ddp_find_unused_parameters": False},
        )

    def parameters(self, network: CrossNetwork) -> list[dict[str, Any]]:
        """Return the optimizer's groups: embeddings and tower at their own learning rate, and all else."""
        tables = [
            parameter
            for module in (network.tables, network.tower)
            if module is not None
            for parameter in module.parameters()
        ]
        known = {id(parameter) for parameter in tables}
        others = [parameter for parameter in network.parameters() if id(parameter) not in known]
        return [{"params": tables, "lr": self.embedding_learning_rate}, {"params": others}]

    def score_with(self, fitted: FittedDCN, requests: Requests, catalogue: Catalogue) -> Floats:
        """Return the logit of each candidate, whatever its position."""
        import torch

        columns = self._columns_of(requests, catalogue, fitted.encoder)
        device = next(fitted.network.parameters()).device
        scores: Floats = np.zeros(requests.n_candidates, np.float32)
        starts = range(0, requests.n_candidates, self.score_batch_size)
        with stage("dcn-v2", len(starts)) as advance:
            for start in starts:
                rows = np.arange(start, min(start + self.score_batch_size, requests.n_candidates))
                batch = {name: torch.from_numpy(values).to(device) for name, values in columns.batch(rows).items()}
                scores[rows] = fitted.network.logits(batch).float().cpu().numpy()
                advance()
        return scores

    def save(self, fitted: FittedDCN, folder: Path) -> None:
        """Save weights and the scales of numbers, and which encoder was used."""
        from safetensors.torch import save_file

        state = {name: tensor.detach().cpu().contiguous() for name, tensor in fitted.network.state_dict().items()}
        with atomic_path(folder / _WEIGHTS) as weights:
            save_file(state, weights)
        encoder, examination = fitted.encoder, fitted.examination
        content = {
            "encoder": {"model": self.encoder if encoder else None, "sha256": _sha256(encoder) if encoder else None},
            "text_width": fitted.network.shape.text_width,
            "position_bias_exponent": examination.exponent if examination else None,
            **({"right_column_propensity": examination.right} if examination and self.page_columns == 2 else {}),
            "note_numbers": _scales(features.note_numbers("counts" not in self.without), fitted.network.note_scale),
            "user_numbers": _scales(features.USER_COUNTS + features.USER_NUMBERS, fitted.network.user_scale),
        }
        write_text(folder / _FEATURES, json.dumps(content, ensure_ascii=False, indent=2) + "\n")

    def load(self, folder: Path) -> FittedDCN:
        """Load what `save` wrote; raise a UsageError if the encoder is not the one of training."""
        from safetensors.torch import load_file

        from qilin_rag.rankers.cross_network import CrossNetwork
        from qilin_rag.rankers.propensity import Examination

        kept = json.loads((folder / _FEATURES).read_text(encoding="utf-8"))
        encoder = self._open_encoder()
        if not _is_of(encoder, kept["encoder"]["sha256"]):
            raise UsageError(
                f"encoder {self.encoder!r} is not the one this ranker was trained with ({kept['encoder']['model']!r}), "
                "or its files have changed; name that one with the setting encoder"
            )
        network = CrossNetwork(self.shape(kept["text_width"]))
        weights = load_file(folder / _WEIGHTS)
        if weights.keys() != network.state_dict().keys():
            raise UsageError(f"{folder} was trained by another version of dcn-v2; train it again")
        network.load_state_dict(weights)
        exponent, right = kept["position_bias_exponent"], kept.get("right_column_propensity", 1.0)
        examination = None if exponent is None else Examination(exponent, right)
        return FittedDCN(network.to(self.torch_device()).eval(), encoder, examination)

    @property
    def _debias(self) -> str:
        return "none" if "position" in self.without else self.debias

    def _open_encoder(self) -> BiEncoder | None:
        if self.encoder is None or "text" in self.without:
            return None
        from qilin_rag.rankers.text_vectors import open_encoder

        return open_encoder(self.encoder, self.device)

    def shape(self, text_width: int) -> Any:
        """Return the shape of the network with these settings; text vectors have so many numbers (0: no text)."""
        from qilin_rag.rankers.cross_network import Shape

        return Shape(
            tables=dict(self.tables),
            n_note_numbers=len(features.note_numbers("counts" not in self.without)),
            n_user_numbers=0 if "user" in self.without else len(features.USER_COUNTS + features.USER_NUMBERS),
            text_width=text_width,
            has_source="query_source" not in self.without,
            has_history="history" not in self.without,
            n_cross_layers=self.n_cross_layers,
            rank=self.rank,
            hidden=self.hidden,
            dropout=self.dropout,
            has_tower=self._debias == "tower",
            page_columns=self.page_columns,
        )

    def _new(self, train: Requests, catalogue: Catalogue) -> tuple[FittedDCN, Columns]:
        """Return a network that knows the scales of train, and the columns of train."""
        import torch

        from qilin_rag.rankers.cross_network import CrossNetwork

        encoder = self._open_encoder()
        columns = self._columns_of(train, catalogue, encoder)
        network = CrossNetwork(self.shape(0 if columns.text is None else columns.text.notes.shape[1]))
        known = features.bucket_of_ids(np.union1d(train.note_idx, train.recent), self.tables.note_idx[0])
        network.knows_note.zero_()
        network.knows_note[torch.from_numpy(known).long()] = True
        scaled = [(network.note_scale, columns.notes.numbers)]
        if columns.users is not None and columns.user_row is not None:
            scaled.append((network.user_scale, columns.users.numbers[np.unique(columns.user_row)]))
        for scale, numbers in scaled:
            mean, std = features.mean_and_std(numbers)
            scale.mean.copy_(torch.from_numpy(mean))
            scale.std.copy_(torch.from_numpy(std))
        return FittedDCN(network, encoder, None), columns

    def _estimate(self, network: CrossNetwork, train: Requests, columns: Columns) -> Examination:
        """Estimate the position bias in the clicks of train, in one pass by a network of its own."""
        import torch

        from qilin_rag.rankers.propensity import estimate_examination

        device = self.torch_device()
        rng = np.random.default_rng(self.seed)

        def batches() -> Iterator[tuple[dict[str, Any], Any, Any]]:
            order: Ints = rng.permutation(train.n_candidates)
            size = max(1, min(self.batch_size, train.n_candidates // _LEAST_ESTIMATING_STEPS))
            for start in range(0, min(len(order), size * _MOST_ESTIMATING_STEPS), size):
                rows = order[start : start + size]
                batch = {name: torch.from_numpy(values).to(device) for name, values in columns.batch(rows).items()}
                clicked = torch.from_numpy(train.clicked[rows].astype(np.float32)).to(device)
                yield batch, clicked, torch.from_numpy(train.position[rows]).to(device)

        groups = self.parameters(network.to(device).train())
        rates = (min(self.embedding_learning_rate, 0.01), 1e-3)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        return estimate_examination(network, groups, batches(), self.page_columns)

    def _columns_of(self, requests: Requests, catalogue: Catalogue, encoder: BiEncoder | None) -> Columns:
        """Return the columns of these requests; the last ones are kept, because validation asks for them repeatedly."""
        kept = self._columns.get(requests.sha256)
        if kept is not None and kept[0] is catalogue.notes:
            return kept[1]
        text = None
        if encoder is not None:
            from qilin_rag.rankers.text_vectors import text_columns

            text = text_columns(encoder, requests, catalogue)
        users = None if "user" in self.without else self._users_of(catalogue)
        columns = features.columns_of(requests, catalogue, self.tables.n_buckets(), self.without, users, text)
        for old in list(self._columns)[:-1]:
            del self._columns[old]
        self._columns[requests.sha256] = catalogue.notes, columns
        return columns

    def _users_of(self, catalogue: Catalogue) -> UserColumns:
        users = catalogue.need_users("dcn-v2 (unless without: [user])")
        if self._users is None or self._users[0] is not users:
            self._users = users, features.read_user_columns(users, self.tables.n_buckets())
        return self._users[1]


def _is_of(encoder: BiEncoder | None, sha256: str | None) -> bool:
    from qilin_rag.rankers.text_vectors import is_encoder

    return encoder is None if sha256 is None else encoder is not None and is_encoder(encoder, sha256)


def _sha256(encoder: BiEncoder) -> str:
    from qilin_rag.rankers.text_vectors import encoder_sha256

    return encoder_sha256(encoder)


def _scales(names: tuple[str, ...], scale: Any) -> dict[str, Any]:
    """Return mean and standard deviation by name, for people; the network's own are in its weights."""
    pairs = zip(names, scale.mean.tolist(), scale.std.tolist(), strict=False)
    return {name: {"mean": mean, "std": std} for name, mean, std in pairs}
