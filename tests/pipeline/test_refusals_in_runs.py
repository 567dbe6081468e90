"""What a run, a judge and a filter make of a server that refuses: what stops, what goes on, what is said and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.llms import retry
from qilin_rag.llms.same_refusals import SAME_REFUSALS
from tests.conftest import NOTES, Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer

N = 12
PAGE = "<!doctype html><html><head><title>Login</title></head></html>"
EMPTY = {"error": {"message": "Insufficient Balance", "code": "invalid_request_error"}}
REFUSED = {
    "error": {"message": "Unsupported parameter: 'seed' (request id: 8f3a-0001)", "code": "unsupported_parameter"}
}
Refusal = tuple[int, Any, dict[str, str]]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    monkeypatch.setattr(retry, "LONGEST_S", 0.01)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "dozen"
    folder.mkdir()
    write_jsonl(folder / "notes.jsonl", NOTES)
    rows = [{"search_idx": i, "query": f"冷萃{i}", "answers": ["冷藏"], "ref_note_idx_list": [10]} for i in range(N)]
    write_jsonl(folder / "dqa.jsonl", rows)
    return folder


@pytest.fixture(params=["openai", "langchain"])
def ask(
    request: pytest.FixtureRequest, cli: Cli, data: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """The command `run`, by either client."""
    asked = ["--llm", "openai", "--set", f"llm.model={MODEL}"]
    if request.param == "langchain":
        pytest.importorskip("langchain_openai", reason="needs a provider of LangChain: pip install langchain-openai")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1234567890")
        asked = ["--llm", f"langchain:openai:{MODEL}"]
    command = ["run", "--data", data, *asked, "--base-url", server.url, "--metrics", "rouge_l", "--no-cache"]
    return lambda *more: cli(*command, "--concurrency", 1, *more)


def lines() -> list[dict[str, Any]]:
    [path] = Path("runs").glob("*/samples.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def after(n: int, status: int, body: Any, **headers: str) -> Any:
    """A refusal of every call behind the n-th."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda k, request: (status, body, given) if k > n else None


@pytest.mark.parametrize(
    ("status", "body", "headers", "said"),
    [
        (402, EMPTY, {}, "no credit left (HTTP 402: Insufficient Balance)"),
        (400, {"error": {"message": "not in good standing", "code": "Arrearage"}}, {}, "not in good standing"),
        (401, {"error": {"message": "wrong organization"}}, {}, "(401): wrong organization"),
        (403, {"error": {"message": "no such region"}}, {}, "forbids the call (HTTP 403: no such region)"),
        (404, {"error": {"message": "The model `x` does not exist"}}, {}, "The model `x` does not exist"),
        (200, PAGE, {}, "answers with a web page (Login), not with JSON; is /v1 missing"),
        (
            429,
            {"error": {"message": "tokens per day"}},
            {"retry_after": "86400"},
            "asks to wait for 24 h 0 min, until 20",
        ),
        (429, {"error": {"message": "Please try again in 7m12s."}}, {}, "asks to wait for 7 min 12 s, until 20"),
    ],
)
def test_what_concerns_all_questions_stops_the_run_at_once(
    ask: Any, server: FakeServer, status: int, body: Any, headers: dict[str, str], said: str
) -> None:
    server.refuse = after(2, status, body, **headers)
    stopped = ask()
    assert (stopped.code, len(server.calls)) == (1, 3)
    assert said in stopped.err.splitlines()[-1]
    assert [line["status"] for line in lines()] == ["ok", "ok"]


def test_a_run_that_was_stopped_goes_on(ask: Any, server: FakeServer) -> None:
    server.refuse = after(2, 402, EMPTY)
    assert ask().code == 1
    server.refuse = lambda n, request: None
    assert ask().code == 0
    assert len(lines()) == N  # nothing is asked twice but what was refused


@pytest.mark.parametrize(
    ("status", "body", "outcome", "code"),
    [
        (400, {"error": {"message": "Content Exists Risk", "code": "invalid_request_error"}}, "filtered", 0),
        (403, {"error": {"message": "x requires moderation", "metadata": {"reasons": ["hate"]}}}, "filtered", 0),
        (403, "<html><head><title>Attention Required! | Cloudflare</title></head></html>", "failed", 3),
        (400, {"error": "the prompt is odd"}, "failed", 3),
    ],
)
def test_what_concerns_one_prompt_costs_only_this_one(
    ask: Any, server: FakeServer, status: int, body: Any, outcome: str, code: int
) -> None:
    server.refuse = lambda n, request: (status, body, {}) if n % 3 == 0 else None
    done = ask()
    assert (done.code, len(server.calls)) == (code, N)
    found = lines()
    assert sorted(line["status"] for line in found) == sorted([outcome] * 4 + ["ok"] * 8)
    assert all(f"HTTP {status}: " in line["error"] for line in found if line["status"] == outcome)
    if status == 400:
        server.refuse = lambda n, request: None
        ask()
        assert len(lines()) == N + (0 if outcome == "filtered" else 4)  # a filter would do the same again


def test_a_prompt_that_is_too_long_loses_whole_notes_the_worst_first(ask: Any, server: FakeServer) -> None:
    def refuse(n: int, request: dict[str, Any]) -> Refusal | None:
        is_long = "【第2篇】" in request["messages"][-1]["content"]
        return (500, {"detail": "decoder prompt is longer than the maximum model length"}, {}) if is_long else None

    server.refuse = refuse
    assert ask().code == 0
    assert {(line["status"], line["notes_used"]) for line in lines()} == {("ok", 1)}


