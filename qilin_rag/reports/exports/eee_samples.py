"""Make the records of Every Eval Ever's instance-level file: one for each question and figure that scores it.

A question that a figure leaves unscored has no record there, since the format demands a number.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from qilin_rag.core.types import Question, Sample, Score
from qilin_rag.reports.exports.eee_evaluation import SCHEMA, Evaluation
from qilin_rag.reports.exports.json_lines import as_json, without_addresses
from qilin_rag.reports.measured import highest_is_best


def sample_records(evaluation: Evaluation, remarks: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield the records, by question and then by figure, and count the scores that have none."""
    for question in evaluation.questions:
        shared = _of_sample(question, evaluation.samples[question.id])
        scores = [of[question.id] for metric, of in evaluation.scores.items() if metric in evaluation.figures]
        remarks["questions that no figure scores have no record"] += all(score.value is None for score in scores)
        remarks["unscored values have no record"] += sum(score.value is None for score in scores)
        for score in scores:
            if score.value is not None:
                yield _record(evaluation, score, score.value, shared)


def _record(evaluation: Evaluation, score: Score, value: float, shared: dict[str, Any]) -> dict[str, Any]:
    """Return a record. Full marks are `is_correct`, as in the tools' own converters."""
    remark = {"score_remark": without_addresses(score.reason)} if score.reason else {}
    return {
        "schema_version": SCHEMA,
        "evaluation_id": evaluation.id,
        "model_id": evaluation.model_id,
        "evaluation_name": evaluation.collection,
        "evaluation_result_id": score.metric,
        **shared,
        "evaluation": {"score": value, "is_correct": value == 1 and highest_is_best(score.signature)},
        "metadata": {**shared["metadata"], **remark},
    }


def _of_sample(question: Question, sample: Sample) -> dict[str, Any]:
    hashed = json.dumps({"raw": question.query, "reference": question.references}, sort_keys=True)
    content: dict[str, Any] = {
        "sample_id": question.id,
        "sample_hash": hashlib.sha256(hashed.encode()).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": question.query, "reference": question.references},
        "output": {"raw": [sample.raw]},
        "answer_attribution": [
            {
                "turn_idx": 0,
                "source": "output.raw",
                "extracted_value": sample.answer,
                "extraction_method": "none" if sample.answer == sample.raw else "thinking removed",
                "is_terminal": True,
            }
        ],
    }
    usage = sample.usage
    if usage.prompt_tokens is not None and usage.completion_tokens is not None:
        content["token_usage"] = {
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            **({} if usage.cache_write_tokens is None else {"input_tokens_cache_write": usage.cache_write_tokens}),
            **({} if usage.cached_tokens is None else {"input_tokens_cache_read": usage.cached_tokens}),
        }
    if sample.latency_s is not None and sample.latency_s >= 0 and not sample.cached:
        content["performance"] = {"latency_ms": round(sample.latency_s * 1000, 3)}
    if sample.error is not None:
        content["error"] = without_addresses(sample.error)
    content["metadata"] = _metadata(sample)
    return content


def _metadata(sample: Sample) -> dict[str, str]:
    """Return what else is known about a sample; all values are text, lists as JSON."""
    details: dict[str, str] = {"status": sample.status}
    if sample.has_known_hits:
        details["note_ids"] = as_json([hit.note_idx for hit in sample.hits])
    if sample.known_prompt_notes is not None:
        details["prompt_note_ids"] = as_json(sample.known_prompt_notes)
    if sample.finish_reason is not None:
        details["finish_reason"] = sample.finish_reason
    if sample.marks:
        details["marks"] = as_json(sample.marks)
    return details
