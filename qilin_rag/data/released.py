"""Recognition of the released Qilin data, on which alone the paper's figures were computed.

A name proves nothing, and synthetic data has the same columns, ids and, at full size, as many rows. The check therefore
uses the number of rows and the content of a few known ones: hashes of rows of the authors' own sample, by id.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from qilin_rag.core.types import Question
from qilin_rag.data.encodings import present_columns, read_batches
from qilin_rag.data.schema import TABLES
from qilin_rag.data.source import Source

N_NOTES = 1_983_938
N_ROWS = {"dqa": 6_972, "search_test": 6_192, "recommendation_test": 11_115}
_QUERIES = {
    "dqa": {
        "4638": "6a1e2435923382c7",
        "6685": "f2d8db1fef260d1b",
        "650": "7ad15fe010133fbf",
        "3638": "373d5aab5e19db02",
        "6655": "586370062ecafe0e",
        "2278": "b210894b4f20f070",
        "949": "67bc9fbada5b9516",
        "808": "288381cb9d9fb3ac",
        "5253": "0cf667d3098ba72e",
        "2499": "113d557a05f3e110",
    },
    "search_test": {
        "53716": "7a75017aff29408b",
        "54305": "b7e32d054c926477",
        "52785": "19e745de364bb09a",
        "56765": "d3cb4c7becf62b0d",
        "52378": "11cb35e25dd24ca5",
        "52229": "b7ee3577c4b488c8",
        "51394": "b4b3dd9c069d6692",
        "54410": "0e2f7ba585445daf",
        "55146": "4e6f07920e055d74",
        "54709": "0dd462cff114158d",
    },
    "recommendation_test": {
        "85210": "5ed3ac2555690af0",
        "89788": "c29827d544c1f33d",
        "89730": "e80503e1b50c0e8d",
        "85526": "b0996fce842338c7",
        "89564": "e43028496f48857c",
        "92143": "3ac16314ffc333a5",
        "92146": "be87be46e97e448f",
        "85270": "03d2e52962199477",
        "90267": "8d8c3a1659fddf46",
        "94202": "3455bfc26ed5205e",
    },
}
"""Hashes of queries by table and id."""
_ENGAGED = {"6685": "2a3842114da42671", "3638": "6f33e408fff27e7f", "949": "6c6dc6ee17a75de0"}
"""Hashes of queries with the notes that their answers cite: the known rows of dqa whose answers users engaged with."""


def why_other_questions(n_notes: int, questions: Sequence[Question]) -> str | None:
    """Return why these are not known to be the questions of Qilin whose answers users engaged with; None if they are.

    Args:
        n_notes: The number of notes in the data.
        questions: The questions of a run over all of the data.
    """
    by_id = {question.id: question for question in questions}
    hashes = [_hash(by_id[i].query, _numbers(by_id[i].reference_notes)) for i in _ENGAGED if i in by_id]
    return _why_other_size("notes", n_notes, N_NOTES) or _why_other_rows(hashes, list(_ENGAGED.values()))


def why_other_requests(table: str, queries: Mapping[str, str], is_part: bool = False) -> str | None:
    """Return why requests are not known to be those of a table of Qilin; None if they are.

    Args:
        table: `dqa`, `search_test` or `recommendation_test`.
        queries: The query of each request by id.
        is_part: Whether these are only the first requests by id; then one known request is enough.
    """
    known_hashes = _QUERIES[table]
    last = max(map(int, filter(str.isdecimal, queries)), default=-1)
    expected = {i: digest for i, digest in known_hashes.items() if not is_part or int(i) <= last}
    hashes = [_hash(queries[i]) for i in expected if i in queries]
    why = None if is_part else _why_other_size(f"requests in {table}", len(queries), N_ROWS[table])
    return why or _why_other_rows(hashes, list(expected.values()))


def why_other_data(source: Source, n_notes: int) -> str | None:
    """Return why the tables of a data set are not known to be Qilin's; None if they are."""
    if why := _why_other_size("notes", n_notes, N_NOTES):
        return why
    there = [table for table in N_ROWS if table in source.tables()]
    if not there:
        return "none of its tables has rows that are known"
    return next(filter(None, (why_other_requests(table, _read_queries(source, table)) for table in there)), None)


def _read_queries(source: Source, table: str) -> dict[str, str]:
    encoding, files = source.files(table)
    key = TABLES[table].key
    if "query" not in present_columns(encoding, files, TABLES[table]):
        return {}
    return {
        str(request): query or ""
        for path in files
        for batch in read_batches(encoding, path, TABLES[table], [key, "query"])
        for request, query in zip(*(batch.rows.column(name).to_pylist() for name in (key, "query")), strict=True)
    }


def _why_other_size(what: str, n: int, of_qilin: int) -> str | None:
    return None if n == of_qilin else f"{n:,} {what}, Qilin has {of_qilin:,}"


def _why_other_rows(hashes: Sequence[str], known_hashes: Sequence[str]) -> str | None:
    n_same = sum(digest in known_hashes for digest in hashes)
    if n_same == len(known_hashes) and known_hashes:
        return None
    return f"{n_same} of {len(known_hashes)} known rows are as in Qilin"


def _numbers(numbers: Sequence[int]) -> str:
    return " ".join(map(str, sorted(numbers)))


def _hash(*parts: str) -> str:
    """Return the hash of texts without white space, which encodings treat differently."""
    return hashlib.sha256("|".join("".join(part.split()) for part in parts).encode()).hexdigest()[:16]
