"""Requests out of the ranking tables: candidates each once, times, the latest set apart; by hand and by pandas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.ties import text_hashes, tie_keys
from qilin_rag.core.types import Hit, Question
from qilin_rag.data.exposures import concat
from qilin_rag.data.requests import read_requests, read_table, requests_of, split_by_time
from qilin_rag.data.source import Source, open_source
from qilin_rag.synth import resolve_world, synthesize


def shown(note_idx: int, position: int | None, click: int = 0, at: int | None = 100_000) -> dict[str, Any]:
    return {"note_idx": note_idx, "position": position, "click": click, "search_timestamp": at}


def source_of(folder: Path, rows: list[dict[str, Any]], name: str = "search_train") -> Source:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return open_source(str(folder))


ROWS = [
    {
        "search_idx": 12,
        "query": "早餐",
        "user_idx": 5,
        "session_idx": 1,
        "query_from_type": 2.0,
        "recent_clicked_note_idxs": [7, 8],
        "search_result_details_with_idx": [shown(3, 9), shown(1, 2, at=99_000), shown(3, 4, 1), shown(2, None)],
    },
    {"search_idx": 2, "query": "", "search_result_details_with_idx": [shown(9, 1, 1, None)]},
    {"search_idx": 7, "query": "空", "search_result_details_with_idx": []},
]


def test_a_table_by_hand(tmp_path: Path) -> None:
    requests = read_table(source_of(tmp_path, ROWS), "search_train")
    assert requests.ids == ["2", "7", "12"]
    assert requests.queries == ["", "空", "早餐"]
    assert requests.offsets.tolist() == [0, 1, 1, 4]
    columns = (requests.request, requests.note_idx, requests.clicked, requests.position)
    assert sorted(zip(*(column.tolist() for column in columns), strict=True)) == [
        (0, 9, True, 1),
        (2, 1, False, 2),
        (2, 2, False, -1),
        (2, 3, True, 4),  # clicked the second time, and seen first at 4
    ]
    assert requests.request.tolist() == [0, 2, 2, 2]
    assert requests.n_clicked.tolist() == [1, 0, 1]
    assert requests.user_idx.tolist() == [-1, -1, 5]
    assert requests.source.tolist() == [0, 0, 2]
    assert requests.time_ms.tolist() == [-1, -1, (99_000 - 8 * 3600) * 1000]
    assert requests.recent[requests.recent_offsets[2] :].tolist() == [7, 8]
    assert not requests.answered.any() and requests.is_search.all()


def test_take_and_concat(tmp_path: Path) -> None:
    requests = read_table(source_of(tmp_path, ROWS), "search_train")
    back = requests.take(np.array([2, 0]))
    assert back.ids == ["12", "2"] and back.note_idx.tolist() == [*requests.note_idx[1:], 9]
    assert back.recent.tolist() == [7, 8]
    assert concat([requests.take(np.array([0])), requests.take(np.array([1, 2]))]).sha256 == requests.sha256
    assert requests.take(requests.n_clicked > 0).ids == ["2", "12"]
    unclicked = requests.with_candidates(~requests.clicked)
    assert unclicked.offsets.tolist() == [0, 0, 0, 2] and set(unclicked.note_idx.tolist()) == {1, 2}


def test_equal_scores_go_by_a_hash_of_request_and_note(tmp_path: Path) -> None:
    requests = read_table(source_of(tmp_path, ROWS), "search_train")
    rankings = requests.rankings(np.where(requests.note_idx == 2, 2, 1).astype(np.float32))
    tied = np.array([1, 3])
    expected = tied[np.argsort(tie_keys(text_hashes(["12"]), tied))].tolist()
    assert [[hit.note_idx for hit in hits] for hits in rankings] == [[9], [], [2, *expected]]
    assert [hit.rank for hit in rankings[2]] == [1, 2, 3]


def test_the_order_of_candidates_tells_nothing_of_ids_or_exposure() -> None:
    """The place of the highest id, of the lowest one and of what stood first, over 2,000 requests of ten notes."""
    questions = [Question(id=str(i), query="q", references=["-"], reference_notes=[9]) for i in range(2000)]
    shown = [[Hit(note_idx=(i + j) % 10, score=0, rank=j + 1) for j in range(10)] for i in range(2000)]
    requests = requests_of(questions, shown)
    for told in (requests.note_idx == 9, requests.note_idx == 0, requests.position == 1):
        places = (np.arange(20000) % 10)[told]
        counts = np.bincount(places, minlength=10)
        assert counts.sum() == 2000 and ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-squared, .999
    questions[0] = questions[0].model_copy(update={"query": "another"})
    assert requests_of(questions, [hits[::-1] for hits in shown]).note_idx.tolist() == requests.note_idx.tolist()


def test_the_latest_are_set_apart() -> None:
    questions = [Question(id=str(i), query="", references=["-"]) for i in range(10)]
    requests = requests_of(questions, [[Hit(note_idx=1, score=0, rank=1)]] * 10)
    with pytest.raises(UsageError, match="request 0 has no time"):
        split_by_time(requests, 0.2)
    requests.time_ms[:] = [5, 3, 9, 1, 8, 8, 2, 7, 6, 4]
    earlier, later = split_by_time(requests, 0.2)
    assert later.ids == ["2"]  # both of time 8 are before the cut
    assert earlier.time_ms.max() < later.time_ms.min()
    assert len(earlier) + len(later) == 10
    with pytest.raises(UsageError, match="too few"):
        split_by_time(requests, 0.01)
    requests.time_ms[:] = 1
    with pytest.raises(UsageError, match="of one time"):
        split_by_time(requests, 0.2)


def test_defects_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 2: search_result_details_with_idx holds a result without note_idx"):
        rows = [ROWS[2], {"search_idx": 1, "query": "", "search_result_details_with_idx": [{"position": 1}]}]
        read_table(source_of(tmp_path, rows), "search_train")
    with pytest.raises(UsageError, match=r"search_idx 2 .*twice"):
        read_table(source_of(tmp_path, [ROWS[1], ROWS[1]]), "search_train")
    with pytest.raises(UsageError, match="column 'search_result_details_with_idx' is missing"):
        read_table(source_of(tmp_path, [{"search_idx": 1, "query": ""}]), "search_train")


def test_a_synthetic_qilin_as_pandas_reads_it(tmp_path: Path) -> None:
    import pandas as pd

    counts = {"notes": 400, "searches": 200, "recommendations": 150, "dqa": 40, "users": 40}
    synthesize(resolve_world(counts, 1), tmp_path / "out")
    source = open_source(str(tmp_path / "out"))
    for task, column, key in (
        ("search", "search_result_details_with_idx", "search_idx"),
        ("recommendation", "rec_result_details_with_idx", "request_idx"),
    ):
        requests = read_requests(source, task, "test")  # type: ignore[arg-type]
        table = pd.read_parquet(tmp_path / "out" / f"{task}_test").explode(column)
        items = pd.DataFrame(table[column].tolist()).assign(request=table[key].to_numpy())
        first = items.groupby(["request", "note_idx"]).agg({"click": "max", "position": "min"}).reset_index()
        own = np.lexsort((requests.note_idx, requests.request))
        assert [requests.ids[row] for row in requests.request[own]] == first["request"].astype(str).tolist()
        assert requests.note_idx[own].tolist() == first["note_idx"].tolist()
        assert requests.clicked[own].tolist() == (first["click"] == 1).tolist()
        assert requests.position[own].tolist() == first["position"].tolist()
        train, validation = (read_requests(source, task, split, 0.1) for split in ("train", "validation"))  # type: ignore[arg-type]
        assert train.time_ms.max() < validation.time_ms.min()
        assert not set(train.ids) & set(validation.ids)
    dqa = read_requests(source, "search", "dqa")
    assert 0 < dqa.answered.sum() < len(dqa)
    times = [read_requests(source, task, "test").time_ms for task in ("search", "recommendation")]
    assert abs(np.median(times[0]) - np.median(times[1])) < 3 * 86_400_000  # both in true time
