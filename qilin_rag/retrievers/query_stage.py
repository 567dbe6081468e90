"""Let an LLM write other texts to search with for a question, and search with all of them.

The question's own ranking and those of the texts are fused by reciprocal rank. The order of the notes in a prompt, a
reranker and the answer know the question alone.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PrivateAttr

from qilin_rag.config.query_llm import named_query_llm
from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import LLMS, Component
from qilin_rag.core.text import query_key, visible
from qilin_rag.core.types import Question, RenderedPrompt, Wording
from qilin_rag.prompts.query import QueryLanguage, QueryPrompt, load_query_prompt
from qilin_rag.retrievers.base import Retriever

FUSED_DEPTH = 100
"""The number of notes of each ranking that are fused, at least as many as are asked for."""
_HAN = re.compile("[\u3400-\u9fff]")
_THINKING = re.compile(r"<\s*/?\s*think", re.IGNORECASE)
_FENCE = re.compile(r"\s*(```|~~~)\w*\n(.*)\n\1\s*", re.DOTALL)
_QUOTES = ("“”", "「」", "『』", '""', "''", "``")
_LABEL = re.compile(r"(?:搜索词|检索词|关键词|查询|段落|(?:search )?query|passage)\s*[:：]\s*", re.IGNORECASE)
_NUMBERED = re.compile(r"[(（]?([0-9]{1,2})(?:[.．](?![0-9])|[、:：)）])+\s*(.+)")


class QueryStage(Component):
    """Texts that an LLM writes for each question, searched beside it; the rankings are fused by reciprocal rank."""

    operational: ClassVar[frozenset[str]] = frozenset({"llm"})  # the run adds the identity of the LLM
    prompt: ClassVar[str]
    """The name of its prompt."""
    writes_passages: ClassVar[bool] = False
    """Whether its texts are like notes, which a dense retriever encodes as such."""

    llm: Annotated[dict[str, Any] | None, BeforeValidator(named_query_llm)] = None
    """The LLM that writes: a preset or another name, and its settings as `query.llm.KEY`. Default: the run's own, at
    temperature 0 and with at most 256 tokens in a reply.
    """
    language: Literal["auto", "zh", "en"] = "auto"
    """The language of the prompt: zh, en, or auto (zh for a question with Chinese characters)."""
    with_question: bool = True
    """Whether the question's own ranking is fused with the others; false searches with what the LLM wrote alone."""

    _prompts: dict[str, QueryPrompt] = PrivateAttr(default_factory=dict)

    @classmethod
    def names_code(cls, settings: Any) -> bool:
        """Return whether its LLM names code."""
        try:
            named = named_query_llm(settings.get("llm")) or {}
        except (UsageError, ValueError):  # reported when the stage is made
            return False
        rest = {key: value for key, value in named.items() if key not in ("name", "label")}
        return "name" in named and LLMS.names_code(named["name"], rest)

    @property
    def asks_own_llm(self) -> bool:
        """Return whether the LLM of the run writes, maybe with other settings."""
        return "name" not in (self.llm or {})

    @property
    def n_texts(self) -> int:
        """Return the number of texts that are asked for."""
        return 1

    def identity(self) -> dict[str, Any]:
        """Return the settings, and the hashes of the prompts that may be used."""
        languages: list[QueryLanguage] = ["zh", "en"] if self.language == "auto" else [self.language]
        prompts = "+".join(self._prompt_in(language).sha256 for language in languages)
        return super().identity() | {"prompt": prompts, "depth": FUSED_DEPTH}

    def check_retriever(self, retriever: Retriever) -> None:
        """Raise a UsageError if the retriever gives the same notes whatever text is searched."""
        if not retriever.reads_query:
            raise UsageError(
                f"query {self.called()}: the retriever {retriever.called()} does not search by the text of the "
                "question, so other texts change nothing; name one that does (--retriever bm25), or no query stage"
            )

    def render(self, query: str, budget: int | None = None) -> RenderedPrompt:
        """Return the prompt for a question.

        Raises:
            PromptTooLongError: if it exceeds the budget.
        """
        language = self.language if self.language != "auto" else "zh" if _HAN.search(query) else "en"
        return self._prompt_in(language).render(query, self.n_texts, budget)

    def _prompt_in(self, language: QueryLanguage) -> QueryPrompt:
        """Return the prompt in a language, which is read once."""
        if language not in self._prompts:
            self._prompts[language] = load_query_prompt(self.prompt, language)
        return self._prompts[language]

    @abstractmethod
    def read(self, reply: str, is_cut: bool = False) -> list[str]:
        """Return the texts in a reply; none if it has not the form that was asked for.

        Args:
            reply: The reply, without thinking.
            is_cut: Whether a limit ended the reply.
        """

    def wordings(self, question: Question, texts: Sequence[str]) -> list[Wording]:
        """Return what is searched beside the question, or in its place: each text once."""
        seen = {query_key(question.query)}
        new = []
        for text in texts:
            if (key := query_key(text)) not in seen:
                seen.add(key)
                new.append(Wording(**{**dict(question), "query": text, "is_passage": self.writes_passages}))
        return new


