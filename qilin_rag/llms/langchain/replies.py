"""Replies of LangChain chat models in our terms: messages, and the errors of their providers.

Providers differ in how they report the end of an answer, and in their error classes; both are recognised here by name.
The meaning of an error is read from its HTTP status and body, by the same table as for all clients.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qilin_rag.core.plugins import one_line, redacted
from qilin_rag.core.types import Completion, Usage
from qilin_rag.llms.refusal_bodies import Refusal, read_refusal, without_echo
from qilin_rag.llms.refusals import Caller, as_error
from qilin_rag.llms.replies import PASSING, read_ending, read_reply, read_usage
from qilin_rag.llms.retry import TransientError
from qilin_rag.llms.thinking import Markers

_WHERE = ("finish_reason", "stop_reason", "stopReason", "done_reason", "completion_reason", "status")
_LONGEST_CHAIN = 5
_NO_CHAT = re.compile(r"got str: ['\"](.*)['\"]$", re.DOTALL)  # langchain-openai: the body of a 200 that is not JSON
_LEFT_OUT = {name: f"leave it out with --set llm.{name}=null" for name in ("temperature", "max_tokens")}


def completion(
    message: Any, model: str, latency_s: float, markers: Markers = (), most_tokens: int | None = None
) -> Completion:
    """Return an AIMessage as our Completion; `model` is the model's name if the message does not give it."""
    about = message.response_metadata or {}
    ended = ending(about)
    if ended == PASSING:
        raise TransientError(f"the model ended the answer with {ending_word(about)!r}")
    fields = {**(message.additional_kwargs or {}), "content": message.content}
    fields.setdefault("tool_calls", getattr(message, "tool_calls", None))
    usages = [
        read_usage(each) for each in (message.usage_metadata, about.get("token_usage"), about.get("usage")) if each
    ]
    usage = next((each for each in usages if each.prompt_tokens or each.completion_tokens), (*usages, Usage())[0])
    read = read_reply(fields, ended, usage, markers=markers, most_tokens=most_tokens)
    name = str(about.get("model_name") or about.get("model") or model)
    return read.model_copy(update={"model": name, "latency_s": latency_s})


def ending(about: Mapping[str, Any]) -> str:
    """Return how an answer ended, as `read_ending` names it, from a message's response_metadata."""
    return read_ending(ending_word(about))


def ending_word(about: Mapping[str, Any]) -> Any:
    """Return the provider's own word for the end; None if there is none."""
    why_incomplete = about.get("incomplete_details")
    said = why_incomplete.get("reason") if isinstance(why_incomplete, Mapping) else None
    return said or next((about[name] for name in _WHERE if about.get(name)), None)


def meaning(error: Exception, name: str, sent_texts: Sequence[str] = ()) -> Exception:
    """Return the error to raise for an error of a provider: for this question, for all, or only temporarily.

    `sent` are the texts that were sent, which an error may repeat.
    """
    caller = Caller(
        name=name,
        no_model=": no such model or address",
        key=": the key was refused",
        check="check the environment variable that holds it",
        redact=redacted,
        fields=_LEFT_OUT,
    )
    return as_error(without_echo(read_error(error), sent_texts), caller)


def read_error(error: Exception) -> Refusal:
    """Read an exception of any provider: its response, its other content, and the exception that caused it.

    The classes count if there is no readable response, and the text counts if these say nothing.
    """
    chain = [error]
    while len(chain) < _LONGEST_CHAIN and isinstance(cause := chain[-1].__cause__, Exception):
        chain.append(cause)
    informative = next((link for link in chain if _status(link) is not None), error)
    if no_chat := _NO_CHAT.search(str(error)):
        return read_refusal(200, {}, no_chat[1])
    status, headers, body = _status(informative), _headers(informative), _body(informative)
    is_in_200 = status is None and bool(error.args) and body is error.args[0]
    refusal = read_refusal(200 if is_in_200 else status, headers, body)
    if refusal.status is None or not refusal.words:
        classes = {kind.__name__.lower() for link in chain for kind in type(link).__mro__}
        if getattr(error, "is_retryable", False):
            classes.add("retryable")
        text = one_line(error)
        refusal = refusal._replace(
            codes=refusal.codes | classes, words=refusal.words or read_refusal(status, headers, text).words
        )
    return refusal


def _body(error: Exception) -> Any:
    """Return the body of a response, parsed or not, or its replacement; None if there is none."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        return response.get("Error") or response
    text = _text_of(response)
    if text:
        return text
    places = [getattr(error, name, None) for name in ("body", "details", "errors", "error")]
    text = next((each for each in places if each and isinstance(each, Mapping | list | str | bytes)), None)
    code = getattr(error, "code", None)
    if text is not None and isinstance(code, str):
        return [{"code": code}, text]
    if text is not None:
        return text
    if error.args and isinstance(error.args[0], Mapping):  # langchain-openai: an error inside a 200
        return error.args[0]
    return {"code": code, "message": str(error)} if isinstance(code, str) else None


def _text_of(response: Any) -> Any:
    """Return the text of an HTTP response of any client, if it was read."""
    try:
        text = getattr(response, "text", None)
    except Exception:  # httpx: the response was streamed, but not read
        return None
    return text if isinstance(text, str) else None


def _headers(error: Exception) -> Mapping[str, Any]:
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    else:
        headers = getattr(response, "headers", None) or getattr(error, "headers", None)
    return headers if isinstance(headers, Mapping) else {}


def _status(error: Exception) -> int | None:
    """Return the HTTP status of an error, wherever its class stores it; a broken transfer has none."""
    if "http_exceptions" in type(error).__module__:  # aiohttp's parser reports it as 400
        return None
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        response = response.get("ResponseMetadata", {})
        return int(response["HTTPStatusCode"]) if "HTTPStatusCode" in response else None
    places = [
        *(getattr(error, name, None) for name in ("status_code", "http_status", "status", "code")),
        *(getattr(response, name, None) for name in ("status_code", "status")),
    ]
    return next((int(status) for status in places if isinstance(status, int) and 100 <= status < 600), None)
