"""What `leaderboard`, `compare` and one more run take over 300 runs x 2,932 questions: first, and from what was kept.

The runs are those of `viewer_size.py`: twenty LLMs by fifteen retrievers, four metrics; they take 1.5 GB of disk. Each
command is a process of its own, as a user starts it. CPU time is that of all its threads. No peer.

usage: python benchmarks/leaderboard_size.py [--runs 300] [--questions 2932] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from load import say, watched
from viewer_size import write_runs

from qilin_rag.core.types import Score
from qilin_rag.pipeline.run_directory import RunDirectory

_SETTLED_AFTER_S = 3.0


def score_again(path: Path, seed: int) -> None:
    """Give a run other values, and the summary that belongs to them."""
    directory = RunDirectory(path)
    rng = np.random.default_rng(seed)
    scores: list[Score] = [
        score.model_copy(update={"value": float(rng.beta(2, 4))}) for score in directory.read_scores()
    ]
    summary = directory.read_summary()
    metrics = {
        name: of.model_copy(update={"value": float(np.mean([s.value for s in scores if s.metric == name]))})
        for name, of in summary.metrics.items()
    }
    directory.write_figures(scores, summary.model_copy(update={"metrics": metrics}))


def measure(runs: Path, work: Path) -> None:
    """Print what each command takes."""
    leaderboard = ["leaderboard", "--runs-dir", str(runs), "--format", "csv"]
    paths = sorted(runs.iterdir())
    aside = work / "aside"
    paths[-1].rename(aside)
    say(f"leaderboard of {len(paths) - 1} runs, first", watched(leaderboard, work))
    for _ in range(2):
        say("again", watched(leaderboard, work))
    aside.rename(paths[-1])
    say("one run more", watched(leaderboard, work))
    score_again(paths[7], seed=1)
    time.sleep(_SETTLED_AFTER_S)
    say("one run scored again", watched(leaderboard, work))
    say("again", watched(leaderboard, work))
    say("compare, first", watched(["compare", str(paths[3]), str(paths[40])], work))
    say("compare, again", watched(["compare", str(paths[3]), str(paths[40])], work))
    kept_mb = sum(file.stat().st_size for file in (work / "cache").glob("figures.sqlite*")) / 1e6
    print(f"{kept_mb:,.0f} MB are kept", flush=True)


def main() -> None:
    """Print what it takes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--questions", type=int, default=2_932)
    parser.add_argument("--keep", type=Path, help="Use the runs of this folder, and write them there if it is empty.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.keep and options.keep.parent) as temporary:
        runs = options.keep or Path(temporary) / "runs"
        if not runs.exists():
            write_runs(runs, options.runs, options.questions)
            time.sleep(_SETTLED_AFTER_S)
        measure(runs, Path(temporary))


if __name__ == "__main__":
    main()
