"""Identify a run: its fingerprint, its directory and its manifest."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qilin_rag.config.query_llm import changed_query_llm
from qilin_rag.config.run import LLMConfig, RunConfig, changed_rerank_settings
from qilin_rag.core.directories import find_directory
from qilin_rag.core.environment import git_commit, installed_packages, now
from qilin_rag.core.errors import UsageError
from qilin_rag.core.hashing import fingerprint
from qilin_rag.core.note_fields import TITLE_AND_CONTENT, note_fields_label
from qilin_rag.core.registry import RETRIEVERS, describe
from qilin_rag.core.text import short_path
from qilin_rag.core.types import Question, QuestionDefects
from qilin_rag.data import Dataset
from qilin_rag.data.dataset import hash_questions
from qilin_rag.llms.serving.server import engine_of
from qilin_rag.pipeline.note_pictures import sends_images
from qilin_rag.pipeline.run_directory import MANIFEST, Manifest, RunDirectory
from qilin_rag.prompts.answer import Prompt
from qilin_rag.retrievers import IndexedRetriever, Retriever
from qilin_rag.retrievers.parts import leaves
from qilin_rag.scorers.refusal_patterns import VERSION as REFUSAL_PATTERNS

FINGERPRINT_VERSION = 1


def run_identity(config: RunConfig, dataset: Dataset) -> dict[str, Any]:
    """Return everything that can change an answer; its hash is the fingerprint by which a run is found again."""
    return {
        "fingerprint_version": FINGERPRINT_VERSION,
        "data": dataset.sha256,
        "retriever": config.retriever.identity(),
        "top_k": None if config.retriever.ignores_k else config.top_k,
        "missing_notes": config.missing_notes,
        "prompt": config.prompt.sha256,
        **llm_identity(config),
        **changed_note_settings(config),
        **({} if config.note_fields == TITLE_AND_CONTENT else {"note_texts": dataset.notes.sha256}),
        **query_identity(config),
        **({} if config.rerank is None else {"rerank": config.rerank.identity()}),
        **_image_paths(config.retriever, dataset),
    }


def query_identity(config: RunConfig) -> dict[str, Any]:
    """Return what can change the texts that are searched; empty without a query stage."""
    asked = config.query_config
    if asked is None:
        return {}
    return {"query": {**config.query.identity(), "llm": asked.llm.identity(), "refusals": REFUSAL_PATTERNS}}


def _image_paths(retriever: Retriever, dataset: Dataset) -> dict[str, Any]:
    """Return the hash of the image paths of the notes, if a part of the retriever reads images."""
    indexed = [part for part in leaves(retriever) if isinstance(part, IndexedRetriever)]
    found = {paths for part in indexed if (paths := part.images_made_of(dataset.notes)) is not None}
    return {"image_paths": sorted(found)} if found else {}


def llm_identity(config: LLMConfig) -> dict[str, Any]:
    """Return the identity of the LLM, and of its engine if we start it."""
    engine = {"engine": engine_of(config.llm, config.llm_label).identity()} if config.serve else {}
    return {"llm": config.llm.identity(), **engine}


def changed_note_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings of notes in the prompt that are not the default, so that older runs keep their identity.

    `shuffled` adds the seed, which then changes answers; the size of images counts if there are any.
    """
    names = ("note_fields", "note_order", "note_chars", "note_images", "image_size")
    settings: dict[str, Any] = {name: getattr(config, name) for name in (names if sends_images(config) else names[:3])}
    changed = {name: value for name, value in settings.items() if value != RunConfig.model_fields[name].default}
    if "note_fields" in changed:
        changed["note_fields"] = note_fields_label(config.note_fields)
    return changed | ({"seed": config.seed} if config.note_order == "shuffled" else {})


def run_directory(config: RunConfig, dataset: Dataset, identity: dict[str, Any]) -> RunDirectory:
    """Return the directory of this run: the existing one, else a new name.

    Only the fingerprint tells runs apart; the name before it is for people. The same data under another name or in
    another encoding is the same run in the same directory.
    """
    first = "+".join([RETRIEVERS.short_name(config.retriever.named().name), *_query_stage(config)])
    stages = [first, *_second_stage(config)]
    names = (dataset.name, *stages, config.llm_label, Path(config.prompt.source).stem)
    return RunDirectory(find_directory(config.runs_dir, names, identity, MANIFEST))


