"""Prompts of the query stage, which ask an LLM for texts to search with."""

from __future__ import annotations

from typing import Literal

from qilin_rag.config.resources import find_resource
from qilin_rag.core.types import RenderedPrompt
from qilin_rag.prompts.templates import PromptTooLongError, Templates, estimated_tokens, read_templates

QueryLanguage = Literal["zh", "en"]


class QueryPrompt(Templates):
    """A prompt that asks for `n` texts to search with, for one question."""

    parts = ("system", "user")
    variables = ("query", "n")

    user: str

    def render(self, query: str, n: int = 1, budget: int | None = None) -> RenderedPrompt:
        """Fill the templates.

        Raises:
            PromptTooLongError: if the prompt exceeds the budget.
        """
        messages = self._filled("user", {"query": query, "n": n})
        if budget is not None and (n_tokens := estimated_tokens(messages)) > budget:
            raise PromptTooLongError(f"about {n_tokens} prompt tokens for the query stage; its budget is {budget}")
        return RenderedPrompt(messages, query, [], 0)


def load_query_prompt(name: str, language: QueryLanguage) -> QueryPrompt:
    """Return a prompt of the query stage (`prompts/query/`, working directory first), tried on an example.

    Prompts in another language than Chinese have its code in their name, as in `hyde-en.yaml`.
    """
    path = find_resource("prompts/query", name if language == "zh" else f"{name}-{language}")
    prompt = read_templates(path, QueryPrompt)
    prompt.render("问题")
    return prompt
