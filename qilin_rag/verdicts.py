"""An LLM's verdict: what it is shown stands in quotes, and a verdict is a line that stands in none.

The answers under test are hostile input. Every line of them is quoted as in a mail (`> `), so that none can end its
block, and a verdict that the judge copies out of an answer is a quotation, too.

The last line that begins with a label (`正确性：`, `结论：`) decides. It is a verdict if nothing else stands on it;
anything else is none, and is never read as one: a line of another form, two verdicts on a line, a number out of range
or with a fraction, another scale, a word, what stands in quotation marks or in a fence of code. Full-width forms,
emphasis, a list's dash, `分`, `/5` and a full stop make no difference.

Where True or False is asked for, the last line that is not empty is the verdict, if it is that word and nothing else
(case, width, emphasis, backticks and a full stop aside). Everything else is none: another language's word (`是` can
confirm a denial), a label before it, what stands in quotes or follows it, and a reply with both verdicts, a line each.
"""

from __future__ import annotations

import re
from typing import Literal

from qilin_rag.text import normalise

Preference = Literal["A", "B", "tie"]

ASPECTS = {"correctness": "正确性", "completeness": "完整性", "faithfulness": "忠实性"}
SCALE = (1, 5)

_PREFERENCE_LABEL = "结论"
_PREFERENCES: dict[str, Preference] = {"a": "A", "b": "B", "平局": "tie"}
_SCORE = re.compile(r"([1-5])(?:/5)?分?[。.]?", re.ASCII)
_PREFERRED = re.compile(r"(?:回答)?(a|b)[。.]?|(平局)[。.]?")
# Half a quotation ends with the text: what stands behind its mark may be quoted.
_QUOTED = re.compile(
    r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)|「.*?(?:」|\Z)|『.*?(?:』|\Z)|“.*?(?:”|\Z)|\"[^\"]*\"", re.DOTALL
)
_EMPHASIS = re.compile(r"\*\*|__")
_BULLET = re.compile(r"[-*•]\s+")
_TRUE_FALSE = re.compile(r"[*_`]{0,2}(true|false)[.。]?[*_`]{0,2}[.。]?")
_THINKING = re.compile(r"<\s*/?\s*think")
_TEMPLATE_TOKEN = re.compile(r"\[(?=/?[a-z_]+\])", re.IGNORECASE)


def quote(text: str) -> str:
    """Text for a judge's eyes: every line begins with `> `, and nothing in it is a token of a chat template.

    Some servers read `<|im_end|>` or `[INST]` as such wherever they stand: their first character becomes full-width.
    """
    harmless = _TEMPLATE_TOKEN.sub("［", text.replace("<", "＜"))
    return "\n".join(f"> {line}" for line in harmless.splitlines() or [""])


def read_score(reply: str, label: str) -> int | None:
    """The score from 1 to 5 that a judge gives under this label; None where it gives none."""
    found = _SCORE.fullmatch(_last_under(label, reply))
    return int(found[1]) if found else None


def read_preference(reply: str) -> Preference | None:
    """Which of two answers a judge prefers: that shown as A, that shown as B, neither; None where it does not say."""
    found = _PREFERRED.fullmatch(_last_under(_PREFERENCE_LABEL, reply))
    return _PREFERENCES[found[1] or found[2]] if found else None


def read_true_false(reply: str) -> bool | None:
    """Whether an LLM says True or False; None where it says neither, or not in this form."""
    lines = list(filter(None, map(str.strip, _own_lines(reply))))
    if not lines or _THINKING.search(normalise(reply)):
        return None
    said = {line: found[1] == "true" for line in lines if (found := _TRUE_FALSE.fullmatch(line))}
    return said.get(lines[-1]) if len(set(said.values())) == 1 else None


def _own_lines(reply: str) -> list[str]:
    """The lines of a reply, normalised, without emphasis; what it quotes is `…`."""
    own = _QUOTED.sub("…", normalise(reply))
    return [_EMPHASIS.sub("", line).strip() for line in own.splitlines()]


def _last_under(label: str, reply: str) -> str:
    """What stands behind the last label that begins a line of the judge's own; empty where none does."""
    lines = [_BULLET.sub("", line, count=1) for line in _own_lines(reply)]
    under = [line.removeprefix(label).strip() for line in lines if re.match(rf"{label}\s*:", line)]
    return under[-1].removeprefix(":").strip() if under else ""