class Rewrite(QueryStage):
    """One search query that the LLM makes of the question, as in rewrite-retrieve-read (Ma et al. 2023).

    Example:
        >>> Rewrite().read("搜索词：“冷萃咖啡 做法”")
        ['冷萃咖啡 做法']
    """

    prompt: ClassVar[str] = "rewrite"

    def read(self, reply: str, is_cut: bool = False) -> list[str]:
        """Return the query, if the reply is one whole line."""
        lines = _lines(reply)
        return [] if is_cut or len(lines) != 1 else _texts(lines)


class HyDE(QueryStage):
    """A hypothetical passage that answers the question (HyDE, Gao et al. 2022).

    A dense retriever encodes it as it encodes notes. The paper averages the vectors of passage and question; here their
    rankings are fused, which any retriever can do.

    Example:
        >>> HyDE().read("冷萃咖啡用冷水，\\n放一夜再过滤。")
        ['冷萃咖啡用冷水， 放一夜再过滤。']
    """

    prompt: ClassVar[str] = "hyde"
    writes_passages: ClassVar[bool] = True

    def read(self, reply: str, is_cut: bool = False) -> list[str]:
        """Return the passage, also one that a limit ended."""
        return _texts([" ".join(_lines(reply))])


class MultiQuery(QueryStage):
    """Other wordings of the question, as in RAG-Fusion.

    Example:
        >>> MultiQuery(n=2).read("1. 冷萃咖啡的做法\\n2. 怎样冷泡咖啡")
        ['冷萃咖啡的做法', '怎样冷泡咖啡']
    """

    prompt: ClassVar[str] = "multi"

    n: Annotated[int, Field(ge=1, le=20)] = 3
    """The number of wordings, 1 to 20."""

    @property
    def n_texts(self) -> int:
        """Return `n`."""
        return self.n

    def read(self, reply: str, is_cut: bool = False) -> list[str]:
        """Return the items of a list that is numbered from 1; a last item that a limit ended does not count."""
        lines = _lines(reply)
        if len(lines) > 1 and lines[0].endswith((":", "：")):
            lines = lines[1:]
        items = [_NUMBERED.fullmatch(line) for line in lines]
        if not items or [item and int(item[1]) for item in items] != list(range(1, len(items) + 1)):
            return []
        whole = [item[2] for item in items if item][: -1 if is_cut else None]
        return _texts(whole[: self.n])


def _lines(reply: str) -> list[str]:
    """Return the lines of a reply that are not empty, without a fence of code around all; none if it holds thinking."""
    reply = visible(reply)
    if _THINKING.search(reply):
        return []
    if fenced := _FENCE.fullmatch(reply):
        reply = fenced[2]
    return list(filter(None, map(str.strip, reply.splitlines())))


def _texts(parts: Sequence[str]) -> list[str]:
    """Return the parts without emphasis, labels and quotation marks around them; those without words are left out."""
    texts = []
    for part in parts:
        text = part.replace("**", "").strip()
        if label := _LABEL.match(text):
            text = text[label.end() :]
        if text[:1] + text[-1:] in _QUOTES and text[0] not in text[1:-1]:
            text = text[1:-1].strip()
        texts.append(text)
    return [text for text in texts if any(map(str.isalnum, text))]
