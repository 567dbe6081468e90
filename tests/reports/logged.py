"""A run with every outcome and every kind of character, to be exported as logs of other tools."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.imports import import_answers
from qilin_rag.pipeline.run import run
from qilin_rag.reports.exports.base import Exported
from qilin_rag.reports.exports.table import export_format, export_runs
from tests.conftest import NOTES, write_jsonl
from tests.fake_server import MODEL, FakeServer

METRICS = "rouge_l,citations,retrieval"
ODD = 'a\u2028b\x85c\x00d\u202ee\ufefff\t"\\<script>&\U0001f600'
ODD_ID = "../../é 你/\\%41\u2028\x00\u202e" + "长" * 300
FAULTS = {
    "甲失败": "overflow",
    "甲过滤": "filtered",
    "甲截断": "length",
    "甲空白": "null content",
    "甲无数": "no usage",
}
ANSWERS = {"甲好": "<think>想[2]</think>遮阴[2]。晾根[1][2]。", "甲怪": f"{ODD}[1]。{ODD}"}
QUESTIONS = [*ANSWERS, *FAULTS]
IDS = ["1", ODD_ID, "failed", "filtered", "cut", "0", "no usage"]


def logged_data(folder: Path) -> Path:
    folder.mkdir()
    write_jsonl(folder / "notes.jsonl", NOTES)
    rows = [
        {"search_idx": name, "query": f"{query} 多肉 {ODD}", "answers": ["遮阴。", ODD], "ref_note_idx_list": [12]}
        for name, query in zip(IDS, QUESTIONS, strict=True)
    ]
    write_jsonl(folder / "dqa.jsonl", rows)
    return folder


def logged_run(data: Path, server: FakeServer, *settings: str, **flags: Any) -> Path:
    def asked(body: dict[str, Any]) -> str:
        return str(body["messages"][-1]["content"]).rpartition("问题")[2]

    server.fault = lambda n, body: next((fault for word, fault in FAULTS.items() if word in asked(body)), None)
    server.answer = lambda body: next((said for word, said in ANSWERS.items() if word in asked(body)), "通风[1]")
    given = {
        "data": str(data),
        "retriever": "bm25",
        "llm": "openai",
        "base_url": server.url,
        "prompt": "cite",
        "top_k": 2,
    }
    more = {"metrics": METRICS, "fail_on_error": 1.0, "concurrency": 1}
    return run(resolve_run({**given, **more, **flags}, [f"llm.model={MODEL}", *settings])).directory.path


def exported(name: str, path: Path, out: Path) -> Exported:
    return export_runs(export_format(name), [path], out)


def imported(file: Path, data: Path, **given: Any) -> Path:
    return import_answers(file, name="their-product", data=data, metrics=METRICS, **given).directory.path


def ask(package: str, script: str, folder: Path, *arguments: object) -> Any:
    """What another tool itself says, in a process of its own; `make` puts both tools into a folder for it."""
    readers = Path(os.environ.get("QILIN_RAG_LOG_READERS") or Path(sys.prefix) / "log-readers")
    if not (readers / package).is_dir():
        pytest.skip(f"needs {package} in {readers}, as make installs it (set QILIN_RAG_LOG_READERS)")
    names = ("HOME", "HF_HOME", "HF_DATASETS_CACHE", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    homes = {name: str(folder / "home") for name in (*names, "INSPECT_LOG_DIR")}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name(script), *map(str, arguments)],
        env={**os.environ, **homes, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(readers)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
