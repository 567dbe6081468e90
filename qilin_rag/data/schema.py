"""The tables: names, keys, columns and types, independent of the encoding of the files. Seven are Qilin's, one is ours.

A missing column is a defect only if it is required; a missing value is null. Whole numbers count from 0. The generic
layout has the same tables with shorter names (`title`) and with its own reference answers (`answers`). The table
image_text, which Qilin does not have, holds what the images of notes say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pyarrow as pa

from qilin_rag.core.note_fields import IMAGE_TEXT

_NOTE_NUMBERS = """
    note_type video_duration video_height video_width image_num content_length commercial_flag
    imp_num imp_rec_num imp_search_num click_num click_rec_num click_search_num
    like_num collect_num comment_num share_num screenshot_num hide_num
    rec_like_num rec_collect_num rec_comment_num rec_share_num rec_follow_num
    search_like_num search_collect_num search_comment_num search_share_num search_follow_num
    accum_like_num accum_collect_num accum_comment_num
    view_time rec_view_time search_view_time valid_view_times full_view_times
""".split()  # noqa: SIM905 - a table, not one name a line
NOTE_ID = "note_id"
"""The notes' column of text ids."""
ACTIONS = ("click", "like", "collect", "share", "comment")

REQUEST_TABLES = ("search_train", "search_test", "dqa", "recommendation_train", "recommendation_test")
"""The tables whose rows are requests, with the results that were shown."""
TRAIN_TABLES = ("search_train", "recommendation_train")

TEXTS = pa.list_(pa.string())
NOTES = pa.list_(pa.int64())
VECTOR = pa.list_(pa.float32())
PAIRS = pa.list_(pa.list_(pa.float64()))
"""The type of recorded results: `[note_idx, score]`, best first."""


def _details(timestamp: str) -> pa.DataType:
    """Return the type of the notes exposed for one request, with the user's actions."""
    whole = [(name, pa.int64()) for name in ("note_idx", "position", *ACTIONS, timestamp)]
    return pa.list_(pa.struct([*whole, ("page_time", pa.float64()), ("note_id", pa.string())]))


class Table(NamedTuple):
    """The columns of one table.

    Attributes:
        aliases: Other names of columns.
        key: The column whose values are unique.
        own: Columns that Qilin does not have.
    """

    name: str
    key: str
    columns: Mapping[str, pa.DataType]
    required: tuple[str, ...]
    aliases: Mapping[str, str] = {}
    own: Mapping[str, pa.DataType] = {}

    @property
    def readable(self) -> dict[str, pa.DataType]:
        """Return all columns that a file may have: Qilin's, and our own."""
        return {**self.columns, **self.own}

    @property
    def note_columns(self) -> list[str]:
        """Return the columns that point to notes, except the key."""
        return [name for name, kind in self.columns.items() if kind in (NOTES, PAIRS) or _is_details(name)]


def _is_details(column: str) -> bool:
    return column.endswith("_details_with_idx")


def details_column(table: Table) -> str:
    """Return the column of a table of requests that holds the results shown."""
    return next(filter(_is_details, table.columns))


_REQUEST = {
    "query": pa.string(),
    "recent_clicked_note_idxs": NOTES,
    "session_idx": pa.int64(),
    "user_idx": pa.int64(),
    "bm25_results": PAIRS,
    "dpr_results": PAIRS,
    "question_embedding": VECTOR,
}
_SEARCH = {
    **_REQUEST,
    "query_from_type": pa.float64(),
    "search_result_details_with_idx": _details("search_timestamp"),
    "search_results": NOTES,
}
_RECOMMENDATION = {
    **_REQUEST,
    "request_idx": pa.int64(),
    "rec_result_details_with_idx": _details("request_timestamp"),
    "rec_results": NOTES,
}
FEEDBACK = ("is_like_clk", "is_content_clk", "is_onebox_trace_clk", "is_experience_clk")

TABLES = {
    table.name: table
    for table in (
        Table(
            "notes",
            "note_idx",
            {
                "note_idx": pa.int64(),
                "note_title": pa.string(),
                "note_content": pa.string(),
                **dict.fromkeys(_NOTE_NUMBERS, pa.float64()),
                **dict.fromkeys(("taxonomy1_id", "taxonomy2_id", "taxonomy3_id"), pa.string()),
                "image_path": TEXTS,
                "note_embedding": VECTOR,
            },
            required=("note_idx", "note_title", "note_content"),
            aliases={"title": "note_title", "content": "note_content"},
            own={NOTE_ID: pa.string(), IMAGE_TEXT: pa.string()},
        ),
        Table(
            "user_feat",
            "user_idx",
            {
                "user_idx": pa.int64(),
                **dict.fromkeys(("gender", "platform", "age", "location"), pa.string()),
                **dict.fromkeys(("fans_num", "follows_num"), pa.float64()),
                **{f"dense_feat{i}": pa.float64() for i in range(1, 41)},
            },
            required=("user_idx",),
        ),
        Table(
            "dqa",
            "search_idx",
            {
                "search_idx": pa.string(),  # generic layout only, whose ids may be any text
                **_SEARCH,
                "dqa_output": pa.string(),
                "answers": TEXTS,
                **dict.fromkeys(FEEDBACK, pa.float64()),
                "ref_note_idx_list": NOTES,
                "extra": pa.string(),  # plain values under other keys, as a JSON object
            },
            required=("search_idx", "query"),
        ),
        *(
            Table(name, "search_idx", {"search_idx": pa.int64(), **_SEARCH}, required=("search_idx", "query"))
            for name in ("search_train", "search_test")
        ),
        *(
            Table(name, "request_idx", _RECOMMENDATION, required=("request_idx",))
            for name in ("recommendation_train", "recommendation_test")
        ),
    )
}
"""The seven tables of Qilin."""

_IMAGE_TEXT = Table(
    IMAGE_TEXT,
    "note_idx",
    {"note_idx": pa.int64(), IMAGE_TEXT: pa.string()},
    required=("note_idx", IMAGE_TEXT),
    own={NOTE_ID: pa.string()},
)
ALL_TABLES = {**TABLES, IMAGE_TEXT: _IMAGE_TEXT}
"""All tables that data may have."""
