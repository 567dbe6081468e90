"""Reading of chat models' replies, from any server and client: the text, its end, its tokens.

A reply is a message (text, thinking, a refusal, tool calls, in fields or in blocks), a word for its end and numbers of
tokens. Each part has many dialects, and can be missing or wrong; both clients read them here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from qilin_rag.core.text import clean, has_words, is_blank, skip_unseen
from qilin_rag.core.types import Completion, Mark, Usage, read_count
from qilin_rag.llms.thinking import Markers, Split, fold, read_thinking, seems_to_think

VERSION = 2  # version of the rules that read a text from a reply
STOP, LENGTH, FILTERED, REFUSED, PASSING = "stop", "length", "content_filter", "refusal", "passing"
FILTER_SAID = "filtered: "  # prefix of the words of a filter
# Servers' words for the end of a reply: lower case, `_` between words, without the part before a dot.
_WORDS = {
    STOP: """
        stop eos eos_token end_turn stop_sequence complete completed done finished normal end endoftext stop_token 1
    """,
    LENGTH: """
        length max_tokens max_token max_length model_length max_output_tokens max_completion_tokens token_limit limit
        error_limit time_limit model_context_window_exceeded context_window_exceeded context_length_exceeded incomplete
        truncated max_new_tokens length_limit repetition_truncation 2
    """,
    FILTERED: """
        content_filter content_filtered filtered filter sensitive safety image_safety recitation blocklist
        prohibited_content spii model_armor guardrail_intervened guardrails error_toxic moderation
        data_inspection_failed policy_violation blocked 3 4
    """,
    REFUSED: "refusal refused",
    PASSING: """
        abort aborted error network_error timeout user_cancel cancelled canceled insufficient_system_resource
        overloaded engine_overloaded
    """,
}  # the numbers are Gemini's, if a gateway passes them on
ENDINGS = {word: ending for ending, words in _WORDS.items() for word in words.split()}
_THINKING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_text", "thoughts", "reasoning_details")
_THINKING_BLOCK = re.compile("think|reason|thought", re.IGNORECASE)
_CALL_BLOCK = re.compile("(?:tool|function)(?!.*result)", re.IGNORECASE)
# Tool calls in the text of a model, if a server does not parse them.
_CALL_TEXT = re.compile(
    r"<\s*(tool_?calls?|function_?calls?|tool_use|tool_code|function|invoke)\b[^<>]*>"
    r"(?:.*?<\s*/\s*\1\s*>|\s*[{\[<].*)"
    r"|<\|\s*(?:tool_?call\w*|python_tag|START_ACTION)\s*\|?>.*"
    r"|\[TOOL_CALLS?\].*",
    re.IGNORECASE | re.DOTALL,
)
_TEXT_BLOCKS = ("", "text", "output_text")
_LONGEST_WORD = 80
_MOST_TOKENS = 10**9  # the most tokens of one call; a larger number has another meaning, such as an unsigned -1


def read_ending(word: Any) -> str:
    """Return how a reply ended: `stop`, `length`, `content_filter`, `refusal` or `passing`.

    A word that is not in the table is returned unchanged. A missing word means `stop`.

    >>> [read_ending(word) for word in ("MAX_TOKENS", "FinishReason.STOP", "endTurn", None, "tool_calls")]
    ['length', 'stop', 'stop', 'stop', 'tool_calls']
    """
    text = " ".join(clean(str(word)[:_LONGEST_WORD]).split()) if word is not None else ""
    if not text or text.lower() in ("null", "none"):
        return STOP
    last = text.rpartition(".")[2]
    snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", last).lower().replace("-", "_").replace(" ", "_")
    return ENDINGS.get(snake.removeprefix("finish_reason_"), last)


def read_reply(
    message: Any, ended: str, usage: Usage, *, markers: Markers = (), most_tokens: int | None = None
) -> Completion:
    """Read the text of a reply.

    Args:
        message: A mapping with `content` (text, blocks, or none) and the fields that servers put beside it, or a text.
        ended: How the reply ended, by `read_ending`.
        usage: Its tokens, by `read_usage`.
        markers: Markers of thinking in addition to those of the table.
        most_tokens: The most tokens that were requested.

    Returns:
        A completion without the model's name. If there is no answer, `why_empty` gives the reason.
    """
    parts = _Parts(message)
    content, thinking = clean("".join(parts.texts)), clean("\n".join(parts.thoughts))
    split, is_doubtful = read_thinking(content, markers)
    text = split.answer or ""
    raw = f"<think>\n{thinking}\n</think>\n\n{content}" if thinking else content
    refusal = clean("\n".join(parts.refusals))
    if parts.has_refused and ended != FILTERED:
        ended, raw = REFUSED, f"{raw}\n{refusal}".strip()
    if split.answer is None and ended == STOP:
        ended = LENGTH
    why = None
    if _only_calls(text):
        parts.has_calls, text = True, ""
    if is_blank(text):
        text, why = "", parts.why_empty(thinking, split)
    elif not has_words(text):
        text, why = "", "there is only markup in the content"
    if ended == REFUSED:  # text beside or before a refusal is not an answer
        words = " ".join((text if is_blank(refusal) else refusal).split())[:200]
        text, why = "", f"refused: {words}" if words else "refused, without a word"
    marks = [*_marks(text, ended, usage, most_tokens, is_doubtful)] if text else []
    return Completion(
        text=text,
        raw=raw,
        model="",
        finish_reason=ended,
        why_empty=why,
        marks=marks,
        usage=_without_false_zeros(usage, raw),
        reading=VERSION,
    )


def read_again(kept: Completion, markers: Markers, most_tokens: int | None) -> Completion:
    """Read a stored completion of an older version by the rules of this one."""
    if kept.reading == VERSION:
        return kept
    read = read_reply(kept.raw, read_ending(kept.finish_reason), kept.usage, markers=markers, most_tokens=most_tokens)
    return read.model_copy(update={"model": kept.model, "latency_s": kept.latency_s, "raw": kept.raw})


def _only_calls(text: str) -> bool:
    """Return whether a text is tool calls and nothing else."""
    start = skip_unseen(text, 0)
    if fold(text[start : start + 1]) not in ("<", "["):  # the beginning of every call: nearly no answer's
        return False
    folded, start = fold(text), 0
    while call := _CALL_TEXT.match(folded, skip_unseen(folded, start)):
        start = call.end()
    return start > 0 and is_blank(text[start:])


def _marks(text: str, ended: str, usage: Usage, most_tokens: int | None, is_doubtful: bool) -> Iterator[Mark]:
    if ended == STOP and most_tokens is not None and (usage.completion_tokens or 0) >= most_tokens:
        yield "maybe_cut"
    if is_doubtful or seems_to_think(text):
        yield "maybe_thinking"


def _without_false_zeros(usage: Usage, raw: str) -> Usage:
    """Return the tokens without impossible zeros: a prompt has tokens, and so has any reply."""
    zeros = {} if usage.prompt_tokens else {"prompt_tokens": None}
    if not usage.completion_tokens and raw:
        zeros |= {"completion_tokens": None}
    return usage.model_copy(update=zeros) if zeros else usage


class _Parts:
    """The texts of a message, sorted by kind."""

    def __init__(self, message: Any) -> None:
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.refusals: list[str] = []
        self.thinking_field: str | None = None
        self.has_calls = self.has_refused = self.is_null = False
        self.calls: dict[str, None] = {}  # the types of tool-calling blocks
        self.strange: str | None = None
        if isinstance(message, str):
            self.texts.append(message)
        elif isinstance(message, Mapping):
            self._read_fields(message)
        else:
            self.strange = f"the message is of an unknown form ({type(message).__name__})"

    def _read_fields(self, message: Mapping[str, Any]) -> None:
        content = message.get("content")
        self.is_null = content is None
        if isinstance(content, str):
            self.texts.append(content)
        elif isinstance(content, list | Mapping):
            self._read_blocks(content if isinstance(content, list) else [content])
        elif content is not None:
            self.strange = f"the content is of an unknown form ({type(content).__name__})"
        for field in _THINKING_FIELDS:
            thought = _text_in(message.get(field))
            if not is_blank(thought):  # the same text as in the blocks, if those are given, too
                self.thoughts, self.thinking_field = [thought], field
                break
        self._read_refusal(message.get("refusal"))
        self.has_calls = bool(message.get("tool_calls") or message.get("function_call"))

    def _read_refusal(self, refusal: Any) -> None:
        """Note a refusal: its words, or any other true value."""
        words = _text_in(refusal)
        if not is_blank(words):
            self.refusals.append(words)
        self.has_refused = self.has_refused or not is_blank(words) or bool(refusal and not isinstance(refusal, str))

    def _read_blocks(self, blocks: list[Any]) -> None:
        unknown: dict[str, None] = {}
        for block in blocks:
            if isinstance(block, str):
                self.texts.append(block)
                continue
            kind = str(block.get("type") or "")[:_LONGEST_WORD] if isinstance(block, Mapping) else type(block).__name__
            if not isinstance(block, Mapping):
                unknown[kind] = None
            elif _THINKING_BLOCK.search(kind) or block.get("thought") is True:
                self.thoughts += filter(None, [_text_in(block)])
                self.thinking_field = self.thinking_field or f"blocks of type {kind or 'thought'!r}"
            elif kind == "refusal" or block.get("refusal"):
                self._read_refusal(block.get("refusal") or _text_in(block) or True)
            elif kind.lower() in _TEXT_BLOCKS and "text" in block:
                text = block["text"]
                if isinstance(text, Mapping):  # OpenAI's assistants
                    text = text.get("value")
                if isinstance(text, str):
                    self.texts.append(text)
                elif text is not None:
                    unknown[f"{kind or 'none'} of {type(text).__name__}"] = None
            elif _CALL_BLOCK.search(kind):
                self.calls[kind] = None
            else:
                unknown[kind or "none"] = None
        if unknown:
            self.strange = f"the content is in blocks of an unknown type ({', '.join(list(unknown)[:3])})"

    def why_empty(self, thinking: str, split: Split) -> str:
        """Return what the message holds instead of an answer."""
        if split.answer is None:
            return "the thinking never ends"
        if self.has_calls or self.calls:
            return "it only calls tools" + (f" ({', '.join(list(self.calls)[:3])})" if self.calls else "")
        if split.has_thought:
            return "nothing stands behind the thinking"
        if not is_blank(thinking):
            return f"everything is in {self.thinking_field}"
        if self.strange:
            return self.strange
        if any(self.texts):
            return "there is nothing to be seen in the content"
        return "the content is null" if self.is_null else "the content is empty"


def _text_in(thought: Any) -> str:
    """Return the text in a field or block: each provider nests it differently, next to signatures."""
    if isinstance(thought, str):
        return thought
    if isinstance(thought, list):
        return "\n".join(filter(None, map(_text_in, thought)))
    if isinstance(thought, Mapping):
        fields = ("thinking", "reasoning", "reasoning_content", "refusal", "summary", "text", "content")
        return next((text for field in fields if (text := _text_in(thought.get(field)))), "")
    return ""


def read_usage(usage: Any) -> Usage:
    """Read the tokens of one call, in OpenAI's, Anthropic's or LangChain's names; impossible numbers are unknown.

    The result counts the whole prompt, even if a server counts cached tokens separately. It also counts everything
    written, even if a server counts thinking separately. The parts decide, or their sum (`total_tokens`). If the sum
    exceeds all parts, it is unknown which part is too small.
    """
    if not isinstance(usage, Mapping):
        return Usage()
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    completion = _count(usage, "completion_tokens", "output_tokens")
    about_prompt = _details(usage, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    about_completion = _details(usage, "completion_tokens_details", "output_tokens_details", "output_token_details")
    cached = _count(about_prompt, "cached_tokens", "cache_read")
    if cached is None:
        cached = _count(usage, "cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
    stored = _count(about_prompt, "cache_creation", "cache_creation_tokens", "cache_write_tokens")
    if stored is None:
        stored = _count(usage, "cache_creation_input_tokens")
    thinking = _count(about_completion, "reasoning_tokens", "reasoning")
    if thinking is None:
        thinking = _count(usage, "reasoning_tokens")
    total = _count(usage, "total_tokens")
    in_cache = (cached or 0) + (stored or 0)
    is_apart = _count(usage, "prompt_tokens") is None and not about_prompt  # Anthropic's way of counting
    if prompt is not None and completion is not None:
        prompt, completion = _whole(prompt, completion, in_cache, thinking or 0, total, is_apart)
    elif prompt is not None and is_apart:
        prompt += in_cache
    return Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached, cache_write_tokens=stored)


def _whole(
    prompt: int, written: int, in_cache: int, thinking: int, total: int | None, is_apart: bool
) -> tuple[int | None, int | None]:
    """Return the whole prompt and everything written, from parts that may count cached tokens or thinking separately.

    A part that is larger than the whole is separate. Otherwise the sum decides, or `is_apart` for the cache if there is
    no sum. A sum below the two counts is wrong. A sum without room for a separate part contradicts it: that count is
    unknown.
    """
    possible = {
        (prompt + in_cache * cache_is_apart, written + thinking * thinking_is_apart)
        for cache_is_apart in {in_cache > prompt, True}
        for thinking_is_apart in {thinking > written, True}
    }
    least = min(possible)
    if total is None or total < prompt + written:
        return prompt + in_cache * (is_apart or in_cache > prompt), least[1]
    if total < sum(least):
        return None if in_cache > prompt else prompt, None if thinking > written else written
    fitting = [counts for counts in possible if sum(counts) == total]
    return fitting[0] if len(fitting) == 1 else (least[0], None)


def _count(counts: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of these numbers that is valid."""
    for name in names:
        if (count := read_count(counts.get(name))) is not None and count <= _MOST_TOKENS:
            return count
    return None


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    return next((found for name in names if isinstance(found := usage.get(name), Mapping)), {})
