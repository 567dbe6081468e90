"""The label page's server: what it takes and refuses, and that nothing it sends tells the runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs Starlette: pip install 'qilin-rag[view]'")
from starlette.testclient import TestClient

import qilin_rag
from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.run import run
from qilin_rag.viewer.label_page import label_site
from qilin_rag.viewer.label_task import open_task, read_task
from qilin_rag.viewer.labels import LabelStore
from tests.viewer.labelling import made_task
from tests.viewer.serving import HOST, client_of

PAGE = Path(qilin_rag.__file__).parent / "viewer/page"
STRING = r'"((?:[^"\\]|\\.)*)"'


class Annotator:
    """A person at a page, without a browser."""

    def __init__(self, client: TestClient, name: str) -> None:
        self.client, self.name = client, name

    def next(self) -> Any:
        return self.client.get("/api/label/next", params={"annotator": self.name}).json()

    def label(self, shown: Any, **fields: Any) -> Any:
        sent = {
            "id": f"{self.name}-label-{shown['item']['question_id']}",
            "task_sha256": shown["task"]["sha256"],
            "question_id": shown["item"]["question_id"],
            "annotator": self.name,
            "choice": "A",
            "seconds": 2,
        }
        return self.post("/api/label", sent | fields)

    def post(self, path: str, content: object) -> Any:
        return self.client.post(path, content=json.dumps(content), headers={"origin": f"http://{HOST}"})


@pytest.fixture
def an(tmp_path: Path) -> Annotator:
    return Annotator(client_of(label_site(LabelStore(made_task(), tmp_path / "labels"))), "An")


def test_a_person_labels_undoes_and_ends(an: Annotator) -> None:
    shown = an.next()
    assert shown["progress"]["total"] == 8 and shown["item"]["references"] == ["reference 0"]
    assert sorted(shown["item"]["answers"]) == ["answer 0 of 0", "answer 0 of 1"]
    stored = an.label(shown)
    assert (stored.status_code, stored.json()["is_new"]) == (200, True)
    assert an.label(shown).json()["is_new"] is False
    last = stored.json()["progress"]["last"]
    assert an.post("/api/label/undo", {"id": last, "annotator": "An"}).json()["progress"]["last"] is None
    assert an.next()["item"] == shown["item"]
    an.label(shown, id="another-label")
    while (shown := an.next())["item"]:
        assert an.label(shown, comment="备注").status_code == 200
    progress = an.client.get("/api/label/progress", params={"annotator": "An"}).json()
    assert (progress["done"], progress["total"], progress["agreement"]) == (8, 8, [])


def test_sides_are_those_of_the_label(an: Annotator, tmp_path: Path) -> None:
    while (shown := an.next())["item"]:
        an.label(shown, choice="B")
        line = json.loads((tmp_path / "labels/made.jsonl").read_text().splitlines()[-1])
        number = shown["item"]["question_id"]
        assert shown["item"]["answers"] == [f"answer {number} of {place}" for place in line["sides"]]


@pytest.mark.parametrize(
    "fields",
    [
        {"choice": "C"},
        {"choice": None},
        {"choice": 1},
        {"ratings": {"A": {"correct": 5}}},
        {"ratings": {"A": {}, "B": {}, "C": {}}},
        {"question_id": "99"},
        {"question_id": 1},
        {"annotator": ""},
        {"annotator": "\u200b \n"},
        {"annotator": "n" * 41},
        {"id": "short"},
        {"id": "../../etc/passwd"},
        {"seconds": -1},
        {"seconds": float("nan")},
        {"comment": "c" * 2001},
        {"sides": [0, 1]},
        {"at": "2026"},
    ],
)
def test_a_wrong_label_is_refused_and_nothing_is_written(an: Annotator, tmp_path: Path, fields: dict[str, Any]) -> None:
    refused = an.label(an.next(), **fields)
    assert refused.status_code == 400 and "\n" not in refused.json()["error"]
    assert not (tmp_path / "labels/made.jsonl").exists()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 100_000, b"\xff", b'{"id": "\\ud800"}', b"null"])
def test_what_is_no_label_is_refused(an: Annotator, tmp_path: Path, body: bytes) -> None:
    for path in ("/api/label", "/api/label/undo"):
        assert an.client.post(path, content=body, headers={"origin": f"http://{HOST}"}).status_code == 400
    assert not (tmp_path / "labels/made.jsonl").exists()


def test_ratings_are_of_both_sides_and_within_the_scale(tmp_path: Path) -> None:
    store = LabelStore(made_task(criteria={"correct": (1, 5)}), tmp_path)
    an = Annotator(client_of(label_site(store)), "An")
    shown = an.next()
    assert shown["task"]["criteria"] == {"correct": [1, 5]}
    for wrong in (0, 6, "5", 4.5, True, None):
        assert an.label(shown, ratings={"A": {"correct": 1}, "B": {"correct": wrong}}).status_code == 400
    assert an.label(shown, ratings={"A": {"correct": 1}, "B": {"correct": 5}}).status_code == 200
    assert [label.ratings for label in store.labels()] == [{"A": {"correct": 1}, "B": {"correct": 5}}]


def test_a_label_that_contradicts_is_told_apart_from_one_that_is_wrong(an: Annotator) -> None:
    shown = an.next()
    assert an.label(shown).status_code == 200
    assert an.label(shown, id="other-label", choice="B").status_code == 409
    assert an.label(shown, task_sha256="other").status_code == 409
    assert an.post("/api/label/undo", {"id": "no-label", "annotator": "An"}).status_code == 409


def test_one_person_has_one_name_however_it_is_typed(an: Annotator) -> None:
    shown = an.next()
    an.label(shown)
    again = Annotator(an.client, "  An\u200b ")
    assert again.next()["annotator"] == "An" and again.next()["progress"]["done"] == 1


@pytest.fixture(scope="module")
def secret_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two runs whose names are easy to find in what is sent."""
    folder = tmp_path_factory.mktemp("secret-place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("QILIN_RAG_CACHE", str(folder / "cache"))
        for name, retriever in (("secret-alpha", "bm25"), ("secret-omega", "oracle")):
            made = run(resolve_run({"data": "sample", "retriever": retriever, "limit": 12}))
            made.path.rename(folder / name)
        yield folder


def test_nothing_that_is_sent_tells_the_runs(secret_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(secret_runs)
    Path("secret-task.yaml").write_text("runs: [secret-alpha, secret-omega]\nshow: {notes: true}")
    task = open_task(read_task("secret-task.yaml"))
    client = client_of(label_site(LabelStore(task, Path("secret-labels"))))
    heard: list[tuple[str, str]] = []

    def hear(response: Any) -> None:
        response.read()
        heard.append((str(response.request.url), f"{response.headers}\n{response.text}"))

    client.event_hooks["response"] = [hear]
    an, bo = Annotator(client, "An"), Annotator(client, "Bo")
    shown = an.next()
    assert shown["item"]["notes"][0] is not None
    for wrong in ({}, {"choice": "C"}, {"question_id": "absent"}, {"id": "other-label"}, {"task_sha256": ""}):
        an.label(shown, **wrong)
    an.post("/api/label/undo", {"id": "An-label-0", "annotator": "An"})
    for person in (an, bo):
        while (shown := person.next())["item"]:
            person.label(shown, choice="B")
    for path in ("/", "/label", "/api/label/progress?annotator=An", "/api/label/next", "/api/label", "/api/label/undo"):
        client.get(path)
    for path in ("/api/keys", "/api/index", "/api/runs", "/api/question", "/run", "/favicon.ico", "/page/..%2flabels"):
        assert client.get(path).status_code == 404
    names = [each.name for each in PAGE.iterdir()]
    assert all(client.get(f"/page/{name}").status_code == 200 for name in names if name.endswith((".js", ".css")))
    whole = Path("secret-labels/secret-task.jsonl").read_bytes()
    Path("secret-labels/secret-task.jsonl").write_bytes(whole + b"damaged\n")
    assert client.get("/api/label/next?annotator=An").status_code == 500
    Path("secret-labels/secret-task.jsonl").unlink()
    Path("secret-labels/secret-task.jsonl").mkdir()
    assert an.next()["error"].startswith("the labels can't be read or written")
    assert len(heard) > 40
    told = [(url, text) for url, text in heard if "secret" in text]
    assert told == []
    for url, text in heard:
        if "/page/" not in url:  # their words are those of all pages
            assert not re.search("bm25|oracle|extractive|concise|sample|latency|manifest", text), url
    assert b"secret" not in whole and b"bm25" not in whole


def test_every_text_of_the_page_has_its_chinese_and_no_chinese_is_unused() -> None:
    words = (PAGE / "label_words.js").read_text(encoding="utf-8")
    pairs = dict(re.findall(rf"^  {STRING}: {STRING},$", words, re.MULTILINE))
    shared = (Path(qilin_rag.__file__).parent / "reports/page/chinese.js").read_text(encoding="utf-8")
    known = dict(re.findall(rf"^  {STRING}: {STRING},$", shared, re.MULTILINE))
    code = "".join((PAGE / name).read_text(encoding="utf-8") for name in ("label.js", "label_server.js"))
    said = set(re.findall(rf"\b(?:say|folded)\({STRING}", code))
    said |= {
        text for texts in re.findall(r"\[([^\]]*)\]\.map\(\(text\) =>", code) for text in re.findall(STRING, texts)
    }
    static = (PAGE / "label.html").read_text(encoding="utf-8")
    body = static.partition("<header")[2]
    said |= {text.strip() for text in re.findall(r"<[^>]*data-say[^>]*>([^<]*[A-Za-z][^<]*)", static)}
    said |= set(re.findall(r'title="([^"]+)" data-say="title"', static))
    assert pairs.keys() == said - known.keys()
    assert not re.findall(r"<(?:h\d|p|label|button|summary)(?![^>]*data-say)[^>]*>\s*[A-Za-z]", body)
    for english, chinese in pairs.items():
        assert re.search(r"[\u4e00-\u9fff]", re.sub(r"\{\w+\}", "", chinese)) or english == "{done} of {total}"
        assert sorted(re.findall(r"\{\w+\}", chinese)) == sorted(re.findall(r"\{\w+\}", english)), english
