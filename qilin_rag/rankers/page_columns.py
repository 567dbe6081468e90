"""The two columns of a results page: odd positions are taken for the left one, even ones for the right one.

Qilin does not document this. Position 0, which is above position 1, and an unknown position are in neither column.
"""

from __future__ import annotations

import numpy as np

from qilin_rag.data.exposures import MISSING, Ints

PAGE_COLUMNS = ("left, odd position", "right, even position")
ASSUMED = (
    "Columns of the page: odd positions are taken for the left one, even ones for the right one; the data does not "
    "document this. A result at the top (0) is in neither."
)


def column_of(position: Ints) -> Ints:
    """Return the column of each position: 0 left, 1 right, -1 neither."""
    return np.where(position > 0, (position + 1) % 2, MISSING)
