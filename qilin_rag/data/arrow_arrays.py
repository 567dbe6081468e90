"""Arrow arrays of Python values and numpy rows. `pa.array` and `pa.scalar` import pandas, a quarter of a short run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def arrow_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return values as an array; None is null.

    Args:
        values: Values of this type: text, whole and other numbers, lists and mappings of them.
        kind: The type: string, a number, a list or a struct.

    Raises:
        OverflowError: if a number is out of range.
    """
    is_missing = np.fromiter((value is None for value in values), bool, len(values))
    if pa.types.is_string(kind):
        texts = pa.lib.StringBuilder()
        texts.append_values(values)
        return texts.finish()
    if pa.types.is_struct(kind):
        fields = [
            arrow_array([None if value is None else value.get(field.name) for value in values], field.type)
            for field in kind
        ]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=_mask(is_missing))
    if pa.types.is_list(kind):
        lengths = (0 if value is None else len(value) for value in values)
        offsets = np.fromiter(accumulate(lengths, initial=0), np.int32, len(values) + 1)
        items = arrow_array(list(chain.from_iterable(value or () for value in values)), kind.value_type)
        return pa.ListArray.from_arrays(rows_array(offsets), items, kind, mask=_mask(is_missing))
    filled = (0 if value is None else value for value in values)
    return rows_array(np.fromiter(filled, kind.to_pandas_dtype(), len(values)), is_missing)


def rows_array(rows: npt.NDArray[Any], is_missing: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Return numbers as an array, without a copy if they are contiguous.

    Args:
        rows: Numbers, shape (n,).
        is_missing: Which of them are null, shape (n,); default: none.
    """
    valid = None if is_missing is None or not is_missing.any() else np.packbits(~is_missing, bitorder="little")
    buffers = [None if valid is None else pa.py_buffer(valid), pa.py_buffer(np.ascontiguousarray(rows))]
    return pa.Array.from_buffers(pa.from_numpy_dtype(rows.dtype), len(rows), buffers)


def without_nulls(texts: pa.Array) -> pa.Array:
    """Return the texts with null as the empty text."""
    return texts.fill_null("") if texts.null_count else texts


def _mask(is_missing: npt.NDArray[np.bool_]) -> pa.Array | None:
    if not is_missing.any():
        return None
    bits = pa.py_buffer(np.packbits(is_missing, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(is_missing), [None, bits])
