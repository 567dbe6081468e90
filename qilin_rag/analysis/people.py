"""Size of the data and its users: Table 2, and the demographics of section 4.1."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa

from qilin_rag.analysis.figures import Column, FigureTable, ratio, table
from qilin_rag.analysis.log import Log

_COUNT, _SHARE = Column(name="count", unit="count"), Column(name="share", unit="share")
_MOST_ROWS = 10
_MISSING = (None, "", "nan")
_PAPER2 = {
    "users": 15_482,
    "items": 1_983_938,
    "queries": 57_188,
    "queries with DQA": 2_932,
    "actions": 2_498_594,
    "images": 5_006_181,
}
_PAPER_PEOPLE = {
    "gender": {"female": 0.7653},
    "platform": {"iOS": 0.5356, "Android": 0.3879},
    "age": {"under 16": 0.0388, "16-40": 0.745, "over 40": 0.0727},
    "location": {"中国": 0.8432, "安道尔": 0.0145, "澳大利亚": 0.0122, "冰岛": 0.0119, "马来西亚": 0.0114},
}
_IN_CHINESE = {
    "China": "中国",
    "Andorra": "安道尔",
    "Australia": "澳大利亚",
    "Iceland": "冰岛",
    "Malaysia": "马来西亚",
}
_AGE_GROUPS = {
    "under 16": ("1-12", "13-15"),
    "16-40": ("16-18", "19-22", "23-25", "26-30", "31-35", "36-40"),
    "over 40": ("40+",),
}


def table2(log: Log, users: pa.Table | None) -> FigureTable:
    """Return the numbers of users, notes, queries, actions and images."""
    shown = log.shown
    n_users = len(np.unique(shown.user_idx[shown.user_idx >= 0])) if users is None else len(users)
    values: dict[str, int | None] = {
        "users": n_users,
        "items": len(log.notes.note_idx) or None,
        "queries": int(shown.is_search.sum()),
        "queries with DQA": int(shown.answered.sum()),
        "actions": len(shown.note_idx),
        "images": int(log.notes.n_images.sum()) or None,
    }
    return table(
        "table2",
        "Size of the data (Table 2)",
        [_COUNT],
        {name: [value] for name, value in values.items()},
        {name: {"count": value} for name, value in _PAPER2.items()},
        [
            "Actions are counted as results shown: the paper does not define them, and these are close to its own.",
            *(["There is no table of users: users with a request are counted."] if users is None else []),
        ],
        why_missing="not in the data",
    )


def demographics(users: pa.Table | None) -> list[FigureTable]:
    """Return shares of gender, platform, age and place; none if there is no table of users.

    The paper's shares of ages leave room for unknown ones, so all users count; for places, those that have one.
    """
    if users is None:
        return []
    tables = []
    for name in (name for name in ("gender", "platform", "age", "location") if name in users.schema.names):
        values = [value if value not in _MISSING else "unknown" for value in users[name].to_pylist()]
        if name == "location":  # country, province, city, separated by two spaces
            countries = [value.split("  ")[0].strip() for value in values if value != "unknown"]
            values = [_IN_CHINESE.get(country, country) for country in countries]
        counts = Counter(values)
        most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_ROWS]
        notes = [f"Shares are of the {len(values)} of {len(users)} users who have one."] if name == "location" else []
        if len(counts) > _MOST_ROWS:
            notes.append(f"{len(counts)} different ones; the {_MOST_ROWS} most frequent are shown.")
        rows: dict[str, list[float | None]] = {value: [ratio(count, len(values)), count] for value, count in most}
        paper = _PAPER_PEOPLE[name]
        if name == "age":
            for group, ages in _AGE_GROUPS.items():
                count = sum(counts[age] for age in ages)
                rows[group] = [ratio(count, len(values)), count]
        rows |= {value: [ratio(counts[value], len(values)), counts[value]] for value in paper if value not in rows}
        printed = {value: {"share": share} for value, share in paper.items()}
        tables.append(table(f"users_{name}", f"Users by {name} (section 4.1)", [_SHARE, _COUNT], rows, printed, notes))
    return tables
