"""Arrays made without pandas equal those of `pa.array`, and a short run does not import it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.data.arrow_arrays import arrow_array, rows_array, without_nulls

TEXT = st.text(st.characters(codec="utf-8"), max_size=5)
INT = st.integers(-(2**63), 2**63 - 1)
STRUCT = pa.struct([("note_idx", pa.int64()), ("note_id", pa.string()), ("page_time", pa.float64())])
KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.string(), TEXT),
    (pa.int64(), INT),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.float32(), st.floats(width=32, allow_nan=False)),
    (pa.list_(pa.string()), st.lists(st.none() | TEXT, max_size=3)),
    (pa.list_(pa.list_(pa.float64())), st.lists(st.lists(st.floats(allow_nan=False), max_size=2), max_size=3)),
    (
        pa.list_(STRUCT),
        st.lists(
            st.none()
            | st.fixed_dictionaries(
                {"note_idx": st.none() | INT}, optional={"note_id": TEXT, "page_time": st.just(0.5)}
            ),
            max_size=3,
        ),
    ),
]


@pytest.mark.parametrize(("kind", "values"), KINDS, ids=lambda part: str(part)[:20])
@given(data=st.data())
def test_arrays_equal_those_of_pyarrow(data: st.DataObject, kind: pa.DataType, values: st.SearchStrategy[Any]) -> None:
    rows = data.draw(st.lists(st.none() | values, max_size=8))
    made = arrow_array(rows, kind)
    made.validate(full=True)
    assert made.type == kind
    assert made.equals(pa.array(rows, kind))


def test_a_number_out_of_range_is_an_error() -> None:
    with pytest.raises(OverflowError):
        arrow_array([2**63], pa.int64())


def test_rows_are_arrays_also_if_they_are_not_contiguous() -> None:
    rows = np.arange(6)
    assert rows_array(rows[::2]).to_pylist() == [0, 2, 4]
    assert rows_array(rows[3:], np.array([False, True, False])).to_pylist() == [3, None, 5]
    assert without_nulls(pa.array(["a", None])).to_pylist() == ["a", ""]


def test_a_short_run_imports_no_pandas(tmp_path: Path) -> None:
    code = (
        "import sys; from qilin_rag.cli import main; sys.argv = ['qilin-rag', 'run', '--limit', '2', '--quiet']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "slow = {'pandas', 'pyarrow.compute', 'torch', 'openai', 'langchain'} & sys.modules.keys()\n"
        "print(' '.join(['imported:', *slow]), file=sys.stderr)"
    )
    for _ in range(2):  # the first makes an index
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "imported:"
