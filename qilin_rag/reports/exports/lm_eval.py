"""Export a run in the files of lm-eval: `MODEL/results_TIME.json` and `MODEL/samples_TASK_TIME.jsonl`.

The files are those of lm-eval's `EvaluationTracker`, with the hashes of its `evaluator.evaluate`: a task that generates
text, with the filter `none`. What lm-eval has no place for is under the name `qilin_rag`, in both files: intervals and
signatures there, and in each line the notes and how the call ended.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import qilin_rag
from qilin_rag.core.files import replace_text
from qilin_rag.core.text import slug
from qilin_rag.core.types import Sample
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.exports.base import Exported, ExportFormat
from qilin_rag.reports.exports.json_lines import as_json
from qilin_rag.reports.exports.run_content import (
    RunContent,
    ScoredSample,
    about_call,
    about_notes,
    public_settings,
    seconds_of,
)
from qilin_rag.reports.measured import highest_is_best

CONTENT_VERSION = 1
"""The version of what is under `qilin_rag`; raise it when a name there comes to mean something else."""
_FILTER = "none"
_GENERATION = {"temperature": "temperature", "top_p": "top_p", "max_tokens": "max_gen_toks"}
_NOT_IN_MODEL_NAMES = re.compile(r"[\"<>:/|\\?*\[\]]+")  # as lm-eval's sanitize_model_name
_MOST_BYTES = 100


class LmEval(ExportFormat):
    """Export a run as a folder that lm-eval's readers read."""

    writes_folder = True

    def write(self, runs: Sequence[RunDirectory], out: Path) -> Exported:
        """Write a folder with the name of the model, and in it the figures and the samples."""
        [directory] = runs
        content = RunContent(directory)
        task = re.sub(r"\W", "_", slug(content.manifest.labels["data"], _MOST_BYTES))
        name = _NOT_IN_MODEL_NAMES.sub("__", content.llm)
        folder = out / (name if name == slug(name, _MOST_BYTES) else slug(name, _MOST_BYTES))
        time = datetime.fromisoformat(content.manifest.updated).replace(tzinfo=None).isoformat().replace(":", "-")
        hashes = hashlib.sha256()
        folder.mkdir()
        lines = _lines(content, hashes)
        replace_text(folder / f"samples_{task}_{time}.jsonl", (f"{line}\n" for line in lines))
        results = _results(content, task) | {"task_hashes": {task: hashes.hexdigest()}, **_model(content, folder.name)}
        replace_text(folder / f"results_{time}.json", as_json(results, indent=2))
        return Exported({"samples": len(content.questions), "metrics": len(content.summary.metrics)}, {})


def hash_text(text: str) -> str:
    """Return the hash that lm-eval gives a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _lines(content: RunContent, hashes: Any) -> Iterator[str]:
    """Yield a line for each question, and add their hashes to that of the task."""
    repeated: dict[str, list[str]] = defaultdict(list)
    for _, question, sample in content.repeats():
        repeated[question.id].append(sample.raw)
    generation = _generation(content)
    for number, scored in enumerate(content.samples()):
        line = _line(number, scored, repeated[scored.question.id], generation)
        hashes.update((line["doc_hash"] + line["prompt_hash"] + line["target_hash"]).encode())
        yield as_json(line)


def _line(number: int, scored: ScoredSample, repeated: list[str], generation: dict[str, Any]) -> dict[str, Any]:
    question, sample, scores = scored
    doc = {
        "question_id": question.id,
        "query": question.query,
        "references": question.references,
        "reference_notes": question.reference_notes,
    }
    # A text for one reference; for several, Python's notation of the list, as lm-eval writes it.
    target = question.references[0] if len(question.references) == 1 else str(question.references)
    prompt = as_json(sample.messages) if sample.messages else ""
    unscored = {name: score.reason or "no value" for name, score in scores.items() if score.value is None}
    return {
        "doc_id": number,
        "doc": doc,
        "target": target,
        "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": generation}},
        "resps": [[sample.raw, *repeated]],
        "filtered_resps": [sample.answer],
        "filter": _FILTER,
        "metrics": list(scores),
        "doc_hash": hash_text(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": hash_text(prompt),
        "target_hash": hash_text(target),
        **{name: score.value for name, score in scores.items()},
        "qilin_rag": {"version": CONTENT_VERSION, **about_notes(sample), **_call(sample), "unscored": unscored or None},
    }


def _call(sample: Sample) -> dict[str, Any]:
    """Return how the call ended; every line has the same names, as a table needs them."""
    call = about_call(sample)
    known = {"model": sample.model, "latency_s": seconds_of(sample)}
    names = ("status", "finish_reason", "error", "marks", "usage")
    return {"call": {**{name: call.get(name) for name in names}, **known}}


def _generation(content: RunContent) -> dict[str, Any]:
    """Return the settings of the generation under lm-eval's names; `until` is what its readers look for."""
    model = content.manifest.config["llm"]["settings"]
    return {name: model[ours] for ours, name in _GENERATION.items() if model.get(ours) is not None}


