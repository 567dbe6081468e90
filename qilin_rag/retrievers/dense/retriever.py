"""Retrieve with one sentence-transformers model: encode query and notes, and find the nearest notes by faiss."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PositiveInt, PrivateAttr, field_validator, model_validator

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import require
from qilin_rag.core.text import counted
from qilin_rag.core.types import Hit, Question
from qilin_rag.data import NoteStore
from qilin_rag.data.note_images import LONGEST_SIDE
from qilin_rag.models.exported import PACKAGES, ExportedPrecision, require_backend, run_exported
from qilin_rag.models.families import Pooling, assumed_last_token, assumed_pooling
from qilin_rag.models.picture_encoder import check_takes_images
from qilin_rag.models.prefixes import Prefixes, model_prefixes
from qilin_rag.models.pretrained import fetch_model, model_sha256
from qilin_rag.models.sentence_encoder import (
    Precision,
    Similarity,
    Task,
    Vectors,
    check_has_dense_vector,
    encode,
    has_native_bf16,
    load_encoder,
    readable,
    similarity_of,
)
from qilin_rag.retrievers.base import rows_by_task
from qilin_rag.retrievers.dense.backends import check_backend, chosen_encoder
from qilin_rag.retrievers.dense.note_input import NoteInput, check_has_processor, encode_notes, in_halves
from qilin_rag.retrievers.dense.opened import OpenedIndex, probed, rows_with_image
from qilin_rag.retrievers.dense.pictures import NotePictures, tell
from qilin_rag.retrievers.dense.precision import closest_precision
from qilin_rag.retrievers.dense.recall import measure_recall, titles_of_some
from qilin_rag.retrievers.dense.search import (
    Approximate,
    Neighbours,
    kept_recall,
    opened_index,
    sampled_queries,
    warn_of_recall,
)
from qilin_rag.retrievers.dense.served import ServedEncoder, unit
from qilin_rag.retrievers.dense.shards import Encode, Halves, ImagesOfIndex, open_images, open_vectors, write_vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


logger = logging.getLogger(__name__)
_OF_QUERIES = ("query_prefix", "similarity", "faiss", "n_probe", "query_fields")
_OF_IMAGES = ("images", "image_size")


class BiEncoder(ServedEncoder):
    """Dense retrieval: the notes whose vectors are nearest to that of the question.

    Vectors are compared by cosine, dot product or Euclidean distance, as the model was trained; the score of a distance
    is negative. Notes are encoded once, and kept in an index. Questions are always encoded in fp32.

    Example:
        >>> BiEncoder(model="BAAI/bge-small-zh-v1.5", device="cpu").changed()
        {'model': 'BAAI/bge-small-zh-v1.5'}
    """

    argument: ClassVar[str | None] = "model"
    operational: ClassVar[frozenset[str]] = ServedEncoder.operational | {"batch_size", "device", "engine"}
    version: ClassVar[int] = 3
    index_version: ClassVar[int] = 4
    """The version of the notes' vectors, which take long to make; raised when they change."""
    packages: ClassVar[tuple[str, ...]] = ("sentence-transformers", "transformers")
    only_if_set: ClassVar[frozenset[str]] = ServedEncoder.only_if_set | {"note_input", *_OF_IMAGES, "backend"}

    model: str = "BAAI/bge-base-zh-v1.5"
    """A folder or a hub name of a sentence-transformers or transformers model, or a folder that `train` wrote."""
    query_prefix: str | None = None
    """Text before each question; "" for none. Default: declared in the model's files, or documented for its family
    (bge, e5, ...).
    """
    passage_prefix: str | None = None
    """Text before each note; "" for none. Default: declared in the model's files, or documented for its family (bge,
    e5, ...).
    """
    pooling: Pooling | None = None
    """How token vectors become one: cls, mean, max or lasttoken. Default: as the model's files or its family say."""
    max_length: Annotated[int, Field(ge=3)] | None = None
    """The most tokens of a text that are read, from 3. Default: that of the model's files, or of its family."""
    normalize: bool | None = None
    """true compares by cosine, false by dot product. Default: as the model's files say (`similarity_fn_name`), else by
    cosine.
    """
    note_input: NoteInput = "text"
    """The input of the model for a note: text, image, or both. Questions are text. A note without an image that can be
    read is never found with image, and is encoded by its text with both.
    """
    images: PositiveInt = 1
    """The number of images of a note that are read, from the first (the cover) on. Needs note_input image or both."""
    image_size: Annotated[int, Field(ge=28)] = LONGEST_SIDE
    """The most pixels of the longer side of an image, from 28; larger ones are shrunk. Needs note_input image or both.
    """
    backend: Literal["torch", "onnx", "openvino"] = "torch"
    """The library that computes the vectors of notes: torch, or onnx (ONNX Runtime) or openvino, which are for CPUs."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """fp32, bf16, int8 or auto, for notes: auto is bf16 with backend torch if the device has it, int8 with the others,
    and fp32 if the first notes' vectors are not close to those of fp32 (cosine 0.999 for bf16, 0.99 for int8).
    """
    faiss: Neighbours = "flat"
    """How the nearest notes are found: flat compares every note, ivf only those in some lists (approximate, faster)."""
    n_probe: PositiveInt | None = None
    """The number of lists that ivf reads for a question: more is slower and finds more. Default: by the number of
    notes.
    """
    batch_size: PositiveInt | None = None
    """The most texts of full length, or images, encoded at a time. Default: a fixed number of tokens or images."""
    device: str | None = None
    """A torch device, several with commas between them, or all (GPUs); each encodes notes in its own process. Default:
    a GPU if there is one.
    """
    engine: Literal["local", "ray"] = "local"
    """The encoders of notes: local (this machine), or ray (the workers of a Ray cluster, which need the model at the
    same path).
    """

    encodes: ClassVar[bool] = True

    _found: tuple[Path, str] | None = PrivateAttr(default=None)
    _is_told: bool = PrivateAttr(default=False)
    _named_images: tuple[NoteStore, str] | None = PrivateAttr(default=None)
    _encoder: SentenceTransformer | None = PrivateAttr(default=None)

    @field_validator("faiss", mode="before")
    @classmethod
    def _check_faiss(cls, faiss: Any) -> Any:
        if faiss == "hnsw":
            raise ValueError("hnsw is gone, because each build gave other results; set retriever.faiss=ivf, or flat")
        return faiss

    @model_validator(mode="after")
    def _check_settings(self) -> BiEncoder:
        if self.n_probe is not None and self.faiss != "ivf":
            raise ValueError("n_probe is a setting of faiss ivf; set faiss=ivf, or leave n_probe out")
        if self.note_input == "text":
            for name in _OF_IMAGES:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is a setting of note_input image or both; set one, or leave {name} out")
        check_backend(self.backend, self.precision, self.note_input, self.device, self.engine)
        if self.device is not None and self.engine == "ray":
            raise ValueError("device is a setting of engine local; a Ray cluster gives its workers theirs")
        return self

    @property
    def nested(self) -> bool:  # type: ignore[override]
        """Return whether all notes are compared; ivf sees more ties if more notes are asked for."""
        return self.faiss == "flat"

    def identity(self) -> dict[str, Any]:
        """Identify the model by its content, not its path; and prefixes and pooling by the values in use."""
        if self.base_url:
            return self.served_identity(super().identity(), self._prefixes(), self._similarity())
        folder, sha256 = self._find_model()
        prefixes = self._prefixes()
        assumed = assumed_pooling(folder, self.model)
        similarity = self._similarity()
        if pictured := self.note_input != "text":
            check_has_processor(folder, self.model)
        return super().identity() | {
            "model": sha256,
            "query_prefix": prefixes.query,
            "passage_prefix": prefixes.passage,
            "pooling": self.pooling or (assumed and assumed.pooling),
            "last_token": assumed_last_token(folder, self.model),
            "normalize": similarity == "cosine",
            "similarity": similarity,
            **({name: getattr(self, name) for name in ("note_input", *_OF_IMAGES)} if pictured else {}),
        }

    @property
    def packages_used(self) -> tuple[str, ...]:
        """Return the packages that encode on this machine."""
        if self.base_url:
            return ()
        return self.packages if self.backend == "torch" else (*self.packages, *PACKAGES[self.backend])

    def index_identity(self) -> dict[str, Any]:
        """Return the settings that the notes' vectors depend on: all but those of queries."""
        if self.base_url:
            require("neural", "faiss", what="retriever biencoder")
        else:
            require("neural", "torch", "sentence_transformers", "faiss", what="retriever biencoder")
        if self.backend != "torch":
            require_backend(self.backend)
        identity = self.identity() | {"version": self.index_version}
        if self.note_input != "text":
            identity["pillow"] = version("pillow")  # whose JPEGs are encoded and hashed
        return {name: value for name, value in identity.items() if name not in _OF_QUERIES}

    def search(self, questions: Sequence[Question], notes: NoteStore, k: int) -> list[list[Hit]]:
        """Return the `k` notes nearest to each question, whatever their score."""
        if not len(notes) or not questions:
            return [[] for _ in questions]
        opened: OpenedIndex = self.open_index(notes)
        texts = [question.query for question in questions]
        queries = self._encode_questions(questions)
        by_distance = self._similarity() == "euclidean"
        rankings, n_tied = opened.nearest(texts, queries, notes, k, self.n_probe, by_distance)
        if n_tied:
            logger.info(
                "%d of %d rankings had ties at rank %d; a hash decided which notes stayed", n_tied, len(questions), k
            )
        return rankings

    def _encode_questions(self, questions: Sequence[Question]) -> Vectors:
        """Encode the texts of questions; a hypothetical passage is encoded as notes are (HyDE)."""
        parts: dict[int, Vectors] = {}
        for task, rows in rows_by_task(questions).items():
            chosen = [questions[row] for row in rows]
            kind = "query" if task == "query" else "passage"
            logger.info("encoding %s, prefix %r", counted(len(rows), kind), getattr(self._prefixes(), kind))
            names = [f"query {question.id}" for question in chosen]
            vectors = self._encode([question.query for question in chosen], task, names)
            parts |= zip(rows, vectors, strict=True)
        return np.stack([parts[row] for row in range(len(questions))])

    def embed_queries(self, queries: Sequence[str]) -> Vectors:
        """Encode queries; return vectors of shape (n_queries, dimension)."""
        return self._encode(queries, "query", [f"query {query!r}" for query in queries])

    def embed_notes(self, texts: Sequence[str]) -> Vectors:
        """Encode the texts of notes (`Note.text`); return vectors of shape (n_texts, dimension)."""
        return self._encode(texts, "document", [f"note {text[:50]!r}" for text in texts])

    def write_files(self, notes: NoteStore, folder: Path) -> None:
        """Write the notes' vectors in the order of the store, and faiss' index of them with its recall."""
        if self.base_url:
            normalize = self._similarity() == "cosine"
            self.write_served(notes, folder, self._prefixes().passage, self.batch_size, normalize)
        else:
            self._write_local(notes, folder)
        if self.faiss != "flat":
            vectors = open_vectors(folder)
            index = opened_index(self.faiss, vectors, folder)
            texts = titles_of_some(notes)
            self._measure(texts, self.embed_queries(texts), vectors, index, folder)

    def _write_local(self, notes: NoteStore, folder: Path) -> None:
        if self.backend != "torch":
            return self._write_exported(notes, folder)
        pictures = self._pictures(notes)
        precision = self._precision(notes, pictures)
        prefix = self._prefixes().passage
        logger.info(
            "indexing %s (biencoder, %s, passage prefix %r, %s%s)",
            *(counted(len(notes), "note"), self.model, prefix, precision),
            f", note_input {self.note_input}" if pictures else "",
        )
        devices = self._devices()
        images: dict[str, Any] = {"pictures": pictures, "alone": self.note_input == "image"} if pictures else {}
        if len(devices) == 1 and self.engine == "local":
            if pictures:
                self._model()  # refused at once, if it takes no images
            encode = in_halves(partial(self._encode_notes, precision=precision), self.model)
            write_vectors(notes, folder, lambda _: encode, devices, **images)
        else:
            settings = self.model_dump(exclude={"index", "device"})
            make_encoder = partial(_note_encoder_on, settings, precision)
            write_vectors(notes, folder, make_encoder, devices, on_ray=self.engine == "ray", **images)
        if pictures:
            self._tell(open_images(folder))
        return None

    def _write_exported(self, notes: NoteStore, folder: Path) -> None:
        """Write the notes' vectors by the transformer of the backend, and what it is to `encoding.json`."""
        assert self.backend != "torch"
        assert self.precision != "bf16"
        prefix = self._prefixes().passage
        encoder, encoding = chosen_encoder(
            *(folder, notes, self.backend, self.precision, self.model),
            load=self._exported,
            encode=lambda encoder, texts: self._encode_by(encoder, texts, "document", texts),
        )
        logger.info(
            "indexing %s (biencoder, %s, passage prefix %r, %s)",
            *(counted(len(notes), "note"), self.model, prefix, encoding.told()),
        )

        def encode_texts(texts: Sequence[str], names: Sequence[str], images: Sequence[Sequence[bytes]]) -> Vectors:
            return self._encode_by(encoder, texts, "document", names)

        write_vectors(notes, folder, lambda _: in_halves(encode_texts, self.model), ["cpu"])

    def _exported(self, precision: ExportedPrecision | None, typical: Sequence[str]) -> SentenceTransformer:
        """Load the model for notes on the CPU: by torch in fp32 (None), or exported in a precision."""
        folder, sha256 = self._find_model()
        encoder = load_encoder(folder, self.model, "cpu", self.pooling, self.max_length)
        if precision is not None:
            assert self.backend != "torch"
            prefix = self._prefixes().passage
            texts = [f"{prefix}{readable(encoder, text)}" for text in typical]
            run_exported(encoder, self.backend, precision, sha256, self.model, texts)
        return encoder

    def read_files(self, folder: Path) -> OpenedIndex:
        """Open the notes' vectors, memory-mapped, and the index of them, which is made if it is missing.

        Warns each time if the index finds too few of the notes that flat finds.
        """
        if self.base_url:
            self.check_probe(folder, "the index was made with")
        vectors = open_vectors(folder)
        opened = OpenedIndex(vectors, None)
        if self.note_input != "text":
            opened = OpenedIndex(vectors, images := open_images(folder))
            if self.note_input == "image":
                opened = opened._replace(rows=rows_with_image(images))
            self._tell(images)
        if self.faiss == "flat":
            return opened
        index = opened_index(self.faiss, vectors, folder)
        measured = kept_recall(self.faiss, folder) or self._measure(*sampled_queries(vectors), vectors, index, folder)
        warn_of_recall(self.faiss, measured, probed(self.n_probe, index))
        return opened._replace(approximate=index)

    def images_made_of(self, notes: NoteStore) -> str | None:
        """Return a hash of the image paths in the table; None if texts alone are encoded."""
        pictures = self._pictures(notes)
        if pictures is None:
            return None
        if self._named_images is None or self._named_images[0] is not notes:
            self._named_images = notes, pictures.names_sha256()
        return self._named_images[1]

    def changed_since(self, notes: NoteStore, opened: OpenedIndex) -> str:
        """Compare a few of the images with what the index was made of."""
        pictures = self._pictures(notes)
        return pictures.changed(notes.note_idxs, opened.images.digests) if pictures and opened.images else ""

    def _tell(self, images: ImagesOfIndex) -> None:
        if not self._is_told:
            tell(len(images.digests), len(rows_with_image(images)), images.left_out, self.note_input)
        self._is_told = True

    def _measure(
        self, texts: Sequence[str], queries: Vectors, vectors: Halves, index: Approximate, folder: Path
    ) -> Any:
        return measure_recall(self.faiss, texts, queries, vectors, index, probed(self.n_probe, index), folder)

    def _pictures(self, notes: NoteStore) -> NotePictures | None:
        """Return the reader of the notes' images; None if texts alone are encoded."""
        return None if self.note_input == "text" else NotePictures(notes, self.images, self.image_size)

    def _devices(self) -> list[str | None]:
        """Return the devices that encode notes: `device` names one, several with commas between them, or `all` GPUs."""
        if self.device == "all":
            import torch

            if not torch.cuda.device_count():
                raise UsageError("device all: torch sees no GPU here; leave the setting out")
            return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        return [None] if self.device is None else list(self.device.split(","))

    def _precision(self, notes: NoteStore, pictures: NotePictures | None) -> Precision:
        """Choose the precision to encode notes in: bf16 if it is set, or the device has it and it is close to fp32."""
        if self.precision == "fp32" or (self.precision == "auto" and not has_native_bf16(self._model().device)):
            return "fp32"
        images_alone = self.note_input == "image"
        return closest_precision(
            self._encode_notes, notes, pictures, images_alone, self.model, must_be_bf16=self.precision == "bf16"
        )

    def _find_model(self) -> tuple[Path, str]:
        """Return the folder of the model and the hash of its content; fetch it if it is not on this machine."""
        if self._found is None:
            folder = fetch_model(self.model)
            check_has_dense_vector(folder, self.model)
            self._found = folder, model_sha256(folder)
        return self._found

    def _similarity(self) -> Similarity:
        if self.base_url:
            return "dot" if self.normalize is False else "cosine"
        similarity = similarity_of(self._find_model()[0], self.model, self.normalize)
        if similarity == "euclidean" and self.faiss != "flat":
            raise UsageError(
                f"faiss {self.faiss}: model {self.model!r} compares by Euclidean distance, which flat alone searches; "
                "leave faiss out, or set normalize to true (cosine) or false (dot product)"
            )
        return similarity

    def _prefixes(self) -> Prefixes:
        is_served = self.base_url is not None
        own = self.served_prefixes() if is_served else model_prefixes(self._find_model()[0], self.model)
        given = (self.query_prefix, self.passage_prefix)
        return Prefixes(*(mine if text is None else text for text, mine in zip(given, own, strict=True)))

    def _encode(self, texts: Sequence[str], task: Task, names: Sequence[str], precision: Precision = "fp32") -> Vectors:
        """Encode texts; return vectors of shape (n_texts, dimension).

        Raises:
            UsageError: A vector is not finite; the message names the first such text.
        """
        if self.base_url:
            prefixes = self._prefixes()
            prefix = prefixes.query if task == "query" else prefixes.passage
            vectors = self.served_vectors(texts, prefix, task, names, self.batch_size)
            return unit(vectors) if self._similarity() == "cosine" else vectors
        return self._encode_by(self._model(), texts, task, names, precision)

    def _encode_by(
        self,
        encoder: SentenceTransformer,
        texts: Sequence[str],
        task: Task,
        names: Sequence[str],
        precision: Precision = "fp32",
    ) -> Vectors:
        prefixes = self._prefixes()
        return encode(
            encoder,
            texts,
            prefixes.query if task == "query" else prefixes.passage,
            task=task,
            normalize=self._similarity() == "cosine",
            batch_size=self.batch_size,
            named=(self.model, names),
            precision=precision,
        )

    def _encode_notes(
        self, texts: Sequence[str], names: Sequence[str], images: Sequence[Sequence[bytes]], precision: Precision
    ) -> Vectors:
        """Encode notes by their texts, their images (not empty) or both, as `note_input` says."""

        def encode_texts(texts: Sequence[str], names: Sequence[str]) -> Vectors:
            return self._encode(texts, "document", names, precision)

        if self.note_input == "text":
            return encode_texts(texts, names)
        return encode_notes(
            *(self._model(), self.note_input, texts, names, images, encode_texts),
            model=self.model,
            prefix=self._prefixes().passage,
            normalize=self._similarity() == "cosine",
            batch_size=self.batch_size,
            precision=precision,
        )

    def _model(self) -> SentenceTransformer:
        """Load the model in full precision, with the pooling and length of the settings."""
        if self._encoder is None:
            folder, _ = self._find_model()
            pictured = self.note_input != "text"
            device = self._devices()[0]
            encoder = load_encoder(folder, self.model, device, self.pooling, self.max_length, with_images=pictured)
            if pictured:
                check_takes_images(encoder, self.model, with_text=self.note_input == "both")
            self._encoder = encoder
        return self._encoder


def _note_encoder_on(settings: Mapping[str, Any], precision: Precision, device: str | None) -> Encode:
    """Return the encoder of notes in another process, which loads the model onto its own device."""
    retriever = BiEncoder(**settings, device=device)
    return in_halves(partial(retriever._encode_notes, precision=precision), retriever.model)
