"""Describe a run in the header of a log of inspect_ai: task, model, settings, figures and tokens."""

from __future__ import annotations

from typing import Any

import qilin_rag
from qilin_rag.core.types import MetricSummary
from qilin_rag.pipeline.import_record import UNKNOWN
from qilin_rag.reports.exports.inspect_samples import model_usage, safe_id
from qilin_rag.reports.exports.run_content import RunContent, public_settings

LOG_VERSION = 2
"""The version of inspect_ai's format that is written."""
CONTENT_VERSION = 1
"""The version of what is in the metadata of a log; raise it when a name there comes to mean something else."""
_GENERATION = ("temperature", "top_p", "max_tokens", "seed", "presence_penalty", "frequency_penalty")


def header_of(content: RunContent, n_epochs: int) -> dict[str, Any]:
    """Return `header.json`, in the order of inspect_ai's fields; the numbers of samples are added later."""
    manifest, summary = content.manifest, content.summary
    # The figures are known; which samples have failed is counted when they are written.
    usage = {} if summary.uncounted else model_usage(content.llm, summary.usage)
    return {
        "version": LOG_VERSION,
        "status": "success",
        "eval": _spec(content, n_epochs),
        "plan": {"name": "plan", "steps": _steps(content), "config": {}},
        "results": {"scores": [_figure(metric, figure) for metric, figure in summary.metrics.items()]},
        "stats": {"started_at": manifest.started, "completed_at": manifest.updated, "model_usage": usage},
    }


def _spec(content: RunContent, n_epochs: int) -> dict[str, Any]:
    """Return who was asked what, with which settings."""
    manifest = content.manifest
    ids = [safe_id(question.id) for question in content.questions]
    config: dict[str, Any] = {"epochs": n_epochs}
    if manifest.config.get("limit"):
        config["limit"] = manifest.config["limit"]
    metrics = [{"name": name} for name in ("mean", "stderr", "ci95_low", "ci95_high")]
    model = manifest.config["llm"]["settings"]
    spec: dict[str, Any] = {
        "eval_id": manifest.fingerprint[:22],
        "run_id": manifest.fingerprint[:22],
        "created": manifest.started,
        "task": manifest.labels["data"],
        "task_id": manifest.fingerprint[:22],
        "task_version": 0,
        "task_args": content.settings,
        "task_args_passed": content.settings,
        "dataset": {"name": manifest.labels["data"], "samples": len(ids), "sample_ids": ids, "shuffled": False},
        "model": content.llm,
        "model_generate_config": {name: model[name] for name in _GENERATION if model.get(name) is not None},
        "model_args": {name: value for name, value in public_settings(model).items() if name not in _GENERATION},
        "config": config,
        "packages": {"qilin_rag": qilin_rag.__version__},
        "metadata": {"qilin_rag": _about(content)},
        "scorers": [{"name": name, "options": {}, "metrics": metrics} for name in content.summary.metrics],
    }
    if manifest.git_commit:
        spec["revision"] = {"type": "git", "origin": "", "commit": manifest.git_commit}
    return spec


def _about(content: RunContent) -> dict[str, Any]:
    """Return what inspect_ai has no field for."""
    manifest = content.manifest
    known: dict[str, Any] = {
        "version": CONTENT_VERSION,
        "run": content.name,
        "fingerprint": manifest.fingerprint,
        "labels": dict(manifest.labels),
        "data_sha256": manifest.data["sha256"],
        "question_set_sha256": manifest.question_set_sha256,
        "counts": content.summary.counts,
    }
    if manifest.cost:
        known["cost"] = manifest.cost.model_dump(mode="json", exclude_none=True)
    return known


def _steps(content: RunContent) -> list[dict[str, Any]]:
    """Return the way of a question: retrieve, prompt, generate; nothing is known of an imported run's."""
    if content.manifest.imported:
        return []
    settings, prompt = content.settings, content.manifest.prompt
    retrieve = {name: settings[name] for name in ("retriever", "top_k", "query", "rerank") if name in settings}
    named = {name: prompt[name] for name in ("name", "version", "sha256") if prompt.get(name, UNKNOWN) != UNKNOWN}
    steps = {"retrieve": retrieve, "prompt": named, "generate": {}}
    return [{"solver": name, "params": params, "params_passed": params} for name, params in steps.items()]


def _figure(metric: str, figure: MetricSummary) -> dict[str, Any]:
    """Return the figure of a metric; what is not known of it is left out."""
    low, high = figure.ci95 or (None, None)
    values = {"mean": figure.value, "stderr": figure.stderr, "ci95_low": low, "ci95_high": high}
    about = {"signature": figure.signature, "ci95_method": figure.ci95_method, "no_interval": figure.no_interval}
    return {
        "name": metric,
        "scorer": metric,
        "scored_samples": figure.n,
        "unscored_samples": figure.n_unscored,
        "params": {},
        "metrics": {
            name: {"name": name, "value": value, "params": {}} for name, value in values.items() if value is not None
        },
        "metadata": {name: value for name, value in about.items() if value is not None},
    }
