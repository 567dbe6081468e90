"""The paper's tables with one command: right values, resumed after a kill, with what is missing, and one page."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.analysis.figures import Column, table
from qilin_rag.analysis.page import LEAD
from qilin_rag.analysis.paper_tables import analyse
from qilin_rag.data.source import open_source
from qilin_rag.reports.paper import TABLE_10
from qilin_rag.reports.replication import log_parts, page
from qilin_rag.reports.replication.chinese import CHINESE
from qilin_rag.reports.replication.log_parts import without_thin
from qilin_rag.reports.replication.part import FEWEST
from qilin_rag.reports.replication.work import all_parts
from qilin_rag.reports.section_page import as_page
from qilin_rag.reports.sections import Section
from qilin_rag.synth import resolve_world, synthesize
from tests.conftest import Cli, launch, wait_until

COUNTS = {"notes": 300, "searches": 1500, "recommendations": 1100, "dqa": 480, "users": 130}
LOG = "table-2,users,table-5,figure-3,table-6,table-7,table-8,table-9"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "qilin"
    synthesize(resolve_world(COUNTS, 3), out)
    return out


def states(data: dict[str, Any]) -> dict[str, str]:
    return {part["part"]: part["state"] for part in data["parts"]}


def without_times(data: dict[str, Any]) -> Any:
    """What a page says, without seconds, and without tokens and costs of runs, which hold times."""
    copy = json.loads(json.dumps(data))
    for part in copy["parts"]:
        part["seconds"] = None
    for tables in copy["boards"].values():
        for each in tables:
            each["spending"] = None
    return copy


def test_every_table_is_that_of_its_own_command(cli: Cli, world: Path) -> None:
    done = cli("paper", "--data", world, "--out", "out", "--json")
    assert (done.code, done.err) == (0, "")
    data = json.loads(done.out)
    trained = {part.name for part in all_parts() if part.name.endswith(("encoder", "dcn-v2", "vlm"))} - {
        "table-11-biencoder"
    }
    assert {name for name, state in states(data).items() if state != "done"} == trained
    assert all(part["lacks"] for part in data["parts"] if part["part"] in trained)
    expected = {each.key: each for each in analyse(open_source(str(world)))}
    assert [each["key"] for each in data["tables"]] == list(expected)
    for each in data["tables"]:
        for row, values in enumerate(each["values"]):
            for column, value in enumerate(values):
                assert value is None or value == expected[each["key"]].values[row][column]
    for task, first in (("search", "bm25"), ("recommendation", "production")):
        ranked = json.loads(cli("rank", "--ranker", first, "--task", task, "--data", world, "--json").out)
        [board] = data["boards"][f"table-10-{task}"]
        [block] = board["blocks"]
        of_row = dict(zip(block["rows"], block["cells"], strict=True))
        assert of_row[first][0]["value"] == pytest.approx(ranked["metrics"]["mrr@10"]["value"])
        of_paper = of_row["BERT-bi (paper, another data set)"]
        assert block["rows"].index("BM25 (paper, another data set)") == block["rows"].index("bm25") + 1
        assert [cell["value"] for cell in of_paper[:4]] == list(TABLE_10[task]["BERT-bi"])
    run = json.loads(
        cli("run", "--data", world, "--retriever", "recorded:bm25", "--missing-notes", "skip", "--json").out
    )
    blocks = {block["metric"]: block for block in data["boards"]["table-11"][0]["blocks"]}
    [at] = [at for at, name in enumerate(blocks["rouge_l"]["columns"]) if "bm25" in name]
    assert blocks["rouge_l"]["cells"][0][at]["value"] == pytest.approx(run["metrics"]["rouge_l"]["value"])
    assert [cells[at]["value"] for cells in blocks["rouge_l"]["cells"][1:]] == [0.388, 0.384, 0.396, 0.349, 0.363]
    text = Path("out/paper.html").read_text(encoding="utf-8")
    for shown in (
        "no LLM at all",
        "not known to be Qilin",
        "only with --train",
        "在 qilin 上复现 Qilin 论文",
        "22.750",
    ):
        assert shown in text
    assert "<script" not in text and "default-src &#39;none&#39;" in text


def test_what_is_done_is_not_done_again(cli: Cli, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only = ["paper", "--data", world, "--out", "out", "--only", "table-2,table-10-search-random", "--json"]
    first = json.loads(cli(*only).out)
    monkeypatch.setattr(log_parts, "table2", lambda *_: 1 / 0)
    monkeypatch.setattr("qilin_rag.reports.replication.ranking_parts.rank", lambda *_: 1 / 0)
    again = json.loads(cli(*only).out)
    assert again == first
    assert states(again)["table-2"] == states(again)["table-10-search-random"] == "done"
    other = json.loads(cli(*only, "--first", "120").out)  # only the ranking reads this
    assert states(other)["table-2"] == "done" and states(other)["table-10-search-random"] == "failed"
    shutil.rmtree(next(Path("out/runs").iterdir()))
    assert states(json.loads(cli(*only).out))["table-10-search-random"] == "failed"  # its run is gone


@pytest.mark.parametrize("moment", ["parts/table-5.json", "runs/*-production-*/ranking.json"])
def test_killed_and_resumed_it_is_as_if_never_killed(cli: Cli, world: Path, moment: str) -> None:
    only = ["paper", "--data", world, "--only", "table-2,table-5,table-10-search"]
    process = launch(*only, "--out", "killed")
    wait_until(lambda: any(Path("killed").glob(moment)), process)
    process.kill()
    process.communicate()
    before = {path: path.read_bytes() for path in Path("killed/parts").glob("*.json")}
    assert process.returncode == -9 and len(before) > 1
    resumed = json.loads(cli(*only, "--out", "killed", "--json").out)
    assert all(path.read_bytes() == content for path, content in before.items())
    whole = json.loads(cli(*only, "--out", "whole", "--json").out)
    renamed = json.loads(json.dumps(resumed).replace("killed", "whole"))
    assert without_times(renamed) == without_times(whole)


def test_a_part_that_fails_loses_no_other(cli: Cli, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = LOG.replace("figure-3,", "")  # whose plots take most of the time
    only = ["paper", "--data", world, "--out", "out", "--only", chosen]
    with monkeypatch.context() as patch:
        patch.setattr(log_parts, "table7", lambda *_: json.loads("{}")["no such key"])
        done = cli(*only)
    assert done.code == 1 and "error: 1 part failed" in done.err
    said = "table-7 failed: KeyError: 'no such key'"
    assert said in done.out and said in Path("out/paper.md").read_text(encoding="utf-8")
    data = json.loads(Path("out/paper.json").read_text(encoding="utf-8"))
    assert [name for name in chosen.split(",") if states(data)[name] != "done"] == ["table-7"]
    assert cli(*only).code == 0
    assert "Length of queries" in Path("out/paper.md").read_text(encoding="utf-8")


def test_missing_tables_are_named(cli: Cli, world: Path) -> None:
    for name in ("notes", "recommendation_test"):
        shutil.copytree(world / name, Path("part", name))
    only = "users,table-5,table-7,table-10,table-11"
    done = cli("paper", "--data", "part", "--out", "out", "--only", only, "--json")
    assert done.code == 0
    data = json.loads(done.out)
    lacks = {part["part"]: [lack["what"] for lack in part["lacks"]] for part in data["parts"]}
    assert lacks["users"] == ["the data has no table user_feat"]
    assert lacks["table-7"] == ["the data has no table search_train / search_test / dqa"]
    assert lacks["table-10-search-bm25"] == ["the data has no table search_test"]
    assert lacks["table-11-oracle"] == ["the data has no table dqa"]
    assert states(data)["table-5"] == states(data)["table-10-recommendation-bm25"] == "done"
    planned = cli("paper", "--data", "part", "--out", "planned", "--train", "--dry-run", "--json")
    lacks = {part["part"]: [lack["what"] for lack in part["lacks"]] for part in json.loads(planned.out)}
    assert "the data has no table recommendation_train" in lacks["table-10-recommendation-biencoder"]
    assert "the data has no table user_feat" in lacks["table-10-recommendation-dcn-v2"]
    assert not Path("planned").exists()


@pytest.mark.slow
def test_a_small_ranker_is_trained_and_a_trained_one_is_taken(cli: Cli, world: Path) -> None:
    for module in ("torch", "transformers", "accelerate"):
        pytest.importorskip(module, reason="needs qilin-rag[rankers]")
    only = ["paper", "--data", world, "--only", "table-10-search-dcn-v2", "--json"]
    done = cli(*only, "--out", "out", "--train")
    assert done.code == 0, done.err
    data = json.loads(done.out)
    assert states(data)["table-10-search-dcn-v2"] == "done"
    assert "DCN-V2 was trained without text vectors" in Path("out/paper.md").read_text(encoding="utf-8")
    settings = json.loads(Path("out/trained/dcn_v2_search/ranker.json").read_text(encoding="utf-8"))["settings"]
    assert settings["encoder"] is None and settings["tables"]["note_idx"] == [COUNTS["notes"] + 2, 64]
    shutil.copytree("out/trained/dcn_v2_search", "elsewhere/trained/dcn_v2_search")
    Path("elsewhere/parts").mkdir()
    again = json.loads(cli(*only, "--out", "elsewhere").out)  # trained elsewhere, so nothing is trained
    assert again["boards"]["table-10-search"][0]["blocks"] == data["boards"]["table-10-search"][0]["blocks"]


def test_an_llm_that_is_not_ready_stops_only_its_table(cli: Cli, world: Path) -> None:
    done = cli("paper", "--data", world, "--out", "out", "--only", "table-9,table-11", "--llm", "gpt-4o-mini", "--json")
    data = json.loads(done.out)
    [lack] = next(part["lacks"] for part in data["parts"] if part["part"] == "table-11-bm25")
    assert done.code == 0 and lack["what"] == "the LLM gpt-4o-mini is not ready" and "OPENAI_API_KEY" in lack["to_do"]
    assert states(data)["table-9"] == "done"


def test_wrong_names_and_folders_are_told(cli: Cli, world: Path) -> None:
    done = cli("paper", "--data", world, "--out", "out", "--only", "table-12")
    assert done.code == 2 and "part 'table-12' does not exist; did you mean" in done.err
    Path("other").mkdir()
    Path("other/thesis.doc").touch()
    done = cli("paper", "--data", world, "--out", "other")
    assert done.code == 2 and "other exists and is not the folder of an earlier replication" in done.err
    assert [path.name for path in Path("other").iterdir()] == ["thesis.doc"]


def test_ten_rows_give_counts_and_say_what_they_cannot(cli: Cli, shared: Path) -> None:
    done = cli("paper", "--data", shared / "data" / "qilin_toy", "--out", "out", "--json")
    assert done.code == 0
    data = json.loads(done.out)
    assert {name for name, state in states(data).items() if state == "done"} == set(LOG.split(","))
    for each in data["tables"]:
        for row in each["values"]:
            for column, value in zip(each["columns"], row, strict=True):
                assert value is None or column["unit"] == "count"
    text = Path("out/paper.md").read_text(encoding="utf-8")
    assert "the data has 10 rows for it, and at least 100 are needed" in text
    assert f"This data can't give (nothing to count, or fewer than {FEWEST} of them): browsing depth" in text


def test_thin_figures_are_taken_out() -> None:
    columns = [Column(name="share", unit="share"), Column(name="CTR", unit="share"), Column(name="pairs", unit="count")]
    made = table("t", "T", columns, {"a": [0.9, 0.2, 180], "b": [0.1, 0.3, 20], "c": [0.0, None, 0]})
    assert without_thin(made, "pairs").values == [[0.9, 0.2, 180], [0.1, None, 20], [0.0, None, 0]]
    assert without_thin(made, "pairs", 99).values == [[None, 0.2, 180], [None, None, 20], [None, None, 0]]
    assert without_thin(made, "pairs", of_all=()).values == [[0.9, 0.2, 180], [None, None, 20], [None, None, 0]]
    whole = table("t", "T", columns, {"a": [1.0, 0.2, 100]})
    assert without_thin(whole, "pairs") is whole


def test_every_text_of_the_page_has_its_chinese_and_no_chinese_is_unused(world: Path) -> None:
    folder = Path(page.__file__).parent
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in folder.glob("*.py") if path.stem != "chinese"]
    texts = {
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    tables = analyse(open_source(str(world)))
    of_tables = {text for each in tables for text in (each.title, *(column.name for column in each.columns))}
    of_tables |= (
        {each.why_missing for each in tables} | {log_parts._WHY} | {row for each in tables for row in each.rows}
    )
    assert set(CHINESE) - texts - of_tables - {"requests", "questions", LEAD} == set()
    told = {
        node.args[0].value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "tell"
        and isinstance(node.args[0], ast.Constant)
    }
    assert told - set(CHINESE) == set()
    words = {
        text
        for each in tables
        if not each.key.startswith("users_")
        for text in (each.title, each.why_missing, *(column.name for column in each.columns))
    }
    assert words - set(CHINESE) == set()
    for english, chinese in CHINESE.items():
        assert sorted(re.findall(r"\{\w+\}", chinese)) == sorted(re.findall(r"\{\w+\}", english)), english


def test_names_of_the_data_stay_text_in_both_languages() -> None:
    hostile = '<img src=x onerror="alert(1)">'
    sections = [Section(hostile, ["", hostile], [[hostile, f"{hostile}\n{hostile}"]], [hostile])]
    source = as_page(hostile, sections, {hostile: f"中文{hostile}"}, {hostile: "<svg><script>1</script></svg>"})
    assert "<img src=x" not in source and "<script" not in source
    assert '<span lang="zh-CN">中文&lt;img' in source and "img-src data:" in source
    assert "img-src" not in as_page("t", sections) and "chinese" not in as_page("t", sections).split("</style>")[1]
