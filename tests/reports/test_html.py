"""The report without a browser: its data is whole, nothing in it is markup, and its policy fits its own script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.run_notes import open_notes
from qilin_rag.reports.contents import (
    QUESTIONS_PER_BLOCK,
    QuestionInRun,
    answers_of,
    collect,
    columns_of,
    find_runs,
    question_of,
    scores_of,
)
from qilin_rag.reports.html import as_html, as_json_block
from qilin_rag.reports.leaderboard import leaderboard_of
from qilin_rag.reports.overview import directories_of, metrics_of
from qilin_rag.reports.packing import unpack
from tests.conftest import Cli, write_jsonl
from tests.reports.hostile import HOSTILE, hostile_run


class Page(HTMLParser):
    """Elements with their attributes and texts, as a browser's parser finds them."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = dict(attrs).get("id") or tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.texts[self._open] = self.texts.get(self._open, "") + data


def unpacked(block: str) -> Any:
    return unpack(block)


def do(data: Path, *overrides: str, **flags: object) -> RunDirectory:
    return run(resolve_run({"data": str(data), **flags}, overrides)).directory


@pytest.fixture
def runs(data_dir: Path) -> list[Path]:
    return [do(data_dir, retriever=retriever).path for retriever in ("none", "bm25", "oracle")]


def test_the_index_has_what_the_leaderboard_has(runs: list[Path]) -> None:
    contents = collect(runs)
    [table] = contents.overview["tables"]
    assert [run["retriever"] for run in table["runs"]] == ["none", "bm25", "oracle"]
    assert table["queries"] == ["冷萃咖啡怎么做", "多肉怎么养", "手冲水温"]
    assert [metric["name"] for metric in table["metrics"]] == ["rouge_l", "recall@5", "ndcg@5", "mrr@5"]
    for number, (path, shown) in enumerate(zip(runs, table["runs"], strict=True)):
        directory = RunDirectory(path)
        columns = unpacked(contents.blocks[f"t0-columns{number}"])
        summary = directory.read_summary()
        assert shown["run"] == path.name
        assert columns["statuses"] == "000"
        scores = {(score.metric, score.question_id): score.value for score in directory.read_scores()}
        for metric, figure, column in zip(table["metrics"], shown["figures"], columns["scores"], strict=True):
            known = summary.metrics[metric["name"]]
            assert (figure["value"], figure["n"]) == (known.value, known.n)
            assert figure.get("ci95") == (known.ci95 and list(known.ci95))
            assert figure.get("no_interval") == known.no_interval
            assert column == pytest.approx([scores[metric["name"], one] for one in table["ids"]], abs=1e-4)


def test_retrieval_is_a_row_a_retriever(runs: list[Path], data_dir: Path) -> None:
    """Whichever prompts it was used with; and every run still has the figures of its own retriever."""
    more = [do(data_dir, retriever="bm25", prompt="concise").path, do(data_dir, retriever="bm25", top_k=1).path]
    [table] = collect([*runs, *more]).overview["tables"]
    assert [row["retriever"] for row in table["retrieval"]] == ["none", "bm25", "oracle"]
    of_hits = [number for number, metric in enumerate(table["metrics"]) if metric["of_hits"]]
    assert [table["metrics"][number]["name"] for number in of_hits] == [
        f"{name}@{k}" for k in (1, 5) for name in ("recall", "ndcg", "mrr")
    ]
    by_retriever = {row["retriever"]: row["figures"] for row in table["retrieval"]}
    for one in table["runs"]:
        shown = [one["figures"][number] for number in of_hits]
        known = RunDirectory(Path("runs") / one["run"]).read_summary().metrics
        for number, figure in zip(of_hits, shown, strict=True):
            own = known.get(table["metrics"][number]["name"])
            assert (figure and figure["value"]) == (own and own.value)
        assert all(figure in (None, row) for figure, row in zip(shown, by_retriever[one["retriever"]], strict=True))
    assert any("Row:" in line or "row:" in line for line in table["legend"])


