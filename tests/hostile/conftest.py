"""A finished run to tamper with, made once; a canary that must not sing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.run import run
from tests.conftest import NOTES, QUESTIONS, write_jsonl
from tests.fake_server import MODEL, FakeServer
from tests.hostile.watch import SECRET


def needs_langchain(err: str) -> bool:
    """Whether a command ended, as it must where LangChain is not installed, at an LLM of it."""
    return find_spec("langchain") is None and "needs langchain" in err


class Scene(NamedTuple):
    """A folder with a stranger's run of the user's data; `server` is the user's own, `canary` the stranger's."""

    folder: Path
    run: Path
    server: FakeServer
    canary: FakeServer

    def change(self, *path: str | int, to: Any) -> None:
        """Change the manifest."""
        file = self.run / "manifest.json"
        manifest = json.loads(file.read_text(encoding="utf-8"))
        at = manifest
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = to
        file.write_text(json.dumps(manifest), encoding="utf-8")

    def llm(self, **settings: Any) -> None:
        """Change settings of the LLM in the manifest."""
        for name, value in settings.items():
            self.change("config", "llm", "settings", name, to=value)

    def engine(self, **settings: Any) -> None:
        """Have the run served by an engine of these settings."""
        self.llm(engine={"name": "vllm", **settings})
        self.change("config", "serve", to=True)

    def preset(self, name: str, text: str) -> None:
        """A preset of the working folder."""
        (self.folder / "configs/llms").mkdir(parents=True, exist_ok=True)
        (self.folder / f"configs/llms/{name}.yaml").write_text(text, encoding="utf-8")

    def program(self) -> Path:
        """A program that would change the canary file."""
        path = self.folder / "program"
        path.write_text(f"#!/bin/sh\necho changed > {self.folder}/canary.txt\n", encoding="utf-8")
        path.chmod(0o755)
        return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, FakeServer]]:
    """The data and the run as its maker left them."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "small").mkdir()
    write_jsonl(folder / "small/notes.jsonl", NOTES)
    write_jsonl(folder / "small/dqa.jsonl", QUESTIONS)
    with FakeServer() as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("QILIN_RAG_CACHE", str(folder / "cache"))
        patch.delenv("OPENAI_API_KEY", raising=False)
        flags = {"data": "small", "llm": "openai", "base_url": server.url, "retriever": "oracle", "metrics": "rouge_l"}
        run(resolve_run(flags, [f"llm.model={MODEL}"]))
        yield folder, server


@pytest.fixture
def scene(made: tuple[Path, FakeServer], own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    folder, server = made
    for name in ("small", "runs"):
        shutil.copytree(folder / name, own_folder / name)
    (own_folder / "canary.txt").write_text("untouched", encoding="utf-8")
    monkeypatch.setenv("CLOUD_SECRET_KEY", SECRET)
    server.calls.clear()
    server.authorizations.clear()
    [path] = (own_folder / "runs").iterdir()
    with FakeServer() as canary:
        yield Scene(own_folder, path, server, canary)
