"""The plain frozen types at which the stages meet; a file in a run directory holds one of these a line."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import (
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

from qilin_rag.core.text import counted, decimal_number, is_blank


class Image(NamedTuple):
    """An image that goes with a prompt, as it is sent; `path` is its name in the data."""

    path: str
    jpeg: bytes

    @property
    def sha256(self) -> str:
        """Hash of what is sent."""
        return hashlib.sha256(self.jpeg).hexdigest()

    @property
    def data_url(self) -> str:
        """The image as an address that holds it."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.jpeg).decode()}"


class RenderedPrompt(NamedTuple):
    """What an LLM is given: the chat messages, and for readers that are no LLM the parts they were made of.

    `notes` are those that the messages hold, in their order. `images` go with the last message.
    """

    messages: list[Message]
    query: str
    notes: list[Note]
    notes_given: int
    images: Sequence[Image] = ()


SCALE = (1, 5)
Status = Literal["ok", "failed", "filtered", "truncated", "empty"]
"""What became of a question that an LLM was asked.

`ok`: an answer. `truncated`: the answer, or what came before it, was cut off by a limit of length. `filtered`: a filter
held it back, or the model refused. `empty`: a reply came, and no answer is in it. `failed`: no reply came.
"""
Mark = Literal["maybe_cut", "odd_ending", "maybe_thinking"]
"""What is doubtful about an answer that is scored all the same.

`maybe_cut`: it ended, as the server says by itself, at the most tokens that were asked for or beyond. `odd_ending`: it
ended for a reason that is neither a stop nor a limit. `maybe_thinking`: it seems to hold thinking, in a form that is
not in the table of markers, or it was cut behind a closing marker that may be only mentioned.
"""
Message = dict[str, str]
AnswerSelection = Literal["engaged", "liked", "content", "citation", "experience", "shown"]
ReferenceSelection = Literal["own", "query"]
MissingNotes = Literal["error", "skip"]
NoteOrder = Literal["best_first", "best_last", "shuffled"]


class Frozen(BaseModel):
    """A value: immutable, and a field nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Note(Frozen):
    """A short post; the unit of retrieval.

    Example:
        >>> Note(note_idx=1, title="手冲", content="水温92度。").text
        '手冲 水温92度。'
    """

    note_idx: int
    title: str
    content: str

    @property
    def text(self) -> str:
        """What retrievers index: title, a space, content, as the paper joins them."""
        return f"{self.title} {self.content}"


class Question(Frozen):
    """A query with the answers users favoured and the notes those answers cite.

    `recorded` holds results that came with the data, by retriever: `(note_idx, score)` pairs, best first.

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


class Hit(Frozen):
    """One retrieved note. A ranking is ordered by falling score, ties by a hash (`ties`); ranks count from 1.

    Example:
        >>> Hit(note_idx=1, score=3.5, rank=1).rank
        1
    """

    note_idx: Annotated[int, Field(ge=0, lt=2**63)]
    score: FiniteFloat
    rank: Annotated[int, Field(ge=1)]


def read_count(value: Any) -> int | None:
    """Return a number of tokens as whoever counted them gave it; None if it can't be one.

    `12.0` and `"12"` are 12. A negative number, which some servers send for unknown, a fraction, a truth value and
    what is not finite are no counts.
    """
    if isinstance(value, str):
        value = decimal_number(value.strip())
    if isinstance(value, float) and value.is_integer():  # no infinity is one
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


Count = Annotated[int | None, BeforeValidator(read_count)]
_LARGEST = 1e100
Figure = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)]
"""A finite number whose square and sum over any number of questions are finite, too."""


class Usage(Frozen):
    """Tokens of one call; None where they are not known.

    `prompt_tokens` counts the whole prompt. Of these, `cached_tokens` were in the server's cache, and
    `cache_write_tokens` were put there. `completion_tokens` includes thinking.
    """

    prompt_tokens: Count = None
    completion_tokens: Count = None
    cached_tokens: Count = None
    cache_write_tokens: Count = None


NO_TOKENS = Usage(prompt_tokens=0, completion_tokens=0)
"""The usage of a reader that takes no tokens: only such a one may answer with nothing."""


class Price(Frozen):
    """What a provider takes for a million tokens, by its list of the day `as_of` (as precise as it is known).

    `cached_per_mtok`: what it takes for prompt tokens that are in its cache, where that is known.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    prompt_per_mtok: NonNegativeFloat
    completion_per_mtok: NonNegativeFloat
    cached_per_mtok: NonNegativeFloat | None = None
    as_of: Annotated[str, BeforeValidator(str), Field(pattern=r"^\d{4}(-\d\d){0,2}$")]

    def of(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float:
        """Return the price of so many tokens, `cached_tokens` of the prompt's at their own price if there is one."""
        n_cached = 0 if self.cached_per_mtok is None else cached_tokens
        amount = (prompt_tokens - n_cached) * self.prompt_per_mtok + completion_tokens * self.completion_per_mtok
        return (amount + n_cached * (self.cached_per_mtok or 0.0)) / 1e6


