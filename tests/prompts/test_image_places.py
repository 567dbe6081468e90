"""Images stand behind the text of their note, whatever a template makes of it; and the text stays what it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.config.resources import resource_names
from qilin_rag.core.types import Image, Note, RenderedPrompt
from qilin_rag.prompts.answer import NoteForm, Pictures, Prompt, load_prompt

NOTES = [Note(note_idx=7 + i, title=f"题{i}", content=f"文{i}。") for i in range(3)]
PICTURES = {note.note_idx: Pictures([Image(f"{note.note_idx}.jpg", b"x")]) for note in NOTES}


def prompt_of(with_notes: str, system: str = "") -> Prompt:
    return Prompt(
        name="own", language="zh", description="", system=system, with_notes=with_notes, without_notes="问{{ query }}"
    )


def shown(prompt: RenderedPrompt) -> list[str]:
    """Return the text and the names of the images in their order."""
    text, parts, start = prompt.messages[-1]["content"], [], 0
    for image, place, note_idx in zip(prompt.images, prompt.image_places, prompt.image_notes, strict=True):
        assert image.path == f"{note_idx}.jpg"
        parts += [text[start:place], image.path]
        start = place
    return [part for part in [*parts, text[start:]] if part]


EACH = "{% for note in notes %}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            f"{EACH}{{{{ note.title }}}} {{{{ note.content }}}}\n{{% endfor %}}问{{{{ query }}}}",
            ["题0 文0。", "7.jpg", "\n题1 文1。", "8.jpg", "\n题2 文2。", "9.jpg", "\n问q"],
        ),
        (  # content first, and white space around it
            f"  {EACH}{{{{ note.content }}}}  {{% endfor %}}  ",
            ["文0。", "7.jpg", "  文1。", "8.jpg", "  文2。", "9.jpg"],
        ),
        (  # another order than the run's
            "{% for note in notes | reverse %}{{ note.content }}{% endfor %}",
            ["文2。", "9.jpg", "文1。", "8.jpg", "文0。", "7.jpg"],
        ),
        (  # shown twice: after the first
            f"{EACH}{{{{ note.content }}}}{{% endfor %}}|{EACH}{{{{ note.content }}}}{{% endfor %}}",
            ["文0。", "7.jpg", "文1。", "8.jpg", "文2。", "9.jpg", "|文0。文1。文2。"],
        ),
        (f"{EACH}{{{{ note.title }}}}{{% endfor %}}问", ["题0题1题2问", "7.jpg", "8.jpg", "9.jpg"]),  # dropped
        (
            f"{EACH}{{{{ note.content | truncate(5, true, '', 0) }}}}{{% endfor %}}问",  # cut
            ["文0。文1。文2。问", "7.jpg", "8.jpg", "9.jpg"],
        ),
        (f"{EACH}{{{{ note.content[:1] }}}}{{% endfor %}}问", ["文文文问", "7.jpg", "8.jpg", "9.jpg"]),
        ("{{ notes[1].content }}问", ["文1。", "8.jpg", "问", "7.jpg", "9.jpg"]),
        (  # one note changes the text when it is marked, the others have their places all the same
            f"{{{{ notes[0].content | length }}}}{EACH}{{{{ note.content }}}}{{% endfor %}}问",
            ["3文0。文1。", "8.jpg", "文2。", "9.jpg", "问", "7.jpg"],
        ),
    ],
)
def test_templates_of_all_kinds(template: str, expected: Sequence[str]) -> None:
    prompt = prompt_of(template, system=f"{EACH}{{{{ note.content }}}}{{% endfor %}}")
    plain, placed = prompt.render("q", NOTES), prompt.render("q", NOTES, pictures=PICTURES)
    assert placed.messages == plain.messages
    assert shown(placed) == expected
    assert (plain.images, plain.image_places, plain.image_notes) == ((), (), ())


def test_a_note_without_text_ends_with_its_title() -> None:
    template = (
        f"{EACH}《{{{{ note.title }}}}{{% if note.content %}}：{{{{ note.content }}}}{{% endif %}}》{{% endfor %}}"
    )
    notes = [NOTES[0], NOTES[1].model_copy(update={"content": " "[:0]})]
    assert shown(prompt_of(template).render("q", notes, pictures=PICTURES)) == [
        *("《题0：文0。", "7.jpg", "》《题1", "8.jpg", "》")
    ]


@pytest.mark.parametrize("name", [name for name in resource_names("prompts") if "/" not in name])
def test_every_prompt_of_ours_has_a_place_for_images(name: str) -> None:
    notes = [
        note.model_copy(update={"content": content}) for note, content in zip(NOTES, ["a \n", "", "c"], strict=True)
    ]
    prompt = load_prompt(name)
    plain, placed = prompt.render("q", notes), prompt.render("q", notes, pictures=PICTURES)
    assert placed.messages == plain.messages
    parts = shown(placed)
    assert parts[1::2][:3] == ["7.jpg", "8.jpg", "9.jpg"]
    for part, note in zip(parts[::2], notes, strict=False):
        assert part.rstrip().endswith(note.content.strip() or note.title)


def test_several_images_and_notes_without_any_in_every_order() -> None:
    prompt = prompt_of(f"{EACH}{{{{ note.content }}}}{{% endfor %}}问")
    two = [Image("7.jpg", b"1"), Image("7.jpg", b"2")]
    pictures = {7: Pictures(two), 8: Pictures(), 9: PICTURES[9]}
    assert shown(prompt.render("q", NOTES, form=NoteForm("best_last"), pictures=pictures)) == [
        *("文2。", "9.jpg", "文1。文0。", "7.jpg", "7.jpg", "问")
    ]
    cut = prompt.render("q", NOTES, form=NoteForm(max_chars=1), pictures=pictures)
    assert shown(cut) == ["文", "7.jpg", "7.jpg", "文文", "9.jpg", "问"]
    shuffled = prompt.render("q", NOTES, form=NoteForm("shuffled", seed=1), question_id="1", pictures=PICTURES)
    assert list(shuffled.image_notes) == [note.note_idx for note in shuffled.notes]
    assert len({*shuffled.image_places}) == 3


@given(st.lists(st.tuples(st.text(max_size=6), st.text(max_size=6)), min_size=1, max_size=4))
def test_no_text_is_changed_and_no_place_is_lost(texts: list[tuple[str, str]]) -> None:
    notes = [Note(note_idx=i, title=title, content=content) for i, (title, content) in enumerate(texts)]
    pictures = {i: Pictures([Image(f"{i}.jpg", b"x")]) for i in range(len(notes))}
    prompt = prompt_of(f"{EACH}[{{{{ note.title }}}}|{{{{ note.content }}}}]{{% endfor %}}")
    placed = prompt.render("q", notes, pictures=pictures)
    text = placed.messages[-1]["content"]
    assert text == prompt.render("q", notes).messages[-1]["content"]
    ends, end = [], 0
    for note in notes:
        end += len(f"[{note.title}|{note.content}")
        ends.append(end)
        end += 1
    assert list(placed.image_places) == ends
    again = prompt.render("q", notes, pictures=pictures)
    assert again.image_places == placed.image_places


def test_a_prompt_that_is_too_long_keeps_whole_notes(tmp_path: Path) -> None:
    prompt = prompt_of(f"{EACH}{{{{ note.content }}}}{{% endfor %}}问")
    pictures = {note.note_idx: Pictures(PICTURES[note.note_idx].images, 100) for note in NOTES}
    pictures[8] = Pictures(pictures[8].images, 1000)
    fitting = prompt.render("q", NOTES, budget=250, pictures=pictures)
    assert ([note.note_idx for note in fitting.notes], list(fitting.image_notes)) == ([7, 9], [7, 9])
    assert fitting.notes_given == 3
