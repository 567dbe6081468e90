"""The identity of a class that was typed into a notebook: what it uses there is part of it, nothing else is."""

from __future__ import annotations

import hashlib
import linecache
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import ModuleType

import pytest

from qilin_rag.core.errors import UsageError

CLASS = """
from typing import ClassVar
from qilin_rag.retrievers import Retriever

class Mine(Retriever):
    def search(self, questions, notes, k):
        {body}
        return [[] for _ in questions]
"""
Hash = Callable[..., str]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`__main__` as in a notebook: of no file, each cell's text in linecache."""
    made = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", made)
    return made


@pytest.fixture
def typed(main: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Hash:
    """Run cells of a new notebook, and return the hash of its class `Mine`."""
    numbers = count()

    def run(*cells: str) -> str:
        vars(main).clear()
        vars(main)["__name__"] = "__main__"
        for text in cells:
            cell = f"<cell {next(numbers)}>"
            monkeypatch.setitem(linecache.cache, cell, (len(text), None, text.splitlines(keepends=True), cell))
            exec(compile(text, cell, "exec"), vars(main))
        found: str = main.Mine().identity()["typed_in_sha256"]
        return found

    return run


CHANGES = {
    "helper": ("helper(1)", "def helper(x):\n    return x + {}\n"),
    "of a helper": ("helper(1)", "def helper(x):\n    return deeper(x)\ndef deeper(x):\n    return {}\n"),
    "constant": ("K + 1", "K = {}\n"),
    "constant of a helper": ("helper(1)", "K = {}\ndef helper(x):\n    return K\n"),
    "default": ("helper(1)", "K = {}\ndef helper(x, y=K):\n    return y\n"),
    "lambda": ("helper(1)", "helper = lambda x: x + {}\n"),
    "in lambda": ("sorted(questions, key=lambda each: helper(each))", "def helper(x):\n    return {}\n"),
    "in comprehension": ("[helper(each) for each in questions]", "def helper(x):\n    return {}\n"),
    "nested function": (
        "helper(1)",
        "def helper(x):\n    def inner():\n        return K\n    return inner()\nK = {}\n",
    ),
    "recursion": ("helper(1)", "def helper(x):\n    return helper(x - 1) if x else {}\n"),
    "each other": (
        "one(3)",
        "def one(x):\n    return other(x - 1) if x else {}\ndef other(x):\n    return one(x - 1)\n",
    ),
    "decorated": (
        "helper(1)",
        "import functools\n@functools.lru_cache\ndef helper(x):\n    return x + {}\n",
    ),
    "decorator": (
        "helper(1)",
        "import functools\ndef twice(function):\n    @functools.wraps(function)\n    def wrapper(x):\n"
        "        return function(x) * {}\n    return wrapper\n@twice\ndef helper(x):\n    return x\n",
    ),
    "what a decorator wraps": (
        "helper(1)",
        "def twice(function):\n    return lambda x: 2 * function(x)\n@twice\ndef helper(x):\n    return {}\n",
    ),
    "what was wrapped by hand": (
        "helper(1)",
        "def twice(function):\n    return lambda x: 2 * function(x)\ndef plain(x):\n    return {}\n"
        "helper = twice(plain)\ndel plain\n",
    ),
    "decorator's argument": (
        "helper(1)",
        "def times(n):\n    return lambda function: lambda x: n * function(x)\n"
        "@times({})\ndef helper(x):\n    return x\n",
    ),
    "closure": (
        "helper(1)",
        "def make(n):\n    def inner(x):\n        return n\n    return inner\nhelper = make({})\n",
    ),
    "partial": ("helper(1)", "import functools\nhelper = functools.partial(pow, {})\n"),
    "function of a partial": (
        "helper()",
        "import functools\ndef plain(x):\n    return {}\nhelper = functools.partial(plain, 1)\n",
    ),
    "class": ("Helper().value()", "class Helper:\n    def value(self):\n        return {}\n"),
    "class without methods": ("Helper.K", "class Helper:\n    K = {}\n"),
    "base of a class": (
        "Helper().value()",
        "class Base:\n    K = {}\nclass Helper(Base):\n    def value(self):\n        return self.K\n",
    ),
    "base without methods": ("Helper.K", "class Base:\n    K = {}\nclass Helper(Base):\n    pass\n"),
    "what a class uses": ("Helper().value()", "K = {}\nclass Helper:\n    def value(self):\n        return K\n"),
    "class method": ("Helper.value()", "class Helper:\n    @classmethod\n    def value(cls):\n        return {}\n"),
    "dataclass": ("Helper()", "from dataclasses import dataclass\n@dataclass\nclass Helper:\n    n: int = {}\n"),
    "instance of a dataclass": (
        "helper.n",
        "from dataclasses import dataclass\n@dataclass\nclass Helper:\n    n: int\nhelper = Helper({})\n",
    ),
    "enumeration": ("Helper.A.value", "from enum import Enum\nclass Helper(Enum):\n    A = {}\n"),
    "named tuple": ("Helper()", "from typing import NamedTuple\nclass Helper(NamedTuple):\n    n: int = {}\n"),
    "instance": ("helper.value()", "class Helper:\n    def value(self):\n        return {}\nhelper = Helper()\n"),
    "bound method": ("helper()", "class Helper:\n    def value(self):\n        return {}\nhelper = Helper().value\n"),
    "component": ("helper.search", "from qilin_rag.retrievers.bm25.retriever import BM25\nhelper = BM25(k1={})\n"),
    "functions in a list": ("HELPERS[0](1)", "HELPERS = [lambda x: {}]\n"),
    "functions in a table": ("HELPERS['a'](1)", "def one(x):\n    return {}\nHELPERS = {{'a': one}}\n"),
    "list": ("K[0]", "K = ['a', {}]\n"),
    "set": ("1 in K", "K = {{'a', {}}}\n"),
    "nested constant": ("K['a']", "K = {{'a': ({}, None)}}\n"),
    "pattern": ("K.sub('', 'x')", "import re\nK = re.compile('x{}' * 200)\n"),
    "path": ("K.name", "from pathlib import Path\nK = Path('a{}')\n"),
    "function called like a secret": ("has_password(1)", "def has_password(x):\n    return {}\n"),
    "in a branch": ("helper(1)", "if True:\n    def helper(x):\n        return {}\n"),
}


@pytest.mark.parametrize("case", list(CHANGES))
def test_what_the_methods_use_is_part_of_the_class(case: str, typed: Hash) -> None:
    body, helper = CHANGES[case]
    cell = CLASS.format(body=body)
    first = typed(helper.format(1), cell)
    assert typed(helper.format(1), cell) == first
    assert typed(cell, helper.format(1)) == first  # defined later, as notebooks are
    assert typed("unrelated = 1\n", helper.format(1), "def unused():\n    return unrelated\n", cell) == first
    assert typed(helper.format(2), cell) != first
    assert typed(cell) != first


UNCHANGED = {
    "attribute": ("self.called.helper", "def helper():\n    return {}\n"),
    "parameter": ("notes", "notes = {}\n"),
    "local": ("helper = k; helper += 1", "def helper():\n    return {}\n"),
    "loop": ("[helper for helper in questions]", "helper = {}\n"),
    "string": ("'helper'", "helper = {}\n"),
    "counter": ("count()", "n = {}\ndef count():\n    global n\n    n += 1\n"),
    "memory": ("remember(k)", "known = {{{}: 1}}\ndef remember(k):\n    known[k] = 1\n"),
    "list that grows": ("seen.append(k)", "seen = [{}]\n"),
    "secret": ("API_KEY", "API_KEY = 'sk-{}'\n"),
    "object": ("helper", "helper = object()\nunused = {}\n"),
    "module": ("json.dumps(k)", "import json\nunused = {}\n"),
    "name of Python's": ("__doc__", "__doc__ = 'x{}'\n"),
}


@pytest.mark.parametrize("case", list(UNCHANGED))
def test_what_is_no_helper_is_no_part_of_it(case: str, typed: Hash) -> None:
    body, other = UNCHANGED[case]
    assert typed(other.format(1), CLASS.format(body=body)) == typed(other.format(2), CLASS.format(body=body))


def test_who_uses_no_helper_keeps_the_hash_that_runs_have(typed: Hash) -> None:
    cell = CLASS.format(body="len(questions)")
    source = cell[cell.index("class Mine") :].rstrip("\n")
    assert typed("def helper():\n    pass\n", cell) == hashlib.sha256(source.encode()).hexdigest()
    typed_base = (
        "class Base(Retriever):\n    K: ClassVar[int] = 1\n    def one(self):\n        return Mine, Base, Base.K\n\n"
    )
    cell = cell.replace("(Retriever)", "(Base)").replace("class Mine", f"{typed_base}class Mine")
    source = cell[cell.index("class Mine") :].rstrip("\n")
    base = cell[cell.index("class Base") : cell.index("class Mine")].rstrip("\n")
    assert typed(cell) == hashlib.sha256((source + base).encode()).hexdigest()


def test_a_method_that_is_decorated_in_the_notebook_counts_its_decorator(typed: Hash) -> None:
    helper = "def same(function):\n    return lambda *a, **k: function(*a, **k) or {}\n"
    cell = CLASS.format(body="pass") + "\n    @same\n    def other(self):\n        return 1\n"
    assert typed(helper.format(1), cell) == typed(helper.format(1), cell) != typed(helper.format(2), cell)


def test_a_helper_that_can_not_be_read_is_one_line(typed: Hash) -> None:
    cell = CLASS.format(body="helper(1)")
    with pytest.raises(UsageError, match="the source of helper can't be read; write it into a module"):
        typed("exec('def helper(x):\\n    return x\\n', globals())\n", cell)


def test_it_is_the_same_in_another_process(tmp_path: Path) -> None:
    """Whatever order sets and names come in there."""
    helpers = "K = {'a', 'b', 'c', 'd'}\ndef one(x):\n    return K\ndef two(x):\n    return one(x)\n"
    code = (
        "import linecache, sys\n"
        "for text in sys.argv[1:]:\n"
        "    linecache.cache[text] = (len(text), None, text.splitlines(keepends=True), text)\n"
        "    exec(compile(text, text, 'exec'), globals())\n"
        "print(Mine().identity()['typed_in_sha256'])\n"
    )
    command = [sys.executable, "-c", code, helpers, CLASS.format(body="one(1), two(2), K")]
    root = str(Path(__file__).parents[2])
    found = {
        subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": root},
        ).stdout
        for seed in "12"
    }
    assert len(found) == 1
