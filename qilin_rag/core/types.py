"""The plain frozen types that the stages exchange; a line of a file in a run directory holds one of them."""

from __future__ import annotations

import base64
import hashlib
import operator
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from qilin_rag.core.note_fields import NoteField, read_note_fields
from qilin_rag.core.text import counted, decimal_number, is_blank


class Image(NamedTuple):
    """An image that goes with a prompt, as it is sent; `path` is its name in the data."""

    path: str
    jpeg: bytes

    @property
    def sha256(self) -> str:
        """Return the hash of the bytes that are sent."""
        return hashlib.sha256(self.jpeg).hexdigest()

    @property
    def data_url(self) -> str:
        """Return the image as a data URL."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}"


class RenderedPrompt(NamedTuple):
    """The input of an LLM: the chat messages, and their parts for readers that are not LLMs.

    Attributes:
        notes: The notes that the messages hold, in their order.
        images: The images that go with the last message, in the order of sending.
        image_places: After how many characters of the last message each image goes; empty if all go after its end.
        image_notes: The note_idx of each image; empty if they are of no particular note.
    """

    messages: list[Message]
    query: str
    notes: list[Note]
    notes_given: int
    images: Sequence[Image] = ()
    image_places: Sequence[int] = ()
    image_notes: Sequence[int] = ()


SCALE = (1, 5)
Status = Literal["ok", "failed", "filtered", "truncated", "empty"]
"""The outcome of a question that an LLM was asked.

`ok`: an answer. `truncated`: a length limit cut off the answer, or the thinking before it. `filtered`: a filter held
the answer back, or the model refused. `empty`: a reply without an answer. `failed`: no reply.
"""
Mark = Literal["maybe_cut", "odd_ending", "maybe_thinking"]
"""A doubt about an answer, which is scored nevertheless.

`maybe_cut`: the server reports a normal end, but the answer has the largest number of tokens allowed or more.
`odd_ending`: the answer ended for a reason that is neither a stop nor a limit. `maybe_thinking`: the answer seems to
hold thinking in a form without a known marker, or it was cut after a closing marker that it may only quote.
"""
Message = dict[str, str]
AnswerSelection = Literal["engaged", "liked", "content", "citation", "experience", "shown"]
ReferenceSelection = Literal["own", "query"]
MissingNotes = Literal["error", "skip"]
NoteOrder = Literal["best_first", "best_last", "shuffled"]
NoteFields = Annotated[tuple[NoteField, ...], BeforeValidator(read_note_fields)]


class Frozen(BaseModel):
    """A value type: immutable, and an undeclared field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Note(Frozen):
    """A short post, the unit of retrieval.

    Args:
        note_idx (int): The id of the note, from 0 to 2^63 - 1.
        title (str): The title; may be empty.
        content (str): The text; may be empty.

    Example:
        >>> Note(note_idx=1, title="手冲", content="水温92度。").text
        '手冲 水温92度。'
    """

    note_idx: int
    title: str
    content: str

    @property
    def text(self) -> str:
        """Return the text that retrievers index (`note_text`)."""
        return note_text(self.title, self.content)


def note_text(title: str, content: str) -> str:
    """Return the text of a note that retrievers index: title, a space, content, joined as in the paper."""
    return f"{title} {content}"


class Question(Frozen):
    """A query with the answers that users favoured and the notes that those answers cite.

    Args:
        id (str): The id of the question.
        query (str): The text of the query.
        references (list of str): The answers that count as right.
        reference_notes (list of int): The note_idx of each relevant note.
        recorded (dict of str to list of pairs): Rankings that came with the data, by retriever: `(note_idx, score)`
            pairs, best first.
        meta (dict): Other columns of the row in the data, such as `user_idx` and the feedback flags.

    Example:
        >>> Question(id="1", query="手冲水温", references=["92度。"], reference_notes=[1]).references
        ['92度。']
    """

    id: str
    query: str
    references: list[str]
    reference_notes: list[int] = []
    recorded: dict[str, list[tuple[int, FiniteFloat]]] = {}
    meta: dict[str, Any] = {}


