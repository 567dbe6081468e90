"""Documented properties of model families that model files may not state: pooling, prefixes, prompts of rerankers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import expanded
from qilin_rag.models.pretrained import adapted_models, find_model

Pooling = Literal["mean", "cls", "max", "lasttoken"]
_SEARCH_TASK = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
_SEARCH_ZH = "为这个句子生成表示以用于检索相关文章："
_SEARCH_EN = "Represent this sentence for searching relevant passages: "


class Family(NamedTuple):
    """A family of encoders, recognised by model names, with the properties that its model cards document.

    All families compare vectors by cosine.

    Attributes:
        last_token: The token that must end a text if the last token is pooled.
    """

    name: str
    pattern: str
    pooling: Pooling
    query: str = ""
    passage: str = ""
    last_token: str | None = None


# The first match counts. E5's instruct models need a description of the task, which is unknown here.
FAMILIES = (
    Family("Qwen3-Embedding", r"qwen3-embedding", "lasttoken", _SEARCH_TASK, last_token="<|endoftext|>"),
    Family("Qwen3-VL-Embedding", r"qwen3-vl-embedding", "lasttoken"),
    Family("bge", r"(^|[-_])bge-(small|base|large)-zh", "cls", _SEARCH_ZH),
    Family("bge", r"(^|[-_])bge-(small|base|large)-en", "cls", _SEARCH_EN),
    Family("bge", r"(^|[-_])bge-(?!.*(gemma|icl|reranker))", "cls"),
    Family("e5", r"(^|[-_])e5-(?!.*(instruct|mistral))", "mean", "query: ", "passage: "),
    Family("e5", r"(^|[-_])e5-(?!.*mistral)", "mean"),
    Family("gte", r"(^|[-_])gte-(qwen|.*qwen2)", "lasttoken", f"{_SEARCH_TASK} "),
    Family("gte", r"(^|[-_])gte-(.*-zh|multilingual|modernbert|.*-v1\.5)", "cls"),
    Family("gte", r"(^|[-_])gte-(small|base|large)", "mean"),
    Family("arctic-embed", r"arctic-embed-.*v2", "cls", "query: "),
    Family("arctic-embed", r"arctic-embed", "cls", _SEARCH_EN),
    Family("mxbai-embed", r"mxbai-embed", "cls", _SEARCH_EN),
    Family("bce-embedding", r"bce-embedding", "cls"),
    Family("simcse", r"simcse", "cls"),
    Family("jina-embeddings", r"jina-embeddings-v[23]", "mean"),
    Family("m3e", r"(^|[-_])m3e-", "mean"),
    Family("text2vec", r"text2vec", "mean"),
)


class RerankerFamily(NamedTuple):
    """A family of generative rerankers, recognised by model names, with the prompt that its model cards document.

    Attributes:
        template: A chat template of messages with the roles query, document and, for an instruction, system.
        relevant: The token whose logit is the score.
        irrelevant: The token whose logit is subtracted from it; None if none is.
    """

    name: str
    pattern: str
    template: str
    relevant: str
    irrelevant: str | None = None


def _content(role: str, default: str = "") -> str:
    """Return the template of the content of the first message with this role."""
    choose = f" | default({default!r}, true)" if default else ""
    return f'{{{{ messages | selectattr("role", "eq", "{role}") | map(attribute="content") | first{choose} }}}}'


def _ending(text: str) -> str:
    """Return the template of a text that ends a prompt; Jinja would drop a line break at its end."""
    return f"{{{{ {text!r} }}}}"


_QUERY, _DOCUMENT = _content("query"), _content("document")
_SYSTEM = '{% for message in messages if message.role == "system" %}'
_INSTRUCTION = _SYSTEM + '{{ "instruction: " ~ message.content ~ "\\n" }}{% endfor %}'
RERANKER_FAMILIES = (
    RerankerFamily(
        "Qwen3-Reranker",
        r"qwen3-reranker",
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: '
        + _content("system", "Given a web search query, retrieve relevant passages that answer the query")
        + f"\n<Query>: {_QUERY}\n<Document>: {_DOCUMENT}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>"
        + _ending("\n\n"),
        "yes",
        "no",
    ),
    RerankerFamily(
        "bge-reranker-v2-gemma",
        r"bge-reranker-v2-gemma",
        f"{{{{ bos_token }}}}A: {_QUERY}\nB: {_DOCUMENT}\n"
        + _content(
            "system",
            "Given a query A and a passage B, determine whether the passage contains an answer to the query by "
            "providing a prediction of either 'Yes' or 'No'.",
        ),
        "Yes",
    ),
    RerankerFamily(
        "mxbai-rerank-v2",
        r"mxbai-rerank-.*v2",
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{_INSTRUCTION}query: {_QUERY}\ndocument: {_DOCUMENT}\n"
        "You are a search relevance expert who evaluates how well documents match search queries. For each "
        "query-document pair, carefully analyze the semantic relationship between them, then provide your binary "
        "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:<|im_end|>\n<|im_start|>assistant"
        + _ending("\n"),
        "1",
        "0",
    ),
)


class Assumed(NamedTuple):
    """A pooling that a model's files do not state, and the reason for it."""

    pooling: Pooling
    reason: str
    is_documented: bool


