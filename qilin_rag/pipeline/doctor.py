"""Check what a run needs: packages, data, models, the server, keys, and folders to write to."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from packaging.requirements import Requirement

from qilin_rag.config.query_llm import build_query_llm, query_llm_of
from qilin_rag.config.resources import read_yaml, resource_names
from qilin_rag.config.spec import RunSpec
from qilin_rag.core.cache import cache_dir
from qilin_rag.core.downloads import NotHereError, no_downloads
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.files import expanded
from qilin_rag.core.registry import ENGINES, LLMS, QUERIES, RETRIEVERS, SCORERS, Named
from qilin_rag.data.notes import open_notes_of
from qilin_rag.data.source import open_source
from qilin_rag.llms.connection import is_local
from qilin_rag.llms.openai_compatible import OpenAICompatible
from qilin_rag.llms.serving.engines import Engine
from qilin_rag.models.exported import PACKAGES, require_backend
from qilin_rag.models.pretrained import find_model
from qilin_rag.rankers.listwise import LLMReranker
from qilin_rag.rankers.pairs import PairRanker
from qilin_rag.rankers.rerank import Reranker
from qilin_rag.retrievers.dense.backends import kept_encoding
from qilin_rag.retrievers.dense.note_input import check_has_processor
from qilin_rag.retrievers.dense.pictures import NotePictures
from qilin_rag.retrievers.dense.retriever import BiEncoder
from qilin_rag.retrievers.multivector.retriever import MultiVector
from qilin_rag.retrievers.parts import leaves
from qilin_rag.retrievers.query_stage import QueryStage
from qilin_rag.retrievers.sparse.retriever import LearnedSparse

EXTRAS = {
    "neural": "biencoder, sparse, multivector and bertscore",
    "onnx": "encoding notes by ONNX Runtime",
    "openvino": "encoding notes by OpenVINO",
    "images": "images of notes",
    "langchain": "LangChain's models and retrievers",
    "rankers": "training the rankers",
    "analysis": "tables and plots of the data",
    "ocr": "reading the text of images",
}
_ELSEWHERE = {"runs": "name another folder: --runs-dir", "cache": "name another folder: QILIN_RAG_CACHE"}
_PROBE_TIMEOUT_S = 1.0
_LOOKED_AT = 100  # notes whose images are read


class Finding(NamedTuple):
    """The result of one check: `failed` if the run needs what is not there, `missing` if it does not need it."""

    subject: str
    state: Literal["ok", "missing", "failed"]
    detail: str
    advice: str = ""


def examine(config: RunSpec) -> Iterator[Finding]:
    """Check everything that the run of `config` needs, and what other runs could use; fetch nothing."""
    yield Finding("python", "ok", f"{sys.version.split()[0]}, qilin-rag {_version('qilin-rag')}")
    yield _gpu()
    for extra, purpose in EXTRAS.items():
        yield check_packages(extra, purpose)
    for name in ENGINES.table():
        yield _engine(name)
    yield _data(config.data)
    yield from _models(config)
    if config.rerank is not None:
        yield _reranker(config, config.rerank)
    yield _llm(config)
    if config.query is not None:
        yield _query(config, config.query)
    yield from _presets(except_for=config.llm_label)
    for subject, folder in (("runs", config.runs_dir), ("cache", cache_dir())):
        yield _folder(subject, folder)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpu() -> Finding:
    """Ask the driver for GPUs, so that torch is not needed."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        found = (
            subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip().splitlines()
        )
    except (OSError, subprocess.SubprocessError):
        found = []
    return Finding("gpu", "ok", "; ".join(found)) if found else Finding("gpu", "missing", "none seen")


def check_packages(extra: str, purpose: str) -> Finding:
    """Check the packages of an extra, as this package's metadata names them."""
    wanted = [Requirement(line) for line in requires("qilin-rag") or []]
    named = [
        each for each in wanted if each.marker and each.marker.evaluate({"extra": extra}) and each.name != "qilin-rag"
    ]
    there = {each.name: _version(each.name) for each in named}
    wrong = [each.name for each in named if not (found := there[each.name]) or not each.specifier.contains(found, True)]
    if not wrong:
        return Finding(extra, "ok", ", ".join(f"{name} {found}" for name, found in there.items()))
    detail = ", ".join(f"{name} {there[name]} is too old" if there[name] else f"no {name}" for name in wrong)
    return Finding(extra, "missing", f"{detail}: {purpose}", f"pip install 'qilin-rag[{extra}]'")


