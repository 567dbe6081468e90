"""Reading of refusals: a server's words and codes, in any form of the body.

Forms: `{"error": {...}}`, `{"error": "text"}`, `{"detail": ...}`, `{"message": ...}`, lists of these, JSON in a text,
plain text, a web page.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from qilin_rag.core.text import clean
from qilin_rag.llms.retry import asked_wait_s

_MOST_CHARS = 20_000  # characters of one body that are read; a reason is shorter
_MOST_WORDS = 5_000  # characters of the words of a refusal
_DEEPEST = 8
_MOST_ITEMS = 10
_ECHO_OF_HAN, _ECHO = 6, 24  # characters of a prompt that no server writes by itself
_LIMITED = (429, 503)
# Field names in lower case, letters only: `error_msg`, `errorMsg` and `ErrorMsg` are one.
_STATUSES = frozenset(("code", "status", "statuscode", "httpstatus"))
_CODES = _STATUSES | {"type", "errorcode", "errortype", "errcode", "reason", "quotaid", "limitsource"}
_WORDS = (
    *("error", "errors", "message", "msg", "errormsg", "errormessage", "errmsg", "statusmsg", "detail", "details"),
    *("title", "description", "errordescription", "reasons", "innererror", "metadata", "raw", "baseresp", "violations"),
    "data",
)
_PAGE = re.compile(r"\s*(<\?xml[^>]*>\s*)?<(!doctype html|html|head|body)\b", re.IGNORECASE)
_WHOLE_PAGE = re.compile(r"<(?!/?html\b)[!a-z]", re.IGNORECASE)  # more than one pair of tags
_HEADLINES = re.compile(r"<(title|h1)\b[^>]*>(.{0,300}?)</\1>", re.IGNORECASE | re.DOTALL)
_MARKUP = re.compile(r"\s*<[a-z!?/]", re.IGNORECASE)
_TAGS = re.compile(r"<(script|style)\b.*?</\1>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_ENCODED = re.compile(r"(data:image/[\w.+-]+;base64,)?[A-Za-z0-9+/]{76,}={0,2}")  # an image that is repeated
_EVENT = re.compile(r"^data:\s*(.+)$", re.MULTILINE)


class Refusal(NamedTuple):
    """A server's reply that is not an answer.

    Attributes:
        status: The HTTP status, or that of the body if it came with 200; None if there was no response.
        codes: All codes, types and classes of the error, in lower case.
        words: The server's words, on one line.
        is_page: Whether the reply is a web page.
        headers: The response's headers that may ask us to wait, by names in lower case.
    """

    status: int | None
    codes: frozenset[str]
    words: str
    is_page: bool = False
    headers: Mapping[str, Any] = MappingProxyType({})

    @property
    def wait_s(self) -> float | None:
        """Return the seconds that the server asks us to wait."""
        return asked_wait_s(self.headers, self.words)


def read_refusal(status: int | None, headers: Mapping[str, Any], body: Any) -> Refusal:
    """Read a body, as bytes, text or parsed JSON; `status` 200 also stands for an event of a stream.

    >>> read_refusal(400, {}, b'{"detail": [{"loc": ["body", "top_p"], "msg": "too large"}]}').words
    'body.top_p: too large'
    >>> read_refusal(200, {}, '[{"error": {"code": 429, "message": "slow down"}}]').status
    429

    An image of the request that the body repeats is left out.
    """
    collected = _Said()
    collected.read(body)
    if status is None or status == 200:
        status = next(iter(collected.statuses), status)
    words = _ENCODED.sub("…", in_one_line("; ".join(collected.words)))[:_MOST_WORDS]
    told = {**collected.headers, **{str(name).lower(): value for name, value in headers.items()}}
    if status not in _LIMITED:  # every response has the rest of a limit
        told = {name: value for name, value in told.items() if not name.startswith("x-ratelimit")}
    return Refusal(status, frozenset(collected.codes), words, collected.is_page, told)


def without_echo(refusal: Refusal, sent_texts: Sequence[str]) -> Refusal:
    """Return a refusal without repeated parts of a prompt, which say nothing about the refusal.

    >>> without_echo(read_refusal(400, {}, "bad input: '支付宝余额不足怎么办'"), ["支付宝余额不足怎么办"]).words
    "bad input: '…'"
    """
    words, rest, position = refusal.words, "", 0
    prompt = in_one_line(" ".join(sent_texts))
    while position < len(words):
        n_chars = next((n for n in (_ECHO_OF_HAN, _ECHO) if _is_echo(words[position : position + n], n, prompt)), 0)
        if not n_chars:
            rest += words[position]
            position += 1
            continue
        while position + n_chars < len(words) and words[position : position + n_chars + 1] in prompt:
            n_chars += 1
        rest += "…"
        position += n_chars
    return refusal._replace(words=rest)


def _is_echo(part: str, n_chars: int, prompt: str) -> bool:
    """Return whether so many characters come from the prompt: a few are enough if they are Chinese."""
    is_long = len(part) == n_chars and (n_chars >= _ECHO or sum(map(_is_han, part)) >= _ECHO_OF_HAN // 2)
    return is_long and part in prompt


def _is_han(char: str) -> bool:
    return "\u4e00" <= char <= "\u9fff"


def refusal_in_answer(value: Any) -> Any:
    """Return the part of a JSON reply of status 200 that is an error; None if the reply is an answer."""
    if not isinstance(value, Mapping):
        return "" if value is None else value
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices:
        return value
    first = choices[0]
    if isinstance(first, Mapping) and first.get("error"):
        return first
    return value if value.get("error") and not _has_content(first) else None


def _has_content(choice: Any) -> bool:
    """Return whether a choice holds more than names."""
    if not isinstance(choice, Mapping):
        return bool(choice)
    message = choice.get("message")
    if isinstance(message, Mapping):
        message = [each for name, each in message.items() if name != "role"]
    return bool(choice.get("text")) or (any(message) if isinstance(message, list) else bool(message))


def in_one_line(text: str) -> str:
    """Join the lines of a text, without characters that control a terminal or are invisible."""
    return "".join(char for char in " ".join(clean(text).split()) if char.isprintable())


def _parsed(body: Any) -> Any:
    """Return the JSON that is meant, also in a text or an event of a stream; another text stays a text."""
    if isinstance(body, bytes | bytearray):
        body = bytes(body[: 50 * _MOST_CHARS]).decode("utf-8", "replace")
    if not isinstance(body, str):
        return body
    text = body.lstrip("\ufeff \t\r\n")
    if text.startswith(("data:", "event:", ":")) and (event := _EVENT.search(text)):
        text = event[1]
    if text[:1] in ("{", "[", '"'):
        try:
            return _parsed(json.loads(text))
        except (ValueError, RecursionError):
            pass
    return text


class _Said:
    """Collects the words and codes in a body."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self.codes: set[str] = set()
        self.statuses: list[int] = []
        self.headers: dict[str, Any] = {}
        self.is_page = False

    def read(self, body: Any, depth: int = 0) -> None:
        """Collect everything that a value holds."""
        if depth > _DEEPEST:
            return
        value = _parsed(body)
        if isinstance(value, str):
            self._read_text(value[:_MOST_CHARS])
        elif isinstance(value, list):
            for item in value[:_MOST_ITEMS]:
                self.read(item, depth + 1)
        elif isinstance(value, Mapping):
            self._read_fields({re.sub("[^a-z]", "", str(key).lower()): each for key, each in value.items()}, depth)

    def _read_text(self, text: str) -> None:
        if _PAGE.match(text):
            self.is_page = self.is_page or bool(_WHOLE_PAGE.search(text))
            headlines = [match[2] for match in _HEADLINES.finditer(text)]
            text = "; ".join(dict.fromkeys(headlines)) or text
        if _MARKUP.match(text):
            text = _TAGS.sub(" ", text)
        text = html.unescape(text).strip() if self.is_page else text.strip()
        if text and not any(text in earlier for earlier in self.words):
            self.words.append(text)

    def _read_fields(self, fields: Mapping[str, Any], depth: int) -> None:
        for name in sorted(_CODES & fields.keys()):
            code = fields[name]
            if isinstance(code, str | int) and not isinstance(code, bool) and (code := str(code).strip().lower()):
                self.codes.add(code[:100])
                if name in _STATUSES and code.isdecimal() and 400 <= int(code[:9]) < 600:
                    self.statuses.append(int(code))
        if isinstance(headers := fields.get("headers"), Mapping):  # OpenRouter repeats a provider's headers in its body
            self.headers |= {str(name).lower(): value for name, value in headers.items()}
        if "retrydelay" in fields:
            self.headers["retry-delay"] = fields["retrydelay"]
        message = fields.get("msg", fields.get("type"))
        if "loc" in fields and isinstance(message, str):  # FastAPI repeats the request beside it
            location = fields["loc"] if isinstance(fields["loc"], list) else [fields["loc"]]
            self.words.append(f"{'.'.join(map(str, location))}: {message}")
            return
        for name in _WORDS:
            if name in fields and not isinstance(fields[name], int | float):
                self.read(fields[name], depth + 1)
