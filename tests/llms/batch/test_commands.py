"""Every command that asks by batch gives what it gives when it asks one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.batch_server import BatchServer
from tests.conftest import Cli, write_jsonl
from tests.fake_server import MODEL
from tests.judging.substring_judge import construct, substring_judge
from tests.judging.test_filter import rules
from tests.llms.batch.runs import samples_of

NOT_SAME = ("path", "out", "run", "runs", "bank", "times", "generation_s", "cost", "batch_usage")


def asking(service: BatchServer) -> list[object]:
    return ["--llm", "openai", "--base-url", service.url, f"--set=llm.model={MODEL}"]


def made_by(cli: Cli, *line: object) -> dict[str, Any]:
    done = cli(*line, "--json")
    assert done.code == 0, done.err
    said: dict[str, Any] = json.loads(done.out)
    return said


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The judgements in a file, in any order, without what may differ."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    kept = [{name: value for name, value in line.items() if name not in ("latency_s", "batch")} for line in lines]
    return sorted(kept, key=lambda line: str(line["key"]))


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    one, other = ({k: v for k, v in said.items() if k not in NOT_SAME} for said in (one, other))
    return bool(one) and one == other


@pytest.fixture
def check(
    service: BatchServer, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., dict[str, Any]]:
    """Do a command one by one and by batch, and compare what both print and keep."""

    def compare(one: list[object], other: list[object]) -> dict[str, Any]:
        by_one = made_by(cli, *one, *asking(service), "--set=llm.seed=1")
        n_calls = len(service.calls)
        service.calls.clear()
        monkeypatch.setenv("QILIN_RAG_CACHE", str(tmp_path / f"cache{n_calls}"))  # without these answers
        by_batch = made_by(cli, *other, *asking(service), "--set=llm.seed=1", "--batch")
        assert n_calls and not service.calls and sum(service.asked.values()) == n_calls
        assert same(by_one, by_batch)
        paths = [
            Path(said.get("run") or said.get("bank") or said.get("out") or said["path"]) for said in (by_one, by_batch)
        ]
        files = [
            next(
                (path.parent if path.is_file() else path).glob(
                    "nugget_judgements*" if "assign" in one else "judgements*"
                )
            )
            for path in paths
        ]
        assert lines_of(files[0]) == lines_of(files[1])
        assert all(json.loads(line)["batch"] for line in files[1].read_text().splitlines())
        service.batches.clear()
        return by_batch

    return compare


def imported(cli: Cli, data: Path, answers: Path, runs_dir: str, name: str = "a") -> Path:
    line = ["import-answers", answers, "--name", name, "--data", data, "--metrics", "rouge_l", "--runs-dir", runs_dir]
    done = cli(*line)
    assert done.code == 0, done.err
    return Path(done.out.splitlines()[-1])


def test_nuggets(tmp_path: Path, service: BatchServer, cli: Cli, check: Callable[..., dict[str, Any]]) -> None:
    service.answer = substring_judge
    made = construct(tmp_path / "twenty", "a")
    create = ["nuggets", "create", "--data", made.data]
    bank = check([*create, "--runs-dir", "x"], [*create, "--runs-dir", "y"])["bank"]
    one, other = (imported(cli, made.data, made.answers["a"], folder) for folder in ("x", "y"))
    assign = ["--bank", bank, "--per-call", 3]
    said = check(["nuggets", "assign", one, *assign], ["nuggets", "assign", other, *assign])
    assert said["metrics"]["nugget_all"]["value"] is not None


GRADES = "正确性：4\n完整性：3\n忠实性：5"


@pytest.mark.parametrize("n_runs", [1, 2])
def test_judge(data: Path, service: BatchServer, cli: Cli, check: Callable[..., dict[str, Any]], n_runs: int) -> None:
    answers = [
        write_jsonl(Path(f"{n}.jsonl"), [{"question_id": str(q), "answer": f"{n}泡{q}分"} for q in range(12)])
        for n in range(2)
    ]
    runs = [[imported(cli, data, answers[n], folder, name=f"s{n}") for n in range(n_runs)] for folder in ("x", "y")]
    service.answer = lambda body: GRADES if n_runs == 1 else "更好：A"
    lines = [["judge", *of, "--runs-dir", folder] for of, folder in zip(runs, ("x", "y"), strict=True)]
    check(*lines)


def test_filter(tmp_path: Path, service: BatchServer, check: Callable[..., dict[str, Any]]) -> None:
    service.answer = rules
    folder = tmp_path / "notes"
    folder.mkdir()
    texts = ["加我 13812345678", "他拿刀", "番茄炒蛋", "多肉度夏"]
    write_jsonl(
        folder / "notes.jsonl", [{"note_idx": n, "title": "t", "content": text} for n, text in enumerate(texts)]
    )
    line = ["data", "filter", folder, "--prompts", "private,violent"]
    check([*line, "--out", "x"], [*line, "--out", "y"])


def test_a_query_stage(data: Path, service: BatchServer, cli: Cli) -> None:
    line = ["run", "--data", data, *asking(service), "--no-cache", "--metrics", "rouge_l", "--query", "hyde"]
    one, other = made_by(cli, *line, "--runs-dir", "x"), made_by(cli, *line, "--runs-dir", "y", "--batch")
    assert same(one, other) and len(service.calls) == 24
    assert [len(service.lines_of(batch)) for batch in service.batches.values()] == [12, 12]
    for name in ("samples.jsonl", "queries.jsonl"):
        assert samples_of(Path(one["run"]), name) == samples_of(Path(other["run"]), name)


def write_grid(data: Path, service: BatchServer) -> list[object]:
    Path("grid.yaml").write_text(
        f"data: {data}\nmetrics: rouge_l\nbatch: true\ncache: false\nretrievers: [none, oracle, bm25]\n"
    )
    settings = [f"--set=llm.model={MODEL}", f"--set=llm.base_url={service.url}"]
    return ["sweep", "grid.yaml", "--llms", "openai", *settings]


def test_a_sweep_says_it_in_its_file_and_submits_all_before_it_waits(
    data: Path, service: BatchServer, cli: Cli
) -> None:
    line = write_grid(data, service)
    done = cli(*line, "--json")
    assert done.code == 0, done.err
    assert len(service.batches) == 3 and not service.calls
    steps = [each for each in service.requests if "content" in each or each == "POST /v1/batches"]
    assert steps[:3] == ["POST /v1/batches"] * 3
    runs = json.loads(done.out)["runs"]
    assert [run["counts"]["ok"] for run in runs] == [12] * 3
    assert "cut off" not in done.err and len(set(service.asked.values())) == 1
    for run in runs:
        manifest = json.loads((Path(run["run"]) / "manifest.json").read_text())
        assert manifest["times"]["sessions"] == 1 and not manifest["times"]["cut_off"]
        assert len((Path(run["run"]) / "samples.jsonl").read_text().splitlines()) == 12
    assert cli(*line).code == 0 and len(service.batches) == 3
    done = cli("sweep", "grid.yaml", "--llms", "extractive")  # which has nothing to save
    assert done.code == 0, done.err


def test_a_sweep_asks_again_what_is_to_be_fresh(data: Path, service: BatchServer, cli: Cli) -> None:
    line = write_grid(data, service)
    assert cli(*line).code == 0
    Path("grid.yaml").write_text(Path("grid.yaml").read_text() + "fresh: true\n")
    done = cli(*line, "--json")
    assert done.code == 0, done.err
    assert len(service.batches) == 6
    for run in json.loads(done.out)["runs"]:
        assert len((Path(run["run"]) / "samples.jsonl").read_text().splitlines()) == 12
        assert len(list(Path(run["run"]).glob("samples-until-*"))) == 1


def test_a_sweep_loses_one_run_alone(data: Path, service: BatchServer, cli: Cli) -> None:
    line = write_grid(data, service)
    service.end = lambda n: ("cancelled", 5) if n == 2 else ("completed", None)
    done = cli(*line)
    assert done.code == 1 and "was cancelled" in done.err and "1 of 3 runs are not finished" in done.err
    service.end = lambda n: ("completed", None)
    done = cli(*line)
    assert done.code == 0, done.err
    assert [len(service.lines_of(batch)) for batch in service.batches.values()] == [12, 12, 12, 7]


def test_a_run_by_batch_is_reproduced_at_another_address_by_calls(data: Path, service: BatchServer, cli: Cli) -> None:
    line = ["run", "--data", data, *asking(service), "--no-cache", "--metrics", "rouge_l", "--batch"]
    made = made_by(cli, *line)
    done = cli("reproduce", made["run"], "--base-url", service.url, "--runs-dir", "again")
    assert done.code == 0, done.err
    assert len(service.batches) == 1 and len(service.calls) == 12


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["run", "--batch"], "llm extractive takes no batches"),
        (["run", "--batch", "--dry-run"], "llm extractive takes no batches"),
        (["run", "--llm", "gguf:model.gguf", "--serve", "--batch"], "answers no files of requests"),
    ],
)
def test_wrong_use(cli: Cli, line: list[str], said: str) -> None:
    done = cli(*line)
    assert done.code == 2 and said in done.err and done.err.count("\n") == 1
