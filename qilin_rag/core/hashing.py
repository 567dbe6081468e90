"""Fingerprints: hashes of the identity of a result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return the hash of an identity."""
    return json_hash(identity, sort_keys=True, ensure_ascii=True)


def json_hash(value: Any, *, sort_keys: bool, ensure_ascii: bool) -> str:
    """Return the SHA-256 of a value written as JSON, in hex digits.

    The flags are those of `json.dumps`. Each caller keeps its own flags, because stored hashes depend on them.

    >>> json_hash({"b": "茶", "a": 1}, sort_keys=True, ensure_ascii=False)[:12]
    'aded21095417'
    """
    return json_digest(value, sort_keys=sort_keys, ensure_ascii=ensure_ascii).hex()


def json_digest(value: Any, *, sort_keys: bool, ensure_ascii: bool) -> bytes:
    """Return the hash of `json_hash` as 32 bytes."""
    return hashlib.sha256(json.dumps(value, sort_keys=sort_keys, ensure_ascii=ensure_ascii).encode()).digest()
