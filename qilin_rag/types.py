"""The plain frozen types at which the stages meet; a file in a run directory holds one of these a line."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
)

Status = Literal["ok", "failed", "filtered", "truncated"]
Message = dict[str, str]
AnswerSelection = Literal["engaged", "liked", "content", "citation", "experience", "shown"]
ReferenceSelection = Literal["own", "query"]
MissingNotes = Literal["error", "skip"]
NoteOrder = Literal["best_first", "best_last", "shuffled"]


class Frozen(BaseModel):
    """A value: immutable, and a field nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Note(Frozen):
    """A short post; the unit of retrieval."""

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
    """

    id: str
    query: str
    references: list[str]
    reference_notes: list[int] = []
    recorded: dict[str, list[tuple[int, FiniteFloat]]] = {}
    meta: dict[str, Any] = {}


class Hit(Frozen):
    """One retrieved note. A ranking is ordered by falling score, ties by a hash (`ties`); ranks count from 1."""

    note_idx: Annotated[int, Field(ge=0, lt=2**63)]
    score: FiniteFloat
    rank: Annotated[int, Field(ge=1)]


class Usage(Frozen):
    """Tokens of one call as the server counted them; None where it did not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Price(Frozen):
    """What a provider takes for a million tokens, by its list of the day `as_of` (as precise as it is known)."""

    model_config = ConfigDict(allow_inf_nan=False)

    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    prompt_per_mtok: NonNegativeFloat
    completion_per_mtok: NonNegativeFloat
    as_of: Annotated[str, BeforeValidator(str), Field(pattern=r"^\d{4}(-\d\d){0,2}$")]

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """The price of so many tokens, without the discounts that a provider may give."""
        return (prompt_tokens * self.prompt_per_mtok + completion_tokens * self.completion_per_mtok) / 1e6


class Cost(Frozen):
    """What answers cost by the price list of `as_of`; where the amount is not known, `unknown` says why.

    No currency: nothing was paid for.
    """

    amount: FiniteFloat | None = None
    currency: str | None = None
    as_of: str | None = None
    unknown: str | None = None


class Times(Frozen):
    """Seconds of a run by the clock, over all its sittings.

    `untimed` sittings were killed (or still go on) and are in none of the seconds. `cut_off` sittings ended before all
    questions were answered: what the server did for the calls under way then is in no figure.
    """

    retrieval_s: FiniteFloat = 0.0
    generation_s: FiniteFloat = 0.0
    scoring_s: FiniteFloat = 0.0
    sittings: NonNegativeInt = 0
    untimed: NonNegativeInt = 0
    cut_off: NonNegativeInt = 0


class Completion(Frozen):
    """What an LLM returned: `text` is what is scored, `raw` what came over the wire.

    `cached`: it is the answer to an earlier request like this one; `usage` is what that took.
    """

    text: str
    raw: str
    model: str
    finish_reason: str
    usage: Usage = Usage()
    latency_s: FiniteFloat = 0.0
    cached: bool = False


class AboutQuestion(Frozen):
    """The question that an LLM was asked about, and what it was sent."""

    question_id: str
    query: str
    messages: list[Message]


class Exchange(Frozen):
    """What came back from an LLM.

    `model` is the name that the server answered under. `prompt_cut`: the server counted so few tokens that it can't
    have read the whole prompt.
    """

    status: Status
    answer: str
    raw: str
    model: str | None = None
    finish_reason: str | None = None
    usage: Usage = Usage()
    prompt_cut: bool = False
    latency_s: FiniteFloat = 0.0
    cached: bool = False
    error: str | None = None

    @property
    def is_answered(self) -> bool:
        """Whether there is an answer to score, whole or cut off."""
        return self.status in ("ok", "truncated")


class Sample(Exchange, AboutQuestion):
    """One question, done: a line of samples.jsonl.

    `notes_missing` hits had no text in the data and were left out; `hits` are the others. `prompt_notes` are the
    `notes_used` that the prompt holds, in its order; None in older runs.
    """

    hits: list[Hit]
    notes_missing: int = 0
    notes_given: int
    notes_used: int
    prompt_notes: list[int] | None = None

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
    value: FiniteFloat | None
    reason: str | None = None
    signature: str = ""


class MetricSummary(Frozen):
    """A metric over all questions of a run.

    `value`, `stderr` and `ci95` speak of the `n` scored questions (null where too few to say).
    Repeated queries count as one cluster in both; `ci95_method` is `percentile` where BCa says nothing (see `stats`).
    `value_unscored_as_zero` is the bound that counts the `n_unscored` others as 0. `reasons` counts the reasons
    that scores were given with, unscored or not.
    """

    value: FiniteFloat | None
    n: NonNegativeInt
    n_unscored: NonNegativeInt
    value_unscored_as_zero: FiniteFloat | None
    stderr: FiniteFloat | None
    ci95: tuple[FiniteFloat, FiniteFloat] | None
    ci95_method: Literal["bca", "percentile"] | None = None
    signature: str
    reasons: dict[str, int] = {}


class LeftOut(Frozen):
    """Notes that questions did not get: not in the data, or too long for the prompt; questions left without any.

    `cut_by_server`: prompts of which the server read only a part, by its own count of tokens.
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
                f"({self.dangling_notes} notes), which recall counts as missed"
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
    share_changed: FiniteFloat

    def __str__(self) -> str:
        share = f"{self.changed} of {self.questions} answers changed ({self.share_changed:.1%})"
        return f"asked {self.times} times: {share}"


class Summary(Frozen):
    """summary.json: the figures of a run, a function of its samples, repeats and scores alone.

    `cached` answers came from the response cache; `usage` counts the others, but for `uncounted` answers of which the
    server gave no (or not both) numbers of tokens.
    """

    metrics: dict[str, MetricSummary]
    counts: dict[str, int]
    cached: NonNegativeInt = 0
    left_out: LeftOut = LeftOut()
    repeats: Repeats | None = None
    usage: Usage
    uncounted: NonNegativeInt = 0
