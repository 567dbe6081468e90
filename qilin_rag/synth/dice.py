"""Random numbers as functions of their purpose: without state, so that no order and no batch size can change them.

Each number is splitmix64's finaliser over a name and any number of indices. The attributes of note 1,234,567 can be
computed without those of the notes before it, and leaving out a cause changes no other draw.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
Bits = npt.NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)


def mix(bits: Bits) -> Bits:
    """Apply splitmix64's finaliser in place."""
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits


def step(bits: Bits, index: Any) -> Bits:
    """Return other bits for each index, which is broadcast against `bits`."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is intended
        return mix(np.asarray(bits + _STEP * (np.asarray(index).astype(np.uint64) + np.uint64(1))))


class Dice:
    """The random draws of one seed."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def bits(self, name: str, *indices: Any) -> Bits:
        """Return 64 random bits for each tuple of indices (arrays that broadcast against each other)."""
        key = int.from_bytes(blake2b(f"{self._seed}/{name}".encode(), digest_size=8).digest(), "little")
        bits = np.full(np.broadcast_shapes(*(np.shape(index) for index in indices)), key, np.uint64)
        for index in indices:
            bits = step(bits, index)
        return bits

    def uniform(self, name: str, *indices: Any) -> Floats:
        """Return numbers that are uniform on [0, 1)."""
        return (self.bits(name, *indices) >> np.uint64(11)) * 2.0**-53

    def below(self, n: Any, name: str, *indices: Any) -> Ints:
        """Return whole numbers from 0 to n - 1."""
        drawn: Ints = np.minimum((self.uniform(name, *indices) * n).astype(np.int64), np.asarray(n) - 1)
        return drawn

    def normal(self, name: str, *indices: Any) -> Floats:
        """Return standard normal numbers, by Box and Muller from the two halves of the bits."""
        bits = self.bits(name, *indices)
        radius = np.sqrt(-2 * np.log(((bits >> np.uint64(32)) + np.uint64(1)) * 2.0**-32))
        normal: Floats = radius * np.cos(2 * np.pi * 2.0**-32 * (bits & np.uint64(0xFFFFFFFF)))
        return normal

    def exponential(self, name: str, *indices: Any) -> Floats:
        """Return exponential numbers with mean 1."""
        return -np.log1p(-self.uniform(name, *indices))

    def choose(self, shares: Any, name: str, *indices: Any) -> Ints:
        """Return numbers of options with these shares."""
        bounds = np.cumsum(np.asarray(shares, float))
        found = np.searchsorted(bounds, self.uniform(name, *indices) * bounds[-1], side="right")
        chosen: Ints = np.minimum(found, len(bounds) - 1).astype(np.int64)
        return chosen
