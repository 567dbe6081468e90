"""Score an answer by how far the notes that its sentences cite support them: weighted precision and recall.

The formulas are those of the support evaluation of TREC RAG 2024 (arXiv 2504.15205): a citation weighs 1 if the note
supports the sentence, 0.5 if it does so in part, else 0. The track judged only the first citation of a sentence; here
every citation is judged, and a sentence has the weight of its best one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean

from qilin_rag.core.cited_sentences import cited_sentences, has_letters
from qilin_rag.core.judged_answers import JudgedCitation, JudgedSentence, Support
from qilin_rag.scorers.base import Remarked

PRECISION, RECALL, UNCITED = SUPPORT_METRICS = ("support_precision", "support_recall", "support_uncited")
CITES_NOTHING = Remarked(None, "cites nothing")
_WEIGHTS: Mapping[Support | None, float] = {"support": 1.0, "partial_support": 0.5, "not_support": 0.0, None: 0.0}


def split_citations(answer: str, prompt_notes: Sequence[int]) -> list[JudgedSentence]:
    """Split an answer into sentences with the notes that each cites, which are not judged yet.

    A line without letters and digits, such as `---`, is not a sentence.

    Args:
        answer: The answer.
        prompt_notes: The ids of the notes in the prompt, in its order.

    >>> [each.note_idx for each in split_citations("先晾干[1][3]。", [10, 12])[0].citations]
    [10, None]
    """
    return [
        JudgedSentence(text=text, citations=_citations(numbers, prompt_notes))
        for text, numbers in cited_sentences(answer)
        if has_letters(text)
    ]


def support_scores(sentences: Sequence[JudgedSentence], why_unread: str | None = None) -> dict[str, Remarked]:
    """Return the figures of an answer with at least one sentence, by metric.

    - `support_precision`: the mean weight of all citations; a number without a note weighs 0.
    - `support_recall`: the mean over all sentences of the weight of their best citation, 0 without one.
    - `support_uncited`: the share of sentences without a citation, which needs no verdict.

    Args:
        sentences: The sentences.
        why_unread: Why a verdict is not known, so that only the last figure is; None if all are known.

    >>> good = JudgedCitation(number=1, note_idx=10, support="support")
    >>> bad = JudgedCitation(number=9, note_idx=None, support=None)
    >>> scores = support_scores([JudgedSentence(text="先晾干。", citations=[good, bad])])
    >>> [scores[metric].value for metric in SUPPORT_METRICS]
    [0.5, 1.0, 0.0]
    """
    weights = [[_WEIGHTS[citation.support] for citation in sentence.citations] for sentence in sentences]
    citations = [weight for of_sentence in weights for weight in of_sentence]
    uncited = Remarked(mean(float(not of_sentence) for of_sentence in weights))
    if why_unread:
        return {PRECISION: Remarked(None, why_unread), RECALL: Remarked(None, why_unread), UNCITED: uncited}
    return {
        PRECISION: Remarked(mean(citations)) if citations else CITES_NOTHING,
        RECALL: Remarked(mean(max(of_sentence, default=0.0) for of_sentence in weights)),
        UNCITED: uncited,
    }


def _citations(numbers: Iterable[int], prompt_notes: Sequence[int]) -> list[JudgedCitation]:
    """Return each cited note once, and each number without a note."""
    cited: dict[tuple[bool, int], JudgedCitation] = {}
    for number in numbers:
        note_idx = prompt_notes[number - 1] if 1 <= number <= len(prompt_notes) else None
        key = (note_idx is not None, number if note_idx is None else note_idx)
        cited.setdefault(key, JudgedCitation(number=number, note_idx=note_idx, support=None))
    return list(cited.values())
