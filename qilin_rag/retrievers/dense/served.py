"""Let a server encode queries and notes: its settings, the finished batches of a build, and the probe of its model.

Nothing shows which model a server runs behind a name. So an index holds the vectors of a few fixed texts, the probe.
The server is asked for them again when the index is opened and when a build resumes, and for the first of them with
each batch of notes. It must give the same vectors, but for the rounding of another engine.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, PrivateAttr, field_validator, model_validator

from qilin_rag.core.arrays import save_array
from qilin_rag.core.errors import UsageError
from qilin_rag.core.plugins import refuse_secrets
from qilin_rag.core.text import counted, visible
from qilin_rag.core.types import Price, Usage
from qilin_rag.core.units import format_amount
from qilin_rag.data import NoteStore
from qilin_rag.llms.embeddings import Embedded, EmbeddingServer, check_dimension
from qilin_rag.llms.endpoint import Endpoint, plain_address, plain_query
from qilin_rag.models.families import family_named
from qilin_rag.models.prefixes import Prefixes
from qilin_rag.models.sentence_encoder import Task, Vectors
from qilin_rag.retrievers.dense.kept_batches import KeptBatches, batch_key
from qilin_rag.retrievers.dense.note_input import to_halves
from qilin_rag.retrievers.dense.shards import Halves, write_vectors
from qilin_rag.retrievers.index_files import IndexedRetriever
from qilin_rag.retrievers.resumable import is_whole, kept_part

logger = logging.getLogger(__name__)
PROBE, BATCHES = "probe.npy", "batches.bin"
LEAST_PROBE_COSINE = 0.995  # other engines and precisions of one model stay above it, even 8-bit weights
_PROBES = (
    "手冲咖啡的水温应该是多少度？",
    "云南七天六晚自由行，人均三千元，住在哪里方便？",
    "How do I renew a passport that has expired?",
    "敏感肌换季泛红，要不要停用 A 醇 0.3%？",
)
# What a server decides itself.
_OF_TORCH = ("pooling", "max_length", "note_input", "backend", "precision", "device", "engine")
_BATCH_TEXTS = 32


class EmbeddingPrice(Price):
    """The price of a million tokens that are embedded: nothing is written."""

    completion_per_mtok: NonNegativeFloat = 0.0


class ServedEncoder(IndexedRetriever):
    """The settings of an encoder behind an address, and its vectors; without `base_url` none of it is used."""

    operational: ClassVar[frozenset[str]] = IndexedRetriever.operational | {
        "api_key_env",
        "query",
        "concurrency",
        "timeout_s",
        "max_tries",
        "price",
    }
    outward: ClassVar[frozenset[str]] = frozenset({"base_url", "api_key_env"})
    only_if_set: ClassVar[frozenset[str]] = frozenset({"base_url", "max_chars", "query_fields", "passage_fields"})

    only_served: ClassVar[frozenset[str]] = frozenset({"query", "query_fields", "passage_fields", "max_chars", "price"})
    """Settings that mean nothing without a server."""

    model: str
    base_url: str | None = None
    """The address of a server that encodes instead: http://HOST:PORT/v1 with OpenAI's /embeddings (vLLM, llama.cpp,
    Ollama, APIs), or TEI's http://HOST:PORT/embed. `model` is then the name of the model there.
    """
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable that holds the key of `base_url`; servers on this machine need none."""
    query: dict[str, str] = {}
    """Parameters after the address of `base_url`, such as Azure's {api-version: 2024-10-21}."""
    query_fields: dict[str, Any] = {}
    """More fields of a request to `base_url` for questions, such as {input_type: query}."""
    passage_fields: dict[str, Any] = {}
    """More fields of a request to `base_url` for notes, such as {input_type: passage}, or {dimensions: 512} in both."""
    max_chars: PositiveInt | None = None
    """The most characters of a text that are sent to `base_url`. Default: all; a text that the server refuses as too
    long is cut until it takes it.
    """
    concurrency: PositiveInt = 8
    """The most requests to `base_url` at a time."""
    timeout_s: PositiveFloat = 180.0
    """The longest time of a request to `base_url`, in seconds."""
    max_tries: Annotated[int, Field(ge=1)] = 10
    """The most tries of a request to `base_url`."""
    price: EmbeddingPrice | None = None
    """The price list of `base_url`: {currency: USD, prompt_per_mtok: 0.02, as_of: 2026-11}."""

    _is_key_said: bool = PrivateAttr(default=False)

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, base_url: str | None) -> str | None:
        return None if base_url is None else plain_address(base_url, "retriever").removesuffix("/embeddings")

    @field_validator("query", mode="before")
    @classmethod
    def _plain_query(cls, query: Any) -> Any:
        return plain_query(query, "retriever")

    @field_validator("query_fields", "passage_fields")
    @classmethod
    def _no_secrets(cls, fields: dict[str, Any]) -> dict[str, Any]:
        refuse_secrets(fields, "retriever")
        return fields

    def check_server(self) -> dict[str, Any]:
        """Ask the server for its models and one vector, before any other work.

        Returns:
            What is known of the server.

        Raises:
            QilinError: if it can't encode with this model.
        """
        self._endpoint().models()
        return {"base_url": self.base_url, "dimensions": self._probe().shape[1]}

    @model_validator(mode="after")
    def _check_served(self) -> ServedEncoder:
        """Refuse settings that nothing would read: those of the other place that encodes."""
        others, why = (_OF_TORCH, "no setting of") if self.base_url else (sorted(self.only_served), "a setting of")
        for name in others:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is {why} a server (base_url); leave {name} out")
        return self

    def served_identity(
        self, settings: dict[str, Any], prefixes: Prefixes, similarity: Literal["cosine", "dot", "euclidean"]
    ) -> dict[str, Any]:
        """Identify a served model by its name; its index holds the probe, which tells models of one name apart.

        Args:
            settings: The identity by settings alone.
            prefixes: The prefixes in use.
            similarity: How vectors are compared.
        """
        kept = {name: value for name, value in settings.items() if name not in ("base_url", *_OF_TORCH)}
        return kept | {
            "served": True,
            "query_prefix": prefixes.query,
            "passage_prefix": prefixes.passage,
            "normalize": similarity == "cosine",
            "similarity": similarity,
        }

    def served_prefixes(self) -> Prefixes:
        """Return the prefixes that the family of a model documents, recognised by its name at the server."""
        family = family_named(self.model.rpartition("/")[2])
        return Prefixes(family.query, family.passage) if family else Prefixes("", "")

    def served_vectors(
        self, texts: Sequence[str], prefix: str, task: Task, names: Sequence[str], batch_size: int | None
    ) -> Vectors:
        """Return the server's vectors of texts, shape (n_texts, dimension); equal texts have equal vectors.

        Args:
            texts: The texts.
            prefix: The text before each of them.
            task: Whether they are queries or documents.
            names: Their names, for errors.
            batch_size: The most texts of a request.

        Raises:
            QilinError: if a text gets no vector.
        """
        batches = _Batches(self._as_sent(texts, prefix), names, batch_size)
        parts: dict[int, Vectors] = {}
        used = _Used()

        def keep(number: int, embedded: Embedded) -> None:
            first = next(iter(parts.values()), embedded.vectors)
            check_dimension(embedded.vectors, first.shape[1], f"model {self.model!r}", batches.batches[number][1])
            parts[number] = embedded.vectors
            used.add(embedded)

        self._server(task, prefix).embed(batches.batches, keep)
        used.tell(f"model {self.model!r} at {self.base_url}", self.price)
        vectors: Vectors = np.concatenate([parts[number] for number in range(len(parts))])[batches.places]
        return vectors

    def write_served(
        self, notes: NoteStore, folder: Path, prefix: str, batch_size: int | None, normalize: bool
    ) -> None:
        """Write the notes' vectors and the probe.

        A batch is on disk as soon as it is whole, so that a build that was killed asks for none of them again.

        Args:
            notes: The notes.
            folder: The folder of the build, with what an earlier one left.
            prefix: The text before each note.
            batch_size: The most notes of a request.
            normalize: Whether vectors get unit length.
        """
        logger.info(
            "indexing %s (biencoder, %s at %s, passage prefix %r)",
            *(counted(len(notes), "note"), self.model, self.base_url, prefix),
        )
        self._begin_probe(folder)
        probe = np.load(folder / PROBE, allow_pickle=False)
        kept = KeptBatches(folder / BATCHES)

        def encode(texts: Sequence[str], names: Sequence[str], images: Sequence[Sequence[bytes]]) -> Halves:
            batches = _Batches(self._as_sent(texts, prefix), names, batch_size)
            keys = [batch_key(sent) for sent, _ in batches.batches]
            done = kept.open(keys)
            missing = [number for number, key in enumerate(keys) if key not in done]
            used = _Used()

            def keep(place: int, embedded: Embedded) -> None:
                if difference := other_model(probe[:1], embedded.vectors[-1:]):
                    raise self._other(folder, "this build began with", difference)
                vectors = embedded.vectors[:-1]
                key = keys[missing[place]]
                done[key] = kept.add(key, to_halves(unit(vectors) if normalize else vectors, self.model))
                used.add(embedded._replace(vectors=vectors))

            if missing:
                to_send = [batches.batches[number] for number in missing]
                with_probe = [([*sent, _PROBES[0]], [*named, "the probe"]) for sent, named in to_send]
                self._server("document", prefix).embed(with_probe, keep)
            used.tell(f"model {self.model!r} at {self.base_url}", self.price)
            return np.concatenate([done[key] for key in keys])[batches.places]

        write_vectors(notes, folder, lambda _: encode, [None])
        kept.drop()

    def _begin_probe(self, folder: Path) -> None:
        """Write the vectors of the probe at the start of a build, or compare with those that a killed build wrote."""
        self._endpoint().models()
        if is_whole(folder, PROBE):
            self.check_probe(folder, "this build began with")
        else:
            kept_part(folder, PROBE, partial(save_array, values=self._probe().astype("<f4")))

    def check_probe(self, folder: Path, whose: str) -> None:
        """Compare the model that answers now with the one of an index.

        Args:
            folder: The folder of the index, or of its build.
            whose: What the other model belongs to, for the error.

        Raises:
            UsageError: if another model answers.
        """
        if difference := other_model(np.load(folder / PROBE, allow_pickle=False), self._probe()):
            raise self._other(folder, whose, difference)

    def _probe(self) -> Vectors:
        found: list[Vectors] = []
        names = [f"probe {text!r}" for text in _PROBES]
        self._server("document").embed([(_PROBES, names)], lambda _, embedded: found.append(embedded.vectors))
        return found[0]

    def _other(self, folder: Path, whose: str, difference: str) -> UsageError:
        return UsageError(
            f"{self.base_url} answers as {self.model!r} with another model than the one that {whose} ({difference}); "
            f"serve that one again, or remove {folder} and make the index anew"
        )

    def _endpoint(self) -> Endpoint:
        assert self.base_url is not None
        endpoint = Endpoint(
            self.base_url,
            self.model,
            api_key_env=self.api_key_env,
            query=self.query,
            timeout_s=self.timeout_s,
            section="retriever",
        )
        if not self._is_key_said and os.environ.get(self.api_key_env, "").strip():
            logger.info("the key in %s goes to %s", self.api_key_env, self.base_url)
            self._is_key_said = True
        return endpoint

    def _server(self, task: Task, prefix: str = "") -> EmbeddingServer:
        return EmbeddingServer(
            self._endpoint(),
            concurrency=self.concurrency,
            max_tries=self.max_tries,
            fields=self.query_fields if task == "query" else self.passage_fields,
            prefix=prefix,
        )

    def _as_sent(self, texts: Sequence[str], prefix: str) -> list[str]:
        shown = [visible(text) for text in texts]
        n_cut = sum(self.max_chars is not None and len(text) > self.max_chars for text in shown)
        if n_cut:
            logger.info("%s cut to %d characters (max_chars)", counted(n_cut, "text"), self.max_chars)
        return [f"{prefix}{text[: self.max_chars] or ' '}" for text in shown]


