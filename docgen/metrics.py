"""Each metric as Markdown: its signature from the code; its formula, range and source from the tables here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from docgen.html import code, docstring, inline, table
from qilin_rag.core.registry import SCORERS
from qilin_rag.core.types import SCALE
from qilin_rag.judging import claims, nugget_assigner, refusals, support
from qilin_rag.judging.docket import VERSION
from qilin_rag.judging.nugget_scores import NUGGET_METRICS
from qilin_rag.judging.support_scores import SUPPORT_METRICS, UNCITED
from qilin_rag.judging.verdicts import ASPECTS
from qilin_rag.rankers.ranking_directory import POOLED_SIGNATURES, SIGNATURES
from qilin_rag.scorers.base import Scorer
from qilin_rag.scorers.bertscore import BertScore


class Metric(NamedTuple):
    """How a figure is computed, which values it can have, and who defined it."""

    formula: str
    range: str
    source: str
    url: str = ""


_UP = "0 to 1, higher is better"
_IR_MEASURES = "https://ir-measur.es/en/latest/measures.html"
_SETS = "Sets of notes, as in retrieval. ALCE's measures of these names ask an entailment model instead"
_ALCE = "https://arxiv.org/abs/2305.14627"
_LIN = "Lin 2004; equal to the package rouge_score on the same tokens"
_LIN_URL = "https://aclanthology.org/W04-1013/"
METRICS = {
    "rouge_l": Metric(
        "F1 = 2PR / (P + R). P = length of the longest common subsequence / tokens of the answer, R = the same / "
        "tokens of the reference. The best over the references.",
        _UP,
        _LIN,
        _LIN_URL,
    ),
    "rouge_1": Metric(
        "F1 = 2PR / (P + R). P = tokens in common / tokens of the answer, R = tokens in common / tokens of the "
        "reference; a token counts as often as it is on both sides. The best over the references.",
        _UP,
        _LIN,
        _LIN_URL,
    ),
    "rouge_2": Metric("As rouge_1, over pairs of neighbouring tokens.", _UP, _LIN, _LIN_URL),
    "bleu": Metric(
        "min(1, exp(1 - r / a)) × exp(mean of ln p_n over n = 1 to 4, or to the answer's length if that is shorter). "
        "a = tokens of the answer (each Chinese character is one), r = those of the reference closest in length, p_n = "
        "clipped n-grams in common / n-grams of the answer.",
        _UP,
        "Papineni et al. 2002, by sacreBLEU (Post 2018)",
        "https://aclanthology.org/W18-6319/",
    ),
    "chrf": Metric(
        "F2 = 5PR / (4P + R). P and R = means of precision and recall of the n-grams of characters over n = 1 to 6. "
        "The best over the references.",
        _UP,
        "Popović 2015, by sacreBLEU (Post 2018)",
        "https://aclanthology.org/W15-3049/",
    ),
    "bertscore": Metric(
        "F1 = 2PR / (P + R). P = mean over the answer's tokens of the highest cosine similarity to a token of the "
        "reference, R = the same with the sides exchanged. The best over the references.",
        "At most 1, higher is better",
        "Zhang et al. 2020; as the package bert_score, without idf weights and without rescaling",
        "https://arxiv.org/abs/1904.09675",
    ),
    "contains": Metric(
        "1 if the answer has all tokens of a reference in a row, else 0. Punctuation is left out.",
        "0 or 1, higher is better",
        "The lenient form of the exact match of SQuAD (Rajpurkar et al. 2016)",
        "https://arxiv.org/abs/1606.05250",
    ),
    "length_ratio": Metric(
        "Tokens of the answer / tokens of the reference that is closest in length.",
        "0 and up, 1 is best",
        "The closest reference as in BLEU (Papineni et al. 2002)",
        "https://aclanthology.org/P02-1040/",
    ),
    "citation_precision": Metric(
        "Numbers cited that name a reference note / numbers cited, each once.", _UP, _SETS, _ALCE
    ),
    "citation_recall": Metric("Reference notes that are cited / reference notes.", _UP, _SETS, _ALCE),
    "citation_invalid": Metric(
        "Citations of notes that were not given / citations.", "0 to 1, lower is better", _SETS, _ALCE
    ),
    "refusal": Metric(
        "1 if a clause of the answer refuses the question, by the prompt's own sentence or a pattern, and no clause "
        "answers; else 0.",
        "0 or 1; 1 is best for notes without the answer (`unanswerable`), 0 for others",
        "As the rejection rate of RGB (Chen et al. 2024), which looks for one fixed sentence",
        "https://arxiv.org/abs/2309.01431",
    ),
    "recall@k": Metric("Reference notes among the first k hits / reference notes.", _UP, "ir_measures", _IR_MEASURES),
    "ndcg@k": Metric(
        "DCG / DCG of the best order. DCG = sum of 1 / log2(rank + 1) over the reference notes among the first k hits.",
        _UP,
        "ir_measures",
        _IR_MEASURES,
    ),
    "mrr@k": Metric(
        "1 / rank of the first reference note, 0 if it is not among the first k hits.", _UP, "ir_measures", _IR_MEASURES
    ),
}
RANKING = {
    "mrr": "1 / rank of the first click, 0 if it is not among the first k.",
    "map": "Sum over the clicks among the first k of (clicks up to this rank / rank), divided by the number of clicks.",
    "ndcg": "DCG / DCG of the best order. DCG = sum of 1 / log2(rank + 1) over the clicks among the first k.",
    "recall": "Clicks among the first k / clicks.",
    "precision": "Clicks among the first k / k.",
    "map (released code)": "As map, divided by the smaller of k and the number of clicks.",
    "request_auc": "Share of pairs of a clicked and an unclicked candidate of the request in which the clicked one has "
    "the higher score; ties count half. Only for requests that have both.",
    "ild": "Mean distance of all pairs among the first 10 notes: 1 - s / 3 if they share s levels of the taxonomy from "
    "the top. Notes without a top level are taken out first; a missing level is shared with none.",
    "coverage": "Top-level categories among the first 10 notes / among all candidates.",
    "hit": "Mean over the clicks: 1 if fewer than k negatives are above it, else 0.",
    "ndcg (sampled)": "Mean over the clicks: 1 / log2(rank + 1), 0 beyond k. The rank is among the negatives.",
    "mrr (sampled)": "Mean over the clicks: 1 / rank, 0 beyond k. The rank is among the negatives.",
}
POOLED = {
    "auc": "Share of pairs of a clicked and an unclicked candidate, of any requests, in which the clicked one has the "
    "higher score; ties count half.",
    "gauc_request": "Mean of the AUC of requests, weighted by candidates, over those with a click and without.",
    "gauc_user": "The same of users; all candidates of a user's requests are together.",
    "logloss": "Mean over all candidates of -ln p if clicked, else -ln(1 - p), p = sigmoid(score); lower is better.",
    "calibration": "Sum of p over all candidates / clicks. 1 is best; above 1, too many clicks are predicted.",
}
JUDGED = {
    "correctness": "Are the statements true, and do they answer the question?",
    "completeness": "Does the answer have the points of the references, with their steps, numbers and cautions?",
    "faithfulness": "Is each statement backed by the notes that the model was sent?",
}

NUGGETS = {
    "nugget_all": "Mean over all nuggets: support 1, partial_support 0.5, not_support 0.",
    "nugget_strict_all": "Mean over all nuggets: support 1, anything else 0.",
    "nugget_vital": "As nugget_all, over the vital nuggets; 0 if there are none.",
    "nugget_strict_vital": "As nugget_strict_all, over the vital nuggets; 0 if there are none.",
    "nugget_weighted": "As nugget_all, weighted: a vital nugget weighs 1, an okay one 0.5.",
}
CLAIMS = {
    "claim_precision": "Claims of the answer that the references state / claims of the answer.",
    "claim_recall": "Claims of the references that the answer states / claims of the references.",
    "claim_f1": "Harmonic mean of the two.",
    "context_precision": "Notes that state a claim of the references (relevant notes) / notes.",
    "context_recall": "Claims of the references that a note states / claims of the references.",
    "context_utilization": "Of the references' claims that a note states, those that the answer states; 0 if there are "
    "none.",
    "faithfulness": "Claims of the answer that a note states / claims of the answer.",
    "hallucination": "Claims of the answer that neither references nor notes state / claims of the answer.",
    "noise_sensitivity_irrelevant": "Claims of the answer that the references do not state, but irrelevant notes alone "
    "/ claims of the answer.",
    "noise_sensitivity_relevant": "Claims of the answer that the references do not state, but a relevant note / claims "
    "of the answer.",
    "self_knowledge": "Claims of the answer that the references state and no note / claims of the answer.",
}
SUPPORT = {
    "support_precision": "Mean over all citations of sentences: support 1, partial_support 0.5, not_support 0; a "
    "number without a note 0.",
    "support_recall": "Mean over all sentences of the same for their best citation; 0 without one.",
    "support_uncited": "Sentences without a citation / sentences; lower is better.",
}


def metrics() -> str:
    """Return the section of each scorer, with each of its figures."""
    return "\n\n".join(part for name in SCORERS.table() for part in _scorer(name))


def ranking_metrics() -> str:
    """Return the figures of a ranking of search or recommendation results."""
    rows = [(code(name), inline(RANKING[re.sub(r"@\d+", "", name)]), code(made)) for name, made in SIGNATURES.items()]
    return table(("Metric", "Formula", "Signature"), rows)


def pooled_metrics() -> str:
    """Return the figures of a whole set of requests."""
    rows = [(code(name), inline(POOLED[name]), code(made)) for name, made in POOLED_SIGNATURES.items()]
    return table(("Metric", "Formula", "Signature"), rows)


def judge_metrics() -> str:
    """Return the figures that a judge gives to the answers of a run."""
    scale = f"{SCALE[0]}-{SCALE[1]}"
    made = "judge:NAME|model:NAMES|settings:HASH|prompt:HASH"
    rows = [
        (code(f"judge_{aspect}"), inline(JUDGED[aspect]), code(f"judge_{aspect}|{scale}|{made}|v{VERSION}"))
        for aspect in ASPECTS
    ]
    asked = "Does the answer refuse the question, and answer no part of it?"
    rows.append((code(refusals.JUDGE_REFUSAL), asked, code(f"{refusals.METRIC}|{made}|v{refusals.VERSION}")))
    return table(("Metric", "What the judge is asked", "Signature"), rows)


def nugget_metrics() -> str:
    """Return the figures of answers by the nuggets that they hold."""
    made = "bank:HASH|maker:NAME|maker_prompt:HASH|batch:N|judge:NAME|model:NAMES|settings:HASH|prompt:HASH"
    rows = [
        (code(name), inline(NUGGETS[name]), code(f"{name}|{made}|v{nugget_assigner.VERSION}"))
        for name in NUGGET_METRICS
    ]
    return table(("Metric", "Formula", "Signature"), rows)


def claim_metrics() -> str:
    """Return the figures of answers by the claims in them."""
    made = "batch:N|judge:NAME|model:NAMES|settings:HASH|prompt:HASH+HASH"
    rows = [
        (code(name), inline(CLAIMS[name]), code(f"{claims.METRIC[name]}|{made}|v{claims.VERSION}")) for name in CLAIMS
    ]
    return table(("Metric", "Formula", "Signature"), rows)


def support_metrics() -> str:
    """Return the figures of answers by the notes that their sentences cite."""
    judge = "batch:N|judge:NAME|model:NAMES|settings:HASH|prompt:HASH|"
    rows = []
    for name in SUPPORT_METRICS:
        made = f"{support.MADE[name]}|{'' if name == UNCITED else judge}v{support.VERSION}"
        rows.append((code(name), inline(SUPPORT[name]), code(f"{name}|{made}")))
    return table(("Metric", "Formula", "Signature"), rows)


def _scorer(name: str) -> list[str]:
    scorer = SCORERS.create(name, {})
    parts = [f"### `{name}` {{ #{name} }}", docstring(type(scorer))]
    for metric, signature in signatures(scorer).items():
        found = METRICS[re.sub(r"@\d+$", "@k", metric)]
        source = inline(found.source)
        rows = [
            ("Formula", inline(found.formula)),
            ("Range", inline(found.range)),
            ("Source", f'<a href="{found.url}">{source}</a>' if found.url else source),
            ("Signature", code(signature)),
        ]
        parts.append(table((code(metric), ""), rows))
    if type(scorer).model_fields:
        parts.append(f"[Settings of `{name}`](settings.md#metric-{name})")
    return parts


def signatures(scorer: Scorer) -> dict[str, str]:
    """Return the signature of each figure; that of BERTScore without opening a model, whose hash it holds."""
    if isinstance(scorer, BertScore):
        scorer._found, scorer._max_tokens = (Path(scorer.model), "HASH"), 512
    return scorer.signatures()
