"""Read what both files of an Every Eval Ever export say of a run: its names, its figures and its scores."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import clean
from qilin_rag.core.types import MetricSummary, Question, Sample, Score, Summary
from qilin_rag.pipeline.run_directory import Manifest, RunDirectory

SCHEMA = "0.3.0"
_UNSAFE = re.compile(r'[<>:"\\|?*\x00-\x1f/]')
_RESERVED = re.compile(r"(CON|PRN|AUX|NUL|COM[1-9]|LPT[1-9])(\..*)?", re.IGNORECASE)
_FINGERPRINT_CHARS = 8
_MOST_BYTES = 150  # of the name of a folder
_BUNDLED = ("sample", "sample-images")


class _Read(NamedTuple):
    path: Path
    manifest: Manifest
    summary: Summary
    questions: list[Question]
    samples: dict[str, Sample]
    scores: dict[str, dict[str, Score]]


class Evaluation:
    """A complete run under the names that Every Eval Ever has for it.

    Attributes:
        collection: The benchmark.
        model_id: The model, as DEVELOPER/NAME if the developer is known.
        figures: The metrics that have a value.
    """

    def __init__(self, read: _Read, collection: str, model_id: str) -> None:
        self.path, self.manifest, self.summary, self.questions, self.samples, self.scores = read
        self.collection = collection
        self.model_id = model_id
        self.figures: dict[str, MetricSummary] = {
            name: figure for name, figure in self.summary.metrics.items() if figure.value is not None
        }

    @classmethod
    def of(cls, run: RunDirectory, *, collection: str | None = None, model_id: str | None = None) -> Evaluation:
        """Read a run; the names that are not given are the run's own.

        Raises:
            UsageError: if files of the run do not fit together.
        """
        manifest = run.read_complete()
        questions = run.read_questions()
        samples = run.read_samples_of(questions)
        summary, scores = run.read_figures()
        read = _Read(
            run.path, manifest, summary, questions, samples, run.chosen_scores(scores, questions, summary.metrics)
        )
        name = collection or data_name(manifest)
        return cls(read, clean(name), clean(model_id or model_of(manifest, samples)))

    @cached_property
    def updated_s(self) -> int:
        """Return when the run was finished, in seconds since 1970."""
        try:
            return int(datetime.fromisoformat(self.manifest.updated).timestamp())
        except (ValueError, OverflowError, OSError):
            raise UsageError(f"{self.path}: updated is {self.manifest.updated!r:.40}, which is not a time") from None

    @property
    def id(self) -> str:
        """Return the id of the evaluation; the fingerprint tells runs apart that ended in one second."""
        run = clean(self.manifest.fingerprint)[:_FINGERPRINT_CHARS]
        return f"{self.collection}-{run}/{self.model_id}/{self.updated_s}"


def data_name(manifest: Manifest) -> str:
    """Return the name of the data: that of bundled data in the settings, else its label, which has no path."""
    named = manifest.config.get("data")
    return named if named in _BUNDLED else manifest.labels["data"]


def model_of(manifest: Manifest, samples: Mapping[str, Sample]) -> str:
    """Return the name of the model: that of an import's file, that of the LLM's settings, or else its label."""
    if manifest.imported:
        told = {sample.model for sample in samples.values() if sample.model}
        return told.pop() if len(told) == 1 else manifest.imported.name
    llm: Any = manifest.identity.get("llm")
    llm = llm if isinstance(llm, dict) else {}
    if isinstance(model := llm.get("model"), str) and model.strip():
        is_path = model.startswith(("/", "~", ".")) or "\\" in model
        return re.split(r"[/\\]", model.rstrip("/\\"))[-1] if is_path else model
    component = llm.get("component")
    if isinstance(component, str) and component.startswith("llm/"):
        return f"qilin_rag/{component.removeprefix('llm/')}"
    return manifest.labels["llm"]


def is_addressable(model_id: str) -> bool:
    """Return whether a model's id names its folder in the datastore: DEVELOPER/NAME, in portable characters."""
    parts = model_id.replace(":", "_").split("/")
    return len(parts) > 1 and all(part == safe_part(part) and part.lower() != "unknown" for part in parts)


def path_parts(evaluation: Evaluation) -> tuple[str, str, str]:
    """Return the folders of an evaluation: collection, developer and model."""
    developer, slash, model = evaluation.model_id.partition("/")
    names = (developer, model) if slash else ("unknown", developer)
    return (safe_part("-".join(evaluation.collection.split())), safe_part(names[0]), safe_part(names[1]))


def safe_part(name: str) -> str:
    """Return a name as the name of one folder, on every system.

    >>> safe_part("a/b:c. "), safe_part("data"), safe_part("nul.x"), safe_part("..")
    ('a_b_c', '_data', '_nul.x', 'unknown')
    """
    safe = _UNSAFE.sub("_", clean(name)).strip().encode()[:_MOST_BYTES].decode(errors="ignore").rstrip(". ")
    if not safe:
        return "unknown"
    return f"_{safe}" if safe == "data" or _RESERVED.fullmatch(safe) else safe