class _Batches:
    """Distinct texts in batches of similar length, with their names, and the place of each text among them."""

    def __init__(self, texts: Sequence[str], names: Sequence[str], batch_size: int | None) -> None:
        named = dict(reversed(list(zip(texts, names, strict=True))))
        ordered = sorted(named, key=lambda text: (len(text), text))
        size = batch_size or _BATCH_TEXTS
        parts = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        self.batches = [(part, [named[text] for text in part]) for part in parts]
        place = {text: number for number, text in enumerate(ordered)}
        self.places = np.array([place[text] for text in texts], np.int64)


class _Used:
    """Adds up what a server did for some texts."""

    def __init__(self) -> None:
        self._batches: list[Embedded] = []

    def add(self, embedded: Embedded) -> None:
        """Count one batch, without its vectors."""
        self._batches.append(embedded._replace(vectors=embedded.vectors[:, :0]))

    def tell(self, name: str, price: Price | None) -> None:
        """Log the texts, tokens and cost, and how many texts were not read whole."""
        if not self._batches:
            return
        n_texts = sum(len(each.vectors) for each in self._batches)
        tokens = [each.tokens for each in self._batches if each.tokens is not None]
        is_counted = len(tokens) == len(self._batches)
        amount = price.of(Usage(prompt_tokens=sum(tokens))) if price else 0.0
        cost = f", cost {format_amount(amount)} {price.currency}" if price and is_counted else ""
        said = f"{sum(tokens):,} tokens{cost}" if is_counted else "tokens not counted, cost unknown"
        logger.info("%s encoded %s: %s", name, counted(n_texts, "text"), said)
        if n_cut := sum(each.cut for each in self._batches):
            logger.warning("%s refused %s as too long; the beginning of each was encoded", name, counted(n_cut, "text"))
        if n_short := sum(each.short for each in self._batches):
            logger.warning(
                "%s read only a part of texts, by its count of tokens (among %s); set retriever.max_chars to cut them "
                "where you want",
                *(name, counted(n_short, "text")),
            )


def other_model(before: Vectors, now: Vectors) -> str:
    """Return in words how vectors of the same texts differ if two models made them; empty if one did."""
    if before.shape != now.shape:
        return f"vectors of {now.shape[1]} dimensions, not {before.shape[1]}"
    least = float((unit(before).astype(np.float64) * unit(now)).sum(axis=1).min())
    if least >= LEAST_PROBE_COSINE:
        return ""
    return f"cosine {least:.4f} with its vectors of the same texts, under {LEAST_PROBE_COSINE}"


def unit(vectors: Vectors) -> Vectors:
    """Return vectors with unit length."""
    wide = vectors.astype(np.float64)
    scaled: Vectors = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return scaled
