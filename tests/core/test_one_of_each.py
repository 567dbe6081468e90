"""Look-ups and hashes that are written once: right at the edges, and the same bytes as ever."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qilin_rag
from qilin_rag.core.arrays import positions_in
from qilin_rag.core.hashing import fingerprint, json_digest, json_hash
from qilin_rag.data.notes import note_digest
from qilin_rag.llms.cache import request_key

IDS = st.lists(st.integers(-5, 30))


@given(IDS, IDS)
def test_a_value_is_found_at_its_first_place_or_nowhere(ascending: list[int], wanted: list[int]) -> None:
    ascending = sorted(ascending)
    found = positions_in(np.array(ascending, np.int32), np.array(wanted, np.int64))
    assert found.tolist() == [ascending.index(each) if each in ascending else -1 for each in wanted]
    assert found.dtype == np.int64


def test_numbers_far_apart_are_not_mixed_up() -> None:
    ends = np.array([np.iinfo(np.int64).min, 0, np.iinfo(np.int64).max])
    assert positions_in(ends, ends[::-1]).tolist() == [2, 1, 0]
    assert positions_in(ends, np.array([-1, 1])).tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("sort_keys", "ensure_ascii", "expected"),
    [
        (False, False, "641f6441130752db"),
        (False, True, "29c3d35f5635c105"),
        (True, False, "f07bf4b7659bc426"),
        (True, True, "c13e0e979d055dca"),
    ],
)
def test_hashes_are_of_the_bytes_they_always_were_of(sort_keys: bool, ensure_ascii: bool, expected: str) -> None:
    value = {"b": ["冷萃", 1.5, None], "a": {"z": True, "y": 2}}
    found = json_hash(value, sort_keys=sort_keys, ensure_ascii=ensure_ascii)
    assert found[:16] == expected
    assert json_digest(value, sort_keys=sort_keys, ensure_ascii=ensure_ascii).hex() == found
    if sort_keys and ensure_ascii:
        assert fingerprint(value) == found


def test_kept_keys_are_the_same_as_in_older_caches() -> None:
    assert request_key({"model": "茶", "messages": []})[:16] == "9eb9412510a24df5"
    assert note_digest(7, "冷萃", "咖啡").hex()[:16] == "6ec2189fb07403dc"


def test_nobody_else_hashes_json_or_looks_up_by_hand() -> None:
    """`hashlib.sha256(json.dumps(...).encode())`, and `np.minimum(np.searchsorted(...), len - 1)`."""
    package = Path(qilin_rag.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called, argument = ast.unparse(node.func), ast.unparse(node.args[0]) if node.args else ""
                is_hash = called == "hashlib.sha256" and "json.dumps" in argument
                is_lookup = called == "np.minimum" and "searchsorted" in argument
                if is_hash or is_lookup:
                    found.add(path.relative_to(package).as_posix())
    assert found == {"core/hashing.py", "core/arrays.py"}
