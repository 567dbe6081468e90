"""CPU time of training that is not the model's: until the first step, by phase, in each step, and in an evaluation.

The model is forward, backward, clipping and optimizer. All else is overhead: data, batches, tokens, log, trainer.
Texts, lengths and negatives are the paper's. Models and batches are small (two layers, random weights), so that one
core suffices; overhead a sample does not depend on the model. The last table relates it to the paper's batch: overhead
of one step there by one process, beside the time of the step on a GPU, which is an estimate (40% of 989 TFLOP/s in
products, and for DCN-V2 30 passes over its tables at 3.8 TB/s). With --before CHECKOUT the same is measured with the
package of another checkout, in turns; logs and models must be equal. There is no peer.

usage: python benchmarks/training_overhead.py [--before CHECKOUT] [--only crossencoder] [--turns 3]
"""

from __future__ import annotations

import argparse
import builtins
import hashlib
import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # the tests' random models

COUNTS = {"notes": 800, "searches": 400, "recommendations": 100, "dqa": 10, "users": 200}
N_WARM, N_TIMED = 3, 12
N_STEPS = N_WARM + N_TIMED
SMALL_BERT = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
RANKERS: dict[str, dict[str, Any]] = {
    "crossencoder": {"batch_size": 4, "max_length": 512, "n_negatives": 10},
    "biencoder": {"batch_size": 4, "max_length": 256, "n_negatives": 6},
    "dcn-v2": {"batch_size": 256, "tables": {"note_idx": (4000, 16), "user_idx": (300, 16)}, "rank": 16},
    "vlm": {"batch_size": 2, "max_length": 300, "max_pixels": 50_176, "optimizer": "adamw"},
}
PRODUCTS_PER_S, BYTES_PER_S = 0.4 * 989e12, 3.8e12
BERT, QWEN = 85e6, 7.6e9
"""Parameters without embeddings: each token takes six times as many operations in a step."""
PAPER = {  # samples of a batch on search, and its seconds on a GPU
    "crossencoder": (80, 6 * BERT * 80 * 512 / PRODUCTS_PER_S),
    "biencoder": (320, 6 * BERT * 320 * (16 + 7 * 256) / PRODUCTS_PER_S),
    "dcn-v2": (43_008, 6 * 2.1e6 * 43_008 / PRODUCTS_PER_S + 30 * 4 * 128e6 / BYTES_PER_S),
    "vlm": (16, 6 * QWEN * 16 * 512 / PRODUCTS_PER_S),
}


