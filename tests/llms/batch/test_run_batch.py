"""Batches by `vllm run-batch`, with a stand-in for vLLM; the real one is in test_real_servers.py."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.llms import FatalLLMError
from qilin_rag.llms.batch.run_batch import REPLIES, RunBatch
from qilin_rag.llms.batch.service import OUTPUT, BatchState, OverQuotaError
from qilin_rag.llms.serving.engines import VLLM, LlamaCpp
from tests.conftest import Cli, is_alive, launch, wait_until

T = TypeVar("T")


@pytest.fixture(autouse=True)
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for a Python with vLLM; the file of the ids of its processes."""
    python = tmp_path / "standin-python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).parents[1] / "standin_engine.py"}" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("QILIN_RAG_VLLM_PYTHON", str(python))
    monkeypatch.setenv("STANDIN_PIDS", str(tmp_path / "pids"))
    monkeypatch.delenv("STANDIN", raising=False)
    return tmp_path / "pids"


def service(tmp_path: Path, **settings: Any) -> RunBatch:
    return RunBatch(VLLM(**{"stop_timeout_s": 0.3, **settings}), "tiny", 4096, tmp_path / "server.log")


def alive(pids: Path) -> list[int]:
    """The stand-in's processes that still run."""
    ids = [int(pid) for pid in pids.read_text().split()] if pids.exists() else []
    return [pid for pid in ids if is_alive(pid)]


def requests(tmp_path: Path, *texts: str, model: str = "tiny") -> Path:
    folder = tmp_path / "batches" / "one"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "requests.jsonl"
    lines = [
        service(tmp_path).write_line(f"q-{n}", {"model": model, "messages": [{"role": "user", "content": text}]})
        for n, text in enumerate(texts)
    ]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def used(batches: RunBatch, use: Callable[[RunBatch], Awaitable[T]]) -> T:
    """Use a service on an event loop, and close it."""

    async def run() -> T:
        try:
            return await use(batches)
        finally:
            await batches.close()

    return asyncio.run(run())


async def end_of(batches: RunBatch, batch_id: str) -> BatchState:
    async with asyncio.timeout(20):
        while (state := await batches.state(batch_id)).status == "open":
            await asyncio.sleep(0.02)
    return state


def test_a_file_is_answered_and_refusals_are_read_as_a_server_s(tmp_path: Path, pids: Path) -> None:
    path = requests(tmp_path, "多肉", "太长", "手冲")

    async def use(batches: RunBatch) -> BatchState:
        assert await batches.upload(path, "tag") is None
        state = await end_of(batches, await batches.create(None, path, "tag"))
        await batches.download(state, path.parent)
        return state

    batches = service(tmp_path, dtype="bfloat16", extra_arguments=["--enforce-eager"])
    assert used(batches, use)[:4] == ("completed", "completed", 2, 1)
    assert not (path.parent / REPLIES).exists()
    replies = [batches.read_reply(line) for line in (path.parent / OUTPUT).read_bytes().splitlines()]
    assert [(reply.custom_id, reply.status) for reply in replies] == [("q-0", 200), ("q-1", 400), ("q-2", 200)]
    assert replies[0].body["choices"][0]["message"]["content"] == "关于“多肉”的回答"
    assert "maximum context length" in replies[1].body["error"]["message"]
    assert "'--dtype', 'bfloat16', '--enforce-eager'" in (tmp_path / "server.log").read_text()
    assert not alive(pids)


def test_what_an_engine_wrote_before_it_died_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = requests(tmp_path, "一", "二", "三")
    monkeypatch.setenv("STANDIN", "dies after 2")

    async def begin(batches: RunBatch) -> str:
        batch_id = await batches.create(None, path, "tag")
        with pytest.raises(FatalLLMError, match="killed by SIGKILL"):
            await end_of(batches, batch_id)
        return batch_id

    async def resume(batches: RunBatch) -> BatchState:
        state = await batches.state(batch_id)
        await batches.download(state, path.parent)
        await batches.download(state, path.parent)  # again, after a crash
        return state

    batch_id = used(service(tmp_path), begin)
    assert used(service(tmp_path), resume).status == "completed"
    lines = (path.parent / OUTPUT).read_bytes().splitlines()
    assert [json.loads(line)["custom_id"] for line in lines] == ["q-0", "q-1"]


def test_a_batch_without_a_reply_has_no_output(tmp_path: Path) -> None:
    path = requests(tmp_path, "一")

    async def resume(batches: RunBatch) -> None:
        assert await batches.find("tag", None) is None
        await batches.download(await batches.state("tag"), path.parent)

    used(service(tmp_path), resume)
    assert sorted(each.name for each in path.parent.iterdir()) == ["requests.jsonl"]


def test_a_link_is_not_taken_for_replies(tmp_path: Path) -> None:
    path = requests(tmp_path, "一")
    (tmp_path / "elsewhere").write_text("{}")
    (path.parent / REPLIES).symlink_to(tmp_path / "elsewhere")

    async def resume(batches: RunBatch) -> None:
        await batches.download(await batches.state("tag"), path.parent)

    used(service(tmp_path), resume)
    assert not (path.parent / OUTPUT).exists()


def test_one_batch_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = requests(tmp_path, "一")
    monkeypatch.setenv("STANDIN", "slow 30")

    async def use(batches: RunBatch) -> None:
        await batches.create(None, path, "first")
        with pytest.raises(OverQuotaError):
            await batches.create(None, path, "second")
        assert (await batches.state("first"))[:2] == ("open", "starting")
        assert (await batches.cancel("first")).status == "cancelled"

    used(service(tmp_path), use)


