"""Identities and manifests in the form of versions before 0.2.

Those versions stored the import paths of component classes, which have moved since. Results of those versions are found
by their former hashes and read as if they had been made now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qilin_rag.core.hashing import fingerprint

_PATHS = {
    "engine/llamacpp": "qilin_rag.llms.engines:LlamaCpp",
    "engine/vllm": "qilin_rag.llms.engines:VLLM",
    "llm/extractive": "qilin_rag.llms.extractive:Extractive",
    "llm/langchain": "qilin_rag.llms.langchain:LangChain",
    "llm/openai": "qilin_rag.llms.openai_compatible:OpenAICompatible",
    "ranker/biencoder": "qilin_rag.rankers.biencoder:BiEncoder",
    "ranker/bm25": "qilin_rag.rankers.bm25:BM25",
    "ranker/crossencoder": "qilin_rag.rankers.crossencoder:CrossEncoder",
    "ranker/dcn-v2": "qilin_rag.rankers.dcn_v2:DCNV2",
    "ranker/production": "qilin_rag.rankers.simple:Production",
    "ranker/random": "qilin_rag.rankers.simple:Random",
    "ranker/vlm": "qilin_rag.rankers.vlm:VLM",
    "retriever/biencoder": "qilin_rag.retrievers.biencoder:BiEncoder",
    "retriever/bm25": "qilin_rag.retrievers.bm25:BM25",
    "retriever/hybrid": "qilin_rag.retrievers.hybrid:Hybrid",
    "retriever/langchain": "qilin_rag.retrievers.langchain:LangChainRetriever",
    "retriever/none": "qilin_rag.retrievers.none:NoRetriever",
    "retriever/oracle": "qilin_rag.retrievers.oracle:Oracle",
    "retriever/oracle_top_k": "qilin_rag.retrievers.oracle:OracleTopK",
    "retriever/random": "qilin_rag.retrievers.random:Random",
    "retriever/recorded": "qilin_rag.retrievers.recorded:Recorded",
    "retriever/trec": "qilin_rag.retrievers.trec:Trec",
}
_GONE = {"retriever/biencoder": ("n_probe", "ef_search")}
"""Settings that components no longer have; their recorded value was null."""
_NAMES = {path: name for name, path in _PATHS.items()}


def former(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity in its former form, at every depth."""

    def change(part: dict[str, Any]) -> dict[str, Any]:
        name = part.get("component")
        if not isinstance(name, str) or name not in _PATHS:
            return part
        beside, gone = _GONE.get(name, (None, ""))
        lost = {gone: None} if beside in part else {}
        return {"class": _PATHS[name]} | {key: value for key, value in part.items() if key != "component"} | lost

    return _changed(identity, change)


def renewed(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the current form of an identity that may be in its former form."""

    def change(part: dict[str, Any]) -> dict[str, Any]:
        path = part.get("class")
        if not isinstance(path, str) or path not in _NAMES:
            return part
        _, gone = _GONE.get(_NAMES[path], (None, ""))
        lost = {"class", gone} if part.get(gone, "") is None else {"class"}
        return {"component": _NAMES[path]} | {key: value for key, value in part.items() if key not in lost}

    return _changed(identity, change)


def renewed_manifest(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest's content with the identity and all fields in their current form, and with its fingerprint."""
    if isinstance(times := content.get("times"), Mapping):
        content = {**content, "times": {"sessions" if name == "sittings" else name: times[name] for name in times}}
    before = content.get("identity")
    try:
        identity = renewed(before) if isinstance(before, Mapping) else before
    except RecursionError:  # nested deeper than any of ours
        return dict(content)
    if not isinstance(identity, Mapping) or identity == before:
        return dict(content)
    return {**content, "identity": identity, "fingerprint": fingerprint(identity)}


def renewed_name(written: str) -> str:
    """Return `kind/name` for the former path of a class of ours; return any other text unchanged."""
    return _NAMES.get(written, written)


def _changed(part: Mapping[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Return a copy in which each mapping is changed, the inner ones first."""

    def inner(value: Any) -> Any:
        if isinstance(value, Mapping):
            return _changed(value, change)
        return [inner(each) for each in value] if isinstance(value, list) else value

    return change({key: inner(value) for key, value in part.items()})
