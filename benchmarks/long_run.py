"""Memory of long runs: what a run holds for each further question, of prompts of some 4 KB.

A run of bm25, an endpoint that answers at once, and ROUGE-L, at several numbers of questions; its resident memory is
looked at from outside. The questions themselves are in memory, and a score of each; prompts and answers are not. With
`--before`, another version of this package, by its folder, in turn. No peer. Linux only (/proc).

usage: python benchmarks/long_run.py [--questions 2000,20000] [--concurrency 64] [--before FOLDER]
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

LOOK_EVERY_S = 0.05


class Memory(NamedTuple):
    """The resident memory of a run in MB: after a tenth of its answers, after all, and at most."""

    tenth: float
    asked: float
    peak: float
    cpu_s: float
    n_bytes: int


def watched(tree: Path, work: Path, url: str, concurrency: int) -> Memory:
    """Do one run of the questions in `work` and look at its memory; SystemExit if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "QILIN_RAG_CACHE": str(work / "cache"), "NO_PROXY": "*"}
    environment |= {"OPENAI_API_KEY": "none", "HF_HUB_OFFLINE": "1"}
    runs_dir = Path(tempfile.mkdtemp(prefix="runs-", dir=work))
    command = [sys.executable, "-m", "qilin_rag", "run", "--data", str(work / "data"), "--retriever", "bm25"]
    command += ["--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", url, "--metrics", "rouge_l"]
    command += ["--concurrency", str(concurrency), "--no-cache", "--quiet", "--runs-dir", str(runs_dir)]
    seen: list[tuple[int, float]] = []
    with (work / "log").open("wb") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        status_file, peak = Path(f"/proc/{child.pid}/status"), 0.0
        while not (ended := os.wait4(child.pid, os.WNOHANG))[0]:
            try:
                status = status_file.read_text()
                rss, peak = (int(status.partition(name)[2].split()[0]) / 1024 for name in ("VmRSS:", "VmHWM:"))
                seen.append((sum(path.stat().st_size for path in runs_dir.glob("*/samples.jsonl")), rss))
            except (OSError, IndexError):  # it ended just now
                continue
            time.sleep(LOOK_EVERY_S)
    if ended[1]:
        raise SystemExit(f"status {ended[1]}\n{(work / 'log').read_text(errors='replace')[-2000:]}")
    n_bytes = seen[-1][0]
    tenth, asked = (next(rss for size, rss in seen if size >= share * n_bytes) for share in (0.1, 1))
    return Memory(tenth, asked, peak, ended[2].ru_utime + ended[2].ru_stime, n_bytes)


def main() -> None:
    """Print the memory at each number of questions, and what each further question takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", default="2000,20000", help="numbers of questions, the smallest first")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--before", type=Path, help="another version of this package, to be measured in turn")
    options = parser.parse_args()
    trees = {**({"before": options.before.resolve()} if options.before else {}), "now": ROOT}
    first: dict[str, tuple[int, Memory]] = {}
    for n_questions in map(int, options.questions.split(",")):
        with tempfile.TemporaryDirectory() as temporary:
            work = Path(temporary)
            write_questions(work / "data", n_questions)
            for name, tree in trees.items():
                with endpoint(0.0) as url:
                    took = watched(tree, work, url, options.concurrency)
                print(
                    f"{name:7}{n_questions:8,} questions ({took.n_bytes / n_questions / 1000:.1f} KB each on disk): "
                    f"{took.tenth:,.0f} MB after a tenth of the answers, {took.asked:,.0f} MB after all, "
                    f"at most {took.peak:,.0f} MB, {took.cpu_s:.0f} s of CPU",
                    flush=True,
                )
                n_before, before = first.setdefault(name, (n_questions, took))
                if more := n_questions - n_before:
                    asking, peak = (
                        1024 * (now - then) / more for now, then in zip(took[1:3], before[1:3], strict=True)
                    )
                    print(f"       {asking:.1f} KB for each further question when all are asked, {peak:.1f} KB at most")


if __name__ == "__main__":
    main()
