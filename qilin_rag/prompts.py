"""Prompts: YAML files with templates, rendered in Jinja's sandbox.

Of an LLM under test: a template for questions with notes and one without. Of a judge, and of the safety filter: one, in
whose eyes everything it is shown stands in quotes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import jinja2
from jinja2 import meta
from pydantic import ValidationError

from qilin_rag.config import RunConfig, find_resource, read_yaml, resource_names
from qilin_rag.errors import QilinError, UsageError
from qilin_rag.registry import explain
from qilin_rag.sandbox import Sandbox
from qilin_rag.text import clean, estimate_tokens
from qilin_rag.types import Frozen, Message, Note, NoteOrder
from qilin_rag.verdicts import quote

_ENVIRONMENT = Sandbox(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)


class PromptTooLongError(QilinError):
    """Even without any note the prompt is over the budget."""


class NoteForm(NamedTuple):
    """How notes stand in a prompt: in which order, and with how many characters of their content at most."""

    order: NoteOrder = "best_first"
    max_chars: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, config: RunConfig) -> NoteForm:
        """As a run has it."""
        return cls(config.note_order, config.note_chars, config.seed)

    def arrange(self, notes: Sequence[Note], question_id: str) -> list[Note]:
        """These notes, best first, as the prompt has them; a note that goes leaves the others in their order."""
        cut = list(notes)
        if self.max_chars is not None:
            cut = [note.model_copy(update={"content": note.content[: self.max_chars]}) for note in notes]
        match self.order:
            case "best_first":
                return cut
            case "best_last":
                return cut[::-1]
            case "shuffled":
                seeds = (f"{self.seed} {question_id} {note.note_idx}" for note in cut)
                places = [random.Random(seed).random() for seed in seeds]
                return [cut[i] for i in sorted(range(len(cut)), key=places.__getitem__)]


BEST_FIRST = NoteForm()


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


class Templates(Frozen):
    """What a prompt's file holds: its `parts` are templates that know `variables`.

    `version` is for people; what identifies a prompt is the hash of its templates.
    """

    parts: ClassVar[tuple[str, ...]]
    variables: ClassVar[tuple[str, ...]]

    name: str
    language: str
    description: str
    version: int = 1
    system: str = ""

    @property
    def sha256(self) -> str:
        """Hash of all templates: two prompts with the same hash ask the same."""
        templates = json.dumps([getattr(self, part) for part in self.parts], ensure_ascii=False)
        return hashlib.sha256(templates.encode()).hexdigest()

    @cached_property
    def _templates(self) -> dict[str, jinja2.Template]:
        return {part: self._compile(part) for part in self.parts}

    def _compile(self, part: str) -> jinja2.Template:
        source: str = getattr(self, part)
        try:
            unknown = meta.find_undeclared_variables(_ENVIRONMENT.parse(source)) - set(self.variables)
            if unknown:
                raise UsageError(
                    f"prompt {self.name!r}, {part}: unknown variable {min(unknown)!r}; "
                    f"known: {', '.join(self.variables)}"
                )
            return _ENVIRONMENT.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UsageError(f"prompt {self.name!r}, {part}, line {error.lineno}: {error.message}") from error
        except (RecursionError, MemoryError, ValueError) as error:
            raise UsageError(f"prompt {self.name!r}, {part} can't be read: {type(error).__name__}") from error

    def _filled(self, part: str, values: Mapping[str, Any]) -> list[Message]:
        """The messages of the system template and of this one."""
        try:
            text, instruction = (
                clean(_ENVIRONMENT.fill(self._templates[name], values).strip()) for name in (part, "system")
            )
            asked: list[Message] = [{"role": "user", "content": text}]
        except Exception as error:  # a template may do anything that an expression can
            raise UsageError(f"prompt {self.name!r} can't be rendered: {error or type(error).__name__}") from error
        return [{"role": "system", "content": instruction}, *asked] if instruction else asked


class Prompt(Templates):
    """One way to ask the LLM under test. `notes`: in the run's note_order, each has title and content."""

    parts = ("system", "with_notes", "without_notes")
    variables = ("query", "notes")

    with_notes: str
    without_notes: str

    def _messages(self, query: str, notes: Sequence[Note]) -> list[Message]:
        values = {"query": query, "notes": [{"title": note.title, "content": note.content} for note in notes]}
        return self._filled("with_notes" if notes else "without_notes", values)

    def render(
        self,
        query: str,
        notes: Sequence[Note],
        budget: int | None = None,
        form: NoteForm = BEST_FIRST,
        question_id: str = "",
    ) -> RenderedPrompt:
        """Fill the templates with `notes`, best first, brought into `form`.

        Where the estimate exceeds `budget` tokens, whole notes that don't fit are left out: a note stays if it fits
        beside the better ones, wherever it stands. The question is never cut: PromptTooLongError when it does not fit
        even alone.
        """

        def rendered(some: Sequence[Note]) -> RenderedPrompt:
            arranged = form.arrange(some, question_id)
            return RenderedPrompt(self._messages(query, arranged), query, arranged, len(notes))

        prompt = rendered(notes)
        if budget is None or estimated_tokens(prompt.messages) <= budget:
            return prompt
        prompt = rendered([])
        if (n_tokens := estimated_tokens(prompt.messages)) > budget:
            raise PromptTooLongError(f"about {n_tokens} prompt tokens without any note; the budget is {budget}")
        kept: list[Note] = []
        for note in notes:
            longer = rendered([*kept, note])
            if estimated_tokens(longer.messages) <= budget:
                prompt, kept = longer, [*kept, note]
        return prompt


