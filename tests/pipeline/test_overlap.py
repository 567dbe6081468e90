"""Retrieval and scoring while the server answers: the same results, sooner, and without holding prompts."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.types import Completion, Hit, Question, RenderedPrompt, Sample, Score
from qilin_rag.data import NoteStore
from qilin_rag.llms import LLM, FatalLLMError
from qilin_rag.pipeline import jobs
from qilin_rag.pipeline.clock import Clock
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.jobs import Coming, Jobs, Retrieved
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import SAMPLES
from qilin_rag.pipeline.stored_samples import StoredSamples
from qilin_rag.pipeline.sweep import sweep
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.scorers.length import LengthRatio
from qilin_rag.scorers.table import ScoreTable
from tests.fake_server import MODEL, FakeServer

EVENTS: list[str] = []
FILES = ("questions.jsonl", "scores.jsonl", "run.trec")
METRICS = "rouge_l,rouge_2,contains,length_ratio,citations,refusal,retrieval,bleu"


class Logged(BM25):
    """BM25 that notes how many questions are searched at once."""

    def search(self, questions: Any, notes: NoteStore, k: int) -> list[list[Hit]]:
        EVENTS.append(f"search {len(questions)}")
        return super().search(questions, notes, k)


class Echo(LLM):
    """Answers with the question, and notes that it was asked."""

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        EVENTS.append("ask")
        text = f"{prompt.query}，见[1]。"
        return Completion(text=text, raw=text, model="echo", finish_reason="stop")


class Measured(LengthRatio):
    """A scorer that notes how many samples it is given."""

    def score(self, samples: Any, questions: Any) -> list[Score]:
        EVENTS.append(f"score {len(samples)}")
        return super().score(samples, questions)


class FailsOnce(LengthRatio):
    """A scorer that fails while questions are asked."""

    n_calls: ClassVar[int] = 0

    def score(self, samples: Any, questions: Any) -> list[Score]:
        type(self).n_calls += 1
        if self.n_calls == 1:
            raise RuntimeError("no figure")
        return super().score(samples, questions)


class FailsAlways(LengthRatio):
    """A scorer that always fails."""

    def score(self, samples: Any, questions: Any) -> list[Score]:
        raise RuntimeError("no figure")


@pytest.fixture(autouse=True)
def _nothing_noted() -> Iterator[None]:
    EVENTS.clear()
    FailsOnce.n_calls = 0
    yield


def config(**flags: Any) -> Any:
    llm, settings = flags.pop("llm", f"{__name__}:Echo"), flags.pop("settings", [])
    return resolve_run({"data": "sample", "llm": llm, "cache": False, "metrics": METRICS, **flags}, settings)


def contents(done: Run) -> dict[str, Any]:
    """What a run made, without times; the order of samples is that of the answers."""
    lines = [json.loads(line) for line in (done.path / SAMPLES).read_text(encoding="utf-8").splitlines()]
    samples = {line["question_id"]: {**line, "latency_s": 0} for line in lines}
    summary = json.loads((done.path / "summary.json").read_bytes())
    return {name: (done.path / name).read_bytes() for name in FILES} | {"samples": samples, "summary": summary}


@pytest.mark.parametrize("retriever", ["bm25", "oracle", "none"])
def test_a_run_alone_and_a_run_of_a_sweep_make_the_same(retriever: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep retrieves all before it asks, and scores all when everything is asked."""
    monkeypatch.setattr(jobs, "BLOCK", 7)
    alone = run(config(retriever=retriever, concurrency=4, runs_dir=Path("alone")))
    [swept] = sweep([config(retriever=retriever, concurrency=4, runs_dir=Path("swept"))]).runs
    assert alone.path.name == swept.path.name
    assert contents(alone) == contents(swept)


