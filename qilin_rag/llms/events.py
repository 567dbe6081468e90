"""Reading of chat completions from the wire: one body, or server-sent events joined to the same reply.

A server streams if it is asked to, and some do unasked; others answer a request for a stream with one body. The form of
the reply decides, so all replies are read here.
"""

from __future__ import annotations

import asyncio
import codecs
import io
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from qilin_rag.llms.retry import TransientError

if TYPE_CHECKING:
    import httpx2

_FIELD = re.compile(rb"(data|event|id|retry)[:\r\n]|:")  # the start of a line of events
_LONGEST_FIELD = len(b"event:")
_DONE = "[DONE]"
_NO_REASON = ("null", "none")  # DashScope's word for an unfinished answer
_CODES_OF_NO_ERROR = ("0", "200")  # in keep-alive chunks
_REFUSING = frozenset(("code", "message", "msg", "detail", "error_code", "error_msg", "base_resp"))
MOST_BYTES = 64 * 2**20  # limit for a reply, since a server may never end
LAST_WORDS_S = 5.0  # for text after an answer
# Fields that a chunk repeats for a part of a message; the next chunk continues all other texts.
_SAID_ONCE = frozenset({"role", "type", "id", "index", "name", "format", "signature"})
# Words for a server that only streams, as used by DashScope, OpenAI, Fireworks and gateways.
_STREAM_ONLY = re.compile(
    r"only supports? (the )?stream(?!lin)|stream(ing)?[- ]only"
    r"|(?<!with )(?<!when )\bstream['\"`]?( parameter)?"
    r"( ?[=:] ?| (must|should|has to|needs to) be (set to )?| to )['\"`]?true"
    r"(?! or |.{0,20}(not|un) ?(supported|allowed|available))"
    r"|(when|with|if) ['\"`]?stream['\"`]?( ?[=:] ?| is )false"
    r"|(requires?|must use|please (use|enable)( the)?) stream(?!lin)"
    r"(?!\w* (video|audio|input|processor|access))"
    r"|set to false for non-?stream|must be .{0,20}false .{0,20}non-?stream"
    r"|non-?stream\w*( \w+){0,3} (is |are )?(not |un|dis)(supported|allowed|available|abled)"
    r"|(does not|doesn't|not) support non-?stream"
    r"|[仅只]支持(以)?(使用)?流式|(不支持|才能进行)非流式|必须.{0,6}流式",
    re.IGNORECASE,
)
_NO_USAGE = re.compile("stream_options|include_usage")


def must_stream(refusal: str) -> bool:
    """Return whether a server says that this model, or this request, can only be streamed.

    >>> must_stream("This model only support stream mode, please enable the stream parameter to access the model.")
    True
    >>> must_stream("Unsupported value: 'stream' does not support true with this model.")
    False
    """
    return _STREAM_ONLY.search(refusal) is not None


def refuses_usage(refusal: str) -> bool:
    """Return whether a server refuses the field that requests the token count of a stream."""
    return _NO_USAGE.search(refusal) is not None


async def read_body(chunks: AsyncIterator[bytes]) -> bytes | dict[str, Any]:
    """Read a body to its end, and join a stream's events to one reply.

    Args:
        chunks: The body, cut anywhere.

    Returns:
        The bytes of a body that is not a stream; else a reply as a server that does not stream would give it, or
        `{"error": ...}` if an event says that the server failed.

    Raises:
        TransientError: if a stream ends before the answer does.
        ValueError: if an event can't be read, or the reply is too long for an answer.
    """
    head = b""
    async with aclosing(_all(chunks)) as rest:
        async for chunk in rest:
            head += chunk
            start = head.removeprefix(codecs.BOM_UTF8).lstrip()
            if len(start) >= _LONGEST_FIELD:
                if _FIELD.match(start):
                    return await _read_events(_with(start, rest))
                break
        else:
            start = head.removeprefix(codecs.BOM_UTF8).lstrip()
            return await _read_events(_with(start, rest)) if _FIELD.match(start) else head
        return head + b"".join([chunk async for chunk in rest])


