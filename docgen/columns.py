"""The codebook of Qilin's tables: names and types from the code, meanings from here. Missing meanings are an error."""

from __future__ import annotations

import re

import pyarrow as pa

from docgen.html import code, inline, table
from qilin_rag.core.note_fields import IMAGE_TEXT
from qilin_rag.data.schema import NOTE_ID, REQUEST_TABLES, TABLES, Table

ROWS = {
    "notes": 1_983_938,
    "user_feat": 15_482,
    "dqa": 6_972,
    "search_train": 44_024,
    "search_test": 6_192,
    "recommendation_train": 83_437,
    "recommendation_test": 11_115,
}
_SURFACES = {"": "everywhere", "rec_": "in recommendation", "search_": "in search", "accum_": "accumulated"}
_EVENTS = {
    "like": "Likes",
    "collect": "Collections (saved to a folder)",
    "comment": "Comments",
    "share": "Shares",
    "follow": "Follows of the author",
}
MEANINGS = {
    "notes": {
        "note_idx": "Id of the note, 0 to 1,983,937. The order of the rows is not that of the ids.",
        "note_title": "Title.",
        "note_content": "Text, with topics such as `#腊肠[话题]#`, stickers such as `[笑哭R]`, emoji and line breaks.",
        "note_type": "1 image and text, 2 video.",
        "video_duration": "Length of the video; the unit is not documented.",
        "video_height": "Height of the video; presumably pixels.",
        "video_width": "Width of the video; presumably pixels.",
        "image_num": "Number of images.",
        "content_length": "Length of the text.",
        "commercial_flag": "Whether the note is commercial.",
        "imp_num": "Impressions everywhere.",
        "imp_rec_num": "Impressions in recommendation.",
        "imp_search_num": "Impressions in search.",
        "click_num": "Clicks everywhere.",
        "click_rec_num": "Clicks in recommendation.",
        "click_search_num": "Clicks in search.",
        "screenshot_num": "Screenshots.",
        "hide_num": "Times that a user hid the note.",
        "view_time": "Time that the note was viewed; the unit is not documented.",
        "rec_view_time": "View time in recommendation.",
        "search_view_time": "View time in search.",
        "valid_view_times": "Views that count as valid; the rule is not documented.",
        "full_view_times": "Views to the end.",
        "taxonomy1_id": 'Topic, coarsest level: an opaque string. `"nan"` is missing.',
        "taxonomy2_id": "Topic, middle level.",
        "taxonomy3_id": "Topic, finest level.",
        "image_path": "Paths of the images, the cover first; the images are distributed apart. May be empty.",
        "note_embedding": "Vector of the note, 768 numbers. Absent from the hub's copy.",
        NOTE_ID: "Id of the note where it is text. Not Qilin's: of your own data.",
        IMAGE_TEXT: "What its images say. Not Qilin's: of your own data, or the table `image_text` (`data ocr`).",
    },
    "user_feat": {
        "user_idx": "Id of the user, 0 to 15,481.",
        "gender": "`male`, `female` or `unknown`.",
        "platform": "`iOS`, `Android`, `Harmony` or `unknown`.",
        "age": "`1-12`, `13-15`, `16-18`, `19-22`, `23-25`, `26-30`, `31-35`, `36-40`, `40+` or `unknown`.",
        "location": "Place of the IP address; often empty.",
        "fans_num": "Followers.",
        "follows_num": "Users that the user follows.",
        "dense_feat1 ... dense_feat40": "Features of the user; what they measure is not documented.",
    },
    "requests": {
        "query": "The query. In recommendation: the titles of recently clicked notes, joined by spaces.",
        "query_from_type": "Where the query came from: 1 typed, 2 auto-completion, 3 history, 4 suggestion on the "
        "page, 5 suggestion in a note, 6 filter, 7 hot list, 8 others. May be missing, which is not 8.",
        "recent_clicked_note_idxs": "Notes that the user clicked before, at most 20.",
        "search_result_details_with_idx": "The results shown and what the user did; see below.",
        "rec_result_details_with_idx": "The results shown and what the user did; see below.",
        "search_idx": "Id of the search. dqa, search_train and search_test have no id in common.",
        "request_idx": "Id of the request.",
        "session_idx": "Id of the session that Qilin assigned.",
        "user_idx": "Id of the user, in user_feat.",
        "bm25_results": "100 pairs of `note_idx` and score, best first: Anserini's BM25 with k1 = 0.9, b = 0.4 over "
        "title and text, cut into bigrams. Not in the train tables.",
        "dpr_results": "As bm25_results, by a dense retriever.",
        "search_results": "The notes that were shown. Not in search_train.",
        "rec_results": "The notes that were shown. Not in recommendation_train.",
        "question_embedding": "Vector of the query. Absent from the hub's copy.",
        "dqa_output": 'The answer shown, in Markdown, with citations as `[第1篇](#)`. `"-1"`: no answer was shown.',
        "is_like_clk": "1: the user liked the answer. -1: no answer was shown.",
        "is_onebox_trace_clk": "1: the user clicked a citation in the answer. -1: no answer was shown.",
        "is_content_clk": "1: the user clicked the answer's text. -1: no answer was shown.",
        "is_experience_clk": "1: the user clicked what the data calls an experience. -1: no answer was shown.",
        "ref_note_idx_list": "The notes that the answer cites; some were not among the results shown. Empty or missing "
        "without an answer.",
        "answers": "Reference answers. Not Qilin's: of your own data.",
        "extra": "All other keys of a line of your own data, as a JSON object. Not Qilin's.",
    },
    "details": {
        "note_idx": "The note shown. A note may appear twice.",
        "position": "Place in the list, from 1, with gaps. Some data have 0, which is read as above 1 "
        "(`log.position_zero`).",
        "click": "1: clicked. This is what rankers are judged by.",
        "like": "1: liked.",
        "collect": "1: saved to a folder.",
        "share": "1: shared.",
        "comment": "1: commented on.",
        "search_timestamp": "Time of the search in seconds. It looks like Beijing's wall clock written as UTC, 8 hours "
        "ahead (`log.search_shift_s`).",
        "request_timestamp": "Time of the request in milliseconds since 1970, UTC.",
        "page_time": "Seconds on the note. NaN, -1 or 0, by table, is missing.",
        "note_id": "Id of the note as text; not in every copy.",
    },
}