class Wording(Question):
    """A question whose `query` is another text, which is searched for it.

    Attributes:
        is_passage: Whether the text is a passage like those of notes, which retrievers with a model encode as such.
    """

    is_passage: bool = False


class Hit(Frozen):
    """A retrieved note with its score and rank.

    A ranking is ordered by falling score, and ties by a hash (`core.ties`).

    Args:
        note_idx (int): The id of the note.
        score (float): The score, finite; higher is better.
        rank (int): The rank, from 1.

    Example:
        >>> Hit(note_idx=1, score=3.5, rank=1).rank
        1
    """

    note_idx: Annotated[int, Field(ge=0, lt=2**63)]
    score: FiniteFloat
    rank: Annotated[int, Field(ge=1)]


def read_count(value: Any) -> int | None:
    """Return a number of tokens from a server's reply; None if it can't be one.

    `12.0` and `"12"` are 12. Negative numbers (some servers send them for unknown counts), fractions, booleans and
    non-finite values are not counts.
    """
    if isinstance(value, str):
        value = decimal_number(value.strip())
    if isinstance(value, float) and value.is_integer():  # an infinity is not an integer
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


Count = Annotated[int | None, BeforeValidator(read_count)]
_LARGEST = 1e100
Figure = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]
"""A finite number so small that its square, and its sum over any number of questions, are finite, too."""


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other


class Usage(Frozen):
    """The tokens of one call; None for unknown numbers.

    Attributes:
        prompt_tokens: Tokens of the whole prompt.
        cached_tokens: Tokens of the prompt that were in the server's cache.
        cache_write_tokens: Tokens of the prompt that the server added to its cache.
        completion_tokens: Tokens of the completion, thinking included.
    """

    prompt_tokens: Count = None
    completion_tokens: Count = None
    cached_tokens: Count = None
    cache_write_tokens: Count = None

    def plus(self, other: Usage) -> Usage:
        """Return the sum of both; what one does not know is that of the other."""
        return Usage(**{name: _sum(n, getattr(other, name)) for name, n in self})

    def without(self, part: Usage) -> Usage:
        """Return the tokens that are not of a part."""
        return Usage(**{name: None if n is None else n - (getattr(part, name) or 0) for name, n in self})


def _is_empty(usage: Usage) -> bool:
    return usage == Usage()


NO_TOKENS = Usage(prompt_tokens=0, completion_tokens=0)
"""The usage of a reader that takes no tokens. Only such a reader may give an empty answer."""


def _is_none(value: Any) -> bool:
    return value is None


