"""MRR@10 of every ranker where all notes are alike, so that nothing but their ids could tell the clicked ones.

python -m benchmarks.id_leak FOLDER [OUT]: the tables of Qilin, or of a toy of it. A ranker outside the interval of
chance reads the ids, the order of a file or of a batch; production is by position, and may be anywhere.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.rankers.id_leak import chance, mean_mrr, ranked_by_all


def main() -> None:
    """Print a line a task."""
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    for task, requests, scores in ranked_by_all(Path(sys.argv[1]), out):
        mean, low, high = chance(requests)
        figures = ", ".join(f"{name} {mean_mrr(requests, of_ranker):.3f}" for name, of_ranker in scores.items())
        print(f"{task}: {len(requests)} requests, chance {mean:.3f} [{low:.3f}, {high:.3f}], {figures}")


if __name__ == "__main__":
    main()
