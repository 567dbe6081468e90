"""MLflow, trackio and Weights & Biases without a network: what they hold afterwards, by their own readers."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli

RUN = ("run", "--data", "sample", "--limit", 30, "--metrics", "rouge_l", "--json")


def need(package: str) -> None:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs {package}, of the extra {package}")


def run_tracked(cli: Cli, tracker: str, *more: object) -> dict[str, Any]:
    done = cli(*RUN, "--track", tracker, *more)
    assert (done.code, done.err) == (0, "")
    record: dict[str, Any] = json.loads(done.out)
    return record


def expected(record: dict[str, Any]) -> dict[str, float]:
    figure = record["metrics"]["rouge_l"]
    low, high = figure["ci95"]
    return {"rouge_l": figure["value"], "rouge_l.low": low, "rouge_l.high": high, "rouge_l.n": figure["n"]}


def without_tracker(cli: Cli) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What the same run prints and writes without a tracker."""
    done = cli(*RUN, "--runs-dir", "alone")
    [folder] = Path("alone").iterdir()
    return json.loads(done.out), files(folder)


def files(folder: Path) -> dict[str, bytes]:
    timed = ("manifest.json", "samples.jsonl")
    return {path.name: b"" if path.name in timed else path.read_bytes() for path in folder.iterdir()}


def assert_ends_as_alone(cli: Cli, tracker: str) -> None:
    alone, alone_files = without_tracker(cli)
    done = cli(*RUN, "--track", tracker)
    assert done.code == 0
    [warning] = done.err.splitlines()
    assert warning.startswith(f"track {tracker}: ") and "ModuleNotFoundError" not in warning
    record = json.loads(done.out)
    assert record["metrics"] == alone["metrics"]
    assert files(Path(record["run"])) == alone_files


