"""A judge that answers by substring, and 60 answers to 20 questions whose nuggets are known."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import write_jsonl

VITAL = "必须"
WEIGHT = {"vital": 1.0, "okay": 0.5}
HELD = {"whole": 1.0, "half": 0.5, "none": 0.0}


def substring_judge(body: dict[str, Any]) -> str:
    """Make each sentence of the sources a nugget, or look for nuggets and their first halves in an answer."""
    text = str(body["messages"][-1]["content"])
    return _make(blocks(text, "材料")) if "## 材料1\n" in text else _assign(text)


def _make(sources: list[str]) -> str:
    numbers: dict[str, list[str]] = {}
    for number, source in enumerate(sources, start=1):
        for sentence in filter(None, source.split("。")):
            numbers.setdefault(sentence, []).append(str(number))
    return "\n".join(f"{'核心' if VITAL in each else '次要'} [{','.join(of)}] {each}" for each, of in numbers.items())


def _assign(text: str) -> str:
    answer = next(iter(blocks(text, "待评回答")), "")  # an empty one is not quoted
    lines = []
    for number, nugget in enumerate(blocks(text, "要点"), start=1):
        half = nugget.partition("，")[0]
        word = "支持" if nugget in answer else "部分支持" if half in answer else "不支持"
        lines.append(f"{number}：{word}")
    return "\n".join(lines)


def blocks(text: str, heading: str) -> list[str]:
    """Return the quoted texts under the headings of this name, numbered or not."""
    found = re.findall(rf"^## {heading}\d*\n((?:> .*\n?)+)", text, re.MULTILINE)
    return ["\n".join(line.removeprefix("> ") for line in block.splitlines()) for block in found]


class Constructed(NamedTuple):
    """Data of 20 questions, the answers of systems by name, and the expected figures of each answer by metric."""

    data: Path
    answers: dict[str, Path]
    expected: dict[str, dict[str, dict[str, float]]]
    n_nuggets: dict[str, int]


def construct(folder: Path, systems: str = "abc", n_questions: int = 20) -> Constructed:
    """Write the data and the answers; each answer holds each nugget whole, by half or not at all."""
    dice = random.Random(21)
    folder.mkdir()
    questions, nuggets = [], {}
    for q in range(n_questions):
        kinds = ["vital", "okay", *dice.choices(["vital", "okay"], k=dice.randrange(0, 11))]
        if q == 0:
            kinds = ["okay", "okay"]
        nuggets[str(q)] = [
            (f"题{q}的第{k}步{VITAL if kind == 'vital' else '可以'}备料，再做第{k}件事", kind)
            for k, kind in enumerate(kinds)
        ]
        texts = [text for text, _ in nuggets[str(q)]]
        answers = ["".join(f"{text}。" for text in part) for part in (texts[:2], texts[1:]) if part]
        questions.append({"search_idx": q, "query": f"题{q}怎么做", "answers": answers, "ref_note_idx_list": [0]})
    write_jsonl(folder / "notes.jsonl", [{"note_idx": 0, "title": "t", "content": "题0的笔记可以看看，写得好。"}])
    write_jsonl(folder / "dqa.jsonl", questions)
    files, expected = {}, {}
    for system in systems:
        rows, figures = [], {}
        for qid, of_question in nuggets.items():
            held = [dice.choice(list(HELD)) for _ in of_question]
            said = {"whole": "{0}", "half": "{1}", "none": ""}
            pairs = zip(held, of_question, strict=True)
            parts = [said[how].format(text, text.partition("，")[0]) for how, (text, _) in pairs]
            rows.append({"question_id": qid, "answer": "；".join(["答", *filter(None, parts)])})
            figures[qid] = expected_scores(held, [kind for _, kind in of_question])
        files[system] = write_jsonl(folder / f"answers-{system}.jsonl", rows)
        expected[system] = figures
    return Constructed(folder, files, expected, {qid: len(of_question) for qid, of_question in nuggets.items()})


def expected_scores(held: list[str], kinds: list[str]) -> dict[str, float]:
    """Compute the figures of one answer, in another way than the code under test."""
    n, weight = len(held), sum(WEIGHT[kind] for kind in kinds)
    vital = [how for how, kind in zip(held, kinds, strict=True) if kind == "vital"]
    n_vital = max(len(vital), 1)
    return {
        "nugget_all": (held.count("whole") + held.count("half") / 2) / n,
        "nugget_strict_all": held.count("whole") / n,
        "nugget_vital": (vital.count("whole") + vital.count("half") / 2) / n_vital,
        "nugget_strict_vital": vital.count("whole") / n_vital,
        "nugget_weighted": sum(HELD[how] * WEIGHT[kind] for how, kind in zip(held, kinds, strict=True)) / weight,
    }
