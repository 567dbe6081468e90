"""Write runs to MLflow: to a server, or to a store on this machine, as MLflow's own environment variables say."""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING, Any

from qilin_rag.core.extras import require
from qilin_rag.pipeline.hooks.base import Hook, TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "qilin_rag"
TABLE = "scores.json"
_FINGERPRINT = "qilin_rag.fingerprint"
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # seven, with pauses, would take minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_BATCH = 100


class MLflow(Hook):
    """Write runs to MLflow (MLFLOW_TRACKING_URI; else mlflow.db in the current folder)."""

    def check(self) -> None:
        """Check that MLflow is installed."""
        require("mlflow", "mlflow", what="track mlflow")

    def ended(self, run: TrackedRun) -> str:
        """Write parameters, figures, the table of scores and the files of a run."""
        return _write(run, "FINISHED", {})

    def failed(self, run: TrackedRun, reason: str) -> str:
        """Write the parameters of a run, and the error as a tag."""
        return _write(run, "FAILED", {"error": reason})


def _write(run: TrackedRun, status: str, tags: dict[str, str]) -> str:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client = MlflowClient()
    earlier = _earlier(client, run)
    if earlier is None:
        begun = {_FINGERPRINT: run.fingerprint}
        start_ms = int(run.started.timestamp() * 1000)
        earlier = client.create_run(_experiment_id(client), start_ms, begun, run_name=run.name)
    run_id, known = earlier.info.run_id, earlier.data.params
    now_ms = int(time.time() * 1000)
    params = {_allowed(name): str(value) for name, value in run.params.items()}
    changed = {name: value for name, value in params.items() if known.get(name, value) != value}  # a param is for good
    stale = {"error": ""} if "error" in earlier.data.tags else {}
    all_tags = [RunTag(name, value) for name, value in {**stale, **changed, **tags}.items()]
    new_params = [Param(name, value) for name, value in params.items() if name not in known]
    metrics = [Metric(_allowed(name), value, now_ms, 0) for name, value in run.metrics.items()]
    for at in range(0, max(len(all_tags), len(new_params), len(metrics)), _BATCH):
        part = slice(at, at + _BATCH)
        client.log_batch(run_id, metrics[part], new_params[part], all_tags[part])
    if run.rows:
        table = {"columns": run.columns, "data": run.rows}  # as `mlflow.load_table` reads it
        client.log_text(run_id, json.dumps(table, ensure_ascii=False), TABLE)
        client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([{"path": TABLE, "type": "table"}]))
    for file in run.files:
        client.log_artifact(run_id, str(file))
    client.set_terminated(run_id, status, int(run.ended.timestamp() * 1000))
    return str(run_id)


def _earlier(client: MlflowClient, run: TrackedRun) -> Run | None:
    """Return the tracker's run of an earlier time, if it is in this store, not deleted, and of this very run."""
    from mlflow.exceptions import MlflowException

    if run.tracked_as is None:
        return None
    try:
        earlier = client.get_run(run.tracked_as)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # another store
            return None
        raise
    is_same = earlier.data.tags.get(_FINGERPRINT) == run.fingerprint
    return earlier if is_same and earlier.info.lifecycle_stage == "active" else None


def _experiment_id(client: MlflowClient) -> Any:
    from mlflow.exceptions import MlflowException

    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    if (known := client.get_experiment_by_name(name)) is not None:
        return known.experiment_id
    try:
        return client.create_experiment(name)
    except MlflowException:
        if (known := client.get_experiment_by_name(name)) is not None:  # another process was faster
            return known.experiment_id
        raise


def _allowed(name: str) -> str:
    """Return a name that MLflow accepts: `ndcg@5` is `ndcg_at_5`."""
    return re.sub(r"[^\w./ :-]", "_", name.replace("@", "_at_"))[:250]
