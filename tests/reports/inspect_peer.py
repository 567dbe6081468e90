"""Ask inspect_ai itself: `LOG FOLDER` says what it reads in a log, and makes one in the folder with its mock model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from inspect_ai import Task, eval
from inspect_ai.analysis import evals_df, samples_df
from inspect_ai.dataset import Sample
from inspect_ai.log import (
    read_eval_log,
    read_eval_log_sample,
    read_eval_log_sample_summaries,
    read_eval_log_samples,
    write_eval_log,
)
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


def read(path: Path) -> dict[str, Any]:
    header, log = read_eval_log(str(path), header_only=True), read_eval_log(str(path))
    assert log.samples is not None and log.results is not None and header.results is not None
    summaries = read_eval_log_sample_summaries(str(path))
    own = [sample.summary() for sample in log.samples]
    one_by_one = list(read_eval_log_samples(str(path), all_samples_required=False))
    for summary in summaries:
        assert read_eval_log_sample(str(path), summary.id, summary.epoch).uuid == summary.uuid
    figures = {
        score.name: [score.metrics[name].value if name in score.metrics else None for name in ("mean", "stderr")]
        for score in log.results.scores
        if score.metrics
    }
    frame, evals = samples_df(str(path)), evals_df(str(path))
    scored = frame[frame["score_rouge_l"].notna()] if "score_rouge_l" in frame else frame[:0]
    rewritten = path.with_name("rewritten.eval"), path.with_name("rewritten.json")
    for to in rewritten:
        write_eval_log(log, str(to))
    return {
        "header": [header.status, header.eval.config.epochs, header.results.total_samples],
        "whole": [log.status, log.eval.config.epochs, len(log.samples)],
        "summaries_are_its_own": sorted(summaries, key=_key) == sorted(own, key=_key),
        "samples_one_by_one": len(one_by_one),
        "answers": {sample.id: sample.output.completion for sample in log.samples if sample.epoch == 1},
        "figures": figures,
        "frame": {
            "rows": len(frame),
            "evals": len(evals),
            "rouge_l": dict(zip(scored["id"], map(float, scored["score_rouge_l"]), strict=True)) if len(scored) else {},
        },
        "rewritten": str(rewritten[0]),
        "rewritten_as_json": str(rewritten[1]),
    }


def _key(each: Any) -> tuple[int, str]:
    return each.epoch, str(each.id)


def run(folder: Path) -> str:
    """Make a log: ids that are inspect_ai's own, a prompt as input, notes in the metadata, a filtered answer."""
    texts = {"冷萃": "粗研磨[1]。", "多肉": "断水。", "手冲": ""}

    def answer(messages: list[Any], *_: Any) -> ModelOutput:
        word = next(word for word in texts if word in messages[-1].text)
        output = ModelOutput.from_content(
            "mockllm/model", texts[word], stop_reason="stop" if texts[word] else "content_filter"
        )
        output.usage = ModelUsage(input_tokens=7, output_tokens=2, total_tokens=12, input_tokens_cache_read=3)
        return output

    about = {"question_id": "2", "note_ids": [12, 13], "citations": [12]}
    samples = [
        Sample(id=71, input="冷萃咖啡怎么做", target=["冷藏"]),
        Sample(id=72, input="一段很长的提示\n多肉怎么养", target="断水", metadata=about),
        Sample(id=73, input="手冲水温", target="92度"),
    ]
    model = get_model("mockllm/model", custom_outputs=answer)
    task = Task(dataset=samples, scorer=includes(), solver=generate(), name="qa", epochs=2)
    [log] = eval(task, model=model, log_dir=str(folder), display="none")
    return str(log.location)


if __name__ == "__main__":
    print(json.dumps(read(Path(sys.argv[1])) | {"made": run(Path(sys.argv[2]))}))  # noqa: T201