def test_an_engine_that_does_not_begin_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pids: Path) -> None:
    path = requests(tmp_path, "一")
    monkeypatch.setenv("STANDIN", "slow 30")

    async def use(batches: RunBatch) -> None:
        with pytest.raises(FatalLLMError, match=r"start_timeout_s"):
            await end_of(batches, await batches.create(None, path, "tag"))

    used(service(tmp_path, start_timeout_s=0.2), use)
    assert not alive(pids)


ENGINE = ["--llm=openai", "--set=llm.model=tiny", "--set=llm.engine=vllm", "--set=llm.engine.stop_timeout_s=0.3"]
RUN = ["run", "--limit=12", "--metrics=rouge_l", *ENGINE, "--serve", "--json"]


def samples(run: Path) -> dict[str, dict[str, Any]]:
    lines = (run / "samples.jsonl").read_text().splitlines()
    return {sample["question_id"]: sample for sample in map(json.loads, lines)}


def n_requests(run: Path) -> list[int]:
    """The number of requests in each batch of a run."""
    return [json.loads(path.read_text())["requests"] for path in sorted(run.glob("batches/*/record.json"))]


def test_a_run_is_the_same_as_through_the_server(cli: Cli, pids: Path) -> None:
    served, offline = (
        Path(json.loads(cli(*RUN, f"--runs-dir={folder}", *more).out)["run"])
        for folder, more in (("served", ()), ("offline", ("--batch",)))
    )
    assert served.name == offline.name
    assert (served / "scores.jsonl").read_bytes() == (offline / "scores.jsonl").read_bytes()
    assert {path.name for path in offline.iterdir()} == {path.name for path in served.iterdir()} | {"batches"}
    by_call, by_batch = samples(served), samples(offline)
    for id, sample in by_call.items():
        assert by_batch[id] == sample | {"latency_s": None, "batch": True}
    of_server, of_engine = (json.loads((run / "manifest.json").read_text())["server"] for run in (served, offline))
    assert set(of_server) - set(of_engine) == {"base_url", "models", "max_model_len", "start_s"}
    same = ("engine", "version", "model", "settings", "environment")
    assert {name: of_server[name] for name in same} == {name: of_engine[name] for name in same}
    assert not alive(pids)


def test_a_run_resumes_with_the_replies_that_an_engine_left(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN", "dies after 5")
    died = cli(*RUN, "--batch")
    assert died.code == 1
    assert "killed by SIGKILL" in died.err
    assert "at the service" not in died.err
    monkeypatch.delenv("STANDIN")
    done = cli(*RUN, "--batch")
    assert done.code == 0, done.err
    run = Path(json.loads(done.out)["run"])
    assert len(samples(run)) == len((run / "samples.jsonl").read_text().splitlines()) == 12
    assert n_requests(run) == [12, 7]
    assert all("interrupted" not in line for line in cli("batch", "list").out.splitlines())


def test_a_run_that_is_killed_leaves_no_engine_and_begins_again(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, pids: Path
) -> None:
    monkeypatch.setenv("STANDIN", "slow 60")
    run = launch(*RUN, "--batch")
    wait_until(lambda: any('"starting"' in path.read_text() for path in Path().glob("runs/*/batches/*/*.json")), run)
    wait_until(pids.exists, run)
    listed = json.loads(cli("batch", "list", "--json").out)
    assert [(each["recorded"], each["now"]) for each in listed] == [("starting", None)]
    refused = cli("batch", "cancel", listed[0]["batch_id"][:8])
    assert (refused.code, "Ctrl-C there stops it" in refused.err) == (2, True)
    run.kill()
    run.communicate(timeout=20)
    wait_until(lambda: not alive(pids))
    nothing = cli("batch", "cancel", listed[0]["batch_id"])
    assert (nothing.code, "has ended" in nothing.out) == (0, True)
    monkeypatch.delenv("STANDIN")
    done = cli(*RUN, "--batch")
    assert done.code == 0, done.err
    assert n_requests(Path(json.loads(done.out)["run"])) == [12, 12]


def test_a_sweep_answers_each_run_without_a_server(cli: Cli, pids: Path) -> None:
    Path("configs/llms").mkdir(parents=True)
    Path("configs/llms/mine.yaml").write_text("class: openai\nmodel: tiny\nengine: {name: vllm, stop_timeout_s: 0.3}\n")
    Path("grid.yaml").write_text("retrievers: [none, bm25]\nllms: [mine, extractive]\nlimit: 4\nmetrics: [rouge_l]\n")
    done = cli("sweep", "grid.yaml", "--serve", "--batch")
    assert done.code == 0, done.err
    assert [n_requests(run) for run in sorted(Path("runs").glob("*-mine-*"))] == [[4], [4]]
    assert not alive(pids)


def test_a_judge_needs_no_server(cli: Cli, pids: Path) -> None:
    run = json.loads(cli("run", "--limit=3", "--metrics=rouge_l", "--json").out)["run"]
    done = cli("judge", run, *ENGINE, "--serve", "--batch", "--fail-on-error=1")
    assert done.code == 0, done.err
    assert len((Path(run) / "judgements.jsonl").read_text().splitlines()) == 3
    assert n_requests(Path(run)) == [3]
    assert not alive(pids)


@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_llama_cpp_is_refused_before_anything_is_done(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli("run", "--limit=1", "--llm=gguf:model.gguf", "--serve", "--batch", *arguments)
    assert (done.code, "llamacpp answers no files of requests" in done.err) == (2, True)


def test_llama_cpp_answers_no_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="xllamacpp answers no files of requests"):
        LlamaCpp(model="m.gguf").batch_command("m", None, tmp_path / "in", tmp_path / "out")
