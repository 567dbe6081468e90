"""Does `analyze dqa-effect` find a planted effect of an answer on clicks, and none where there is none?

Synthetic worlds in which queries that ask for a fact get answers more often and clicks less often: the naive difference
is wrong. The truth is known to the last digit: truth.parquet has what each result's probability of a click owes to the
answer. One line a half of the claim: how many of the 95% intervals hold the truth, how many find an effect of none.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from qilin_rag.analysis.causal import Estimate
from qilin_rag.analysis.dqa_effect import dqa_effects
from qilin_rag.analysis.log import read_log
from qilin_rag.data.catalogue import read_users
from qilin_rag.data.source import open_source
from qilin_rag.synth import resolve_world, synthesize

COUNTS = {"notes": 200, "searches": 900, "recommendations": 1, "dqa": 600, "users": 300}
SETTINGS = [
    "causes.factoid=-1.0",  # who asks for a fact clicks less,
    "shown_if_factoid=0.7",  # and gets an answer more often
    "shown_if_not=0.25",
    "factoid_queries=0.4",
    "depth_if_factoid=0.6",
    "depth_if_answered=1",  # so that the effect is on clicks alone, whose truth is in the file
    "search.depth=12",
]
PLANTED = -0.8
"""In logits of a click."""


def true_effect(folder: Path) -> float:
    """Clicks that the answers of a world took from a search that has one, on average."""
    table = pq.read_table(folder / "truth.parquet")
    column = {name: table.column(name).to_numpy() for name in ("request", "answer", "answer_logit")}
    attraction, examination = (table.column(name).to_numpy() for name in ("attraction", "examination"))
    answered = (column["answer"] > 0) & (np.array(table.column("table").to_pylist()) == "dqa")
    without = np.log(attraction / (1 - attraction)) - column["answer_logit"]
    lost = examination * (attraction - 1 / (1 + np.exp(-without)))
    return float(lost[answered].sum() / len(np.unique(column["request"][answered])))


def estimated(effect: float, seed: int) -> tuple[float, Estimate, Estimate]:
    """True, naive and doubly robust effect on clicks among the rows of dqa of one world."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "out"
        synthesize(resolve_world(COUNTS, seed, (), [*SETTINGS, f"causes.answer={effect}"]), folder)
        source = open_source(str(folder))
        found = dqa_effects(read_log(source), read_users(source), seed)[0].effects[0]
        return true_effect(folder), found.naive, found.doubly_robust


def measure(n_seeds: int, first: int, n_processes: int) -> dict[str, float]:
    """Shares over the seeds, and means."""
    seeds = range(first, first + n_seeds)
    with ProcessPoolExecutor(n_processes) as pool:
        planted = list(pool.map(partial(estimated, PLANTED), seeds))
        none = list(pool.map(partial(estimated, 0.0), seeds))
    return {
        "seeds": n_seeds,
        "true_effect": float(np.mean([truth for truth, _, _ in planted])),
        "naive": float(np.mean([naive.value for _, naive, _ in planted])),
        "doubly_robust": float(np.mean([robust.value for _, _, robust in planted])),
        "covered_by_naive": float(np.mean([naive.low <= truth <= naive.high for truth, naive, _ in planted])),
        "covered": float(np.mean([robust.low <= truth <= robust.high for truth, _, robust in planted])),
        "found_where_none": float(np.mean([robust.low > 0 or robust.high < 0 for _, _, robust in none])),
        "found_by_naive_where_none": float(np.mean([naive.low > 0 or naive.high < 0 for _, naive, _ in none])),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.seeds, given.first, given.processes)
    if given.json:
        print(json.dumps(found))
        return
    print(f"{given.seeds} worlds with an answer that costs {-found['true_effect']:.3f} clicks:")
    print(f"  naive {found['naive']:+.3f}, its 95% interval holds the truth in {found['covered_by_naive']:.1%}")
    print(f"  doubly robust {found['doubly_robust']:+.3f}, in {found['covered']:.1%}")
    print("the same worlds without an effect:")
    print(
        f"  found in {found['found_by_naive_where_none']:.1%} (naive), {found['found_where_none']:.1%} (doubly robust)"
    )


if __name__ == "__main__":
    main()