class JudgePrompt(Templates):
    """How a judge is asked."""

    parts = ("system", "user")

    user: str

    def render(self, values: Mapping[str, str | Sequence[str]], budget: int | None = None) -> RenderedPrompt:
        """Fill the templates, each value quoted. Nothing is left out: PromptTooLongError where it does not fit."""
        messages = self._filled("user", {name: _quoted(value) for name, value in values.items()})
        if budget is not None and (n_tokens := estimated_tokens(messages)) > budget:
            raise PromptTooLongError(f"about {n_tokens} prompt tokens for the judge; its budget is {budget}")
        return RenderedPrompt(messages, str(values.get("query", "")), [], 0)


class PointwisePrompt(JudgePrompt):
    """How a judge is asked about one answer; `request`: what its LLM was sent, empty where that held no notes."""

    variables = ("query", "references", "request", "answer")


class PairwisePrompt(JudgePrompt):
    """How a judge is asked which of two answers is better."""

    variables = ("query", "references", "answer_a", "answer_b")


class SafetyPrompt(JudgePrompt):
    """How an LLM is asked whether a note holds what it should not; `needs_images`: a note without any isn't asked."""

    variables = ("title", "content")

    needs_images: bool = False


def _quoted(value: str | Sequence[str]) -> str | list[str]:
    """As `quote`; what is not there stays empty, so that a template can tell."""
    if isinstance(value, str):
        return quote(value) if value else ""
    return [quote(each) for each in value]


def estimated_tokens(messages: Sequence[Message]) -> int:
    """A cautious estimate of the prompt's tokens (see `estimate_tokens`)."""
    return sum(estimate_tokens(message["content"]) for message in messages)


def load_prompt(name: str) -> Prompt:
    """A prompt by name (`prompts/NAME.yaml`, working directory first) or by the path of a YAML file.

    It is rendered once on an example, so that a wrong template is found before anything is spent.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else find_resource("prompts", name)
    prompt = _read(path, Prompt)
    examples = [Note(note_idx=i, title="标题", content="正文") for i in range(5)]
    for notes in (examples, []):
        prompt.render("问题", notes)
    return prompt


J = TypeVar("J", bound=JudgePrompt)


def load_judge_prompt(kind: type[J]) -> J:
    """The judge's prompt of this kind (`prompts/judge/`, working directory first), rendered once on an example."""
    return _load_filled(find_resource("prompts/judge", kind.__name__.removesuffix("Prompt").lower()), kind)


def load_safety_prompts(names: Sequence[str] | None = None) -> dict[str, SafetyPrompt]:
    """The filter's prompts of these names, default all there are (`prompts/safety/`, working directory first)."""
    wanted = list(resource_names("prompts/safety")) if names is None else list(dict.fromkeys(names))
    if not wanted:
        raise UsageError("--prompts names no prompt")
    return {name: _load_filled(find_resource("prompts/safety", name), SafetyPrompt) for name in wanted}


def _load_filled(path: Path, kind: type[J]) -> J:
    prompt = _read(path, kind)
    for filled in ("文字", ""):
        prompt.render(dict.fromkeys(kind.variables, filled) | {"references": [filled]})
    return prompt


T = TypeVar("T", bound=Templates)


def _read(path: Path, kind: type[T]) -> T:
    if path.exists() and not path.is_file():
        raise UsageError(f"prompt {path} is no plain file")  # opening a pipe would wait for ever
    content: dict[str, Any] = read_yaml(path)
    try:
        return kind(**{"name": path.stem, **content})
    except (ValidationError, TypeError) as error:
        detail = explain(error, kind) if isinstance(error, ValidationError) else error
        raise UsageError(f"prompt {path}: {detail}") from error