def test_the_first_question_is_asked_before_the_last_is_retrieved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "BLOCK", 50)
    monkeypatch.setattr("qilin_rag.pipeline.stages._FIRST", 1)
    run(config(retriever=f"{__name__}:Logged", metrics=f"{__name__}:Measured", concurrency=2))
    searched = [int(event.split()[1]) for event in EVENTS if event.startswith("search")]
    n_questions = EVENTS.count("ask")
    assert searched == [2, 50, *[50] * ((n_questions - 52) // 50), *filter(None, [(n_questions - 2) % 50])]
    last_search = max(i for i, event in enumerate(EVENTS) if event.startswith("search"))
    first_score = min(i for i, event in enumerate(EVENTS) if event.startswith("score"))
    last_ask = max(i for i, event in enumerate(EVENTS) if event == "ask")
    assert EVENTS.index("ask") < last_search and first_score < last_ask
    assert sum(int(event.split()[1]) for event in EVENTS if event.startswith("score")) == n_questions


def test_an_error_of_retrieval_stops_the_run_and_keeps_what_is_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaks(Logged):
        def search(self, questions: Any, notes: NoteStore, k: int) -> list[list[Hit]]:
            if any(event.startswith("search") for event in EVENTS):
                raise RuntimeError("index gone")
            return super().search(questions, notes, k)

    monkeypatch.setattr(jobs, "BLOCK", 5)
    monkeypatch.setattr("qilin_rag.pipeline.stages._FIRST", 5)
    given = config(retriever="bm25", metrics="rouge_l", concurrency=1)
    broken = given.model_copy(update={"retriever": Breaks()})
    with pytest.raises(QilinError, match="index gone"):
        run(broken)
    [samples] = Path("runs").glob(f"*/{SAMPLES}")
    assert len(samples.read_text(encoding="utf-8").splitlines()) == 5


def test_a_scorer_that_fails_meanwhile_scores_when_all_is_asked() -> None:
    done = run(config(retriever="bm25", metrics=f"{__name__}:FailsOnce"))
    assert done.summary.metrics["length_ratio"].n == done.summary.counts["questions"]
    with pytest.raises(QilinError, match="no figure"):
        run(config(retriever="bm25", metrics=f"{__name__}:FailsAlways", fresh=True))
    [samples] = Path("runs").glob(f"*/{SAMPLES}")
    assert len(samples.read_text(encoding="utf-8").splitlines()) == done.summary.counts["questions"]


def test_a_resumed_run_ends_like_one_that_was_never_cut_off() -> None:
    whole = run(config(retriever="bm25", runs_dir=Path("whole")))
    cut = run(config(retriever="bm25", runs_dir=Path("cut")))
    lines = (cut.path / SAMPLES).read_bytes().splitlines(keepends=True)
    failed = json.loads(lines[3]) | {"status": "failed", "answer": "", "raw": "", "error": "gone"}
    left = [*lines[:30], json.dumps(failed).encode() + b"\n", lines[40][:50]]  # the last is half a line
    (cut.path / SAMPLES).write_bytes(b"".join(left))
    EVENTS.clear()
    resumed = run(config(retriever="bm25", runs_dir=Path("cut")))
    assert EVENTS.count("ask") == len(lines) - 29
    assert {name: contents(resumed)[name] for name in FILES} == {name: contents(whole)[name] for name in FILES}
    assert (resumed.summary.metrics, resumed.summary.counts) == (whole.summary.metrics, whole.summary.counts)


def test_repeats_are_counted_as_before(data_dir: Path) -> None:
    with FakeServer() as server:
        given = {"data": str(data_dir), "llm": "openai", "base_url": server.url, "cache": False, "repeat": 3}
        done = run(resolve_run({**given, "metrics": "rouge_l"}, [f"llm.model={MODEL}"]))
    repeats, samples = done.directory.read_repeats(), done.directory.read_samples()[1]
    assert done.summary.repeats is not None and done.summary.repeats.times == 3
    assert done.manifest.generation_s == round(sum(each.latency_s or 0 for each in [*samples, *repeats]), 3)


def line(question_id: str, answer: str) -> str:
    sample = Sample(
        question_id=question_id,
        query="问",
        messages=[{"role": "user", "content": "问" * 50}],
        hits=[],
        notes_given=0,
        notes_used=0,
        status="ok",
        answer=answer,
        raw=answer,
    )
    return f"{sample.model_dump_json()}\n"


def test_samples_are_read_in_the_order_of_the_questions(tmp_path: Path) -> None:
    path = tmp_path / SAMPLES
    path.write_text(line("b", "旧") + line("a", "甲") + line("b", "新") + line("x", "别") + line("c", "丙")[:40])
    samples = StoredSamples(path, ["a", "b"])
    for _ in range(2):
        assert [(each.question_id, each.answer) for each in samples] == [("a", "甲"), ("b", "新")]
    assert [each.answer for each in samples.others()] == ["旧", "别"] and len(samples) == 2
    with pytest.raises(UsageError, match="1 questions have no sample yet"):
        StoredSamples(path, ["a", "c"])


@pytest.mark.parametrize("bad", ["nonsense", '{"question_id": 3}', '{"question_id": "a"}', ""])
def test_a_line_that_is_no_sample_is_named(bad: str, tmp_path: Path) -> None:
    path = tmp_path / SAMPLES
    path.write_text(line("b", "乙") + f"{bad}\n" + line("a", "甲"))
    with pytest.raises(UsageError, match=r"samples\.jsonl, line 2: not a sample"):
        samples = StoredSamples(path, ["b", "a"])
        [*samples, *samples.others()]


def test_a_file_of_samples_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(line("a", "甲"))
    (tmp_path / SAMPLES).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is a link"):
        StoredSamples(tmp_path / SAMPLES, ["a"])


def test_a_table_gives_back_the_scores_it_was_given() -> None:
    scores = [
        Score(question_id="a", metric="m", value=0.1 + 0.2, signature="s"),
        Score(question_id="a", metric="n", value=None, reason="failed", signature="t"),
        Score(question_id="b", metric="m", value=-0.0, reason="cut", signature="s"),
        Score(question_id="b", metric="n", value=1e100, signature="t"),
    ]
    table = ScoreTable(["a", "b"])
    table.add(scores[2:])
    assert not table.has("a") and table.has("b") and not table.columns["m"].is_complete
    table.add([*scores[:2], Score(question_id="another", metric="m", value=1.0)])
    assert list(table) == scores
    assert all(column.is_complete for column in table.columns.values())
    assert table.columns["m"].count_reasons() == {"cut": 1} and math.isnan(table.columns["n"].values[0])
    assert table.columns["m"][-1:] == [scores[2]]
    table.add(scores[:1])  # a second score of one question
    assert not table.columns["m"].is_complete and table.columns["n"].is_complete


def test_scores_of_two_signatures_are_no_figure() -> None:
    table = ScoreTable(["a", "b"])
    table.add(Score(question_id=each, metric="m", value=1.0, signature=each) for each in "ab")
    assert not table.columns["m"].is_complete


def test_a_stage_inside_another_stops_its_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 3.0, 7.0])
    monkeypatch.setattr("qilin_rag.pipeline.clock.time.perf_counter", lambda: next(times))
    clock = Clock()
    with clock.stage("generation"), clock.stage("retrieval"):
        pass
    took = clock.end()
    assert (took.generation_s, took.retrieval_s, took.scoring_s) == (1.0 + 4.0, 2.0, 0.0)


