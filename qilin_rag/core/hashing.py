"""Fingerprints: the hash of what a result is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Hash of an identity."""
    return json_hash(identity, sort_keys=True, ensure_ascii=True)


def json_hash(value: Any, *, sort_keys: bool, ensure_ascii: bool) -> str:
    """Return the SHA-256 of a value written as JSON, in hex digits.

    The flags are those of `json.dumps`; each caller keeps its own, since hashes that are kept depend on them.

    >>> json_hash({"b": "茶", "a": 1}, sort_keys=True, ensure_ascii=False)[:12]
    'aded21095417'
    """
    return json_digest(value, sort_keys=sort_keys, ensure_ascii=ensure_ascii).hex()


def json_digest(value: Any, *, sort_keys: bool, ensure_ascii: bool) -> bytes:
    """Return what `json_hash` returns, as 32 bytes."""
    return hashlib.sha256(json.dumps(value, sort_keys=sort_keys, ensure_ascii=ensure_ascii).encode()).digest()
