"""Ask pip whether it reaches a package registry, so that a test can skip and say why."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


@functools.cache
def why_not_fetched(*requirements: str) -> str | None:
    """Return pip's last words if it can't find one of these; None if it can."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps", "--ignore-installed"]
    done = subprocess.run([*command, *requirements], capture_output=True, text=True, check=False, timeout=300)
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def need_registry(*requirements: str) -> None:
    """Skip the running test unless pip can fetch these."""
    if reason := why_not_fetched(*requirements):
        pytest.skip(f"needs a package registry for {' '.join(requirements)}: {reason}")
