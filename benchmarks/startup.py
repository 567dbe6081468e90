"""CPU time of `--help` for every command, as whole processes; beside it, Python starting and doing nothing.

usage: python benchmarks/startup.py
"""

from __future__ import annotations

import resource
import subprocess
import sys
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
N_RUNS = 7


def cpu_s(arguments: list[str]) -> float:
    """User and system seconds of one child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
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


if __name__ == "__main__":
    main()