def test_blocks_hold_every_prompt_answer_and_note_word_for_word(runs: list[Path]) -> None:
    contents = collect(runs)
    part = unpacked(contents.blocks["t0-part0"])
    for number, path in enumerate(runs):
        samples, _ = RunDirectory(path).read_samples()
        answers = unpacked(contents.blocks[f"t0-run{number}"])
        for place, sample in enumerate(samples.values()):
            question = part["questions"][place]
            shown = question["requests"][question["runs"][number]]
            messages = [
                {"role": role, "content": "\n".join(part["lines"][at] for at in lines)}
                for role, lines in shown["messages"]
            ]
            assert messages == sample.messages
            assert [note for note, _ in shown["hits"]] == [hit.note_idx for hit in sample.hits]
            assert answers[place]["answer"] == sample.answer
    title, lines = part["notes"]["10"]
    assert title == "冷萃咖啡"
    assert "".join(part["lines"][at] for at in lines).startswith("粗研磨咖啡粉80克")
    assert len(part["lines"]) == len(set(part["lines"]))


def test_a_question_served_alone_is_what_its_blocks_hold(runs: list[Path]) -> None:
    contents = collect(runs)
    [board] = leaderboard_of(runs)
    directories = list(directories_of(board, runs).values())
    assert [directory.path for directory in directories] == runs
    questions = directories[0].read_questions()
    notes, _ = open_notes(directory.read_manifest() for directory in directories)
    part = unpacked(contents.blocks["t0-part0"])
    chosen = (2, 1)
    tables = [scores_of(directories[number].read_scores(), questions, metrics_of(board)) for number in chosen]
    samples = [list(directories[number].read_samples_of(questions).values()) for number in chosen]
    for number, own, scores in zip(chosen, samples, tables, strict=True):
        assert answers_of(own) == [told["answer"] for told in unpacked(contents.blocks[f"t0-run{number}"])]
        assert json.loads(json.dumps(columns_of(own, scores))) == unpacked(contents.blocks[f"t0-columns{number}"])
    for place, question in enumerate(questions):
        answered = [QuestionInRun(own[place], scores[place]) for own, scores in zip(samples, tables, strict=True)]
        alone = json.loads(json.dumps(question_of(question, answered, notes)))
        packed = part["questions"][place]
        assert {name: alone[name] for name in ("references", "reference_notes")} == {
            name: packed[name] for name in ("references", "reference_notes")
        }
        wanted = {*question.reference_notes, *(hit.note_idx for one in answered for hit in one.sample.hits)}
        assert set(alone["notes"]) == set(map(str, wanted))
        for note, shown in alone["notes"].items():
            title, lines = part["notes"][note]
            assert shown == {"title": title, "text": "\n".join(part["lines"][at] for at in lines), "name": None}
        for number, one in zip(chosen, alone["runs"], strict=True):
            sent = packed["requests"][packed["runs"][number]]
            assert one["hits"] == sent["hits"]
            assert one["told"] == unpacked(contents.blocks[f"t0-run{number}"])[place]
            assert one["messages"] == [
                [role, "\n".join(part["lines"][at] for at in lines)] for role, lines in sent["messages"]
            ]
    assert question_of(questions[0], [], None)["notes"] == {}


def test_questions_lie_in_blocks_of_a_fixed_number() -> None:
    """The page finds a question's block by division."""
    contents = collect([do(Path("sample"), retriever="none").path])
    [table] = contents.overview["tables"]
    n_questions = len(table["ids"])
    parts = [unpacked(block)["questions"] for name, block in contents.blocks.items() if "part" in name]
    assert n_questions > QUESTIONS_PER_BLOCK
    assert [len(part) for part in parts] == [QUESTIONS_PER_BLOCK, n_questions - QUESTIONS_PER_BLOCK]


def test_without_the_data_the_page_says_why_there_are_no_notes(runs: list[Path], data_dir: Path) -> None:
    write_jsonl(data_dir / "notes.jsonl", [{"note_idx": 10, "title": "other", "content": "text"}])
    changed = collect(runs)
    assert "has changed since the run" in changed.overview["tables"][0]["why_no_notes"]
    assert unpacked(changed.blocks["t0-part0"])["notes"] == {}
    data_dir.rename("elsewhere")
    assert "does not exist" in collect(runs).overview["tables"][0]["why_no_notes"]


