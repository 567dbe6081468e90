"""Make Every Eval Ever's aggregate file: figures of a run with intervals, its model, its data and its settings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from qilin_rag.core.text import clean
from qilin_rag.core.types import SCALE, MetricSummary, Score
from qilin_rag.reports.exports.eee_evaluation import SCHEMA, Evaluation
from qilin_rag.reports.exports.json_lines import as_json, without_addresses
from qilin_rag.reports.measured import highest_is_best
from qilin_rag.scorers.summary import can_exceed_1

_HUB = "hub:"
_SAMPLING = ("presence_penalty", "frequency_penalty", "seed", "context_length")


def aggregate(
    evaluation: Evaluation,
    *,
    organization: str,
    relationship: str,
    deployment_type: str | None,
    model_availability: str,
) -> dict[str, Any]:
    """Return the aggregate file without its reference to the instance-level file."""
    manifest = evaluation.manifest
    # Nobody knows when an imported system answered.
    asked = {} if manifest.imported else {"evaluation_timestamp": _utc(evaluation.updated_s)}
    details = {"fingerprint": manifest.fingerprint, "python": manifest.python, "git_commit": manifest.git_commit}
    return {
        "schema_version": SCHEMA,
        "evaluation_id": evaluation.id,
        **asked,
        "retrieved_timestamp": str(evaluation.updated_s),
        "source_metadata": {
            "source_name": "qilin_rag",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": relationship,
            **({"additional_details": _imported(evaluation)} if manifest.imported else {}),
        },
        "eval_library": {
            "name": "qilin_rag",
            "version": str(manifest.packages.get("qilin-rag", "unknown")),
            "additional_details": {name: clean(value) for name, value in details.items() if value},
        },
        "model_info": _model(evaluation, deployment_type, model_availability),
        "evaluation_results": [
            _result(evaluation, metric, figure, figure.value)
            for metric, figure in evaluation.figures.items()
            if figure.value is not None
        ],
    }


def _utc(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _imported(evaluation: Evaluation) -> dict[str, str]:
    imported = evaluation.manifest.imported
    assert imported
    source = {} if imported.source is None else {"file": imported.source}
    return {"imported_from": clean(imported.name), "answers_sha256": clean(imported.sha256), **source}


def _model(evaluation: Evaluation, deployment_type: str | None, model_availability: str) -> dict[str, Any]:
    manifest = evaluation.manifest
    developer, slash, _ = evaluation.model_id.partition("/")
    engine, version = manifest.server.get("engine"), manifest.server.get("version")
    started = bool(manifest.config.get("serve")) or evaluation.model_id.startswith("qilin_rag/")
    return {
        "name": clean(manifest.labels["llm"]),
        "id": evaluation.model_id,
        **({"developer": developer} if slash else {}),
        **(
            {"inference_engine": {"name": engine, **({"version": version} if isinstance(version, str) else {})}}
            if isinstance(engine, str)
            else {}
        ),
        "additional_details": {
            "deployment_type": deployment_type or ("self_deployed" if started else "unknown"),
            "model_availability": model_availability,
        },
    }


def _result(evaluation: Evaluation, metric: str, figure: MetricSummary, value: float) -> dict[str, Any]:
    return {
        "evaluation_result_id": metric,
        "evaluation_name": evaluation.collection,
        "source_data": _source_data(evaluation),
        "metric_config": {
            "metric_id": f"qilin_rag.{metric}",
            "metric_name": metric,
            "lower_is_better": "|best:lowest" in figure.signature,
            **_range(figure, value, evaluation.scores[metric].values()),
            "additional_details": {
                "signature": figure.signature,
                **({} if highest_is_best(figure.signature) else {"highest_is_best": "false"}),
            },
        },
        "score_details": {"score": value, "details": _details(figure), **_uncertainty(figure)},
        "generation_config": _generation(evaluation),
    }


def _range(figure: MetricSummary, value: float, scores: Iterable[Score]) -> dict[str, Any]:
    """Return the range of a metric, unless a value contradicts it."""
    low, high = 0.0, 1.0
    if f"|{SCALE[0]}-{SCALE[1]}|" in figure.signature:
        low, high = map(float, SCALE)
    elif can_exceed_1(figure.signature):
        high = math.inf
    values = [value, *(score.value for score in scores if score.value is not None)]
    if not low <= min(values) <= max(values) <= high:
        return {}
    return {
        "score_type": "continuous",
        "min_score": low,
        "max_score": "Infinity" if math.isinf(high) else high,
    }


def _details(figure: MetricSummary) -> dict[str, str]:
    known = {
        "n_unscored": str(figure.n_unscored),
        "value_unscored_as_zero": None
        if figure.value_unscored_as_zero is None
        else repr(figure.value_unscored_as_zero),
        "no_interval": figure.no_interval,
        "reasons": without_addresses(as_json(figure.reasons)) if figure.reasons else None,
    }
    return {name: text for name, text in known.items() if text is not None}


def _uncertainty(figure: MetricSummary) -> dict[str, Any]:
    """Return interval and standard error, in which repeated queries count as one."""
    found: dict[str, Any] = {}
    if figure.stderr is not None:
        found["standard_error"] = {"value": figure.stderr, "method": "analytic, clustered by query"}
    if figure.ci95 is not None:
        low, high = figure.ci95
        method = {"method": f"{figure.ci95_method}, clustered by query"} if figure.ci95_method else {}
        found["confidence_interval"] = {"lower": low, "upper": high, "confidence_level": 0.95, **method}
    return {"uncertainty": {**found, "num_samples": figure.n}}


def _source_data(evaluation: Evaluation) -> dict[str, Any]:
    manifest = evaluation.manifest
    named = manifest.config.get("data")
    hub = named.removeprefix(_HUB) if isinstance(named, str) and named.startswith(_HUB) else None
    details = {
        "sha256": manifest.data["sha256"],
        "question_set_sha256": manifest.question_set_sha256,
        "n_notes": str(manifest.data["n_notes"]),
        "n_questions": str(manifest.n_questions),
        "answers": manifest.config.get("answers"),
        "references": manifest.config.get("references"),
    }
    return {
        "dataset_name": clean(manifest.labels["data"]),
        "source_type": "hf_dataset" if hub else "other",
        **({"hf_repo": clean(hub), "samples_number": manifest.n_questions} if hub else {}),
        "additional_details": {name: clean(text) for name, text in details.items() if isinstance(text, str)},
    }


def _generation(evaluation: Evaluation) -> dict[str, Any]:
    manifest = evaluation.manifest
    llm = manifest.identity.get("llm")
    llm = llm if isinstance(llm, dict) and not manifest.imported else {}
    numbers = {name: value for name in ("temperature", "top_p") if _is_number(value := llm.get(name))}
    most = llm.get("max_tokens")
    is_count = isinstance(most, int) and not isinstance(most, bool) and most >= 1
    details = {"retriever": manifest.labels["retriever"], "prompt": manifest.labels["prompt"]}
    if not manifest.imported:
        details |= {"prompt_sha256": str(manifest.prompt.get("sha256", ""))}
        details |= {name: repr(llm[name]) for name in _SAMPLING if _is_number(llm.get(name))}
    if manifest.identity.get("top_k") is not None:
        details["notes_retrieved"] = str(manifest.identity["top_k"])
    return {
        "generation_args": {**numbers, **({"max_tokens": most} if is_count else {})},
        "additional_details": {name: without_addresses(clean(text)) for name, text in details.items() if text},
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
