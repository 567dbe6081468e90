"""The list of runs as a server sends it, and what the page of a run is given."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

pytest.importorskip("starlette", reason="needs Starlette: pip install 'qilin-rag[view]'")
import qilin_rag
from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.prompts.answer import Prompt
from qilin_rag.viewer.run_page import DOWNLOADS
from qilin_rag.viewer.site import site
from tests.reports.hostile import HOSTILE, hostile_run
from tests.viewer.serving import client_of, started

PAGE = Path(qilin_rag.__file__).parent / "viewer/page"
FROM_DATA = {
    "qilin-rag: Runs",
    "qilin-rag: Run",
    "user",
    "assistant",
    *Prompt.parts,
    "fingerprint",
    "git_commit",
    "python",
    "packages",
    "server",
    "data",
}
STRING = r'"((?:[^"\\]|\\.)*)"'


@pytest.fixture
def directory(data_dir: Path) -> RunDirectory:
    return run(resolve_run({"data": str(data_dir), "retriever": "bm25", "metrics": "rouge_l"})).directory


@pytest.fixture
def client(directory: RunDirectory) -> Any:
    return client_of(site([directory.path.parent]))


class Stream:
    """The events of an open stream."""

    def __init__(self, address: str, **fields: str) -> None:
        parts = urlsplit(address)
        token = parse_qs(parts.query)["token"][0]
        query = "&".join(f"{name}={value}" for name, value in fields.items())
        request = urllib.request.Request(
            f"http://{parts.netloc}/api/events?{query}", headers={"authorization": f"Bearer {token}"}
        )
        self._answer = urllib.request.urlopen(request, timeout=20)
        assert self._answer.headers["content-type"].startswith("text/event-stream")

    def next(self) -> dict[str, Any]:
        for line in self._answer:
            if line.startswith(b"data: "):
                event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                return event
        raise EOFError

    def ends(self) -> bool:
        """Whether the server closed the stream, and did not leave it open."""
        try:
            while True:
                self.next()
        except EOFError:
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        self._answer.close()


@pytest.mark.slow
def test_a_server_tells_what_changes_and_ends_with_open_streams(directory: RunDirectory) -> None:
    other = directory.path.with_name("other")
    shutil.copytree(directory.path, other)
    samples = directory.path / "samples.jsonl"
    lines = samples.read_bytes().splitlines(keepends=True)
    with started("--runs-dir", directory.path.parent) as address:
        all_runs, one_run, gone = Stream(address), Stream(address, run="other"), Stream(address)
        gone.close()
        first = all_runs.next()
        assert first["is_first"] and {row["key"] for row in first["rows"]} == {directory.path.name, "other"}
        assert [row["key"] for row in one_run.next()["rows"]] == ["other"]
        directory.write_manifest(directory.read_manifest().model_copy(update={"state": "incomplete"}))
        samples.write_bytes(lines[0])
        while not (event := all_runs.next())["rows"] or event["rows"][0]["done"] != 1:
            assert not event["is_first"]
        assert [(row["key"], row["state"], row["done"]) for row in event["rows"]] == [
            (directory.path.name, "interrupted", 1)
        ]
        shutil.rmtree(other)
        assert all_runs.next()["gone"] == one_run.next()["gone"] == ["run/other"]
    assert all_runs.ends() and one_run.ends()


def test_the_pages_are_ours_and_hold_nothing_of_a_run(client: Any, directory: RunDirectory) -> None:
    for address in ("/", f"/run?run={directory.path.name}", "/run?run=<script>alert(1)</script>"):
        answer = client.get(address)
        assert answer.status_code == 200 and "<script>alert" not in answer.text
        assert not re.search(r"\son\w+=|style=|<style|<script(?! type=\"module\" src=\"/page/)", answer.text)
        for asset in re.findall(r'(?:src|href)="(/page/[^"]+)"', answer.text):
            assert client.get(asset).status_code == 200


def test_a_run_is_described_as_show_describes_it(client: Any, directory: RunDirectory) -> None:
    told = client.get("/api/run", params={"run": directory.path.name}).json()
    manifest, summary = directory.read_manifest(), directory.read_summary()
    assert told["row"] == client.get("/api/runs").json()[0]
    assert yaml.safe_load(told["settings"]) == manifest.config
    assert told["identity"]["fingerprint"] == manifest.fingerprint
    assert yaml.safe_load(told["identity"]["packages"]) == manifest.packages
    assert {name: (of["value"], of["n"], of["ci95"]) for name, of in told["figures"].items()} == {
        name: (of.value, of.n, of.ci95 and list(of.ci95)) for name, of in summary.metrics.items()
    }
    assert manifest.times is not None and told["times"] == manifest.times.model_dump()
    assert "{{ query }}" in told["prompt"]["texts"]["with_notes"]
    assert {file["name"] for file in told["files"]} == {
        path.name for path in directory.path.iterdir() if not path.name.startswith(".")
    }


def test_a_template_that_differs_is_not_shown(client: Any, directory: RunDirectory) -> None:
    manifest = directory.read_manifest()
    directory.write_manifest(manifest.model_copy(update={"prompt": {**manifest.prompt, "sha256": "0"}}))
    assert client.get("/api/run", params={"run": directory.path.name}).json()["prompt"]["texts"] == {}


def test_questions_are_paged_as_they_come(client: Any, directory: RunDirectory) -> None:
    sample = directory.read_samples()[1][0]
    questions = [directory.read_questions()[0].model_copy(update={"id": f"q{i}"}) for i in range(450)]
    directory.write_questions(questions)
    path = directory.path / "samples.jsonl"

    def line(number: int, answer: str) -> bytes:
        named = sample.model_copy(update={"question_id": f"q{number}", "answer": answer, "raw": answer})
        return named.model_dump_json().encode() + b"\n"

    def page(**fields: Any) -> dict[str, Any]:
        found: dict[str, Any] = client.get("/api/samples", params={"run": directory.path.name, **fields}).json()
        return found

    path.write_bytes(b"")
    assert page() == {"n": 0, "from": 0, "rows": [], "is_read": True}
    path.write_bytes(b"".join(line(i, "a" * i) for i in range(430)) + line(9999, "elsewhere"))
    newest = page()
    assert (newest["n"], newest["from"], len(newest["rows"])) == (430, 230, 200)
    assert newest["rows"][-1]["id"] == "q429" and newest["rows"][-1]["answer"] == "a" * 200
    assert [row["place"] for row in page(**{"from": 400})["rows"]] == list(range(400, 430))
    with path.open("ab") as file:
        file.write(line(5, "again") + line(430, "later")[:20])
    again = page(**{"from": 0})
    assert again["n"] == 431 and [row["id"] for row in again["rows"] if row["is_earlier"]] == ["q5"]
    whole = client.get("/api/sample", params={"run": directory.path.name, "id": "q5"}).json()
    assert whole["answer"]["text"] == "again" and whole["references"][0]["text"] == questions[5].references[0]
    assert [message["text"] for message in whole["messages"]] == [each["content"] for each in sample.messages]
    path.write_bytes(line(7, "anew"))
    assert [row["id"] for row in page()["rows"]] == ["q7"]
    (directory.path / "questions.jsonl").rename("kept")  # a run that begins has none yet
    assert page()["n"] == 0
    directory.write_questions(questions[:8])
    assert [row["id"] for row in page()["rows"]] == ["q7"]
    for wrong in ("-1", "x", "1e3", "9" * 40, "²"):
        assert client.get("/api/samples", params={"run": directory.path.name, "from": wrong}).status_code == 400
    assert client.get("/api/sample", params={"run": directory.path.name, "id": "q6"}).status_code == 404


def test_long_texts_are_cut(client: Any, directory: RunDirectory) -> None:
    sample = directory.read_samples()[1][0].model_copy(update={"answer": "长" * 300_000, "raw": "长" * 300_000})
    with directory.line_writer() as writer:
        writer.write(sample)
    answer = client.get("/api/sample", params={"run": directory.path.name, "id": sample.question_id}).json()["answer"]
    assert len(answer["text"]) == 200_000 and answer["n_left_out"] == 100_000


def test_logs_and_files_are_those_of_the_run(client: Any, directory: RunDirectory) -> None:
    name = directory.path.name
    (directory.path / "server.log").write_bytes(b"begin" + b"\xff" * (256 << 10) + b"end")
    (Path("secret.log")).write_text("secret")
    (directory.path / "linked.log").symlink_to(Path("secret.log").absolute())
    (directory.path / "sub.log").mkdir()
    assert client.get("/api/run", params={"run": name}).json()["logs"] == ["server.log"]
    log = client.get("/api/log", params={"run": name, "name": "server.log"}).json()
    assert log["text"].endswith("end") and "begin" not in log["text"] and log["n_left_out"] == 8
    outside = [
        "linked.log",
        "sub.log",
        "../secret.log",
        "../../secret.log",
        str(Path("secret.log").absolute()),
        "",
        ".lock",
    ]
    for wrong in [*outside, "manifest.json"]:
        assert client.get("/api/log", params={"run": name, "name": wrong}).status_code == 404
    for wrong in [*outside, "questions.jsonl", "server.log"]:
        assert client.get("/api/file", params={"run": name, "name": wrong}).status_code == 404
    for kept in DOWNLOADS:
        answer = client.get("/api/file", params={"run": name, "name": kept})
        assert answer.content == (directory.path / kept).read_bytes()
        assert answer.headers["content-disposition"] == f'attachment; filename="{kept}"'
    (directory.path / "run.trec").unlink()
    assert client.get("/api/file", params={"run": name, "name": "run.trec"}).status_code == 404
    (directory.path / "run.trec").symlink_to(Path("secret.log").absolute())
    answer = client.get("/api/file", params={"run": name, "name": "run.trec"})
    assert answer.status_code == 400 and "secret" not in answer.text.replace("secret.log", "")


def test_a_run_that_cannot_be_read_says_why(client: Any, directory: RunDirectory) -> None:
    (directory.path / "manifest.json").write_text("{")
    told = client.get("/api/run", params={"run": directory.path.name}).json()
    assert told["row"]["state"] == "unreadable" and "manifest.json" in told["row"]["why"]
    assert "settings" not in told and client.get("/api/run", params={"run": "x"}).status_code == 404


def test_a_strangers_run_of_long_names_is_cut(client: Any, directory: RunDirectory) -> None:
    manifest, long = directory.read_manifest(), "x" * 1_000_000
    labels: Any = dict.fromkeys(manifest.labels, long)
    config = {**manifest.config, "note": long}
    directory.write_manifest(manifest.model_copy(update={"labels": labels, "config": config, "packages": {long: long}}))
    assert len(client.get("/api/runs").content) < 20_000
    assert len(client.get("/api/run", params={"run": directory.path.name}).content) < 500_000


def test_a_hostile_run_is_data(data_dir: Path) -> None:
    path = hostile_run()
    client = client_of(site([path.parent]))
    (path.parent / os_name(b"\xff-run")).mkdir()
    shutil.copy(path / "manifest.json", path.parent / os_name(b"\xff-run"))
    row, odd = sorted(client.get("/api/runs").json(), key=lambda each: each["key"] != path.name)
    assert odd["key"] == r"\xff-run" and row["key"] == path.name and HOSTILE[0] in row["llm"]
    told = client.get("/api/run", params={"run": path.name})
    assert told.status_code == 200 and told.headers["content-type"] == "application/json"
    rows = client.get("/api/samples", params={"run": path.name}).json()["rows"]
    assert client.get("/api/sample", params={"run": path.name, "id": rows[0]["id"]}).json()["query"]["text"]


def os_name(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def test_no_chinese_is_unused_or_lacks_a_value() -> None:
    words = (PAGE / "chinese_live.js").read_text(encoding="utf-8")
    own = dict(re.findall(rf"^  {STRING}: {STRING},$", words, re.MULTILINE))
    names = ("home.js", "home.html", "run.js", "run.html", "run_samples.js", "shown.js")
    source = "".join((PAGE / name).read_text(encoding="utf-8") for name in names)
    assert {english for english in own if english not in source} - FROM_DATA == set()
    for english, chinese in own.items():
        assert sorted(re.findall(r"\{\w+\}", chinese)) == sorted(re.findall(r"\{\w+\}", english)), english
