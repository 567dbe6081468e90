"""Memory and open files under load: many questions in flight, answers of a megabyte, hundreds of run directories.

Each part is one of our own commands, watched from outside while it runs: the peak of its resident memory and the most
descriptors it held at once. No peer. Linux only (/proc).

usage: python benchmarks/load.py [asking|long|folders ...] [--questions 5000] [--concurrency 256]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from harness_overhead import MODEL, ROOT, endpoint, write_questions
from report_size import write_runs

LOOK_EVERY_S = 0.05


class Load(NamedTuple):
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    most_descriptors: int


def watched(arguments: list[str], work: Path) -> Load:
    """Run one of our commands to its end; SystemExit with its last words where it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "QILIN_RAG_CACHE": str(work / "cache"), "NO_PROXY": "*"}
    environment |= {"OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"}
    log = work / "log"
    with log.open("wb") as out:
        started = time.perf_counter()
        command = [sys.executable, "-m", "qilin_rag", *arguments]
        child = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        process = Path(f"/proc/{child.pid}")
        peak_kb = most = 0
        while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
            try:
                most = max(most, sum(1 for _ in (process / "fd").iterdir()))
                # Not wait4's ru_maxrss, which begins at the memory of this process.
                peak_kb = max(peak_kb, int((process / "status").read_text().partition("VmHWM:")[2].split()[0]))
            except (OSError, IndexError):  # it ended just now
                continue
            time.sleep(LOOK_EVERY_S)
    _, status, used = ended
    if status:
        raise SystemExit(f"{' '.join(arguments)}: status {status}\n{log.read_text(errors='replace')[-2000:]}")
    return Load(time.perf_counter() - started, used.ru_utime + used.ru_stime, peak_kb / 1024, most)


def say(what: str, load: Load) -> None:
    """One line."""
    print(
        f"{what}: {load.wall_s:.1f} s, {load.cpu_s:.1f} s of CPU, at most {load.peak_mb:,.0f} MB "
        f"and {load.most_descriptors} descriptors",
        flush=True,
    )


def ask(work: Path, name: str, n_questions: int, concurrency: int, n_characters: int) -> None:
    """A whole run: bm25 from an index that is there, an endpoint of 200 ms, scored by ROUGE-L."""
    write_questions(work / "data", n_questions)
    command = ["run", "--data", str(work / "data"), "--retriever", "bm25", "--llm", "openai", "--metrics", "rouge_l"]
    command += ["--set", f"llm.model={MODEL}", "--concurrency", str(concurrency), "--quiet"]
    command += ["--runs-dir", str(work / "runs")]
    with endpoint(0.2, str(n_characters)) as url:
        say(
            f"{name}: {n_questions:,} questions, {concurrency} in flight, answers of {n_characters:,} characters",
            watched([*command, "--base-url", url], work),
        )
    [run] = (work / "runs").iterdir()
    say("  scored again", watched(["score", str(run), "--metrics", "rouge_l,length_ratio", "--quiet"], work))
    say("  leaderboard", watched(["leaderboard", "--runs-dir", str(work / "runs")], work))
    say("  report", watched(["report", str(run), "--out", str(work / "report.html")], work))
    print(f"  the page has {(work / 'report.html').stat().st_size / 1e6:,.1f} MB", flush=True)


def read_folders(work: Path, n_runs: int, n_questions: int) -> None:
    """Hundreds of run directories side by side."""
    write_runs(work / "runs", n_runs, n_questions)
    print(f"{n_runs} run directories of {n_questions} questions")
    say("  leaderboard", watched(["leaderboard", "--runs-dir", str(work / "runs"), "--format", "csv"], work))
    say("  report", watched(["report", "--runs-dir", str(work / "runs"), "--out", str(work / "report.html")], work))
    print(f"  the page has {(work / 'report.html').stat().st_size / 1e6:,.1f} MB", flush=True)


def main() -> None:
    """Print what each part takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["asking", "long", "folders"])
    parser.add_argument("--questions", type=int, default=5_000)
    parser.add_argument("--concurrency", type=int, default=256)
    parser.add_argument("--runs", type=int, default=300)
    options = parser.parse_args()
    for part in options.parts:
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            if part == "folders":
                read_folders(work, options.runs, 60)
            elif part == "asking":
                ask(work, part, options.questions, options.concurrency, 200)
            else:
                ask(work, part, options.questions // 10, options.concurrency, 1_000_000 // 3)


if __name__ == "__main__":
    main()
