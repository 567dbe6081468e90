"""The life of a server, with a stand-in for vLLM; nothing of it is ever left behind."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qilin_rag.core import cache
from qilin_rag.core.errors import UsageError
from qilin_rag.llms import FatalLLMError
from qilin_rag.llms.serving.engines import VLLM
from qilin_rag.llms.serving.server import Server
from tests.conftest import Cli, is_alive, launch, wait_until
from tests.fake_server import FakeServer

DEADLINE_S = 30


class Processes(NamedTuple):
    file: Path

    def alive(self) -> list[int]:
        """The stand-in's processes that still run."""
        pids = [int(pid) for pid in self.file.read_text().split()] if self.file.exists() else []
        return [pid for pid in pids if is_alive(pid)]

    def n_started(self) -> int:
        return len(self.file.read_text().split()) // 2 if self.file.exists() else 0


@pytest.fixture(autouse=True)
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Processes]:
    """A stand-in for a Python with vLLM; after each test nothing of it may run."""
    python = tmp_path / "standin-python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("standin_engine.py")}" "$@"\n')
    python.chmod(0o755)
    started = Processes(tmp_path / "pids")
    monkeypatch.setenv("QILIN_RAG_VLLM_PYTHON", str(python))
    monkeypatch.setenv("STANDIN_PIDS", str(started.file))
    monkeypatch.delenv("STANDIN", raising=False)
    yield started
    left = started.alive()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def server(tmp_path: Path, **settings: Any) -> Server:
    return Server(VLLM(**{"stop_timeout_s": 0.3, **settings}), "tiny", 2048, tmp_path / "logs" / "server.log")


ENGINE = ["--llm=openai", "--set=llm.model=tiny", "--set=llm.engine=vllm", "--set=llm.engine.stop_timeout_s=0.3"]


def test_a_server_answers_and_leaves_nothing(tmp_path: Path, processes: Processes) -> None:
    with server(tmp_path, environment={"VLLM_BATCH_INVARIANT": True}, dtype="bfloat16") as running:
        assert len(processes.alive()) == 2
        facts = running.facts()
        assert facts["version"] == "1.2.3"
        assert facts["context_length"] == 4096
        assert facts["settings"]["dtype"] == "bfloat16"
        assert facts["environment"] == {"VLLM_BATCH_INVARIANT": "1"}
    assert processes.alive() == []
    assert running.has_ended


@pytest.mark.parametrize("fault", ["slow 1", "loud", "deaf"])
def test_what_a_server_may_do(
    tmp_path: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("STANDIN", fault)
    with server(tmp_path):
        assert len(processes.alive()) == 2
    assert processes.alive() == []


def test_nobody_clears_the_log_of_a_server_not_even_while_it_starts(tmp_path: Path) -> None:
    log = cache.cache_dir() / "servers" / "tiny.log"
    left: list[list[Path]] = []

    def clear() -> None:
        left.append([entry.path for entry in cache.clear(["servers"]).left])

    with Server(VLLM(stop_timeout_s=0.3), "tiny", 2048, log, follow=clear) as running:
        assert left
        clear()
    assert left == [[log]] * len(left)
    del running
    gc.collect()
    assert [entry.path for entry in cache.clear(["servers"]).removed] == [log]


def test_a_server_that_dies_at_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN", "dies")
    with pytest.raises(FatalLLMError) as raised, server(tmp_path):
        pass
    assert "vLLM ended with exit code 1 before it was ready: ValueError: the model needs 140 GiB" in str(raised.value)
    assert str(raised.value).endswith(f"; its whole log: {tmp_path}/logs/server.log")


def test_a_server_that_is_never_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN", "slow 60")
    with pytest.raises(FatalLLMError, match=r"not ready after 0\.5 s"), server(tmp_path, start_timeout_s=0.5):
        pass


def test_an_error_inside_the_block_stops_the_server(tmp_path: Path, processes: Processes) -> None:
    with pytest.raises(ZeroDivisionError), server(tmp_path):
        raise ZeroDivisionError
    assert processes.alive() == []


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} is taken"), server(tmp_path, port=port):
            pass


def test_keys_stay_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setenv("VLLM_API_KEY", "sk-very-secret")
    with server(tmp_path) as running:
        assert "sk-very-secret" not in json.dumps(running.facts())
    assert "key None" in running.log.read_text()


def test_a_run_with_its_server_writes_no_key(
    data_dir: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-1234567890")
    done = cli("run", "--data", data_dir, *ENGINE, "--serve", "--verbose")
    assert done.code == 0, done.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"server.log", "manifest.json", "samples.jsonl"} < {path.name for path in files}
    assert not [path for path in files if b"very-secret" in path.read_bytes()]
    assert "very-secret" not in done.out + done.err


