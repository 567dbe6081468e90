"""ROUGE-L: ours against rouge_score, in one process, on the same Chinese answers and the same tokens.

usage: python benchmarks/rouge.py [N_PAIRS]
Prints the ratio on tokenised pairs (the LCS alone) and end to end (text in, figure out). Values are checked equal.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from rouge_score import rouge_scorer

from qilin_rag.data import load_dataset
from qilin_rag.scorers.rouge import RougeL, lcs_f1

N_ROUNDS = 3


class OurTokens:
    """Our tokenizer in the shape rouge_score wants."""

    def tokenize(self, text: str) -> list[str]:
        """The tokens of one text."""
        return list(RougeL().tokenize(text))


def seconds(work: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    started = time.process_time()
    work()
    return time.process_time() - started


def main(n_pairs: int) -> None:
    """Time both on answers of the bundled sample, cut and shuffled into pairs that overlap in part."""
    rng = random.Random(0)
    answers = [answer for question in load_dataset("sample").questions for answer in question.references]
    pairs = []
    for _ in range(n_pairs):
        first, second = rng.sample(answers, 2)
        pairs.append((first, first[: rng.randint(50, 200)] + second[rng.randint(0, 100) :]))
    scorer, theirs = RougeL(), rouge_scorer.RougeScorer(["rougeL"], tokenizer=OurTokens())
    tokens = [(scorer.tokenize(answer), scorer.tokenize(target)) for answer, target in pairs]
    print(f"{n_pairs} pairs of {sum(len(a) + len(b) for a, b in tokens) / 2 / n_pairs:.0f} tokens a text")

    def ours_whole() -> list[float]:
        return scorer.score_answers([a for a, _ in pairs], [[b] for _, b in pairs])

    def theirs_whole() -> list[float]:
        return [theirs.score(target, answer)["rougeL"].fmeasure for answer, target in pairs]

    def ours_tokens() -> list[float]:
        return [lcs_f1(answer, target) for answer, target in tokens]

    def theirs_tokens() -> list[float]:
        return [rouge_scorer._score_lcs(target, answer).fmeasure for answer, target in tokens]

    for name, ours, peer in (
        ("tokenised pairs", ours_tokens, theirs_tokens),
        ("end to end", ours_whole, theirs_whole),
    ):
        assert max(abs(a - b) for a, b in zip(ours(), peer(), strict=True)) < 1e-9
        rounds = [(seconds(ours), seconds(peer)) for _ in range(N_ROUNDS)]
        ratio = median(peer_s / our_s for our_s, peer_s in rounds)
        our_s, peer_s = (median(column) for column in zip(*rounds, strict=True))
        print(f"{name:16} ours {our_s:.4f} s   rouge_score {peer_s:.3f} s   {ratio:.0f} times faster")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
