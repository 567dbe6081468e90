"""A run with every kind of answer, and other tools' own validators of what it is exported to."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import run
from qilin_rag.reports.exports.base import Exported
from qilin_rag.reports.exports.table import export_format, export_runs
from tests.conftest import NOTES, write_jsonl
from tests.fake_server import MODEL, FakeServer

METRICS = "rouge_l,contains,citations,length_ratio,retrieval"
BREAKS = "甲\u2028乙\x85丙\x0b丁\x1e戊\u2029"
SAID = {
    "平常": "**先**粗研磨[第1篇](#)。\n\n- 加水800毫升[1][2]\n- [2]元的豆子也行！Cold brew\nis best [3]",
    "思考": '<think>想想</think>92度[1]。"引号"，\\反斜杠',
    "分行": f"{BREAKS}[1]。\x00零，\x1b[31m红，\ufeff头\ud83d\ude00"[:-2] + "😀",
    "空白": "",
    "没有": "夏天断水？是。天热遮阴",
    "截断": "六月起遮阴，超过35",
    "过滤": "不会来",
    "失败": "不会来",
}
FAULTS = {"过滤": "filtered", "失败": "overflow", "截断": "length"}


def odd_run(folder: Path, server: FakeServer, **given: Any) -> Run:
    """Run over eight questions: answered with and without citations, cut off, empty, filtered and failed."""
    data = folder / "odd"
    data.mkdir()
    write_jsonl(data / "notes.jsonl", NOTES)
    rows = [
        {
            "search_idx": i,
            "query": f"{name}的 问题\u3000{i}",
            "answers": ["夏天遮阴断水", "92度"],
            "ref_note_idx_list": [10],
        }
        for i, name in enumerate(SAID)
    ]
    write_jsonl(data / "dqa.jsonl", rows)

    def asked(table: dict[str, str], body: dict[str, Any]) -> str | None:
        question = body["messages"][-1]["content"].rpartition("问题：")[2]
        return next((text for name, text in table.items() if name in question), None)

    server.answer = lambda body: asked(SAID, body) or ""
    server.fault = lambda n, body: asked(FAULTS, body)
    settings = {"data": str(data), "retriever": "random", "prompt": "cite", "metrics": METRICS, "llm": "openai"}
    return run(resolve_run({**settings, "base_url": server.url, "top_k": 3, **given}, [f"llm.model={MODEL}"]))


def exported_to(name: str, out: Path, *runs: Path, **settings: object) -> Exported:
    """Export runs by the name of a format."""
    return export_runs(export_format(name, [f"{key}={value}" for key, value in settings.items()]), list(runs), out)


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file that has one a line, for every reader's idea of a line."""
    text = path.read_text(encoding="utf-8")
    assert text.splitlines() == text.removesuffix("\n").split("\n")
    return [json.loads(line) for line in text.splitlines()]


def eee_findings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Any]]:
    """Return errors and warnings of Every Eval Ever's validator and JSON schemas for all files in `folder`."""
    core = pytest.importorskip(
        "every_eval_ever.validator.validation_core",
        reason="every-eval-ever is not installed (pip install --no-deps --ignore-requires-python every-eval-ever)",
    )
    jsonschema = pytest.importorskip("jsonschema")
    monkeypatch.chdir(folder)
    schemas = Path(core.__file__).parents[1] / "schemas"
    of_kind = {
        kind: jsonschema.Draft7Validator(json.loads((schemas / name).read_text(encoding="utf-8")))
        for kind, name in ((".json", "eval.schema.json"), (".jsonl", "instance_level_eval.schema.json"))
    }
    files = sorted(path for path in Path().rglob("*") if path.is_file())
    names = {path.as_posix() for path in files}
    errors, warnings = [], []
    for path in files:
        report = core.validate_file(
            path,
            repo_path=path.as_posix(),
            available_files=names,
            read_repo_file=lambda name: Path(name).read_text(encoding="utf-8"),
            run_semantic_checks=True,
        )
        errors += report.errors
        warnings += report.warnings
        contents = [json.loads(path.read_text(encoding="utf-8"))] if path.suffix == ".json" else json_lines(path)
        errors += [error.message for content in contents for error in of_kind[path.suffix].iter_errors(content)]
    return errors, warnings


def track_findings(path: Path, track: str, monkeypatch: pytest.MonkeyPatch, narratives: dict[str, str]) -> list[Any]:
    """Return what the verifiers of the TREC RAG tracks find in a file of answers to these topics."""
    if (found := PathFinder.find_spec("autojudge_base")) is None:
        pytest.skip("the verifiers are not installed: pip install autojudge-base")
    package, documents, document = (
        ModuleType(name) for name in ("autojudge_base", "autojudge_base.document", "autojudge_base.document.document")
    )
    package.__path__ = list(found.submodule_search_locations or [])
    documents.__path__ = []
    document.Document = BaseModel  # type: ignore[attr-defined]  # the real one downloads data when it is imported
    for module in (package, documents, document):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    reports = importlib.import_module("autojudge_base.report")
    verification = importlib.import_module("autojudge_base.report_verification")
    requests = importlib.import_module("autojudge_base.request")
    asked = {name: requests.Request(request_id=name, title=text) for name, text in narratives.items()}
    checked = verification.ReportVerification(reports.load_report(path), track, requests=asked)
    return list(checked.all().findings)
