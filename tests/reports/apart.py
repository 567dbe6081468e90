"""An answer as judges took it apart, with each kind of mark that a page has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qilin_rag.core.judged_answers import ASSIGNED, CHECKED, SUPPORTED
from qilin_rag.core.types import Sample
from tests.conftest import write_jsonl

TEXTS = ("冷藏12小时", "粗研磨咖啡粉80克", "冷水800毫升")


def write_parts(
    path: Path,
    samples: Sequence[Sample],
    texts: Sequence[str] = TEXTS,
    judge: str = "referee",
    bank: str = "0123456789abcdef",
) -> None:
    """Write the three files of a run about these answers; every field of text holds one of `texts`."""
    a, b, c = texts
    rows = [_about(path, sample, judge) for sample in samples]
    nuggets = [
        {"text": a, "importance": "vital", "assignment": "support", "provenance": [b]},
        {"text": b, "importance": "okay", "assignment": "partial_support"},
        {"text": c, "importance": "vital", "assignment": "not_support"},
    ]
    claims = [
        {"text": a, "is_supported": True, "notes": [1, 3]},
        {"text": b, "is_supported": False, "notes": []},
        {"text": c, "is_supported": None, "notes": None},
    ]
    citations = [
        {"number": 1, "note_idx": 10, "support": "support"},
        {"number": 2, "note_idx": 11, "support": "partial_support"},
        {"number": 3, "note_idx": 12, "support": "not_support"},
        {"number": 4, "note_idx": 13, "support": None},
        {"number": 99, "note_idx": None, "support": None},
    ]
    sentences = [{"text": a, "citations": citations}, {"text": b, "citations": []}]
    more = {"answer_claims": claims, "reference_claims": None, "n_notes": 3}
    write_jsonl(path / ASSIGNED, [{**row, "nuggets": nuggets, "bank": bank} for row in rows])
    write_jsonl(path / CHECKED, [{**row, **more} for row in rows])
    write_jsonl(path / SUPPORTED, [{**row, "sentences": sentences} for row in rows])


def _about(path: Path, sample: Sample, judge: str) -> dict[str, Any]:
    about = {"qid": sample.question_id, "query": sample.query, "run_id": path.name}
    return {**about, "answer_text": sample.answer, "judge": judge}