def _results(content: RunContent, task: str) -> dict[str, Any]:
    """Return the figures and the configuration of the task, in the order of lm-eval's results."""
    manifest, metrics = content.manifest, content.summary.metrics
    n = len(content.questions)
    figures: dict[str, Any] = {"name": task, "alias": task, "sample_len": n}
    for metric, figure in metrics.items():
        if figure.value is not None:
            figures[f"{metric},{_FILTER}"] = figure.value
            figures[f"{metric}_stderr,{_FILTER}"] = "N/A" if figure.stderr is None else figure.stderr
    task_config = {
        "task": task,
        "dataset_path": manifest.labels["data"],
        "output_type": "generate_until",
        "metric_list": [{"metric": metric, "aggregation": "mean"} for metric in metrics],
        "generation_kwargs": _generation(content),
        "repeats": 1 + max((number - 1 for number, *_ in content.repeats()), default=0),
        "num_fewshot": 0,
        "metadata": {"version": CONTENT_VERSION, **content.settings},
    }
    limit = manifest.config.get("limit")
    model = manifest.config["llm"]
    return {
        "results": {task: figures},
        "group_subtasks": {task: []},
        "configs": {task: task_config},
        "versions": {task: CONTENT_VERSION},
        "n-shot": {task: 0},
        "higher_is_better": {task: {name: True for name, of in metrics.items() if highest_is_best(of.signature)}},
        "n-samples": {task: {"effective": n} if limit else {"original": n, "effective": n}},
        "config": {
            "model": "imported" if manifest.imported else model["name"],
            "model_args": public_settings(model["settings"]),
            "limit": limit,
            "random_seed": manifest.seed,
        },
        "git_hash": manifest.git_commit,
        "date": datetime.fromisoformat(manifest.started).timestamp(),
        "qilin_rag": {
            "version": CONTENT_VERSION,
            "package": qilin_rag.__version__,
            "run": content.name,
            "fingerprint": manifest.fingerprint,
            "labels": dict(manifest.labels),
            "counts": content.summary.counts,
            "usage": content.summary.usage.model_dump(exclude_none=True),
            "metrics": {name: figure.model_dump(mode="json") for name, figure in metrics.items()},
        },
    }


def _model(content: RunContent, sanitized: str) -> dict[str, Any]:
    """Return the names of the model, and the seconds that the run took if they are known."""
    named: dict[str, Any] = {
        "model_source": "imported" if content.manifest.imported else content.manifest.config["llm"]["name"],
        "model_name": content.llm,
        "model_name_sanitized": sanitized,
    }
    times = content.manifest.times
    if times and times.sessions > times.untimed:
        named["total_evaluation_time_seconds"] = str(times.retrieval_s + times.generation_s + times.scoring_s)
    return named