async def _all(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    n_bytes = 0
    async for chunk in chunks:
        n_bytes += len(chunk)
        if n_bytes > MOST_BYTES:
            raise ValueError(f"a reply of more than {MOST_BYTES >> 20} MB")
        yield chunk


async def _with(start: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the whole stream and an empty line, which ends the last event if the server omits it."""
    yield start
    async for chunk in rest:
        yield chunk
    yield b"\n\n"


async def _read_events(chunks: AsyncIterator[bytes]) -> dict[str, Any]:
    import httpx2

    stream = httpx2.Response(200, headers={"content-type": "text/event-stream; charset=utf-8"}, content=chunks)
    stream.request = httpx2.Request("POST", "http://stream")  # needed to read the stream
    reply = _Reply()
    source = aiter(httpx2.EventSource(stream, max_event_size=None))
    async with aclosing(cast("AsyncGenerator[httpx2.ServerSentEvent, None]", source)) as events:
        while True:
            try:
                async with asyncio.timeout(LAST_WORDS_S if reply.has_ended else None):
                    event = await anext(events, None)
            except TimeoutError:  # the server has sent everything, but keeps the connection open
                event = None
            if event is None:
                break
            if event.data.strip() == _DONE:
                return reply.read(is_done=True)
            if not event.data.strip():
                continue
            chunk = _parsed(event.data, is_error=event.event == "error" or not reply.has_begun)
            if (error := _error_in(chunk, event.event)) is not None:
                return reply.read(is_done=True) if reply.has_ended else {"error": error}
            reply.add(chunk)
    return reply.read(is_done=False)


def _parsed(data: str, is_error: bool) -> Mapping[str, Any]:
    """Return an event; a plain text is the server's word for a failure if an error is possible here."""
    try:
        chunk = json.loads(data)
    except ValueError:
        if not is_error or data.lstrip().startswith(("{", "[")):  # a truncated event
            raise
        chunk = data
    if isinstance(chunk, Mapping):
        return chunk
    if is_error:
        return {"error": chunk}
    raise ValueError(f"an event holds {type(chunk).__name__}, not an object")


def _error_in(chunk: Mapping[str, Any], event: str) -> Any:
    """Return the error that a server reports within a stream; None if the chunk is not an error."""
    if chunk.get("error"):
        return chunk["error"]
    is_answer = isinstance(chunk.get("choices"), list) or chunk.get("usage")
    is_other = not is_answer and str(chunk.get("code")) not in _CODES_OF_NO_ERROR and _REFUSING & chunk.keys()
    return chunk if event == "error" or chunk.get("object") == "error" or is_other else None


class _Reply:
    """Joins the chunks of a stream to a reply."""

    def __init__(self) -> None:
        self._choices: dict[int, dict[str, Any]] = {}
        self._about: dict[str, Any] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        new_choices = chunk.get("choices")
        choices = [each for each in new_choices if isinstance(each, Mapping)] if isinstance(new_choices, list) else []
        for place, choice in enumerate(choices):
            index = choice.get("index")
            self._add_choice(choice, index if isinstance(index, int) else place)
        groq = chunk.get("x_groq")
        for about in (
            *choices,
            groq if isinstance(groq, Mapping) else {},
            chunk,
        ):  # Moonshot's, Groq's, and all others'
            if isinstance(usage := about.get("usage"), Mapping) and usage:
                self._about["usage"] = usage
        if isinstance(model := chunk.get("model"), str) and model:
            self._about["model"] = model

    def _add_choice(self, choice: Mapping[str, Any], index: int) -> None:
        choice_so_far = self._choices.setdefault(index, {})
        if isinstance(delta := choice.get("delta"), Mapping) and delta:
            _extend(choice_so_far.setdefault("message", {"content": None}), delta)
        elif isinstance(message := choice.get("message"), Mapping):
            choice_so_far["message"] = _own(message)  # the whole message, after its parts or instead of them
        if isinstance(text := choice.get("text"), str):
            _extend(choice_so_far, {"text": text})
        if (why := choice.get("finish_reason")) and str(why).lower() not in _NO_REASON:
            choice_so_far["finish_reason"] = why

    @property
    def has_begun(self) -> bool:
        """Return whether any part of an answer has arrived."""
        return bool(self._choices)

    @property
    def has_ended(self) -> bool:
        """Return whether the answer is complete; only its token count may follow."""
        return bool(self._choices) and all(choice.get("finish_reason") for choice in self._choices.values())

    def read(self, is_done: bool) -> dict[str, Any]:
        """Return the reply; raise TransientError if neither the server nor its answer marked the end."""
        choices = [_settled(self._choices[index]) for index in sorted(self._choices)]
        if not is_done and not (choices and choices[0].get("finish_reason")):
            raise TransientError("the stream ended before the answer did")
        return {"choices": choices, **self._about}


def _extend(message: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add a chunk: texts continue, lists grow, and other values stay."""
    for name, value in more.items():
        current = message.get(name)
        if value is None:
            message.setdefault(name, None)
        elif isinstance(current, io.StringIO) and isinstance(value, str):
            current.write(value)
        elif isinstance(current, dict) and isinstance(value, Mapping):
            _extend(current, value)
        elif isinstance(current, list) or (current is not None and isinstance(value, list)):
            message[name] = blocks = current if isinstance(current, list) else [current]
            _extend_blocks(blocks, value if isinstance(value, list) else [value])
        else:
            message[name] = value if name in _SAID_ONCE else _own(value)


def _extend_blocks(blocks: list[Any], more: list[Any]) -> None:
    """Add the blocks of a chunk to those of a message, whose last one may continue."""
    for block in more:
        last = blocks[-1] if blocks else None
        if isinstance(last, dict) and isinstance(block, Mapping) and _kind(last) == _kind(block) != (None, None):
            _extend(last, block)
        else:
            blocks.append(_own(block))


def _kind(block: Mapping[str, Any]) -> tuple[Any, Any]:
    return block.get("type"), block.get("index")


def _own(value: Any) -> Any:
    """Copy a value into a form that can grow; texts become buffers, because a long one comes in very many chunks."""
    if isinstance(value, str):
        text = io.StringIO(newline="")  # keeps all line ends
        text.write(value)
        return text
    if isinstance(value, Mapping):
        return {name: item if name in _SAID_ONCE else _own(item) for name, item in value.items()}
    return [_own(item) for item in value] if isinstance(value, list) else value


def _settled(value: Any) -> Any:
    """Return the value as plain data again."""
    if isinstance(value, io.StringIO):
        return value.getvalue()
    if isinstance(value, dict):
        return {name: _settled(item) for name, item in value.items()}
    return [_settled(item) for item in value] if isinstance(value, list) else value
