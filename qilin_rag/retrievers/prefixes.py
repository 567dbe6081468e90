"""What stands before a text that a bi-encoder reads: as the model declares it, else as its family documents it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.errors import UsageError

_PASSAGE_PROMPTS = ("document", "passage", "corpus")  # the names sentence-transformers looks for, in its order


class Prefixes(NamedTuple):
    """Put directly before each query and each passage; empty for none."""

    query: str
    passage: str


# By the model cards, for names of models whose files declare no prompts. The instruct models of E5 are another kind:
# they take a task's description.
_FAMILIES = {
    re.compile(r"bge-(small|base|large)-zh"): Prefixes("为这个句子生成表示以用于检索相关文章：", ""),
    re.compile(r"(^|[-_])e5-(?!.*(instruct|mistral))"): Prefixes("query: ", "passage: "),
}


def model_prefixes(folder: Path, name: str) -> Prefixes:
    """The prefixes of the model in `folder`, given under `name` (a hub name, or the folder itself)."""
    declared = _declared(folder)
    passage = next((text for prompt in _PASSAGE_PROMPTS if (text := declared.get(prompt))), "")
    query = declared.get("query") or ""
    if query or passage:
        return Prefixes(query, passage)
    known_as = Path(name).expanduser().resolve().name if Path(name).expanduser().exists() else name.rpartition("/")[2]
    return next((found for family, found in _FAMILIES.items() if family.search(known_as.lower())), Prefixes("", ""))


def _declared(folder: Path) -> dict[str, Any]:
    """The prompts by name in sentence-transformers' configuration."""
    return {
        key: text
        for key, text in (sentence_transformers_config(folder).get("prompts") or {}).items()
        if isinstance(text, str)
    }


def sentence_transformers_config(folder: Path) -> dict[str, Any]:
    """What a model's folder tells sentence-transformers; empty where it tells nothing."""
    path = folder / "config_sentence_transformers.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read: {error}") from error
    return content if isinstance(content, dict) else {}