def test_other_questions_are_another_table(runs: list[Path], data_dir: Path) -> None:
    limited = do(data_dir, retriever="none", limit=2, prompt="concise")
    tables = collect([*runs, limited.path]).overview["tables"]
    assert [len(table["ids"]) for table in tables] == [3, 2]
    assert [len(table["runs"]) for table in tables] == [3, 1]


@pytest.mark.parametrize("text", [*HOSTILE, "\u2028\u2029", "a&lt;b", "\ud800"])
def test_a_json_block_is_the_same_data_and_no_markup(text: str) -> None:
    block = as_json_block({"key": [text], text: 1})
    assert json.loads(block) == {"key": [text], text: 1}
    assert not re.search("[<>&\u2028\u2029]", block)
    block.encode()


def test_hostile_text_in_every_field_makes_no_element(runs: list[Path]) -> None:
    plain = Page(as_html(collect(runs)))
    path = hostile_run()
    source = as_html(collect([path]))
    hostile = Page(source)
    shape = [(tag, set(attributes)) for tag, attributes in plain.elements if attributes.get("type") != "text/plain"]
    assert [
        (tag, set(attributes)) for tag, attributes in hostile.elements if attributes.get("type") != "text/plain"
    ] == shape
    [table] = json.loads(hostile.texts["index"])["tables"]
    assert HOSTILE[0] in table["queries"][0]
    assert f"metric {HOSTILE[0]}" in [metric["name"] for metric in table["metrics"]]
    assert HOSTILE[0] in table["runs"][0]["llm"]
    part = unpacked(hostile.texts["t0-part0"])
    assert HOSTILE[2] in part["questions"][0]["references"][0]
    assert part["notes"]["1"][0] == HOSTILE[1]
    assert "<img" not in source


def test_nothing_is_fetched_and_the_policy_allows_this_script_and_style_alone(runs: list[Path]) -> None:
    page = Page(as_html(collect(runs)))
    for _, attributes in page.elements:
        assert not {"src", "href", "action", "style", "srcdoc"} & set(attributes)
        assert not [name for name in attributes if name.startswith("on")]
    [policy] = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    hashes = {
        name: f"{name}-src 'sha256-{base64.b64encode(hashlib.sha256(page.texts[name].encode()).digest()).decode()}'"
        for name in ("script", "style")
    }
    wanted = ["default-src 'none'", hashes["script"], hashes["style"], "base-uri 'none'", "form-action 'none'"]
    assert policy.split("; ") == wanted
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", page.texts["script"]
    )


def test_the_command_writes_one_file(runs: list[Path], cli: Cli) -> None:
    done = cli("report")
    assert done.code == 0, done.err
    assert re.fullmatch(r"report\.html  \d+\.\d MB, 3 runs\n", done.out)
    assert cli("report", runs[0], "--out", "one.html").out.endswith(" MB, 1 run\n")
    [table] = json.loads(Page(Path("one.html").read_text("utf-8")).texts["index"])["tables"]
    assert [run["run"] for run in table["runs"]] == [runs[0].name]
    both = cli("report", runs[0], runs[0].parent / runs[1].name, "--runs-dir", "runs", "--out", "all.html")
    assert "3 runs" in both.out


def test_wrong_use_is_one_line(runs: list[Path], cli: Cli) -> None:
    directory = RunDirectory(runs[0])
    for arguments, said in (
        (["nowhere"], "nowhere is not a finished run directory"),
        (["--runs-dir", "nowhere"], "nowhere is not a folder of runs"),
        (["--out", "nowhere/report.html"], "no folder nowhere"),
        (["--out", "runs"], "a folder"),
    ):
        done = cli("report", *arguments)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert said in done.err
    directory.write_manifest(directory.read_manifest().model_copy(update={"state": "incomplete"}))
    assert "is incomplete" in cli("report", runs[0]).err
    assert find_runs([], [Path("runs")]) == sorted(runs)
    assert "left out, incomplete" in json.dumps(collect(runs).overview["tables"][0]["notes"])
