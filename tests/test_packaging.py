"""The wheel works where there is no checkout: it carries prompts, presets and the sample."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
TYPED = """
import qilin_rag as qr
bm25 = qr.BM25(k1=1.2)
finished = qr.run(retriever=bm25, metrics=[qr.RougeL(), "retrieval"], top_k=3)
reveal_type(bm25)
reveal_type(finished)
reveal_type(finished.metrics["rouge_l"].value)
reveal_type(qr.load_runs("runs"))
reveal_type(qr.leaderboard("runs"))
reveal_type(qr.compare(finished, "other"))
reveal_type(qr.score(["a"], ["b"]).values)
reveal_type(qr.import_answers("a.jsonl", name="n"))
"""
SEEN = [
    "qilin_rag.retrievers.bm25.retriever.BM25",
    "qilin_rag.pipeline.finished.Run",
    "float | None",
    "qilin_rag.api.runs.RunList",
    "qilin_rag.api.comparing.Leaderboard",
    "qilin_rag.reports.compare.Comparison",
    "dict[str, list[float | None]]",
    "qilin_rag.pipeline.finished.Run",
]
REFUSED = {
    'qr.BM25(k1="abc")': "arg-type",
    "qr.BM25(k2=1)": "call-arg",
    'qr.run(top_k="3")': "arg-type",
    "qr.run(topk=3)": "call-arg",
    "qr.run(retriever=qr.RougeL())": "arg-type",
    'qr.OpenAICompatible(model="m", temperature="hot")': "arg-type",
    "qr.OpenAICompatible()": "call-arg",
    'qr.run().metrics["rouge_l"].figure': "attr-defined",
    "qr.nothing": "attr-defined",
}


@pytest.mark.slow
def test_the_wheel_works_outside_of_a_checkout(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, "."], cwd=CHECKOUT, check=True)
    [wheel] = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "qilin_rag/resources/prompts/default.yaml",
        "qilin_rag/resources/prompts/judge/pairwise.yaml",
        "qilin_rag/resources/prompts/safety/portrait.yaml",
        "qilin_rag/resources/configs/llms/qwen2.5-72b.yaml",
        "qilin_rag/data/sample/notes.jsonl",
        "qilin_rag/data/sample_images/dqa.jsonl",
        "qilin_rag/data/sample_images/image/part_0/1_0.png",
        "qilin_rag/reports/page/page.html.j2",
        "qilin_rag/synth/model.md",
        "qilin_rag/py.typed",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "prompts/", "configs/"))]
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], cwd=CHECKOUT, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = "import qilin_rag, sys; sys.stdout.write(qilin_rag.__file__)"
    used = subprocess.run([sys.executable, "-c", where], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert used.stdout.startswith(str(site))
    for arguments in (["list", "llms"], ["run", "--prompt", "cite", "--limit", "2"]):
        command = [sys.executable, "-m", "qilin_rag", *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    (tmp_path / "typed.py").write_text(TYPED + "\n".join(REFUSED))
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "typed.py"],
        env=environment | {"MYPYPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in checked.stdout.splitlines() if line.startswith("typed.py")]
    revealed = [line.partition('Revealed type is "')[2].rstrip('"') for line in said if "Revealed" in line]
    assert [seen.partition("fallback=")[2].rstrip("]") or seen for seen in revealed] == SEEN, checked.stdout
    first = TYPED.count("\n") + 1
    errors = {int(line.split(":")[1]) - first: line.rpartition("[")[2].rstrip("]") for line in said if "error" in line}
    assert errors == dict(enumerate(REFUSED.values())), checked.stdout
