"""Prompts of judges and of the safety filter, which quote everything that they show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

from qilin_rag.config.resources import find_resource, resource_names
from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import RenderedPrompt
from qilin_rag.prompts.templates import PromptTooLongError, Templates, estimated_tokens, read_templates

PromptValues = Mapping[str, str | int | Sequence[str]]
"""The values that fill a judge's prompt. Texts and lists of texts are under test; a number is the caller's own."""


class JudgePrompt(Templates):
    """A prompt for a judge. `lists` are those of its variables that hold several texts."""

    parts = ("system", "user")
    lists: ClassVar[tuple[str, ...]] = ("references",)

    user: str

    def render(self, values: PromptValues, budget: int | None = None) -> RenderedPrompt:
        """Fill the templates with the quoted values, leaving nothing out.

        Raises:
            PromptTooLongError: if the prompt exceeds the budget.
        """
        messages = self._filled("user", {name: _quoted(value) for name, value in values.items()})
        if budget is not None and (n_tokens := estimated_tokens(messages)) > budget:
            raise PromptTooLongError(f"about {n_tokens} prompt tokens for the judge; its budget is {budget}")
        return RenderedPrompt(messages, str(values.get("query", "")), [], 0)


class PointwisePrompt(JudgePrompt):
    """A judge's prompt about one answer.

    `request` is the prompt that the answer's LLM was sent, empty if it held no notes.
    """

    variables = ("query", "references", "request", "answer")


class PairwisePrompt(JudgePrompt):
    """A judge's prompt about which of two answers is better."""

    variables = ("query", "references", "answer_a", "answer_b")


class RefusalPrompt(JudgePrompt):
    """A judge's prompt about whether an answer refuses its question."""

    variables = ("query", "answer")
    lists = ()


class NuggetMakerPrompt(JudgePrompt):
    """A prompt that asks for the facts in some `sources`, at most `limit` of them."""

    variables = ("query", "sources", "limit")
    lists = ("sources",)


class NuggetAssignerPrompt(JudgePrompt):
    """A judge's prompt about which facts an answer holds."""

    variables = ("query", "answer", "nuggets")
    lists = ("nuggets",)


class ClaimSplitterPrompt(JudgePrompt):
    """A prompt that asks for the claims in some `sources`: an answer, or references."""

    variables = ("query", "sources")
    lists = ("sources",)


class ClaimCheckerPrompt(JudgePrompt):
    """A judge's prompt about which claims some `sources` state: references, an answer, or a note."""

    variables = ("query", "sources", "claims")
    lists = ("sources", "claims")


class SupportPrompt(JudgePrompt):
    """A judge's prompt about how far a note supports the sentences that cite it."""

    variables = ("title", "content", "sentences")
    lists = ("sentences",)


class SafetyPrompt(JudgePrompt):
    """A prompt about whether a note holds unsafe content.

    If `needs_images`, notes without images are not asked about.
    """

    variables = ("title", "content")

    needs_images: bool = False


def _quoted(value: str | int | Sequence[str]) -> str | int | list[str]:
    """Apply `quote`; an empty value stays empty, so that a template can test it."""
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        return quote(value) if value else ""
    return [quote(each) for each in value]


J = TypeVar("J", bound=JudgePrompt)


def load_judge_prompt(kind: type[J], language: str = "zh") -> J:
    """Return the judge's prompt of this kind (`prompts/judge/`, working directory first), tried on an example.

    Prompts in another language than Chinese have its code in their name, as in `nuggetmaker-en.yaml`.
    """
    name = kind.__name__.removesuffix("Prompt").lower()
    return _load_filled(find_resource("prompts/judge", name if language == "zh" else f"{name}-{language}"), kind)


def load_safety_prompts(names: Sequence[str] | None = None) -> dict[str, SafetyPrompt]:
    """Return the filter's prompts of these names, by default all (`prompts/safety/`, working directory first)."""
    wanted = list(resource_names("prompts/safety")) if names is None else list(dict.fromkeys(names))
    if not wanted:
        raise UsageError("prompts (--prompts) is empty; name one, or leave it out for all")
    return {name: _load_filled(find_resource("prompts/safety", name), SafetyPrompt) for name in wanted}


def _load_filled(path: Path, kind: type[J]) -> J:
    prompt = read_templates(path, kind)
    for filled in ("文字", ""):
        prompt.render({name: [filled] if name in kind.lists else filled for name in kind.variables})
    return prompt


_TEMPLATE_TOKEN = re.compile(r"\[(?=/?[a-z_]+\])", re.IGNORECASE)


def quote(text: str) -> str:
    """Quote text for a judge: every line begins with `> `, and no token of a chat template remains.

    Some servers interpret `<|im_end|>` or `[INST]` anywhere in a text: their first character becomes full-width.
    """
    harmless = _TEMPLATE_TOKEN.sub("［", text.replace("<", "＜"))
    return "\n".join(f"> {line}" for line in harmless.splitlines() or [""])