def test_a_run_is_reproduced_by_a_server_of_its_own(data_dir: Path, cli: Cli, processes: Processes) -> None:
    served = cli("run", "--data", data_dir, *ENGINE, "--serve", "--quiet").out.splitlines()[-1]
    again = cli("reproduce", served, "--json")
    assert (again.code, json.loads(again.out)["provenance"]) == (0, {})
    with FakeServer() as there:
        there.models = ["tiny"]
        unserved = cli("run", "--data", data_dir, *ENGINE, "--base-url", there.url, "--quiet").out.splitlines()[-1]
        other = cli("reproduce", unserved, "--serve", "--json")  # not refused: that server's settings are not known
        assert (other.code, json.loads(other.out)["answers_changed"], len(there.calls)) == (1, 3, 3)
    assert not processes.alive()


def test_the_context_must_fit(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"llm.context_length=1024"):
        server(tmp_path, max_model_len=1024)


def test_a_run_with_its_server(data_dir: Path, processes: Processes, cli: Cli) -> None:
    done = cli("run", "--data", data_dir, *ENGINE, "--serve", "--json")
    assert done.code == 0, done.err
    run = Path(json.loads(done.out)["run"])
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["server"]["version"] == "1.2.3"
    assert manifest["server"]["model"] == "tiny"
    assert manifest["identity"]["engine"]["component"] == "engine/vllm"
    assert (run / "server.log").exists()
    assert processes.alive() == []
    again = cli("run", "--data", data_dir, *ENGINE, "--serve", "--json")
    assert again.out == done.out
    assert processes.n_started() == 1  # nothing was left to ask
    assert json.loads((run / "manifest.json").read_text())["server"] == manifest["server"]


def test_the_server_of_a_run_writes_its_queries_as_well(data_dir: Path, processes: Processes, cli: Cli) -> None:
    done = cli("run", "--data", data_dir, *ENGINE, "--serve", "--query", "hyde", "--json")
    assert done.code == 0, done.err
    record = json.loads(done.out)
    queries = [json.loads(line) for line in (Path(record["run"]) / "queries.jsonl").read_text().splitlines()]
    assert [len(line["texts"]) for line in queries] == [1, 1, 1]
    assert (record["queries"]["texts"], record["counts"]["ok"]) == (3, 3)
    assert (processes.n_started(), processes.alive()) == (1, [])


def test_runs_of_a_sweep_share_a_server(data_dir: Path, processes: Processes, cli: Cli) -> None:
    presets = Path("configs/llms")
    presets.mkdir(parents=True)
    for name in ("one", "two"):
        engine = "{name: vllm, stop_timeout_s: 0.3}"
        (presets / f"{name}.yaml").write_text(f"class: openai\nmodel: {name}\nengine: {engine}\n")
    Path("grid.yaml").write_text(
        "retrievers: [none, bm25]\nprompts: [default, concise]\nllms: [one, extractive, two]\n"
    )
    sweep = ("sweep", "grid.yaml", "--data", data_dir, "--serve", "--json")
    done = cli(*sweep)
    assert done.code == 0, done.err
    runs = json.loads(done.out)["runs"]
    assert len(runs) == 12
    assert processes.n_started() == 2
    assert processes.alive() == []
    manifests = [json.loads((Path(run["run"]) / "manifest.json").read_text()) for run in runs]
    served = {manifest["labels"]["llm"]: manifest["server"].get("model") for manifest in manifests}
    assert served == {"one": "one", "two": "two", "extractive": None}
    assert cli(*sweep).out == done.out
    assert processes.n_started() == 2  # nothing was left to ask