class Cost(Frozen):
    """What answers cost by the price list of `as_of`; where the amount is not known, `unknown` says why.

    `at_most`: prompt tokens were in the provider's cache, and what it takes for those is not in the price list.
    No currency: nothing was paid for.
    """

    amount: Figure | None = None
    at_most: bool = False
    currency: str | None = None
    as_of: str | None = None
    unknown: str | None = None


class Times(Frozen):
    """Seconds of a run by the clock, over all its sittings.

    `untimed` sittings were killed (or still go on) and are in none of the seconds. `cut_off` sittings ended before all
    questions were answered: what the server did for the calls under way then is in no figure.
    """

    retrieval_s: Figure = 0.0
    generation_s: Figure = 0.0
    scoring_s: Figure = 0.0
    sittings: NonNegativeInt = 0
    untimed: NonNegativeInt = 0
    cut_off: NonNegativeInt = 0


class Completion(Frozen):
    """What an LLM returned: `text` is what is scored, `raw` what came over the wire, thinking included.

    `finish_reason` is how it ended: `stop`, `length` (cut off), `content_filter` (held back by a filter), `refusal` (by
    the model itself), or the server's own word where that is none of these. `why_empty`: why there is no answer in it,
    where that is known. `cached`: it is the answer to an earlier request like this one; `usage` is what that took.
    `retries`: how often the request was made again before. `reading` is the version of the rules by which `text` was
    taken from `raw`.
    """

    text: str
    raw: str
    model: str
    finish_reason: str
    why_empty: str | None = None
    marks: list[Mark] = []
    usage: Usage = Usage()
    latency_s: Figure = 0.0
    cached: bool = False
    retries: NonNegativeInt = 0
    reading: int = 0


class AboutQuestion(Frozen):
    """The question that an LLM was asked about, and what it was sent."""

    question_id: str
    query: str
    messages: list[Message]