def qilin_tables() -> str:
    """Return the tables of Qilin with their rows and keys."""
    rows = [(code(name), f"{n_rows:,}", code(TABLES[name].key)) for name, n_rows in ROWS.items()]
    return table(("Table", "Rows", "Key"), rows)


def note_columns() -> str:
    """Return the columns of the table notes."""
    return _table(TABLES["notes"], MEANINGS["notes"])


def user_columns() -> str:
    """Return the columns of the table user_feat; the forty features are one row."""
    return _table(TABLES["user_feat"], MEANINGS["user_feat"])


def request_columns() -> str:
    """Return the columns of the five tables of requests, with the tables that have each."""
    requests = {name: of for name, of in TABLES.items() if name in REQUEST_TABLES}
    columns = {column: kind for of in requests.values() for column, kind in of.columns.items()}
    rows = []
    for column, kind in columns.items():
        tables = [name for name, of in requests.items() if column in of.columns]
        where = "all" if len(tables) == len(requests) else ", ".join(tables)
        rows.append((code(column), code(_type(kind)), inline(where), inline(MEANINGS["requests"][column])))
    return table(("Column", "Type", "Tables", "Meaning"), rows)


def details_fields() -> str:
    """Return the fields of one result shown."""
    fields = {
        field.name: field.type
        for of in TABLES.values()
        for column, kind in of.columns.items()
        if column.endswith("_details_with_idx")
        for field in kind.value_type
    }
    rows = [(code(name), code(_type(kind)), inline(MEANINGS["details"][name])) for name, kind in fields.items()]
    return table(("Field", "Type", "Meaning"), rows)


def _table(of: Table, meanings: dict[str, str]) -> str:
    rows = {}
    for column, kind in of.readable.items():
        name = re.sub(r"^dense_feat\d+$", "dense_feat1 ... dense_feat40", column)
        rows[name] = (code(name), code(_type(kind)), inline(meanings.get(name) or _count(column)))
    return table(("Column", "Type", "Meaning"), rows.values())


def _count(column: str) -> str:
    """The meaning of a count by its name, such as rec_like_num."""
    found = re.fullmatch(rf"({'|'.join(_SURFACES)})({'|'.join(_EVENTS)})_num", column)
    if found is None:
        raise KeyError(f"no meaning of the column {column}")
    return f"{_EVENTS[found[2]]} {_SURFACES[found[1]]}."


def _type(kind: pa.DataType) -> str:
    """A type of Arrow in the words of a reader."""
    if pa.types.is_struct(kind):
        return "details"
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    return {"string": "text", "int64": "integer"}.get(str(kind), "float")
