"""A judge of claims that answers by substring, and answers to questions whose figures are known."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import write_jsonl
from tests.judging.substring_judge import blocks

FACTS = "ABCDEFGH"


def claim_judge(body: dict[str, Any]) -> str:
    """Make each sentence a claim, or look for claims in the material."""
    text = str(body["messages"][-1]["content"])
    if "## 回答1\n" in text:
        claims = [each.strip() for answer in blocks(text, "回答") for each in answer.split("。") if each.strip()]
        return "\n".join(f"陈述{number}：{claim}。" for number, claim in enumerate(claims, start=1)) or "无"
    material = "\n".join(blocks(text, "材料"))
    return "\n".join(
        f"{number}：{'支持' if claim in material else '不支持'}"
        for number, claim in enumerate(blocks(text, "陈述"), start=1)
    )


class Claimed(NamedTuple):
    """Data, the answers to its questions, and what each text states, by the letters of facts.

    Attributes:
        answers: The facts of each answer by question.
        references: The facts of all references of a question.
        notes: The facts of each note of a question's prompt.
    """

    data: Path
    file: Path
    answers: dict[str, set[str]]
    references: dict[str, set[str]]
    notes: dict[str, list[set[str]]]

    def expected(self, qid: str) -> dict[str, float]:
        """Compute the figures of one answer from sets of facts."""
        said, right, notes = self.answers[qid], self.references[qid], self.notes[qid]
        given: set[str] = set().union(*notes)
        relevant: set[str] = set().union(*(note for note in notes if note & right))
        n = len(said)
        precision, recall = len(said & right) / n, len(said & right) / len(right)
        return {
            "claim_precision": precision,
            "claim_recall": recall,
            "claim_f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
            "context_precision": sum(bool(note & right) for note in notes) / len(notes),
            "context_recall": len(right & given) / len(right),
            "context_utilization": len(right & given & said) / len(right & given) if right & given else 0.0,
            "faithfulness": len(said & given) / n,
            "hallucination": len(said - given - right) / n,
            "noise_sensitivity_irrelevant": len((said - right) & (given - relevant)) / n,
            "noise_sensitivity_relevant": len((said - right) & relevant) / n,
            "self_knowledge": len((said & right) - given) / n,
        }


def construct_claims(folder: Path, n_questions: int = 12) -> Claimed:
    """Write the data, and an answer to each question."""
    dice = random.Random(2121)
    folder.mkdir()
    notes, questions, rows = [], [], []
    made = Claimed(folder, folder / "answers.jsonl", {}, {}, {})
    for q in range(n_questions):

        def some(least: int, q: int = q) -> list[str]:
            return sorted(dice.sample(FACTS, dice.randint(least, 5)))

        def text(facts: list[str], q: int = q) -> str:
            return "".join(f"题{q}的事实{fact}成立。" for fact in facts)

        first, second, answer = some(1), some(1), some(1)
        of_notes = [some(0) for _ in range(3)]
        ids = [3 * q + i for i in range(3)]
        notes += [
            {"note_idx": idx, "title": f"题{q}", "content": f"笔记{idx}。{text(facts)}"}
            for idx, facts in zip(ids, of_notes, strict=True)
        ]
        references = {"answers": [text(first), text(second)], "ref_note_idx_list": [ids[0]]}
        questions.append({"search_idx": q, "query": f"题{q}怎么做", **references})
        rows.append({"question_id": q, "answer": text(answer), "note_ids": ids})
        made.answers[str(q)] = set(answer)
        made.references[str(q)] = {*first, *second}
        made.notes[str(q)] = [set(facts) for facts in of_notes]
    write_jsonl(folder / "notes.jsonl", notes)
    write_jsonl(folder / "dqa.jsonl", questions)
    write_jsonl(made.file, rows)
    return made
