"""What it takes to write a synthetic Qilin as large as the real one: time and peak memory.

`--share 0.1` writes a tenth of it. Each is written in a process of its own, whose peak memory is printed; there is no
peer to compare with.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

PAPER = {"notes": 2_000_000, "searches": 57_188, "recommendations": 94_552, "dqa": 6_972, "users": 15_482}
WRITE = """
import json, resource, sys, time
from pathlib import Path
from qilin_rag.synth import resolve_world, synthesize
started = time.perf_counter()
synthesize(resolve_world(json.loads(sys.argv[1]), seed=0), Path(sys.argv[2]))
peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(time.perf_counter() - started, peak_mb)
"""


def main() -> None:
    """Write it and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the real size")
    counts = {name: max(200, round(n * parser.parse_args().share)) for name, n in PAPER.items()}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "qilin"
        command = [sys.executable, "-c", WRITE, json.dumps(counts), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, peak_mb = map(float, done.stdout.split())
        size_mb = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    print(", ".join(f"{name} {n:,}" for name, n in counts.items()))
    print(f"written in {seconds:.0f} s, peak memory {peak_mb:.0f} MB, {size_mb:.0f} MB on disk")


if __name__ == "__main__":
    main()
