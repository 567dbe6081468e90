"""What the Qilin paper prints for DQA (arXiv 2503.00501, Table 11), as far as it is certain which condition it is of.

Three values stand in a row for four conditions: the first is of no notes, the second most likely of BM25; the third
may be the bi-encoder's or the oracle's and is not repeated here. The paper names neither its tokenizer nor the model
behind BERTScore nor the prompt, so no difference to these figures is a finding.
"""

from __future__ import annotations

from typing import NamedTuple


class PaperFigures(NamedTuple):
    """ROUGE-L and BERTScore of one LLM, with no notes (`none`) and most likely with BM25's (`bm25`)."""

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


def paper_rows(metric: str) -> dict[str, dict[str, float]]:
    """The paper's figures of a metric: by row, by retriever; empty for metrics it does not have."""
    if metric not in ("rouge_l", "bertscore"):
        return {}
    return {f"{figures.llm} (paper)": getattr(figures, metric) for figures in TABLE_11}
