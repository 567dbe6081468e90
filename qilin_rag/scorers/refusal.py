"""Decide by patterns whether an answer refuses the question: no LLM judges it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import ClassVar, Self

from pydantic import PrivateAttr

from qilin_rag.core.text import has_words, normalise, sentences, strip_markup
from qilin_rag.scorers import refusal_patterns as patterns
from qilin_rag.scorers.base import AnswerScorer

_REFUSAL = patterns.compiled(*patterns.REFUSALS)
_NEGATED = patterns.compiled(patterns.NEGATIONS)
_CONDITION = patterns.compiled(patterns.CONDITIONS)
_OPENING = patterns.compiled(patterns.OPENINGS)
_ASIDE = patterns.compiled(*patterns.ASIDES)
_CONTRAST = patterns.compiled(patterns.CONTRASTS)
_QUOTES = [("“", "”"), ("「", "」"), ("『", "』"), ("‘", "’"), ("«", "»"), ('"', '"')]
_QUOTED = re.compile("|".join(f"{first}[^{first}{last}]*{last}" for first, last in _QUOTES))
_LIST_MARK = re.compile(r"^[ \t]*(?:(?:>|#{1,6}[ \t]|[-*•][ \t]|[(（]?\d{1,2}[.)、）])[ \t]*)+", re.MULTILINE)
_CLAUSE_END = re.compile(r"[,，]|[.](?:\s|$)|:(?=\s*\w{8,})")
_EDGE = " \t\n.。!！?？;；…~～,，、:："


class RefusalRate(AnswerScorer):
    """1 if the answer refuses the question and answers no part of it, else 0; by patterns, without an LLM.

    An answer is split into clauses: at ends of sentences, at commas, and before 但, 不过, but and the like. Text in
    quotation marks is left out, unless the whole answer is quoted. Each clause is one of these:

    - a refusal: the sentence that the prompt itself tells the LLM to say (`refusal` of a prompt's file), or a pattern
    such as 无法回答, 笔记没有提到, "cannot be answered"; not after a negation (并非无法回答) or 如果;
    - beside it: an apology, what the notes are about instead, advice where to look, or the opening of a refusal (根据
    这些笔记，);
    - any other clause, which answers.

    The value is 1 if there is a refusal and nothing that answers. An answer that refuses and then answers, even in
    part, is 0, and so is an empty answer. Traditional characters are read as simplified ones.

    The highest value is best only if the notes lack the answer (`unanswerable`), so that none is marked as best.

    Example:
        >>> RefusalRate().score_answers(["根据这些笔记无法回答。", "笔记没有提到水温，但可以用92度。"], [[], []])
        [1.0, 0.0]
    """

    metric: ClassVar[str] = "refusal"
    one_by_one: ClassVar[bool] = True

    _sentences: tuple[str, ...] = PrivateAttr(default=())

    def for_prompt(self, refusals: Sequence[str]) -> Self:
        """Return the scorer with the sentences by which the prompt tells the LLM to refuse."""
        chosen = self.model_copy()
        own = (_plain(each).strip(_EDGE) for each in refusals)
        chosen._sentences = tuple(sorted(filter(None, own), key=len, reverse=True))
        return chosen

    def signatures(self) -> dict[str, str]:
        """Return the signature: the patterns, the prompt's own sentence, and what counts."""
        made = f"patterns:zh+en v{patterns.VERSION}|prompt's sentence:if it names one|partly answered:0|quoted:no"
        return {self.metric: f"refusal|{made}|best:depends on the notes|v{self.version}"}

    def score_answers(self, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        """Return 1 or 0 for each answer."""
        return [float(self._refuses(answer)) for answer in answers]

    def _refuses(self, answer: str) -> bool:
        text = _unquoted(_plain(answer))
        text, has_refused = self._without_own(text)
        for sentence in sentences(text):
            for part in _split(_CONTRAST, sentence):
                kinds = [_kind(clause) for clause in _split(_CLAUSE_END, part)]
                if "answer" in _settled(kinds):
                    return False
                has_refused |= "refusal" in kinds
        return has_refused

    def _without_own(self, text: str) -> tuple[str, bool]:
        """Remove the prompt's own sentences, and return whether there was one."""
        edge = re.escape(_EDGE)
        has_own = False
        for sentence in self._sentences:
            text, n = re.subn(f"(?<![^{edge}]){re.escape(sentence)}(?![^{edge}])", "\n", text)
            has_own |= n > 0
        return text, has_own


def _plain(text: str) -> str:
    """Return the text without markup, in one width, case and script."""
    return patterns.as_simplified(normalise(_LIST_MARK.sub("", strip_markup(text)))).strip()


def _unquoted(text: str) -> str:
    """Return the text without what it quotes; a text that is one quotation is taken out of its marks."""
    bare = text.strip(_EDGE)
    whole = next((bare[1:-1] for first, last in _QUOTES if bare[:1] == first and bare[-1:] == last), None)
    if whole is not None and len(bare) > 1 and not any(mark in whole for mark in bare[0] + bare[-1]):
        return whole
    return _QUOTED.sub("", text)


def _split(mark: re.Pattern[str], text: str) -> Iterable[str]:
    return [part for part in (each.strip(_EDGE) for each in mark.split(text)) if has_words(part)]


def _kind(clause: str) -> str:
    """Return what a clause is: refusal, beside, opening, or answer."""
    if _CONDITION.search(clause):
        return "opening"
    found = _REFUSAL.search(clause)
    if found and not _NEGATED.search(clause[: found.start()]):
        return "refusal"
    if found:
        return "answer"
    if _ASIDE.search(clause):
        return "beside"
    return "opening" if _OPENING.search(clause) else "answer"


def _settled(kinds: Sequence[str]) -> list[str]:
    """Return the kinds with an opening that leads to nothing as an answer."""
    last = max((place for place, kind in enumerate(kinds) if kind in ("refusal", "beside")), default=-1)
    return ["answer" if kind == "opening" and place > last else kind for place, kind in enumerate(kinds)]