def test_a_server_that_dies_in_a_sweep_costs_only_its_own_runs(
    data_dir: Path, processes: Processes, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("grid.yaml").write_text("retrievers: [none, bm25, oracle]\nllms: [mine, extractive]\n")
    presets = Path("configs/llms")
    presets.mkdir(parents=True)
    engine = "{name: vllm, stop_timeout_s: 0.3}"
    (presets / "mine.yaml").write_text(f"class: openai\nmodel: tiny\nengine: {engine}\n")
    monkeypatch.setenv("STANDIN", "dies after 4")
    sweep = ("sweep", "grid.yaml", "--data", data_dir, "--serve", "--concurrency", "1")
    done = cli(*sweep)
    assert done.code == 1
    assert done.err.count("not finished: ") == 2
    assert "not finished: bm25 + mine, prompt default, top 5: vLLM ended with exit code 9" in done.err
    assert "2 of 6 runs are not finished; the same command resumes them" in done.err
    assert "extractive" in done.out
    assert processes.alive() == []
    monkeypatch.setenv("STANDIN", "")
    assert cli(*sweep).code == 0
    lines = [path.read_text().splitlines() for path in Path("runs").glob("*-mine-*/samples.jsonl")]
    assert sorted(map(len, lines)) == [3, 3, 3]


def test_a_server_that_can_not_be_started_costs_only_its_own_runs(
    data_dir: Path, processes: Processes, cli: Cli
) -> None:
    presets = Path("configs/llms")
    presets.mkdir(parents=True)
    (presets / "mine.yaml").write_text("class: openai\nmodel: tiny\nengine: {name: vllm, max_model_len: 100}\n")
    Path("grid.yaml").write_text("retrievers: [none, oracle]\nllms: [mine, extractive]\n")
    done = cli("sweep", "grid.yaml", "--data", data_dir, "--serve")
    assert done.code == 1
    assert done.err.count("not finished: ") == done.err.count("is more than the server's llm.engine.max_model_len") == 2
    assert len(list(Path("runs").glob("*-extractive-*/summary.json"))) == 2
    assert processes.n_started() == 0


def test_settings_that_change_answers_make_another_run(data_dir: Path, cli: Cli) -> None:
    def run(*settings: str) -> str:
        done = cli("run", "--data", data_dir, *ENGINE, "--serve", "--json", *(f"--set={each}" for each in settings))
        assert done.code == 0, done.err
        return str(json.loads(done.out)["run"])

    plain = run()
    assert run("llm.engine.start_timeout_s=100", "llm.engine.data_parallel_size=2") == plain
    others = [run(f"llm.engine.{each}") for each in ("dtype=float16", "quantization=awq", "max_model_len=40000")]
    others.append(run("llm.engine.environment.VLLM_BATCH_INVARIANT=1"))
    assert len({plain, *others}) == 5


def test_what_is_cheap_is_checked_first(data_dir: Path, processes: Processes, cli: Cli) -> None:
    wrong = cli("run", "--data", data_dir, "--retriever", "trec:none.trec", *ENGINE, "--serve")
    assert wrong.code == 2
    assert processes.n_started() == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--llm", "extractive", "--serve"], "needs no server"),
        (["--llm", "openai", "--set", "llm.model=x", "--serve"], "names no engine"),
        ([*ENGINE, "--serve", "--base-url", "http://127.0.0.1:1/v1"], "takes no base_url (--base-url)"),
        ([*ENGINE, "--serve", "--set", "llm.engine.dtpye=x"], "did you mean"),
        ([*ENGINE, "--serve", "--set", "llm.engine=os:system"], "engine 'os' does not exist"),
        ([*ENGINE, "--serve", "--set", "llm.engine=vlm"], "did you mean"),
        ([*ENGINE, "--serve", "--set", "llm.engine.environment.HF_TOKEN=x"], "hold no keys"),
        ([*ENGINE, "--serve", "--set", "llm.engine.environment.LD_PRELOAD=x"], "run anything"),
        ([*ENGINE, "--serve", "--set", "llm.engine.extra_arguments=[--api-key, x]"], "needs no key"),
        (["--llm", "gguf:none.gguf"], "GGUF file none.gguf can't be read"),
    ],
)
def test_wrong_use_is_one_line(data_dir: Path, processes: Processes, cli: Cli, arguments: list[str], said: str) -> None:
    done = cli("run", "--data", data_dir, *arguments)
    assert done.code == 2, done.err
    assert said in done.err
    assert done.err.count("\n") == 1
    assert processes.n_started() == 0


def test_a_python_without_vllm(data_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN", "missing")
    done = cli("run", "--data", data_dir, *ENGINE, "--serve")
    assert done.code == 1
    assert "vLLM is not installed for" in done.err
    monkeypatch.setenv("QILIN_RAG_VLLM_PYTHON", "/no/such/python")
    assert "/no/such/python can't be run" in cli("run", "--data", data_dir, *ENGINE, "--serve").err


def test_a_preset_file_can_name_no_program(data_dir: Path, cli: Cli) -> None:
    presets = Path("configs/llms")
    presets.mkdir(parents=True)
    (presets / "mine.yaml").write_text("class: openai\nmodel: m\nengine: {name: vllm, python: /bin/sh}\n")
    done = cli("run", "--data", data_dir, "--llm", "mine", "--serve")
    assert done.code == 2
    assert "can't name a program" in done.err


def test_a_server_that_does_not_start_changes_nothing_of_an_earlier_run(
    data_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("run", "--data", data_dir, *ENGINE, "--serve", "--quiet")
    assert cli(*command).code == 0
    [run] = Path("runs").iterdir()
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.suffix != ".log"}
    monkeypatch.setenv("STANDIN", "dies")
    assert cli(*command, "--fresh").code == 1
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.suffix != ".log"} == before