class Phases:
    """CPU seconds by phase, each without the phases inside it; threads beside the first begin as `threads`."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._of_thread = threading.local()
        self._of_thread.stack, self._of_thread.since = ["start"], 0.0
        self._first = self._of_thread.stack

    def switch(self, to: str | None = None, back: bool = False) -> None:
        """Add the time since the last switch to the present phase, and begin another one or go back."""
        mine, now = self._of_thread, time.thread_time()
        if not hasattr(mine, "stack"):
            is_evaluation = any(phase.startswith("evaluation") for phase in self._first)
            mine.stack, mine.since = ["evaluation: threads" if is_evaluation else "threads"], 0.0
        with self._lock:
            self.seconds[mine.stack[-1]] += now - mine.since
        mine.since = now
        if to is not None:
            mine.stack.append(f"evaluation: {to}" if mine.stack[-1].startswith("evaluation") else to)
        elif back:
            mine.stack.pop()

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """Count the time in the block as this phase; in an evaluation as part of it."""
        self.switch(to=name)
        try:
            yield
        finally:
            self.switch(back=True)

    def patch(self, owner: Any, attribute: str, name: str) -> None:
        """Count the calls of a function as this phase."""
        original: Callable[..., Any] = getattr(owner, attribute)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.within(name):
                return original(*args, **kwargs)

        setattr(owner, attribute, timed)


class Steps:
    """A watcher of training that takes the phases after each step."""

    def __init__(self, phases: Phases) -> None:
        self.phases = phases
        self.after: list[Counter[str]] = []

    @contextmanager
    def stage(self, name: str, total: int, done: int) -> Iterator[Any]:
        """Take the phases after each step of training."""
        yield self.after_step if name == "training" else lambda n=1, failed=False: None

    def after_step(self, n: int = 1, failed: bool = False) -> None:
        """Take the phases."""
        self.phases.switch()
        self.after.append(Counter(self.phases.seconds))


def child(name: str, data: Path, models: Path, out: Path) -> None:
    """Train one ranker in this process, and print its phases as JSON."""
    phases = Phases()
    phases.patch(builtins, "__import__", "imports")
    phases.patch(importlib, "import_module", "imports")
    from qilin_rag.core.progress import watched_by
    from qilin_rag.core.registry import RANKERS as REGISTRY
    from qilin_rag.data.catalogue import open_catalogue
    from qilin_rag.data.requests import read_requests
    from qilin_rag.data.source import open_source
    from qilin_rag.rankers import training

    with phases.within("imports"):
        patch_all(phases, training)
    model = str(models / ("qwen2-vl-tiny" if name == "vlm" else "bert"))
    settings = RANKERS[name] | {"max_steps": N_STEPS, "evaluate_every": N_STEPS, "device": "cpu", "log_every": 10}
    ranker = REGISTRY.create(name, settings | {"encoder" if name == "dcn-v2" else "model": model})
    phases.patch(type(ranker), "recipe", "recipe")
    with phases.within("data"):
        source = open_source(str(data))
        train, validation = (read_requests(source, "search", split) for split in ("train", "validation"))
        catalogue = open_catalogue(source)
    if name == "vlm":
        clicked = (validation.n_clicked > 0).nonzero()[0]
        validation = validation.take(clicked[:4])
    steps = Steps(phases)
    with watched_by(steps):
        training.train_ranker(ranker, train, validation, catalogue, out)
    phases.switch()
    made = hashlib.sha256()
    for path in sorted(out.rglob("*")):
        if path.suffix == ".safetensors":
            made.update(path.read_bytes())
    made.update((out / training.LOG).read_bytes())
    timed = Counter(steps.after[N_STEPS - 1])
    timed.subtract(steps.after[N_WARM - 1])
    found = {"first": steps.after[0], "timed": timed, "all": phases.seconds, "made": made.hexdigest()}
    print(json.dumps(found))


def patch_all(phases: Phases, training: Any) -> None:
    """Name the phases of what training calls."""
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer
    from sentence_transformers.base.model import BaseModel
    from torch import nn
    from transformers import Trainer

    from qilin_rag.models import sentence_encoder

    phases.patch(training, "content_sha256", "hashes")
    phases.patch(training, "_model_sha256", "hashes")
    phases.patch(training, "set_seed", "trainer")
    phases.patch(Trainer, "train", "trainer")
    phases.patch(Trainer, "get_batch_samples", "batches")
    phases.patch(Trainer, "log", "log")
    phases.patch(Trainer, "_save_checkpoint", "checkpoint")
    phases.patch(BaseModel, "preprocess", "tokens")
    for owner, attribute in (
        (Accelerator, "backward"),
        (Accelerator, "clip_grad_norm_"),
        (AcceleratedOptimizer, "step"),
        (nn.Module, "zero_grad"),
    ):
        phases.patch(owner, attribute, "model")
    from qilin_rag.rankers.cross_network import CrossNetwork

    phases.patch(sentence_encoder, "embed", "model")
    phases.patch(CrossNetwork, "logits", "model")
    make = training._trainer

    def made(ranker: Any, recipe: Any, *args: Any) -> Any:
        with phases.within("trainer"):
            trainer = make(ranker, recipe, *args)
        phases.patch(trainer, "compute_loss", "model")
        phases.patch(trainer, "evaluate", "evaluation")
        model = recipe.model

        def enter(*_: Any) -> None:
            context = phases.within("model")
            context.__enter__()
            entered.append(context)

        entered: list[Any] = []
        model.register_forward_pre_hook(enter)

        def leave(*_: Any) -> None:
            entered.pop().__exit__(None, None, None)

        model.register_forward_hook(leave)
        return trainer

    training._trainer = made


def main() -> None:
    """Print the tables of each ranker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="another checkout, to compare with")
    parser.add_argument("--only", action="append", choices=RANKERS, help="default: all")
    parser.add_argument("--turns", type=int, default=3, help="how often each is measured; the median counts")
    parser.add_argument("--child", nargs=4, metavar=("RANKER", "DATA", "MODELS", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, *paths = options.child
        child(name, *map(Path, paths))
        return
    checkouts = {"before": options.before.resolve()} if options.before else {}
    checkouts["now"] = ROOT
    tables: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_inputs(folder)
        for name in options.only or RANKERS:
            found: dict[str, list[dict[str, Any]]] = {which: [] for which in checkouts}
            for turn in range(options.turns):
                for which, checkout in checkouts.items():
                    found[which].append(measured(name, checkout, folder, f"{name}-{which}-{turn}"))
            made = {run["made"] for runs in found.values() for run in runs}
            print(f"{name}: {options.turns} turns, {len(made)} different results of training", file=sys.stderr)
            for which, runs in found.items():
                for title, line in rows_of(name, which, runs).items():
                    tables.setdefault(title, []).append(line)
    for title, lines in tables.items():
        print("\n".join([f"\n{title}", "|---" * (title.count("|") - 1) + "|", *lines]))


def write_inputs(folder: Path) -> None:
    """Write data and models."""
    of_training = runpy.run_path(str(ROOT / "benchmarks" / "ranker_training.py"))
    of_training["write_data"](folder / "data", COUNTS)
    of_training["bert"](folder, SMALL_BERT)
    of_training["qwen2_vl"](folder, "tiny")


def measured(name: str, checkout: Path, folder: Path, out: str) -> dict[str, Any]:
    """Measure in a new process."""
    more = {"PYTHONPATH": str(checkout), "QILIN_RAG_CACHE": str(folder / f"cache-{out}")}
    more |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    words = [sys.executable, __file__, "--child", name, str(folder / "data"), str(folder), str(folder / out)]
    done = subprocess.run(words, env=os.environ | more, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name} in {checkout}: {done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def rows_of(name: str, which: str, runs: list[dict[str, Any]]) -> dict[str, str]:
    """Return a line of each table, by its head."""

    def seconds(part: str, *phases: str) -> float:
        return float(median(sum(run[part].get(phase, 0.0) for phase in phases) for run in runs))

    def other(part: str, *phases: str) -> float:
        return float(median(sum(run[part].values()) - sum(run[part].get(of, 0.0) for of in phases) for run in runs))

    first = [("imports",), ("data", "hashes"), ("recipe",), ("batches", "tokens"), ("model",)]
    named = [phase for phases in first for phase in phases]
    columns = [*(seconds("first", *phases) for phases in first), other("first", *named), other("first")]
    model, made = seconds("timed", "model"), seconds("timed", "batches", "tokens")
    rest = other("timed", "model", "batches", "tokens", "checkpoint")
    n_samples = N_TIMED * RANKERS[name]["batch_size"]
    n_paper, gpu_s = PAPER[name]
    paper_s = n_paper * made / n_samples + rest / N_TIMED
    evaluation = [phase for run in runs for phase in run["all"] if phase.startswith("evaluation")]
    in_model, in_all = seconds("all", "evaluation: model"), seconds("all", *set(evaluation))
    return {
        "| first step, CPU s | | imports | data | model, examples | tokens, batch | forward, step | else | all |": (
            f"| {name} | {which} | {' | '.join(f'{value:.2f}' for value in columns)} |"
        ),
        "| a step | | samples | model, ms | other, ms | share | batch, us a sample | else, us a step |": (
            f"| {name} | {which} | {n_samples // N_TIMED} | {1e3 * model / N_TIMED:.1f} | "
            f"{1e3 * (made + rest) / N_TIMED:.2f} | {(made + rest) / (model + made + rest):.1%} | "
            f"{1e6 * made / n_samples:.1f} | {1e6 * rest / N_TIMED:.0f} |"
        ),
        "| the paper's step | | samples | other, ms of one core | GPU, ms (estimate) |": (
            f"| {name} | {which} | {n_paper:,} | {1e3 * paper_s:.1f} | {1e3 * gpu_s:.1f} |"
        ),
        "| an evaluation, CPU s | | model | other | share |": (
            f"| {name} | {which} | {in_model:.2f} | {in_all - in_model:.2f} | {1 - in_model / max(in_all, 1e-9):.1%} |"
        ),
    }


if __name__ == "__main__":
    main()