class Price(Frozen):
    """The price that a provider charges for a million tokens, by its price list of the day `as_of`.

    Attributes:
        cached_per_mtok: The price of prompt tokens in the provider's cache, if it is known.
        cache_write_per_mtok: The price of prompt tokens that the provider adds to its cache, if it is known.
        batch_factor: The price of prompts and answers by batch, as a share of the price one by one (0.5 is half the
            price), if it is known.
        batch_cached_per_mtok: The price of prompt tokens in the provider's cache by batch, if it is known.
        as_of: The day of the price list, as precise as it is known: `2026`, `2026-11` or `2026-11-29`.

    Example:
        >>> price = Price(currency="USD", prompt_per_mtok=1, completion_per_mtok=4, batch_factor=0.5, as_of="2026-11")
        >>> usage = Usage(prompt_tokens=1_000_000, completion_tokens=500_000)
        >>> price.of(usage), price.of(usage, by_batch=True)
        (3.0, 1.5)
    """

    model_config = ConfigDict(allow_inf_nan=False)

    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    prompt_per_mtok: NonNegativeFloat
    completion_per_mtok: NonNegativeFloat
    cached_per_mtok: NonNegativeFloat | None = None
    cache_write_per_mtok: Annotated[NonNegativeFloat | None, Field(exclude_if=_is_none)] = None
    batch_factor: Annotated[NonNegativeFloat | None, Field(le=1, exclude_if=_is_none)] = None
    batch_cached_per_mtok: Annotated[NonNegativeFloat | None, Field(exclude_if=_is_none)] = None
    as_of: Annotated[str, BeforeValidator(str), Field(pattern=r"^\d{4}(-\d\d){0,2}$")]

    def cached_price(self, by_batch: bool = False) -> float | None:
        """Return the price of a million prompt tokens in the provider's cache; None if it is not known."""
        return self.batch_cached_per_mtok if by_batch else self.cached_per_mtok

    def of(self, usage: Usage, by_batch: bool = False) -> float:
        """Return the price of tokens; unknown counts are 0, and tokens without a price of their own cost the usual one.

        Args:
            usage: The tokens.
            by_batch: Whether they came by batch; `batch_factor` must be known then.
        """
        factor = (self.batch_factor or 0.0) if by_batch else 1.0
        prompt, cached, written = usage.prompt_tokens or 0, usage.cached_tokens or 0, usage.cache_write_tokens or 0
        amount = factor * (prompt * self.prompt_per_mtok + (usage.completion_tokens or 0) * self.completion_per_mtok)
        if (cached_price := self.cached_price(by_batch)) is not None:
            amount += cached * (cached_price - factor * self.prompt_per_mtok)
        if self.cache_write_per_mtok is not None:
            amount += factor * written * (self.cache_write_per_mtok - self.prompt_per_mtok)
        return amount / 1e6