class Exchange(Frozen):
    """What came back from an LLM.

    `model` is the name that the server answered under. `short_count`: the server counted fewer tokens than the prompt
    can have, since it read only a part of it, or since it left out what was in its cache: `cost.Tally` tells which.
    `marks`: what is doubtful about the answer. `retries`: how often it was asked for again. `error`: why there is none.
    `latency_s` is null if nobody measured it: of answers that were imported.
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
    error: str | None = None

    def model_post_init(self, context: Any) -> None:
        """Hold the text once where the answer is all that came: answers of a megabyte are held by the hundred."""
        if self.raw == self.answer:
            self.__dict__["raw"] = self.answer

    @property
    def is_answered(self) -> bool:
        """Whether there is an answer to score, whole or cut off.

        Without any text there is none, whatever an older version made of it. Only a reader that takes no tokens may
        have nothing to say.
        """
        if self.status not in ("ok", "truncated"):
            return False
        return not is_blank(self.answer) or (self.status == "ok" and self.usage == NO_TOKENS)

    @property
    def is_settled(self) -> bool:
        """Whether it makes no sense to ask again: there is an answer, or a filter, which will do the same again."""
        return self.is_answered or (self.status == "filtered" and self.finish_reason == "content_filter")

    @property
    def is_lost(self) -> bool:
        """Whether there is no answer, and neither a filter nor a refusal is the reason."""
        return not self.is_answered and self.status != "filtered"

    @property
    def why_unanswered(self) -> str:
        """The reason why this has no score."""
        if self.status == "truncated":
            return "truncated before an answer"
        return "empty" if self.status == "ok" else self.status


class Sample(Exchange, AboutQuestion):
    """One question, done: a line of samples.jsonl.

    `notes_missing` hits had no text in the data and were left out; `hits` are the others. `prompt_notes` are the
    `notes_used` that the prompt holds, in its order; None in older runs.

    Of an imported answer `notes_given` is null if it is not known which notes were found, and `notes_used` always;
    `prompt_notes` are then those that the numbers in the answer count.
    """

    hits: list[Hit]
    notes_missing: int = 0
    notes_given: int | None
    notes_used: int | None
    prompt_notes: list[int] | None = None

    @model_validator(mode="after")
    def _not_more_than_given(self) -> Self:
        if not 0 <= (self.notes_used or 0) <= (self.notes_given or 0) or self.notes_missing < 0:
            raise ValueError("notes_used must be from 0 to notes_given")
        return self

    @property
    def has_known_hits(self) -> bool:
        """Whether it is known which notes were found; `hits` are empty if not."""
        return self.notes_given is not None

    @property
    def known_prompt_notes(self) -> list[int] | None:
        """The notes of the prompt in its order; None where an older run kept only how many of them were used."""
        if self.prompt_notes is None and self.notes_used in (0, len(self.hits)):
            return [hit.note_idx for hit in self.hits[: self.notes_used]]
        return self.prompt_notes


class Judgement(Exchange, AboutQuestion):
    """What a judge said of an answer, or of two: a line of judgements.jsonl.

    `judge` is its name, `runs` whose answers it was shown, in this order. `key` is the hash of the judge and of what it
    was asked, under which a judgement is found again.
    """

    key: str
    judge: str
    runs: list[str]


class SentImage(Frozen):
    """An image that went with a prompt: its path in the data, and the hash of the bytes that were sent."""

    path: str
    sha256: str


class AboutNote(Frozen):
    """The note that an LLM was asked about, by which prompt, and what it said (None: the call failed)."""

    note_idx: int
    prompt: str
    verdict: Literal["true", "false", "uncertain"] | None = None


class NoteJudgement(Exchange, AboutNote):
    """Whether a note holds what a prompt asks about: a line of a filter's judgements.jsonl.

    `key` is the hash of LLM, prompt and note, under which it is found again. `images_left_out` counts those that could
    not be read, by reason.
    """

    key: str
    images: list[SentImage] = []
    images_left_out: dict[str, int] = {}


class Score(Frozen):
    """One metric of one question; `value` None means unscored, and `reason` says why.

    A scored value may have a `reason`, too: something to know about it ("cut to 512 tokens").
    `signature` says how it was made; it is filled in when the scores of a run are put together.
    """

    question_id: str
    metric: str
    value: Figure | None
    reason: str | None = None
    signature: str = ""


class MetricSummary(Frozen):
    """A metric over all questions of a run.

    `value`, `stderr` and `ci95` speak of the `n` scored questions (null where too few to say).
    Repeated queries count as one cluster in both. `ci95_method` is `sign-flip`, or `wilson` of a share of zeros and
    ones (see `stats`); `bca` and `percentile` are those of older runs. `no_interval` says why there is none.
    `value_unscored_as_zero` is the bound that counts the `n_unscored` others as 0. `reasons` counts the reasons
    that scores were given with, unscored or not.
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
    """Notes that questions did not get: not in the data, or too long for the prompt; questions left without any.

    `cut_by_server`: prompts of which the server read only a part, by its own count of tokens (see `cost.Tally`).
    """

    not_in_data: NonNegativeInt = 0
    too_long: NonNegativeInt = 0
    questions_without_notes: NonNegativeInt = 0
    cut_by_server: NonNegativeInt = 0

    def __str__(self) -> str:
        parts = {
            "hits not in the data": self.not_in_data,
            "notes too long for the prompt": self.too_long,
            "questions left without notes": self.questions_without_notes,
            "prompts cut by the server (by its own count of tokens)": self.cut_by_server,
        }
        return ", ".join(f"{n} {what}" for what, n in parts.items() if n)


class QuestionDefects(Frozen):
    """What is wrong with the questions of a run, counted; `data validate` names each.

    `empty_queries` are not asked. A `dangling` reference note is not in the data: it can never be retrieved, and recall
    counts it as missed. `empty_references` hold nothing but markup or what no reader sees. `repeated` questions have
    query and references of another one.
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
    """Answers that were asked for `times` times: of so many questions, in how many one differed from the first."""

    times: PositiveInt
    questions: NonNegativeInt
    changed: NonNegativeInt
    share_changed: Figure

    def __str__(self) -> str:
        share = f"{self.changed} of {self.questions} answers changed ({self.share_changed:.1%})"
        return f"asked {self.times} times: {share}"


def _with_all_statuses(counts: Any) -> Any:
    """Counts by status of any version: a status that it did not have yet counts 0."""
    known = dict.fromkeys(["questions", *get_args(Status)], 0)
    return {**known, **counts} if isinstance(counts, dict) and counts else counts


class Summary(Frozen):
    """summary.json: the figures of a run, a function of its samples, repeats and scores alone.

    `counts` has the questions by status, and `lost` those that failed, came back empty or were cut off before an
    answer; `why_empty` counts the reasons of the empty ones, `marks` what is doubtful about answers, `odd_endings` the
    words of those that ended oddly. `retries` requests were made again. `cached` answers came from the response cache;
    `usage` counts the others, but for `uncounted` answers of which not both numbers of tokens are known.
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
    uncounted: NonNegativeInt = 0
