"""The modules of the page without a browser: how they become one script, and their words in both languages."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import qilin_rag
from qilin_rag.reports.formats import LEGEND
from qilin_rag.reports.html import bundle
from qilin_rag.reports.overview import STATUSES
from qilin_rag.reports.side_tables import judged_rows
from qilin_rag.reports.thumbnails import REASONS
from qilin_rag.scorers.summary import MARKS

CHECKOUT = Path(__file__).parents[2]
PAGE = Path(qilin_rag.__file__).parent / "reports/page"
MODULES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(PAGE.glob("*.js"))}
DECLARED = re.compile(r"^(?:export )?(?:const|let|function|async function|class) (\w+)", re.MULTILINE)
EXPORTED = re.compile(r"^export (?:const|let|function|async function|class) (\w+)", re.MULTILINE)
IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "\./(\w+)\.js";$', re.MULTILINE)
STRING = r'"((?:[^"\\]|\\.)*)"'
SAID = re.compile(rf"\bsay\({STRING}")


def imports_of(name: str) -> dict[str, list[str]]:
    return {module: names.split(", ") for names, module in IMPORT.findall(MODULES[name])}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_why_it_exists_and_is_type_checked(name: str) -> None:
    purpose, check, *_ = MODULES[name].splitlines()
    assert re.match(r"// [A-Z].*\.$", purpose)
    assert check == "// @ts-check"


@pytest.mark.parametrize("name", MODULES)
def test_imports_and_exports_have_the_one_form_that_the_bundle_takes_out(name: str) -> None:
    source = MODULES[name]
    assert len(re.findall(r"^\s*import\b", source, re.MULTILINE)) == len(IMPORT.findall(source))
    assert len(re.findall(r"^\s*export\b", source, re.MULTILINE)) == len(EXPORTED.findall(source))
    for module, names in imports_of(name).items():
        assert set(names) <= set(EXPORTED.findall(MODULES[module])), module
        assert all(re.search(rf"\b{each}\b", IMPORT.sub("", source)) for each in names), module


def test_the_bundle_is_one_plain_script_with_each_module_after_those_it_imports() -> None:
    script = bundle("report")
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)
    places = {name: script.find(source.splitlines()[0]) for name, source in MODULES.items()}
    assert all(script.count(source.splitlines()[0]) == 1 for source in MODULES.values())
    for name in MODULES:
        assert all(places[imported] < places[name] for imported in imports_of(name)), name
    bundled = {name: DECLARED.findall(MODULES[name]) for name in MODULES}
    names = [each for declared in bundled.values() for each in declared]
    assert sorted(names) == sorted(set(names))
    assert sorted(DECLARED.findall(script)) == sorted(names)


class Static(HTMLParser):
    """The texts and attributes of a page that are tagged data-say, and those texts that are not."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.said: set[str] = set()
        self.untold: set[str] = set()
        self._open: list[bool] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.said |= {text for name in (known.get("data-say") or "").split() if (text := known[name])}
        self.untold |= {
            text
            for name, text in attrs
            if name in ("title", "placeholder", "aria-label") and text and name not in (known.get("data-say") or "")
        }
        if tag not in ("input", "meta"):
            self._open.append("data-say" in known)

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if re.search(r"[^\W\d_]", data):
            (self.said if self._open and self._open[-1] else self.untold).add(data.strip())


def test_every_text_of_the_page_has_its_chinese_and_no_chinese_is_unused() -> None:
    pairs = dict(re.findall(rf"^  {STRING}: {STRING},$", MODULES["chinese"], re.MULTILINE))
    assert len(pairs) == len(re.findall(r'^  "', MODULES["chinese"], re.MULTILINE))
    static = Static((PAGE / "results.html").read_text(encoding="utf-8"))
    assert static.untold == set()
    in_code = {text for source in MODULES.values() for text in SAID.findall(source)}
    unrated: Any = SimpleNamespace(runs=[], pairs=[])
    from_python = {*STATUSES, *MARKS.values(), *LEGEND.values(), *judged_rows(unrated)[0][1:], *REASONS}
    assert set(pairs) == in_code | static.said | from_python
    for english, chinese in pairs.items():
        assert re.search(r"[\u4e00-\u9fff]", re.sub(r"\{\w+\}", "", chinese)), english
        assert sorted(re.findall(r"\{\w+\}", chinese)) == sorted(re.findall(r"\{\w+\}", english)), english


def test_pages_beside_the_report_have_their_chinese_as_well() -> None:
    """Their modules add to that of the report, which they share."""
    sources = [path.read_text(encoding="utf-8") for path in PAGE.parents[1].glob("*/page/*.js")]
    chinese = {
        english for source in sources for english, _ in re.findall(rf"^  {STRING}: {STRING},$", source, re.MULTILINE)
    }
    static = [Static(path.read_text(encoding="utf-8")) for path in PAGE.parents[1].glob("*/page/*.html")]
    said = {text for source in sources for text in SAID.findall(source)}.union(*(page.said for page in static))
    assert said - chinese == set()


def test_no_class_of_the_report_has_another_style_in_the_view() -> None:
    """The pages of the view show parts of the report, such as judged parts, and have both styles."""
    styles = [path.read_text(encoding="utf-8") for path in PAGE.parents[1].glob("viewer/page/*.css")]
    restyled = {
        name for style in styles for name in re.findall(r"(?:^|[},]\s*)\.([\w-]+)\s*[{,:]", style, re.MULTILINE)
    }
    values = re.findall(r'class: ["`]([^"`]+)|verdict\("(\w+)"', "".join(MODULES.values()))
    used = {name for value in values for name in re.findall(r"[\w-]+", " ".join(value))}
    assert {"meter", "part"} <= restyled and {"judged", "partial"} <= used
    assert restyled & used == set()


@pytest.mark.slow
def test_the_modules_have_no_type_error_and_no_lint() -> None:
    if missing := [tool for tool in ("make", "node", "npm") if not shutil.which(tool)]:
        pytest.skip(f"needs {missing[0]}: apt-get install make nodejs npm")
    installed = make("page-tools")
    if installed.returncode:
        pytest.skip(f"needs TypeScript and Biome from npm: {installed.stderr.strip()[-200:]}")
    checked = make("page-check")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def make(target: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", target], cwd=CHECKOUT, capture_output=True, text=True, timeout=300, check=False)
