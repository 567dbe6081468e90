"""Scoring a table: many runs over the same questions, against rouge_score and against one loaded BERTScorer.

usage: python benchmarks/scoring.py rouge [--runs 20] [--questions 2932] [--share 0.02]
       python benchmarks/scoring.py bertscore [--runs 20] [--questions 100] [--model FOLDER] [--layer 8]
Texts are the bundled sample's answers, joined and cut to lengths like Qilin's; each run has answers of its own, cut and
shuffled from the references. Values are compared with the peer's.
`rouge` scores all pairs by ours and a share of them by rouge_score on the same tokens, and says what is extrapolated.
`bertscore` calls one loaded BERTScorer once a run and our scorer once a run, in turn, with no vectors kept at first;
without --model it is a random encoder in the shape of bert-base.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from qilin_rag.core.text import mixed_tokens, sentences
from qilin_rag.data import load_dataset
from qilin_rag.scorers import Remarked

CHARS = (100, 420)  # of a reference


class Table(NamedTuple):
    """The references of all questions, and each run's answers to them."""

    references: list[str]
    answers: list[list[str]]


def made(n_runs: int, n_questions: int) -> Table:
    """Texts without markup, no two answers of a question the same."""
    rng = random.Random(0)
    known = [answer for question in load_dataset("sample").questions for answer in question.references]
    said = [sentence for answer in known for sentence in sentences(answer)]

    def text(n_chars: int) -> str:
        parts: list[str] = []
        while sum(map(len, parts)) < n_chars:
            parts.append(rng.choice(said))
        return "".join(parts)[:n_chars]

    def answer(reference: str) -> str:
        parts = sentences(reference)
        rng.shuffle(parts)
        taken = "".join(parts[: rng.randint(1, len(parts))])
        return taken + text(rng.randint(20, 200))

    references = [text(rng.randint(*CHARS)) for _ in range(n_questions)]
    return Table(references, [[answer(reference) for reference in references] for _ in range(n_runs)])


def values(found: Sequence[float | Remarked]) -> list[float]:
    """The figures alone."""
    return [float(each.value or 0) if isinstance(each, Remarked) else each for each in found]


def rouge(table: Table, share: float) -> None:
    """ROUGE-L of every answer, and rouge_score on the first answers of every run."""
    from rouge_score import rouge_scorer

    from qilin_rag.scorers.rouge import RougeL

    class OurTokens:
        def tokenize(self, text: str) -> list[str]:
            return list(scorer.tokenize(text))

    scorer = RougeL()
    known = [[reference] for reference in table.references]
    started, cpu = time.perf_counter(), time.process_time()
    ours = [values(scorer.score_answers(answers, known)) for answers in table.answers]
    our_s, our_cpu_s = time.perf_counter() - started, time.process_time() - cpu
    n_pairs = sum(map(len, ours))
    print(f"ours         {n_pairs} pairs: {our_s:.1f} s, {our_cpu_s:.1f} s of CPU")

    peer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=OurTokens())
    n_shared = max(1, round(share * len(table.references)))
    cpu = time.process_time()
    theirs = [
        [peer.score(table.references[i], answers[i])["rougeL"].fmeasure for i in range(n_shared)]
        for answers in table.answers
    ]
    their_cpu_s = time.process_time() - cpu
    n_asked = sum(map(len, theirs))
    off = max(abs(a - b) for a, b in zip(_flat(ours, n_shared), _flat(theirs, n_shared), strict=True))
    print(f"rouge_score  {n_asked} pairs: {their_cpu_s:.1f} s of CPU; largest difference {off:.1e}")
    all_s = their_cpu_s * n_pairs / n_asked
    if n_asked < n_pairs:
        print(f"rouge_score  {n_pairs} pairs would be {all_s:.0f} s (extrapolated)")
    print(f"ours is {all_s / our_cpu_s:.0f} times as fast")


def _flat(rows: Sequence[Sequence[float]], n: int) -> Iterator[float]:
    return (value for row in rows for value in row[:n])


def bertscore(table: Table, model: Path, layer: int, device: str | None) -> None:
    """Both scorers loaded, run by run in turn."""
    import torch
    from bert_score import BERTScorer

    from qilin_rag.scorers.bertscore import BertScore

    ours = BertScore(model=str(model), layer=layer, device=device)
    ours.prepare()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    theirs = BERTScorer(model_type=str(model), num_layers=layer, device=device)
    theirs._model.float()  # it computes in what the weights are stored in
    known = [[reference] for reference in table.references]
    prepared = [ours.prepare_text(reference) for reference in table.references]
    theirs.score(prepared[:2], prepared[:2])  # what the first call costs
    rounds: list[tuple[float, float]] = []
    off = 0.0
    for number, answers in enumerate(table.answers, start=1):
        texts = [ours.prepare_text(answer) for answer in answers]
        started = time.perf_counter()
        expected = theirs.score(texts, prepared)[2].tolist()
        between = time.perf_counter()
        found = values(ours.score_answers(answers, known))
        their_s, our_s = between - started, time.perf_counter() - between
        rounds.append((their_s, our_s))
        off = max([off, *(abs(a - b) for a, b in zip(found, expected, strict=True))])
        print(f"run {number:2}  bert_score {their_s:.2f} s   ours {our_s:.2f} s", flush=True)
    their_s, our_s = map(sum, zip(*rounds, strict=True))
    print(f"{len(rounds)} runs x {len(known)} questions, {Path(model).name}, layer {layer}, {device}")
    print(f"bert_score {their_s:.1f} s   ours {our_s:.1f} s   {their_s / our_s:.2f} times as fast")
    print(f"median over the runs {median(peer_s / own_s for peer_s, own_s in rounds):.2f} times")
    print(f"largest difference {off:.1e}")


def random_bert(folder: Path, table: Table, n_layers: int) -> Path:
    """A BERT in the shape of bert-base with random weights, whose vocabulary is the tokens of these texts."""
    import torch
    import transformers

    texts = [*table.references, *(answer for answers in table.answers for answer in answers)]
    tokens = sorted({token for text in texts for token in mixed_tokens(text.lower())})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *tokens]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    transformers.BertTokenizer.from_pretrained(folder, model_max_length=512).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(vocabulary), num_hidden_layers=n_layers)
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def main() -> None:
    """Measure what is named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("metric", choices=["rouge", "bertscore"])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--questions", type=int)
    parser.add_argument("--share", type=float, default=0.02, help="of the pairs, for rouge_score")
    parser.add_argument("--model", type=Path, help="a folder; else a random bert-base")
    parser.add_argument("--layer", type=int, default=8)
    parser.add_argument("--device")
    asked = parser.parse_args()
    is_rouge = asked.metric == "rouge"
    table = made(asked.runs, asked.questions or (2932 if is_rouge else 100))
    n_chars = [sum(map(len, texts)) / len(texts) for texts in (table.references, table.answers[0])]
    print(f"{asked.runs} runs x {len(table.references)} questions, characters: references {n_chars[0]:.0f} on average, "
          f"answers {n_chars[1]:.0f}")  # fmt: skip
    if is_rouge:
        rouge(table, asked.share)
        return
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["QILIN_RAG_CACHE"] = f"{temporary}/cache"
        model = asked.model or random_bert(Path(temporary) / "random-bert-base", table, asked.layer)
        bertscore(table, model, asked.layer, asked.device)


if __name__ == "__main__":
    main()
