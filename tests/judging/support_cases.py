"""Answers with citations whose figures are computed by hand, and a judge of support that answers by substring."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import write_jsonl
from tests.judging.substring_judge import blocks


class Case(NamedTuple):
    """An answer, its notes, and its figures: precision, recall and the share of sentences without a citation.

    `{1}` in the answer is the first statement of the question. A note `1 2h` holds the first statement and half of the
    second.
    """

    what: str
    notes: list[str]
    answer: str
    expected: tuple[float | None, float, float]


CASES = [
    Case("one citation, whole", ["1"], "{1}[1]。", (1, 1, 0)),
    Case("one citation, in part", ["1h"], "{1}[1]。", (1 / 2, 1 / 2, 0)),
    Case("one citation, not at all", ["2"], "{1}[1]。", (0, 0, 0)),
    Case("each its own note", ["1", "2"], "{1}[1]。{2}[2]。", (1, 1, 0)),
    Case("notes swapped", ["1", "2"], "{1}[2]。{2}[1]。", (0, 0, 0)),
    Case("several citations: the best counts for recall", ["1h", "1", "2"], "{1}[1][2][3]。", (1.5 / 3, 1, 0)),
    Case("the best of several is partial", ["1h", "2"], "{1}[1][2]。", (0.5 / 2, 1 / 2, 0)),
    Case("a note cited twice in a sentence counts once", ["1", "2"], "{1}[1][1][2]。", (1 / 2, 1, 0)),
    Case("a note cited in two sentences counts twice", ["1", "2"], "{1}[1]。{2}[1]。{1}[2]。", (1 / 3, 1 / 3, 0)),
    Case("marker after the full stop", ["1", "2"], "{1}。[1]{2}。[2]", (1, 1, 0)),
    Case("marker after the closing quotation mark", ["1"], "“{1}。”[1]{2}。", (1, 1 / 2, 1 / 2)),
    Case("marker alone on a line", ["1", "2"], "{1}\n[1]\n{2}", (1, 1 / 2, 1 / 2)),
    Case("marker before the sentence", ["1", "2"], "[1] {1}\n[2] {2}", (1, 1, 0)),
    Case("markers of other forms", ["1", "2"], "{1}【第1篇】。{2}（第2篇）。", (1, 1, 0)),
    Case("a range", ["1", "1h", "2"], "{1}[1-3]。", (1.5 / 3, 1, 0)),
    Case("a number without a note", ["1"], "{1}[1][7]。", (1 / 2, 1, 0)),
    Case("numbers without notes alone", ["1"], "{1}[2]。{2}[0]。", (0, 0, 0)),
    Case("a range beyond the notes", ["1"], "{1}[1-4]。", (1 / 4, 1, 0)),
    Case("no citation", ["1"], "{1}。{2}。", (None, 0, 1)),
    Case("three of four sentences without one", ["1"], "{1}[1]。{2}。{3}。{4}。", (1, 1 / 4, 3 / 4)),
    Case("all in part", ["1h 2h"], "{1}[1]。{2}[1]。", (1 / 2, 1 / 2, 0)),
    Case("whole, in part, none, uncited", ["1 2h"], "{1}[1]。{2}[1]。{3}[1]。{4}。", (1.5 / 3, 1.5 / 4, 1 / 4)),
    Case("a sentence said twice", ["1h", "1"], "{1}[1]。{1}[2]。", (1.5 / 2, 1.5 / 2, 0)),
    Case("the same with the same note", ["1"], "{1}[1]。{1}[1]。{2}。", (1, 2 / 3, 1 / 3)),
    Case("a heading is a sentence", ["1", "2"], "做法如下：\n1. {1}[1]\n2. {2}[2]", (1, 2 / 3, 1 / 3)),
    Case("a rule and a smile are none", ["1"], "{1}[1]。\n---\n😊", (1, 1, 0)),
    Case("a smile before the marker", ["1"], "{1}！😊[1]{2}。", (1, 1 / 2, 1 / 2)),
    Case("parts of a list between semicolons", ["1"], "{1}[1]；{2}。", (1, 1 / 2, 1 / 2)),
    Case("one note under two numbers", ["1", "=1"], "{1}[1][2]。", (1, 1, 0)),
    Case("no notes", [], "{1}[1]。{2}。", (0, 0, 1 / 2)),
    Case(
        "more sentences of a note than a batch", ["1 2 3h"], "{1}[1]。{2}[1]。{3}[1]。{4}[1]。", (2.5 / 4, 2.5 / 4, 0)
    ),
]


class Cited(NamedTuple):
    """Data with the questions of `CASES`, and the file of the answers."""

    data: Path
    answers: Path


def construct_cited(folder: Path, cases: list[Case] = CASES) -> Cited:
    """Write the data, in which question q is case q, and the answers with the notes that they count."""
    folder.mkdir()
    notes: list[dict[str, Any]] = [{"note_idx": 0, "title": "无关", "content": "无关的笔记。"}]
    rows, questions = [], []
    for q, case in enumerate(cases):
        numbers: list[int] = []
        for spec in case.notes:
            if spec.startswith("="):
                numbers.append(numbers[int(spec[1:]) - 1])
                continue
            numbers.append(len(notes))
            notes.append({"note_idx": len(notes), "title": f"笔记{len(notes)}", "content": _content(q, spec)})
        answer = case.answer.format("", *(statement(q, number) for number in "1234"))
        rows.append({"question_id": str(q), "answer": answer, "notes": numbers})
        questions.append({"search_idx": q, "query": f"题{q}怎么做", "answers": ["照做。"], "ref_note_idx_list": [0]})
    write_jsonl(folder / "notes.jsonl", notes)
    write_jsonl(folder / "dqa.jsonl", questions)
    return Cited(folder, write_jsonl(folder / "answers.jsonl", rows))


def statement(question: int, number: str) -> str:
    """Return a statement of a question."""
    return f"题{question}第{number}步备料，再做第{number}件事"


def _content(question: int, spec: str) -> str:
    texts = [(statement(question, each[0]), "h" in each) for each in spec.split()]
    return "".join(f"{text.partition('，')[0] if is_half else text}。" for text, is_half in texts)


def support_judge(body: dict[str, Any]) -> str:
    """Look for each sentence, or its first half, in the note."""
    [note] = blocks(prompt_of(body), "笔记正文")
    lines = []
    for number, sentence in enumerate(sentences_in(body), start=1):
        said = re.sub(r"^\d\. ", "", sentence).strip("“”。！；😊")
        word = "支持" if said in note else "部分支持" if said.partition("，")[0] in note else "不支持"
        lines.append(f"{number}：{word}")
    return "\n".join(lines)


def prompt_of(body: dict[str, Any]) -> str:
    """Return the prompt that a judge is sent."""
    return str(body["messages"][-1]["content"])


def sentences_in(body: dict[str, Any]) -> list[str]:
    """Return the sentences that a judge is asked about."""
    return blocks(prompt_of(body), "句子")
