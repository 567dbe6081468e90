"""The wheel works where there is no checkout: it carries prompts, presets and the sample."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


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
        "qilin_rag/reports/page/page.html.j2",
        "qilin_rag/synth/model.md",
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
