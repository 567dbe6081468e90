"""What comes back from a chat model of LangChain, in our terms: messages, and the errors of its providers.

Providers agree neither on where they say how an answer ended nor on classes of errors: both are known here by the
names that they use, and by HTTP status where an error has one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qilin_rag.factories import one_line
from qilin_rag.llms.base import FatalLLMError, LLMError
from qilin_rag.llms.openai_compatible import FILTER_CODES
from qilin_rag.llms.replies import PASSING, read_ending, read_reply, read_usage
from qilin_rag.llms.retry import TransientError, parse_retry_after
from qilin_rag.llms.thinking import Markers
from qilin_rag.types import Completion, Usage

_WHERE = ("finish_reason", "stop_reason", "stopReason", "done_reason", "completion_reason", "status")
_KEY_REFUSED = re.compile("Authentication|PermissionDenied|Unauthenticated|Unauthorized|AccessDenied|Forbidden")
_PASSES = re.compile(
    "RateLimit|TooManyRequests|Throttl|ResourceExhausted|Overloaded|ServiceUnavailable|InternalServer|Timeout|TimedOut"
    "|ConnectionError|ConnectError|TransportError|ReadError|RemoteProtocolError"
)
_PASSING_STATUSES = (408, 409, 425, 429)


def completion(
    message: Any, model: str, latency_s: float, markers: Markers = (), most_tokens: int | None = None
) -> Completion:
    """An AIMessage as our Completion; `model` is what the model is called where the message doesn't say."""
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
    """How an answer ended, out of a message's response_metadata, as `read_ending` has it."""
    return read_ending(ending_word(about))


def ending_word(about: Mapping[str, Any]) -> Any:
    """The provider's own word for it, None where it says none."""
    why_incomplete = about.get("incomplete_details")
    said = why_incomplete.get("reason") if isinstance(why_incomplete, Mapping) else None
    return said or next((about[name] for name in _WHERE if about.get(name)), None)


def is_filtered(error: Exception) -> bool:
    """Whether a refusal comes from the provider's content filter."""
    return _status(error) == 400 and getattr(error, "code", None) in FILTER_CODES


def meaning(error: Exception, name: str) -> Exception:
    """What an error of a provider means: for this question, for all, or only for now."""
    status = _status(error)
    classes = " ".join(each.__name__ for each in type(error).__mro__)
    text = one_line(error)
    if status in (401, 403) or (status is None and _KEY_REFUSED.search(classes)):
        return FatalLLMError(f"{name}: the key was refused ({text}); check the environment variable that holds it")
    if status == 404:
        return FatalLLMError(f"{name}: no such model or address ({text})")
    if getattr(error, "code", None) == "insufficient_quota":
        return FatalLLMError(f"{name}: the account's quota is used up ({text})")
    if status is None:
        is_stale = isinstance(error, RuntimeError) and "loop is closed" in text  # a connection kept from another run
        passes = bool(is_stale or getattr(error, "is_retryable", False) or _PASSES.search(classes))
    else:
        passes = status in _PASSING_STATUSES or status >= 500
    return TransientError(text, _retry_after_s(error)) if passes else LLMError(text)


def _status(error: Exception) -> int | None:
    """The HTTP status that an error speaks of, wherever its class keeps it."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        response = response.get("ResponseMetadata", {})
        return int(response["HTTPStatusCode"]) if "HTTPStatusCode" in response else None
    places = [getattr(error, "status_code", None), getattr(response, "status_code", None), getattr(error, "code", None)]
    return next((status for status in places if isinstance(status, int) and 100 <= status < 600), None)


def _retry_after_s(error: Exception) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None)
    return parse_retry_after(headers.get("retry-after")) if headers else None
