from __future__ import annotations

import linecache
import sys
from importlib.metadata import EntryPoint
from types import ModuleType
from typing import Any

import pytest

from qilin_rag.core import registry
from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import LLMS, QUERIES, RETRIEVERS, SCORERS, Component, Registry
from qilin_rag.retrievers.bm25.retriever import BM25


@pytest.mark.parametrize("table", [RETRIEVERS, LLMS, SCORERS])
def test_every_name_stands_for_a_component(table: Registry[Component]) -> None:
    for name in table.table():
        assert issubclass(table.resolve(name), Component)


def test_a_component_is_its_configuration() -> None:
    bm25 = RETRIEVERS.create("bm25", {"k1": 1.2})
    assert bm25.changed() == {"k1": 1.2}
    assert bm25.changed({"k1": 1.2, "b": 0.1}) == {"b": 0.4}
    preset = {"model": "m", "extra_body": {"top_k": -1}}
    changes = {"model": "m", "extra_body": {}, "temperature": 0, "top_p": 0.9, "timeout_s": 3}
    assert LLMS.create("openai", changes).changed(preset) == {"extra_body": {}, "top_p": 0.9}
    assert bm25.identity() == {
        "component": "retriever/bm25",
        "version": BM25.version,
        "k1": 1.2,
        "b": 0.4,
        "analyzer": "word",
    }


def test_operational_fields_are_no_part_of_the_identity() -> None:
    a = LLMS.create("openai", {"model": "m", "base_url": "http://127.0.0.1:1/v1", "timeout_s": 3})
    b = LLMS.create("openai", {"model": "m", "base_url": "https://other.example/v1"})
    assert a.identity() == b.identity()
    assert a.identity() != LLMS.create("openai", {"model": "m", "temperature": 0.5}).identity()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("bm52", {}, "retriever 'bm52' does not exist; did you mean 'bm25'?"),
        (
            "zzz",
            {},
            "retriever 'zzz' does not exist; "
            "known: biencoder, bm25, history, hybrid, langchain, mixed, multivector, none",
        ),
        ("bm25", {"k2": 1}, "setting 'k2' does not exist; did you mean 'k1'?"),
        ("qilin_rag.llms.extractive:Extractive", {}, "has no Retriever called 'Extractive'"),
        ("bm25:x", {}, "bm25 takes no argument after a colon"),
        ("trec", {}, "setting 'path' is missing"),
        (":X", {}, "can't be imported"),
        (".m:X", {}, "can't be imported"),
        ("bm25", {"k1": float("inf")}, "setting 'k1' is inf"),
        ("bm25", {"k1": "much"}, "setting 'k1' is 'much'"),
        ("bm25", {"b": 2}, "setting 'b' is 2"),
        ("bm25", {"analyzer": "wrod"}, "'word', 'char' or 'cjk-bigram'"),
        ("no.such.module:X", {}, "can't be imported"),
        ("qilin_rag.retrievers.bm25.retriever:X", {}, "has no Retriever called 'X'"),
        ("pathlib:Path", {}, "has no Retriever called 'Path'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        RETRIEVERS.create(name, settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_third_parties_join_by_entry_point_and_doubles_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("mine", "qilin_rag.retrievers.oracle:Oracle", "qilin_rag.retrievers")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry] if group == "qilin_rag.retrievers" else [])
    assert RETRIEVERS.create("mine", {}).class_path() == "qilin_rag.retrievers.oracle:Oracle"
    taken = EntryPoint("bm25", "other.package:BM25", "qilin_rag.retrievers")
    monkeypatch.setattr(registry, "entry_points", lambda group: [taken])
    with pytest.raises(UsageError, match="two retrievers are called 'bm25'"):
        RETRIEVERS.table()
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("hyde", "other.package:HyDE", group)])
    with pytest.raises(UsageError, match="two queries are called 'hyde'"):
        QUERIES.table()


TYPED_IN = """
from typing import ClassVar
from qilin_rag.retrievers import Retriever

class Mine(Retriever):
    FIRST: ClassVar[int] = {first}

    def search(self, questions, notes, k):
        return [[] for _ in questions]
"""


def test_a_class_that_was_typed_in_is_known_by_its_whole_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    main = ModuleType("__main__")  # as in a notebook: of no file, each cell's text in linecache
    monkeypatch.setitem(sys.modules, "__main__", main)

    def identity(cell: str, text: str) -> dict[str, Any]:
        monkeypatch.setitem(linecache.cache, cell, (len(text), None, text.splitlines(keepends=True), cell))
        exec(compile(text, cell, "exec"), vars(main))
        made: dict[str, Any] = main.Mine().identity()
        return made

    first = identity("<cell 1>", TYPED_IN.format(first=0))
    assert len(first["typed_in_sha256"]) == 64
    assert identity("<cell 2>", f"unrelated = 1\n{TYPED_IN.format(first=0)}") == first
    assert identity("<cell 3>", TYPED_IN.format(first=50)) != first
