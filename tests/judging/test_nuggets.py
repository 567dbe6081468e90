"""Nuggets from end to end: banks are made, edited and assigned, figures are exact, and nothing is asked twice."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.judging.nugget_bank import BankedQuestion, read_bank
from qilin_rag.llms import retry
from qilin_rag.pipeline.run_directory import RunDirectory
from tests.conftest import Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer
from tests.judging.killing import kill_and_finish
from tests.judging.substring_judge import Constructed, blocks, construct, substring_judge

METRICS = ["nugget_all", "nugget_strict_all", "nugget_vital", "nugget_strict_vital", "nugget_weighted"]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)


@pytest.fixture
def judge(server: FakeServer) -> FakeServer:
    """The server, as a judge that answers by substring."""
    server.answer = substring_judge
    return server


@pytest.fixture
def made(tmp_path: Path) -> Constructed:
    return construct(tmp_path / "twenty")


def asking(server: FakeServer) -> list[object]:
    return ["--llm", "openai", "--base-url", server.url, f"--set=llm.model={MODEL}"]


def import_run(cli: Cli, made: Constructed, system: str = "a") -> Path:
    done = cli("import-answers", made.answers[system], "--name", system, "--data", made.data, "--metrics", "rouge_l")
    assert done.code == 0, done.err
    return Path(done.out.splitlines()[-1])


def create(cli: Cli, server: FakeServer, made: Constructed, *arguments: object) -> Path:
    done = cli("nuggets", "create", "--data", made.data, *asking(server), *arguments)
    assert done.code == 0, done.err
    return Path(done.out.splitlines()[-1])


def assign(cli: Cli, server: FakeServer, run: Path, bank: Path, *arguments: object) -> dict[str, Any]:
    done = cli("nuggets", "assign", run, "--bank", bank, *asking(server), "--json", *arguments)
    assert done.code == 0, done.err
    said: dict[str, Any] = json.loads(done.out)
    return said


def figures_of(run: Path) -> dict[str, dict[str, float | None]]:
    figures: dict[str, dict[str, float | None]] = {}
    for score in RunDirectory(run).read_scores():
        if score.metric in METRICS:
            figures.setdefault(score.question_id, {})[score.metric] = score.value
    return figures


@pytest.mark.parametrize("batch", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_answers_get_exactly_their_figures(made: Constructed, judge: FakeServer, cli: Cli, batch: int) -> None:
    """20 questions, and 60 constructed answers."""
    bank_path = create(cli, judge, made)
    assert len(judge.calls) == 20
    bank = read_bank(bank_path)
    assert {qid: len(line.nuggets) for qid, line in bank.questions.items()} == made.n_nuggets
    judge.calls.clear()
    runs = {system: import_run(cli, made, system) for system in made.answers}
    for system, run in runs.items():
        said = assign(cli, judge, run, bank_path, "--per-call", batch)
        assert figures_of(run) == {
            qid: {name: pytest.approx(value) for name, value in of.items()} for qid, of in made.expected[system].items()
        }
        for name in METRICS:
            mean = sum(of[name] for of in made.expected[system].values()) / 20
            figure = said["metrics"][name]
            assert (figure["value"], figure["n"]) == (pytest.approx(mean), 20) and figure["ci95"]
        assert said["metrics"]["nugget_vital"]["reasons"] == {"no vital nuggets": 1}
    assert len(judge.calls) == len(runs) * sum(-(-n // batch) for n in made.n_nuggets.values())
    signature = said["metrics"]["nugget_all"]["signature"]
    prompt = read_bank(bank_path).makers[0].prompt[:8]
    for part in (f"bank:{bank.sha256[:8]}", f"maker:{MODEL}", f"maker_prompt:{prompt}", f"batch:{batch}", "judge:"):
        assert f"|{part}" in signature
    board = cli("leaderboard", "--metrics", "nugget_all,nugget_weighted")
    assert board.code == 0 and "nugget_weighted" in board.out
    assert cli("report", "--out", "r.html").code == 0 and "nugget_weighted" in Path("r.html").read_text(
        encoding="utf-8"
    )
    compared = cli("compare", runs["a"], runs["b"], "--metric", "nugget_all")
    assert compared.code == 0 and "nugget_all" in compared.out


def test_what_is_planned_is_what_is_asked(made: Constructed, judge: FakeServer, cli: Cli) -> None:
    run = import_run(cli, made)

    def planned(*command: object) -> dict[str, Any]:
        done = cli("nuggets", *command, *asking(judge), "--dry-run", "--json")
        assert done.code == 0, done.err
        plan: dict[str, Any] = json.loads(done.out)
        return plan

    def asked(plan: dict[str, Any]) -> int:
        """Return the number of calls since the last look; what the plan shows is among them."""
        messages = [body["messages"] for body in judge.calls]
        assert plan["examples"] and all(each["messages"] in messages for each in plan["examples"])
        judge.calls.clear()
        return len(messages)

    of_seven = planned("create", "--data", made.data, "--per-call", 1, "--limit", 7)
    assert judge.calls == [] and not list(Path("runs").glob("nuggets-*"))
    create(cli, judge, made, "--per-call", 1, "--limit", 7)
    n_calls = asked(of_seven)
    assert n_calls == of_seven["calls"]
    of_all = planned("create", "--data", made.data, "--per-call", 1)
    assert (of_all["answered"], of_all["questions"]) == (n_calls, of_all["calls"] + n_calls)
    bank = create(cli, judge, made, "--per-call", 1)
    assert asked(of_all) == of_all["calls"]
    before = sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*"))
    of_run = planned("assign", run, "--bank", bank, "--per-call", 4)
    assert judge.calls == [] and sorted((path, path.stat().st_mtime_ns) for path in run.rglob("*")) == before
    assign(cli, judge, run, bank, "--per-call", 4)
    n_calls = asked(of_run)
    assert n_calls == of_run["calls"]
    assert planned("assign", run, "--bank", bank, "--per-call", 4)["calls"] == 0
    for path in run.glob("nugget_judgements.jsonl"):
        path.unlink()
    again = planned("assign", run, "--bank", bank, "--per-call", 4)
    assert (again["calls"], again["cached"]) == (0, n_calls)


def test_a_question_with_an_unreadable_reply_is_unscored_with_the_reason(
    made: Constructed, judge: FakeServer, cli: Cli
) -> None:
    """A doubled number in the second batch, prose around verdicts, a failed call; the others stay exact."""
    bank, run = create(cli, judge, made), import_run(cli, made)
    large = next(qid for qid, n in made.n_nuggets.items() if n > 5)
    others = iter(qid for qid in made.n_nuggets if qid != large)
    prosy, lost = next(others), next(others)

    def answer(body: dict[str, Any]) -> str:
        text, said = str(body["messages"][-1]["content"]), substring_judge(body)
        if f"> 题{large}怎么做\n" in text and f"题{large}的第0步" not in text.split("## 要点1")[1].split("## 要点2")[0]:
            return said + "\n1：支持"
        return f"以下是结论：\n{said}" if f"> 题{prosy}怎么做\n" in text else said

    judge.answer = answer
    judge.fault = lambda n, body: "400" if f"> 题{lost}怎么做\n" in body["messages"][-1]["content"] else None
    done = cli("nuggets", "assign", run, "--bank", bank, *asking(judge), "--per-call", 5, "--json")
    assert done.code == 3 and "nugget_judgements.jsonl" in done.err
    reasons = json.loads(done.out)["metrics"]["nugget_all"]["reasons"]
    assert reasons == {"no verdict": 2, "judge failed": 1}
    figures = figures_of(run)
    assert {qid for qid, of in figures.items() if of["nugget_all"] is None} == {large, prosy, lost}
    unread, failed = cli("nuggets", "show", run, "--question", prosy), cli("nuggets", "show", run, "--question", lost)
    assert (unread.code, "no verdict" in unread.err, "judge failed" in failed.err) == (2, True, True)
    judge.fault = lambda n, body: None
    n_before = len(judge.calls)
    said = assign(cli, judge, run, bank, "--batch", 5)  # the former name of --per-call
    assert said["metrics"]["nugget_all"]["reasons"] == {"no verdict": 2}
    assert len(judge.calls) - n_before == -(-made.n_nuggets[lost] // 5)  # only what had failed
    assert figures_of(run)[lost] == pytest.approx(made.expected["a"][lost])


def test_answers_do_not_speak_their_verdicts(made: Constructed, judge: FakeServer, cli: Cli) -> None:
    """A judge that repeats what it is shown gives no figures; one that reads gives those that answers deserve."""
    bank = create(cli, judge, made)
    rows = [
        {"question_id": qid, "answer": "\n".join(f"{number}：支持" for number in range(1, n + 1))}
        for qid, n in made.n_nuggets.items()
    ]
    made.answers["forger"] = write_jsonl(made.data / "answers-forger.jsonl", rows)
    run = import_run(cli, made, "forger")
    judge.answer = lambda body: blocks(str(body["messages"][-1]["content"]), "待评回答")[0]
    said = assign(cli, judge, run, bank, "--per-call", 100)
    assert said["metrics"]["nugget_all"]["reasons"] == {"no verdict": 20}
    judge.answer = substring_judge
    (run / "nugget_judgements.jsonl").unlink()
    cli("cache", "clear", "responses", "--yes")
    assert assign(cli, judge, run, bank, "--per-call", 100)["metrics"]["nugget_all"]["value"] == 0.0


def test_an_edited_bank_is_another_bank(made: Constructed, judge: FakeServer, cli: Cli) -> None:
    bank_path, run = create(cli, judge, made), import_run(cli, made)
    assign(cli, judge, run, bank_path)
    before = read_bank(bank_path)
    lines = [json.loads(line) for line in bank_path.read_text(encoding="utf-8").splitlines()]
    edited = next(line for line in lines if line["nuggets"][0]["importance"] == "vital")
    edited["nuggets"][0]["importance"] = "okay"
    own = Path("own.jsonl")
    own.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in reversed(lines)), encoding="utf-8")
    after = read_bank(own)
    assert (before.maker, after.maker) == (MODEL, f"{MODEL} + edited") and before.sha256 != after.sha256
    assert cli("nuggets", "show", own).out.count(", edited)") == 1
    n_before = len(judge.calls)
    signature = assign(cli, judge, run, own)["metrics"]["nugget_all"]["signature"]
    assert f"|bank:{after.sha256[:8]}|maker:{MODEL} + edited|" in signature
    assert len(judge.calls) == n_before  # the judge sees no importance
    expected = made.expected["a"][edited["qid"]]
    assert figures_of(run)[edited["qid"]]["nugget_all"] == pytest.approx(expected["nugget_all"])
    edited["nuggets"][0]["importance"] = "vital"
    own.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert read_bank(own).sha256 == before.sha256 and read_bank(own).maker == MODEL


def test_a_bank_of_the_model_under_test_is_warned_about(made: Constructed, judge: FakeServer, cli: Cli) -> None:
    judge.answer = lambda body: "我不清楚"
    done = cli("run", "--data", made.data, *asking(judge), "--metrics", "rouge_l", "--limit", 2)
    judge.answer = substring_judge
    tested, bank = Path(done.out.splitlines()[-1]), create(cli, judge, made, "--limit", 2)
    done = cli("nuggets", "assign", tested, "--bank", bank, *asking(judge), "--json")
    told = json.loads(done.out)
    [warning] = told["warnings"]
    assert told["metrics"]["nugget_all"]["reasons"] == {"the bank is by the model under test": 2}
    assert "the bank is by the model under test" in " ".join(cli("leaderboard").out.split())
    assert MODEL in warning and warning in " ".join(done.err.split())
    assert assign(cli, judge, import_run(cli, made), bank)["warnings"] == []


def test_limits_notes_and_missing_questions(made: Constructed, judge: FakeServer, cli: Cli) -> None:
    run = import_run(cli, made)
    bank_path = create(cli, judge, made, "--limit", 5, "--notes", "--max-nuggets", 2)
    bank = read_bank(bank_path)
    assert len(bank.questions) == 5 and all(len(line.nuggets) <= 2 for line in bank.questions.values())
    assert {line.made_by.sources for line in bank.questions.values() if line.made_by} == {"answers and notes"}
    said = assign(cli, judge, run, bank_path, "--limit", 3)
    assert said["metrics"]["nugget_all"]["reasons"] == {"no nuggets in the bank": 15, "not judged": 2}
    whole = read_bank(create(cli, judge, made, "--notes"))
    nuggets = [nugget for line in whole.questions.values() for nugget in line.nuggets]
    origins = Counter(origin for nugget in nuggets for origin in nugget.provenance)
    assert origins["note 0"] == 20 and origins["answer 1"] == 40
    shared = next(each for each in whole.questions["1"].nuggets if len(each.provenance) > 1)
    assert shared.provenance == ["answer 1", "answer 2"]


def test_a_limit_scores_what_it_chooses_alone(made: Constructed, judge: FakeServer, cli: Cli) -> None:
    """Of the others, those with few nuggets have a verdict that another batch size does not change."""
    run, bank = import_run(cli, made), create(cli, judge, made)
    assign(cli, judge, run, bank)
    for arguments in (["--limit", 4], ["--limit", 4, "--per-call", 3]):
        said = assign(cli, judge, run, bank, *arguments)["metrics"]["nugget_all"]
        assert (said["n"], said["reasons"]) == (4, {"not judged": len(made.n_nuggets) - 4})


def test_batches_of_sources_are_merged(made: Constructed, judge: FakeServer, cli: Cli) -> None:
    def texts(path: Path) -> dict[str, set[tuple[str, ...]]]:
        return {
            qid: {(each.text, each.importance, *each.provenance) for each in line.nuggets}
            for qid, line in read_bank(path).questions.items()
        }

    assert texts(create(cli, judge, made, "--per-call", 1)) == texts(create(cli, judge, made))


def test_nuggetizer_reads_an_assignment(tmp_path: Path, judge: FakeServer, cli: Cli) -> None:
    metrics = pytest.importorskip(
        "nuggetizer.core.metrics", reason="the oracle is not installed: pip install nuggetizer"
    )
    made = construct(tmp_path / "five", "a", n_questions=5)
    run = import_run(cli, made)
    said = assign(cli, judge, run, create(cli, judge, made))
    lines = [json.loads(line) for line in (run / "nuggets.jsonl").read_text(encoding="utf-8").splitlines()]
    theirs = metrics.calculate_global_metrics(lines)
    for name in ("all", "strict_all", "vital", "strict_vital"):
        assert said["metrics"][f"nugget_{name}"]["value"] == pytest.approx(theirs[f"{name}_score"])


def test_controls_have_rows_of_their_own(made: Constructed, judge: FakeServer, cli: Cli) -> None:
    """The favoured answers hold every nugget, and so does a stuffed answer; the other two hold none."""
    bank, run = create(cli, judge, made), import_run(cli, made)
    plan = json.loads(
        cli("nuggets", "assign", run, "--bank", bank, *asking(judge), "--controls", "--dry-run", "--json").out
    )
    n_before = len(judge.calls)
    said = assign(cli, judge, run, bank, "--controls")
    assert len(judge.calls) - n_before == plan["calls"]
    figures = {control: [figure["value"] for figure in of.values()] for control, of in said["controls"].items()}
    whole = [1.0, 1.0, 19 / 20, 19 / 20, 1.0]  # one of the questions has no vital nuggets
    assert figures == {
        "reference itself": pytest.approx(whole),
        "answer to another question": [0.0] * 5,
        "stuffed with nuggets": pytest.approx(whole),
        "empty answer": [0.0] * 5,
    }
    assert figures_of(run) == {qid: pytest.approx(of) for qid, of in made.expected["a"].items()}
    board = cli("leaderboard", "--controls", "--metrics", "nugget_all").out
    assert all(f"· {control}" in " ".join(board.split()) for control in figures)
    assert "· empty answer" not in cli("leaderboard").out
    n_before = len(judge.calls)
    assert assign(cli, judge, run, bank)["controls"] == {} and len(judge.calls) == n_before
    assert "· empty answer" not in cli("leaderboard", "--controls").out


def test_a_bank_of_a_run_and_what_show_says(made: Constructed, judge: FakeServer, cli: Cli) -> None:
    run = import_run(cli, made)
    done = cli("nuggets", "create", run, *asking(judge), "--json")
    told = json.loads(done.out)
    assert (told["questions"], told["without_nuggets"], told["maker"]) == (20, {}, MODEL)
    assert told["vital"] + told["okay"] == sum(made.n_nuggets.values())
    none = cli("nuggets", "show", run)
    assert none.code == 2 and "nuggets assign" in none.err
    assign(cli, judge, run, Path(told["bank"]))
    listed = cli("nuggets", "show", told["bank"]).out
    assert f"made by {MODEL}" in listed and listed.count("题") == 20
    shown = cli("nuggets", "show", run, "--question", "1").out
    [line] = json.loads(cli("nuggets", "show", run, "--question", "1", "--json").out)
    for nugget in line["nuggets"]:
        assert nugget["text"] in shown and nugget["assignment"] in shown
    assert line["answer_text"] in shown
    assert cli("nuggets", "show", run, "--question", "99").code == 2


def test_english_prompts_are_read_as_well(made: Constructed, judge: FakeServer, cli: Cli) -> None:
    def answer(body: dict[str, Any]) -> str:
        text = str(body["messages"][-1]["content"])
        if "## Material 1\n" in text:
            return "vital [1] 备料\nokay [1] 做事"
        return "1: Support\n2: not_support."

    judge.answer = answer
    bank = create(cli, judge, made, "--language", "en")
    metrics = assign(cli, judge, import_run(cli, made), bank, "--language", "en")["metrics"]
    assert [metrics[name]["value"] for name in METRICS] == [0.5, 0.5, 1.0, 1.0, pytest.approx(2 / 3)]


def test_wrong_use_is_one_line(made: Constructed, judge: FakeServer, cli: Cli) -> None:
    run, other = import_run(cli, made), Path("other.jsonl")
    foreign = BankedQuestion(qid="1", query="别的问题", nuggets=[{"text": "x", "importance": "vital"}])
    other.write_text(foreign.model_dump_json() + "\n", encoding="utf-8")
    cases = {
        "either a RUN or --data": ["create", *asking(judge)],
        "--notes needs the data": ["create", run, "--notes", *asking(judge)],
        "别的问题": ["assign", run, "--bank", other, *asking(judge)],
        "is not a file": ["assign", run, "--bank", "nowhere.jsonl", *asking(judge)],
        "can't judge": ["create", run, "--llm", "extractive"],
    }
    for message, arguments in cases.items():
        done = cli("nuggets", *arguments)
        assert (done.code, message in done.err, done.err.count("\n")) == (2, True, 1), done.err
    judge.answer = lambda body: "我不知道"
    done = cli("nuggets", "create", run, *asking(judge))
    assert done.code == 1 and "unreadable reply (20)" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("command", ["create", "assign"])
def test_killed_five_times_nothing_is_asked_twice(made: Constructed, judge: FakeServer, cli: Cli, command: str) -> None:
    """What is on disk is not asked for again; bank and figures are those of an uninterrupted command."""
    whole = create(cli, judge, made, "--runs-dir", "whole")
    if command == "create":
        cli("cache", "clear", "responses", "--yes")
        line = ["nuggets", "create", "--data", made.data, *asking(judge)]
        said = kill_and_finish(cli, judge, line, "runs/nuggets-*/judgements.jsonl", n_kills=5)
        assert Path(said["bank"]).read_bytes() == whole.read_bytes()
        return
    made.answers["same"] = made.answers["a"]
    run, same = import_run(cli, made), import_run(cli, made, "same")
    line = ["nuggets", "assign", run, "--bank", whole, *asking(judge), "--per-call", 5]
    said = kill_and_finish(cli, judge, line, f"runs/{run.name}/nugget_judgements.jsonl", n_kills=5)
    cli("cache", "clear", "responses", "--yes")
    assert said["metrics"] == assign(cli, judge, same, whole, "--per-call", 5)["metrics"]
    assert figures_of(run) == figures_of(same) == {qid: pytest.approx(of) for qid, of in made.expected["a"].items()}
