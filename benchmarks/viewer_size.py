"""What the view of 300 runs x 3,000 questions takes: seconds of a list, a leaderboard and a question, and memory.

The runs are made up: twenty LLMs by fifteen retrievers, samples of 4 KB and four metrics. The samples of all runs of a
retriever are one file on disk (hard links), so that 180 MB stand for 3.6 GB; all takes 1.5 GB. The server is a process
of its own, started as a user does. "First" is after its start, "later" the slowest of five. The first leaderboard takes
less on more cores: `OMP_NUM_THREADS` is the number that it uses.

usage: python benchmarks/viewer_size.py [--runs 300] [--questions 3000]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import Request, urlopen

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
                (directory.path / name).hardlink_to(firsts[retriever].path / name)
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


class Server:
    """The view of a folder of runs, in a process of its own."""

    def __init__(self, runs_dir: Path, cache: Path) -> None:
        environment = {**os.environ, "QILIN_RAG_CACHE": str(cache)}
        command = [sys.executable, "-m", "qilin_rag", "view", "--runs-dir", str(runs_dir), "--port", "0", "--quiet"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self._process.stdout is not None
        address = urlsplit(self._process.stdout.readline().strip())
        self._root = f"{address.scheme}://{address.netloc}"
        self._token = parse_qs(address.query)["token"][0]

    def ask(self, path: str, **fields: Any) -> Any:
        """Return the answer to a request."""
        address = f"{self._root}{path}?{urlencode(fields, doseq=True)}"
        with urlopen(Request(address, headers={"Authorization": f"Bearer {self._token}"}), timeout=3_600) as answer:
            return json.loads(answer.read())

    @property
    def peak_mb(self) -> float:
        """Return the most memory that the process had."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024

    @property
    def cpu_s(self) -> float:
        """Return the CPU seconds of the process so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End the process."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)


def took(ask: Callable[[], Any]) -> float:
    """Return the seconds of a request."""
    began = time.perf_counter()
    ask()
    return time.perf_counter() - began


def report(server: Server, name: str, ask: Callable[[], Any]) -> None:
    """Print what the first and later requests take."""
    before_s = server.cpu_s
    first = took(ask)
    of_cpu = server.cpu_s - before_s
    later = max(took(ask) for _ in range(5))
    print(f"{name:28} first {first:7.2f} s ({of_cpu:.2f} s of CPU), later {later:5.2f} s", flush=True)


def main() -> None:
    """Print what it takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--questions", type=int, default=3_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, tempfile.TemporaryDirectory() as cache:
        paths = write_runs(Path(temporary), options.runs, options.questions)
        server = Server(Path(temporary), Path(cache))
        try:
            print(f"{options.runs} runs x {options.questions:,} questions; {server.peak_mb:.0f} MB when started")
            report(server, "list of runs", lambda: server.ask("/api/runs"))
            report(server, "leaderboard", lambda: server.ask("/api/board"))
            board = server.ask("/api/board")["board"]
            named = [path.name for path in paths[:2]]
            report(server, "question", lambda: server.ask("/api/question", board=board, t=0, id="7", run=named))
            directory = RunDirectory(paths[-1])
            directory.write_manifest(directory.read_manifest().model_copy(update={"updated": "2026-11-03"}))
            report(server, "leaderboard, one run changed", lambda: server.ask("/api/board"))
            print(f"peak memory of the server {server.peak_mb:.0f} MB")
            server.stop()
            server = Server(Path(temporary), Path(cache))
            report(server, "leaderboard, started again", lambda: server.ask("/api/board"))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