def test_the_same_refusal_for_all_stops_the_run(ask: Any, server: FakeServer) -> None:
    numbers = iter(range(100, 999))

    def refuse(n: int, request: dict[str, Any]) -> Refusal:
        return 400, json.loads(json.dumps(REFUSED).replace("0001", f"{next(numbers)}")), {}

    server.refuse = refuse
    stopped = ask()
    assert (stopped.code, len(server.calls)) == (1, SAME_REFUSALS)
    last = stopped.err.splitlines()[-1]
    assert f"no call was answered, and {SAME_REFUSALS} failed for one reason: HTTP 400: Unsupported parameter" in last
    assert len(lines()) == SAME_REFUSALS


def test_one_answer_is_enough_to_go_on(ask: Any, server: FakeServer) -> None:
    server.refuse = lambda n, request: (400, REFUSED, {}) if n != SAME_REFUSALS else None
    done = ask()
    assert (done.code, len(server.calls)) == (3, N)
    assert f"{N - 1} of {N} questions failed" in done.err
    last = done.err.splitlines()[-1]
    assert last.endswith("all: HTTP 400: Unsupported parameter: 'seed' (request id: 8f3a-0001)") or "=null" in last


def test_questions_that_never_get_an_answer_do_not_keep_a_finished_run_from_its_end(
    ask: Any, server: FakeServer
) -> None:
    server.refuse = lambda n, request: (400, REFUSED, {}) if n > 2 else None
    first = ask("--fail-on-error", N)
    assert (first.code, len(server.calls)) == (0, N)
    server.refuse = after(0, 400, REFUSED)
    again = ask("--fail-on-error", N)
    assert (again.code, len(lines())) == (0, N + N - 2)


def test_different_refusals_do_not_stop_the_run_and_the_last_line_says_the_most_frequent(
    ask: Any, server: FakeServer
) -> None:
    reasons = ["the cup is empty", "the cup is empty", "the leaf is dry"]
    server.refuse = lambda n, request: (400, {"detail": reasons[n % 3]}, {}) if n > 1 else None
    done = ask()
    assert done.code == 3
    assert "; most often (7 of 11): HTTP 400: the cup is empty" in done.err.splitlines()[-1]


def test_a_server_without_resources_is_asked_again_and_the_tries_are_counted(ask: Any, server: FakeServer) -> None:
    faults = {1: "ended insufficient_system_resource", 3: "ended INSUFFICIENT_SYSTEM_RESOURCE", 4: "503"}
    server.fault = lambda n, body: faults.get(n)
    done = ask()
    assert (done.code, len(server.calls)) == (0, N + 3)
    assert [line["retries"] for line in lines()][:3] == [1, 2, 0]
    assert "; 3 tries beyond the first" in " ".join(done.out.split())
    summary = json.loads(next(Path("runs").glob("*/summary.json")).read_text(encoding="utf-8"))
    assert summary["retries"] == 3


def test_tries_of_failed_questions_count_and_cached_answers_took_none(cli: Cli, data: Path, server: FakeServer) -> None:
    asked = ["--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", server.url, "--metrics", "rouge_l"]
    command = ["run", "--data", data, *asked, "--concurrency", 1, "--set", "llm.max_tries=3"]
    server.fault = lambda n, body: "503" if n == 1 or n > N else None  # the last one never gets through
    assert cli(*command).code == 3
    assert sum(line["retries"] for line in lines()) == 1 + 2
    server.fault = lambda n, body: None
    cached = cli(*command, "--runs-dir", "again", "--json")
    assert json.loads(cached.out)["retries"] == 0


@pytest.mark.parametrize("reason", ["STOP", "MAX_TOKENS"])
def test_how_an_answer_ended_is_read_in_any_case(ask: Any, server: FakeServer, reason: str) -> None:
    status = {"MAX_TOKENS": "truncated"}.get(reason, "ok")
    server.fault = lambda n, body: f"ended {reason}"
    assert ask().code == 0
    assert {line["status"] for line in lines()} == {status}


def test_a_judge_and_a_filter_do_as_a_run_does(cli: Cli, data: Path, server: FakeServer) -> None:
    model = ["--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", server.url, "--concurrency", 1]
    assert cli("run", "--data", data, *model, "--metrics", "rouge_l").code == 0
    [path] = Path("runs").iterdir()

    def last_line(refuse: Any, code: int, n_calls: int | None, *command: object) -> str:
        server.calls.clear()
        server.refuse = refuse
        done = cli(*command, *model)
        assert done.code == code
        assert n_calls is None or len(server.calls) == n_calls
        return done.err.splitlines()[-1]

    for command in (["judge", path], ["data", "filter", data, "--out", "filtered"]):
        reason = "HTTP 400: Unsupported parameter: 'seed'"
        last = last_line(after(0, 400, REFUSED), 1, SAME_REFUSALS, *command)
        assert f"failed for one reason: {reason}" in last
        assert "HTTP 402: Insufficient Balance" in last_line(after(0, 402, EMPTY), 1, 1, *command)
        assert f"; all: {reason}" in last_line(after(1, 400, REFUSED), 3, None, *command)
