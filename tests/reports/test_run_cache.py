"""Runs that did not change are not read again, and those that did are."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports import measured
from qilin_rag.reports.leaderboard import Options, leaderboard_of
from qilin_rag.reports.measured import RunCache, read_run
from tests.reports.made_runs import make_run


def test_only_a_run_that_changed_is_read_again(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).random((3, 30)).tolist()
    for name, figures in zip("abc", values, strict=True):
        make_run(made, name, figures)
    paths, read, cache = [made / name for name in "abc"], [], RunCache()

    def counted(path: Path, *arguments: object, **named: object) -> measured.Measured:
        read.append(path.name)
        return read_run(path, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(measured, "read_run", counted)
    first = leaderboard_of(paths, cache=cache)
    assert leaderboard_of(paths, cache=cache) == first and read == ["a", "b", "c"]
    kept = [cache.read(path) for path in paths]
    assert kept[0].questions is kept[1].questions  # type: ignore[union-attr]
    directory = RunDirectory(paths[1])
    scores = [score.model_copy(update={"value": 0.5}) for score in directory.read_scores()]
    directory.write_figures(scores, directory.read_summary())
    found = leaderboard_of(paths, cache=cache)
    assert read == ["a", "b", "c", "b"]
    assert found == leaderboard_of(paths) and found != first


def test_a_run_that_is_damaged_and_mended_is_told_each_time(made: Path) -> None:
    for name in "ab":
        make_run(made, name, [0.1, 0.2, 0.3])
    paths, cache = [made / "a", made / "b"], RunCache()
    whole = (made / "b" / "questions.jsonl").read_bytes()
    (made / "b" / "questions.jsonl").write_bytes(b"{}\n")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"questions\.jsonl, line 1"):
            cache.read(made / "b")
        [table] = leaderboard_of(paths, cache=cache)
        assert any("questions.jsonl, line 1" in note for note in table.notes)
    (made / "b" / "questions.jsonl").write_bytes(whole)
    assert leaderboard_of(paths, cache=cache) == leaderboard_of(paths)
    shutil.rmtree(made / "b")
    assert leaderboard_of(paths, Options(common=True), cache) == leaderboard_of(paths, Options(common=True))
