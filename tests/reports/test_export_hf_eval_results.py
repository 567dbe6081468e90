"""huggingface_hub's parser takes what is exported for `.eval_results/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from qilin_rag.core.errors import UsageError
from qilin_rag.pipeline.imports import import_answers
from tests.conftest import Cli
from tests.reports.exchanged import exported_to
from tests.reports.hostile import hostile_run

EXAMPLE = next((Path(__file__).parents[2] / "runs/examples").glob("sample-bm25-*"))
SUMMARY = json.loads((EXAMPLE / "summary.json").read_text(encoding="utf-8"))["metrics"]


def parsed(path: Path) -> list[Any]:
    """The entries as their own parser reads them; written by their own writer they are the file."""
    hub = pytest.importorskip("huggingface_hub._eval_results", reason="huggingface_hub has no eval results yet")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    entries = hub.parse_eval_result_entries(content)
    assert hub.eval_result_entries_to_yaml(entries) == content
    return list(entries)


def test_the_hubs_parser_reads_figures_date_and_notes(tmp_path: Path) -> None:
    done = exported_to("hf-eval-results", tmp_path / "out.yaml", EXAMPLE, dataset_id="THUIR/Qilin")
    entries = parsed(tmp_path / "out.yaml")
    assert {each.task_id: each.value for each in entries} == {name: of["value"] for name, of in SUMMARY.items()}
    assert {(each.dataset_id, each.date, each.source_url) for each in entries} == {
        ("THUIR/Qilin", "2026-11-21T14:58:41+00:00", None)
    }
    assert all(SUMMARY[each.task_id]["signature"] in each.notes for each in entries)
    assert "95% interval 0.1643 to 0.2476 (sign-flip); 60 of 60 questions scored" in entries[-1].notes
    assert done.counts == {"figures": 4} and not done.remarks
    exported_to("hf-eval-results", tmp_path / "again.yaml", EXAMPLE, dataset_id="THUIR/Qilin")
    assert (tmp_path / "again.yaml").read_bytes() == (tmp_path / "out.yaml").read_bytes()


def test_one_figure_as_the_task_of_a_benchmark(tmp_path: Path) -> None:
    given = {"dataset_id": "THUIR/Qilin", "metric": "rouge_l", "task_id": "dqa", "source_url": "https://example.org/r"}
    exported_to("hf-eval-results", tmp_path / "out.yaml", EXAMPLE, **given)
    [entry] = parsed(tmp_path / "out.yaml")
    assert (entry.task_id, entry.value) == ("dqa", SUMMARY["rouge_l"]["value"])
    assert entry.source_url == "https://example.org/r"


def test_what_is_not_known_is_absent(data_dir: Path, tmp_path: Path) -> None:
    rows = [{"question_id": 1, "answer": "粗研磨"}]
    made = import_answers(rows, name="other", data=data_dir, metrics="rouge_l,citations")
    done = exported_to("hf-eval-results", tmp_path / "out.yaml", made.path, dataset_id="a/b")
    entries = parsed(tmp_path / "out.yaml")
    assert [each.task_id for each in entries if each.date is None] == [each.task_id for each in entries]
    assert "rouge_l" in [each.task_id for each in entries]
    assert "citation_precision" not in [each.task_id for each in entries]  # no value
    assert done.remarks["figures without a value are left out"] == len(made.metrics) - len(entries)


def test_data_of_the_hub_names_the_benchmark(tmp_path: Path) -> None:
    copy = tmp_path / EXAMPLE.name
    copy.mkdir()
    for file in EXAMPLE.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    manifest["config"]["data"] = "hub:THUIR/Qilin"
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    exported_to("hf-eval-results", tmp_path / "out.yaml", copy)
    assert {each.dataset_id for each in parsed(tmp_path / "out.yaml")} == {"THUIR/Qilin"}


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    exported_to("hf-eval-results", tmp_path / "out.yaml", hostile_run(), dataset_id="a/b")
    entries = parsed(tmp_path / "out.yaml")
    assert any("<script>" in each.task_id for each in entries) and any("\x00" in each.notes for each in entries)


def test_wrong_use_is_one_line(tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out.yaml"
    good = ("--set", "dataset_id=a/b")
    for settings, said in (
        ((), "name the benchmark: --set dataset_id=OWNER/NAME"),
        (("--set", "dataset_id=/etc"), "dataset_id"),
        ((*good, "--set", "task_id=x"), "--set metric=NAME"),
        ((*good, "--set", "metric=rouge"), "did you mean 'rouge_l'"),
        ((*good, "--set", "source_url=javascript:x"), "source_url"),
    ):
        done = cli("export", EXAMPLE, "--format", "hf-eval-results", "--out", out, *settings)
        assert (done.code, done.err.count("\n"), said in done.err) == (2, 1, True), done.err
    assert not out.exists()
    with pytest.raises(UsageError, match="holds one"):
        exported_to("hf-eval-results", out, EXAMPLE, EXAMPLE)
