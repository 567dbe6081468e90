"""Prompts that ask an LLM to order the notes of a window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from qilin_rag.config.resources import find_resource
from qilin_rag.core.types import Message, RenderedPrompt
from qilin_rag.prompts.judge import quote
from qilin_rag.prompts.templates import PromptTooLongError, Templates, estimated_tokens, read_templates

_MOST_REPEATED = 500  # characters of a reply that is shown to the LLM again


class ListwisePrompt(Templates):
    """A prompt about the order of numbered notes; `again` follows a reply that can't be read."""

    parts: ClassVar[tuple[str, ...]] = ("system", "user", "again")
    variables: ClassVar[tuple[str, ...]] = ("query", "notes")

    user: str
    again: str

    def render(self, query: str, notes: Sequence[str], budget: int | None = None) -> RenderedPrompt:
        """Fill the templates with the quoted texts of query and notes.

        Raises:
            PromptTooLongError: if the prompt exceeds the budget.
        """
        messages = self._filled("user", _quoted(query, notes))
        if budget is not None and (n_tokens := estimated_tokens(messages)) > budget:
            raise PromptTooLongError(f"about {n_tokens} prompt tokens for {len(notes)} notes; the budget is {budget}")
        return RenderedPrompt(messages, query, [], 0)

    def render_again(self, prompt: RenderedPrompt, notes: Sequence[str], reply: str) -> RenderedPrompt:
        """Return the prompt with a reply that can't be read, and the request for another one."""
        *_, again = self._filled("again", _quoted(prompt.query, notes))
        said: Message = {"role": "assistant", "content": reply[:_MOST_REPEATED]}
        return prompt._replace(messages=[*prompt.messages, *([said, again] if reply.strip() else [])])


def _quoted(query: str, notes: Sequence[str]) -> dict[str, str | list[str]]:
    return {"query": quote(query), "notes": [quote(note) for note in notes]}


def load_listwise_prompt(language: Literal["zh", "en"]) -> ListwisePrompt:
    """Return the prompt in a language (`prompts/rerank/`, working directory first), tried on an example."""
    name = "listwise" if language == "zh" else f"listwise-{language}"
    prompt = read_templates(find_resource("prompts/rerank", name), ListwisePrompt)
    prompt.render_again(prompt.render("问题", ["文字", ""]), ["文字", ""], "?")
    return prompt
