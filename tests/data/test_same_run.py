"""The same data under another name, in another encoding or order of rows is the same run, in the same directory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.data.convert import WRITTEN
from qilin_rag.pipeline.run import run
from qilin_rag.rankers.ranking_directory import RankConfig
from qilin_rag.rankers.run import rank
from qilin_rag.rankers.simple import Production
from qilin_rag.synth import resolve_world, synthesize
from tests.conftest import Cli
from tests.data.qilin import LAYOUTS


def folders(runs_dir: str = "runs") -> list[str]:
    return sorted(path.name for path in Path(runs_dir).iterdir())


def test_the_sample_in_every_encoding_is_one_run(cli: Cli) -> None:
    first = json.loads(cli("run", "--limit", 5, "--json").out)
    for encoding in WRITTEN:
        assert cli("data", "convert", "sample", "--to", encoding, "--out", f"sample-{encoding}").code == 0
        again = json.loads(cli("run", "--data", f"sample-{encoding}", "--limit", 5, "--json").out)
        assert {key: again[key] for key in ("run", "metrics")} == {key: first[key] for key in ("run", "metrics")}
    assert len(folders()) == 1
    cli("run", "--data", "sample-parquet", "--limit", 5, "--prompt", "concise")
    assert len(folders()) == 2
    [report] = json.loads(cli("ablate", "--saved", "--json").out)
    assert len(report["factors"]) == 1


def test_the_authors_layouts_are_one_run_and_one_ranking(tmp_path: Path) -> None:
    for name, write in LAYOUTS.items():  # with the rows in three orders
        folder = write(tmp_path / name)
        run(resolve_run({"data": str(folder), "limit": 2}))
        rank(Production(), RankConfig(data=str(folder), task="search", runs_dir=Path("rankings")))
    assert len(folders()) == 1
    assert len(folders("rankings")) == 1


@pytest.mark.parametrize("encoding", WRITTEN)
def test_a_synthetic_qilin_in_every_encoding_is_one_ranking(tmp_path: Path, cli: Cli, encoding: str) -> None:
    counts = {"notes": 400, "searches": 60, "recommendations": 40, "dqa": 20, "users": 20}
    synthesize(resolve_world(counts, 1), tmp_path / "world")
    assert cli("data", "convert", tmp_path / "world", "--to", encoding, "--out", tmp_path / "other").code == 0
    for data in ("world", "other"):
        rank(Production(), RankConfig(data=str(tmp_path / data), task="recommendation"))
    assert len(folders()) == 1


def test_a_copy_under_another_name_goes_on_with_the_run(data_dir: Path, tmp_path: Path) -> None:
    first = run(resolve_run({"data": str(data_dir), "limit": 1}))
    shutil.copytree(data_dir, tmp_path / "copy")
    second = run(resolve_run({"data": str(tmp_path / "copy")}))
    assert second.directory.path == first.directory.path
    assert len(second.directory.read_samples()[1]) == 3  # the question of the first was not asked again
    other = run(resolve_run({"data": str(tmp_path / "copy"), "top_k": 3}))
    assert other.directory.path.name.startswith("copy-")


def test_a_folder_that_only_ends_like_it_is_not_the_run(data_dir: Path) -> None:
    first = run(resolve_run({"data": str(data_dir)})).directory.path
    ending = first.name[-8:]
    stranger = Path("runs") / f"aaa-{ending}"
    shutil.copytree(first, stranger)
    manifest = json.loads((stranger / "manifest.json").read_text(encoding="utf-8"))
    (stranger / "manifest.json").write_text(json.dumps(manifest | {"fingerprint": f"{ending}{'0' * 56}"}))
    (Path("runs") / f"aab-{ending}").mkdir()
    (Path("runs") / f"aab-{ending}" / "manifest.json").write_text("{")
    first.rename(Path("runs") / f"own-name-{ending}")
    assert run(resolve_run({"data": str(data_dir)})).directory.path.name == f"own-name-{ending}"
