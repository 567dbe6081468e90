"""Trainings on two processes, one after the other: whoever starts them pays once for the imports.

As a program it is one of the two: two_processes.py JSON, a list of [MODULE:FUNCTION, OUT, GIVEN].
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


class Training(NamedTuple):
    """`train(folder, n_processes, **given)`, of a module, with its batch divided by `n_processes`."""

    train: Callable[..., None]
    given: dict[str, Any]
    """What JSON can say."""


def on_two_processes(trainings: dict[str, Training], out: Path) -> None:
    """Each to a folder of its name in `out`."""
    asked = [(f"{f.__module__}:{f.__name__}", str(out / name), given) for name, (f, given) in trainings.items()]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *TORCHRUN, "-m", "tests.rankers.two_processes", json.dumps(asked)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def be_late() -> None:
    """Load the best model when the first process may have cleared up."""
    from transformers import Trainer

    from qilin_rag.models.hf_compat import SentenceTrainerMixin

    for trainer in (SentenceTrainerMixin, Trainer):
        load = trainer._load_best_model

        def load_late(self: Any, load: Callable[[Any], None] = load) -> None:
            time.sleep(3)
            load(self)

        trainer._load_best_model = load_late  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        be_late()
    for name, folder, given in json.loads(sys.argv[1]):
        module, _, function = name.partition(":")
        getattr(importlib.import_module(module), function)(Path(folder), 2, **given)
