from __future__ import annotations

from pathlib import Path

import pytest

from qilin_rag.config.resources import resource_names
from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import estimate_tokens
from qilin_rag.core.types import Note
from qilin_rag.prompts.answer import Prompt, load_prompt
from qilin_rag.prompts.templates import PromptTooLongError

NOTES = [Note(note_idx=i, title=f"标题{i}", content="内容" * 20) for i in range(5)]
PLAIN = Prompt(
    name="plain",
    language="zh",
    description="",
    with_notes="{% for note in notes %}{{ note.title }}{{ note.content }}{% endfor %}问{{ query }}",
    without_notes="问{{ query }}",
)


SHIPPED = {
    "default",
    "concise",
    "cite",
    "strict",
    "structured",
    "english",
    "no-system",
    "question-first",
    "bare",
}


def shipped(name: str, notes: int = 2) -> list[dict[str, str]]:
    return load_prompt(name).render("怎么洗", NOTES[:notes]).messages


def test_shipped_prompts_load() -> None:
    assert set(resource_names("prompts")) == SHIPPED
    for name in SHIPPED:
        given = shipped(name)
        assert all("标题0" not in message["content"] for message in shipped(name, notes=0))
        assert "怎么洗" in given[-1]["content"]
        assert "标题1" in given[-1]["content"]


def test_shipped_prompts_all_ask_something_else_and_say_why() -> None:
    prompts = [load_prompt(name) for name in SHIPPED]
    assert len({prompt.sha256 for prompt in prompts}) == len({prompt.description for prompt in prompts}) == len(SHIPPED)
    assert len({repr(shipped(name)) for name in SHIPPED}) == len(SHIPPED)
    for name, prompt in zip(SHIPPED, prompts, strict=True):
        assert prompt.name == name
        assert resource_names("prompts")[name].read_text(encoding="utf-8").startswith("# ")
        assert shipped(name)[-1]["content"].endswith({"zh": "回答：", "en": "Answer:"}[prompt.language])


def test_each_shipped_prompt_differs_from_the_default_as_it_says() -> None:
    system, asked = (message["content"] for message in shipped("default"))
    assert shipped("no-system") == [{"role": "user", "content": f"{system}\n\n{asked}"}]
    [bare] = shipped("bare")
    assert asked.endswith("\n\n" + bare["content"])
    assert shipped("question-first")[-1]["content"] == f"问题：怎么洗\n\n{asked}"
    for name, added in {
        "cite": "[第n篇](#)",
        "concise": "不超过100字",
        "strict": "只写这一句：根据这些笔记无法回答。",
        "structured": "依次写三个部分",
    }.items():
        assert added in shipped(name)[-1]["content"]
        assert added not in asked
        assert shipped(name)[0]["content"] == system
    assert shipped("strict", notes=0) == shipped("default", notes=0)
    assert not any("\u4e00" <= char <= "\u9fff" for char in load_prompt("english").with_notes)


def test_notes_and_no_notes_have_templates_of_their_own() -> None:
    assert PLAIN.render("q", []).messages == [{"role": "user", "content": "问q"}]
    assert PLAIN.render("q", NOTES[:1]).messages[0]["content"].startswith("标题0内容")


def test_whole_notes_are_dropped_from_the_end_never_the_question() -> None:
    whole = PLAIN.render("q", NOTES)
    assert (len(whole.notes), whole.notes_given) == (5, 5)
    for budget in range(3, estimate_tokens(whole.messages[0]["content"]) + 1):
        rendered = PLAIN.render("q", NOTES, budget)
        content = rendered.messages[0]["content"]
        assert rendered.notes == NOTES[: len(rendered.notes)]
        assert estimate_tokens(content) <= budget
        assert content.endswith("问q")
        assert sum(note.title in content for note in NOTES) == len(rendered.notes)
    with pytest.raises(PromptTooLongError, match="the budget is 1"):
        PLAIN.render("q", NOTES, 1)


def test_text_of_notes_and_queries_is_never_a_template() -> None:
    note = Note(note_idx=1, title="{{ query.__class__ }}", content="{% for x in y %}")
    rendered = PLAIN.render("{{ 7 * 7 }}", [note])
    assert "{{ query.__class__ }}{% for x in y %}问{{ 7 * 7 }}" in rendered.messages[0]["content"]


def test_the_hash_covers_the_templates_only() -> None:
    assert PLAIN.sha256 == PLAIN.model_copy(update={"name": "other", "description": "x"}).sha256
    assert PLAIN.sha256 != PLAIN.model_copy(update={"system": "x"}).sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("with_notes: '{{ qurey }}'", "variable 'qurey' does not exist; did you mean 'query'"),
        ("with_notes: '{{ notes[0].tittle }}'", "has no attribute 'tittle'"),
        ("with_notes: '{% for %}'", "with_notes, line 1"),
        ('with_notes: "{{ query.__class__.__mro__ }}"', "unsafe"),
        ("with_notes: \"{{ ''.__class__.__base__.__subclasses__() }}\"", "unsafe"),
        ('with_notes: "{{ query.format_map(notes) ~ notes.append(1) }}"', "unsafe"),
        ("with_notes: '{% for i in range(99999999) %}{% endfor %}'", "too big"),
        ("with_notes: '{{ 1 // 0 }}'", "can't be rendered"),
        ("with_notes: 3", "setting 'with_notes' is 3"),
        ("wiht_notes: x", "setting 'with_notes' is missing"),
        ("with_notes: x\nextra: 1", "setting 'extra' does not exist"),
    ],
)
def test_a_wrong_prompt_is_refused_before_anything_is_spent(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"language: zh\ndescription: x\nwithout_notes: x\n{text}\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_prompt(str(path))
    assert message in str(caught.value)


def test_unknown_prompt_names_get_suggestions() -> None:
    with pytest.raises(UsageError, match="prompt 'defualt' does not exist; did you mean 'default'"):
        load_prompt("defualt")
    with pytest.raises(UsageError, match="can't be read"):
        load_prompt("nowhere.yaml")