def family_of(folder: Path, name: str) -> Family | None:
    """Return the family of the model in `folder`, given under `name` (a hub name, or the folder itself).

    The family is recognised by that name, by the hub name of a folder in the hub's cache, or by the base model in the
    model's configuration.
    """
    return next((family for known_as in _names(folder, name) if (family := family_named(known_as))), None)


def family_named(name: str) -> Family | None:
    """Return the family of a model by its name alone, without an owner.

    >>> family_named("multilingual-e5-small-Q8_0.gguf").query
    'query: '
    """
    return next((family for family in FAMILIES if re.search(family.pattern, name.lower())), None)


def reranker_family_of(folder: Path, name: str) -> RerankerFamily | None:
    """Return the family of the generative reranker in `folder`, recognised as by `family_of`; None if it has none.

    A model that sentence-transformers saved (`modules.json`) has its prompt in its files, so that no family counts.
    """
    if (folder / "modules.json").is_file():
        return None
    known_as = [each.lower() for each in _names(folder, name)]
    return next((each for each in RERANKER_FAMILIES if any(re.search(each.pattern, name) for name in known_as)), None)


def is_language_model(folder: Path) -> bool:
    """Return whether a model's files are a language model's (`...ForCausalLM`), whose next token is its answer."""
    return any(name.endswith("ForCausalLM") for name in architectures(model_config(folder)))


def is_late_interaction(folder: Path) -> bool:
    """Return whether a model's files say that it has a vector for each token, compared by MaxSim.

    They do so as saved by sentence-transformers (MultiVectorEncoder), PyLate, or Stanford's ColBERT.
    """
    if kind := sentence_transformers_config(folder).get("model_type"):
        return kind in ("MultiVectorEncoder", "ColBERT")
    return "HF_ColBERT" in architectures(model_config(folder))


def assumed_pooling(folder: Path, name: str) -> Assumed | None:
    """Return the pooling of token vectors if the model's own files do not state it; None if they do."""
    config = model_config(folder)
    if (folder / "modules.json").is_file() or config.get("model_type") == "model2vec":
        return None
    family = family_of(folder, name)
    if _is_causal(config) and (family is None or family.pooling in ("cls", "mean")):
        return Assumed("lasttoken", "since it reads left to right", is_documented=False)
    if family:
        return Assumed(family.pooling, f"as the family {family.name} documents", is_documented=True)
    return Assumed("mean", "as most encoders are pooled", is_documented=False)


def assumed_last_token(folder: Path, name: str) -> str | None:
    """Return the token that must end each text by the model's family; None if the model's files decide."""
    family = None if (folder / "modules.json").is_file() else family_of(folder, name)
    return family.last_token if family else None


def sentence_transformers_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's configuration for sentence-transformers; empty if there is none."""
    path = folder / "config_sentence_transformers.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} can't be read: {error}") from error
    return content if isinstance(content, dict) else {}


def _names(folder: Path, name: str) -> list[str]:
    """Return the names that identify a model, the most reliable first."""
    path = expanded(name)
    place = (path if path.exists() else folder).resolve()
    names = [place.name if path.exists() else name.rpartition("/")[2]]
    names += [part.rpartition("--")[2] for part in place.parts if part.startswith("models--")]
    made_from = model_config(folder).get("_name_or_path")
    if isinstance(made_from, str):
        names.append(re.split(r"[\\/]", made_from.rstrip("\\/"))[-1])
    return names


def model_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of transformers (of an adapter: its base model's); empty if it can't be read.

    The code that loads the model reports the error.
    """
    bases = [base for path, name in adapted_models(folder) if path.parent == folder and (base := find_model(name))]
    for place in (folder, *bases):
        try:
            content = json.loads((place / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return content if isinstance(content, dict) else {}
    return {}


def architectures(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the classes that a configuration of transformers is for; a wrong value names none."""
    names = config.get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []


def _is_causal(config: dict[str, Any]) -> bool:
    """Return whether no token attends to later ones, so that only the last token represents the whole text."""
    if config.get("is_causal") is False or config.get("use_bidirectional_attention"):
        return False
    if any(name.endswith("ForCausalLM") for name in architectures(config)):
        return True
    model_type = config.get("model_type")
    if model_type is None or config.get("is_encoder_decoder"):
        return False
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    return model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
