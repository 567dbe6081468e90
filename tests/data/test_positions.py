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


TYPES = {9: 1.0, 5: 2.0, 2: 1.0, 3: 2.0, 4: 1.0, 6: 2.0, 7: 2.0, 8: 1.0}


@pytest.mark.parametrize("zero", ["top", "unknown"])
def test_all_of_figure_3_by_hand(tmp_path: Path, zero: str) -> None:
    """At 0: 9 (clicked) and 8 (clicked) of image-text, 7 of video. At 1: 5 of video, 4 of image-text (clicked)."""
    folder = write_data(tmp_path)
    write_jsonl(
        folder / "notes.jsonl",
        [{"note_idx": i, "title": f"t{i}", "content": "c", "note_type": TYPES.get(i)} for i in range(1, 10)],
    )
    tables = {table.key: table for table in analyse(open_source(str(folder), log=LogSettings(position_zero=zero)))}
    shares, ctrs = (dict(zip(tables[key].rows, tables[key].values, strict=True)) for key in ("figure3c", "figure3e"))
    top = {"0 (top)": ([2 / 3, 1 / 3], [1, 0])} if zero == "top" else {}
    wanted = top | {"1": ([0.5, 0.5], [1, 0]), "2": ([0, 1], [None, 1]), "3": ([1, 0], [0, None])}
    wanted |= {"4": ([1, 0], [0, None]), "5": ([None, None], [None, None])}
    assert list(shares)[: len(wanted)] == list(ctrs)[: len(wanted)] == list(wanted)
    for place, (of_types, of_clicks) in wanted.items():
        assert shares[place] == pytest.approx(of_types) and ctrs[place] == pytest.approx(of_clicks), place
    for key in ("figure3d", "figure3f"):  # recommendations: there are none
        assert all(value is None for row in tables[key].values for value in row)
    said = [any("position 0" in note for note in tables[key].notes) for key in ("table5", "figure3a")]
    assert said == [zero == "top"] * 2


@pytest.mark.parametrize("zero", ["top", "unknown"])
def test_outcomes_of_the_effect_of_an_answer_by_hand(tmp_path: Path, zero: str) -> None:
    """Thirty times the four searches, with and without an answer: 0 is a depth and a first click, or neither."""
    pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'qilin-rag[analysis]'")
    from qilin_rag.analysis.dqa_effect import outcomes_of

    rows = [
        {"search_idx": i, "query": "茶", "search_result_details_with_idx": SEARCHES[i % 4], "dqa_output": output}
        for i, output in enumerate(["-1"] * 120 + ["答"] * 120)
    ]
    write_jsonl(tmp_path / "dqa.jsonl", rows)
    log = read_log(open_source(str(tmp_path), log=LogSettings(position_zero=zero)))
    found = {outcome.name: outcome for outcome in outcomes_of(log, np.arange(len(log.shown)))}
    by_search: dict[int, list[float | None]] = {}
    for row, request in enumerate(log.shown.ids):
        outcomes = [found[name] for name in ("browsing depth", "first click rank")]
        values = [float(each.values[row]) if each.chosen[row] else None for each in outcomes]
        assert by_search.setdefault(int(request) % 4, values) == values
    wanted = {0: [3, 0], 1: [2, 1], 2: [0, None], 3: [4, 0]}
    if zero == "unknown":
        wanted = {0: [3, None], 1: [2, 1], 2: [None, None], 3: [4, None]}
    assert by_search == wanted


def test_a_copy_keeps_it(tmp_path: Path, cli: Cli) -> None:
    write_data(tmp_path)
    assert cli("data", "convert", tmp_path, "--to", "parquet", "--out", "copy").code == 0
    for zero in ("top", "unknown"):
        copied, read = (
            read_requests(open_source(str(folder), log=LogSettings(position_zero=zero)), "search", "test")
            for folder in (Path("copy"), tmp_path)
        )
        assert copied.position.tolist() == read.position.tolist()
    assert (read_requests(open_source("copy"), "search", "test").position == 0).sum() == 3


def test_it_is_in_neither_column_of_the_page(tmp_path: Path) -> None:
    """Left: 2 (3), 5 (1), 4 (1, clicked). Right: 3 (2, clicked). 8 was shown at 4, too, but counts at the top."""
    config = RankConfig(data=str(write_data(tmp_path)), task="search", runs_dir=tmp_path / "runs")
    done = rank(Production(), config)
    parts = {part.label: part for part in done.summary.slices if part.slice == "column of the page"}
    assert {label: part.n for label, part in parts.items()} == {"left, odd position": 3, "right, even position": 1}
    assert [part.figures["mrr@10"].n for part in parts.values()] == [1, 1]
    assert sum("odd positions are taken for the left one" in remark for remark in done.summary.remarks) == 1
    unknown = config.model_copy(update={"log": LogSettings(position_zero="unknown")})
    parts = {p.label: p for p in rank(Production(), unknown).summary.slices if p.slice == "column of the page"}
    assert {label: part.n for label, part in parts.items()} == {"left, odd position": 3, "right, even position": 2}


def test_click_models_look_at_the_top_as_at_position_1() -> None:
    pytest.importorskip("torch")
    import torch

    from qilin_rag.rankers.propensity import Examination, click_weights, estimate_examination, position_buckets

    assert position_buckets(np.array([-1, 0, 1, 2])).tolist() == [0, 1, 1, 2]
    assert click_weights(np.array([-1, 0, 1, 4]), Examination(0.5), 10).tolist() == [1, 1, 1, 2]

    class Zero(torch.nn.Module):  # type: ignore[misc]
        def logits(self, features: Any) -> Any:
            return features["logit"]

    def estimated(*positions: int, n_columns: int = 1) -> Any:
        position = torch.tensor(positions)
        batch = {"logit": torch.zeros(len(positions))}, torch.tensor([1.0, 0, 1, 0, 0, 1]), position
        return estimate_examination(Zero(), [], [batch] * 20, n_columns)

    assert estimated(0, 0, 3, 4, 5, 6) == estimated(1, 1, 3, 4, 5, 6) == estimated(-1, -1, 3, 4, 5, 6)
    assert estimated(0, 0, 3, 4, 5, 6) != estimated(2, 2, 3, 4, 5, 6)
    columns = estimated(0, 0, 3, 4, 5, 6, n_columns=2)  # 0 is not even: it is in no column
    assert columns == estimated(1, 1, 3, 4, 5, 6, n_columns=2) != estimated(0, 0, 3, 4, 5, 7, n_columns=2)


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
