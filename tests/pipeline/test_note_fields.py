"""Runs that read other fields of the notes: the same questions, other texts, other indexes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import qilin_rag as qr
from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.pipeline.reproduce import reproduce
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.run_notes import read_prompt_notes
from tests.conftest import Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer

ALL = "title,content,image_text"


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Two notes of shops, whose prices only their images say, and a question about each price."""
    folder = tmp_path / "shop"
    folder.mkdir()
    notes = [{"note_idx": i, "title": f"小店{i}", "content": "今天去了一家店。"} for i in (1, 2)]
    texts = [
        {"note_idx": 1, "image_text": "拿铁咖啡\n售价32元"},
        {"note_idx": 2, "image_text": "红烧牛肉面\n一碗28元"},
    ]
    questions = [
        {"search_idx": 1, "query": "拿铁咖啡售价", "answers": ["售价32元"], "ref_note_idx_list": [1]},
        {"search_idx": 2, "query": "红烧牛肉面多少钱一碗", "answers": ["一碗28元"], "ref_note_idx_list": [2]},
    ]
    write_jsonl(folder / "notes.jsonl", notes)
    write_jsonl(folder / "image_text.jsonl", texts)
    write_jsonl(folder / "dqa.jsonl", questions)
    return folder


def do(shop: Path, fields: str | None = None, *overrides: str, **flags: Any) -> Any:
    flags = {"data": str(shop), "note_fields": fields, "top_k": 1, "metrics": "contains", **flags}
    return run(resolve_run(flags, list(overrides)))


def test_retriever_and_reader_see_the_text_of_images(shop: Path) -> None:
    plain, read = do(shop), do(shop, ALL)
    assert (plain.summary.metrics["contains"].value, read.summary.metrics["contains"].value) == (0, 1)
    assert read.summary.metrics["recall@1"].value == 1
    for first in (plain, read):
        assert do(shop, first.manifest.config["note_fields"]).directory.path == first.directory.path
    assert plain.directory.path != read.directory.path
    assert plain.manifest.data == read.manifest.data
    assert plain.manifest.question_set_sha256 == read.manifest.question_set_sha256


def test_only_other_fields_are_in_the_identity(shop: Path) -> None:
    identity = do(shop).manifest.identity
    assert not {name for name in identity if name.startswith("note")}
    assert do(shop, "content,title").manifest.identity == identity
    read = do(shop, ALL).manifest.identity
    assert read["note_fields"] == "title+content+image_text"
    assert read.keys() - identity.keys() == {"note_fields", "note_texts"}
    rows = [{"note_idx": 1, "image_text": "拿铁咖啡\n售价33元"}]
    write_jsonl(shop / "image_text.jsonl", rows)
    assert do(shop).manifest.identity == identity
    changed = do(shop, ALL).manifest.identity
    assert {name for name in read if read[name] != changed[name]} == {"note_texts"}


def test_prompts_hold_the_text_of_images(shop: Path, server: FakeServer) -> None:
    llm = {"name": "openai", "model": MODEL, "base_url": server.url}
    for fields, said in {None: (False, True), ALL: (True, True), "title": (False, False)}.items():
        done = do(shop, fields, llm=llm, retriever="oracle")
        for sample in done.directory.read_samples()[0].values():
            text = sample.messages[-1]["content"]
            assert ("28元" in text or "32元" in text, "今天去了" in text) == said
            assert "小店" in text
    cut = do(shop, ALL, "note_chars=14", llm=llm, retriever="oracle").directory.read_samples()[0]
    assert "今天去了一家店。\n拿铁咖啡\n" in cut["1"].messages[-1]["content"]
    assert "32" not in cut["1"].messages[-1]["content"]


def test_judges_read_the_notes_as_they_were_read(shop: Path) -> None:
    read = do(shop, ALL, retriever="oracle").directory
    samples = list(read.read_samples()[0].values())
    assert read_prompt_notes(read, samples)["1"][0].content == "今天去了一家店。\n拿铁咖啡\n售价32元"
    plain = do(shop, retriever="oracle").directory
    write_jsonl(shop / "image_text.jsonl", [{"note_idx": 1, "image_text": "other"}])
    assert read_prompt_notes(plain, samples)["1"][0].content == "今天去了一家店。"
    with pytest.raises(UsageError, match=r"image_text of data .* has changed"):
        read_prompt_notes(read, samples)


