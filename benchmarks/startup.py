"""CPU time of `--help` for every command and of a run on the sample; beside them, Python starting and doing nothing.

usage: python benchmarks/startup.py [CHECKOUT]

With the checkout of another version, the run on the sample is timed with both, in turns.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

COMMANDS: list[list[str]] = [
    [],
    ["run"],
    ["score"],
    ["serve"],
    ["retrieve"],
    ["index"],
    ["leaderboard"],
    ["compare"],
    ["show"],
    ["doctor"],
    ["data"],
    ["list"],
]
RUN = ["run", "--data", "sample", "--retriever", "bm25", "--llm", "extractive", "--metrics", "rouge_l"]
N_RUNS = 7
HERE = Path(__file__).resolve().parents[1]


def cpu_s(arguments: list[str]) -> float:
    """User and system seconds of one child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run_cpu_s(checkout: Path, folder: Path) -> float:
    """User and system seconds of a run that answers all questions, whose index and bytecode are there already."""
    environment = {"PYTHONPATH": str(checkout), "QILIN_RAG_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory(dir=folder) as empty:
        command = [sys.executable, "-m", "qilin_rag", *RUN]
        subprocess.run(command, check=True, capture_output=True, cwd=empty, env=os.environ | environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the median of several runs of each."""
    bare = median(cpu_s(["-c", "pass"]) for _ in range(N_RUNS))
    print(f"{'python -c pass':32} {bare:.3f} s of CPU")
    for command in COMMANDS:
        arguments = ["-m", "qilin_rag", *command, "--help"]
        shown = median(cpu_s(arguments) for _ in range(N_RUNS + 1))
        print(f"{' '.join(['qilin_rag', *command, '--help']):32} {shown:.3f} s of CPU, {shown / bare:.1f} bare starts")
    checkouts = [HERE, *(Path(checkout).resolve() for checkout in sys.argv[1:2])]
    with tempfile.TemporaryDirectory() as name:
        turns = [[run_cpu_s(checkout, Path(name)) for checkout in checkouts] for _ in range(N_RUNS + 1)][1:]
    ours, *others = map(median, zip(*turns, strict=True))
    print(f"{'run on the sample, warm':32} {ours:.3f} s of CPU, {ours / bare:.1f} bare starts")
    for other in others:
        print(f"{'the same by the other version':32} {other:.3f} s of CPU, of which ours takes {ours / other:.2f}")


if __name__ == "__main__":
    main()
