"""Datasets: notes, read by random access, and questions; one loader a layout."""

from __future__ import annotations

from pathlib import Path

from qilin_rag.data.dataset import Dataset, NoteStore
from qilin_rag.data.jsonl import load_jsonl
from qilin_rag.errors import UsageError

__all__ = ["SAMPLE_LABEL", "Dataset", "NoteStore", "load_dataset"]

SAMPLE_LABEL = "bundled sample, not Qilin"
_SAMPLE = Path(__file__).parent / "sample"


def load_dataset(source: str) -> Dataset:
    """Open a dataset: `sample` (bundled), or the path of a folder that holds notes.jsonl and dqa.jsonl."""
    if source == "sample":
        return load_jsonl(_SAMPLE, name="sample", label=SAMPLE_LABEL)
    try:
        path = Path(source).expanduser()
        is_there = path.exists()
    except (OSError, RuntimeError, ValueError):
        is_there = False
    if not is_there:
        raise UsageError(f"data {source!r}: no such file or folder; give a folder with notes.jsonl and dqa.jsonl")
    if not (path / "notes.jsonl").is_file() or not (path / "dqa.jsonl").is_file():
        missing = next(name for name in ("notes.jsonl", "dqa.jsonl") if not (path / name).is_file())
        raise UsageError(f"data {source!r}: {missing} is not there; a dataset is a folder with notes.jsonl, dqa.jsonl")
    return load_jsonl(path, name=path.resolve().name, label=path.resolve().name)
