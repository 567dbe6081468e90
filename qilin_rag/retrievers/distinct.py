"""Find duplicates among many texts or vectors by their 128-bit hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Digests = npt.NDArray[np.uint64]
"""(n, 2)"""


class Distinct(NamedTuple):
    """The distinct items among `n`, ordered by hash: this order reveals nothing of the order of the `n`."""

    number: npt.NDArray[np.int64]
    """(n,): the number of the distinct item that each item equals."""
    first: npt.NDArray[np.int64]
    """(n_distinct,): the first place of each."""

    def in_order(self) -> Distinct:
        """Return the same items in the order of their first places."""
        first = np.sort(self.first)
        return Distinct(np.searchsorted(first, self.first[self.number]), first)


def text_digests(texts: Iterable[str]) -> Digests:
    """Hash each text."""
    return digests_of(text.encode("utf-8", "surrogatepass") for text in texts)


def digests_of(contents: Iterable[bytes]) -> Digests:
    """Hash each of these contents."""
    joined = b"".join(hashlib.blake2b(content, digest_size=16).digest() for content in contents)
    return np.frombuffer(joined, "<u8").astype(np.uint64).reshape(-1, 2)


def distinct(digests: Digests) -> Distinct:
    """Number the distinct items by their digests."""
    order = np.lexsort(digests.T)  # among equal items the earlier place comes first
    is_first = np.ones(len(order), bool)
    is_first[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(is_first) - 1
    return Distinct(number, order[is_first])
