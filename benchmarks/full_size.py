"""What it takes to write a synthetic Qilin as large as the real one, and to analyse it: CPU time and peak memory.

`--share 0.1` takes a tenth of it. Each command is a process of its own, whose CPU time (which other work on the machine
changes little), time by the clock and peak memory are printed; there is no peer to compare with.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAPER = {"notes": 2_000_000, "searches": 57_188, "recommendations": 94_552, "dqa": 6_972, "users": 15_482}
ANALYSES: tuple[list[str], ...] = ([], ["dqa-effect"], ["answers"], ["modality"])


def measured(*words: str) -> str:
    """Run one command; say its CPU time, its time by the clock and its peak memory."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([sys.executable, "-m", "qilin_rag", *words], stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            output.seek(0)
            sys.exit(f"{' '.join(words)} failed: {output.read().decode()[-2000:]}")
    seconds, cpu_s = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    return f"{cpu_s:6.0f} s of CPU, {seconds:6.0f} s {usage.ru_maxrss / 2**20:6.2f} GB"


def main() -> None:
    """Write it, analyse it, print what each took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the real size")
    parser.add_argument("--only-write", action="store_true", help="no analysis; those need the extra `analysis`")
    given = parser.parse_args()
    counts = {name: max(200, round(n * given.share)) for name, n in PAPER.items()}
    print(", ".join(f"{name} {n:,}" for name, n in counts.items()), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "qilin"
        sizes = [word for name, n in counts.items() for word in (f"--{name}", str(n))]
        took = measured("synth", "--out", str(data), *sizes, "--quiet")
        size_mb = sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) / 1e6
        print(f"{'synth':20} {took}, {size_mb:.0f} MB on disk", flush=True)
        for words in () if given.only_write else ANALYSES:
            out = Path(folder) / "-".join(["analysis", *words])
            took = measured("analyze", *words, "--data", str(data), "--out", str(out), "--quiet")
            print(f"{' '.join(['analyze', *words]):20} {took}", flush=True)


if __name__ == "__main__":
    main()
