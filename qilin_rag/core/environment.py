"""The environment in which a result was made: packages, commit, time."""

from __future__ import annotations

import hashlib
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RECORDED_PACKAGES = (
    "qilin-rag",
    "ir-measures",
    "langchain",
    "langchain-core",
    "numpy",
    "openai",
    "rapidfuzz",
    "regex",
    "rjieba",
    "torch",
    "transformers",
)


def installed_packages() -> dict[str, str]:
    """Return the installed versions of the packages that can influence a result."""
    found = {}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout that this program runs from; None for an installed package."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        process = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None


@cache
def source_sha256() -> str:
    """Return the SHA-256 of all modules of this package: it changes whenever one does."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for module in sorted(package.rglob("*.py")):
        digest.update(f"{module.relative_to(package).as_posix()} {module.stat().st_size}\n".encode())
        digest.update(module.read_bytes())
    return digest.hexdigest()


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
