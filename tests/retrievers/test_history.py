"""The user's history as a retriever: the mean vector of recently clicked notes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import RETRIEVERS
from qilin_rag.core.types import Note, Question
from qilin_rag.data.notes import NoteStore, hold_notes
from qilin_rag.data.requests import HISTORY
from qilin_rag.retrievers.dense.opened import OpenedIndex
from qilin_rag.retrievers.dense.retriever import BiEncoder
from tests.conftest import NOTES, Cli

pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
pytest.importorskip("faiss", reason="needs faiss-cpu")
pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")

from qilin_rag.retrievers.dense.history import UserHistory

TEXTS = [(note["title"], note["content"]) for note in NOTES]
IDS = [10, 11, 12, 13, 14]


def store(ids: Sequence[int] = IDS) -> NoteStore:
    return hold_notes(
        [Note(note_idx=i, title=title, content=content) for i, (title, content) in zip(ids, TEXTS, strict=True)]
    )


def request(history: Sequence[int], query: str = "手冲水温") -> Question:
    return Question(id="1", query=query, references=[], meta={HISTORY: list(history)})


def order(retriever: BiEncoder, question: Question, notes: NoteStore | None = None) -> list[int]:
    [hits] = retriever.search([question], notes or store(), 5)
    return [hit.note_idx for hit in hits]


def unit(vector: Any) -> Any:
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize(("query_weight", "decay", "last"), [(0.0, 0.5, 10), (0.25, 1.0, 10), (0.0, 0.5, 1)])
def test_scores_are_cosines_with_the_weighted_mean(
    made_model: Path, query_weight: float, decay: float, last: int
) -> None:
    retriever = UserHistory(model=str(made_model), query_weight=query_weight, decay=decay, last=last)
    notes, question = store(), request([13, 99, 10, 13])  # there is no note 99
    [hits] = retriever.search([question], notes, 5)
    plain = BiEncoder(model=str(made_model))
    vectors = plain.embed_notes([note.text for note in notes]).astype(np.float16).astype(np.float64)
    by_id = dict(zip(IDS, vectors, strict=True))
    user = unit(by_id[13] + (decay**2 * by_id[10] if last > 2 else 0))
    vector = unit(query_weight * plain.embed_queries([question.query])[0] + (1 - query_weight) * user)
    expected = {note_idx: float(of_note @ vector) for note_idx, of_note in by_id.items()}
    assert [hit.note_idx for hit in hits] == sorted(expected, key=lambda note_idx: -expected[note_idx])
    assert [hit.score for hit in hits] == pytest.approx([expected[hit.note_idx] for hit in hits], abs=1e-5)


def test_a_request_without_a_history_is_searched_by_its_query(made_model: Path) -> None:
    retriever, plain = UserHistory(model=str(made_model)), BiEncoder(model=str(made_model))
    asked = [request([]), request([99]), request([13]), request([], query=" "), request([13], query="")]
    rankings = retriever.search(asked, store(), 5)
    [by_query] = plain.search(asked[:1], store(), 5)
    assert rankings[0] == rankings[1] == by_query
    assert (
        [hit.note_idx for hit in rankings[2]]
        == [hit.note_idx for hit in rankings[4]]
        != [hit.note_idx for hit in by_query]
    )
    assert rankings[3] == []
    assert UserHistory(model=str(made_model), query_weight=1).search(asked[2:3], store(), 5) == [by_query]


class SomeVectors(UserHistory):
    """An index without vectors for the notes 11 and 13, as of images that can't be read."""

    def open_index(self, notes: NoteStore) -> OpenedIndex:
        whole = super().open_index(notes)
        rows = np.array([0, 2, 4])
        return whole._replace(vectors=whole.vectors[rows], rows=rows)


def test_a_note_without_a_vector_is_passed_over(made_model: Path) -> None:
    whole, some = UserHistory(model=str(made_model), decay=1), SomeVectors(model=str(made_model), decay=1)
    for given, found in (([11, 12, 13, 10], [12, 10]), ([14], [14])):
        expected = [note_idx for note_idx in order(whole, request(found)) if note_idx in (10, 12, 14)]
        assert order(some, request(given)) == expected
    by_query = [note_idx for note_idx in order(whole, request([])) if note_idx in (10, 12, 14)]
    assert order(some, request([11, 13])) == by_query


def test_opposite_notes_give_no_direction_and_no_nan(made_model: Path) -> None:
    class Opposite(UserHistory):
        def open_index(self, notes: NoteStore) -> OpenedIndex:
            whole = super().open_index(notes)
            return whole._replace(vectors=np.array([[1, 0], [-1, 0], [0, 1], [0, 1], [1, 0]], np.float16))

    [hits] = Opposite(model=str(made_model), decay=1).search([request([10, 11])], store(), 5)
    assert [hit.score for hit in hits] == [0.0] * 5


def test_ids_do_not_matter(made_model: Path) -> None:
    retriever = UserHistory(model=str(made_model))
    other = [7, 90_000, 3, 5, 1]
    renamed = dict(zip(IDS, other, strict=True))
    for history in ([10], [12, 14], [14, 13, 11]):
        found = order(retriever, request(history))
        again = order(UserHistory(model=str(made_model)), request([renamed[i] for i in history]), store(other))
        assert [renamed[note_idx] for note_idx in found] == again


def test_its_index_is_that_of_the_biencoder(made_model: Path, tmp_path: Path) -> None:
    notes = store()
    BiEncoder(model=str(made_model)).search([request([])], notes, 1)
    retriever = UserHistory(model=str(made_model))
    assert retriever.has_index(notes)
    assert retriever.identity() != UserHistory(model=str(made_model), decay=1).identity()
    assert retriever.identity()["component"] == "retriever/history"
    retriever.write_index(notes, tmp_path / "index")
    named = {"model": str(made_model), "index": tmp_path / "index"}
    assert order(UserHistory(**named), request([10])) == order(retriever, request([10]))
    assert len(BiEncoder(**named).search([request([])], notes, 5)[0]) == 5
    hybrid = RETRIEVERS.create("hybrid", {"of": ["bm25", {"name": "history", "model": str(made_model)}]})
    assert len(hybrid.search([request([10])], notes, 5)[0]) == 5


def test_questions_without_histories_are_an_error(made_model: Path, cli: Cli) -> None:
    with pytest.raises(UsageError, match="recent_clicked_note_idxs"):
        UserHistory(model=str(made_model)).search([Question(id="1", query="q", references=[])], store(), 1)
    done = cli("retrieve", "--retriever", "history", "--set", f"retriever.model={made_model}", "--out", "x.trec")
    assert (done.code, done.err.splitlines()[-1].startswith("error: retriever history: these questions")) == (2, True)
    assert not Path("x.trec").exists()
