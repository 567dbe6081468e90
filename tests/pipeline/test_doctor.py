from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qilin_rag.pipeline import doctor
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer

Findings = dict[str, dict[str, str]]


@pytest.fixture
def examine(cli: Cli) -> Callable[..., tuple[int, Findings]]:
    def call(*arguments: object) -> tuple[int, Findings]:
        done = cli("doctor", *arguments, "--json")
        return done.code, {finding["subject"]: finding for finding in json.loads(done.out)}

    return call


def test_a_fresh_machine_can_do_the_default_run(examine: Callable[..., tuple[int, Findings]], own_folder: Path) -> None:
    code, found = examine()
    assert code == 0
    assert found["data"]["detail"] == "bundled sample, not Qilin: notes (jsonl, 1 files), dqa (jsonl, 1 files)"
    assert found["llm extractive"] | {"advice": ""} == found["llm extractive"]
    assert found["llm gpt-4o-mini"]["advice"] == "export OPENAI_API_KEY=..."
    assert found["bertscore"]["state"] == "missing"
    assert {"python", "gpu", "runs", "cache", *doctor.EXTRAS} <= found.keys()
    assert list(own_folder.iterdir()) == []


def test_the_models_of_a_hybrids_parts_are_looked_for(examine: Callable[..., tuple[int, Findings]]) -> None:
    """And settings that nothing can be made of are a finding."""
    parts = "retriever.of=[bm25, {name: biencoder, model: nobody/knows-it}]"
    found = examine("--retriever", "hybrid", "--set", parts)[1]["biencoder"]
    assert (found["state"], found["detail"]) == ("missing", "model nobody/knows-it is not on this machine")
    code, all_found = examine("--retriever", "hybrid", "--set", "retriever.of=[bm25]")
    assert (code, all_found["settings"]["state"]) == (1, "failed")


def test_missing_packages_come_with_the_pip_line(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    installed = {"torch": "2.0.0", "faiss-cpu": "1.15.1", "scipy": "1.18.0"}
    monkeypatch.setattr(doctor, "_version", installed.get)
    found = doctor.check_packages("neural", "dense retrieval")
    assert found.state == "missing"
    assert "no sentence-transformers" in found.detail
    assert "torch 2.0.0 is too old" in found.detail
    assert "faiss" not in found.detail
    assert found.advice == "pip install 'qilin-rag[neural]'"
    installed |= {"torch": "2.13.0+cpu", "sentence-transformers": "6.2.0"}
    assert doctor.check_packages("neural", "dense retrieval").state == "ok"


def test_the_server_of_the_run_is_asked(
    server: FakeServer, examine: Callable[..., tuple[int, Findings]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url")
    code, found = examine(*asked, server.url)
    assert (code, found[f"llm {MODEL}"]["state"]) == (0, "ok")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        code, found = examine(*asked, f"http://127.0.0.1:{closed.getsockname()[1]}/v1")
    assert (code, found[f"llm {MODEL}"]["state"]) == (1, "failed")
    assert "no server answers" in found[f"llm {MODEL}"]["detail"]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    assert "sk-secret" not in json.dumps(examine()[1])
    assert examine()[1]["llm gpt-4o-mini"]["state"] == "ok"


def test_data_models_and_folders_of_the_run(examine: Callable[..., tuple[int, Findings]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model = tmp_path / "model"
    model.mkdir()
    settings = ("--retriever", "biencoder", "--set", f"retriever.model={model}", "--data", "nowhere")
    code, found = examine(*settings, "--runs-dir", tmp_path / "file" / "runs")
    assert code == 1
    assert "does not exist" in found["data"]["detail"]
    assert "is not a pretrained model" in found["biencoder"]["detail"]
    assert found["runs"]["state"] == "failed"
    (model / "config.json").write_text("{}")
    assert examine(*settings)[1]["biencoder"]["state"] == "ok"


def test_the_table_names_the_next_step(cli: Cli) -> None:
    done = cli("doctor")
    assert done.code == 0
    assert "→ pip install 'qilin-rag[neural]'" in done.out or "faiss-cpu 1" in done.out


@pytest.mark.parametrize(("name", "module"), [("vllm", "vllm"), ("llamacpp", "xllamacpp")])
def test_what_serves_models_is_looked_for_where_its_variable_says(
    examine: Callable[..., tuple[int, Findings]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    module: str,
) -> None:
    variable = f"QILIN_RAG_{name.upper()}_PYTHON"
    monkeypatch.setenv(variable, str(tmp_path / "none"))
    assert f"{tmp_path}/none can't be run" in examine()[1][name]["detail"]
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path}" exec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv(variable, str(python))
    code, found = examine()
    assert (code, found[name]["state"]) == (0, "missing")
    assert found[name]["advice"].endswith(f"and name its Python: export {variable}=/path/to/bin/python")
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text("raise SystemExit('not to be imported')")
    (tmp_path / f"{module}-9.8.dist-info").mkdir()
    (tmp_path / f"{module}-9.8.dist-info" / "METADATA").write_text(f"Name: {module}\nVersion: 9.8\n")
    assert f" 9.8, of {python}" in examine()[1][name]["detail"]
