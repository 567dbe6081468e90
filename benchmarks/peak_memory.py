"""Run a part of a benchmark in a process of its own, and take the peak of its memory (PSS, by /proc: Linux only)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


def tree_bytes(pid: int) -> int:
    """The memory of a process and all below it, shared pages divided among those that share them."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total = int(line.split()[1]) * 1024
        children = [
            child for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()
        ]
    except OSError:  # it has ended
        return total
    return total + sum(tree_bytes(int(child)) for child in children)


def in_a_process(script: str, *words: str, checkout: Path | None = None) -> dict[str, Any]:
    """What a script prints as JSON, with the peak memory of it and its children; by the package of a checkout."""
    peak = 0
    environment = os.environ | ({"PYTHONPATH": str(checkout.absolute())} if checkout else {})
    command = [sys.executable, script, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        ended = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not ended.wait(0.2):
                peak = max(peak, tree_bytes(child.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        out, _ = child.communicate()
        ended.set()
        watcher.join()
    if child.returncode:
        raise SystemExit(f"{' '.join(words)}: status {child.returncode}")
    return {**json.loads(out), "peak_bytes": peak}
