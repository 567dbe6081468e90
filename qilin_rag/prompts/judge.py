"""Prompts of judges and of the safety filter: all that they are shown stands in quotes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from qilin_rag.config.resources import find_resource, resource_names
from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import RenderedPrompt
from qilin_rag.prompts.templates import PromptTooLongError, Templates, estimated_tokens, read_templates


class JudgePrompt(Templates):
    """How a judge is asked."""

    parts = ("system", "user")

    user: str

    def render(self, values: Mapping[str, str | Sequence[str]], budget: int | None = None) -> RenderedPrompt:
        """Fill the templates, each value quoted. Nothing is left out: PromptTooLongError where it does not fit."""
        messages = self._filled("user", {name: _quoted(value) for name, value in values.items()})
        if budget is not None and (n_tokens := estimated_tokens(messages)) > budget:
            raise PromptTooLongError(f"about {n_tokens} prompt tokens for the judge; its budget is {budget}")
        return RenderedPrompt(messages, str(values.get("query", "")), [], 0)


class PointwisePrompt(JudgePrompt):
    """How a judge is asked about one answer; `request`: what its LLM was sent, empty where that held no notes."""

    variables = ("query", "references", "request", "answer")


class PairwisePrompt(JudgePrompt):
    """How a judge is asked which of two answers is better."""

    variables = ("query", "references", "answer_a", "answer_b")


class SafetyPrompt(JudgePrompt):
    """How an LLM is asked whether a note holds what it should not; `needs_images`: a note without any isn't asked."""

    variables = ("title", "content")

    needs_images: bool = False


def _quoted(value: str | Sequence[str]) -> str | list[str]:
    """As `quote`; what is not there stays empty, so that a template can tell."""
    if isinstance(value, str):
        return quote(value) if value else ""
    return [quote(each) for each in value]


J = TypeVar("J", bound=JudgePrompt)


def load_judge_prompt(kind: type[J]) -> J:
    """The judge's prompt of this kind (`prompts/judge/`, working directory first), rendered once on an example."""
    return _load_filled(find_resource("prompts/judge", kind.__name__.removesuffix("Prompt").lower()), kind)


def load_safety_prompts(names: Sequence[str] | None = None) -> dict[str, SafetyPrompt]:
    """The filter's prompts of these names, default all there are (`prompts/safety/`, working directory first)."""
    wanted = list(resource_names("prompts/safety")) if names is None else list(dict.fromkeys(names))
    if not wanted:
        raise UsageError("--prompts names no prompt")
    return {name: _load_filled(find_resource("prompts/safety", name), SafetyPrompt) for name in wanted}


def _load_filled(path: Path, kind: type[J]) -> J:
    prompt = read_templates(path, kind)
    for filled in ("文字", ""):
        prompt.render(dict.fromkeys(kind.variables, filled) | {"references": [filled]})
    return prompt


_TEMPLATE_TOKEN = re.compile(r"\[(?=/?[a-z_]+\])", re.IGNORECASE)


def quote(text: str) -> str:
    """Text for a judge's eyes: every line begins with `> `, and nothing in it is a token of a chat template.

    Some servers read `<|im_end|>` or `[INST]` as such wherever they stand: their first character becomes full-width.
    """
    harmless = _TEMPLATE_TOKEN.sub("［", text.replace("<", "＜"))
    return "\n".join(f"> {line}" for line in harmless.splitlines() or [""])
