"""What the view of 300 runs x 3,000 questions takes: seconds of a list, a leaderboard and a question, and memory.

The runs are made up: twenty LLMs by fifteen retrievers, samples of 3 KB and four metrics. The samples of all runs of a
retriever are one file on disk (hard links), so that some 150 MB stand for 2.7 GB. The server is a process of its own,
started as a user does.

usage: python benchmarks/viewer_size.py [--runs 300] [--questions 3000] [--in-process]
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from report_size import text_maker

from qilin_rag.core.types import Hit, MetricSummary, Question, Sample, Score, Usage
from qilin_rag.pipeline.run_directory import DataRecord, Labels, Manifest, RunDirectory
from qilin_rag.pipeline.scoring import summarise

METRICS = ("rouge_1", "rouge_l", "bertscore", "recall@5")
N_RETRIEVERS = 15


def write_runs(folder: Path, n_runs: int, n_questions: int) -> list[Path]:
    """Write complete runs: an LLM for every fifteen, a retriever for every fifteenth."""
    rng = np.random.default_rng(0)
    text = text_maker(rng)
    questions = [
        Question(id=str(at), query=text(15), references=[text(300)], reference_notes=[at]) for at in range(n_questions)
    ]
    ease = rng.beta(2, 4, n_questions)
    hits = [Hit(note_idx=rank, score=1 / rank, rank=rank) for rank in range(1, 6)]
    firsts: list[RunDirectory] = []
    samples: list[Sample] = []
    paths = []
    for number in range(n_runs):
        llm, retriever = divmod(number, N_RETRIEVERS)
        directory = RunDirectory(folder / f"run{number:03}")
        directory.path.mkdir(parents=True)
        if llm == 0:
            samples = [_sample(question, hits, text) for question in questions]
            with directory.line_writer() as writer:
                for sample in samples:
                    writer.write(sample)
            directory.write_trec_run(samples)
            firsts.append(directory)
        else:
            for name in ("samples.jsonl", "run.trec"):
                os.link(firsts[retriever].path / name, directory.path / name)
        scores = [
            Score(question_id=question.id, metric=metric, value=value, signature=f"{metric}|made up")
            for metric in METRICS
            for question, value in zip(questions, _figures(metric, ease, llm, retriever), strict=True)
        ]
        directory.write_questions(questions)
        directory.write_manifest(_manifest(number, n_questions, f"retriever-{retriever}", f"llm-{llm}"))
        directory.write_figures(scores, summarise(samples[:1], [], []).model_copy(update={"metrics": _means(scores)}))
        paths.append(directory.path)
    return paths


def _sample(question: Question, hits: list[Hit], text: Callable[[int], str]) -> Sample:
    answer, prompt = text(300), "\n".join([*(text(100) for _ in hits), question.query])
    return Sample(
        question_id=question.id,
        query=question.query,
        status="ok",
        hits=hits,
        notes_given=len(hits),
        notes_used=len(hits),
        messages=[{"role": "user", "content": prompt}],
        answer=answer,
        raw=answer,
        usage=Usage(prompt_tokens=500, completion_tokens=200),
        latency_s=1.5,
    )


def _figures(metric: str, ease: np.ndarray, llm: int, retriever: int) -> list[float]:
    """Return figures that depend on the question and the run; those of notes do not depend on the LLM."""
    of_hits = "@" in metric
    rng = np.random.default_rng([METRICS.index(metric), retriever, 0 if of_hits else llm + 1])
    figures = ease + rng.normal(0.01 * retriever + (0 if of_hits else 0.005 * llm), 0.1, len(ease))
    rounded = np.clip(figures, 0, 1).round(4)
    return [float(figure) for figure in (np.round(rounded * 5) / 5 if of_hits else rounded)]


def _means(scores: list[Score]) -> dict[str, MetricSummary]:
    """Return the figures of a summary without the interval, which a leaderboard makes itself."""
    found = {}
    for metric in METRICS:
        values = [score.value or 0.0 for score in scores if score.metric == metric]
        mean = sum(values) / len(values)
        found[metric] = MetricSummary(
            value=mean,
            n=len(values),
            n_unscored=0,
            value_unscored_as_zero=mean,
            stderr=None,
            ci95=None,
            signature=f"{metric}|made up",
        )
    return found


def _manifest(number: int, n_questions: int, retriever: str, llm: str) -> Manifest:
    return Manifest(
        state="complete",
        fingerprint=f"{number:064x}",
        identity={"top_k": 5, "retriever": {"class": retriever}},
        config={
            **{"data": "no-such-data", "answers": "engaged", "references": "own", "limit": None, "ids": None},
            **{"retriever": {"name": "bm25"}, "llm": {"name": "extractive", "settings": {}}},
        },
        data=DataRecord(label="made up", sha256="0", n_notes=0),
        prompt={},
        question_set_sha256="0",
        n_questions=n_questions,
        seed=0,
        labels=Labels(data="made up", retriever=retriever, llm=llm, prompt="default"),
        packages={},
        python="",
        git_commit=None,
        server={},
        started=f"2026-11-01T00:{number // 60:02}:{number % 60:02}+00:00",
        updated="2026-11-02T00:00:00+00:00",
    )
