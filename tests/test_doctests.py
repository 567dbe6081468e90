"""The examples of helpers run as written; those of exported names and components run in other tests."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.test_words import DOCUMENTED, PACKAGE

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
ELSEWHERE = {f"{thing.__module__}.{thing.__qualname__}" for thing in DOCUMENTED.values()}
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


def is_elsewhere(test: doctest.DocTest) -> bool:
    return any(test.name == name or test.name.startswith(f"{name}.") for name in ELSEWHERE)


@pytest.mark.parametrize("package", sorted({name.split(".")[1] for name in MODULES}))
def test_the_examples_of_helpers_run(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    output: list[str] = []
    for name in MODULES:
        if name.split(".")[1] == package:
            for test in doctest.DocTestFinder().find(importlib.import_module(name)):
                if not is_elsewhere(test):
                    runner.run(test, out=output.append)
    assert not runner.failures, "".join(output)
