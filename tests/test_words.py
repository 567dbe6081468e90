"""The words of the package: how docstrings begin, what a public name documents, and help that fits 80 columns."""

from __future__ import annotations

import ast
import doctest
import inspect
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import qilin_rag as qr
from qilin_rag.config.setting_docs import setting_docs
from qilin_rag.core.registry import ENGINES, LLMS, QUERIES, RANKERS, RETRIEVERS, SCORERS

PACKAGE = Path(qr.__file__).parent
PACKAGES = [
    "core",
    "config",
    "models",
    "data",
    "prompts",
    "retrievers",
    "llms",
    "scorers",
    "rankers",
    "synth",
    "analysis",
    "pipeline",
    "judging",
    "reports",
    "agreement",
    "api",
    "cli",
    "viewer",
]  # whose words are in house style
MOST_WHERE = 20
BANNED = re.compile(r"\b((go(es|ing)?|went) on|sittings?|(stands|lies) in)\b", re.IGNORECASE)
EXPORTED = {name: getattr(qr, name) for name in qr.__all__ if name != "__version__"}
COMPONENTS = {
    f"{registry.kind}/{name}": registry.resolve(name)
    for registry in (RETRIEVERS, QUERIES, LLMS, ENGINES, RANKERS, SCORERS)
    for name in registry._builtin
}
DOCUMENTED = {
    name: thing for name, thing in {**EXPORTED, **COMPONENTS}.items() if thing.__module__.split(".")[1] in PACKAGES
}


def sources() -> Iterator[tuple[Path, str]]:
    for package in PACKAGES:
        for path in sorted((PACKAGE / package).rglob("*.py")):
            yield path, path.read_text(encoding="utf-8")


def texts_in(source: str) -> Iterator[tuple[int, str]]:
    """Yield every string (docstrings and messages) and every comment with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def docstrings_in(source: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of modules, classes and functions, and the texts under fields and constants."""
    for node in ast.walk(ast.parse(source)):
        for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            match statement:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield statement.lineno, text


def parameters(thing: Any) -> list[str]:
    """Return the names that a caller of a class or function can give."""
    if inspect.isclass(thing) and issubclass(thing, BaseModel):
        return list(thing.model_fields)
    if inspect.isclass(thing) and issubclass(thing, BaseException):
        return ["message"]
    return list(inspect.signature(thing).parameters)


def section(docstring: str, *names: str) -> str:
    """Return the text of these sections of a docstring; empty if there are none."""
    found = re.findall(rf"^(?:{'|'.join(names)}):\n((?:[ ].*\n?)+)", docstring, re.MULTILINE)
    return "\n".join(found)


def test_no_docstring_begins_with_what_or_of() -> None:
    begun = [
        f"{path.relative_to(PACKAGE)}:{line}: {text.strip()[:60]}"
        for path, source in sources()
        for line, text in docstrings_in(source)
        if re.match(r"\s*(What|Of)\b", text)
    ]
    assert begun == []


def test_a_plain_word_is_used_where_there_is_one() -> None:
    """For "goes on" and "sitting" the house says "resumes" and "session"; a text without a space is a name."""
    used = [
        f"{path.relative_to(PACKAGE)}:{line}: {phrase[0]}"
        for path, source in sources()
        for line, text in texts_in(source)
        if " " in text
        for phrase in BANNED.finditer(text)
    ]
    assert used == []


def test_where_is_for_places() -> None:
    used = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path, source in sources()
        for line, text in texts_in(source)
        for _ in re.findall(r"\b[Ww]here\b", text)
    ]
    assert len(used) < MOST_WHERE, used


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_public_name_is_documented(name: str) -> None:
    thing = DOCUMENTED[name]
    docstring = inspect.getdoc(thing) or ""
    missing = []
    if thing not in COMPONENTS.values():  # the text of a setting may be under its field: see the next test
        documented = section(docstring, "Args", "Attributes")
        names = parameters(thing)
        missing += [name for name in names if not re.search(rf"^ +\*?\*?{name}\b", documented, re.MULTILINE)]
    if not inspect.isclass(thing) and inspect.signature(thing).return_annotation not in (None, "None"):
        missing += [] if section(docstring, "Returns", "Yields") else ["Returns"]
    missing += [] if ">>>" in docstring else ["an example"]
    assert missing == []


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if name in COMPONENTS])
def test_each_setting_of_a_component_is_explained(name: str) -> None:
    """A setting without a text is listed with its type alone."""
    is_type = re.compile(r"(null|bool|int|float|str|dict|list|Path|\w*\[.*\]|\S+)( \| \S+)*")
    docs = setting_docs(COMPONENTS[name])
    assert [doc.name for doc in docs if is_type.fullmatch(doc.meaning)] == []


@pytest.mark.parametrize("name", [name for name in DOCUMENTED if name in COMPONENTS])
def test_the_example_of_a_component_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of exported names run in test_public_face, with the packages that they need."""
    thing = COMPONENTS[name]
    if thing in EXPORTED.values():
        return
    monkeypatch.chdir(tmp_path)
    namespace = dict(vars(sys.modules[thing.__module__]))
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(thing) or "", namespace, name, None, 0)
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(examples, out=output.append)
    assert examples.examples and not runner.failures, "".join(output)
