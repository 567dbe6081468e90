"""A small Qilin, and its tables written in every layout by other means than ours."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[dict[str, Any]]


def details(*clicks: int, timestamp: str = "search_timestamp") -> list[dict[str, Any]]:
    """One exposed note per given click, notes 3, 4, ...; gaps in position, a missing page time."""
    return [
        {
            "note_idx": 3 + i,
            "position": 1 + 2 * i,
            "click": click,
            "like": 0,
            "collect": 0,
            "share": 0,
            "comment": 0,
            timestamp: 1732667616 + i,
            "page_time": float("nan") if i else 2.5,
            "note_id": f"id{i}",
        }
        for i, click in enumerate(clicks)
    ]


def answer(search_idx: int, query: str, output: str, **flags: float) -> dict[str, Any]:
    """A row of dqa; the flags not named are 0."""
    names = ("is_like_clk", "is_content_clk", "is_onebox_trace_clk", "is_experience_clk")
    return {
        "query": query,
        "query_from_type": 2.0 if search_idx % 2 else float("nan"),
        "dqa_output": output,
        **{name: flags.get(name, -1.0 if output == "-1" else 0.0) for name in names},
        "recent_clicked_note_idxs": [3, 5, 3],
        "ref_note_idx_list": [] if output == "-1" else [4, 3, 4],
        "search_result_details_with_idx": details(1, 0, 1),
        "session_idx": 9,
        "search_idx": search_idx,
        "user_idx": search_idx % 3,
        "bm25_results": [[4.0, 33.502201], [6.0, 21.5], [3.0, 21.5]],
        "dpr_results": [[3.0, 340.25], [3.0, 339.5]],
    }


TABLES: Mapping[str, Rows] = {
    "notes": [
        {
            "note_title": title,
            "note_content": content,
            "note_type": 1.0 + i % 2,
            "imp_num": 10672.0 * i,
            "taxonomy1_id": "nan",
            "note_idx": 3 + i,
            "image_path": ["image/a.jpg", "image/b.jpg"][:i],
            "note_embedding": [0.5, -0.25, 1.0 * i],
        }
        for i, (title, content) in enumerate(
            [
                ("灌香肠", "每年只要到灌香肠的环节，就说明快要过年了🧨[偷笑R]#腊肠[话题]#"),
                ("", "补课真的有用吗？\n为什么\t有的孩子越补越好"),
                ("KL的饺子\\", "一：\"煮\"饺子'只需'10分钟"),
                ("特斯拉, 摄像头", ""),
            ]
        )
    ],
    "user_feat": [
        {"gender": "female", "age": "40+", "fans_num": 2.0, "dense_feat40": 1.5, "user_idx": i} for i in range(3)
    ],
    "dqa": [
        answer(4638, "长隆要门票吗", "-1"),
        answer(6685, "ＫＬ 饺子", "煮开[第1篇](#)。", is_content_clk=1.0),
        answer(650, "补课有用吗", "有用。", is_like_clk=1.0, is_onebox_trace_clk=1.0),
        answer(8, "kl  饺子 ", "再煮。", is_experience_clk=1.0),
        answer(9, "补课有用吗", "没人点。"),
    ],
    "search_test": [
        {
            "query": "饺子",
            "search_idx": 1,
            "user_idx": 1,
            "search_results": [3, 4],
            "search_result_details_with_idx": details(0),
        }
    ],
    "recommendation_test": [
        {
            "query": "腊肠 饺子",
            "request_idx": 2,
            "user_idx": 0,
            "rec_result_details_with_idx": details(1, 1, timestamp="request_timestamp"),
        }
    ],
}


def write_parquet(folder: Path, tables: Mapping[str, Rows] = TABLES) -> Path:
    """As on the hub: shards in a folder a table, the rows of the second before those of the first."""
    for name, rows in tables.items():
        (folder / name).mkdir(parents=True)
        middle = (len(rows) + 1) // 2
        whole = pa.Table.from_pylist(rows)
        for i, part in enumerate((whole.slice(middle), whole.slice(0, middle))):
            pq.write_table(part, folder / name / f"train-0000{i}-of-00002.parquet")
    return folder


def write_arrow(folder: Path, tables: Mapping[str, Rows] = TABLES, stream: bool = False) -> Path:
    """One file a table; as the datasets library does (a stream, large strings, lists of fixed size), or an IPC file."""
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        table = pa.Table.from_pylist(rows)
        if stream:
            kinds = {field.name: pa.large_string() for field in table.schema if pa.types.is_string(field.type)}
            kinds |= {"note_embedding": pa.list_(pa.float64(), 3)} if name == "notes" else {}
            table = table.cast(
                pa.schema([field.with_type(kinds.get(field.name, field.type)) for field in table.schema])
            )
        with (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(folder / f"{name}.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return folder


def write_csv(folder: Path, tables: Mapping[str, Rows] = TABLES) -> Path:
    """As the authors' sample: what numpy prints for lists, of pairs, of dicts, of numbers."""
    folder.mkdir(parents=True)

    def cell(value: Any) -> object:
        if isinstance(value, float) and value != value:
            return ""
        if not isinstance(value, list):
            return value
        if value and isinstance(value[0], list):
            as_objects = np.empty(len(value), dtype=object)
            as_objects[:] = [np.array(pair) for pair in value]
            return str(as_objects)
        return str(np.array(value, dtype=None if value and isinstance(value[0], int) else object))

    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({key: cell(value) for key, value in row.items()} for row in rows)
    return folder


def write_jsonl(folder: Path, tables: Mapping[str, Rows] = TABLES) -> Path:
    """One object a line, NaN as JSON lines have it from pandas: null."""
    folder.mkdir(parents=True)

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return None if value != value else value

    for name, rows in tables.items():
        lines = "".join(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows[::-1])
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


LAYOUTS: Mapping[str, Callable[[Path], Path]] = {
    "parquet": write_parquet,
    "arrow": write_arrow,
    "arrow-stream": lambda folder: write_arrow(folder, stream=True),
    "csv": write_csv,
    "jsonl": write_jsonl,
}


def changed(name: str, row: int, **values: Any) -> dict[str, Rows]:
    """The tables with some values of one row replaced."""
    rows = [dict(known) for known in TABLES[name]]
    rows[row] |= values
    return {**TABLES, name: rows}


def columns(tables: Mapping[str, Rows], name: str, drop: Sequence[str]) -> dict[str, Rows]:
    """The tables, one of them without some columns."""
    return {**tables, name: [{key: value for key, value in row.items() if key not in drop} for row in tables[name]]}
