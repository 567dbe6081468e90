"""Read an LLM's verdict: texts under test are quoted, and a verdict is a line outside of quotes.

The answers under test are hostile input. Every line of them is quoted as in a mail (`> `), so that none can end its
block, and a verdict that the judge copies out of an answer is a quotation, too.

The last line that begins with a label (`正确性：`, `结论：`) decides. It is a verdict if nothing else stands on it;
anything else is no verdict: a line of another form, two verdicts on a line, a number out of
range or with a fraction, another scale, a word, text in quotation marks or in a fence of code.
Full-width forms, invisible characters, emphasis, the marks of a list or a heading before the label, brackets
around the label or the whole verdict, backticks around it, `分`, `/5` and a full stop make no difference.

A fence of code is a quotation, but for two cases: nothing that the judge was shown holds the label, so that there is
nothing to quote (the caller has to say what was shown), or the fence is around a whole reply of several lines and it is
not known that the label was shown.

Whether an answer is a refusal is said on the last line, once. A reply that has no line but those that the judge was
shown is a quotation, with or without marks.

A prompt may ask for True or False. Then the last line that is not empty is the verdict, if it is that word and nothing
else (apart from case, width, emphasis, backticks and a full stop). Everything else is no verdict: a word of another
language (`是` can confirm a denial), a label before the word, quotations, text after it, and both verdicts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from qilin_rag.core.text import normalise, query_key
from qilin_rag.judging.reply_lines import EMPHASIS, THINKING, WHOLE_FENCE, plain_lines, unwrapped

Preference = Literal["A", "B", "tie"]
ASPECTS = {"correctness": "正确性", "completeness": "完整性", "faithfulness": "忠实性"}
_PREFERENCE_LABEL = "结论"
_PREFERENCES: dict[str, Preference] = {"a": "A", "b": "B", "平局": "tie"}
_SCORE = re.compile(r"([1-5])(?:\s*/\s*5)?\s*分?\s*[。.]?", re.ASCII)
_PREFERRED = re.compile(r"(?:回答\s*)?(a|b)\s*[。.]?|(平局)\s*[。.]?")
_REFUSAL_LABELS = ("结论", "verdict")
_REFUSED = re.compile(r"(?:(拒答|refused)|作答|answered)\s*[。.]?")

# Half a quotation ends with the text: what stands behind its mark may be quoted.
_QUOTED = re.compile(
    r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|「.*?(?:」|\Z)|『.*?(?:』|\Z)|“.*?(?:”|\Z)|\"[^\"]*\"", re.DOTALL
)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n`~]*$", re.MULTILINE)
_MARK_BEFORE_LABEL = re.compile(r"(?:#{1,6}\s+)?(?:[-*•]\s+|\d{1,2}[.、)]\s*|\(\d{1,2}\)\s*)?", re.ASCII)
_TRUE_FALSE = re.compile(r"[*_`]{0,2}(true|false)[.。]?[*_`]{0,2}[.。]?")


def read_score(reply: str, label: str, shown: Iterable[str] | None = None) -> int | None:
    """Return the score from 1 to 5 that a judge gives under this label; None if it gives none.

    Args:
        reply: what the judge wrote.
        label: what stands before the score, `正确性` for one.
        shown: all texts under test that the judge was shown; None if they are not known.

    >>> read_score("理由：基本正确。\\n正确性：4分", "正确性")
    4
    """
    found = _SCORE.fullmatch(_last_under(label, reply, shown))
    return int(found[1]) if found else None


def read_preference(reply: str, shown: Iterable[str] | None = None) -> Preference | None:
    """Return which of two answers a judge prefers: that shown as A or as B, or neither; None if it does not say.

    `shown` are all texts under test that the judge was shown; None if they are not known.

    >>> read_preference("结论：平局")
    'tie'
    """
    found = _PREFERRED.fullmatch(_last_under(_PREFERENCE_LABEL, reply, shown))
    return _PREFERENCES[found[1] or found[2]] if found else None


def read_refusal(reply: str, shown: Iterable[str] | None = None) -> bool | None:
    """Return whether a judge says that an answer refuses its question; None if it says neither, or both.

    Args:
        reply: what the judge wrote.
        shown: all texts under test that the judge was shown; None if they are not known.

    >>> read_refusal("回答只说资料里没有。\\n结论：拒答")
    True
    """
    shown = None if shown is None else list(shown)
    if THINKING.search(normalise(reply)) or _is_copied(reply, shown or []):
        return None
    lines = _labelled(_REFUSAL_LABELS, reply, shown)
    verdicts = [found for line in lines if line and (found := _REFUSED.fullmatch(line))]
    is_last = len(verdicts) == 1 and lines[-1] == verdicts[0].string
    return verdicts[0][1] is not None if is_last else None


def read_true_false(reply: str) -> bool | None:
    """Return whether an LLM says True or False; None if it says neither, or not in this form."""
    reply = normalise(reply)
    lines = list(filter(None, map(str.strip, _own_lines(reply))))
    if not lines or THINKING.search(reply):
        return None
    said = {line: found[1] == "true" for line in lines if (found := _TRUE_FALSE.fullmatch(line))}
    return said.get(lines[-1]) if len(set(said.values())) == 1 else None


def _own_lines(reply: str) -> list[str]:
    """Return the lines of a normalised reply without emphasis; quotations become `…`."""
    own = _QUOTED.sub("…", reply)
    return [EMPHASIS.sub("", line).strip() for line in own.splitlines()]


def _last_under(label: str, reply: str, shown: Iterable[str] | None) -> str:
    """Return the text after the last label that begins a line of the judge's own; empty if there is none."""
    under = [line for line in _labelled((label,), reply, shown) if line is not None]
    return under[-1] if under else ""


def _labelled(labels: Sequence[str], reply: str, shown: Iterable[str] | None) -> list[str | None]:
    """Return the text after one of the labels for each line of the judge's own; None for a line without a label."""
    reply = _without_own_fences(normalise(reply), labels, shown)
    lines = [_MARK_BEFORE_LABEL.sub("", line, count=1) for line in _own_lines(reply) if line]
    label = "|".join(labels)
    labelled = re.compile(rf"(?:(?:{label})|【(?:{label})】|\[(?:{label})\])\s*:(.*)")
    return [unwrapped(found[1].strip()) if (found := labelled.fullmatch(line)) else None for line in lines]


def _is_copied(reply: str, shown: Iterable[str]) -> bool:
    """Return whether the judge was shown all lines of a reply, apart from white space and marks around them."""
    seen = [query_key(EMPHASIS.sub("", text)) for text in shown]
    lines = (_MARK_BEFORE_LABEL.sub("", line, count=1).strip("-*•。. ") for line in plain_lines(normalise(reply)))
    return all(any(query_key(line) in text for text in seen) for line in lines)


def _without_own_fences(reply: str, labels: Sequence[str], shown: Iterable[str] | None) -> str:
    """Remove the marks of fences that can't be around a quotation."""
    if not _FENCE.search(reply):
        return reply
    if shown is not None:
        is_shown = any(label in text for text in map(normalise, shown) for label in labels)
        return reply if is_shown else _FENCE.sub("", reply)
    whole = WHOLE_FENCE.fullmatch(reply)
    return whole[2] if whole and "\n" in whole[2].strip() else reply


def shown_texts(values: Iterable[str | int | Sequence[str]]) -> list[str]:
    """Return all texts that a judge's prompt was filled with."""
    texts = (value for value in values if not isinstance(value, int))
    return [text for value in texts for text in ([value] if isinstance(value, str) else value)]
