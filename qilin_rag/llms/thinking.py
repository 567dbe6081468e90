"""The answer of a model that thinks first: thinking is kept in `raw`, and never part of what is scored.

Where thinking ends, by the tags in the text (in any case, `</ think >` included):
- An answer that begins with `<think>` begins behind the next `</think>`; several such blocks may follow each other.
- `</think>` with no `<think>` before it ends thinking too: many chat templates open it in the prompt.
- A `<think>` behind the answer's first words is only mentioned, and so is everything that follows it.
- Thinking that never ends is no answer: the text is empty, and the answer counts as cut off.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from qilin_rag.text import clean

_TAG = re.compile(r"<\s*(/?)\s*think\s*>", re.IGNORECASE)
_THINKING_BLOCKS = {"thinking", "reasoning", "reasoning_content"}


class Answer(NamedTuple):
    """A message as it is scored (`text`) and as it came, thinking first (`raw`)."""

    text: str
    raw: str
    finish_reason: str


def read_answer(content: Any, reasoning: Any, finish_reason: str) -> Answer:
    """Tell answer and thinking apart.

    `content` is the message's: text, a list of blocks, or None. `reasoning` is what the server gave as thinking in a
    field of its own (`reasoning_content`, `reasoning`), if it did.
    """
    text, in_blocks = _read_content(content)
    thinking = clean(reasoning if isinstance(reasoning, str) and reasoning.strip() else in_blocks)
    text = clean(text)
    raw = f"<think>\n{thinking}\n</think>\n\n{text}" if thinking else text
    answer = after_thinking(text)
    if answer is None:
        return Answer("", raw, "length" if finish_reason == "stop" else finish_reason)
    return Answer(answer, raw, finish_reason)


def after_thinking(text: str) -> str | None:
    """The answer behind the thinking, stripped; None where the thinking never ends."""
    start, thinks = 0, False
    for tag in _TAG.finditer(text):
        if tag[1]:
            start, thinks = tag.end(), False
        elif not thinks:
            if text[start : tag.start()].strip():
                break
            thinks = True
    return None if thinks else text[start:].strip()


def _read_content(content: Any) -> tuple[str, str]:
    """Text and thinking of a message's content, whatever the blocks of it are called."""
    if isinstance(content, str):
        return content, ""
    texts, thoughts = [], []
    for block in content if isinstance(content, list) else []:
        if isinstance(block, str):
            texts.append(block)
        elif isinstance(block, dict) and block.get("type") in _THINKING_BLOCKS:
            thoughts.append(_thought(block))
        elif isinstance(block, dict) and isinstance(block.get("text"), str):
            texts.append(block["text"])
    return "".join(texts), "\n".join(filter(None, thoughts))


def _thought(block: Any) -> str:
    """The text in a block of thinking: nested differently by each provider, next to signatures that are no text."""
    if isinstance(block, str):
        return block
    if isinstance(block, list):
        return "\n".join(filter(None, map(_thought, block)))
    if isinstance(block, dict):
        fields = ("thinking", "reasoning", "reasoning_content", "summary", "text")
        return next((thought for field in fields if (thought := _thought(block.get(field)))), "")
    return ""
