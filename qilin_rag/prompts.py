"""Prompts: YAML files with a template for questions with notes and one without, rendered in Jinja's sandbox."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from jinja2 import meta
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import ValidationError

from qilin_rag.config import find_resource, read_yaml
from qilin_rag.errors import QilinError, UsageError
from qilin_rag.registry import explain
from qilin_rag.text import clean, estimate_tokens
from qilin_rag.types import Frozen, Message, Note, NoteOrder

VARIABLES = {"query": "the question's text", "notes": "the notes in the run's note_order: each has title and content"}
_LONGEST_REPEAT = 10**6


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which also refuses what a short expression can make huge."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """`**` and long repetitions are refused."""
        sized = next((side for side in (left, right) if hasattr(side, "__len__")), "")
        times = next((side for side in (left, right) if isinstance(side, int)), 0)
        if operator == "**" or len(sized) * times > _LONGEST_REPEAT:
            raise SecurityError(f"{operator} is not available for this")
        return super().call_binop(context, operator, left, right)


_ENVIRONMENT = _Sandbox(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)


class PromptTooLongError(QilinError):
    """Even without any note the prompt is over the budget."""


class NoteForm(NamedTuple):
    """How notes stand in a prompt: in which order, and with how many characters of their content at most."""

    order: NoteOrder = "best_first"
    max_chars: int | None = None
    seed: int = 0

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


class RenderedPrompt(NamedTuple):
    """What an LLM is given: the chat messages, and for readers that are no LLM the parts they were made of.

    `notes` are those that the messages hold, in their order.
    """

    messages: list[Message]
    query: str
    notes: list[Note]
    notes_given: int


class Prompt(Frozen):
    """One way to ask. `version` is for people; what identifies a prompt is the hash of its templates."""

    name: str
    language: str
    description: str
    version: int = 1
    system: str = ""
    with_notes: str
    without_notes: str

    @property
    def sha256(self) -> str:
        """Hash of the three templates: two prompts with the same hash ask the same."""
        templates = json.dumps([self.system, self.with_notes, self.without_notes], ensure_ascii=False)
        return hashlib.sha256(templates.encode()).hexdigest()

    @cached_property
    def _templates(self) -> tuple[jinja2.Template, jinja2.Template, jinja2.Template]:
        return tuple(  # type: ignore[return-value]
            self._compile(part) for part in ("system", "with_notes", "without_notes")
        )

    def _compile(self, part: str) -> jinja2.Template:
        source: str = getattr(self, part)
        try:
            unknown = meta.find_undeclared_variables(_ENVIRONMENT.parse(source)) - set(VARIABLES)
            if unknown:
                raise UsageError(
                    f"prompt {self.name!r}, {part}: unknown variable {min(unknown)!r}; known: {', '.join(VARIABLES)}"
                )
            return _ENVIRONMENT.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UsageError(f"prompt {self.name!r}, {part}, line {error.lineno}: {error.message}") from error
        except (RecursionError, MemoryError, ValueError) as error:
            raise UsageError(f"prompt {self.name!r}, {part} can't be read: {type(error).__name__}") from error

    def _messages(self, query: str, notes: Sequence[Note]) -> list[Message]:
        system, with_notes, without_notes = self._templates
        values = {"query": query, "notes": [{"title": note.title, "content": note.content} for note in notes]}
        try:
            user = clean((with_notes if notes else without_notes).render(values).strip())
            asked: list[Message] = [{"role": "user", "content": user}]
            instruction = clean(system.render(values).strip())
        except Exception as error:  # a template may do anything that an expression can
            raise UsageError(f"prompt {self.name!r} can't be rendered: {error or type(error).__name__}") from error
        return [{"role": "system", "content": instruction}, *asked] if instruction else asked

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


def estimated_tokens(messages: Sequence[Message]) -> int:
    """A cautious estimate of the prompt's tokens (see `estimate_tokens`)."""
    return sum(estimate_tokens(message["content"]) for message in messages)


def load_prompt(name: str) -> Prompt:
    """A prompt by name (`prompts/NAME.yaml`, working directory first) or by the path of a YAML file.

    It is rendered once on an example, so that a wrong template is found before anything is spent.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else find_resource("prompts", name)
    content: dict[str, Any] = read_yaml(path)
    try:
        prompt = Prompt(**{"name": path.stem, **content})
    except (ValidationError, TypeError) as error:
        detail = explain(error, Prompt) if isinstance(error, ValidationError) else error
        raise UsageError(f"prompt {path}: {detail}") from error
    examples = [Note(note_idx=i, title="标题", content="正文") for i in range(5)]
    for notes in (examples, []):
        prompt.render("问题", notes)
    return prompt
