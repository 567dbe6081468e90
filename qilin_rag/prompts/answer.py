"""Prompts: YAML files with templates, rendered in Jinja's sandbox.

Of an LLM under test: a template for questions with notes and one without. Of a judge, and of the safety filter: one, in
whose eyes everything it is shown stands in quotes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import PrivateAttr

from qilin_rag.config.resources import find_resource
from qilin_rag.config.run import RunConfig
from qilin_rag.core.types import Message, Note, NoteOrder, RenderedPrompt
from qilin_rag.prompts.templates import PromptTooLongError, Templates, estimated_tokens, read_templates


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


class Prompt(Templates):
    """One way to ask the LLM under test. `notes`: in the run's note_order, each has title and content."""

    parts = ("system", "with_notes", "without_notes")
    variables = ("query", "notes")

    with_notes: str
    without_notes: str

    _source: str = PrivateAttr(default="")

    @property
    def source(self) -> str:
        """The name or path that it was asked for by; empty for one that no file holds."""
        return self._source

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


def load_prompt(name: str) -> Prompt:
    """A prompt by name (`prompts/NAME.yaml`, working directory first) or by the path of a YAML file.

    It is rendered once on an example, so that a wrong template is found before anything is spent.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else find_resource("prompts", name)
    prompt = read_templates(path, Prompt)
    prompt._source = name
    examples = [Note(note_idx=i, title="标题", content="正文") for i in range(5)]
    for notes in (examples, []):
        prompt.render("问题", notes)
    return prompt
