"""Quote the figures that the Qilin paper (arXiv 2503.00501) prints for DQA and for rankers: Tables 11 and 10.

Table 11 has three values in a row for four conditions. The first is for no notes, the second most likely for BM25; the
third may be the bi-encoder's or the oracle's and is not repeated here. The paper names neither its tokenizer nor the
model of BERTScore nor the prompt, so that a difference to these figures is not a finding.
"""

from __future__ import annotations

from typing import NamedTuple


class PaperFigures(NamedTuple):
    """ROUGE-L and BERTScore of one LLM, without notes (`none`) and most likely with BM25's (`bm25`)."""

    llm: str
    rouge_l: dict[str, float]
    bertscore: dict[str, float]


TABLE_11 = [
    PaperFigures("GPT-3.5", {"none": 0.332, "bm25": 0.388}, {"none": 0.708, "bm25": 0.725}),
    PaperFigures("GPT-4o-mini", {"none": 0.316, "bm25": 0.384}, {"none": 0.710, "bm25": 0.729}),
    PaperFigures("Qwen2.5-72B", {"none": 0.342, "bm25": 0.396}, {"none": 0.714, "bm25": 0.725}),
    PaperFigures("Llama3.3-70B", {"none": 0.290, "bm25": 0.349}, {"none": 0.699, "bm25": 0.730}),
    PaperFigures("GLM4", {"none": 0.318, "bm25": 0.363}, {"none": 0.701, "bm25": 0.715}),
]
REMARK = (
    "paper: Table 11 of the Qilin paper; its tokenizer, its BERTScore model and its prompt are not known; "
    "~ = most likely this condition"
)


class Quoted(NamedTuple):
    """Whether the paper's rows are shown, their label, and the remark on them."""

    is_shown: bool = False
    label: str = "paper"
    notes: tuple[str, ...] = ()


def quote(paper: bool, anyway: bool, why_other: str | None, remark: str) -> Quoted:
    """Decide whether a table quotes the paper: only beside Qilin, or as another data set's if told to.

    Args:
        paper: Whether the paper's rows are asked for.
        anyway: Whether to show them beside any data.
        why_other: Why the table may not be of what the paper measured; None if it is.
        remark: The remark on the paper's rows.
    """
    if not (paper or anyway):
        return Quoted()
    if why_other is None:
        return Quoted(True, notes=(remark,))
    if anyway:
        return Quoted(True, "paper, another data set", (f"{remark}; not of this data: {why_other}",))
    return Quoted(notes=(f"no rows of the paper, whose figures are of Qilin: {why_other}",))


def paper_rows(metric: str, quoted: Quoted) -> dict[str, dict[str, float]]:
    """Return the paper's figures of a metric by row and retriever; empty for metrics it does not have."""
    if metric not in ("rouge_l", "bertscore") or not quoted.is_shown:
        return {}
    return {f"{figures.llm} ({quoted.label})": getattr(figures, metric) for figures in TABLE_11}


RANKER_FIGURES = ("mrr@10", "mrr@100", "map@10", "map@100")
TABLE_10 = {
    "search": {
        "BM25": (0.3388, 0.3467, 0.2399, 0.3139),
        "BERT-bi": (0.5320, 0.5359, 0.3855, 0.4536),
        "BERT-cross": (0.5336, 0.5386, 0.3848, 0.4533),
        "DCN-V2": (0.5600, 0.5653, 0.4014, 0.4683),
        "VLM": (0.5523, 0.5563, 0.3937, 0.4601),
    },
    "recommendation": {
        "BM25": (0.5379, 0.5418, 0.3933, 0.4634),
        "BERT-bi": (0.6067, 0.6087, 0.4548, 0.5183),
        "BERT-cross": (0.6346, 0.6362, 0.4786, 0.5394),
        "DCN-V2": (0.6307, 0.6321, 0.4651, 0.5278),
        "VLM": (0.6394, 0.6409, 0.4890, 0.5477),
    },
}
"""Table 10: the figures of `RANKER_FIGURES` by task and ranker."""
RANKERS_REMARK = (
    "paper: Table 10 of the Qilin paper; its code takes the first 1,000 test requests (--first 1000) and divides in "
    "MAP by min(R, K); its BM25 looks like chance: compare it with random"
)


def paper_rankers(task: str, quoted: Quoted) -> dict[str, dict[str, float]]:
    """Return Table 10 of a task by row and figure."""
    of_task = TABLE_10[task].items() if quoted.is_shown else ()
    return {f"{ranker} ({quoted.label})": dict(zip(RANKER_FIGURES, values, strict=True)) for ranker, values in of_task}
