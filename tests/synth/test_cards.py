"""Text cards of `synth`: facts that answers repeat and that only an image tells."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from qilin_rag.core import extras
from qilin_rag.core.errors import UsageError
from qilin_rag.data import load_dataset
from qilin_rag.data.schema import TABLES
from qilin_rag.data.source import open_source
from qilin_rag.data.text_files import Defect
from qilin_rag.data.validate import validate
from qilin_rag.llms.extractive import Extractive
from qilin_rag.synth import resolve_world, synthesize, text_cards
from tests.conftest import Cli

SIZES = {"notes": 250, "searches": 150, "recommendations": 5, "dqa": 150, "users": 10}
SETTINGS = ["cards=0.7", "shown_if_factoid=1", "factoid_queries=0.8"]


@pytest.fixture(scope="module")
def carded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "cards"
    try:
        text_cards.check_drawing("this test")
    except UsageError as error:
        pytest.skip(str(error))
    synthesize(resolve_world(SIZES, 3, (), SETTINGS), out, images=True)
    return out


def test_only_cards_tell_the_facts_that_answers_repeat(carded: Path) -> None:
    texts = {row["note_idx"]: row["text"] for row in pq.read_table(carded / "cards.parquet").to_pylist()}
    paths = {row["note_idx"]: row["image_path"] for row in pq.read_table(carded / "cards.parquet").to_pylist()}
    notes = {row["note_idx"]: row for row in pq.read_table(carded / "notes").to_pylist()}
    questions = {row["search_idx"]: row for row in pq.read_table(carded / "dqa").to_pylist()}
    told = pq.read_table(carded / "card_answers.parquet").to_pylist()
    assert len(told) > 20
    for row in told:
        asked, note, fact = questions[row["search_idx"]], notes[row["note_idx"]], row["fact"]
        assert asked["query"].endswith(fact.partition("：")[0])
        number = 1 + asked["ref_note_idx_list"].index(row["note_idx"])
        assert f"{number}. {fact}。" in asked["dqa_output"]
        assert fact in texts[row["note_idx"]].split("\n")
        assert note["image_path"][1] == paths[row["note_idx"]]
        assert (carded / paths[row["note_idx"]]).is_file()
    everything = "".join(note["note_title"] + note["note_content"] for note in notes.values())
    assert not any(row["fact"].partition("：")[2] in everything for row in told)
    assert all(len(notes[note]["image_path"]) > 1 for note in texts)
    defects: list[Defect] = []
    validate(open_source(str(carded), list(TABLES)), defects.append)
    assert defects == []


def test_a_reader_answers_with_the_text_of_the_card_alone(carded: Path) -> None:
    texts = {row["note_idx"]: row["text"] for row in pq.read_table(carded / "cards.parquet").to_pylist()}
    told = {str(row["search_idx"]): row for row in pq.read_table(carded / "card_answers.parquet").to_pylist()}
    dataset = load_dataset(str(carded), "shown")
    n_with = n_without = 0
    for question in dataset.questions:
        if (row := told.get(question.id)) is None:
            continue
        notes = list(dataset.notes.get(question.reference_notes))
        read = [
            note.model_copy(update={"content": f"{note.content}\n{texts.get(note.note_idx, '')}"}) for note in notes
        ]
        n_without += row["fact"] in Extractive().read(question.query, notes)
        n_with += row["fact"] in Extractive().read(question.query, read)
    assert n_without == 0
    assert n_with >= 0.9 * len(told)


def test_a_card_shows_its_text(carded: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow: pip install 'qilin-rag[images]'")
    for row in pq.read_table(carded / "cards.parquet").to_pylist():
        if not (path := carded / row["image_path"]).exists():
            continue
        drawn = text_cards.draw_card(row["text"].split("\n")).convert("L")
        with image.open(path) as card:
            assert (card.mode, card.size) == ("L", drawn.size)
            assert card.tobytes() == drawn.tobytes()
        return
    raise AssertionError("no card was drawn")


def test_without_cards_all_is_as_before(tmp_path: Path, cli: Cli) -> None:
    done = cli(
        "synth", "--out", "a", "--notes", 300, "--searches", 20, "--recommendations", 5, "--dqa", 9, "--users", 3
    )
    assert done.code == 0
    assert {path.name for path in Path("a").iterdir()} == {*TABLES, "truth.parquet", "world.yaml", "README.md"} - {
        "image_text"
    }


def test_the_command_needs_the_font_for_cards_alone(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = ["--notes", 300, "--searches", 20, "--recommendations", 5, "--dqa", 9, "--users", 3]
    monkeypatch.setattr(extras, "missing_modules", lambda *modules: [name for name in modules if name == "mplfonts"])
    text_cards.font_path.cache_clear()
    refused = cli("synth", "--out", "a", "--cards", "0.5", *sizes)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "mplfonts" in refused.err
    assert not Path("a").exists()
    assert cli("synth", "--out", "a", "--images", *sizes).code == 0
    wrong = cli("synth", "--out", "b", "--cards", "1.5", *sizes)
    assert (wrong.code, "cards" in wrong.err) == (2, True)
