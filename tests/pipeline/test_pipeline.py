from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import FailedSamplesError, QilinError, UsageError
from qilin_rag.core.types import Sample, Score
from qilin_rag.data import load_dataset
from qilin_rag.llms import retry
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import check_failures, run
from qilin_rag.pipeline.scoring import summarise
from qilin_rag.pipeline.selection import select_questions
from tests.fake_server import MODEL, FakeServer
from tests.scored import score_run


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    monkeypatch.setattr(retry, "LONGEST_S", 0.01)


def do(data: object, *overrides: str, **flags: Any) -> Run:
    config = resolve_run({"data": str(data), **flags}, overrides)
    finished = run(config)
    check_failures(finished, config.fail_on_error)
    return finished


def ask(data: object, server: FakeServer, *overrides: str, **flags: Any) -> Run:
    return do(data, f"llm.model={MODEL}", *overrides, llm="openai", base_url=server.url, **flags)


def test_the_main_job(data_dir: Path) -> None:
    directory, manifest, summary = do(data_dir, retriever="oracle")
    assert directory.path.parent == Path("runs")
    assert directory.path.name.startswith("small-oracle-extractive-default-")
    assert {path.name for path in directory.path.iterdir()} == {
        ".lock",
        "manifest.json",
        "questions.jsonl",
        "samples.jsonl",
        "run.trec",
        "scores.jsonl",
        "summary.json",
    }
    assert manifest.state == "complete"
    assert summary.counts == {"questions": 3, "ok": 3, "failed": 0, "filtered": 0, "truncated": 0, "empty": 0}
    assert set(summary.metrics) == {"recall@5", "ndcg@5", "mrr@5", "rouge_l"}
    rouge = summary.metrics["rouge_l"]
    assert rouge.n == 3
    assert rouge.value is not None
    assert 0.3 < rouge.value < 1
    assert rouge.signature.startswith("rouge_l|tokens:mixed|")
    assert summary.metrics["recall@5"].value == 1
    scores = directory.read_scores()
    assert len(scores) == 12
    assert rouge.value == pytest.approx(
        sum(score.value or 0 for score in scores if score.metric == "rouge_l") / 3, abs=1e-12
    )
    assert json.loads((directory.path / "manifest.json").read_text())["config"]["retriever"]["name"] == "oracle"


def test_every_retriever_orders_as_it_should_on_the_sample() -> None:
    values = [do("sample", retriever=name).summary.metrics["rouge_l"].value for name in ("none", "bm25", "oracle")]
    none, bm25, oracle = (value for value in values if value is not None)
    assert none < bm25 < oracle


def test_messages_sent_are_the_messages_kept(data_dir: Path, server: FakeServer) -> None:
    directory, _, summary = ask(data_dir, server, retriever="oracle", prompt="cite")
    samples, _ = directory.read_samples()
    assert sorted(sample.messages[-1]["content"] for sample in samples.values()) == sorted(
        call["messages"][-1]["content"] for call in server.calls
    )
    assert all("第1篇" in sample.messages[-1]["content"] for sample in samples.values())
    assert summary.usage.completion_tokens == 30
    assert summary.usage.prompt_tokens == sum(sample.usage.prompt_tokens or 0 for sample in samples.values())


def test_the_same_configuration_finds_its_run_again(data_dir: Path, server: FakeServer) -> None:
    first = ask(data_dir, server)
    again = ask(data_dir, server, concurrency=1, metrics="rouge_1")
    assert again.directory.path == first.directory.path
    assert len(server.calls) == 3
    assert {"rouge_l", "rouge_1"} < set(again.summary.metrics)
    assert again.summary.metrics["rouge_l"] == first.summary.metrics["rouge_l"]


@pytest.mark.parametrize(
    ("overrides", "flags"),
    [
        (["llm.temperature=0.5"], {}),
        (["llm.max_tokens=9"], {}),
        (["llm.seed=1"], {}),
        (["llm.extra_body={top_k: 1}"], {}),
        (["retriever.k1=2"], {}),
        ([], {"top_k": 3}),
        ([], {"prompt": "concise"}),
        ([], {"retriever": "none"}),
    ],
)
def test_what_changes_answers_is_another_run(
    data_dir: Path, server: FakeServer, overrides: list[str], flags: dict[str, Any]
) -> None:
    first = ask(data_dir, server)
    other = ask(data_dir, server, *overrides, **flags)
    assert other.directory.path != first.directory.path
    assert other.summary.counts["ok"] == 3


