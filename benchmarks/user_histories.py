"""Compare rankers that read users' histories with popularity, in synthetic worlds with and without taste.

Clicks of recommendations are by taste alone, or without a cause; the platform shows notes by taste, or not. A figure is
the mean over all test requests of all worlds, and a gain over popularity has a 95% interval (normal, by requests). No
peer: RecBole 1.2.1 does not start with NumPy 2, and recommenders 1.2.1 needs pandas 2 and transformers 4.

    python benchmarks/user_histories.py [--worlds 3]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from qilin_rag.data.catalogue import open_catalogue
from qilin_rag.data.source import open_source
from qilin_rag.rankers import load_ranker
from qilin_rag.rankers.base import Ranker
from qilin_rag.rankers.popularity import ItemToItem, Popularity
from qilin_rag.rankers.ranking_directory import RankConfig
from qilin_rag.rankers.run import rank
from qilin_rag.rankers.sasrec import SASRec
from qilin_rag.rankers.simple import Random
from qilin_rag.rankers.split_log import SplitLog
from qilin_rag.rankers.training import train_ranker
from qilin_rag.synth import resolve_world, synthesize

COUNTS = {"notes": 600, "searches": 100, "recommendations": 2400, "dqa": 20, "users": 100}
SETTINGS = ("causes.taste=4", "causes.position=0", "causes.cover=0", "causes.popularity=0", "taste_topics=1")
KINDS = {
    "taste": ["recommendation.intercept=-3"],
    "no taste": ["recommendation.intercept=-1.2", "causes.taste=0"],  # about as many results are clicked
    "no taste, none shown by it": ["recommendation.intercept=-1.2", "causes.taste=0", "of_taste=0"],
}
CANDIDATES = {"exposed": "mrr@10", "sampled:99": "hit@10"}


def rankers_of(folder: Path, out: Path) -> dict[str, Ranker]:
    """Return all rankers, trained on the recommendations of this world."""
    log = SplitLog(open_source(str(folder)))
    catalogue = open_catalogue(log.source)._replace(clicks=log.clicks(["recommendation"], "train"))
    train, validation = (log.split("recommendation", split) for split in ("train", "validation"))
    found: dict[str, Ranker] = {"random": Random(), "popularity": Popularity(), "item-to-item": ItemToItem()}
    for negatives in ("random", "shown"):
        ranker = SASRec(negatives=negatives, history_length=20, learning_rate=3e-3, epochs=10, device="cpu")
        train_ranker(ranker, train, validation, catalogue, out / negatives)
        found[f"sasrec, {negatives} negatives"] = load_ranker(out / negatives, device="cpu")
    return found


def figures(ranker: Ranker, config: RankConfig, name: str) -> Any:
    """Return a figure of each request that has one."""
    path = rank(ranker, config).directory.path / "figures.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return np.array([line["figures"][name] for line in lines if line["figures"]])


def main() -> None:
    """Print a line for each kind of world, candidates and ranker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=3, help="worlds of each kind")
    n_worlds = parser.parse_args().worlds
    began = time.process_time()
    with tempfile.TemporaryDirectory() as scratch:
        for kind, settings in KINDS.items():
            found: dict[tuple[str, str], list[Any]] = {}
            for seed in range(n_worlds):
                out = Path(scratch) / kind.replace(" ", "-") / str(seed)
                synthesize(resolve_world(COUNTS, seed, overrides=[*SETTINGS, *settings]), out / "world")
                for name, ranker in rankers_of(out / "world", out).items():
                    for candidates, figure in CANDIDATES.items():
                        config = RankConfig(
                            data=str(out / "world"),
                            task="recommendation",
                            candidates=candidates,
                            runs_dir=out / "runs",
                        )
                        found.setdefault((candidates, name), []).append(figures(ranker, config, figure))
            for (candidates, name), worlds in found.items():
                values = np.concatenate(worlds)
                gain = values - np.concatenate(found[candidates, "popularity"])
                half = 1.96 * gain.std(ddof=1) / len(gain) ** 0.5
                beside = f"{gain.mean():+.4f} ({gain.mean() - half:+.4f} .. {gain.mean() + half:+.4f})"
                print(
                    f"{kind:26} {candidates:11} {CANDIDATES[candidates]:8} {name:24} {values.mean():.4f}  "
                    f"over popularity {beside}  n={len(values)}",
                    flush=True,
                )
    print(f"{time.process_time() - began:.0f} s of CPU")


if __name__ == "__main__":
    main()
