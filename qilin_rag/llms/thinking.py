"""Separation of a model's thinking from its answer in one text: thinking is kept in `raw`, and never scored.

A server with the right parser puts thinking into its own field. Without it, thinking is in the text, between the
markers that the model was trained with. `MARKERS` is the table of them; presets and settings add to it
(`thinking_markers`). The rules are the same for all markers, in any case and width, with or without spaces in the
marker:

- If an answer begins with an opening marker, the answer begins after its closing marker; several such blocks may
follow. - A closing marker without an opening one before it ends thinking, too: many chat templates open it in the
prompt. If
  there is text on both sides of it on its line, it may be only a mention: the answer is marked.
- Special tokens at the edges of a text (`</s>`, `<|im_end|>`) are not part of the answer.
- A marker after the answer's first words, or in quotation marks, is only a mention, and the answer stays whole.
- Thinking that never ends is not an answer.
- Text that looks like thinking and is not in the table stays, and is marked (`seems_to_think`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from qilin_rag.core.text import is_blank, skip_unseen

Markers = Sequence[tuple[str, str]]
"""Literal opening and closing markers."""


class Tags(NamedTuple):
    """The marking of thinking by some models: regular expressions for both ends.

    Attributes:
        is_certain: Whether the opening alone shows thinking, even if it never ends.
        opens_in_prompt: Whether the closing alone shows thinking.
    """

    opening: str
    closing: str
    models: str
    is_certain: bool = True
    opens_in_prompt: bool = True


def _tag(name: str, models: str, opens_in_prompt: bool = True) -> Tags:
    return Tags(
        rf"<\s*{name}(?:\s[^<>\n]{{0,80}})?\s*>", rf"<\s*\|?\s*/\s*{name}\s*\|?\s*>", models, True, opens_in_prompt
    )


MARKERS = (
    _tag(
        r"(?:ant|[a-z]+[:_|])?think(?:ing)?(?:[:_][a-z]+)?",
        "<think>: DeepSeek R1 to V4, Qwen3, QwQ, GLM 4.5 on, MiniMax M1 and M2, Kimi K2, Hunyuan, ERNIE 4.5, Nemotron, "
        "Phi 4, Olmo 3, Step 3; <thinking>: Claude's prompts, Reflection 70B, Granite; <antThinking>: Claude 3; "
        "<seed:think>: Seed-OSS; <mm:think>: MiniMax M3; <longcat_think>: LongCat Flash; "
        "<think:opensource>: Hunyuan 3; <ifm|think>, <ifm|think_fast>: K2 Horizon",
    ),
    _tag("thoughts?", "EXAONE Deep, Marco-o1, Gemini at its OpenAI address"),
    _tag("reasoning", "models trained by GRPO's usual prompt, Hermes 3, LLaVA-CoT"),
    _tag("reflection", "Reflection 70B"),
    _tag("inner_monologue", "Hermes 3"),
    _tag("scratchpad", "Hermes 3, Claude's prompts"),
    Tags(r"\[\s*THINK\s*\]", r"\[\s*/\s*THINK\s*\]", "Magistral, Ministral 3, Mistral Small 4"),
    Tags(r"\[unused16\]", r"\[unused17\]", "openPangu"),
    Tags(r"<unused94>(?:\s*thought\b)?", r"<unused95>", "MedGemma 1.5, Gemma 3"),
    Tags(r"<\|channel>(?:\s*thought\b)?", r"<channel\|>", "Gemma 4"),
    Tags(r"<\|\s*begin_of_thought\s*\|>", r"<\|\s*end_of_thought\s*\|>", "Sky-T1, OpenThinker, Bespoke-Stratos"),
    Tags(r"<\|START_THINKING\|>", r"<\|END_THINKING\|>", "Command R7B, Command A Reasoning, Command A Plus"),
    Tags(r"<\|inner_prefix\|>", r"<\|inner_suffix\|>", "Apertus"),
    Tags(r"<\|open\|>\s*think\s*<\|sep\|>", r"<\|close\|>\s*think\s*<\|sep\|>", "Kimi K3"),
    Tags("◁\\s*think\\s*▷", "◁\\s*/\\s*think\\s*▷", "Kimi 1.5, Kimi-VL Thinking, Kimi-Dev"),
    Tags(r"(?:<\|message_model\|>\s*)?<\|content_thinking\|>", r"<\|end_message\|>", "Inkling", True, False),
    Tags(
        r"<\|think\|>",
        r"<\|\s*/\s*think\s*\|>|(?:<\|end\|>\s*)?(?:<\|begin\|>\s*assistant\s*)?<\|content\|>",
        "Solar Open",
        opens_in_prompt=False,
    ),
    Tags(
        r"here(?:'|’| i)s my thought process:",
        r"here(?:'|’| i)s my response:",
        "Granite 3.2",
        is_certain=False,
        opens_in_prompt=False,
    ),
    Tags(r"<details\s[^<>]*type=[\"']?reasoning\b[^<>]*>", r"</details>", "what Open WebUI makes of it", True, False),
)
# Markers around the answer of some models; the tags count only after thinking, since a text may hold them.
_WRAPPERS = (
    (r"<\|\s*begin_of_solution\s*\|>", r"<\|\s*end_of_solution\s*\|>"),  # Sky-T1, OpenThinker
    (r"<\|START_(?:RESPONSE|TEXT)\|>", r"<\|END_(?:RESPONSE|TEXT)\|>"),  # Command A
    (r"<\|answer_prefix\|>", r"<\|answer_suffix\|>"),  # Apertus
    (r"<\|open\|>\s*response\s*<\|sep\|>", r"<\|close\|>\s*response\s*<\|sep\|>(?:<\|close\|>message<\|sep\|>)?"),
    (r"(?:<\|message_model\|>\s*)?<\|content_text\|>", r"<\|end_message\|>(?:\s*<\|content_model_end_sampling\|>)?"),
)
_WRAPPERS_BEHIND = tuple(
    (rf"<\s*{name}\s*>", rf"<\s*/\s*{name}\s*>")  # Hunyuan A13B, AM-Thinking; ERNIE 4.5; Marco-o1; LLaVA-CoT
    for name in ("answer", "response", "output", "conclusion")
)
# OpenAI's harmony (gpt-oss): messages in channels; `final` is the answer.
_CHANNEL = r"<\|channel\|>\s*%s\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
_IN_CHANNELS = re.compile(r"(?:<\|start\|>)?\s*(?:assistant)?\s*<\|channel\|>\s*(?:analysis|commentary|final)\b")
_FINAL = re.compile(rf"(?:<\|start\|>\s*assistant\s*)?{_CHANNEL % 'final'}")
_FINAL_AFTER_THINKING = re.compile(rf"<\|start\|>\s*assistant\s*{_CHANNEL % 'final'}")
_NEXT_MESSAGE = re.compile(r"<\|(?:start|channel)\|>")
# The same from a server that leaves out special tokens: "analysisWe need ...assistantfinalThe answer".
_BARE_ANALYSIS = re.compile(r"(?:assistant)?(?:analysis|commentary)(?=[A-Z\u3400-\u9fff])")
_BARE_FINAL = (re.compile(r"assistantfinal(?![a-z])"), re.compile(r"assistant\s?\n\s?final(?![a-z])"))
_BARE_FINAL_AFTER_THINKING = re.compile(r"(?:^|(?<=[.!?。！？)）>\"”\n]))assistantfinal(?![a-z])")
# Special tokens at the edges of a text, which some servers leave in.
_EDGE_TOKENS = (
    r"<\|(?:return|call|end|im_end|eos|bos|pad|eo[adtm](?:_id)?|user|observation|role_end)\|>",
    r"<\|?(?:begin|start|end)_?of_?(?:text|turn|msg|message|sentence|utterance)(?:_token)?\|?>",
    r"<(?:eos|bos|pad|eo[adt]|turn\||(?:eos|bos|pad)_token)>",
    r"\[(?:/?INST|EOS|BOS|PAD|unused10)\]",
)
_EDGE_TOKEN_BUT_S = re.compile("|".join(_EDGE_TOKENS), re.IGNORECASE)
_EDGE_TOKEN = re.compile("|".join((*_EDGE_TOKENS, "</?s>")), re.IGNORECASE)
_LONGEST_TOKEN = 40
# Every text with a marker has one of these; most texts have none, and need no further search.
_HINTS = (
    *("think", "thought", "reason", "reflection", "monologue", "scratchpad", "unused", "<|", "|>", "◁"),
    *("assistantfinal", "analysis", "commentary", "<s>", "</s>", "<eo", "<bos", "<pad", "<end", "<begin", "<start"),
    *("[inst]", "[/inst]", "[eos]", "[bos]", "[pad]"),
)
_WIDE = re.compile("[＜［〈▁Ａ-Ｚａ-ｚ]")
# Characters of other widths map to one of ASCII each, so that positions in the text stay the same.
_WIDTHS = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {
    **{0x3000: 0x20, 0x3008: 0x3C, 0x3009: 0x3E},
    0x2581: 0x5F,  # the space of SentencePiece
}
_WITH_WIDTH = re.compile(f"[{''.join(map(chr, _WIDTHS))}]+")
_QUOTES = {"`": "`", "'": "'", '"': '"', "“": "”", "‘": "’", "「": "」", "『": "』"}
_THINKING_WORD = (
    "think|thought|reason|analy|reflect|monolog|scratch|cot\\b|chain|ponder|deliberat|rational|思考|思维|推理"
)
_UNKNOWN_TAG = re.compile(
    rf"[<\[◁【]\s*\|?\s*/?[^<>\[\]◁▷【】\s]{{0,20}}(?:{_THINKING_WORD})[^<>\[\]◁▷【】\n]{{0,20}}[>\]▷】](?!\()",
    re.IGNORECASE,
)
_UNKNOWN_CLOSING = re.compile(rf"<\s*\|?\s*/\s*[\w:|-]{{0,20}}(?:{_THINKING_WORD})[\w:|-]{{0,20}}\s*>", re.IGNORECASE)
_SPECIAL_TOKEN = re.compile(r"<\|[^<>|\n]{1,40}\|?>|<[^<>|\n]{1,40}\|>|final(?=[A-Z\u3400-\u9fff])")
_LONGEST_HEAD = 200
_HEADING = re.compile(
    r"[#*\s]*(?:(?:my )?thinking(?: process)?|(?:here(?:'|’| i)s my )?thought process|chain of thought|reasoning"
    r"|思考(?:过程)?|思维链|推理过程)[*\s]*(?::|\n)",
    re.IGNORECASE,
)


class Split(NamedTuple):
    """The answer, stripped (None if thinking never ends); `has_thought`: whether thinking came before it."""

    answer: str | None
    has_thought: bool


class _Family(NamedTuple):
    """The compiled markers of one kind of thinking."""

    marker: Tags
    opening: re.Pattern[str]
    either: re.Pattern[str]  # has a group for a closing

    @classmethod
    def of(cls, marker: Tags) -> _Family:
        return cls(
            marker,
            re.compile(marker.opening, re.IGNORECASE),
            re.compile(rf"({marker.closing})|{marker.opening}", re.IGNORECASE),
        )


@cache
def _known_families() -> tuple[_Family, ...]:
    """Compile the markers on first use: most texts have no hint of thinking."""
    return tuple(map(_Family.of, MARKERS))


_EMPTY_BLOCK = re.compile(r"<\s*(?:think(?:ing)?|thought|reasoning)\s*/\s*>", re.IGNORECASE)


def split_thinking(text: str, more_markers: Markers = ()) -> Split:
    """Split thinking and answer like `read_thinking`.

    >>> split_thinking("[THINK]hm[/THINK]42")
    Split(answer='42', has_thought=True)
    >>> split_thinking("It ends with </think>, they say")
    Split(answer=', they say', has_thought=True)
    >>> split_thinking("It ends with `</think>`, they say")
    Split(answer='It ends with `</think>`, they say', has_thought=False)
    """
    split, _ = read_thinking(text, more_markers)
    return split


def read_thinking(text: str, more_markers: Markers = ()) -> tuple[Split, bool]:
    r"""Split thinking and answer by the table of markers and `more_markers`, and return whether the split is doubtful.

    The split is doubtful after a closing marker that may be only a mention: no opening one comes before it, and there
    is text on both sides of it on its line.

    >>> [read_thinking(text)[1] for text in ("It ends with </think>, they say", "hm\n</think>42")]
    [True, False]
    """
    if not more_markers and not _may_hold_markers(text):
        return Split(text.strip(), False), False
    folded = fold(text)
    first, _ = _within_edge_tokens(folded, 0, len(folded))
    text, folded = text[first:], folded[first:]
    start, is_doubtful = _behind_thinking(folded, _families(more_markers))
    if start is None:
        return Split(None, True), is_doubtful
    has_thought = start > 0
    if (place := _harmony_answer(folded, start)) is not None:
        if place.start is None:
            return Split(None, True), is_doubtful
        text, folded, start, has_thought = text[: place.end], folded[: place.end], place.start, place.has_thought
    return Split(_unwrapped(text, folded, start, has_thought), has_thought), is_doubtful


def seems_to_think(answer: str) -> bool:
    """Return whether an answer may hold thinking in an unknown form or place.

    Such an answer begins with a tag, a heading or a special token about thinking, or holds an unquoted closing marker.
    """
    start = skip_unseen(answer, 0)
    head = fold(answer[start : start + _LONGEST_HEAD])
    if any(pattern.match(head) for pattern in (_UNKNOWN_TAG, _SPECIAL_TOKEN, _HEADING)):
        return True
    folded = fold(answer) if _WIDE.search(answer) else answer
    if any(not _is_quoted(folded, closing) for closing in _UNKNOWN_CLOSING.finditer(folded)):
        return True
    families = (
        (family for family in _known_families() if family.marker.opens_in_prompt) if _may_hold_markers(answer) else ()
    )
    return any(closing[1] for family in families for closing in _tags(folded, 0, family))


def fold(text: str) -> str:
    """Return the text with full-width characters replaced by ASCII, one for one."""
    return _WITH_WIDTH.sub(lambda wide: wide[0].translate(_WIDTHS), text)  # quicker than to translate the whole


def _families(more_markers: Markers) -> Sequence[_Family]:
    own = [_Family.of(Tags(re.escape(fold(start)), re.escape(fold(end)), "")) for start, end in more_markers]
    return (*own, *_known_families())


def _may_hold_markers(text: str) -> bool:
    lower = text.lower()
    return any(hint in lower for hint in _HINTS) or bool(_WIDE.search(text))


def _behind_thinking(text: str, families: Sequence[_Family]) -> tuple[int | None, bool]:
    """Return where the answer begins (None if thinking never ends), and whether the split is doubtful.

    The split is doubtful if an unopened block closes within a line.
    """
    start, has_thought, is_doubtful = 0, False, False
    while True:
        position = skip_unseen(text, start)
        if empty := _EMPTY_BLOCK.match(text, position):
            start, has_thought = empty.end(), True
        elif family_opened := next((family for family in families if family.opening.match(text, position)), None):
            end = _end_of_block(text, position, family_opened)
            if end is None:
                return None if family_opened.marker.is_certain else start, is_doubtful
            start, has_thought = end, True
        elif has_thought:
            repeated = next(
                (closing_marker for family in families if (closing_marker := family.either.match(text, position))), None
            )
            if not (repeated and repeated[1]):
                return start, is_doubtful
            start = repeated.end()  # a repeated closing marker
        elif closing := _closing_of_opened_in_prompt(text, families):
            start, has_thought, is_doubtful = closing.end(), True, _has_text_on_both_sides(closing)
        else:
            return 0, False


def _has_text_on_both_sides(marker: re.Match[str]) -> bool:
    """Return whether there is visible text before and after a match on its line."""
    before, after = marker.string[: marker.start()], marker.string[marker.end() :]
    return not is_blank(before.rpartition("\n")[2]) and not is_blank(after.partition("\n")[0])


def _end_of_block(text: str, start: int, family: _Family) -> int | None:
    """Return the end of a block that begins at `start`, including blocks within it."""
    ends: list[int] = []
    depth, is_open_again = 0, False
    for marker in _tags(text, start, family):
        depth += -1 if marker[1] else 1
        if marker[1] and not is_open_again:
            ends.append(marker.end())
        if depth == 0:
            return marker.end()
        is_open_again = is_open_again or bool(ends and not marker[1])
    return ends[-1] if ends else None  # some openings were only mentions


def _closing_of_opened_in_prompt(text: str, families: Sequence[_Family]) -> re.Match[str] | None:
    """Return the marker that closes thinking opened before the text; None if a block opens first."""
    first = min(
        (
            (marker.start(), -marker.end(), family, marker)
            for family in families
            if (marker := next(_tags(text, 0, family), None))
        ),
        key=lambda each: each[:2],
        default=None,
    )
    if first is None:
        return None
    _, _, family, marker = first
    return marker if marker[1] and family.marker.opens_in_prompt else None


def _tags(text: str, start: int, family: _Family) -> Iterator[re.Match[str]]:
    """Yield the markers of a family, without quoted ones."""
    return (found for found in family.either.finditer(text, start) if not _is_quoted(text, found))


def _is_quoted(text: str, marker: re.Match[str]) -> bool:
    before, after = text[marker.start() - 1 : marker.start()], text[marker.end() : marker.end() + 1]
    return bool(before) and _QUOTES.get(before) == after


class _Place(NamedTuple):
    """The position of the answer; no start means that there is none."""

    start: int | None
    end: int | None
    has_thought: bool


def _harmony_answer(text: str, start: int) -> _Place | None:
    """Return the final message of a text in harmony's channels, with or without special tokens; else None."""
    position = skip_unseen(text, start)
    is_in_channels = _IN_CHANNELS.match(text, position) is not None
    finals = (_FINAL if is_in_channels else _FINAL_AFTER_THINKING).finditer(text, position)
    if final := next((each for each in finals if is_in_channels or not _is_quoted(text, each)), None):
        following = _NEXT_MESSAGE.search(text, final.end())
        return _Place(final.end(), following.start() if following else None, final.start() > position or start > 0)
    if is_in_channels:
        return _Place(None, None, True)
    if _BARE_ANALYSIS.match(text, position):
        final = next((match for pattern in _BARE_FINAL if (match := pattern.search(text, position))), None)
        return _Place(final.end() if final else None, None, True)
    if final := _BARE_FINAL_AFTER_THINKING.search(text, position):
        return _Place(final.end(), None, True)
    return None