def test_a_server_that_dies_half_way(
    tmp_path: Path, processes: Processes, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STANDIN", "dies after 10")
    monkeypatch.setenv("STANDIN_LATENCY_S", "0.05")
    arguments = ("run", *ENGINE, "--serve", "--concurrency", "4", "--quiet")
    started = time.monotonic()
    done = cli(*arguments)
    assert time.monotonic() - started < DEADLINE_S
    assert done.code == 1
    assert done.err.startswith("error: vLLM ended with exit code 9 in the middle of the run")
    assert "illegal memory access" in done.err
    assert done.err.count("\n") == 1
    [samples] = Path("runs").glob("*/samples.jsonl")
    kept = [json.loads(line) for line in samples.read_text().splitlines()]
    assert 1 <= len(kept) <= 10
    assert {sample["status"] for sample in kept} == {"ok"}
    assert processes.alive() == []
    monkeypatch.setenv("STANDIN", "")
    assert "60 questions: 60 ok" in cli(*arguments).out
    assert len(samples.read_text().splitlines()) == 60


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("phase", ["starting", "answering"])
def test_however_a_run_ends_nothing_is_left(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals, phase: str
) -> None:
    monkeypatch.setenv("STANDIN", "slow 60" if phase == "starting" else "")
    monkeypatch.setenv("STANDIN_LATENCY_S", "0.5")
    process = launch("run", *ENGINE, "--serve", "--concurrency", "2", "--quiet")
    if phase == "starting":
        wait_until(lambda: len(processes.alive()) == 2, process)
    else:
        wait_until(lambda: any(path.stat().st_size for path in Path("runs").glob("*/samples.jsonl")), process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=DEADLINE_S)
    if signum != signal.SIGKILL:
        assert process.returncode == 128 + signum
        assert "every finished answer is kept" in err
        assert processes.alive() == []
    wait_until(lambda: processes.alive() == [])


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_serve_until_it_is_told_to_end(processes: Processes, data_dir: Path, cli: Cli, signum: signal.Signals) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    presets = Path("configs/llms")
    presets.mkdir(parents=True)
    engine = "{name: vllm, tensor_parallel_size: 4, stop_timeout_s: 0.3}"
    (presets / "mine.yaml").write_text(f"class: openai\nmodel: org/tiny\nengine: {engine}\n")
    process = launch("serve", "mine", "--port", port)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address == f"http://127.0.0.1:{port}/v1"
    done = cli("run", "--data", data_dir, "--llm", "mine", "--base-url", address)
    assert "3 questions: 3 ok" in done.out
    process.send_signal(signum)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + signum
    assert "'--tensor-parallel-size', '4'" in err  # the server's log
    assert f"qilin-rag run --llm mine --base-url {address}" in err
    assert err.splitlines()[-1].endswith("the server is stopped")
    assert processes.alive() == []


def test_serve_says_that_the_server_died(processes: Processes) -> None:
    process = launch("serve", "qwen2.5-72b", "--quiet", "--set", "llm.engine.stop_timeout_s=0.3", "--port", 18173)
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(processes.alive()[0], signal.SIGKILL)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert err.startswith("error: vLLM was killed by SIGKILL (out of memory?) by itself")


WARNING = "(APIServer pid=1) WARNING 11-21 [x.py:2] as in `OSError: [Errno 24] Too many open files`"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "its log is empty"),
        (["one", "two", "three", "four"], "two | three | four"),
        ([WARNING, "end"], f"{WARNING} | end"),
        (
            ["\x1b[36m(Engine pid=2)\x1b[0m ERROR 11-21 [core.py:7] ValueError: No memory", "at a", "at b", "end"],
            "ValueError: No memory | at a | at b",
        ),
        (
            [WARNING, "(APIServer pid=1) a.b.ValidationError: 1 error", "too long"],
            "a.b.ValidationError: 1 error | too long",
        ),
        (["usage: x", "server.py: error: no such file"], "server.py: error: no such file"),
    ],
)
def test_the_reason_is_found_in_a_log(tmp_path: Path, lines: list[str], reason: str) -> None:
    ended = server(tmp_path)
    ended.log.parent.mkdir()
    ended.log.write_text("\n".join(lines))
    assert f" at once: {reason}; its whole log: " in str(ended.ended_error("at once"))


def test_a_judge_served_for_itself(data_dir: Path, cli: Cli, processes: Processes) -> None:
    run = cli("run", "--data", data_dir, "--quiet").out.splitlines()[-1]
    judge = ("judge", run, *ENGINE, "--serve", "--json")
    done = cli(*judge)
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"]["judge_correctness"]["reasons"] == {"no verdict": 3}
    assert (Path(run) / "judge-server.log").is_file()
    assert (processes.n_started(), processes.alive()) == (1, [])
    assert json.loads(cli(*judge).out) == json.loads(done.out)
    assert processes.n_started() == 1  # all is judged: no server is needed
