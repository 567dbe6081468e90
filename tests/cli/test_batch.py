"""`batch list` and `batch cancel`: what ledgers say, what services say, and who is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.llms.batch.ledger import Ledger, LedgerEntry
from qilin_rag.llms.batch.openai_service import OpenAIBatches
from qilin_rag.llms.batch.steps import Steps
from qilin_rag.llms.endpoint import Endpoint
from qilin_rag.pipeline.run_directory import RunDirectory
from tests.batch_server import BatchServer
from tests.conftest import Cli
from tests.fake_server import MODEL

RUN = "sample-bm25-a-model-with-a-long-name-concise-57b47fd8"
LONG_ID = "batch_67f5a1b2c3d4e5f6a7b8c9d0e1f2a3b4"


@pytest.fixture
def service() -> Iterator[BatchServer]:
    with BatchServer(n_polls=10**6) as running:
        yield running


def written(server: BatchServer, run: str = RUN, n: int = 3, **facts: str) -> LedgerEntry:
    """A batch whose requests are on disk, and nowhere else."""
    directory = Path("runs") / run
    batches = OpenAIBatches(Endpoint(server.url, MODEL, api_key_env="NO_KEY", timeout_s=5))
    lines = [batches.write_line(f"q-{i}", {"model": MODEL, "messages": []}) for i in range(n)]
    said = {"service": "openai", "base_url": server.url, "model": MODEL, "file_name": "samples.jsonl"}
    return Ledger(directory).add(lines, **said | facts)


def submitted(service: BatchServer, run: str = RUN, n: int = 3) -> LedgerEntry:
    entry = written(service, run, n)

    async def submit() -> None:
        batches = OpenAIBatches(Endpoint(service.url, MODEL, api_key_env="NO_KEY", timeout_s=5))
        await Steps(batches).submit(entry)
        await batches.close()

    asyncio.run(submit())
    service.requests.clear()
    return entry


def record(entry: LedgerEntry) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((entry.folder / "record.json").read_text())
    return found


def listed(cli: Cli, *options: str) -> list[dict[str, Any]]:
    done = cli("batch", "list", "--json", *options)
    assert done.code == 0, done.err
    found: list[dict[str, Any]] = json.loads(done.out)
    return found


def test_nothing_to_list(cli: Cli) -> None:
    missing = cli("batch", "list")
    assert (missing.code, "runs is not a folder of runs" in missing.err) == (2, True)
    Path("runs").mkdir()
    assert "no batches" in cli("batch", "list").out
    assert listed(cli) == []
    assert cli("batch", "cancel", "x").code == 2


def test_what_is_recorded_and_what_the_service_says(cli: Cli, service: BatchServer) -> None:
    done, open_one = submitted(service), submitted(service, n=7)
    done.update(state="closed", said="completed", done=3)
    before = record(open_one)
    first, second = listed(cli, f"--base-url={service.url}")
    assert [first[name] for name in ("batch_id", "recorded", "now", "done", "requests")] == [
        "batch_1",
        "closed",
        None,
        3,
        3,
    ]
    assert [second[name] for name in ("batch_id", "recorded", "now", "done", "requests", "why_not_known")] == [
        "batch_2",
        "submitted",
        "in_progress",
        0,
        7,
        None,
    ]
    assert second["directory"] == f"runs/{RUN}"
    assert 0 <= second["age_s"] < 600
    assert service.requests == ["GET /v1/batches/batch_2"]  # one that has ended is not asked about
    assert record(open_one) == before


def test_an_address_that_only_a_ledger_names_is_not_asked(
    cli: Cli, service: BatchServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-user-0123456789")
    submitted(service)
    service.authorizations.clear()
    [kept] = listed(cli)
    assert kept["now"] is None
    assert f"--base-url {service.url}" in kept["why_not_known"]
    refused = cli("batch", "cancel", RUN)
    assert (refused.code, f"--base-url {service.url}" in refused.err) == (2, True)
    assert service.authorizations == []
    [kept] = listed(cli, f"--base-url={service.url}", "--api-key-env=OPENAI_API_KEY")
    assert kept["now"] == "in_progress"


def test_a_preset_s_address_needs_its_key(cli: Cli, service: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DASHSCOPE_API_KEY", raising=False)
    entry = written(
        service, base_url="https://dashscope.aliyuncs.com/compatible-mode/v1", service="dashscope", model="qwen-plus"
    )
    entry.update(batch_id="batch_9", state="submitted")
    [kept] = listed(cli)
    assert "DASHSCOPE_API_KEY" in kept["why_not_known"]


def test_the_table_fits_80_columns(cli: Cli, service: BatchServer, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = written(service)
    entry.update(batch_id=LONG_ID, state="submitted", said="in_progress", done=49_999)
    written(service, run="nuggets-bundled-sample-not-Qilin-a-model-with-a-long-name-92bd31f1")
    monkeypatch.setenv("COLUMNS", "80")
    out = cli("batch", "list").out
    assert max(map(len, out.splitlines())) <= 80
    assert RUN in out
    assert LONG_ID[:16] in out
    assert "49,999 of 3" in out
    monkeypatch.setenv("COLUMNS", "140")
    assert LONG_ID in cli("batch", "list").out


def test_cancel_is_recorded_and_asked_once(cli: Cli, service: BatchServer) -> None:
    entry = submitted(service)
    named = ("batch", "cancel", "batch_", f"--base-url={service.url}")
    first = cli(*named)
    assert first.code == 0, first.err
    assert first.out == "batch batch_1 is cancelling: 0 replies so far, which the command that made it fetches\n"
    assert (record(entry)["said"], record(entry)["state"]) == ("cancelling", "submitted")
    service.progress = lambda batch: None  # type: ignore[method-assign]
    again = cli(*named)
    assert again.out == first.out
    assert service.requests.count("POST /v1/batches/batch_1/cancel") == 1


def test_what_has_ended_is_said(cli: Cli, service: BatchServer) -> None:
    service.n_polls = 0
    submitted(service)
    done = cli("batch", "cancel", f"runs/{RUN}", f"--base-url={service.url}")
    assert done.out == "batch batch_1 has ended (completed); there is nothing to cancel\n"
    assert not any("cancel" in request for request in service.requests)


def test_all_open_batches_of_a_run_are_cancelled(cli: Cli, service: BatchServer) -> None:
    closed, *_ = submitted(service), submitted(service), submitted(service, run="other-run-11111111")
    closed.update(state="closed", said="completed")
    done = cli("batch", "cancel", "57b4", f"--base-url={service.url}", "--json")
    assert [(each["batch_id"], each["now"]) for each in json.loads(done.out)] == [
        ("batch_1", None),
        ("batch_2", "cancelling"),
    ]
    assert service.batches["batch_3"]["status"] == "validating"


def test_a_batch_whose_id_was_lost_is_found(cli: Cli, service: BatchServer) -> None:
    entry = submitted(service)
    entry.update(batch_id=None, state="written")
    [kept] = listed(cli, f"--base-url={service.url}")
    assert (kept["batch_id"], kept["now"]) == ("batch_1", "in_progress")
    assert cli("batch", "cancel", RUN, f"--base-url={service.url}").code == 0
    assert (record(entry)["batch_id"], record(entry)["said"]) == ("batch_1", "cancelling")


def test_requests_that_were_never_submitted_need_no_cancelling(cli: Cli, service: BatchServer) -> None:
    written(service)
    done = cli("batch", "cancel", RUN, f"--base-url={service.url}")
    assert done.code == 0, done.err
    assert "was not submitted; there is nothing to cancel" in done.out


def test_a_command_that_waits_records_it_itself(cli: Cli, service: BatchServer) -> None:
    entry = submitted(service)
    before = record(entry)
    with RunDirectory(Path("runs") / RUN).locked():
        done = cli("batch", "cancel", "batch_1", f"--base-url={service.url}")
    assert done.code == 0, done.err
    assert service.batches["batch_1"]["status"] == "cancelling"
    assert record(entry) == before


def test_a_service_that_is_gone_hides_no_other(cli: Cli, service: BatchServer) -> None:
    with BatchServer() as gone:
        submitted(gone)
    submitted(service)
    first, second = listed(cli, f"--base-url={service.url}", f"--base-url={gone.url}")
    assert first["now"] is None
    assert "connection failed" in first["why_not_known"]
    assert second["now"] == "in_progress"
    failed = cli("batch", "cancel", first["batch_id"] + "x", f"--base-url={gone.url}")
    assert failed.code == 2
    failed = cli("batch", "cancel", str(Path(first["directory"])), f"--base-url={gone.url}")
    assert (failed.code, "is not cancelled" in failed.err) == (1, True)


@pytest.mark.parametrize("name", ["nothing", "", "batch", "../runs"])
def test_a_name_that_means_nothing_or_much(cli: Cli, service: BatchServer, name: str) -> None:
    submitted(service)
    submitted(service, run="other-run-11111111")
    refused = cli("batch", "cancel", name)
    assert refused.code == 2
    assert not any("cancel" in request for request in service.requests)
