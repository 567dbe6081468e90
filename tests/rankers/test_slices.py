"""Parts of requests and candidates: by hand, and on a synthetic Qilin as pandas has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.types import Hit, Question
from qilin_rag.data import load_dataset
from qilin_rag.data.catalogue import Catalogue, open_catalogue
from qilin_rag.data.requests import Requests, Split, read_requests, read_table, requests_of
from qilin_rag.data.source import open_source
from qilin_rag.rankers.metrics import figures_of
from qilin_rag.rankers.ranking_directory import RankConfig
from qilin_rag.rankers.run import rank
from qilin_rag.rankers.simple import Production
from qilin_rag.rankers.slices import Partition, of_candidates, of_requests
from qilin_rag.synth import resolve_world, synthesize


def asked(queries: list[str], **columns: list[Any]) -> Requests:
    questions = [Question(id=str(i), query=query, references=["-"]) for i, query in enumerate(queries)]
    requests = requests_of(questions, [[Hit(note_idx=1, score=0, rank=1)]] * len(queries))
    arrays: dict[str, Any] = {name: np.array(values) for name, values in columns.items()}
    return replace(requests, **arrays)


def labels(part: Partition) -> list[str | None]:
    return [part.labels[place] if place >= 0 else None for place in part.of.tolist()]


def by_name(parts: list[Partition]) -> dict[str, list[str | None]]:
    return {part.name: labels(part) for part in parts}


def test_places_in_long_sessions() -> None:
    long = asked([""] * 15, session_idx=[3] * 15, user_idx=[1] * 15, time_ms=list(range(15)))
    found = by_name(of_requests(long, [long], 1800))
    for kind in ("app", "pause"):
        assert found[f"place in session ({kind})"] == [*map(str, range(1, 11)), *[">10"] * 5]


def test_kinds_of_requests_by_hand() -> None:
    searches = asked(
        ["", "早餐", "三个字", "四个字啊", "一二三四五六七八九十", "一二三四五六七八九十多", "x", "x", "x"],
        source=[0, 1, 8, 2, 3, 4, 5, 9, 0],
        answered=[True, False, False, False, False, False, False, False, True],
    )
    found = by_name(of_requests(searches, [searches], 1800))
    assert found["query length"] == ["<=3", "<=3", "<=3", "4", "10", ">10", "<=3", "<=3", "<=3"]
    assert found["query source"] == ["missing", "1", "8", "2", "3", "4", "5", None, "missing"]
    assert found["answer"] == ["shown", *["not shown"] * 7, "shown"]
    sessions = {"place in session (app)", "place in session (pause)"}
    assert all(found[name] == [None] * 9 for name in sessions)
    recommendations = replace(searches, is_search=np.zeros(9, bool), answered=np.zeros(9, bool))
    assert set(by_name(of_requests(recommendations, [recommendations], 1800))) == sessions  # no query of its own


def test_kinds_of_candidates_by_hand(tmp_path: Path) -> None:
    def shown(*notes: int) -> Requests:
        question = Question(id="1", query="", references=["-"])
        return requests_of([question], [[Hit(note_idx=n, score=0, rank=i) for i, n in enumerate(notes, 1)]])

    train = replace(shown(1, 2), recent_offsets=np.array([0, 1]), recent=np.array([4]))
    lines = [(1, "1.0"), (2, "2.0"), (3, "null"), (4, "2"), (5, "1"), (6, "7")]
    text = "".join(f'{{"note_idx": {n}, "title": "", "content": "", "note_type": {kind}}}\n' for n, kind in lines)
    (tmp_path / "notes.jsonl").write_text(text)
    catalogue = open_catalogue(open_source(str(tmp_path)))
    requests = shown(6, 5, 4, 3, 2, 1)
    found = by_name(of_candidates(requests, catalogue, train, with_columns=True))
    seen, kind = (
        dict(zip(requests.note_idx.tolist(), found[name], strict=True)) for name in ("seen in train", "note type")
    )
    assert {note for note, label in seen.items() if label == "yes"} == {1, 2, 4}
    assert {note for note, label in seen.items() if label == "no, cold start"} == {3, 5, 6}
    assert kind == {1: "image-text", 2: "video", 3: None, 4: "video", 5: "image-text", 6: None}
    column = dict(zip(requests.note_idx.tolist(), found["column of the page"], strict=True))  # 6 is at position 1
    assert {note for note, label in column.items() if label == "left, odd position"} == {6, 4, 2}
    assert {note for note, label in column.items() if label == "right, even position"} == {5, 3, 1}
    sample = Catalogue(load_dataset("sample").notes)  # it has no types
    nowhere = replace(requests, position=np.array([-1, 0, -1, -1, 0, 0]))
    assert of_candidates(nowhere, sample, None, with_columns=True) == of_candidates(requests, sample, None) == []


@pytest.mark.parametrize("split", ["test", "dqa"])
def test_a_synthetic_qilin_as_pandas_parts_it(tmp_path: Path, split: Split) -> None:
    import pandas as pd

    counts = {"notes": 3000, "searches": 250, "recommendations": 200, "dqa": 60, "users": 40}
    synthesize(resolve_world(counts, 4), tmp_path / "qilin")
    done = rank(Production(), RankConfig(data=str(tmp_path / "qilin"), task="search", split=split))
    details = {"search": "search_result_details_with_idx", "recommendation": "rec_result_details_with_idx"}
    tables = []
    for name in ("search_train", "search_test", "dqa", "recommendation_train", "recommendation_test"):
        task, key = ("recommendation", "request_idx") if name.startswith("rec") else ("search", "search_idx")
        rows = pd.read_parquet(tmp_path / "qilin" / name)
        stamp = "search_timestamp" if task == "search" else "request_timestamp"
        first = rows[details[task]].map(lambda items, stamp=stamp: min(item[stamp] for item in items))
        time_s = first - 28_800 if task == "search" else first / 1000
        tables.append(rows.assign(table=name, id=rows[key].astype(str), time_s=time_s, details=rows[details[task]]))
    log = pd.concat(tables)
    log["place"] = log.groupby("session_idx")["time_s"].rank(method="min").astype(int)
    wanted = log[log["table"] == ("dqa" if split == "dqa" else "search_test")].set_index("id")
    lines = {line.id: line for line in done.directory.read_figures()}
    assert set(lines) == set(wanted.index)
    place = wanted["place"].map(lambda n: str(n) if n <= 10 else ">10")
    length = wanted["query"].str.len().map(lambda n: "<=3" if n <= 3 else ">10" if n > 10 else str(n))
    source = wanted["query_from_type"].map(lambda x: "missing" if pd.isna(x) else str(int(x)))
    columns = {"place in session (app)": place, "query length": length, "query source": source}
    if split == "dqa":
        columns["answer"] = wanted["dqa_output"].map(lambda text: "not shown" if text == "-1" else "shown")
    for name, column in columns.items():
        assert {i: line.slices[name] for i, line in lines.items()} == column.to_dict()
    frame = pd.DataFrame(
        [line.slices | {"mrr": line.figures["mrr@10"] if line.figures else None} for line in lines.values()]
    )
    summaries = {(part.slice, part.label): part for part in done.summary.slices}
    for name in columns:
        for label, values in frame.groupby(name)["mrr"]:
            part = summaries[name, label]
            assert (part.of, part.n, part.figures["mrr@10"].n) == ("requests", len(values), values.count())
            if values.count():
                assert part.figures["mrr@10"].value == pytest.approx(values.mean())
        assert sum(part.n for part in done.summary.slices if part.slice == name) == len(lines)

    source_of = open_source(str(tmp_path / "qilin"))
    train = read_requests(source_of, "search", "train")
    seen = set(train.note_idx.tolist()) | set(train.recent.tolist())
    assert len(train) < len(read_table(source_of, "search_train"))  # what is kept for validation does not count as seen
    types = pd.read_parquet(tmp_path / "qilin" / "notes").set_index("note_idx")["note_type"]
    items = pd.DataFrame(
        [
            (i, item["note_idx"], item["click"], item["position"])
            for i, row in wanted["details"].items()
            for item in row
        ],
        columns=["id", "note", "click", "position"],
    )
    items = items.groupby(["id", "note"]).agg({"click": "max", "position": "min"}).reset_index()
    kinds = {
        ("seen in train", "yes"): items["note"].isin(seen),
        ("seen in train", "no, cold start"): ~items["note"].isin(seen),
        ("note type", "image-text"): items["note"].map(types) == 1,
        ("note type", "video"): items["note"].map(types) == 2,
    }
    for (name, label), mask in kinds.items():
        found = []
        for _, rows in items[mask].sort_values(["id", "position", "note"]).groupby("id"):
            if rows["click"].any():
                first = int(np.argmax(rows["click"].to_numpy() == 1)) + 1
                found.append(1 / first if first <= 10 else 0.0)
        figure = summaries[name, label].figures["mrr@10"]
        assert (summaries[name, label].of, summaries[name, label].n) == ("candidates", int(mask.sum()))
        assert found and figure.n == len(found)
        assert figure.value == pytest.approx(np.mean(found))


def test_candidates_of_a_kind_keep_their_order() -> None:
    question = Question(id="1", query="", references=["-"], reference_notes=[3])
    requests = requests_of([question], [[Hit(note_idx=n, score=0, rank=n) for n in (1, 2, 3, 4)]])
    scores = -requests.note_idx.astype(np.float32)
    keep = requests.note_idx != 1
    [figures] = figures_of(requests.with_candidates(keep), scores[keep])
    assert figures is not None and figures["mrr@10"] == 0.5