class RerankPrice(Frozen):
    """The price of a reranker behind an address, by the provider's price list of the day `as_of`.

    Providers charge for tokens (Jina, Voyage) or for searches (Cohere), so one of the two prices is given.

    Attributes:
        per_mtok: The price of a million tokens.
        per_1k_searches: The price of a thousand searches.
        as_of: The day of the price list: `2026`, `2026-11` or `2026-11-29`.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    per_mtok: NonNegativeFloat | None = None
    per_1k_searches: NonNegativeFloat | None = None
    as_of: Annotated[str, BeforeValidator(str), Field(pattern=r"^\d{4}(-\d\d){0,2}$")]

    @model_validator(mode="after")
    def _one_price(self) -> Self:
        if (self.per_mtok is None) == (self.per_1k_searches is None):
            raise ValueError("expected one of per_mtok and per_1k_searches")
        return self

    def of(self, n_tokens: int, n_searches: float) -> float:
        """Return the price of these tokens, or of these searches."""
        if self.per_mtok is not None:
            return n_tokens * self.per_mtok / 1e6
        return n_searches * (self.per_1k_searches or 0.0) / 1e3


class Cost(Frozen):
    """The cost of answers by the price list of `as_of`; if the amount is not known, `unknown` gives the reason.

    Attributes:
        at_most: Whether the amount is an upper bound: prompt tokens were in the provider's cache, and the price list
            has no price for those.
        currency: The currency of the amount; None if nothing was charged.
    """

    amount: Figure | None = None
    at_most: bool = False
    currency: str | None = None
    as_of: str | None = None
    unknown: str | None = None


class RerankUse(Frozen):
    """The requests of a run's second stage to a server or an LLM, over all its sessions.

    Attributes:
        requests: The number of requests that a server or an LLM answered, and charges for.
        cached: The number of an LLM's replies from the response cache, at no cost.
        usage: The tokens of the requests, except for `uncounted` ones whose numbers are not known.
        searches: The searches that a server charges for: as many as it says, else one a request.
        windows: The number of windows that an LLM was asked to order (see `rankers.windows`).
        kept: The number of these that kept their order, because no reply could be used, by reason.
        missing: The number of notes that usable replies left out.
        repeated: The number of notes that usable replies named again.
        outside: The number of notes that usable replies named and that do not exist.
        cost: What the requests cost.
    """

    requests: NonNegativeInt = 0
    cached: NonNegativeInt = 0
    uncounted: NonNegativeInt = 0
    usage: Usage = Usage()
    searches: NonNegativeFloat = 0.0
    windows: NonNegativeInt = 0
    kept: dict[str, NonNegativeInt] = {}
    missing: NonNegativeInt = 0
    repeated: NonNegativeInt = 0
    outside: NonNegativeInt = 0
    cost: Cost = Cost()

    def plus(self, other: RerankUse) -> RerankUse:
        """Return the sum of both, without a cost."""
        names = ("requests", "cached", "uncounted", "windows", "missing", "repeated", "outside")
        reasons = [*self.kept, *(reason for reason in other.kept if reason not in self.kept)]
        return RerankUse(
            **{name: getattr(self, name) + getattr(other, name) for name in names},
            usage=self.usage.plus(other.usage),
            searches=self.searches + other.searches,
            kept={reason: self.kept.get(reason, 0) + other.kept.get(reason, 0) for reason in reasons},
        )

    def again(self) -> RerankUse:
        """Return what a run that shares these rankings used: nothing that costs."""
        names = ("windows", "kept", "missing", "repeated", "outside")
        return RerankUse(**{name: getattr(self, name) for name in names}, cached=self.cached + self.requests)


class Times(Frozen):
    """Wall-clock seconds of a run, over all its sessions.

    Attributes:
        sessions: The number of sessions.
        untimed: Sessions that were killed or still run; the seconds do not include them.
        cut_off: Sessions that ended before all questions were answered. No figure includes the server's work on the
            calls in progress at that time.
    """

    retrieval_s: Figure = 0.0
    generation_s: Figure = 0.0
    scoring_s: Figure = 0.0
    sessions: NonNegativeInt = 0
    untimed: NonNegativeInt = 0
    cut_off: NonNegativeInt = 0


class Completion(Frozen):
    """The reply of an LLM.

    Attributes:
        text: The text that is scored.
        raw: The text as the server sent it, thinking included.
        finish_reason: How the reply ended: `stop`, `length` (cut off), `content_filter` (held back by a filter),
            `refusal` (by the model itself), or any other word of the server.
        why_empty: The reason why there is no answer, if it is known.
        cached: Whether this is the stored answer to an equal earlier request; `usage` is then that of the earlier
            request.
        retries: The number of repeats of the request before this reply.
        batch: Whether the reply came by a batch API, at its price.
        latency_s: Seconds until the reply; None if it came by batch.
        discarded: The tokens of earlier replies to the request that could not be used, as far as they were counted.
        reading: The version of the rules that took `text` from `raw`.
    """

    text: str
    raw: str
    model: str
    finish_reason: str
    why_empty: str | None = None
    marks: list[Mark] = []
    usage: Usage = Usage()
    latency_s: Figure | None = 0.0
    cached: bool = False
    retries: NonNegativeInt = 0
    batch: Annotated[bool, Field(exclude_if=operator.not_)] = False
    discarded: Annotated[Usage, Field(exclude_if=_is_empty)] = Usage()
    reading: int = 0


def _with_parts(message: Message) -> Message:
    if not {"role", "content"} <= message.keys():
        raise ValueError("a message has a role and a content")
    return message


class AboutQuestion(Frozen):
    """The question that an LLM was asked about, and the prompt that it was sent."""

    question_id: str
    query: str
    messages: list[Annotated[Message, AfterValidator(_with_parts)]]


class Exchange(Frozen):
    """The outcome of one request to an LLM.

    Attributes:
        model: The model name that the server reported.
        short_count: Whether the server counted fewer tokens than the prompt can have. Either it read only a part, or it
            left out tokens in its cache; `cost.Tally` decides which.
        marks: Doubts about the answer.
        retries: The number of repeats of the request.
        batch: Whether the reply came by a batch API, at its price; absent if it did not.
        discarded: The tokens of earlier replies to the request that could not be used, as far as they were counted;
            absent if there are none.
        error: The reason why there is no answer.
        latency_s: Seconds until the reply; null if nobody measured it (imported answers, batches).
    """

    status: Status
    answer: str
    raw: str
    model: str | None = None
    finish_reason: str | None = None
    usage: Usage = Usage()
    short_count: Annotated[bool, Field(validation_alias=AliasChoices("short_count", "prompt_cut"))] = False
    marks: list[Mark] = []
    latency_s: Figure | None = 0.0
    cached: bool = False
    retries: NonNegativeInt = 0
    batch: Annotated[bool, Field(exclude_if=operator.not_)] = False
    discarded: Annotated[Usage, Field(exclude_if=_is_empty)] = Usage()
    error: str | None = None

    def model_post_init(self, context: Any) -> None:
        """Share the text if the answer is all that came: hundreds of answers of a megabyte are held."""
        if self.raw == self.answer:
            self.__dict__["raw"] = self.answer

    @property
    def is_answered(self) -> bool:
        """Return whether there is an answer to score, whole or cut off.

        An empty text is not an answer, whatever status an older version gave it. Only a reader that takes no tokens may
        give an empty answer.
        """
        if self.status not in ("ok", "truncated"):
            return False
        return not is_blank(self.answer) or (self.status == "ok" and self.usage == NO_TOKENS)

    @property
    def is_settled(self) -> bool:
        """Return whether asking again is pointless: there is an answer, or a filter that would act again."""
        return self.is_answered or (self.status == "filtered" and self.finish_reason == "content_filter")

    @property
    def is_lost(self) -> bool:
        """Return whether there is no answer, for another reason than a filter or a refusal."""
        return not self.is_answered and self.status != "filtered"

    @property
    def why_unanswered(self) -> str:
        """Return the reason why this has no score."""
        if self.status == "truncated":
            return "truncated before an answer"
        return "empty" if self.status == "ok" else self.status


class SentImage(Frozen):
    """An image that went with a prompt: its path in the data, and the hash of the bytes that were sent."""

    path: str
    sha256: str


class SentNoteImage(SentImage):
    """An image that went with its note.

    Attributes:
        note_idx: The note that it is of.
        path: The name of the image in the data.
        sha256: The hash of the bytes that were sent.
    """

    note_idx: int


class Sample(Exchange, AboutQuestion):
    """One answered question: a line of samples.jsonl.

    For an imported answer, `notes_given` is null if the retrieved notes are unknown, and `notes_used` is always null;
    `prompt_notes` are then the notes that the numbers in the answer refer to.

    Attributes:
        notes_missing: The number of hits without text in the data, which were left out; `hits` are the others.
        prompt_notes: The `notes_used` notes in the prompt, in its order; None in older runs.
        images: The images that went with these notes, in the order of sending; absent if there are none.
        images_left_out: The number of their images that could not be sent, by reason; absent if there are none.
    """

    hits: list[Hit]
    notes_missing: int = 0
    notes_given: int | None
    notes_used: int | None
    prompt_notes: list[int] | None = None
    images: Annotated[list[SentNoteImage], Field(exclude_if=operator.not_)] = []
    images_left_out: Annotated[dict[str, NonNegativeInt], Field(exclude_if=operator.not_)] = {}

    @model_validator(mode="after")
    def _not_more_than_given(self) -> Self:
        if not 0 <= (self.notes_used or 0) <= (self.notes_given or 0) or self.notes_missing < 0:
            raise ValueError("notes_used must be from 0 to notes_given")
        return self

    @property
    def has_known_hits(self) -> bool:
        """Return whether the retrieved notes are known; `hits` is empty if not."""
        return self.notes_given is not None

    @property
    def known_prompt_notes(self) -> list[int] | None:
        """Return the notes in the prompt, in its order; None for an older run that stored their number only."""
        if self.prompt_notes is None and self.notes_used in (0, len(self.hits)):
            return [hit.note_idx for hit in self.hits[: self.notes_used]]
        return self.prompt_notes


class Judgement(Exchange, AboutQuestion):
    """A judge's reply about one answer, or two: a line of judgements.jsonl.

    Attributes:
        judge: The name of the judge.
        runs: The runs whose answers the judge was shown, in this order.
        key: The hash of the judge and of its input, by which the judgement is found again.
    """

    key: str
    judge: str
    runs: list[str]


class QueryReply(Exchange, AboutQuestion):
    """A reply with texts to search for a question: a line of queries.jsonl.

    Attributes:
        key: The hash of the query stage, its LLM and its prompt, by which the reply is found again.
        texts: The texts that are searched, without the question itself; empty if the question is searched alone.
        alone: The reason why the reply gave no text; None if it gave some.
    """

    key: str
    texts: list[str] = []
    alone: str | None = None


class QueryUse(Frozen):
    """The work of a run's query stage, and the tokens and cost of it.

    Attributes:
        questions: The number of questions that it was asked about.
        texts: The number of texts that were searched beside the questions.
        alone: The number of questions that were searched alone, since the reply gave no text, by reason.
        failed: The number of questions whose call failed, which were not searched.
        cached: The number of replies from the response cache.
        retries: The number of repeated requests.
        usage: The tokens of the other replies, except for `uncounted` ones whose token numbers are not both known.
        cost: What these replies cost.
    """

    questions: NonNegativeInt
    texts: NonNegativeInt
    alone: dict[str, NonNegativeInt] = {}
    failed: NonNegativeInt = 0
    cached: NonNegativeInt = 0
    retries: NonNegativeInt = 0
    usage: Usage = Usage()
    uncounted: NonNegativeInt = 0
    cost: Cost = Cost()


class AboutNote(Frozen):
    """The note that an LLM was asked about, the prompt, and the verdict (None: the call failed)."""

    note_idx: int
    prompt: str
    verdict: Literal["true", "false", "uncertain"] | None = None


class NoteJudgement(Exchange, AboutNote):
    """A verdict on whether a note holds what a prompt asks about: a line of a filter's judgements.jsonl.

    Attributes:
        key: The hash of LLM, prompt and note, by which the verdict is found again.
        images_left_out: The number of images that could not be read, by reason.
    """

    key: str
    images: list[SentImage] = []
    images_left_out: dict[str, int] = {}


class Score(Frozen):
    """The value of one metric for one question.

    Attributes:
        value: The value; None if the question is unscored.
        reason: The reason why there is no value, or a remark about a value ("cut to 512 tokens").
        signature: How the value was computed; filled in when the scores of a run are combined.
    """

    question_id: str
    metric: str
    value: Figure | None
    reason: str | None = None
    signature: str = ""


class ControlScore(Score):
    """A score of an answer that is known to be good or bad, which shows what a metric is worth.

    Attributes:
        metric: The metric.
        control: The name of the control, such as `empty answer`.
    """

    control: str


class MetricSummary(Frozen):
    """A metric over all questions of a run.

    `value`, `stderr` and `ci95` describe the `n` scored questions (null if these are too few). In `stderr` and `ci95`,
    repeated queries count as one cluster.

    Attributes:
        ci95_method: `sign-flip`, or `wilson` for a share of zeros and ones (see `stats`); older runs have `bca` and
            `percentile`.
        no_interval: The reason why there is no interval.
        value_unscored_as_zero: The lower bound, which counts the `n_unscored` other questions as 0.
        reasons: The number of scores with each reason, unscored or not.
    """

    value: Figure | None
    n: NonNegativeInt
    n_unscored: NonNegativeInt
    value_unscored_as_zero: Figure | None
    stderr: Figure | None
    ci95: tuple[Figure, Figure] | None
    ci95_method: str | None = None
    no_interval: str | None = None
    signature: str
    reasons: dict[str, int] = {}


class LeftOut(Frozen):
    """Notes that questions did not get: absent from the data, or too long for the prompt; and questions without any.

    Attributes:
        cut_by_server: Prompts of which the server read only a part, by its own token count (see `cost.Tally`).
        images: Images of the notes in prompts that could not be sent, by reason; absent if there are none.
    """

    not_in_data: NonNegativeInt = 0
    too_long: NonNegativeInt = 0
    questions_without_notes: NonNegativeInt = 0
    cut_by_server: NonNegativeInt = 0
    images: Annotated[dict[str, NonNegativeInt], Field(exclude_if=operator.not_)] = {}

    def __str__(self) -> str:
        parts = {
            "hits not in the data": self.not_in_data,
            "notes too long for the prompt": self.too_long,
            "questions left without notes": self.questions_without_notes,
            "prompts cut by the server (by its own count of tokens)": self.cut_by_server,
            **{f"images left out ({reason})": n for reason, n in self.images.items()},
        }
        return ", ".join(f"{n} {name}" for name, n in parts.items() if n)


class QuestionDefects(Frozen):
    """The numbers of defective questions in a run; `data validate` names each.

    Attributes:
        empty_queries: Questions that are not asked.
        dangling_notes: Reference notes that are not in the data; they can't be retrieved, and recall counts them as
            missed.
        empty_references: References that hold markup or invisible characters only.
        repeated_questions: Questions with the same query and references as another one.
    """

    empty_queries: NonNegativeInt = 0
    dangling_notes: NonNegativeInt = 0
    questions_with_dangling_notes: NonNegativeInt = 0
    empty_references: NonNegativeInt = 0
    questions_with_empty_references: NonNegativeInt = 0
    repeated_questions: NonNegativeInt = 0

    def __str__(self) -> str:
        parts = []
        if self.empty_queries:
            parts.append(f"{self.empty_queries} with an empty query, not asked")
        if self.dangling_notes:
            parts.append(
                f"{self.questions_with_dangling_notes} with reference notes that are not in the data "
                f"({counted(self.dangling_notes, 'note')}), which recall counts as missed"
            )
        if self.empty_references:
            parts.append(
                f"{self.questions_with_empty_references} with references without text ({self.empty_references})"
            )
        if self.repeated_questions:
            parts.append(f"{self.repeated_questions} with query and references of another question")
        return f"questions of the data: {'; '.join(parts)}" if parts else ""


class Repeats(Frozen):
    """The result of asking `times` times: of so many questions, in how many an answer differed from the first."""

    times: PositiveInt
    questions: NonNegativeInt
    changed: NonNegativeInt
    share_changed: Figure

    def __str__(self) -> str:
        share = f"{self.changed} of {self.questions} answers changed ({self.share_changed:.1%})"
        return f"asked {self.times} times: {share}"


def _with_all_statuses(counts: Any) -> Any:
    """Return counts by status; a status that an older version did not have counts 0."""
    known = dict.fromkeys(["questions", *get_args(Status)], 0)
    return {**known, **counts} if isinstance(counts, dict) else counts


class Summary(Frozen):
    """The content of summary.json: the figures of a run, computed from its samples, repeats and scores alone.

    Attributes:
        counts: The number of questions by status.
        lost: Questions that failed, came back empty or were cut off before an answer.
        why_empty: The number of empty answers by reason.
        marks: The number of answers by doubt.
        odd_endings: The number of oddly ended answers by the server's word.
        retries: The number of repeated requests.
        cached: The number of answers from the response cache.
        usage: The tokens of the other answers, except for `uncounted` answers whose token numbers are not both known.
        batch_usage: The part of `usage` that came by batch; absent if nothing did.
    """

    metrics: dict[str, MetricSummary]
    counts: Annotated[dict[str, int], BeforeValidator(_with_all_statuses)]
    lost: NonNegativeInt = 0
    why_empty: dict[str, int] = {}
    marks: dict[Mark, int] = {}
    odd_endings: dict[str, int] = {}
    cached: NonNegativeInt = 0
    left_out: LeftOut = LeftOut()
    repeats: Repeats | None = None
    retries: NonNegativeInt = 0
    usage: Usage
    batch_usage: Annotated[Usage, Field(exclude_if=_is_empty)] = Usage()
    uncounted: NonNegativeInt = 0
