from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.data.cells import convert, parse_cell, parse_repr
from qilin_rag.data.schema import NOTES, PAIRS, TEXTS

floats = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(st.lists(floats, max_size=60))
def test_numbers_as_numpy_prints_them(values: list[float]) -> None:
    printed = str(np.array(values, dtype=np.float32))
    expected = [float(x) for x in printed.strip("[]").split()]
    assert parse_repr(printed) == pytest.approx(expected, nan_ok=True)


@given(st.lists(st.lists(floats, min_size=2, max_size=2), max_size=40))
def test_pairs_as_numpy_prints_them(pairs: list[list[float]]) -> None:
    array = np.empty(len(pairs), dtype=object)
    array[:] = [np.array(pair) for pair in pairs]
    assert np.array(parse_repr(str(array))) == pytest.approx(np.array(pairs), rel=1e-6, abs=1e-8)


@given(st.lists(st.text(max_size=20), max_size=20))
def test_texts_as_numpy_prints_them(texts: list[str]) -> None:
    assert parse_repr(str(np.array(texts, dtype=object))) == texts


@given(
    st.lists(st.dictionaries(st.text(max_size=5), st.none() | st.integers() | floats | st.text(max_size=9)), max_size=5)
)
def test_dicts_as_numpy_prints_them(items: list[dict[str, Any]]) -> None:
    assert parse_repr(str(np.array(items, dtype=object))) == items


@given(st.text())
def test_no_text_is_executed_or_breaks_the_parser(text: str) -> None:
    try:
        parse_repr(text)
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "[1 2",
        "1 2",
        "",
        "[1] [2]",
        "{1 2}",
        "{'a' 1}",
        "{'a': }",
        "[1: 2]",
        "array(3)",
        "[__import__('os')]",
        "[" * 99 + "]" * 99,
        "[1)]",
        "[{]}",
        "[5_1]",
        "[1 5_1 2]",
        "[５]",
        "[+5]",
        "[1.5.2]",
        "[1e5_0]",
    ],
)
def test_what_is_no_list_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_repr(text)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("4.28e+05", pa.int64(), 428000.0),
        ("17", pa.int64(), 17),
        ("", pa.float64(), None),
        ("nan", pa.string(), "nan"),
        ("", pa.string(), ""),
        ("[]", NOTES, []),
        ("", NOTES, None),
        ("[1 2\n 3]", NOTES, [1, 2, 3]),
        ("[1, 2, 3]", NOTES, [1, 2, 3]),
        ("['it''s' \"it's\"]", TEXTS, ["it", "s", "it's"]),
        ("[array([12330.      ,    21.535999])]", PAIRS, [[12330.0, 21.535999]]),
    ],
)
def test_cells(text: str, kind: pa.DataType, value: Any) -> None:
    assert parse_cell(text, kind) == value


def test_nan_is_missing_and_other_odd_numbers_are_not() -> None:
    assert convert(math.nan, pa.float64()) is None
    assert convert([1.0, math.nan], NOTES) == [1, None]
    with pytest.raises(ValueError, match="must be a number, not inf"):
        convert(math.inf, pa.float64())
    with pytest.raises(ValueError, match=r"\[1\] must be a whole number from 0, not 1\.5"):
        convert([1, 1.5], NOTES)


@pytest.mark.parametrize("text", ["5_1", "1_0.5", "1_0e3", "+5", "５", "٥", "0x1f", "1e5_0", "5 1"])
def test_numbers_are_not_what_python_takes_for_one(text: str) -> None:
    for kind in (pa.int64(), pa.float64()):
        with pytest.raises(ValueError, match=r"must be a (whole )?number"):
            convert(parse_cell(text, kind), kind)


def test_numbers_as_tables_have_them() -> None:
    cells = (" 51 ", "51.0", "5.1e+01", "5.1E1", "051")
    assert [convert(parse_cell(text, pa.int64()), pa.int64()) for text in cells] == [51] * 5
    assert parse_repr("[5.1e+01 51. 51 nan]")[:3] == [51] * 3
    assert [convert(parse_cell(text, pa.float64()), pa.float64()) for text in ("NaN", "-.5", "1e-3")] == [
        None,
        -0.5,
        1e-3,
    ]