def continued(manifest: Manifest, earlier: Manifest | None, is_asking: bool) -> Manifest:
    """Return the manifest with what it keeps of the earlier one: the start, and the origin of its answers."""
    if earlier is None:
        return manifest
    kept = ["started"] if is_asking else ["started", "packages", "python", "git_commit", "server"]
    return manifest.model_copy(update={name: getattr(earlier, name) for name in kept})


def new_manifest(
    config: RunConfig,
    dataset: Dataset,
    questions: Sequence[Question],
    defects: QuestionDefects,
    identity: dict[str, Any],
    server: dict[str, Any],
) -> Manifest:
    """Make the manifest of a run that begins now.

    Args:
        config: The configuration of the run.
        dataset: Its data.
        questions: The questions that it asks.
        defects: The defects of these questions.
        identity: As `run_identity` returns it.
        server: What the LLM's server says about itself.
    """
    prompt: Prompt = config.prompt
    return Manifest(
        state="incomplete",
        fingerprint=fingerprint(identity),
        identity=identity,
        config=config.spec().model_dump(mode="json"),
        data={"label": dataset.label, "sha256": dataset.sha256, "n_notes": len(dataset.notes)},
        data_defects=defects,
        prompt={
            "name": prompt.name,
            "version": prompt.version,
            "sha256": prompt.sha256,
            **({"refusal": list(prompt.refusal)} if prompt.refusal else {}),
        },
        question_set_sha256=hash_questions(questions),
        n_questions=len(questions),
        seed=config.seed,
        labels={
            "data": dataset.label,
            "retriever": retriever_label(config),
            "llm": llm_label(config),
            "prompt": prompt.name,
        },
        packages=installed_packages(),
        python=platform.python_version(),
        git_commit=git_commit(),
        server=server,
        started=now(),
        updated=now(),
    )


def retriever_label(config: RunConfig) -> str:
    """Name the retriever for tables: its name, the settings that are not the default, and the second stage."""
    retriever: Retriever = config.retriever
    name = retriever.named().name
    differs = retriever.changed(RETRIEVERS.implied(name))
    if isinstance(model := differs.get("model"), str):
        differs |= {"model": short_path(model, str(retriever.identity().get("model")))}
    first = describe(RETRIEVERS.label(name), differs)
    if (asked := config.query_config) is not None:
        llm = {} if config.query.asks_own_llm else {"llm": asked.llm_label}
        changes = {**config.query.changed(), **llm, **changed_query_llm(config.query.llm, asked.llm)}
        first = f"{first} + {describe(config.query.called(), changes)}"
    if config.rerank is None:
        return first
    changed = changed_rerank_settings(config.rerank.depth, config.rerank.weight) | config.rerank.changed()
    return f"{first} + {describe(config.rerank.name, changed)}"


def llm_label(config: LLMConfig) -> str:
    """Name the LLM for tables: its name, and the settings that differ from its preset."""
    return describe(config.llm_label, config.llm.changed(config.llm_preset))


def run_label(config: RunConfig) -> str:
    """Name a run for people, by what tells it apart from others of a sweep."""
    names = (config.retriever.named().name, *_query_stage(config), *_second_stage(config), config.llm_label)
    of_notes = changed_note_settings(config)
    notes = "".join(f", {name}={value}" for name, value in of_notes.items() if name != "seed")
    return f"{' + '.join(names)}, prompt {config.prompt.source}, top {config.top_k}{notes}"


def _query_stage(config: RunConfig) -> list[str]:
    return [] if config.query is None else [config.query.called()]


def _second_stage(config: RunConfig) -> list[str]:
    return [] if config.rerank is None else [config.rerank.name]


def earlier_manifest(directory: RunDirectory, identity: dict[str, Any]) -> Manifest | None:
    """Return the manifest of the run that is resumed; None if the run is new."""
    if not (directory.path / MANIFEST).exists():
        return None
    earlier = directory.read_manifest()
    if earlier.identity != identity:
        raise UsageError(f"{directory.path} belongs to another configuration; write elsewhere with --runs-dir")
    return earlier
