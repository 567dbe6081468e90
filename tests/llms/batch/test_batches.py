"""Asking by batch: the same results as one by one, whatever the service does."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.core.types import Judgement, RenderedPrompt, Usage
from qilin_rag.llms import FatalLLMError
from qilin_rag.llms.batch import collector, steps
from qilin_rag.pipeline.asking import Asked, Asking, as_line, ask_all, complete
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from tests.batch_server import BatchServer, Reply
from tests.fake_server import FakeServer
from tests.llms.batch.runs import config, records_of, run_by_batch, samples_of
from tests.test_crash import make_data, question_of


def on_request(n: int, what: str, reply: Reply) -> Callable[[int, str, str], Reply]:
    """Give this reply to the first n requests of a kind."""
    left = [n]

    def told(_: int, method: str, path: str) -> Reply:
        if f"{method} {path}".startswith(what) and left[0] > 0:
            left[0] -= 1
            return reply
        return None

    return told


def refusal(status: int, message: str, code: str | None = None) -> tuple[int, Any]:
    return status, {"error": {"message": message, "code": code}}


def lines_like(service: BatchServer, of: Callable[[int, str], tuple[int, Any] | None]) -> None:
    """Give some requests another reply, by the number of the batch and the question; None: the usual one."""
    service.line = lambda n, custom_id, body: of(n, question_of(body)) or service.usual(n, custom_id, body)


def each_once(service: BatchServer) -> bool:
    return set(service.asked.values()) == {1}


def test_300_questions_have_the_same_results_as_one_by_one(tmp_path: Path, service: BatchServer) -> None:
    data = make_data(tmp_path / "300", 300)
    one = run(config(service, data, runs_dir=tmp_path / "one"))
    by_batch = run_by_batch(service, data, runs_dir=tmp_path / "batch")
    assert len(service.batches) == 1 and len(service.calls) == 300 and each_once(service)
    assert by_batch.path.name == one.path.name
    assert by_batch.manifest.fingerprint == one.manifest.fingerprint
    assert samples_of(by_batch.path) == samples_of(one.path)
    for name in ("scores.jsonl", "questions.jsonl"):
        assert (by_batch.path / name).read_bytes() == (one.path / name).read_bytes()
    assert by_batch.summary.batch_usage == by_batch.summary.usage
    assert by_batch.summary.model_copy(update={"batch_usage": Usage()}) == one.summary
    lines = [json.loads(line) for line in (by_batch.path / "samples.jsonl").open()]
    assert all(line["batch"] is True and line["latency_s"] is None for line in lines)
    assert "batch" not in json.loads((one.path / "samples.jsonl").read_text().splitlines()[0])
    assert by_batch.manifest.generation_s is None
    [record] = records_of(by_batch.path)
    assert record["state"] == "closed" and record["done"] == 300 and record["batch_id"] == "batch_1"
    [batch] = service.batches.values()
    assert batch["metadata"] == {"qilin_rag": record["tag"]}
    assert service.uploads == [f"qilin-rag-{record['tag']}.jsonl"]


@pytest.mark.parametrize(
    ("what", "before", "after"),
    [
        ("upload", ("POST /v1/files", (502, "bad gateway", {})), None),
        ("upload dropped", None, ("POST /v1/files", "reset")),
        ("creation", ("POST /v1/batches", (500, "oh", {})), None),
        ("creation not answered", None, ("POST /v1/batches", "reset")),
        ("creation answered by a gateway", None, ("POST /v1/batches", (504, "<html>late</html>", {}))),
        ("rate of creations", ("POST /v1/batches", (429, "slow down", {"Retry-After": "0"})), None),
        ("polling", ("GET /v1/batches/", (503, "busy", {"Retry-After": "0"})), None),
        ("polling dropped", ("GET /v1/batches/", "reset"), None),
        ("unknown at first", ("GET /v1/batches/", (404, {"error": {"message": "no"}}, {})), None),
        ("no file yet", ("GET /v1/files/", (404, {"error": {"message": "no"}}, {})), None),
        ("no reply of HTTP", ("GET /v1/batches/", (200, b"", {"Content-Length": "x"})), None),
        ("file dropped", ("GET /v1/files/", "reset"), None),
        (
            "file cut",
            ("GET /v1/files/", (200, b'{"custom_id', {"Content-Length": "5000", "Connection": "close"})),
            None,
        ),
    ],
)
def test_a_failure_for_a_time_costs_nothing(
    service: BatchServer,
    data: Path,
    what: str,
    before: tuple[str, Reply] | None,
    after: tuple[str, Reply] | None,
) -> None:
    if before:
        service.before = on_request(2, *before)
    if after:
        service.after = on_request(1, *after)
    made = run_by_batch(service, data)
    assert made.summary.counts["ok"] == 12 and made.summary.retries == 0
    assert len(service.batches) == 1 and each_once(service)


def test_a_batch_is_found_on_any_page_of_the_list(service: BatchServer, data: Path) -> None:
    service.page = 3
    service.files["file-x"] = b""
    for number in range(10):
        other = {"input_file_id": "file-x", "status": "completed", "metadata": None, "looks": 0}
        service.batches[f"other{number}"] = {"id": f"other{number}", **other}
    created = on_request(1, "POST /v1/batches", "reset")

    def after(n: int, method: str, path: str) -> Reply:
        if (reply := created(n, method, path)) is not None:
            mine = service.batches.popitem()  # the oldest of all
            others = dict(service.batches)
            service.batches.clear()
            service.batches.update([mine, *others.items()])
        return reply

    service.after = after
    run_by_batch(service, data)
    assert len(service.batches) == 11 and each_once(service)


@pytest.mark.parametrize("spoil", ["cut", "no json", "missing", "twice", "unknown", "blank lines"])
def test_what_is_wrong_with_the_output_costs_only_the_requests_without_a_reply(
    service: BatchServer, data: Path, spoil: str, caplog: pytest.LogCaptureFixture
) -> None:
    def output(name: str, content: bytes) -> bytes:
        if len(service.batches) > 1:
            return content
        first, *others = content.splitlines(keepends=True)
        other = json.loads(first)
        other["response"]["body"]["choices"][0]["message"]["content"] = "不是这个"
        again = json.dumps(other).encode() + b"\n"
        return {
            "cut": content[:-200],
            "no json": b"{oh\n" + b"".join(others),
            "missing": b"".join(others),
            "twice": content + again,
            "unknown": again.replace(other["custom_id"].encode(), b"someone-else-1") + content,
            "blank lines": b"\n" + content + b"\n\n",
        }[spoil]

    service.output = output
    made = run_by_batch(service, data)
    n_lost = int(spoil in ("cut", "no json", "missing"))
    assert made.summary.counts["ok"] == 12 and made.summary.retries == n_lost
    assert len(service.batches) == 1 + n_lost and sum(service.asked.values()) == 12 + n_lost
    assert not any("不是这个" in sample["answer"] for sample in samples_of(made.path).values())
    said = {"no json": "can't be read", "twice": "more than one reply", "unknown": "that it does not have"}
    assert said.get(spoil, "") in caplog.text


def test_lines_that_are_refused_for_a_time_come_in_the_next_batch(service: BatchServer, data: Path) -> None:
    slow = refusal(429, "Rate limit reached", "rate_limit_exceeded")
    lines_like(service, lambda n, q: {"1": slow, "2": (500, {"error": {"message": "oh"}})}.get(q) if n < 3 else None)
    made = run_by_batch(service, data)
    assert made.summary.counts["ok"] == 12 and made.summary.retries == 4
    assert [len(service.lines_of(batch)) for batch in service.batches.values()] == [12, 2, 2]


def test_a_line_is_asked_no_more_than_max_tries(service: BatchServer, data: Path) -> None:
    lines_like(service, lambda n, q: (500, {"error": {"message": "oh"}}) if q == "1" else None)
    made = run(config(service, data, batch=True, llm={"name": "openai", "model": "fake-model", "max_tries": 3}))
    assert made.summary.counts["failed"] == 1 and len(service.batches) == 3
    [failed] = [line for line in map(json.loads, (made.path / "samples.jsonl").open()) if line["status"] == "failed"]
    assert failed["batch"] is True and failed["latency_s"] is None and "3 tries" in failed["error"]
    lines_like(service, lambda n, q: None)  # the same command asks for it anew, not for its old reply
    assert run_by_batch(service, data).summary.counts["ok"] == 12 and len(service.batches) == 4


def test_refusals_are_read_as_those_of_calls(service: BatchServer, data: Path) -> None:
    too_long = refusal(400, "maximum context length is 10 tokens", "context_length_exceeded")
    filtered = refusal(400, "the prompt was refused", "content_filter")

    def line(n: int, custom_id: str, body: dict[str, Any]) -> tuple[int, Any]:
        question, n_notes = question_of(body), body["messages"][-1]["content"].count("的做法")
        if question == "1" and n_notes > 3:
            return too_long
        replies = {
            "2": filtered,
            "3": (200, service.completion(None, "content_filter")),
            "4": (200, service.completion("只写到一", "length")),
            "5": (200, service.completion("<think>想一想</think>泡五分钟")),
            "6": (200, {"error": {"message": "no such field"}}),
        }
        return replies.get(question) or service.usual(n, custom_id, body)

    service.line = line
    one = run(config(service, data, runs_dir="one"))
    service.batches.clear()
    made = run_by_batch(service, data, runs_dir="batch")
    assert samples_of(made.path) == samples_of(one.path)
    assert samples_of(made.path)["1"]["notes_used"] == 3 and samples_of(made.path)["5"]["answer"] == "泡五分钟"
    assert made.summary.counts == {
        "questions": 12,
        "ok": 9,
        "failed": 0,
        "filtered": 2,
        "truncated": 1,
        "empty": 0,
    } or (made.summary.counts == one.summary.counts)
    assert made.summary.model_copy(update={"batch_usage": Usage()}) == one.summary
    assert made.manifest.cost == one.manifest.cost


def test_what_an_expired_batch_lacks_is_submitted_again(service: BatchServer, data: Path) -> None:
    service.end = lambda n: ("expired", 7) if n == 1 else ("completed", None)
    made = run_by_batch(service, data)
    assert made.summary.counts["ok"] == 12
    assert [len(service.lines_of(batch)) for batch in service.batches.values()] == [12, 5]


def test_a_batch_that_expires_without_a_reply_ends_the_run(service: BatchServer, data: Path) -> None:
    service.end = lambda n: ("expired", 0)
    with pytest.raises(QilinError, match="batch_1 has expired without a reply"):
        run_by_batch(service, data)
    assert len(service.batches) == 1
    service.end = lambda n: ("completed", None)
    assert run_by_batch(service, data).summary.counts["ok"] == 12 and len(service.batches) == 2


def test_a_batch_that_somebody_cancels_ends_the_run_and_loses_nothing(service: BatchServer, data: Path) -> None:
    service.end = lambda n: ("cancelled", 5) if n == 1 else ("completed", None)
    with pytest.raises(QilinError, match=r"batch_1 was cancelled at the service; .* \(7 requests\)") as raised:
        run_by_batch(service, data)
    assert raised.value.exit_code == 1
    [path] = Path("runs").glob("*/samples.jsonl")
    assert len(samples_of(path.parent)) == 5
    assert run_by_batch(service, data).summary.counts["ok"] == 12
    assert [len(service.lines_of(batch)) for batch in service.batches.values()] == [12, 7]


def test_a_batch_that_is_not_valid_ends_the_run(service: BatchServer, data: Path) -> None:
    service.end = lambda n: ("failed", None)
    for n_batches in (1, 2):
        with pytest.raises(FatalLLMError, match=r"has refused batch batch_\d: a line is invalid"):
            run_by_batch(service, data)
        assert len(service.batches) == n_batches
    service.end = lambda n: ("completed", None)
    assert run_by_batch(service, data).summary.counts["ok"] == 12


def test_a_file_that_is_too_large_is_split(service: BatchServer, data: Path) -> None:
    def before(n: int, method: str, path: str) -> Reply:
        return None

    sizes: list[int] = []
    original = service._http.RequestHandlerClass._form  # type: ignore[attr-defined]

    def form(handler: Any, content: bytes) -> tuple[str, bytes]:
        name, lines = original(handler, content)
        sizes.append(lines.count(b"\n"))
        return name, lines

    def after(n: int, method: str, path: str) -> Reply:
        if path == "/v1/files" and sizes[-1] > 4:
            return 400, {"error": {"message": "File is too large. Maximum file size is 200 MB."}}, {}
        return None

    service.before, service.after = before, after
    service._http.RequestHandlerClass._form = form  # type: ignore[attr-defined]
    made = run_by_batch(service, data)
    assert made.summary.counts["ok"] == 12 and each_once(service)
    assert sorted(len(service.lines_of(batch)) for batch in service.batches.values()) == [3, 3, 3, 3]


def test_batches_wait_for_others_if_too_many_tokens_are_enqueued(
    service: BatchServer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "MOST_REQUESTS", 6)
    over = {"data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached for m. Limit: 90"}]}
    service.end = lambda n: ("failed", None) if n == 2 else ("completed", None)
    service.errors = lambda n: over
    assert run_by_batch(service, data).summary.counts["ok"] == 12
    assert sorted(service.asked.values()) == [1] * 12
    service.batches.clear()
    service.end = lambda n: ("completed", None)
    service.before = on_request(2, "POST /v1/batches", (429, "Too many enqueued tokens", {}))
    assert run_by_batch(service, data, fresh=True).summary.counts["ok"] == 12
    assert sorted(service.asked.values()) == [1] * 12


@pytest.mark.parametrize(
    ("what", "reply", "said"),
    [
        (
            "POST /v1/files",
            (401, {"error": {"message": "bad key sk-1234567890"}}, {}),
            "refused the key in OPENAI_API_KEY",
        ),
        ("POST /v1/batches", (429, {"error": {"code": "insufficient_quota", "message": "x"}}, {}), "no credit left"),
        ("GET /v1/batches/", (403, {"error": {"message": "not yours"}}, {}), "forbids the call"),
        (
            "POST /v1/batches",
            (400, {"error": {"message": "no window of 24h"}}, {}),
            "POST /batches is refused .*no window",
        ),
        ("POST /v1/files", (400, {"error": {"message": "purpose"}}, {}), "POST /files is refused .*purpose"),
    ],
)
def test_what_nothing_can_help_is_one_line(
    service: BatchServer, data: Path, what: str, reply: Reply, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1234567890")
    service.before = on_request(1, what, reply)
    with pytest.raises(FatalLLMError, match=said) as raised:
        run_by_batch(service, data)
    assert "\n" not in str(raised.value) and "sk-1234567890" not in str(raised.value)
    assert run_by_batch(service, data).summary.counts["ok"] == 12
    assert len(service.batches) == 1 and each_once(service)
    assert set(service.authorizations) == {"Bearer sk-1234567890"}


def test_a_server_without_batches_is_one_line(service: BatchServer, data: Path) -> None:
    service.before = lambda n, method, path: (404, {"detail": "Not Found"}, {}) if "models" not in path else None
    with pytest.raises(FatalLLMError, match=r"has no batches \(POST /files: HTTP 404: Not Found\); leave out batch"):
        run_by_batch(service, data)
    assert service.requests.count("POST /v1/files") == 1


def test_a_service_that_lists_no_batches_leaves_an_unsure_one_alone(service: BatchServer, data: Path) -> None:
    service.after = on_request(1, "POST /v1/batches", "reset")
    listing = on_request(99, "GET /v1/batches", (405, "no", {}))
    service.before = lambda n, method, path: listing(n, method, path) if path == "/v1/batches" else None
    for _ in range(2):
        with pytest.raises(FatalLLMError, match="405"):
            run_by_batch(service, data)
    assert len(service.batches) == 1


def test_repeats_of_equal_requests_have_replies_of_their_own(service: BatchServer, data: Path) -> None:
    n_asked: dict[str, int] = {}

    def line(n: int, custom_id: str, body: dict[str, Any]) -> tuple[int, Any]:
        question = question_of(body)
        n_asked[question] = n_asked.get(question, 0) + 1
        return 200, service.completion(f"第{n_asked[question]}次")

    service.line = line
    made = run_by_batch(service, data, repeat=3)
    assert made.summary.repeats is not None and made.summary.repeats.share_changed == 1.0
    assert [len(service.lines_of(batch)) for batch in service.batches.values()] == [12, 24]
    again = [json.loads(line)["answer"] for line in (made.path / "repeats.jsonl").open()]
    assert sorted(again) == ["第2次"] * 12 + ["第3次"] * 12
    run_by_batch(service, data, repeat=4)
    assert [len(service.lines_of(batch)) for batch in service.batches.values()] == [12, 24, 12]


def test_fresh_asks_again_and_keeps_the_batches_aside(service: BatchServer, data: Path) -> None:
    run_by_batch(service, data)
    made = run_by_batch(service, data, fresh=True)
    assert len(service.batches) == 2 and len(records_of(made.path)) == 1
    assert len(list(made.path.glob("batches-until-*/*/record.json"))) == 1


def test_answers_that_came_by_batch_are_cached_for_calls_and_back(service: BatchServer, data: Path) -> None:
    one = run_by_batch(service, data, cache=True, runs_dir="one")
    other = run(config(service, data, cache=True, runs_dir="other"))
    assert not service.calls and other.summary.cached == 12
    run(config(service, data, cache=True, runs_dir="third", top_k=2))
    back = run_by_batch(service, data, cache=True, runs_dir="back", top_k=2)
    assert len(service.calls) == 12 and len(service.batches) == 1 and back.summary.cached == 12
    assert "batch" not in (back.path / "samples.jsonl").read_text() + (other.path / "samples.jsonl").read_text()
    assert not list(back.path.glob("batches/*")) and one.summary.cached == 0


def test_batches_are_no_larger_than_the_service_takes(
    service: BatchServer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "MOST_REQUESTS", 5)
    made = run_by_batch(service, data)
    assert made.summary.counts["ok"] == 12 and each_once(service)
    assert all(len(service.lines_of(batch)) <= 5 for batch in service.batches.values())


def test_memory_is_bounded_by_the_bytes_that_wait(
    service: BatchServer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qilin_rag.llms.batch.attendance.MOST_HELD_BYTES", 3000)
    monkeypatch.setattr("qilin_rag.llms.batch.attendance._N_PREPARING", 2)
    made = run_by_batch(service, data)
    assert made.summary.counts["ok"] == 12 and each_once(service)
    sizes = [len(service.files[batch["input_file_id"]]) for batch in service.batches.values()]
    assert len(sizes) > 2 and max(sizes) < 3000 + 2 * 1500


def test_a_run_stops_if_all_are_refused_for_one_reason(service: BatchServer, data: Path) -> None:
    lines_like(service, lambda n, q: refusal(400, f"stream must be set to true {q}"))
    with pytest.raises(QilinError, match="failed for one reason"):
        run_by_batch(service, data)
    assert len(service.batches) == 1


@pytest.mark.parametrize("llm", ["extractive", "langchain:fake:x"])
def test_an_llm_without_batches_is_refused(data: Path, llm: str) -> None:
    if llm != "extractive":
        pytest.importorskip("langchain_core", reason="needs qilin-rag[langchain]")
    with pytest.raises(UsageError, match="takes no batches"):
        run(config(FakeServer(), data).model_copy(update={"batch": True, "llm": _llm(llm), "llm_label": llm}))


def _llm(name: str) -> Any:
    from qilin_rag.config.run import resolve_run

    return resolve_run({"llm": name, "data": "sample"}).llm


def test_requests_that_nobody_asks_for_any_more_are_said(
    service: BatchServer, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service.before = on_request(1, "GET /v1/batches/", (403, {"error": {"message": "not now"}}, {}))
    with pytest.raises(FatalLLMError):
        run_by_batch(service, data)
    assert "batch batch_1 stays at the service" in caplog.text
    with caplog.at_level(logging.WARNING):
        run_by_batch(service, data, limit=5)
    assert "batch batch_1: this command did not ask for 7 replies" in caplog.text
    assert len(service.batches) == 1
    run_by_batch(service, data)
    assert len(service.batches) == 1


def test_a_batch_of_another_address_is_left_alone(
    service: BatchServer, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service.before = on_request(1, "GET /v1/batches/", (403, {"error": {"message": "not now"}}, {}))
    with pytest.raises(FatalLLMError):
        run_by_batch(service, data)
    with BatchServer() as other:
        assert run_by_batch(other, data).summary.counts["ok"] == 12
        assert other.requests.count("POST /v1/batches") == 1
    assert "this command does not ask" in caplog.text


def test_requests_that_were_changed_are_not_used(service: BatchServer, data: Path) -> None:
    service.before = on_request(1, "GET /v1/batches/", (403, {"error": {"message": "not now"}}, {}))
    with pytest.raises(FatalLLMError):
        run_by_batch(service, data)
    [path] = Path("runs").glob("*/batches/*/requests.jsonl")
    path.write_text(path.read_text() + "\n")
    with pytest.raises(UsageError, match="was changed"):
        run_by_batch(service, data)


def test_a_batch_that_is_gone_is_one_line(service: BatchServer, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "UNKNOWN_S", 0.02)
    service.before = on_request(1, "GET /v1/batches/", (403, {"error": {"message": "not now"}}, {}))
    with pytest.raises(FatalLLMError):
        run_by_batch(service, data)
    service.batches.clear()
    with pytest.raises(FatalLLMError, match=r"knows no batch batch_1 .* remove the folder"):
        run_by_batch(service, data)


def test_a_silent_service_is_not_waited_for_forever(
    service: BatchServer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "SILENCE_S", 0.05)
    service.before = on_request(10**6, "GET /v1/batches/", (500, "oh", {}))
    with pytest.raises(FatalLLMError, match="nothing was heard of batch batch_1"):
        run_by_batch(service, data)
    service.before = on_request(10**6, "GET /v1/files/", (404, "no", {}))
    with pytest.raises(FatalLLMError, match="the replies of batch batch_1 can't be fetched"):
        run_by_batch(service, data)
    service.before = on_request(0, "", None)
    assert run_by_batch(service, data).summary.counts["ok"] == 12 and len(service.batches) == 1


def test_a_job_that_waits_for_another_job_keeps_no_batch_waiting(
    service: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing says here for whom the second job waits, such as a gate of the user's own LLM."""
    monkeypatch.setattr(collector, "IDLE_S", 0.05)
    llm = config(service, Path("sample")).llm
    asking = Asking(llm, 1, batch=True)
    has_ended = asyncio.Event()

    async def ask(job: int) -> Asked[Judgement]:
        if job == 1:
            await has_ended.wait()
        prompt = RenderedPrompt([{"role": "user", "content": f"<{job}>"}], "", [], 0)
        fields = {"question_id": str(job), "query": "", "messages": [], "key": str(job), "judge": "j", "runs": []}
        asked = await as_line(Judgement, fields, lambda: complete(asking, prompt))
        has_ended.set()
        return asked

    directory = RunDirectory(Path("mine"))
    with directory.locked():
        ask_all(asking, range(3), ask, directory, lambda n=1, failed=False: None, "judgements.jsonl")
    assert [len(service.lines_of(batch)) for batch in service.batches.values()] == [2, 1]
    assert {line.question_id for line in directory.read_judgements() if line.batch} == {"0", "1", "2"}