@pytest.mark.parametrize("place", ["file", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_mlflow_holds_the_run(place: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    need("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    if place == "file":
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (Path.cwd() / "store").as_uri())
    elif find_spec("sqlalchemy") is None or find_spec("alembic") is None:
        pytest.skip("needs sqlalchemy and alembic, of the extra mlflow")
    record = run_tracked(cli, "mlflow")
    seen = read_mlflow(None if place == "file" else f"sqlite:///{Path.cwd()}/mlflow.db")
    assert (seen["experiment"], seen["name"], seen["status"]) == ("qilin_rag", Path(record["run"]).name, "FINISHED")
    assert {name: seen["metrics"][name] for name in expected(record)} == pytest.approx(expected(record))
    assert seen["metrics"]["recall_at_5"] == pytest.approx(record["metrics"]["recall@5"]["value"])
    assert (seen["params"]["retriever.name"], seen["params"]["limit"]) == ("bm25", "30")
    assert seen["files"] == ["manifest.json", "scores.json", "summary.json"]
    assert len(seen["table"]) == 30 and {"question_id", "answer", "rouge_l"} <= set(seen["table"][0])
    if place == "file":
        again = run_tracked(cli, "mlflow", "--limit", 31)
        more = read_mlflow(None)  # the same run, of which there is one
        assert more["id"] == seen["id"]
        assert {name: more["metrics"][name] for name in expected(again)} == pytest.approx(expected(again))
        assert (more["params"]["limit"], more["tags"]["limit"], len(more["table"])) == ("30", "31", 31)


def read_mlflow(uri: str | None) -> dict[str, Any]:
    """Read the only run of the experiment by MLflow's client, in this process."""
    from mlflow import MlflowClient

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calls deprecated parts of SQLAlchemy
        client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("qilin_rag")
    [run] = client.search_runs([experiment.experiment_id])
    found = sorted(artifact.path for artifact in client.list_artifacts(run.info.run_id))
    table = Path(client.download_artifacts(run.info.run_id, "scores.json")).read_text(encoding="utf-8")
    content = json.loads(table)
    return {
        "id": run.info.run_id,
        "experiment": experiment.name,
        "name": run.info.run_name,
        "status": run.info.status,
        "metrics": run.data.metrics,
        "params": run.data.params,
        "tags": run.data.tags,
        "files": found,
        "table": [dict(zip(content["columns"], row, strict=True)) for row in content["data"]],
    }


def test_mlflow_that_can_t_be_written_changes_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    need("mlflow")
    Path("taken").touch()  # root may write into any folder, but not below a file
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (Path.cwd() / "taken").as_uri())
    assert_ends_as_alone(cli, "mlflow")


@pytest.mark.slow
def test_mlflow_without_its_server_changes_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    need("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert_ends_as_alone(cli, "mlflow")


def test_trackio_holds_the_run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    need("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(Path.cwd() / "trackio"))
    record = run_tracked(cli, "trackio")
    again = run_tracked(cli, "trackio", "--limit", 31)
    name = Path(record["run"]).name
    first, last = read_trackio(name)
    assert {name: first[name] for name in expected(record)} == pytest.approx(expected(record))
    assert {name: last[name] for name in expected(again)} == pytest.approx(expected(again))
    table = json.loads(first["scores"])["_value"] if isinstance(first["scores"], str) else first["scores"]["_value"]
    assert len(table) == 30 and {"question_id", "answer", "rouge_l"} <= set(table[0])


def read_trackio(name: str) -> list[dict[str, Any]]:
    """Read the steps of the only run from trackio's SQLite file, as its page on the storage schema describes it."""
    import sqlite3

    with sqlite3.connect(Path("trackio") / "qilin_rag.db") as database:
        rows = database.execute("SELECT run_name, metrics FROM metrics ORDER BY step").fetchall()
        [config] = database.execute("SELECT config FROM configs WHERE run_name = ?", (name,)).fetchall()
    assert {row[0] for row in rows} == {name}
    settings = json.loads(config[0])
    assert (settings["retriever.name"], settings["top_k"], settings["limit"]) == ("bm25", 5, 31)
    return [json.loads(row[1]) for row in rows]


def test_trackio_that_can_t_be_written_changes_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    need("trackio")
    Path("taken").touch()
    monkeypatch.setenv("TRACKIO_DIR", str(Path.cwd() / "taken"))
    assert_ends_as_alone(cli, "trackio")


def test_wandb_holds_the_run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    need("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    record = run_tracked(cli, "wandb")
    again = run_tracked(cli, "wandb")
    kept = sorted(Path("wandb").glob("offline-run-*/*.wandb"))
    ids = {path.stem for path in kept}
    assert len(ids) == 1 and json.loads((Path(again["run"]) / "trackers.json").read_text())["wandb"] in ids.pop()
    config: dict[str, Any] = {}
    history: dict[str, Any] = {}
    artifacts = set()
    for each in wandb_records(kept[0]):
        match each.WhichOneof("record_type"):
            case "run":
                assert (each.run.project, each.run.display_name) == ("qilin_rag", Path(record["run"]).name)
            case "config":
                config |= {item.key: json.loads(item.value_json) for item in each.config.update}
            case "history":
                history |= {"/".join(item.nested_key) or item.key: item.value_json for item in each.history.item}
            case "artifact":
                artifacts |= {entry.path for entry in each.artifact.manifest.contents}
    assert (config["retriever.name"], config["top_k"]) == ("bm25", 5)
    assert {name: json.loads(history[name]) for name in expected(record)} == pytest.approx(expected(record))
    assert {"manifest.json", "summary.json", "scores.table.json"} <= artifacts
    [table] = kept[0].parent.glob("files/media/table/scores_*.table.json")
    content = json.loads(table.read_text(encoding="utf-8"))
    assert (len(content["data"]), content["columns"][0], "rouge_l" in content["columns"]) == (30, "question_id", True)


def wandb_records(path: Path) -> Iterator[Any]:
    """Yield the records of an offline run: after seven bytes, blocks of 32 KiB of checksum, length, kind and part."""
    from wandb.proto import wandb_internal_pb2

    data, at, part = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, n_bytes, kind = struct.unpack("<IHB", data[at : at + 7])
        part += data[at + 7 : at + 7 + n_bytes]
        at += 7 + n_bytes
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            part = b""
            yield record


def test_wandb_that_can_t_be_written_changes_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    need("wandb")
    Path("taken").touch()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(Path.cwd() / "taken"))
    assert_ends_as_alone(cli, "wandb")


@pytest.mark.slow
def test_wandb_without_its_server_changes_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    need("wandb")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    assert_ends_as_alone(cli, "wandb")
