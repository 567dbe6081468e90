"""Table 11 as parts: one LLM without notes, with BM25's, with the bi-encoder's, and with the reference notes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qilin_rag.config.run import RunConfig, resolve_run
from qilin_rag.core.errors import QilinError
from qilin_rag.models.pretrained import find_model
from qilin_rag.pipeline.run import check_failures, run
from qilin_rag.reports.replication.part import Lack, PaperPart, Workplace, lacks_table
from qilin_rag.reports.replication.told import quote, tell

SECTION = "table-11"
_K = 5


def answer_parts() -> list[PaperPart]:
    """Return the four conditions of the paper."""
    conditions: dict[str, Callable[[Workplace], str]] = {
        "none": lambda place: "none",
        "bm25": lambda place: "recorded:bm25" if place.has_column("dqa", "bm25_results") else "bm25",
        "biencoder": lambda place: "recorded:dpr",
        "oracle": lambda place: "oracle",
    }
    return [_part(name, retriever) for name, retriever in conditions.items()]


def _part(condition: str, retriever: Callable[[Workplace], str]) -> PaperPart:
    def lacks(place: Workplace) -> list[Lack]:
        lacking = [lacks_table(name) for name in ("notes", "dqa") if name not in place.tables]
        lacking = lacking or place.lacks_rows(place.n_rows("dqa"))
        if not lacking and condition == "biencoder" and not place.has_column("dqa", "dpr_results"):
            what = tell("the table dqa has no column dpr_results")
            lacking.append(Lack(what, tell("make one's own: qilin-rag sweep table11_own_index")))
        return lacking or _lacks_llm(place)

    def settings(place: Workplace) -> dict[str, Any]:
        spec = _config(place, retriever(place)).spec().model_dump(mode="json", exclude={"runs_dir", "data"})
        return {"spec": spec, "bertscore": find_model(_bert_score_model()) is not None}

    def do(place: Workplace) -> dict[str, Any]:
        finished = run(_config(place, retriever(place)))
        check_failures(finished, finished.manifest.config["fail_on_error"])
        return {"run": finished.path.name}

    return PaperPart(f"{SECTION}-{condition}", SECTION, lacks, settings, do)


def _config(place: Workplace, retriever: str) -> RunConfig:
    choices = place.choices
    flags = {
        "data": choices.data,
        "retriever": retriever,
        "llm": choices.llm,
        "top_k": _K,
        "missing_notes": "skip",
        "runs_dir": choices.out / "runs",
    }
    return resolve_run(flags)


def _bert_score_model() -> str:
    """Return the model of BERTScore, which is scored only if that is on this machine."""
    from qilin_rag.scorers.bertscore import BertScore

    return BertScore().model


def _lacks_llm(place: Workplace) -> list[Lack]:
    """Ask the LLM whether it is ready."""
    try:
        _config(place, "none").llm.check()
    except QilinError as error:
        what = tell("the LLM {llm} is not ready", llm=place.choices.llm)
        return [Lack(what, quote(str(error)))]
    return []