def _engine(name: str) -> Finding:
    """Check an engine that serves models, in the Python that its variable names."""
    engine: Engine = ENGINES.create(name, {})
    try:
        return Finding(name, "ok", f"{engine.title} {engine.installed_version()}, of {engine.interpreter}")
    except QilinError as error:
        detail, _, advice = str(error).partition("; ")
        return Finding(name, "missing", f"{detail}: serving a model here", advice)


def _data(name: str) -> Finding:
    try:
        source = open_source(name, fetch=False)
        tables = {table: source.files(table) for table in ("notes", "dqa")}
    except QilinError as error:
        return Finding("data", "failed", str(error))
    found = ", ".join(f"{table} ({encoding}, {len(files)} files)" for table, (encoding, files) in tables.items())
    return Finding("data", "ok", f"{source.label}: {found}")


def _models(config: RunSpec) -> Iterator[Finding]:
    """Check the pretrained models of the run, or the default models of biencoder and bertscore."""
    try:
        retriever = RETRIEVERS.create(config.retriever.name, config.retriever.settings)
        bert_score = SCORERS.create("bertscore", config.metrics.get("bertscore", {}))
    except QilinError as error:
        yield Finding("settings", "failed", str(error))
        return
    bi_encoders = [part for part in leaves(retriever) if isinstance(part, BiEncoder)] or [BiEncoder()]
    yield from (_served(each) for each in bi_encoders if each.base_url)
    named = [("biencoder", each.model, "retriever.model") for each in bi_encoders if not each.base_url]
    for name, model, key in (*named, ("bertscore", bert_score.model, "metrics.bertscore.model")):
        if folder := find_model(model):
            yield Finding(name, "ok", f"model {model}" + ("" if str(folder) == model else f", in {folder}"))
        elif expanded(model).exists():
            detail, advice = f"{model} is not a pretrained model", f"name another folder: --set {key}=FOLDER"
            yield Finding(name, "failed", detail, advice)
        else:
            advice = f"fetched from the hub on first use; or --set {key}=FOLDER"
            yield Finding(name, "missing", f"model {model} is not on this machine", advice)
    yield from (_encoder(part) for part in leaves(retriever) if isinstance(part, LearnedSparse | MultiVector))
    yield from (_images(part, config.data) for part in bi_encoders if part.note_input != "text")
    yield from (_backend(part) for part in bi_encoders if part.backend != "torch")


def _encoder(retriever: LearnedSparse | MultiVector) -> Finding:
    """Check that the model of a retriever is here, and makes sparse vectors, or vectors of tokens."""
    name = retriever.called()
    try:
        with no_downloads():
            return Finding(name, "ok", retriever.check())
    except NotHereError:
        advice = "fetched from the hub on first use; or --set retriever.model=FOLDER"
        return Finding(name, "missing", f"model {retriever.model} is not on this machine", advice)
    except QilinError as error:
        detail, _, advice = str(error).partition("; ")
        return Finding(name, "failed", detail, advice)


def _reranker(config: RunSpec, source: str | Path) -> Finding:
    """Check that the second stage of the run is here, or answers."""
    try:
        ranker = Reranker.open(source, config.rerank_depth, settings=config.rerank_settings).ranker
        if isinstance(ranker, PairRanker | LLMReranker):
            with no_downloads():
                return Finding("reranker", "ok", ranker.check())
    except NotHereError:
        return Finding(
            "reranker", "missing", f"model {source} is not on this machine", "fetched from the hub on first use"
        )
    except QilinError as error:
        detail, _, advice = str(error).partition("; ")
        return Finding("reranker", "failed", detail, advice)
    return Finding("reranker", "ok", f"{ranker.called()}, trained in {source}")


def _served(retriever: BiEncoder) -> Finding:
    """Ask the server of a retriever for one vector."""
    try:
        facts = retriever.check_server()
    except QilinError as error:
        detail, _, advice = str(error).partition("; ")
        return Finding("biencoder", "failed", detail, advice)
    detail = f"model {retriever.model} at {retriever.base_url} makes vectors of {facts['dimensions']} dimensions"
    return Finding("biencoder", "ok", detail)


