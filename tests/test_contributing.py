"""What CONTRIBUTING.md shows is run as it stands: its files are written, its commands typed, its package installed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from qilin_rag.core.registry import LLMS, RANKERS, RETRIEVERS, SCORERS
from tests.conftest import Cli
from tests.registry_access import need_registry

CHECKOUT = Path(__file__).parents[1]
PAGE = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w/]+\.(?:py|toml))`:\n\n```\w+\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
BY_CLASS, BY_NAME = (re.findall(r"^\$ qilin-rag (.*)$", part, re.MULTILINE) for part in PAGE.split("### Share it"))
REGISTRIES = {f"qilin_rag.{each.kind}s": each for each in (RETRIEVERS, LLMS, SCORERS, RANKERS)}
COMPONENTS = {"retriever", "llm", "scorer", "ranker"}


@pytest.fixture
def package(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files, in a working directory that Python imports from."""
    for name, content in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(content, encoding="utf-8")
    Path("our_rag/__init__.py").write_text('"""Components of ours."""\n', encoding="utf-8")
    monkeypatch.syspath_prepend(own_folder)
    yield own_folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "our_rag"]:
        del sys.modules[name]


def entry_points() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = tomllib.loads(FILES["pyproject.toml"])["project"]["entry-points"]
    return found


def register(folder: Path) -> None:
    """Write what an installer leaves of the page's package: its name and entry points."""
    info = folder / "our_rag-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: our-rag\nVersion: 0.1.0\n", encoding="utf-8")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {path}\n" for name, path in names.items())
        for group, names in entry_points().items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")


def test_components_run_by_class_and_by_entry_point(package: Path, cli: Cli) -> None:
    assert FILES.keys() == {f"our_rag/{name}.py" for name in COMPONENTS} | {"pyproject.toml"}
    assert (len(BY_CLASS), len(BY_NAME)) == (5, 2)
    figures = []
    for command in [*BY_CLASS, None, *BY_NAME]:
        if command is None:
            register(package)
            continue
        done = cli(*shlex.split(command), "--json")
        assert done.code == 0, f"{command}: {done.err}"
        figures.append(json.loads(done.out))
    by_class, by_name = figures[: len(BY_CLASS)], figures[len(BY_CLASS) :]
    assert by_class[0]["metrics"]["recall@5"]["value"] > 0.5
    assert by_class[2]["metrics"]["number_recall"]["n"] == 60
    assert 0 < by_name[0]["metrics"]["number_recall"]["value"] < 1
    assert by_name[1]["metrics"] == by_class[4]["metrics"]


def test_entry_points_name_the_classes_of_the_page(package: Path) -> None:
    register(package)
    assert entry_points().keys() == REGISTRIES.keys()
    for group, names in entry_points().items():
        for name, path in names.items():
            assert REGISTRIES[group].resolve(name).class_path() == path


def test_code_is_in_the_form_that_lint_asks_for(package: Path) -> None:
    pytest.importorskip("ruff", reason="needs ruff: pip install 'qilin-rag[dev]'")
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--config", CHECKOUT / "pyproject.toml", "our_rag"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_each_component_is_added_in_under_40_lines() -> None:
    sections = re.split(r"^### ", PAGE, flags=re.MULTILINE)[1:]
    lengths = {title: text.count("\n") for title, _, text in (each.partition("\n") for each in sections)}
    assert {title.split()[-1].lower() for title in lengths if title.startswith("Add ")} == COMPONENTS
    assert {title: length for title, length in lengths.items() if length >= 40} == {}


def test_make_targets_and_files_that_it_names_exist() -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:`|^)make ([a-z-]+)", PAGE, re.MULTILINE))
    assert targets >= {"quick", "test", "test-all", "format", "release-check"}
    assert {target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()
    named = re.findall(r"\]\(([\w./-]+)\)|`(qilin_rag/[\w/]+\.py)`", PAGE)
    assert [path for pair in named for path in pair if path and not (CHECKOUT / path).exists()] == []


@pytest.mark.slow
def test_the_package_is_typed_and_can_be_installed(package: Path) -> None:
    need_registry("hatchling")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--no-deps", "--target", "site", "."], check=True)
    [info] = Path("site").glob("our_rag-*.dist-info")
    for names in entry_points().values():
        for name, path in names.items():
            assert f"{name} = {path}" in (info / "entry_points.txt").read_text(encoding="utf-8")
    pytest.importorskip("mypy", reason="needs mypy: pip install 'qilin-rag[dev]'")
    mypy = [sys.executable, "-m", "mypy", str(package / "our_rag")]  # strict, and with what `make lint` remembers
    typed = subprocess.run(mypy, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert typed.returncode == 0, typed.stdout + typed.stderr
