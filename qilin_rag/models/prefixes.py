"""Text prefixes of bi-encoders: those that the model declares, else those that its family documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.models.families import family_of, sentence_transformers_config

_PASSAGE_PROMPTS = ("document", "passage", "corpus")  # the names that sentence-transformers tries, in its order


class Prefixes(NamedTuple):
    """The texts directly before each query and each passage; empty for none."""

    query: str
    passage: str


def model_prefixes(folder: Path, name: str) -> Prefixes:
    """Return the prefixes of the model in `folder`, given under `name` (a hub name, or the folder itself)."""
    own = declared_prefixes(folder)
    if any(own) or (_declared(folder) and _is_trained_here(folder)):
        return own
    family = family_of(folder, name)
    return Prefixes(family.query, family.passage) if family else Prefixes("", "")


def declared_prefixes(folder: Path) -> Prefixes:
    """Return the prefixes that the model's files declare."""
    declared = _declared(folder)
    passage = next((text for prompt in _PASSAGE_PROMPTS if (text := declared.get(prompt))), "")
    return Prefixes(declared.get("query") or "", passage)


def _is_trained_here(folder: Path) -> bool:
    """Return whether `train` wrote this model, so that an empty prefix is the one it was trained with.

    Other programs write empty prompts into every model that they save.
    """
    return (folder.parent / "ranker.json").is_file()


def _declared(folder: Path) -> dict[str, Any]:
    """Return the prompts by name in sentence-transformers' configuration."""
    prompts = sentence_transformers_config(folder).get("prompts")
    return {key: text for key, text in prompts.items() if isinstance(text, str)} if isinstance(prompts, dict) else {}
