"""Position 0 is the top, not unknown and last; what is no position is a defect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from qilin_rag.analysis.log import read_log
from qilin_rag.analysis.paper_tables import analyse
from qilin_rag.core.errors import UsageError
from qilin_rag.data.log_settings import LogSettings
from qilin_rag.data.requests import Requests, read_requests
from qilin_rag.data.source import Source, open_source
from qilin_rag.rankers.ranking_directory import RankConfig
from qilin_rag.rankers.run import rank
from qilin_rag.rankers.simple import Production
from tests.conftest import Cli, write_jsonl

NOTES = [{"note_idx": i, "title": f"t{i}", "content": "c"} for i in range(1, 10)]


def shown(*results: tuple[int, Any, int]) -> list[dict[str, Any]]:
    return [{"note_idx": note, "position": position, "click": click} for note, position, click in results]


SEARCHES = [
    shown((5, 1, 0), (9, 0, 1), (2, 3, 0)),  # 9 was put in above position 1, and clicked
    shown((3, 2, 1), (4, 1, 1), (6, None, 0)),  # 6 has no position
    shown((7, 0, 0)),
    shown((8, 4, 0), (8, 0, 1)),  # the same note at 4 and at the top
]


def write_data(folder: Path, searches: list[list[dict[str, Any]]] = SEARCHES) -> Path:
    write_jsonl(folder / "notes.jsonl", NOTES)
    rows = [
        {"search_idx": i, "query": "茶", "search_result_details_with_idx": details}
        for i, details in enumerate(searches)
    ]
    write_jsonl(folder / "search_test.jsonl", rows)
    return folder


def source_of(folder: Path, zero: str = "top") -> Source:
    return open_source(str(write_data(folder)), log=LogSettings(position_zero=zero))


def position_by_note(requests: Requests) -> dict[int, int]:
    return dict(zip(requests.note_idx.tolist(), requests.position.tolist(), strict=True))


def test_the_top_is_above_position_1(tmp_path: Path) -> None:
    requests = read_requests(source_of(tmp_path), "search", "test")
    assert position_by_note(requests) == {2: 3, 5: 1, 9: 0, 3: 2, 4: 1, 6: -1, 7: 0, 8: 0}
    order = [[hit.note_idx for hit in hits] for hits in requests.rankings(Production().score(requests, None))]  # type: ignore[arg-type]
    assert order == [[9, 5, 2], [4, 3, 6], [7], [8]]
    unknown = read_requests(source_of(tmp_path, "unknown"), "search", "test")
    assert position_by_note(unknown) == {2: 3, 5: 1, 9: -1, 3: 2, 4: 1, 6: -1, 7: -1, 8: 4}
    order = [[hit.note_idx for hit in hits] for hits in unknown.rankings(Production().score(unknown, None))]  # type: ignore[arg-type]
    assert order[0] == [5, 2, 9]


@pytest.mark.parametrize(("zero", "mrr"), [("top", 1.0), ("unknown", (1 / 3 + 1 + 1) / 3)])
def test_the_production_order_is_judged_so(tmp_path: Path, zero: str, mrr: float) -> None:
    log = LogSettings(position_zero=zero)
    done = rank(Production(), RankConfig(data=str(write_data(tmp_path)), task="search", log=log))
    assert done.summary.metrics["mrr@10"].value == pytest.approx(mrr)
    said = [remark for remark in done.summary.remarks if "position 0" in remark]
    assert [remark.split(" ")[0] for remark in said] == (["3"] if zero == "top" else [])


def test_analysis_counts_it_above_position_1(tmp_path: Path) -> None:
    source = source_of(tmp_path)
    log = read_log(source)
    by_id = {request: (int(log.depth[i]), int(log.first_click[i])) for i, request in enumerate(log.shown.ids)}
    assert by_id == {"0": (3, 0), "1": (2, 1), "2": (0, -1), "3": (4, 0)}
    tables = {table.key: table for table in analyse(source)}
    searches = dict(zip([c.name for c in tables["table5"].columns], tables["table5"].values[0], strict=True))
    assert searches["browsing depth"] == pytest.approx((3 + 2 + 0 + 4) / 4)
    assert searches["first click rank"] == pytest.approx((0 + 1 + 0) / 3)
    figure = tables["figure3a"]
    assert figure.rows[:3] == ["0 (top)", "1", "2"]
    assert [row[0] for row in figure.values[:3]] == pytest.approx([2 / 3, 1 / 2, 1])
    assert any("3 results" in note for note in figure.notes)
    unknown = {table.key: table for table in analyse(source_of(tmp_path, "unknown"))}
    assert unknown["figure3a"].rows[0] == "1"
    searches = dict(zip([c.name for c in unknown["table5"].columns], unknown["table5"].values[0], strict=True))
    assert searches["browsing depth"] == pytest.approx((3 + 2 + 4) / 3)  # the third request has no known position
    assert searches["first click rank"] == pytest.approx(1)


def test_click_models_look_at_the_top_as_at_position_1() -> None:
    pytest.importorskip("torch")
    from qilin_rag.rankers.propensity import click_weights, position_buckets

    assert position_buckets(np.array([-1, 0, 1, 2])).tolist() == [0, 1, 1, 2]
    assert click_weights(np.array([-1, 0, 1, 4]), 0.5, 10).tolist() == [1, 1, 1, 2]


def test_stats_and_validate_count_it(tmp_path: Path, cli: Cli) -> None:
    folder = write_data(tmp_path)
    found = json.loads(cli("data", "stats", folder, "--json").out)["results"]
    assert found == {"shown": 9, "at position 0": 3, "requests with position 0": 3, "without a position": 1}
    assert (
        json.loads(cli("data", "stats", folder, "--set", "log.position_zero=unknown", "--json").out)["results"] == found
    )
    done = json.loads(cli("data", "validate", folder, "--json").out)
    [remark] = done["remarks"]
    assert remark.startswith("search_test: 3 results of 3 requests are at position 0")
    assert [defect["place"] for defect in done["defects"]] == ["line 2"]  # the one without a position, and no other
    assert "log.position_zero=unknown" in cli("data", "validate", folder, "--set", "log.position_zero=unknown").out


@pytest.mark.parametrize("position", [-1, -3, 1.5, "2", True, float("nan")])
def test_what_is_no_position_is_a_defect(tmp_path: Path, cli: Cli, position: Any) -> None:
    """In JSON lines, and where the type allows it in parquet."""
    (tmp_path / "made").mkdir()
    folder = write_data(tmp_path / "made", [])
    details = shown((1, 1, 0), (2, position, 1))
    rows = [{"search_idx": 1, "query": "茶", "search_result_details_with_idx": details}]
    write_jsonl(folder / "search_test.jsonl", rows)
    is_missing = position != position
    encodings = ["jsonl"]
    if isinstance(position, int | float) and not isinstance(position, bool):
        (tmp_path / "parquet" / "search_test").mkdir(parents=True)
        details = shown((1, 1.0, 0), (2, float(position), 1))
        table = pa.Table.from_pylist([{**rows[0], "search_result_details_with_idx": details}])
        pq.write_table(table, tmp_path / "parquet" / "search_test" / "train-00000-of-00001.parquet")
        write_jsonl(tmp_path / "parquet" / "notes.jsonl", NOTES)
        encodings.append("parquet")
    for encoding in encodings:
        folder = tmp_path / ("made" if encoding == "jsonl" else encoding)
        done = json.loads(cli("data", "validate", folder, "--json").out)
        assert [defect["column"] for defect in done["defects"]] == ["search_result_details_with_idx"], encoding
        [problem] = [defect["problem"] for defect in done["defects"]]
        if is_missing:
            assert "without a position (1)" in problem
            requests = read_requests(open_source(str(folder)), "search", "test")
            assert position_by_note(requests) == {1: 1, 2: -1}
        else:
            assert "'position'" in problem and "whole number from 0" in problem
            with pytest.raises(UsageError, match="position"):
                read_requests(open_source(str(folder)), "search", "test")
