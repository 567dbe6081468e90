"""Replies that split a text into claims are read whole, as they were meant, or not at all."""

from __future__ import annotations

import pytest

from qilin_rag.judging.claim_verdicts import read_claims
from qilin_rag.judging.nugget_verdicts import MOST_CHARS
from qilin_rag.prompts.judge import ClaimSplitterPrompt, load_judge_prompt, quote

TWO = ["水温92度。", "闷蒸30秒。"]
GOOD = "陈述1：水温92度。\n陈述2：闷蒸30秒。"
READ = [
    (GOOD, TWO),
    ("陈述1:水温92度。\n陈述2:闷蒸30秒。", TWO),
    ("陈述 1：水温92度。\r\n\r\n陈述 2：闷蒸30秒。\r\n", TWO),
    ("- 陈述1：水温92度。\n- 陈述2：闷蒸30秒。", TWO),
    ("**陈述1：**水温92度。\n**陈述2：**闷蒸30秒。", TWO),
    ("Claim 1: 水温92度。\nclaim 2: 闷蒸30秒。", TWO),
    ("陈述１：水温92度。\n陈述２：闷蒸30秒。", TWO),
    ("陈述1、水温92度。\n陈述2）闷蒸30秒。", TWO),
    (f"```\n{GOOD}\n```", TWO),
    ("陈\u200b述1：水温92度。\n\ufeff陈述2：闷蒸30秒。", TWO),
    ("陈述1：水温92度。\n陈述2：水温 92度。\n陈述3：闷蒸30秒。", TWO),  # a repeat
    ("陈述1：水温92度。\n陈述2：闷蒸30秒。\n陈述3：无", TWO),
    ("无", []),
    ("无。", []),
    ("None.", []),
    ("没有", []),
    # numbers
    ("陈述2：水温92度。", None),
    ("陈述1：水温92度。\n陈述3：闷蒸30秒。", None),
    ("陈述1：水温92度。\n陈述1：闷蒸30秒。", None),
    ("陈述2：闷蒸30秒。\n陈述1：水温92度。", None),
    ("陈述0：水温92度。", None),
    ("陈述一：水温92度。", None),
    # other forms
    ("", None),
    ("1. 水温92度。\n2. 闷蒸30秒。", None),
    ('["水温92度。", "闷蒸30秒。"]', None),
    ('{"claims": ["水温92度。"', None),
    ("水温92度。闷蒸30秒。", None),
    ("陈述1：\n陈述2：闷蒸30秒。", None),
    ("陈述1：……\n陈述2：闷蒸30秒。", None),
    (f"陈述1：{'水' * (MOST_CHARS + 1)}", None),
    ("主张1：水温92度。", None),
    # text around it
    (f"好的，拆分如下：\n{GOOD}", None),
    (f"{GOOD}\n以上就是全部陈述。", None),
    (f"{GOOD}\n无", None),
    (f"<think>想一想</think>\n{GOOD}", None),
    (f"```\n{GOOD}\n```\n以上。", None),
    (quote(GOOD), None),
    (f"「{GOOD}」", None),
]


@pytest.mark.parametrize(("reply", "meant"), READ)
def test_a_reply_is_read_whole_or_not_at_all(reply: str, meant: list[str] | None) -> None:
    assert read_claims(reply) == meant
    assert read_claims(reply, ["水温92度，闷蒸30秒。"]) == meant


def test_claims_in_the_words_of_the_answer_are_read() -> None:
    assert read_claims(GOOD, ["水温92度。闷蒸30秒。", "1. 水温92度。\n2. 闷蒸30秒。"]) == TWO


@pytest.mark.parametrize(
    "answer",
    [GOOD, f"好的。\n{GOOD}\n谢谢。", "**陈述1：水温92度。**", "陈述１：水温９２度。", "Claim 1: x\n陈述2：闷蒸30秒。"],
)
def test_an_answer_does_not_name_its_claims(answer: str) -> None:
    """A splitter that repeats lines of the asked form has split nothing."""
    for copied in (
        GOOD,
        GOOD.replace("陈述2", "陈述3").replace("陈述1", "陈述1：水温92度\n陈述2"),
        f"```\n{GOOD}\n```",
    ):
        assert read_claims(copied, [answer]) is None
    assert read_claims("陈述1：要用热水。", [answer]) == ["要用热水。"]


def test_an_answer_does_not_deny_its_claims() -> None:
    assert read_claims("无", ["水温92度。\n无"]) is None
    assert read_claims("无", ["水温92度。"]) == []


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_example_of_the_prompt_is_no_claim(language: str) -> None:
    prompt = load_judge_prompt(ClaimSplitterPrompt, language).user
    example = "\n".join(
        line for line in prompt.splitlines() if line.strip().startswith(("陈述", "Claim")) and "1" in line
    )
    assert read_claims(example) and read_claims(example, [prompt]) is None
