"""Write runs to Weights & Biases, or offline into a folder, as its own environment variables say."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from qilin_rag.core.errors import QilinError
from qilin_rag.core.extras import require
from qilin_rag.pipeline.hooks.base import Hook, TrackedRun

PROJECT = "qilin_rag"
_ENVIRONMENT = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "WANDB_INIT_TIMEOUT": "30"}


class WandB(Hook):
    """Write runs to Weights & Biases (WANDB_PROJECT; WANDB_MODE=offline writes into WANDB_DIR)."""

    def check(self) -> None:
        """Check that wandb is installed."""
        require("wandb", "wandb", what="track wandb")

    def ended(self, run: TrackedRun) -> str:
        """Write parameters, figures, the table of scores and the files of a run."""
        return _write(run, exit_code=0)

    def failed(self, run: TrackedRun, reason: str) -> str:
        """Write the parameters of a run that failed, with its error."""
        return _write(run, exit_code=1, error=reason)


def _write(run: TrackedRun, exit_code: int, error: str | None = None) -> str:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import wandb

    settings = wandb.Settings(
        console="off",
        disable_code=True,
        disable_git=True,
        x_disable_machine_info=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_save_requirements=False,
    )
    tracked = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or PROJECT,
        id=run.tracked_as or secrets.token_hex(4),
        name=os.environ.get("WANDB_NAME") or run.name,
        job_type="evaluation",
        resume="allow",
        settings=settings,
    )
    folder = Path(os.environ.get("WANDB_DIR") or Path.cwd()).resolve()
    if tracked.offline and not Path(tracked.dir).resolve().is_relative_to(folder):  # in a temporary folder instead
        raise QilinError(f"{folder} can't be written to")
    tracked.config.update(run.params, allow_val_change=True)
    tracked.summary["error"] = error
    if run.rows:
        tracked.log({**run.metrics, "scores": wandb.Table(columns=run.columns, data=run.rows, allow_mixed_types=True)})
    elif run.metrics:
        tracked.log(run.metrics)
    if run.files:
        kept = wandb.Artifact(f"run-{_allowed(run.name)}", "run", metadata={"fingerprint": run.fingerprint})
        for file in run.files:
            kept.add_file(str(file))
        tracked.log_artifact(kept)
    tracked.finish(exit_code)
    return str(tracked.id)


def _allowed(name: str) -> str:
    """Return a name that an artifact may have."""
    return re.sub(r"[^\w.\-]", "_", name, flags=re.ASCII)[:100]
