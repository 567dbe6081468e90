"""What a report of 20 runs x 2,932 questions takes: bytes, seconds to write, seconds until it can be used.

The runs are made up: five LLMs by four retrievers, five notes of some 400 characters a prompt and answers of 300,
all of characters drawn by Zipf's law, which pack worse than text that people write. The browser (Playwright with the
system's Chromium) is left out where there is none.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from qilin_rag.core.types import Hit, Question, Sample, Score
from qilin_rag.pipeline.run_directory import DataRecord, Labels, Manifest, RunDirectory
from qilin_rag.pipeline.scoring import summarise
from qilin_rag.reports.contents import collect
from qilin_rag.reports.html import write_report

RETRIEVERS = ("none", "bm25", "biencoder", "oracle")
METRICS = ("rouge_l", "bertscore", "recall@5", "ndcg@5", "mrr@5")


def text_maker(rng: np.random.Generator) -> Callable[[int], str]:
    """Texts of about so many characters, out of 3,000."""
    shares = 1 / np.arange(1, 3001)
    drawn = rng.choice(3000, 4_000_000, p=shares / shares.sum()) + 0x4E00
    pool = "".join(map(chr, drawn.tolist()))

    def make(n_chars: int) -> str:
        start = int(rng.integers(0, len(pool) - 2 * n_chars))
        return pool[start : start + int(rng.integers(n_chars // 2, n_chars * 3 // 2))]

    return make


def write_runs(folder: Path, n_runs: int, n_questions: int) -> list[Path]:
    """Complete run directories, each with its samples, scores and summary."""
    rng = np.random.default_rng(0)
    text = text_maker(rng)
    questions = [
        Question(id=str(at), query=text(15), references=[text(300)], reference_notes=[at]) for at in range(n_questions)
    ]
    notes = {
        retriever: [[] if retriever == "none" else [(text(15), text(400)) for _ in range(5)] for _ in questions]
        for retriever in RETRIEVERS
    }
    paths = []
    for number in range(n_runs):
        retriever, llm = RETRIEVERS[number % 4], f"llm-{number // 4}"
        directory = RunDirectory(folder / f"run{number}")
        samples = []
        for question, found in zip(questions, notes[retriever], strict=True):
            prompt = "\n".join([*(line for note in found for line in note), question.query])
            answer = text(300)
            samples.append(
                Sample(
                    question_id=question.id,
                    query=question.query,
                    status="ok",
                    hits=[Hit(note_idx=rank, score=1 / rank, rank=rank) for rank in range(1, len(found) + 1)],
                    notes_given=len(found),
                    notes_used=len(found),
                    messages=[{"role": "system", "content": "你是问答助手。"}, {"role": "user", "content": prompt}],
                    answer=answer,
                    raw=answer,
                )
            )
        scores = [
            Score(question_id=sample.question_id, metric=metric, value=float(value), signature=metric)
            for metric in METRICS
            for sample, value in zip(samples, rng.beta(2, 4, n_questions), strict=True)
        ]
        directory.path.mkdir(parents=True)
        directory.write_manifest(
            Manifest(
                state="complete",
                fingerprint=f"{number:064x}",
                identity={"top_k": 5, "retriever": {"class": retriever}},
                config={
                    **{"data": "no-such-data", "answers": "engaged", "references": "own", "limit": None, "ids": None},
                    **{"retriever": {"name": retriever}, "llm": {"name": "extractive", "settings": {}}},
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
                started="",
                updated="",
            )
        )
        directory.write_questions(questions)
        with directory.line_writer() as writer:
            for sample in samples:
                writer.write(sample)
        directory.write_scores(scores)
        directory.write_summary(summarise(samples, [], scores))
        paths.append(directory.path)
    return paths


def in_browser(path: Path, n_questions: int) -> None:
    """Seconds until the page can be used, until a question is open, and until answers are searched."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        print("no Chromium or no Playwright: not opened in a browser")
        return
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        began = time.perf_counter()
        page.goto(path.as_uri(), wait_until="commit")
        page.wait_for_selector("html[data-ready]", state="attached")
        ready_s = time.perf_counter() - began
        page.wait_for_load_state("load")
        loaded_s = time.perf_counter() - began
        first_paint_s = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000
        began = time.perf_counter()
        page.click("#questions tbody tr:nth-child(20) a")
        page.wait_for_selector(".run")
        open_s = time.perf_counter() - began
        page.keyboard.press("Escape")
        began = time.perf_counter()
        page.check("#in-answers")
        page.fill("#search", "一丁七")
        expect(page.locator("#found")).not_to_contain_text(f"{n_questions:,} of")
        search_s = time.perf_counter() - began
        print(f"first paint {first_paint_s:.2f} s, ready {ready_s:.2f} s, whole file read {loaded_s:.2f} s")
        print(f"a question opened in {open_s:.2f} s, one run's answers searched in {search_s:.2f} s")
        browser.close()


def main() -> None:
    """Print what it takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--questions", type=int, default=2_932)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        paths = write_runs(Path(temporary), options.runs, options.questions)
        read_mb = sum(file.stat().st_size for path in paths for file in path.iterdir()) / 1e6
        out = Path(temporary) / "report.html"
        began = time.perf_counter()
        write_report(collect(paths), out)
        build_s = time.perf_counter() - began
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size_mb = out.stat().st_size / 1e6
        print(f"{options.runs} runs x {options.questions:,} questions, {read_mb:,.0f} MB: a page of {size_mb:.1f} MB")
        print(f"written in {build_s:.1f} s; peak memory of this process {peak_mb:,.0f} MB")
        in_browser(out, options.questions)


if __name__ == "__main__":
    main()
