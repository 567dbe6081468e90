"""A run in which every field that comes from outside tries to be markup."""

from __future__ import annotations

from pathlib import Path

from qilin_rag.config.run import resolve_run
from qilin_rag.core.types import Score
from qilin_rag.pipeline.run import run
from tests.conftest import write_jsonl
from tests.reports.apart import write_parts

HOSTILE = [
    "<script>window.hacked=1</script>",
    "<img src=x onerror=window.hacked=1>",
    "</script><script>window.hacked=1</script><!--<script>",
    "\"'><svg onload=window.hacked=1>\u202eabc\u2066\x00\x1b[31m{{ 7 * 7 }}",
    "javascript:window.hacked=1",
]


def hostile_run() -> Path:
    """Run `runs/<hostile name>`: two questions, three notes, one failed answer, and a metric of a hostile name.

    A judge took the first answer apart.
    """
    everything = " ".join(HOSTILE)
    folder = Path("hostile")
    folder.mkdir()
    write_jsonl(
        folder / "notes.jsonl",
        [{"note_idx": at, "title": HOSTILE[at], "content": f"笔记 {everything}\n{everything}"} for at in range(3)],
    )
    write_jsonl(
        folder / "dqa.jsonl",
        [
            {
                "search_idx": f"{at}{HOSTILE[at]}",
                "query": f"{HOSTILE[at]} 笔记",
                "answers": [everything, HOSTILE[at]],
                "ref_note_idx_list": [at],
            }
            for at in range(2)
        ],
    )
    directory = run(resolve_run({"data": str(folder), "note": HOSTILE[0]})).directory
    manifest = directory.read_manifest()
    labels = {name: f"{label} {everything}" for name, label in manifest.labels.items()}
    directory.write_manifest(manifest.model_copy(update={"labels": labels}))
    samples, lines = directory.read_samples()
    first, second = samples.values()
    told = {"answer": everything, "raw": everything * 2, "model": HOSTILE[0], "finish_reason": HOSTILE[1]}
    with directory.line_writer() as writer:
        writer.write(first.model_copy(update=told))
        writer.write(second.model_copy(update={"status": "failed", "error": everything, "answer": ""}))
    name = f"metric {HOSTILE[0]}"
    more = [Score(question_id=at, metric=name, value=0.5, reason=everything, signature=everything) for at in samples]
    directory.write_scores([*directory.read_scores(), *more])
    summary = directory.read_summary()
    known = next(iter(summary.metrics.values())).model_copy(update={"signature": everything})
    directory.write_summary(summary.model_copy(update={"metrics": {**summary.metrics, name: known}}))
    assert len(lines) == 2
    write_parts(directory.path, list(directory.read_samples()[0].values()), [everything, *HOSTILE[:2]], *HOSTILE[:2])
    return directory.path.rename(directory.path.with_name("<b>&\"'run"))
