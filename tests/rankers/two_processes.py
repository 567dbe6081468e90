"""Two processes, each with half of the batch, must learn what one learns with all of it.

As a program it is one of the two: two_processes.py MODULE:FUNCTION OUT JSON
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
from typing import Any

import pytest

from tests.rankers.test_training import log_of

ROOT = Path(__file__).parents[2]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def learn_the_same(train: Callable[..., Any], out: Path, **given: Any) -> None:
    """`train(folder, n_processes, **given)`, of a module, with its batch divided by `n_processes`.

    Losses are compared to 1e-4, norms of the gradients and MRR to a thousandth. `given` is what JSON can say.
    """
    train(out / "one", 1, **given)
    name = f"{train.__module__}:{train.__name__}"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, *TORCHRUN, "-m", "tests.rankers.two_processes", name, str(out / "two")]
    done = subprocess.run(
        [*command, json.dumps(given)], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (log_of(out / name) for name in ("one", "two"))
    assert [line.keys() for line in one] == [line.keys() for line in two]
    assert any("loss" in line for line in one) and any("mrr@10" in line for line in one)
    for line, other in zip(one, two, strict=True):
        assert other.get("loss", 0) == pytest.approx(line.get("loss", 0), abs=1e-4, rel=0)
        assert other == pytest.approx(line, abs=1e-4, rel=1e-3)


def be_late() -> None:
    """Load the best model when the first process may have cleared up."""
    from transformers import Trainer

    from qilin_rag.models.hf_compat import NoModelCardMixin

    for trainer in (NoModelCardMixin, Trainer):
        load = trainer._load_best_model

        def load_late(self: Any, load: Callable[[Any], None] = load) -> None:
            time.sleep(3)
            load(self)

        trainer._load_best_model = load_late  # type: ignore[method-assign]


if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        be_late()
    module, _, function = sys.argv[1].partition(":")
    getattr(importlib.import_module(module), function)(Path(sys.argv[2]), 2, **json.loads(sys.argv[3]))
