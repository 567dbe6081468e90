"""The shape of the package: few rooms, imports one way, a name for each class."""

from __future__ import annotations

import ast
import runpy
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]
PACKAGE = CHECKOUT / "qilin_rag"
LAYERS = [  # of docs and the README, from the top; those of one line know nothing of each other
    {"cli"},
    {"viewer", "api"},
    {"agreement"},
    {"judging", "reports"},
    {"pipeline"},
    {"rankers"},
    {"retrievers", "scorers", "analysis", "synth"},
    {"llms"},
    {"data", "prompts", "models"},
    {"config"},
    {"core"},
]
OF_TWO_KINDS = {"BM25", "BiEncoder", "Random"}  # a retriever and a ranker of one method


def test_rooms_and_arrows_are_few_and_go_one_way() -> None:
    pytest.importorskip("grimp", reason="needs import-linter: pip install 'qilin-rag[dev]'")
    arrows = runpy.run_path(str(CHECKOUT / "benchmarks" / "package_arrows.py"))["arrows"]
    found = {module.rpartition(".")[2]: {each.rpartition(".")[2] for each in to} for module, to in arrows().items()}
    assert len(found) <= 20 and sum(map(len, found.values())) <= 90
    level = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
    assert found.keys() == {*level, "__main__"}
    upward = [(room, to) for room in level for to in found[room] if level[to] <= level[room]]
    assert upward == []


def test_the_contract_is_exhaustive_and_has_these_layers() -> None:
    linter = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [contract] = [each for each in linter["contracts"] if each["type"] == "layers"]
    assert contract["exhaustive"] and contract["containers"] == ["qilin_rag"]
    assert [{name.strip() for name in line.split("|")} for line in contract["layers"]] == LAYERS


def test_nothing_is_loose_at_the_root() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_a_class_has_a_name_of_its_own() -> None:
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    assert {name: where for name, where in places.items() if len(where) > 1 and name not in OF_TWO_KINDS} == {}
    assert all(len(places[name]) == 2 for name in OF_TWO_KINDS)
