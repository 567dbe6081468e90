"""Where what can be made again is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_dir() -> Path:
    """Where indexes are kept between runs: $QILIN_RAG_CACHE, else the user's cache folder."""
    named = os.environ.get("QILIN_RAG_CACHE")
    return Path(named).expanduser() if named else platformdirs.user_cache_path("qilin_rag")