def test_an_index_is_of_the_fields_it_read(shop: Path, cli: Cli) -> None:
    made = cli("index", "bm25", "--data", shop, "--note-fields", ALL, "--out", "index")
    assert made.code == 0
    do(shop, ALL, "retriever.index=index")
    for other in (None, "title", "title,image_text"):
        with pytest.raises(UsageError, match="index"):
            do(shop, other, "retriever.index=index")


def test_the_tables_compare_them(shop: Path, cli: Cli) -> None:
    runs = [do(shop, fields) for fields in (None, ALL, "title")]
    rows = [*csv.DictReader(cli("leaderboard", "--format", "csv").out.splitlines())]
    assert {row["row"]: row["note_fields"] for row in rows if row["metric"] == "contains"} == {
        "extractive": "title+content",
        "extractive · title+content+image_text": "title+content+image_text",
        "extractive · title": "title",
    }
    [table] = json.loads(cli("leaderboard", "--format", "json").out)
    assert {each["note_fields"] for each in table["spending"]} == {"title+content", "title+content+image_text", "title"}
    retrieval = next(block for block in table["blocks"] if block["metric"] == "retrieval")
    assert set(retrieval["rows"]) == {"bm25", "bm25 · title+content+image_text", "bm25 · title"}
    compared = cli("compare", runs[1].directory.path, runs[0].directory.path, "--json")
    assert compared.code == 0
    assert "note_fields title+content+image_text" in cli("show", runs[1].directory.path).out


def test_a_factor_of_ablations_and_sweeps(shop: Path, tmp_path: Path, cli: Cli) -> None:
    levels = "title+content,image_text+title+content"
    named = ["--note-fields", levels, "--metric", "contains"]
    common = ["--data", shop, "--retrievers", "bm25", "--metrics", "contains", "--set", "top_k=1"]
    [made] = json.loads(cli("ablate", *named, *common, "--json").out)
    [saved] = json.loads(cli("ablate", *named, "--saved", "--top-k", "1", "--json").out)
    for report in (made, saved):
        [factor] = [each for each in report["factors"] if each["factor"] == "note_fields"]
        [system] = factor["systems"]
        assert [(level["level"], level["value"]) for level in system["levels"]] == [
            ("title+content", 0),
            ("title+content+image_text", 1),
        ]
    grid = tmp_path / "grid.yaml"
    grid.write_text("note_fields: [title+content, [title, image_text]]\n")
    for more, fields in (
        ([], [["title", "content"], ["title", "image_text"]]),
        (["--note-fields", "title"], [["title"]]),
    ):
        swept = json.loads(cli("sweep", grid, "--data", shop, "--metrics", "contains", *more, "--json").out)
        configs = [RunDirectory(Path(each["run"])).read_manifest().config for each in swept["runs"]]
        assert [config["note_fields"] for config in configs] == fields
    wrong = cli("ablate", "--note-fields", "title+content,images", *common)
    assert wrong.code == 2
    assert "'images' is not a field" in wrong.err


@pytest.mark.parametrize("given", [["title", "image_text"], ("image_text", "title"), "title,image_text"])
def test_files_flags_and_python_agree(given: Any, shop: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"note_fields: {json.dumps(given)}\n")
    expected = ("title", "image_text")
    assert resolve_run({}, file=path).note_fields == expected
    assert resolve_run({"note_fields": given}).note_fields == expected
    assert resolve_run({}, ["note_fields=title,image_text"]).note_fields == expected
    assert qr.run(data=shop, note_fields=given, metrics="contains", top_k=1).metrics["contains"].value == 1


def test_such_a_run_is_reproduced(shop: Path, tmp_path: Path) -> None:
    done = do(shop, ALL)
    again = reproduce(done.directory.path, runs_dir=tmp_path / "again")
    assert again.agrees


def test_wrong_fields_are_one_line(cli: Cli) -> None:
    for fields, problem in {
        "titel": "'titel' is not a field",
        "title,title": "named twice",
        "": "names no field",
    }.items():
        done = cli("run", "--note-fields", fields)
        assert done.code == 2
        assert problem in done.err
        assert done.err.count("\n") == 1
