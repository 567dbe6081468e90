"""The Chinese tutorials are those in English: the same pages, commands, outputs, files, names and links."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
TUTORIALS = sorted((DOCS / "zh" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^( *)(`{3,})(\w+)([^\n`]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
by_name = pytest.mark.parametrize("chinese", TUTORIALS, ids=[path.stem for path in TUTORIALS])


def read(path: Path) -> tuple[list[tuple[str, ...]], str]:
    """Return the fenced blocks of a page, and its text without them."""
    page = path.read_text(encoding="utf-8")
    return [found.groups() for found in BLOCK.finditer(page)], BLOCK.sub("", page)


def links(path: Path, text: str) -> Counter[Path]:
    """Return the files that a page links to, the translation of a tutorial counting as the tutorial."""
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text)]
    files = [(path.parent / target).resolve() for target in targets if "://" not in target]
    return Counter(DOCS / Path(*file.relative_to(DOCS).parts[file.is_relative_to(DOCS / "zh") :]) for file in files)


def test_every_tutorial_is_translated() -> None:
    assert [path.name for path in TUTORIALS] == sorted(path.name for path in (DOCS / "tutorials").glob("*.md"))


@by_name
def test_commands_outputs_and_files_are_the_same(chinese: Path) -> None:
    blocks, text = read(chinese)
    english_blocks, english = read(DOCS / "tutorials" / chinese.name)
    assert blocks == english_blocks
    assert len(re.findall("^## ", text, re.MULTILINE)) == len(re.findall("^## ", english, re.MULTILINE))
    assert len(re.findall(r"^\|", text, re.MULTILINE)) == len(re.findall(r"^\|", english, re.MULTILINE))


@by_name
def test_names_and_links_are_the_same(chinese: Path) -> None:
    path = DOCS / "tutorials" / chinese.name
    (_, text), (_, english) = read(chinese), read(path)
    assert links(chinese, text) == links(path, english)
    names = set(re.findall(r"`([^`\n]+)`", english))
    assert names <= set(re.findall(r"`([^`\n]+)`", text))


@pytest.mark.parametrize("path", sorted((DOCS / "zh").rglob("*.md")), ids=lambda path: path.stem)
def test_chinese_reads_as_chinese(path: Path) -> None:
    _, text = read(path)
    prose = re.sub(r"`[^`\n]+`|\]\([^)]+\)", "", text)
    assert not re.findall(r"[\u4e00-\u9fff][,;:?!]", prose)  # full-width punctuation behind Chinese
    assert not re.findall(r"[\u4e00-\u9fff][A-Za-z0-9]|[A-Za-z0-9][\u4e00-\u9fff]", prose)  # a space between the two
    assert not re.findall(r"[：。，）”]\*\*[\u4e00-\u9fff]", prose)  # GitHub would show the stars
