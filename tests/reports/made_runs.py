"""Complete runs with made up figures."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from qilin_rag.core.types import Score
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.pipeline.scoring import summarise


def make_run(
    folder: Path,
    name: str,
    values: Sequence[float | None],
    queries: Sequence[str] | None = None,
    llm: str | None = None,
    retriever: str = "bm25",
) -> None:
    """A complete run with these figures of a metric, by default in the row `name` and the column bm25."""
    [real] = Path("real").iterdir()
    directory = RunDirectory(folder / name)
    shutil.copytree(real, directory.path)
    manifest = directory.read_manifest()
    labels = {**manifest.labels, "llm": llm or name, "retriever": retriever}
    asked = directory.read_questions()[0]
    questions = [
        asked.model_copy(update={"id": str(i), "query": queries[i] if queries else f"q{i}", "meta": {"user": i // 2}})
        for i in range(len(values))
    ]
    scores = [
        Score(question_id=str(i), metric="m", value=value, signature="m|made up", reason=None if value else "made up")
        for i, value in enumerate(values)
    ]
    sample = next(iter(directory.read_samples()[0].values()))
    samples = [sample.model_copy(update={"question_id": each.id, "query": each.query}) for each in questions]
    directory.write_manifest(
        manifest.model_copy(
            update={
                "labels": labels,
                "config": {**manifest.config, "retriever": {"name": retriever, "settings": {}}},
                "n_questions": len(values),
                "question_set_sha256": f"{len(values)}",
                "fingerprint": name * 8,
            }
        )
    )
    directory.write_questions(questions)
    directory.write_scores(scores)
    directory.write_summary(summarise(samples, samples, scores))
    (directory.path / "samples.jsonl").write_text("".join(f"{each.model_dump_json()}\n" for each in samples))
