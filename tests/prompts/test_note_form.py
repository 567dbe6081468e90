"""The order and length of the notes in a prompt: what the LLM reads, what the sample records, what the run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import RunConfig, resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.core.hashing import fingerprint
from qilin_rag.core.text import estimate_tokens
from qilin_rag.core.types import Note
from qilin_rag.pipeline.dry_run import plan
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import run
from qilin_rag.prompts.answer import NoteForm, Prompt
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer

NOTES = [Note(note_idx=i, title=f"标题{i}", content="内容" * (10 + i)) for i in range(6)]
PLAIN = Prompt(
    name="plain",
    language="zh",
    description="",
    with_notes="{% for note in notes %}{{ note.title }}{{ note.content }}{% endfor %}问{{ query }}",
    without_notes="问{{ query }}",
)
THREE = "2 Q0 12 1 3 x\n2 Q0 13 2 2 x\n2 Q0 10 3 1 x\n1 Q0 10 1 1 x\n3 Q0 11 1 1 x\n"
"""Question 2 has three notes, the best of which is the first."""


def config_of(data: Path, server: FakeServer, *overrides: str, **flags: Any) -> RunConfig:
    (data / "three.trec").write_text(THREE)
    given = {"data": str(data), "llm": "openai", "base_url": server.url, "retriever": f"trec:{data / 'three.trec'}"}
    return resolve_run(given | flags, [f"llm.model={MODEL}", *overrides])


def ask(data: Path, server: FakeServer, *overrides: str, **flags: Any) -> Run:
    return run(config_of(data, server, *overrides, **flags))


def titles(messages: list[dict[str, str]]) -> list[str]:
    lines = messages[-1]["content"].splitlines()
    return [line.partition("】")[2] for line in lines if line.startswith("【")]


def sent_for(server: FakeServer, query: str) -> list[list[dict[str, str]]]:
    return [body["messages"] for body in server.calls if f"问题：{query}" in body["messages"][-1]["content"]]


@pytest.mark.parametrize(
    ("order", "expected", "note_idxs"),
    [
        ("best_first", ["多肉度夏", "多肉换盆", "冷萃咖啡"], [12, 13, 10]),
        ("best_last", ["冷萃咖啡", "多肉换盆", "多肉度夏"], [10, 13, 12]),
    ],
)
def test_the_llm_reads_the_notes_in_this_order(
    data_dir: Path, server: FakeServer, order: str, expected: list[str], note_idxs: list[int]
) -> None:
    done = ask(data_dir, server, f"note_order={order}")
    [messages] = sent_for(server, "多肉怎么养")
    assert titles(messages) == expected
    sample = done.directory.read_samples()[0]["2"]
    assert [hit.note_idx for hit in sample.hits] == [12, 13, 10]  # the ranking, whatever the order in the prompt
    assert (sample.notes_given, sample.notes_used, sample.prompt_notes) == (3, 3, note_idxs)


def test_shuffled_goes_by_seed_question_and_note() -> None:
    def order(seed: int, question_id: str, notes: list[Note] = NOTES) -> list[int]:
        return [note.note_idx for note in NoteForm("shuffled", None, seed).arrange(notes, question_id)]

    assert order(0, "a") == order(0, "a")
    assert len({tuple(order(seed, q)) for seed in range(5) for q in "abcd"}) == 20
    assert all(sorted(order(0, q)) == list(range(6)) for q in "abcd")
    firsts = [order(0, str(q))[0] for q in range(600)]
    assert all(70 <= firsts.count(i) <= 130 for i in range(6))  # each note first as often: 100 of 600, sd 9
    without = [note for note in NOTES if note.note_idx != 3]
    assert order(0, "a", without) == [i for i in order(0, "a") if i != 3]


def test_the_content_is_cut_and_nothing_else() -> None:
    cut = NoteForm(max_chars=5).arrange(NOTES, "q")
    assert [(note.title, note.content) for note in cut] == [(note.title, "内容内容内") for note in NOTES]
    assert NoteForm(max_chars=10**6).arrange(NOTES, "q") == NoteForm().arrange(NOTES, "q") == NOTES


@pytest.mark.parametrize("order", ["best_first", "best_last", "shuffled"])
def test_a_budget_keeps_the_best_notes_in_any_order(order: Any) -> None:
    form = NoteForm(order)
    whole = estimate_tokens(PLAIN.render("q", NOTES).messages[0]["content"])
    for budget in range(3, whole + 1, 5):
        kept = PLAIN.render("q", NOTES, budget).notes
        rendered = PLAIN.render("q", NOTES, budget, form, "q")
        assert {note.note_idx for note in rendered.notes} == {note.note_idx for note in kept}
        assert rendered.notes == form.arrange(kept, "q")
        assert rendered.notes_given == len(NOTES)
        assert rendered.messages == PLAIN.render("q", rendered.notes).messages
        assert estimate_tokens(rendered.messages[0]["content"]) <= budget


@pytest.mark.parametrize("order", ["best_first", "best_last", "shuffled"])
def test_where_the_server_finds_it_too_long_the_worst_note_goes_first(
    data_dir: Path, server: FakeServer, order: str
) -> None:
    server.fault = lambda n, body: "overflow" if len(titles(body["messages"])) > 1 else None
    done = ask(data_dir, server, f"note_order={order}")
    left = [set(titles(messages)) for messages in sent_for(server, "多肉怎么养")]
    assert left == [{"多肉度夏", "多肉换盆", "冷萃咖啡"}, {"多肉度夏", "多肉换盆"}, {"多肉度夏"}]
    sample = done.directory.read_samples()[0]["2"]
    assert (sample.status, sample.notes_given, sample.notes_used, sample.prompt_notes) == ("ok", 3, 1, [12])


@pytest.mark.parametrize("override", ["note_order=best_last", "note_order=shuffled", "note_chars=4"])
def test_a_dry_run_shows_the_prompts_that_are_sent(data_dir: Path, server: FakeServer, override: str) -> None:
    config = config_of(data_dir, server, override)
    planned = plan(config)
    done = run(config)
    assert str(done.directory.path) == planned.run
    sent = [body["messages"] for body in server.calls]
    assert len(planned.examples) == 3
    assert all(call.messages in sent for call in planned.examples)
    if override == "note_chars=4":
        [messages] = sent_for(server, "手冲水温")
        assert "\n水温92\n" in messages[-1]["content"]


def test_runs_from_before_these_settings_keep_their_fingerprint(data_dir: Path, server: FakeServer) -> None:
    manifest = ask(data_dir, server).manifest
    assert set(manifest.identity) == {
        "fingerprint_version",
        "data",
        "retriever",
        "top_k",
        "missing_notes",
        "prompt",
        "llm",
    }
    assert manifest.fingerprint == fingerprint(manifest.identity)
    same = ("note_order=best_first", "note_chars=null")
    assert ask(data_dir, server, *same).manifest.fingerprint == manifest.fingerprint
    assert ask(data_dir, server, seed=7).manifest.fingerprint == manifest.fingerprint
    assert len(server.calls) == 3
    names = [
        ask(data_dir, server, *each).directory.path.name
        for each in (
            ["note_order=best_last"],
            ["note_order=shuffled"],
            ["note_order=shuffled", "seed=7"],
            ["note_chars=4"],
            ["note_chars=5"],
        )
    ]
    assert len({*names, manifest.fingerprint[:8]}) == 6


def test_wrong_settings_are_one_line(data_dir: Path, cli: Cli) -> None:
    for override, said in {
        "note_order=worst_first": "'best_first', 'best_last' or 'shuffled'",
        "note_chars=0": "0",
    }.items():
        done = cli("run", "--data", data_dir, "--set", override)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert said in done.err
    with pytest.raises(UsageError, match="note_order"):
        resolve_run({}, ["note_order=4"])


def test_citations_are_counted_by_the_order_in_the_prompt(data_dir: Path, server: FakeServer) -> None:
    server.answer = lambda body: "断水[第1篇](#)。"
    (first, last) = (
        ask(data_dir, server, f"note_order={order}", metrics="citations", retriever="oracle").directory.read_scores()
        for order in ("best_first", "best_last")
    )
    assert first == last  # both are reference notes
    ranked = ask(data_dir, server, metrics="citations").directory.read_scores()
    turned = ask(data_dir, server, "note_order=best_last", metrics="citations").directory.read_scores()
    of_question = [
        next(s.value for s in scores if (s.metric, s.question_id) == ("citation_precision", "2"))
        for scores in (ranked, turned)
    ]
    assert of_question == [1, 0]  # [第1篇] is note 12, a reference, and then note 10, which is none


def test_the_embedded_reader_reads_what_the_prompt_holds(data_dir: Path) -> None:
    (data_dir / "three.trec").write_text(THREE)
    flags = {"data": str(data_dir), "retriever": f"trec:{data_dir / 'three.trec'}"}
    whole, last, cut = (run(resolve_run(flags, each)) for each in ([], ["note_order=best_last"], ["note_chars=8"]))
    answers = [each.directory.read_samples()[0]["2"].answer for each in (whole, last, cut)]
    assert answers[0] != answers[1]
    assert set(answers[0].splitlines()) == set(answers[1].splitlines())
    assert max(map(len, answers[2].splitlines())) <= 8
