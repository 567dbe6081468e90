"""Write runs to trackio: to its SQLite files on this machine, or as its own environment variables say."""

from __future__ import annotations

import os
import warnings

from qilin_rag.core.errors import QilinError
from qilin_rag.core.extras import require
from qilin_rag.pipeline.hooks.base import Hook, TrackedRun

PROJECT = "qilin_rag"
_ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


class Trackio(Hook):
    """Write runs to trackio (TRACKIO_DIR, TRACKIO_SPACE_ID or TRACKIO_SERVER_URL; else its cache folder)."""

    def check(self) -> None:
        """Check that trackio is installed."""
        require("trackio", "trackio", what="track trackio")

    def ended(self, run: TrackedRun) -> str:
        """Write parameters, figures and the table of scores of a run; a later time is a further step of it."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        import trackio

        with warnings.catch_warnings(record=True) as caught:  # trackio only warns of what it could not write
            warnings.simplefilter("always")
            name = run.tracked_as or run.name
            params = {name: value for name, value in run.params.items() if not name.startswith("_")}
            quiet = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
            trackio.init(PROJECT, name=name, config=params, resume="allow", **quiet)
            table = {"scores": trackio.Table(columns=run.columns, data=run.rows)} if run.rows else {}
            trackio.log({**run.metrics, **table})
            trackio.finish()
        for warning in caught:
            if issubclass(warning.category, UserWarning) and isinstance(warning.message, Exception):
                raise QilinError(str(warning.message))
        return name