def _backend(retriever: BiEncoder) -> Finding:
    """Check the packages of another library than torch, and tell what the index of a retriever was encoded by."""
    subject = f"backend {retriever.backend}"
    try:
        assert retriever.backend != "torch"
        require_backend(retriever.backend)
    except UsageError as error:
        detail, _, advice = str(error).partition(": ")
        return Finding(subject, "failed", detail, advice)
    installed = ", ".join(f"{package} {_version(package)}" for package in PACKAGES[retriever.backend])
    encoding = retriever.index and kept_encoding(expanded(retriever.index))
    return Finding(subject, "ok", f"{installed}; index: {encoding.told()}" if encoding else installed)


def _images(retriever: BiEncoder, data: str) -> Finding:
    """Check that the model of a retriever takes images, and that a few of the first notes have some."""
    subject = f"note_input {retriever.note_input}"
    try:
        if folder := find_model(retriever.model):
            check_has_processor(folder, retriever.model)
        source = open_source(data, fetch=False)
        notes = open_notes_of(source)
        some = notes.note_idxs[:_LOOKED_AT].tolist()
        found = NotePictures(notes, retriever.images, retriever.image_size).read(some)
    except QilinError as error:
        detail, _, advice = str(error).partition("; ")
        return Finding(subject, "failed", detail, advice)
    n_with = sum(map(bool, found.images))
    detail = f"{n_with} of the first {len(some)} notes have an image that can be read"
    if n_with:
        return Finding(subject, "ok", detail)
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(found.left_out.items()))
    return Finding(
        subject, "failed", f"{detail}: {reasons}", f"put the images into {notes.images}, as image_path names them"
    )


def _llm(config: RunSpec) -> Finding:
    """Ask the LLM of the run whether it is ready."""
    try:
        said = LLMS.create(config.llm.name, config.llm.settings).check()
    except QilinError as error:
        return Finding(f"llm {config.llm_label}", "failed", str(error))
    details = ", ".join(f"{key} {value}" for key, value in said.items() if value) or "needs no server"
    return Finding(f"llm {config.llm_label}", "ok", details)


def _query(config: RunSpec, query: Named) -> Finding:
    """Check that the LLM of the query stage follows instructions, and is ready."""
    subject = f"query {query.name}"
    try:
        stage: QueryStage = QUERIES.create(query.name, query.settings)
        llm = build_query_llm(stage.llm, LLMS.create(config.llm.name, config.llm.settings))
        stage.check_retriever(RETRIEVERS.create(config.retriever.name, config.retriever.settings))
        said = llm.check()
    except QilinError as error:
        detail, _, advice = str(error).partition("; ")
        return Finding(subject, "failed", detail, advice)
    label, _ = query_llm_of(stage.llm, config.llm_label, {"name": config.llm.name})
    return Finding(
        subject, "ok", ", ".join([f"by {label}", *(f"{key} {value}" for key, value in said.items() if value)])
    )


def _presets(except_for: str) -> Iterator[Finding]:
    """Check the other presets: whether a local address answers, whether the key of a remote one is set."""
    for name, path in resource_names("configs/llms").items():
        preset = read_yaml(path)
        if name == except_for or preset.get("class") != "openai":
            continue
        llm: Any = LLMS.resolve(preset["class"]).model_construct(**preset)
        address = urlsplit(llm.base_url)
        if is_local(llm.base_url):
            is_up = _answers(address.hostname or "", address.port or {"https": 443}.get(address.scheme, 80))
            state = f"something answers at {address.netloc}" if is_up else f"no server at {address.netloc}"
            advice = "" if is_up else f"qilin-rag serve {name}, or run --serve"
            yield Finding(f"llm {name}", "ok" if is_up else "missing", state, advice)
        else:
            has_key = _has_key(llm)
            state = f"{llm.api_key_env} is {'set' if has_key else 'not set'}"
            advice = "" if has_key else f"export {llm.api_key_env}=..."
            yield Finding(f"llm {name}", "ok" if has_key else "missing", state, advice)


def _has_key(llm: OpenAICompatible) -> bool:
    try:
        return bool(llm.api_key())
    except QilinError:
        return False


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False


def _folder(subject: str, folder: Path) -> Finding:
    """Check whether the folder can be written to, and how much space is free."""
    there = next(parent for parent in [folder.absolute(), *folder.absolute().parents] if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            free_gb = shutil.disk_usage(there).free / 2**30
    except OSError as error:
        return Finding(subject, "failed", f"{folder} can't be written: {error.strerror or error}", _ELSEWHERE[subject])
    return Finding(subject, "ok", f"{folder}, {free_gb:,.0f} GB free")
