"""Prompts: YAML files with templates, rendered in Jinja's sandbox.

A prompt for an LLM under test has a template for questions with notes and one for questions without. A prompt for a
judge or the safety filter has one template, which quotes everything it shows.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, PrivateAttr, model_validator

from qilin_rag.config.resources import find_resource
from qilin_rag.config.run import RunConfig
from qilin_rag.core.text import query_key
from qilin_rag.core.types import Image, Message, Note, NoteOrder, RenderedPrompt
from qilin_rag.prompts.image_places import find_places
from qilin_rag.prompts.templates import PromptTooLongError, Templates, estimated_tokens, read_templates


class NoteForm(NamedTuple):
    """The form of notes in a prompt: their order, and the most characters of their content."""

    order: NoteOrder = "best_first"
    max_chars: int | None = None
    seed: int = 0

    @classmethod
    def of(cls, config: RunConfig) -> NoteForm:
        """Return the form that a run's configuration sets."""
        return cls(config.note_order, config.note_chars, config.seed)

    def arrange(self, notes: Sequence[Note], question_id: str) -> list[Note]:
        """Return these notes, given best first, in the order of the prompt.

        Removing a note leaves the order of the others unchanged.
        """
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


class Pictures(NamedTuple):
    """The images of a note that go with its text, and the tokens that they add to the prompt."""

    images: Sequence[Image] = ()
    n_tokens: int = 0


NO_PICTURES: Mapping[int, Pictures] = {}


def _listed(texts: Any) -> Any:
    return [texts] if isinstance(texts, str) else texts


class Prompt(Templates):
    """A prompt for the LLM under test. `notes` come in the run's note_order; each has title and content.

    Attributes:
        refusal: The sentences by which the templates tell the LLM to refuse, for the metric `refusal`. The hash of the
            templates covers them, since each must occur there.
    """

    parts = ("system", "with_notes", "without_notes")
    variables = ("query", "notes")

    with_notes: str
    without_notes: str
    refusal: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()

    _source: str = PrivateAttr(default="")

    @model_validator(mode="after")
    def _names_its_refusals(self) -> Prompt:
        said = query_key(self.system + self.with_notes + self.without_notes)
        for sentence in self.refusal:
            if not any(map(str.isalnum, sentence)) or query_key(sentence) not in said:
                raise ValueError(
                    f"refusal {sentence!r} is not in the templates; write it as they tell the LLM to say it"
                )
        return self

    @property
    def source(self) -> str:
        """Return the name or path by which the prompt was loaded; empty if no file holds it."""
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
        pictures: Mapping[int, Pictures] = NO_PICTURES,
    ) -> RenderedPrompt:
        """Fill the templates with notes, and place the images of each note behind its text.

        If the estimate exceeds the budget, whole notes that do not fit are left out, with their images. A note stays if
        it fits beside the better ones, whatever its place in the prompt. The question is never cut.

        Args:
            query: The text of the question.
            notes: The notes, best first.
            budget: The most tokens of the prompt, by estimate; None means no limit.
            form: The form of the notes in the prompt.
            question_id: The id of the question, which seeds a shuffled order.
            pictures: The images of notes, by note_idx.

        Raises:
            PromptTooLongError: if the question does not fit, even without notes.
        """

        def rendered(chosen: Sequence[Note]) -> RenderedPrompt:
            arranged = form.arrange(chosen, question_id)
            return RenderedPrompt(self._messages(query, arranged), query, arranged, len(notes))

        def tokens(prompt: RenderedPrompt) -> int:
            of_images = sum(pictures[note.note_idx].n_tokens for note in prompt.notes if note.note_idx in pictures)
            return estimated_tokens(prompt.messages) + of_images

        prompt = rendered(notes)
        if budget is None or tokens(prompt) <= budget:
            return self._with_images(prompt, pictures)
        prompt = rendered([])
        if (n_tokens := tokens(prompt)) > budget:
            raise PromptTooLongError(f"about {n_tokens} prompt tokens without any note; the budget is {budget}")
        fitting: list[Note] = []
        for note in notes:
            longer = rendered([*fitting, note])
            if tokens(longer) <= budget:
                prompt, fitting = longer, [*fitting, note]
        return self._with_images(prompt, pictures)

    def _with_images(self, prompt: RenderedPrompt, pictures: Mapping[int, Pictures]) -> RenderedPrompt:
        """Add the images of the notes in the prompt, each behind the text of its note."""
        images = {i: of.images for i, note in enumerate(prompt.notes) if (of := pictures.get(note.note_idx))}
        wanted = [i for i, of_note in images.items() if of_note]
        if not wanted:
            return prompt
        places = find_places(lambda notes: self._messages(prompt.query, notes)[-1]["content"], prompt.notes, wanted)
        order = sorted(wanted, key=places.__getitem__)  # stable: notes that end at one place keep their order
        return prompt._replace(
            images=[image for i in order for image in images[i]],
            image_places=[places[i] for i in order for _ in images[i]],
            image_notes=[prompt.notes[i].note_idx for i in order for _ in images[i]],
        )


def load_prompt(name: str) -> Prompt:
    """Return a prompt by name (`prompts/NAME.yaml`, working directory first) or by the path of a YAML file.

    The prompt is rendered once on an example, so that a wrong template is found before anything is spent.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else find_resource("prompts", name)
    prompt = read_templates(path, Prompt)
    prompt._source = name
    examples = [Note(note_idx=i, title="标题", content="正文") for i in range(5)]
    for notes in (examples, []):
        prompt.render("问题", notes)
    return prompt