def _within_edge_tokens(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the start and end of a text without special tokens; `<s>` may be HTML for struck-out words."""
    first, last = start, end
    for token in (_EDGE_TOKEN, _EDGE_TOKEN_BUT_S):
        first, last = start, end
        while match := token.match(text, skip_unseen(text, first), last):
            first = match.end()
        while True:
            while last > first and text[last - 1].isspace():
                last -= 1
            least = max(first, last - _LONGEST_TOKEN)
            opening = max(text.rfind("<", least, last), text.rfind("[", least, last))
            if opening < 0 or not token.fullmatch(text, opening, last):
                break
            last = opening
        if text.count("<s>", first, last) == text.count("</s>", first, last):
            break
    return first, last


def _unwrapped(text: str, folded: str, start: int, has_thought: bool) -> str:
    """Return the answer without the markers around it."""
    start, end = _within_edge_tokens(folded, start, len(folded))
    for opening, closing in (*_WRAPPERS, *(_WRAPPERS_BEHIND if has_thought else ())):
        if opened := re.compile(opening, re.IGNORECASE).match(folded, skip_unseen(folded, start), end):
            closed = re.compile(closing, re.IGNORECASE).search(folded, opened.end(), end)
            inside = text[opened.end() : closed.start()] if closed else text[opened.end() : end]
            return (inside + (text[closed.end() : end] if closed else "")).strip()
    return text[start:end].strip()
