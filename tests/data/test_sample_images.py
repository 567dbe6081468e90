"""The bundled sample with images: answers that only a picture holds, and what its script draws."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docgen.sample_images import OUT, Picture, pictures, read_source, write
from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import mixed_tokens, normalise
from qilin_rag.core.types import Note, Question
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.data.catalogue import open_catalogue
from qilin_rag.data.note_images import NoteImages
from qilin_rag.data.source import open_source
from qilin_rag.llms.extractive import Extractive
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.scorers.contains import Contains
from qilin_rag.synth import text_cards

if TYPE_CHECKING:
    from PIL.Image import Image as Drawn

MAX_BYTES = 600_000
LARGEST_DIFFERENCE = 20  # of 0..255, by means of 8 x 8 pixels; encoding changes 9 at most, one other digit 42


@pytest.fixture(scope="module")
def sample() -> Dataset:
    return load_dataset("sample-images")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        text_cards.check_drawing("this test")
    except UsageError as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("drawn")
    write(out)
    return out


def test_size_and_label(sample: Dataset) -> None:
    assert (sample.name, sample.label) == ("sample-images", "bundled sample with images, not Qilin")
    assert len(sample.notes) >= 40
    assert len(of_kind(sample, "image")) == 20
    assert len(of_kind(sample, "text")) == 8
    assert {question.id[:3] for question in of_kind(sample, "image")} == {"img"}
    assert sum(file.stat().st_size for file in OUT.rglob("*") if file.is_file()) < MAX_BYTES


def test_every_image_can_be_read_and_none_is_left_over() -> None:
    pytest.importorskip("PIL")
    catalogue = open_catalogue(open_source("sample-images"))
    named = [path for _, _, path in all_paths()]
    images, left_out = NoteImages(catalogue.notes).read_all(named)
    assert len(images) == len(named) == len(set(named))
    assert not left_out
    assert set(named) == {file.relative_to(OUT).as_posix() for file in OUT.glob("image/**/*.*")}
    assert {Path(name).suffix for name in named} == {".png", ".webp", ".jpeg"}
    table = catalogue.notes.read(catalogue.notes.note_idxs.tolist(), ["image_path"])["image_path"].to_pylist()
    assert [path for paths in table for path in paths] == named
    assert {len(paths) for paths in table} == {0, 1, 2, 3}


def test_answers_of_image_questions_are_in_no_text(sample: Dataset) -> None:
    texts = [" ".join(mixed_tokens(normalise(note.text))) for note in sample.notes]
    for question in of_kind(sample, "image"):
        answer = " ".join(mixed_tokens(normalise(question.references[0].removesuffix("[第1篇](#)"))))
        assert not any(answer in text for text in texts), question.id
        own = bigrams(*[note.text for note in sample.notes.get(question.reference_notes)])
        assert not own & bigrams(question.query), question.id


def test_only_the_text_of_images_finds_and_answers_image_questions(sample: Dataset, tmp_path: Path) -> None:
    for name in ("notes", "dqa"):
        (tmp_path / f"{name}.jsonl").write_bytes((OUT / f"{name}.jsonl").read_bytes())
    lines: dict[int, list[str]] = {}
    for note_idx, picture, _ in all_paths():
        lines.setdefault(note_idx, []).extend(picture.card or [])
    rows = [
        note.model_copy(update={"content": "\n".join([note.content, *lines.get(note.note_idx, [])])})
        for note in sample.notes
    ]
    (tmp_path / "notes.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")
    read = load_dataset(str(tmp_path))
    for kind, by_text, by_images in (("image", 0, 1), ("text", 1, 1)):
        questions = of_kind(sample, kind)
        assert recall_and_contains(sample, questions) == (by_text, by_text), kind
        assert recall_and_contains(read, questions) == (by_images, by_images), kind


def test_the_script_writes_what_is_bundled(drawn: Path) -> None:
    from PIL import Image

    for name in ("notes.jsonl", "dqa.jsonl"):
        assert (drawn / name).read_bytes() == (OUT / name).read_bytes()
    for _, picture, path in all_paths():
        with Image.open(OUT / path) as bundled, Image.open(drawn / path) as again:
            assert bundled.format == again.format == picture.form.upper()
            assert difference(bundled, picture.draw()) <= LARGEST_DIFFERENCE, path
            assert difference(bundled, again) <= LARGEST_DIFFERENCE, path


def test_one_other_digit_is_a_difference(drawn: Path) -> None:
    card = text_cards.draw_card(["水温", "鸡翅 190度16分钟"])
    assert difference(card, text_cards.draw_card(["水温", "鸡翅 190度15分钟"])) > LARGEST_DIFFERENCE


@pytest.mark.slow
def test_ocr_reads_the_cards() -> None:
    read = pytest.importorskip("rapidocr").RapidOCR()
    for _, picture, path in list(all_paths())[::6]:
        seen = "".join(read(OUT / path).txts or []).replace(" ", "")
        for line in picture.card or []:
            assert line.replace(" ", "") in seen, path


def all_paths() -> Iterator[tuple[int, Picture, str]]:
    for note_idx, note in enumerate(read_source()["notes"]):
        for picture in pictures(note_idx, note):
            yield note_idx, picture, picture.path


def difference(one: Drawn, other: Drawn) -> float:
    from PIL import ImageChops

    shrunk = [image.convert("RGB").reduce(8) for image in (one, other)]
    return float(max(largest for _, largest in ImageChops.difference(*shrunk).getextrema()))


def of_kind(sample: Dataset, kind: str) -> list[Question]:
    return [question for question in sample.questions if question.meta["kind"] == kind]


def bigrams(*texts: str) -> set[str]:
    return {a + b for text in texts for a, b in pairwise(mixed_tokens(normalise(text)))}


def recall_and_contains(dataset: Dataset, questions: list[Question]) -> tuple[float, float]:
    hits = BM25().search(questions, dataset.notes, 5)
    given: list[list[Note]] = [list(dataset.notes.get([hit.note_idx for hit in ranking])) for ranking in hits]
    right = [
        question.reference_notes[0] in [note.note_idx for note in notes]
        for question, notes in zip(questions, given, strict=True)
    ]
    answers = [Extractive().read(question.query, notes) for question, notes in zip(questions, given, strict=True)]
    contained = Contains().score_answers(answers, [question.references for question in questions])
    return sum(right) / len(right), sum(contained) / len(contained)