def test_blocks_are_retrieved_in_order_and_each_question_once() -> None:
    questions = [Question(id=str(i), query="问", references=[]) for i in range(3000)]
    asked: list[str] = []

    def retrieve(some: Any) -> list[Retrieved]:
        asked.extend(question.id for question in some)
        return [Retrieved([Hit(note_idx=int(question.id), score=1.0, rank=1)]) for question in some]

    made = Jobs.retrieved_ahead(questions, 10, retrieve, Clock())
    assert asked == [str(i) for i in range(10)] and len(made) == 3000

    async def get() -> list[tuple[str, int]]:
        pairs = [
            (job.question.id, await job.found.get() if isinstance(job.found, Coming) else job.found) for job in made
        ]
        return [(question_id, found.hits[0].note_idx) for question_id, found in pairs]

    assert asyncio.run(get()) == [(str(i), i) for i in range(3000)]
    assert asked == [question.id for question in questions]
    assert list(Jobs.retrieved_ahead([], 10, retrieve, Clock())) == []


class Gone(LLM):
    """No server."""

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        raise FatalLLMError("nobody is there")


def test_a_run_that_stops_leaves_no_thread_behind(tmp_path: Path) -> None:
    """Were it left to the garbage collector, a thread that begins could wait for it, and all others for that one."""
    config = resolve_run({"llm": Gone(), "retriever": "bm25", "metrics": "rouge_l", "runs_dir": tmp_path})
    before = set(threading.enumerate())
    gc.disable()
    try:
        with pytest.raises(FatalLLMError, match="nobody is there"):
            run(config)
        assert set(threading.enumerate()) <= before
    finally:
        gc.enable()
