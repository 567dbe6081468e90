"""Does `analyze re-search` find a planted re-search, and none that is not planted? Pairs of synthetic worlds.

The two worlds of a pair have the same seed and differ in what bad answers cause alone, so that the difference of the
label between them, over the searches with an answer, is the true effect. Nothing is planted in the time on notes.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path

import numpy as np

from qilin_rag.analysis.causal import Estimate
from qilin_rag.analysis.log import read_log
from qilin_rag.analysis.re_search import re_search_report
from qilin_rag.data.catalogue import read_users
from qilin_rag.data.feedback import find_re_searches
from qilin_rag.data.source import open_source
from qilin_rag.synth import resolve_world, synthesize

COUNTS = {"notes": 300, "searches": 700, "recommendations": 20, "dqa": 700, "users": 250}
SETTINGS = [
    "shown_if_factoid=0.6",
    "shown_if_not=0.4",
    "depth_if_answered=1",
    "reformulations={add: 0.05, delete: 0.0, change: 0.1, repeat: 0.05, others: 0.8}",
]
NOT_PLANTED = ("long click", "seconds a click")


def made(seed: int, size: float) -> tuple[dict[str, int], dict[str, Estimate | None]]:
    """Make a world; return the label of its searches with an answer, and the estimates."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        synthesize(resolve_world(COUNTS, seed, ["answer"], [*SETTINGS, f"re_search={size}"]), out)
        source = open_source(str(out))
        log, users = read_log(source), read_users(source)
    label = find_re_searches(log.shown).label.tolist()
    of_answered = {name: again for name, again in zip(log.shown.ids, label, strict=True) if again >= 0}
    [found] = re_search_report(log, users, only=("re-search", *NOT_PLANTED)).effects
    return of_answered, {effect.outcome: effect.doubly_robust for effect in found.effects}


def holds(estimate: Estimate | None, truth: float) -> float:
    """Return whether an interval holds a value; NaN without an interval."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return float("nan")
    return float(estimate.low <= truth <= estimate.high)


def main() -> None:
    """Print the shares of intervals that hold the truth, and of planted effects that are found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100, help="pairs of worlds")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    rows, effects = [], []
    for seed in range(arguments.first, arguments.first + arguments.pairs):
        absent, estimates = made(seed, 0.0)
        planted, others = made(seed, 1.0)
        effect = float(np.mean([planted[name] - absent[name] for name in absent]))
        effects.append(effect)
        rows.append(
            {
                "planted: interval holds the true effect": holds(others["re-search"], effect),
                "planted: interval excludes 0": 1 - holds(others["re-search"], 0),
                "not planted: interval holds 0": holds(estimates["re-search"], 0),
                **{f"{name}: interval holds 0": holds(estimates[name], 0) for name in NOT_PLANTED},
            }
        )
    shares = {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}
    print(json.dumps({"pairs": len(rows), "true effects": [min(effects), max(effects)], **shares}, indent=2))


if __name__ == "__main__":
    main()
