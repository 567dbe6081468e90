"""Ask lm-eval itself: `OURS THEIRS` says what it reads in a folder of ours, and makes one with a model of its own."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
from lm_eval.api.model import LM
from lm_eval.evaluator import simple_evaluate
from lm_eval.loggers import EvaluationTracker, WandbLogger
from lm_eval.utils import (
    get_file_datetime,
    get_file_task_name,
    get_latest_filename,
    get_results_filenames,
    get_sample_results_filenames,
    handle_non_serializable,
    hash_string,
    make_table,
    sanitize_model_name,
)

ANSWERS = {"冷萃咖啡怎么做": "粗研磨\u2028。", "多肉怎么养": "", "手冲水温": "92度"}


def read(folder: Path) -> dict[str, Any]:
    files = [path.as_posix() for path in folder.rglob("*") if path.is_file()]
    results_file = Path(get_latest_filename(get_results_filenames(files)))
    samples_file = Path(get_latest_filename(get_sample_results_filenames(files)))
    task = get_file_task_name(samples_file.name)
    results = json.loads(results_file.read_text(encoding="utf-8"))
    lines = [json.loads(line) for line in samples_file.read_text(encoding="utf-8").split("\n")[:-1]]
    hashes = []
    for line in lines:
        doc = json.dumps(line["doc"], indent=2, default=handle_non_serializable, ensure_ascii=False)
        hashes += [hash_string(doc), hash_string(line["arguments"]["gen_args_0"]["arg_0"]), hash_string(line["target"])]
        assert hashes[-3:] == [line["doc_hash"], line["prompt_hash"], line["target_hash"]]
    assert results["task_hashes"] == {task: hash_string("".join(hashes))}
    logger = WandbLogger.__new__(WandbLogger)
    logger.post_init(results)
    return {
        "names": [get_file_datetime(samples_file.name), task, results_file.parent.name],
        "sanitized": sanitize_model_name(results["model_name"]),
        "table": make_table(results),
        "wandb": logger._sanitize_results_dict()[1],
        "wandb_config": sorted(logger._get_config()),
        "zeno": _as_zeno_reads(lines, results["configs"][task], results["config"]["model_args"]),
        "rows": datasets.load_dataset("json", data_files=str(samples_file), split="train").num_rows,
        "card": _card(folder, files),
    }


def _as_zeno_reads(lines: list[dict[str, Any]], config: dict[str, Any], model_args: str | dict[str, Any]) -> Any:
    """Read as scripts/zeno_visualize.py of lm-eval does, which its package does not contain."""
    assert config["output_type"] == "generate_until" and not config.get("filter_list")
    re.sub(r"[\"<>:/\|\\?\*\[\]]+", "__", json.dumps(model_args) if isinstance(model_args, dict) else model_args)
    metrics = [each["metric"] for each in config["metric_list"] if each.get("aggregation") == "mean"]
    return {
        "id": [line["doc_id"] for line in lines],
        "labels": [line["target"] for line in lines],
        "data": [line["arguments"]["gen_args_0"]["arg_0"] for line in lines],
        "output": [str(line["filtered_resps"][0]) for line in lines],
        **{metric: [line[metric] for line in lines] for metric in metrics},
    }


def _card(folder: Path, files: list[str]) -> str:
    """The card of a data set on the hub, with the hub replaced by the folder."""
    said: list[str] = []
    names = [Path(file).relative_to(folder).as_posix() for file in files]
    tracker = EvaluationTracker()
    tracker.api = SimpleNamespace(list_repo_files=lambda **_: names)
    tracker.general_config_tracker.model_name = "model"
    hub: Any = huggingface_hub
    hub.hf_hub_url = lambda **named: str(folder / named["filename"])
    hub.DatasetCard.push_to_hub = lambda card, *_, **__: said.append(str(card))
    tracker.recreate_metadata_card()
    return said[0]


class Model(LM):  # type: ignore[misc]
    """A model that knows its answers by heart."""

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [next(answer for query, answer in ANSWERS.items() if query in each.args[0]) for each in requests]

    def loglikelihood(self, requests: list[Any]) -> list[Any]:
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def make(folder: Path) -> str:
    folder.mkdir()
    rows = [{"id": at, "query": query, "answer": "92度"} for at, query in enumerate(ANSWERS, start=71)]
    docs = folder / "docs.jsonl"
    docs.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {
        "task": "coffee_qa",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(docs)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "问题：{{query}}\n回答：",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"]},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    tracker = EvaluationTracker(output_path=str(folder))
    found = simple_evaluate(model=Model(), tasks=[task], evaluation_tracker=tracker, log_samples=True)
    samples = found.pop("samples")
    tracker.general_config_tracker.model_name = tracker.general_config_tracker.model_name_sanitized = "by-heart"
    tracker.save_results_aggregated(results=found, samples=samples)
    tracker.save_results_samples("coffee_qa", samples["coffee_qa"])
    [made] = folder.glob("by-heart/samples_*.jsonl")
    return str(made)


if __name__ == "__main__":
    print(json.dumps(read(Path(sys.argv[1])) | {"made": make(Path(sys.argv[2]))}))  # noqa: T201
