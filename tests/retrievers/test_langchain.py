from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import RETRIEVERS
from qilin_rag.core.ties import ranked
from qilin_rag.core.types import Hit
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.retrievers.langchain import LangChainRetriever
from tests.conftest import Cli

pytest.importorskip("langchain_core", reason="needs LangChain: pip install 'qilin-rag[langchain]'")

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

FACTORIES = """
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

class Listed(BaseRetriever):
    rows: list[dict]
    k: int = 100

    def _get_relevant_documents(self, query, *, run_manager):
        return [Document(page_content=query, metadata=row) for row in self.rows[: self.k]]

def rows(rows):
    return Listed(rows=rows)

def of_notes(notes, k):
    return Listed(rows=[{"note_idx": note.note_idx} for note in notes], k=k)

def broken():
    raise RuntimeError("no index")

def number():
    return 3

made = Listed(rows=[{"note_idx": 10}])
"""


@pytest.fixture
def module(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's own, imported anew for each test."""
    name = f"finders_{own_folder.name.replace('-', '_')}"
    (own_folder / f"{name}.py").write_text(FACTORIES, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def dataset(data_dir: Path) -> Dataset:
    return load_dataset(str(data_dir))


Find = Callable[..., list[tuple[int, float]]]


@pytest.fixture
def find(module: str, dataset: Dataset) -> Find:
    """The (note_idx, score) pairs that the first question gets of a retriever with these rows as its documents."""

    def search(*rows: dict[str, Any], k: int = 5, **fields: Any) -> list[tuple[int, float]]:
        retriever = RETRIEVERS.create(f"langchain:{module}:rows", {"settings": {"rows": list(rows)}, **fields})
        [hits] = retriever.search(dataset.questions[:1], dataset.notes, k)
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        return [(hit.note_idx, hit.score) for hit in hits]

    return search


def test_scores_are_the_documents_own(find: Find) -> None:
    assert find({"note_idx": 12, "score": 3.5}, {"note_idx": 10, "score": 1}) == [(12, 3.5), (10, 1.0)]
    assert find({"note_idx": 12, "score": 3.5}) == [(12, 3.5)]


def test_some_ties_go_by_hash_and_where_all_are_tied_the_place_counts(find: Find) -> None:
    tied = [{"note_idx": i, "score": 1.0} for i in (13, 11, 12)]
    assert find(*tied, k=2) == [(13, 3.0), (11, 2.0)]
    found = find({"note_idx": 14, "score": 2.0}, *tied)
    assert found == find({"note_idx": 14, "score": 2.0}, *tied[::-1])
    assert found[0] == (14, 2.0) and sorted(found[1:]) == [(11, 1.0), (12, 1.0), (13, 1.0)]


@pytest.mark.parametrize("score", [None, math.nan, "high", math.inf])
def test_without_scores_the_place_counts(find: Find, score: object) -> None:
    assert find({"note_idx": 12, "score": 3.5}, {"note_idx": 10, "score": score}) == [(12, 2.0), (10, 1.0)]


def test_distances_do_not_turn_the_ranking_round(find: Find, caplog: pytest.LogCaptureFixture) -> None:
    assert find({"note_idx": 12, "score": 0.1}, {"note_idx": 10, "score": 0.7}) == [(12, 2.0), (10, 1.0)]
    assert "in 1 of 1 rankings the scores rise down the list" in caplog.text


def test_each_note_counts_once_and_k_cuts(find: Find) -> None:
    chunks = [{"note_idx": i} for i in (12, 12, 10, 12, 11)]
    assert find(*chunks) == [(12, 5.0), (10, 3.0), (11, 1.0)]
    assert find(*chunks, k=2) == [(12, 5.0), (10, 3.0)]
    assert find() == []


@pytest.mark.parametrize("value", [12, "12", 12.0])
def test_ids_may_stand_under_another_key(find: Find, value: object) -> None:
    assert find({"id": value}, id_key="id") == [(12, 1.0)]


@pytest.mark.parametrize(
    "metadata", [{}, {"note_idx": None}, {"note_idx": "a"}, {"note_idx": 1.5}, {"note_idx": True}, {"note_idx": "1_2"}]
)
def test_a_document_without_a_note_is_named(find: Find, metadata: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"metadata\['note_idx'\] is .*begins '冷萃咖啡怎么做'.*id_key") as caught:
        find({"note_idx": 12}, metadata)
    assert "\n" not in str(caught.value)


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.floats(allow_nan=True)), max_size=12), st.integers(1, 8))
def test_any_documents_become_a_ranking(rows: list[tuple[int, float | None]], k: int) -> None:
    documents = [Document(page_content="", metadata={"note_idx": i, "score": score}) for i, score in rows]
    retriever = LangChainRetriever(spec=f"{__name__}:Returning", settings={"documents": documents})
    [hits] = retriever.search([_question("问")], None, k)  # type: ignore[arg-type]
    expected = list(dict.fromkeys(i for i, _ in rows))
    assert len(hits) == min(k, len(expected))
    assert hits == ranked({hit.note_idx: hit.score for hit in hits}, "问")  # a hash orders equal scores
    if len({hit.score for hit in hits}) == len(hits) == len(expected):
        assert [hit.note_idx for hit in hits] == expected


