"""Meanings of refusals, in the dialects of all providers: one table for all clients.

A row matches if its statuses (if any) and its codes or words (if any) match; the first matching row decides, so the
order matters. Codes and words come from the providers' documentation and from public reports;
`tests/llms/provider_replies.jsonl` lists them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import Enum
from functools import cache
from typing import Any, NamedTuple

from qilin_rag.core.types import Completion
from qilin_rag.llms.base import ContextOverflowError, FatalLLMError, FilteredError, LLMError
from qilin_rag.llms.refusal_bodies import Refusal, read_refusal
from qilin_rag.llms.replies import FILTER_SAID, FILTERED
from qilin_rag.llms.retry import LONGEST_RETRY_AFTER_S, CountedCalls, TransientError, say_wait, with_retries

_MOST_SHOWN = 300


class Meaning(Enum):
    """The subject of a refusal, which decides whom it concerns."""

    OVERFLOW = "context overflow"
    FILTERED = "content filter"
    ACCOUNT_EMPTY = "account empty"
    WRONG_KEY = "wrong key"
    FORBIDDEN = "forbidden"
    PROMPT_FORBIDDEN = "forbidden for this prompt"
    NO_IMAGES = "images not read"
    TOO_MANY_IMAGES = "too many images"
    NO_MODEL = "model unknown"
    WRONG_PATH = "wrong path"
    FIELD_REFUSED = "field refused"
    OVERLOADED = "overloaded"
    PASSING = "passing"
    REFUSED = "refused"


class Row(NamedTuple):
    """One row of the table: `codes` and `words` are patterns, one a line; `but` are statuses that it does not fit."""

    meaning: Meaning
    statuses: frozenset[int | None] = frozenset()
    but: frozenset[int | None] = frozenset()
    codes: str = ""
    words: str = ""

    def holds(self, refusal: Refusal) -> bool:
        """Return whether a refusal matches this row."""
        if refusal.status in self.but or (self.statuses and refusal.status not in self.statuses):
            return False
        codes, words = _pattern(self.codes), _pattern(self.words)
        if codes is None and words is None:
            return True
        is_code = codes is not None and any(map(codes.fullmatch, refusal.codes))
        return is_code or (words is not None and words.search(refusal.words) is not None)


def _row(
    meaning: Meaning,
    *,
    statuses: Iterable[int | None] = (),
    but: Iterable[int | None] = (),
    codes: str = "",
    words: str = "",
) -> Row:
    return Row(meaning, frozenset(statuses), frozenset(but), codes, words)


@cache  # on first use: most runs are refused nothing
def _pattern(lines: str) -> re.Pattern[str] | None:
    """Return one pattern of alternatives, given one per line."""
    found = [line.strip() for line in lines.split("\n") if line.strip()]
    return re.compile("|".join(found), re.IGNORECASE) if found else None


_IN_200 = (None, 200)
_NEAR = r"(?:(?!\b(?:image|file|url|param\w*|field|value|messages?|tools?|returned)\b)[^,;]){0,80}?"  # within a clause
_GATEWAY = (502, 503, 504, 529)
TABLE = (
    # A request that exceeds the limit of a minute never passes, whatever its status.
    _row(Meaning.OVERFLOW, words=r"request too large.*\b(tokens?|TPM)\b"),
    # Limits per minute in the words of an empty account (DashScope, Gemini).
    _row(
        Meaning.OVERLOADED,
        statuses=(429, *_IN_200),
        words=r"""
            allocated quota exceeded
            exceeded your current (quota|requests list).*(token-limit|rate-limits|per ?minute|retry in)
        """,
    ),
    _row(Meaning.OVERLOADED, statuses=(402,), codes="openrouter_in_flight_budget"),
    _row(Meaning.ACCOUNT_EMPTY, statuses=(402,)),
    _row(
        Meaning.ACCOUNT_EMPTY,
        codes=r"""
            insufficient_?(user_?)?(quota|balance|credits?|funds)(_?error)?
            1304|1308
            (service_?|account_?)?(arrearage|arrears|overdue)(_?error)?
            exceeded_current_quota(_error)?
            billing_(hard_limit_reached|not_active|error)
            payment_?required(_?error)?
            allocationquota\.freetieronly
            1113|30001
            reject_no_credit|err_insufficient_balance|pre_consume_token_quota_failed
            budget_?exceeded(_?error)?
            setlimitexceeded
        """,
        words=r"""
            insufficient (account )?(balance|credits?|funds?|quota)
            balance is (insufficient|too low|not enough)
            exceeded your current quota
            credits? (balance|are|is).*(too low|depleted|exhausted)
            \bin arrears|overdue (balance|payment)|in good standing
            余额不足|欠费|额度(不足|已|用)
            quota is not enough
            exhausted its free|日调用限额|使用上限|daily request limit|reached your specified api usage limits
            (out of|all available|no remaining|no more|have any|have enough|requires? more|purchase( more)?|add) credits
            spending limit|budget has been exceeded
            free (tier|allocation|quota).*(exhausted|used up)|used up your .*allocation
            usage limit for this billing cycle
        """,
    ),
    _row(
        Meaning.FORBIDDEN,
        words=r"""
            \b(organi[sz]ation|account|user|access) (has been|is|was) (restricted|suspended|deactivated|disabled|banned)
            \b(organi[sz]ation|account|user|access) (has been|is|was) (flagged|terminated|blocked|locked)
            virtual network|firewall rules
        """,
    ),
    _row(
        Meaning.FILTERED,
        but=(401, 402, 404, 429, 500, *_GATEWAY),
        codes=r"""
            .*content_?filter.*
            .*content_?policy_?violation.*
            data_?inspection_?failed
            responsibleaipolicyviolation
            .*sensitive_?(content|words?)_?detect(ed|ion).*
            (input|output)(text|image|video)?risk_?detect(ed|ion).*
            .*(moderation|safety)_?(blocked|error|failed|check_failed|breach)
            prompt_?blocked|1301
        """,
        words=r"""
            content exists risk
            inappropriate content|prohibited content|unsafe content|(content|prompt|text) is (unsafe|not safe)
            content (filter|moderation|management|policy|policies|security)
            considered high risk
            sensitive (content|information|words?)|new_sensitive
            不安全|敏感(内容|信息|词)|违规内容|内容违规|涉嫌违规|内容安全|审核.{0,4}[不未]通过
            flagged (as|for|by)|potentially violating|requires moderation
            safety (system|polic|filter|guideline)
            violat\w+ .{0,40}usage polic
            blocked by .{0,30}guardrail|guardrail (blocked|intervened)
        """,
    ),
    _row(
        Meaning.NO_IMAGES,
        but=(401, 402, 429),
        words=r"""
            does ?n[o'’]t (support|accept) (any )?(image|vision|multi-?modal)s?\b(?! (format|size|type|larger))
            (image|vision|multi-?modal)s?( inputs?| content| parts?)? (is|are) (not |un)(supported|available|allowed)
            no endpoints found that support image
            image_url is only supported by certain models
            unknown variant .?image_url
            is not a (multi-?modal|vision) model
            at most 0 image
            不支持(图片|图像|多模态|视觉)
        """,
    ),
    _row(
        Meaning.TOO_MANY_IMAGES,
        statuses=(400, 422, *_IN_200),
        words=r"""
            at most \d+ image
            too many images
            limit-mm-per-prompt
        """,
    ),
    _row(Meaning.FIELD_REFUSED, words=r"no endpoints found that (support|can handle)"),
    _row(Meaning.NO_MODEL, codes="model_?not_?found(error)?|(get_)?no_available_channel"),
    _row(Meaning.OVERLOADED, statuses=(429, 498, 503, 529)),
    _row(
        Meaning.OVERLOADED,
        but=(401, 404),
        codes=r"""
            .*(rate_?limit|too_?many_?requests|throttl|overloaded).*
            resource_?exhausted|service_?unavailable.*|limit_(requests|burst_rate)
            130[2-5]
        """,
        words="""
            rate limit|too many requests|(request|qps) limit reached|capacity exceeded|queue is full
            请求(过多|太多|频率)|限流
        """,
    ),
    _row(Meaning.OVERFLOW, statuses=(413,)),
    _row(
        Meaning.OVERFLOW,
        but=(401, 402, 404, 502, 504),
        codes=r"""
            (model_?)?context_?(length|window|size)?_?exceeded(_?error)?
            exceed_context_size_error
            .*context_?overflow_?error
            request_too_large|prompt_too_long|token_limit_exceeded|err_(prompt|token)_exceeded
            1261|336103
        """,
        words=r"""
            context[ _-]?(length|window|size|limit)|n_ctx
            maximum (model|prompt|context|sequence|input)( context)? ?length
            longer than the (maximum )?(model|context)
            max_(model|seq)_len
            (prompt|input|request|messages?|query)( token)?( (count|length))?s?( (is|are|was|were))? too (long|large)
            input \(\d+ tokens\) is too large
            too many (input |prompt )?tokens
            (token|prompt|input) (length|count).{0,20}too long
            range of input length
            input token(s|( count))? .*exceed|input tokens exceeded|number of (input |prompt )?tokens.{0,20}exceed
            exceed\w* (the |your )?(model )?(token|context) limit
            exceeds? .{0,20}max(imum)? (message|input|prompt) tokens
            (input|prompt) (length|tokens?) .{0,20}exceed
            message size \d+ exceeds|reduce the length of
            `?inputs`? (must have less than|tokens \+)
            max(imum)? (input (length|tokens|characters)|length of (the )?current)
            from the initial prompt is greater than
            超长|(上下文|输入|长度|tokens?).{0,12}(超出|超过|过长)
        """,
    ),
    _row(
        Meaning.NO_MODEL,
        statuses=(400, 403, 404, 410, 422, *_IN_200),
        codes=r"""
            model_?(not_?(exist|open|supported|available|found)|does_not_exist).*
            invalid_?model(_?id)?|unknown_model
            invalidendpoint(ormodel)?\.(notfound|closedendpoint)
            deployment_?notfound|resource_?not_?found(_?exception|_?error)?|not_?found_?error
            1211|20012
        """,
        words=rf"""
            \bmodels?\b{_NEAR}\b(does ?n[o']t exist|not exist|not found|(is|was) not available|is invalid|no longer)
            \bmodel ['"`]?[\w./:@-]+['"`]? (is not supported|has been (deprecated|decommissioned|retired))
            \b(no|unknown|invalid|incorrect) (such )?models?\b(?! ?(param|out|set|resp|conf|in))
            not found the model|not a valid model
            no endpoints found|no available channel|无可用渠道|has not activated the model
            模型.{{0,20}}(不存在|未找到|未开通)
        """,
    ),
    _row(Meaning.WRONG_KEY, statuses=(401,)),
    _row(
        Meaning.WRONG_KEY,
        statuses=(400, 403, *_IN_200),
        codes=r"""
            .*(invalid|incorrect)_?(api|access)_?key.*|api_?key_?invalid
            .*(authentication|unauthenticated|unauthori[sz]ed).*
            expiredtoken.*|unrecognizedclient.*|invalid_iam_token|invalidsignature.*|invalid_token
        """,
        words=r"""
            access token (is )?(invalid|expired)|login fail
            api[- _]?key (is |was )?(not valid|invalid|expired|revoked|disabled|not found|missing)
            (invalid|incorrect|wrong|missing|no|expired) (api|access)[- _]?(key|token)
            invalid (authentication|credentials?|(auth\w*|bearer|iam) token)|security token .*(invalid|expired)
            (令牌|密钥|key).{0,8}(无效|过期|错误|不存在)
        """,
    ),
    _row(
        Meaning.PROMPT_FORBIDDEN,
        statuses=(403, 406, 418),
        words=r"cloudflare|attention required|\bWAF\b|firewall|(request|access|you have been) .{0,20}blocked|拦截",
    ),
    _row(Meaning.FORBIDDEN, statuses=(403,)),
    _row(
        Meaning.FORBIDDEN,
        statuses=(400, *_IN_200),
        codes=".*(permission_?denied|access_?denied|forbidden).*",
        words="no permission to access",
    ),
    _row(Meaning.WRONG_PATH, statuses=(301, 302, 303, 307, 308, 404, 405)),
    _row(
        Meaning.WRONG_PATH,
        statuses=(400, *_IN_200),
        words="http request (was sent )?to (an )?https|unexpected endpoint or method",
    ),
    _row(Meaning.PASSING, statuses=(408, 409, 424, 425, 200)),
    _row(
        Meaning.PASSING,
        statuses=(None,),
        codes=r"""
            .*(internal_?server|time_?d?_?out|connection_?error|connect_?error|transport_?error|read_?error).*
            .*remote_?protocol_?error.*|json_?decode_?error
            server_error|retryable
        """,
        words=r"event loop is closed|null value for .choices\b|missing .choices\b|expected a dict or openai\.BaseModel",
    ),
    _row(
        Meaning.FIELD_REFUSED,
        statuses=(400, 422, None),
        codes=r"""
            .*(unsupported|unknown|invalid|missing)_?(parameter|value|params|argument).*
            extra_forbidden|.*validation.*|121[0-5]
        """,
        words=r"""
            (unsupported|unknown|unrecognized|invalid) (request )?(parameter|argument|field|value|name)
            (argument|parameter|property|field)\b.{0,40}(not supported|unsupported)
            invalid (temperature|top_p|max_tokens|max_completion_tokens|seed|stop|n)\b
            not supported (with|by|for) (this|the) model|extra inputs are not permitted
            range (is|of .* should be) \[|maximum tokens you requested
            must be (set|one of|less|greater|between|in|at|<|>|=|\d)
        """,
    ),
)


def meaning_of(refusal: Refusal) -> Meaning:
    """Return the meaning of a refusal.

    >>> meaning_of(read_refusal(400, {}, '{"error": {"message": "Content Exists Risk"}}')).value
    'content filter'
    """
    if refusal.is_page and refusal.status in _IN_200:
        return Meaning.WRONG_PATH
    if meaning := next((row.meaning for row in TABLE if row.holds(refusal)), None):
        return meaning
    return Meaning.PASSING if refusal.status and refusal.status >= 500 else Meaning.REFUSED


class Caller(NamedTuple):
    """A client as messages name it: its server, and what a user can change.

    Attributes:
        name: The address, or the LLM.
        no_model: The text after the name if the model or the path is unknown.
        key: The text after the name if the key is refused; the status follows it.
        check: The advice for a refused key.
        redact: A function that removes the key from a text.
        fields: How to leave out a field that a server may refuse, by its name.
    """

    name: str
    no_model: str
    key: str
    check: str
    redact: Callable[[str], str]
    fields: Mapping[str, str]


def refusal_error(status: int | None, headers: Mapping[str, Any], body: Any, caller: Caller) -> Exception:
    """Return the error to raise for a response, or for an event of a stream (status 200), that is a refusal.

    Args:
        status: The HTTP status.
        headers: The headers of the response.
        body: Bytes, text or parsed JSON.
        caller: The client that received it.

    Returns:
        FilteredError and ContextOverflowError for this prompt alone, LLMError for this question, FatalLLMError for the
        whole run, TransientError for a temporary failure.
    """
    return as_error(read_refusal(status, headers, body), caller)


def filtered(error: FilteredError, model: str) -> Completion:
    """Return the completion of a prompt that a filter holds back, with its words as the reason."""
    return Completion(text="", raw="", model=model, finish_reason=FILTERED, why_empty=f"{FILTER_SAID}{error}")


async def ask_with_retries(
    call: Callable[[], Awaitable[Completion]], max_tries: int, rng: random.Random, model: str
) -> Completion:
    """Return the completion of a call that is repeated if that can help, with the number of repeats.

    Raises:
        LLMError: at once, or after `max_tries` TransientErrors; it holds the number of tries.
    """
    calls = CountedCalls(call)
    try:
        completion = await with_retries(calls, max_tries, rng)
    except FilteredError as error:
        completion = filtered(error, model)
    except LLMError as error:
        error.retries, error.discarded = calls.retries, calls.discarded
        raise
    except TransientError as error:
        raise LLMError(f"{error} ({max_tries} tries)", calls.retries, calls.discarded) from error
    return completion.model_copy(update={"retries": calls.retries, "discarded": calls.discarded})


def as_error(refusal: Refusal, caller: Caller) -> Exception:
    """Return the error to raise for a refusal; see `refusal_error`."""
    meaning, words = meaning_of(refusal), _shown(refusal.words, caller)
    code = "" if refusal.status is None else f"HTTP {refusal.status}"
    reason = ": ".join(filter(None, [code, words])) or "refused without a word"
    match meaning:
        case Meaning.OVERFLOW:
            return ContextOverflowError(reason)
        case Meaning.FILTERED:
            return FilteredError(reason)
        case Meaning.ACCOUNT_EMPTY:
            return FatalLLMError(f"{caller.name}: the account's quota is used up, or it has no credit left ({reason})")
        case Meaning.WRONG_KEY:
            status = "" if refusal.status is None else f" ({refusal.status})"
            return FatalLLMError(f"{caller.name}{caller.key}{status}{f': {words}' if words else ''}; {caller.check}")
        case Meaning.FORBIDDEN:
            return FatalLLMError(
                f"{caller.name} forbids the call ({reason}); check what the account and its key may use"
            )
        case Meaning.NO_IMAGES:
            return FatalLLMError(
                f"{caller.name}: the model reads no images ({reason}); name one that does, or ask without images "
                "(run --note-images 0, data filter without --images)"
            )
        case Meaning.TOO_MANY_IMAGES:
            return FatalLLMError(
                f"{caller.name} takes fewer images at once ({reason}); send fewer (--note-images, --top-k), or raise "
                "the limit of the server (vLLM: --limit-mm-per-prompt)"
            )
        case Meaning.NO_MODEL:
            return FatalLLMError(f"{caller.name}{caller.no_model} ({reason})")
        case Meaning.WRONG_PATH if refusal.is_page or (refusal.status in _IN_200 and not words):
            page = f" ({words})" if refusal.is_page and words else ""
            return FatalLLMError(
                f"{caller.name} answers with a web page{page}, not with JSON; is /v1 missing at its end?"
            )
        case Meaning.WRONG_PATH:
            return FatalLLMError(f"{caller.name}{caller.no_model} ({reason})")
        case Meaning.OVERLOADED | Meaning.PASSING:
            if refusal.wait_s is not None and refusal.wait_s > LONGEST_RETRY_AFTER_S:
                return FatalLLMError(
                    f"{caller.name} asks to wait for {say_wait(refusal.wait_s)} ({reason}); results so far are kept"
                )
            if refusal.status == 200:
                reason = f"unreadable answer: {words or 'there are no choices in it'}"
            return TransientError(reason, refusal.wait_s, is_overload=meaning is Meaning.OVERLOADED)
        case Meaning.FIELD_REFUSED:
            hints = (how for field, how in caller.fields.items() if re.search(rf"\b{field}\b", words))
            hint = next((f"; {how}" for how in hints), "")
            return LLMError(f"{reason}{hint}")
    return LLMError(reason)


def _shown(words: str, caller: Caller) -> str:
    """Return a server's words without the key, cut to the length of a message."""
    words = caller.redact(words)
    return words if len(words) <= _MOST_SHOWN else f"{words[:_MOST_SHOWN]}..."