def test_a_larger_limit_extends_the_run(data_dir: Path, server: FakeServer) -> None:
    one = ask(data_dir, server, limit=1)
    assert (one.summary.counts["questions"], len(server.calls)) == (1, 1)
    two = ask(data_dir, server, limit=2)
    assert two.directory.path == one.directory.path
    assert (two.summary.counts["questions"], len(server.calls)) == (2, 2)
    whole = ask(data_dir, server)
    assert (whole.summary.counts["questions"], len(server.calls)) == (3, 3)
    again = ask(data_dir, server, limit=1)
    assert again.summary.metrics == one.summary.metrics
    assert len(server.calls) == 3


def test_limits_are_nested_and_seeded() -> None:
    questions = load_dataset("sample").questions
    chosen = {n: select_questions(questions, n) for n in (5, 20, 60, 100)}
    assert chosen[5] == chosen[20][:5] == chosen[60][:5]
    assert sorted(question.id for question in chosen[100]) == sorted(question.id for question in questions)
    assert chosen[20] != list(questions[:20])
    assert chosen[20] != select_questions(questions, 20, seed=1)


def test_ids_name_questions(data_dir: Path, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("3\n\n1\n3\n")
    directory = do(data_dir, ids=ids).directory
    assert [question.id for question in directory.read_questions()] == ["3", "1"]
    for text, message in (("9\n1\n", "no question '9' \\(1 of 2"), ("\n", "names no question")):
        ids.write_text(text)
        with pytest.raises(UsageError, match=message):
            do(data_dir, ids=ids)
    with pytest.raises(UsageError, match="can't be read"):
        do(data_dir, ids=tmp_path / "nowhere")


def test_failed_questions_are_unscored_counted_and_asked_again(data_dir: Path, server: FakeServer) -> None:
    server.fault = lambda n, body: "400" if "手冲水温" in body["messages"][-1]["content"][-20:] else None
    with pytest.raises(FailedSamplesError, match="1 of 3 questions failed"):
        ask(data_dir, server)
    allowed = ask(data_dir, server, fail_on_error=0.4)
    rouge = allowed.summary.metrics["rouge_l"]
    assert (rouge.n, rouge.n_unscored) == (2, 1)
    assert rouge.value is not None
    assert rouge.value_unscored_as_zero == pytest.approx(rouge.value * 2 / 3)
    assert len(server.calls) == 4  # the failed one was asked twice
    assert allowed.summary.usage.completion_tokens == 20
    server.fault = lambda n, body: None
    healed = ask(data_dir, server)
    assert healed.summary.counts["ok"] == 3
    assert healed.summary.metrics["rouge_l"].n == 3


def test_filtered_and_truncated_answers_have_their_own_status(data_dir: Path, server: FakeServer) -> None:
    faults = {1: "filtered", 2: "length"}
    server.fault = lambda n, body: faults.get(n)
    summary = ask(data_dir, server, concurrency=1).summary
    assert summary.counts == {"questions": 3, "ok": 1, "failed": 0, "filtered": 1, "truncated": 1, "empty": 0}
    assert summary.metrics["rouge_l"].n == 2
    ask(data_dir, server)
    assert len(server.calls) == 3


def test_concurrency_is_bounded_and_used(server: FakeServer) -> None:
    server.latency_s = 0.5  # long enough for all to be under way, on a busy machine as well
    ask("sample", server, concurrency=7, limit=16)
    assert server.most_at_once == 7


def test_notes_that_do_not_fit_are_dropped_and_recorded(data_dir: Path, server: FakeServer) -> None:
    directory = ask(data_dir, server, "llm.context_length=190", "llm.max_tokens=10", retriever="oracle").directory
    samples, _ = directory.read_samples()
    assert (samples["2"].notes_given, samples["2"].notes_used) == (2, 0)
    assert (samples["1"].notes_given, samples["1"].notes_used) == (1, 0)
    assert samples["1"].prompt_notes == samples["2"].prompt_notes == []
    with pytest.raises(FailedSamplesError):
        ask(data_dir, server, "llm.context_length=20", "llm.max_tokens=10")


def test_a_refused_key_stops_the_run_and_keeps_what_is_done(data_dir: Path, server: FakeServer) -> None:
    server.fault = lambda n, body: "401" if n == 3 else None
    with pytest.raises(QilinError, match="refused the key"):
        ask(data_dir, server, concurrency=1)
    [manifest] = Path("runs").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["state"] == "incomplete"
    server.fault = lambda n, body: None
    assert ask(data_dir, server).manifest.state == "complete"
    assert len(server.calls) == 4


def test_no_server_no_work(data_dir: Path) -> None:
    with pytest.raises(QilinError, match="no server answers"):
        do(data_dir, "llm.model=m", llm="openai", base_url="http://127.0.0.1:9/v1")
    assert not Path("runs").exists()
    assert not Path("cache").exists()


def test_fresh_asks_again_and_keeps_the_old_answers(data_dir: Path, server: FakeServer) -> None:
    directory = ask(data_dir, server).directory
    ask(data_dir, server, fresh=True)
    assert len(server.calls) == 6
    assert len(list(directory.path.glob("samples-until-*.jsonl"))) == 1


def test_scoring_again_needs_neither_data_nor_model(data_dir: Path, server: FakeServer) -> None:
    first = ask(data_dir, server)
    for file in data_dir.iterdir():
        file.unlink()
    again = score_run(first.directory.path, {"rouge_1": {}, "rouge_l": {"tokens": "word"}})
    assert len(server.calls) == 3
    assert again.summary.metrics["rouge_l"].value != first.summary.metrics["rouge_l"].value
    assert "tokens:word" in again.summary.metrics["rouge_l"].signature
    back = score_run(first.directory.path, {"rouge_l": {}})
    assert back.summary.metrics["rouge_l"] == first.summary.metrics["rouge_l"]
    assert back.summary.metrics["rouge_1"] == again.summary.metrics["rouge_1"]


def test_a_run_that_is_not_finished_is_not_scored(data_dir: Path, server: FakeServer) -> None:
    server.fault = lambda n, body: "401"
    with pytest.raises(QilinError):
        ask(data_dir, server)
    [path] = Path("runs").iterdir()
    with pytest.raises(UsageError, match="is incomplete"):
        score_run(path, {"rouge_l": {}})


def test_a_changed_corpus_is_another_run(data_dir: Path) -> None:
    first = do(data_dir)
    with (data_dir / "notes.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"note_idx": 99, "title": "新", "content": "冷萃"}\n')
    assert do(data_dir).directory.path != first.directory.path


def test_oracle_names_missing_notes_before_the_first_call(data_dir: Path, server: FakeServer) -> None:
    text = (data_dir / "dqa.jsonl").read_text(encoding="utf-8")
    (data_dir / "dqa.jsonl").write_text(text.replace("[12, 13]", "[12, 555]"), encoding="utf-8")
    with pytest.raises(UsageError, match="notes that are not in the data: 555"):
        ask(data_dir, server, retriever="oracle")
    assert server.calls == []


def test_a_summary_is_never_nan() -> None:
    assert summarise([], [], []).metrics == {}
    sample = Sample(
        question_id="1",
        query="",
        status="failed",
        hits=[],
        notes_given=0,
        notes_used=0,
        messages=[],
        answer="",
        raw="",
    )
    unscored = Score(question_id="1", metric="rouge_l", value=None, reason="failed")
    metric = summarise([sample], [sample], [unscored]).metrics["rouge_l"]
    assert (metric.value, metric.stderr, metric.ci95, metric.n_unscored) == (None, None, None, 1)
    with pytest.raises(ValueError, match="finite"):
        Score(question_id="1", metric="rouge_l", value=float("nan"))


def test_two_metrics_of_one_name_are_refused_before_the_first_call(data_dir: Path, server: FakeServer) -> None:
    with pytest.raises(UsageError, match="give 'rouge_l'; name only one"):
        ask(data_dir, server, metrics="rouge_l,qilin_rag.scorers.rouge:RougeL")
    assert server.calls == []


def test_an_answer_that_ended_in_an_unknown_way_is_kept_and_marked(data_dir: Path, server: FakeServer) -> None:
    server.fault = lambda n, body: "ended strangely" if n == 1 else "ended sensitive" if n == 2 else None
    summary = ask(data_dir, server, fail_on_error=1, concurrency=1).summary
    assert summary.counts == {"questions": 3, "ok": 2, "failed": 0, "filtered": 1, "truncated": 0, "empty": 0}
    assert summary.metrics["rouge_l"].n == 2
    assert summary.marks == {"odd_ending": 1}


def test_a_finished_run_needs_no_server(data_dir: Path) -> None:
    with FakeServer() as running:
        first = ask(data_dir, running)
    assert ask(data_dir, running).summary == first.summary
    with pytest.raises(QilinError, match="no server answers"):
        ask(data_dir, running, prompt="concise")
    with pytest.raises(QilinError, match="no server answers"):
        ask(data_dir, running, "llm.temperature=1")


def test_a_smaller_selection_forgets_no_score(data_dir: Path) -> None:
    first = do(data_dir)
    word = score_run(first.directory.path, {"rouge_1": {}}).summary.metrics["rouge_1"]
    assert do(data_dir, limit=1).summary.metrics["rouge_1"].n == 1
    assert do(data_dir).summary.metrics["rouge_1"] == word


def test_scores_of_a_question_asked_again_are_forgotten(data_dir: Path, server: FakeServer) -> None:
    server.fault = lambda n, body: "400" if n == 1 else None
    first = ask(data_dir, server, fail_on_error=1, concurrency=1)
    score_run(first.directory.path, {"rouge_1": {}})
    again = ask(data_dir, server)
    assert "rouge_1" not in again.summary.metrics  # it does not cover the question answered now
    assert score_run(first.directory.path, {"rouge_1": {}}).summary.metrics["rouge_1"].n == 3


def test_scoring_again_keeps_the_seed_of_the_run(data_dir: Path) -> None:
    first = do(data_dir, "seed=5")
    again = score_run(first.directory.path, {"rouge_l": {}})
    assert again.summary == first.summary


def test_the_trec_run_gives_the_same_figures_as_the_summary(data_dir: Path) -> None:
    """Although all notes tie: their order is in the file."""
    import ir_measures

    path = data_dir / "notes.jsonl"
    path.write_text("".join(f'{{"note_idx": {i}, "title": "", "content": "冷萃"}}\n' for i in (30, 20, 10, 40)))
    directory, _, summary = do(data_dir, ids=named(data_dir, "1"))
    qrels = [ir_measures.Qrel("1", "10", 1)]
    lines = (line.split() for line in (directory.path / "run.trec").read_text().splitlines())
    ranking = [ir_measures.ScoredDoc(fields[0], fields[2], float(fields[4])) for fields in lines]
    [found] = ir_measures.iter_calc([ir_measures.RR @ 5], qrels, ranking)
    assert found.value == summary.metrics["mrr@5"].value
    assert found.value > 0


def named(folder: Path, *ids: str) -> Path:
    path = folder / "ids.txt"
    path.write_text("\ufeff" + "\n".join(ids), encoding="utf-8")
    return path


def test_citations_count_the_notes_that_the_prompt_holds(data_dir: Path, server: FakeServer) -> None:
    """The long note in the middle is dropped, so the second note of the prompt is the third hit."""
    path = data_dir / "notes.jsonl"
    path.write_text(
        path.read_text(encoding="utf-8").replace("春天换盆，", "春天换盆，" + "很长" * 200), encoding="utf-8"
    )
    (data_dir / "three.trec").write_text("2 Q0 12 1 3 x\n2 Q0 13 2 2 x\n2 Q0 10 3 1 x\n")
    server.answer = lambda body: "六月起遮阴[第1篇](#)，冷藏[第2篇](#)[第3篇](#)。"
    flags = {"retriever": f"trec:{data_dir / 'three.trec'}", "ids": named(data_dir, "2")}
    done = ask(data_dir, server, "llm.context_length=400", "llm.max_tokens=10", **flags, metrics="citations")
    [sample] = done.directory.read_samples()[1]
    assert (sample.notes_given, sample.notes_used, sample.prompt_notes) == (3, 2, [12, 10])
    values = {name: metric.value for name, metric in done.summary.metrics.items() if name.startswith("citation")}
    assert values == {"citation_precision": 1 / 3, "citation_recall": 1 / 2, "citation_invalid": 1 / 3}


def test_a_finished_run_is_scored_by_every_text_metric(data_dir: Path) -> None:
    first = do(data_dir, retriever="oracle")
    names = ("rouge_1", "rouge_2", "bleu", "chrf", "length_ratio", "citations", "contains")
    metrics = score_run(first.directory.path, {name: {} for name in names}).summary.metrics
    wanted = {*names, "rouge_l", "citation_precision", "citation_recall", "citation_invalid"} - {"citations"}
    assert wanted <= set(metrics)
    assert all(metrics[name].n == 3 for name in wanted - {"citation_precision", "citation_invalid"})
    assert metrics["citation_precision"].reasons == {"cites nothing": 3}  # the extractive reader cites nothing
    assert metrics["citation_recall"].value == 0


def test_components_of_the_users_own_that_go_wrong(data_dir: Path) -> None:
    Path("odd.py").write_text(
        "from qilin_rag.llms import LLM\nfrom qilin_rag.retrievers import Retriever\nfrom qilin_rag.scorers import *\n"
        "class Text(LLM):\n"
        "    async def generate(self, prompt): return 'text'\n"
        "    async def close(self): raise ValueError('late')\n"
        "class Few(Retriever):\n"
        "    def search(self, questions, notes, k): return []\n"
        "class Gone(Retriever):\n"
        "    def search(self, questions, notes, k): raise ConnectionRefusedError('no')\n"
        "class Nan(AnswerScorer):\n"
        "    metric = 'nan'\n"
        "    def signatures(self): return {'nan': 'nan'}\n"
        "    def score_answers(self, answers, references): return [float('nan')] * len(answers)\n"
        "class Other(Nan):\n"
        "    def signatures(self): return {'other': 'nan'}\n"
        "class Half(Retriever):\n"
        "    pass\n",
        encoding="utf-8",
    )
    assert run(resolve_run({"data": str(data_dir), "llm": "odd:Text"})).summary.counts["failed"] == 3
    nan = do(data_dir, metrics="odd:Nan").summary.metrics["nan"]
    assert (nan.value, nan.n, nan.n_unscored) == (None, 0, 3)
    for flags, message in (
        ({"retriever": "odd:Few"}, "gave 0 rankings for 3 questions"),
        ({"retriever": "odd:Gone"}, "odd:Gone failed: ConnectionRefusedError: no"),
        ({"retriever": "odd:Half"}, "abstract"),
        ({"metrics": "odd:Other"}, "odd:Other failed: KeyError"),
    ):
        with pytest.raises(QilinError, match=message):
            do(data_dir, **flags)


def test_an_edited_component_is_another_run(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "from qilin_rag.llms import LLM\nfrom qilin_rag.core.types import Completion\nclass L(LLM):\n"
        "    async def generate(self, prompt):\n"
        "        return Completion(text='{}', raw='', model='l', finish_reason='stop')\n"
    )
    paths = set()
    for text in ("一", "二"):
        Path("edited.py").write_text(source.format(text), encoding="utf-8")
        paths.add(do(data_dir, llm="edited:L").directory.path)
    assert len(paths) == 2


def test_a_run_inside_of_a_running_loop(data_dir: Path, server: FakeServer) -> None:
    """As in a notebook."""

    async def cell() -> Run:
        return ask(data_dir, server)

    assert asyncio.run(cell()).summary.counts["ok"] == 3
