"""Whether two versions of this package give the same results: statuses, hits, prompts, answers, scores, tables.

The same commands run in both, each from a checkout of its own; what they write is compared value by value, numbers to
1e-12. With --shared FOLDER also over the real data in it.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOLERANCE = 1e-12
OF_A_SAMPLE = ("question_id", "query", "status", "marks", "hits", "prompt_notes", "messages", "answer", "error")
OF_A_SCORE = ("question_id", "metric", "value", "reason", "signature")
OF_A_REQUEST = ("id", "query", "figures", "reason", "slices", "tied")
METRICS = "rouge_l,rouge_1,rouge_2,bleu,chrf,contains,length_ratio,citations"


def commands(shared: Path | None) -> dict[str, list[str]]:
    """By name, each in the folder where the ones before it wrote."""
    run = ["run", "--llm", "extractive", "--metrics", METRICS, "--quiet"]
    found = {
        f"sample, {retriever}": [*run, "--data", "sample", "--retriever", retriever, *more]
        for retriever, more in (
            ("none", []),
            ("bm25", []),
            ("hybrid", ["--set", "retriever.of=[bm25, random]"]),
            ("oracle", []),
        )
    }
    synth = ["synth", "--out", "synth", "--notes", "3000", "--searches", "600", "--recommendations", "500", "--quiet"]
    found["synth"] = [*synth, "--dqa", "60", "--users", "120"]
    found |= {
        f"rank {task} by {ranker}": ["rank", "--data", "synth", "--task", task, "--ranker", ranker, "--quiet"]
        for task in ("search", "recommendation")
        for ranker in ("random", "bm25", "production")
    }
    found["analyze synth"] = ["analyze", "--data", "synth", "--out", "analysis", "--no-plots", "--quiet"]
    if shared is not None:
        cmrc, toy = str(shared / "data" / "cmrc_dqa"), str(shared / "data" / "qilin_toy")
        found["cmrc, bm25"] = [*run, "--data", cmrc, "--retriever", "bm25", "--limit", "500"]
        found["toy, bm25"] = [*run, "--data", toy, "--retriever", "bm25", "--missing-notes", "skip"]
        found["analyze toy"] = ["analyze", "--data", toy, "--out", "toy-analysis", "--no-plots", "--quiet"]
    return found


def do(checkout: Path, folder: Path, shared: Path | None) -> dict[str, int]:
    """Run the commands; their exit codes."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "QILIN_RAG_CACHE": str(folder / "cache")}
    codes = {}
    for name, words in commands(shared).items():
        command = [sys.executable, "-m", "qilin_rag", *words]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        codes[name] = done.returncode
        if done.returncode:
            print(f"{checkout.name}: {name}: exit {done.returncode}: {done.stderr.strip()[-300:]}")
    return codes


def results(folder: Path) -> dict[str, Any]:
    """What the commands wrote, by kind and name without the fingerprint."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "runs").glob("*/")):
        name = path.name.rsplit("-", 1)[0]
        for file, fields in (("samples", OF_A_SAMPLE), ("scores", OF_A_SCORE), ("figures", OF_A_REQUEST)):
            if (path / f"{file}.jsonl").exists():
                lines = map(json.loads, (path / f"{file}.jsonl").read_text(encoding="utf-8").splitlines())
                rows = [[line.get(field) for field in fields] for line in lines]
                found[f"{name}/{file}"] = sorted(rows, key=lambda row: json.dumps(row[:2]))
        found[f"{name}/summary"] = json.loads((path / "summary.json").read_text())["metrics"]
        found[f"{name}/run.trec"] = [line.split()[:5] for line in (path / "run.trec").read_text().splitlines()]
    for name in ("analysis", "toy-analysis"):
        for path in sorted((folder / name).rglob("*")):
            if path.suffix == ".csv":
                found[str(path.relative_to(folder))] = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
            elif path.suffix == ".json":
                found[str(path.relative_to(folder))] = json.loads(path.read_text(encoding="utf-8"))
    return found


def differences(before: Any, after: Any, where: str) -> Iterator[str]:
    """Each value that is another one, or is there only once."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            if key in before and key in after:
                yield from differences(before[key], after[key], f"{where}/{key}")
            else:
                yield f"{where}/{key}: only {'before' if key in before else 'after'}"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for at, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, f"{where}[{at}]")
    elif not is_same(before, after):
        yield f"{where}: {str(before)[:80]!r} before, {str(after)[:80]!r} after"


def is_same(before: Any, after: Any) -> bool:
    """Equal, numbers nearly so."""
    if isinstance(before, float) and isinstance(after, int | float):
        return math.isclose(before, after, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(before == after)


def count(value: Any) -> int:
    """How many values there are, at any depth."""
    if isinstance(value, dict):
        return sum(map(count, value.values()))
    return sum(map(count, value)) if isinstance(value, list) else 1


def main() -> None:
    """Print what differs; exit 1 where anything does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--shared", type=Path)
    asked = parser.parse_args()
    shared = asked.shared.resolve() if asked.shared else None
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        codes = [do(asked.before.resolve(), Path(first), shared), do(asked.after.resolve(), Path(second), shared)]
        before, after = results(Path(first)), results(Path(second))
    n_different = 0
    for name in sorted(before.keys() | after.keys()):
        found = list(differences(before.get(name), after.get(name), name))
        n_different += len(found)
        print(f"{name}: {count(before.get(name)):,} values, {len(found)} different")
        for line in found[:3]:
            print(f"    {line}")
    failed = [name for name in codes[0] if codes[0][name] or codes[1][name]]
    print(f"{len(before)} results of {len(codes[0])} commands: {n_different} values differ; failed: {failed or 'none'}")
    sys.exit(bool(n_different or failed))


if __name__ == "__main__":
    main()