def test_factories_get_what_they_have_parameters_for(module: str, dataset: Dataset) -> None:
    def found(name: str, **settings: Any) -> list[int]:
        retriever = RETRIEVERS.create(f"langchain:{name}", settings)
        [hits] = retriever.search(dataset.questions[:1], dataset.notes, 3)
        return [hit.note_idx for hit in hits]

    assert found(f"{module}:of_notes") == [10, 11, 12]
    assert found(f"{module}:made") == [10]
    rows = [{"note_idx": i} for i in (14, 13, 12, 11)]
    assert found(f"{module}:Listed", settings={"rows": rows}) == [14, 13, 12]


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("no.such.module:make", {}, "can't be imported"),
        ("MODULE:absent", {}, "MODULE has no BaseRetriever, and no function that makes one, called 'absent'"),
        ("MODULE:number", {}, "makes a int, not a BaseRetriever"),
        ("MODULE:broken", {}, "MODULE:broken failed: RuntimeError: no index"),
        ("MODULE:made", {"settings": {"k": 3}}, "takes no settings"),
        ("MODULE", {}, "expected langchain:package.module:factory"),
        ("MODULE:rows", {"settings": {"api_key": "x"}}, "seems to hold a key"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    module: str, dataset: Dataset, spec: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        retriever = RETRIEVERS.create("langchain:" + spec.replace("MODULE", module), settings)
        retriever.search(dataset.questions, dataset.notes, 3)
    assert message.replace("MODULE", module) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_factory_is_what_its_file_says(module: str, own_folder: Path) -> None:
    retriever = RETRIEVERS.create(f"langchain:{module}:made", {})
    before = retriever.identity()
    assert RETRIEVERS.create(f"langchain:{module}:made", {"max_concurrency": 1}).identity() == before
    assert RETRIEVERS.create(f"langchain:{module}:made", {"id_key": "id"}).identity() != before
    path = own_folder / f"{module}.py"
    path.write_text(path.read_text() + "\n# edited\n")
    assert retriever.identity() != before


@pytest.mark.parametrize("text", ["retriever: langchain:os:system", "retriever: {name: langchain, spec: 'os:system'}"])
def test_a_file_can_not_name_code(own_folder: Path, text: str) -> None:
    path = own_folder / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match="must be a registered name"):
        resolve_run({}, file=path)


def test_a_run(module: str, cli: Cli, data_dir: Path) -> None:
    done = cli("run", "--data", data_dir, "--retriever", f"langchain:{module}:of_notes", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["metrics"]["recall@5"]["value"] == 1.0


def _question(query: str) -> Any:
    from qilin_rag.core.types import Question

    return Question(id="1", query=query, references=[])


class Returning(BaseRetriever):  # type: ignore[misc]
    documents: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return list(self.documents)


@pytest.mark.parametrize("name", ["bm25", "oracle", "random", "none"])
def test_ours_are_handed_out(dataset: Dataset, name: str) -> None:
    ours = RETRIEVERS.create(name, {})
    theirs = ours.as_langchain(dataset.notes, k=2, questions=dataset.questions)
    assert isinstance(theirs, BaseRetriever)
    question = dataset.questions[1]
    [hits] = ours.search([question], dataset.notes, 2)
    documents = theirs.invoke(question.query)
    assert [Hit(**{field: document.metadata[field] for field in Hit.model_fields}) for document in documents] == hits
    for document, note in zip(documents, dataset.notes.get([hit.note_idx for hit in hits]), strict=True):
        assert document.page_content == f"{note.title}\n{note.content}"
        assert (document.metadata["title"], document.id) == (note.title, str(note.note_idx))


def test_a_query_of_ones_own_and_a_note_without_title(dataset: Dataset) -> None:
    [first, *_] = RETRIEVERS.create("bm25", {}).as_langchain(dataset.notes).invoke("想辞职")
    assert first.page_content == "今天也是想辞职的一天😭"
    assert RETRIEVERS.create("oracle", {}).as_langchain(dataset.notes).invoke("想辞职") == []


def test_many_calls_at_once_build_one_index(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = RETRIEVERS.create("bm25", {})
    at_once, most = 0, 0
    lock = threading.Lock()
    search = type(ours).search

    def counted(self: Any, *arguments: Any) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        found = search(self, *arguments)
        with lock:
            at_once -= 1
        return found

    monkeypatch.setattr(type(ours), "search", counted)
    queries = [question.query for question in dataset.questions] * 8
    rankings = ours.as_langchain(dataset.notes, k=1).batch(queries)
    assert most == 1
    expected = [hits[0].note_idx for hits in ours.search(dataset.questions, dataset.notes, 1)] * 8
    assert [documents[0].metadata["note_idx"] for documents in rankings] == expected


def test_ours_through_langchain_and_back_is_the_same(dataset: Dataset, own_folder: Path, module: str) -> None:
    path = own_folder / f"{module}.py"
    path.write_text(
        path.read_text()
        + "\nfrom qilin_rag.core.registry import RETRIEVERS\n"
        + "def bm25(notes, k):\n    return RETRIEVERS.create('bm25', {}).as_langchain(notes, k)\n"
    )
    there_and_back = RETRIEVERS.create(f"langchain:{module}:bm25", {})
    expected = RETRIEVERS.create("bm25", {}).search(dataset.questions, dataset.notes, 3)
    assert there_and_back.search(dataset.questions, dataset.notes, 3) == expected
