"""The site: it builds without a warning, fetches nothing, has every name of the code, and finds Chinese words."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel
from typer.main import get_command

import qilin_rag
from docgen import api, columns, commands, files, hooks, metrics, models
from docgen.griffe_docstrings import with_fields
from docgen.html import block, inline, paragraphs, table
from docgen.models import meaning
from qilin_rag.cli import app
from qilin_rag.cli.catalogue import flag_help
from qilin_rag.config.setting_docs import setting_docs, type_name
from qilin_rag.config.spec import RunSpec, settable
from qilin_rag.core.registry import ENGINES, LLMS, QUERIES, RANKERS, RETRIEVERS, SCORERS
from qilin_rag.data.log_settings import LogSettings
from qilin_rag.data.schema import TABLES
from qilin_rag.rankers.ranking_directory import POOLED_SIGNATURES
from qilin_rag.rankers.ranking_directory import SIGNATURES as RANKING_SIGNATURES

CHECKOUT = Path(__file__).parents[1]
REFERENCE = CHECKOUT / "docs" / "reference"
REGISTRIES = (RETRIEVERS, QUERIES, LLMS, ENGINES, RANKERS, SCORERS)


class Page(HTMLParser):
    """What a page says, and what it fetches."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.ids: set[str] = set()
        self.texts: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids.add(given.get("id") or "")
        if tag in ("script", "img", "iframe", "source", "link", "audio", "video", "object"):
            self.fetched += [given[name] or "" for name in ("src", "href", "srcset", "data") if name in given]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def need_packages() -> None:
    pytest.importorskip("mkdocs", reason="needs the packages of the site: pip install 'qilin-rag[docs]'")


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(config), "-d", str(site)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_packages()
    folder = tmp_path_factory.mktemp("site")
    done = build(CHECKOUT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


def read(site: Path, page: str) -> Page:
    return Page((site / f"{page}.html").read_text(encoding="utf-8"))


def test_every_page_of_the_docs_is_built(site: Path) -> None:
    for path in (CHECKOUT / "docs").rglob("*"):
        if path.suffix in (".md", ".ipynb"):
            assert (site / path.relative_to(CHECKOUT / "docs").with_suffix(".html")).is_file()


@pytest.mark.parametrize("page", ["index", "tutorials/table-11"])
def test_the_words_of_the_site_are_in_the_language_of_the_page(site: Path, page: str) -> None:
    """Those that a page shows, those read to the blind, and those that the script shows in the results of a search."""

    def words(path: str) -> tuple[list[str], set[str]]:
        content = (site / f"{path}.html").read_text(encoding="utf-8")
        script = re.findall(r'<script id="__config"[^>]*>(.*?)</script>', content)[0]
        said = re.findall(r'(?:aria-label|placeholder|title)="([^"]+)"', content)
        said += json.loads(script)["translations"].values()
        return re.findall(r'<html lang="(\w+)"', content), {text.partition(":")[0] for text in said}

    (english, plain), (chinese, hanzi) = words(page), words(f"zh/{page}")
    assert (english, chinese) == (["en"], ["zh"])
    assert {"Table of contents", "Search", "Dark", "Permanent link", "Copy to clipboard"} <= plain
    assert [text for text in hanzi if re.search(r"[A-Za-z]", text)] == ["qilin_rag"]
    assert "needs the" not in (site / "zh" / f"{page}.html").read_text(encoding="utf-8")
    assert "目录" in hanzi and not any(re.search(r"[\u4e00-\u9fff]", text) for text in plain)


def test_nothing_is_fetched_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    fetched = {address for path in pages for address in Page(path.read_text(encoding="utf-8")).fetched}
    styles = {address for path in site.rglob("*.css") for address in re.findall(r"url\(([^)]+)\)", path.read_text())}
    assert len(pages) > 7
    assert not [each for each in fetched | styles if re.match(r"""["']?(\w+:)?//""", each)]
    # What the theme's script would fetch: diagrams, figures of a repository.
    assert not any('class="mermaid"' in path.read_text() or "md-source" in path.read_text() for path in pages)


def test_no_part_is_left_unfilled(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert not re.search(r"<!-- (generated|fields):", path.read_text(encoding="utf-8")), path


def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from walk(below, f"{path} {name}")


def test_every_command_has_all_its_options(site: Path) -> None:
    sections = re.split(r"<h2 ", (site / "reference" / "commands.html").read_text(encoding="utf-8"))
    found = {re.findall(r'^id="([^"]+)"', section)[0]: Page(f"<h2 {section}").text for section in sections[1:]}
    there = list(walk(get_command(app), "qilin-rag"))
    assert len(found) == len(there) > 25
    for path, command in there:
        text = found[commands.anchor(path)]
        for parameter in command.params:
            for name in parameter.opts if parameter.param_type_name == "option" else []:
                assert name in text, path
            said = (getattr(parameter, "help", None) or "").replace("`", "")
            assert " ".join(said.split()) in text, (path, parameter.name)


def test_options_are_grouped_as_help_groups_them() -> None:
    class Grouped(typer.core.TyperCommand):
        def format_options(self, ctx: Any, formatter: Any) -> None:
            with formatter.section("Data"):
                formatter.write_dl([("--data <a|b>", "One | *two* <b> [x](y) `c|d`. [default: a_b_c]")])
            with formatter.section("Output"):
                formatter.write_dl([("--json", "JSON.")])

    program = typer.Typer(rich_markup_mode=None)

    @program.command(cls=Grouped, epilog="Examples:\n\n\b\n$ run --data 'a | b'\n  $ run --json")
    def run() -> None:
        """Do it: a < b | c * d.

        \b
        kept  as
          it is
        """

    command = get_command(program)
    page: Any = commands.HelpPage("run")
    command.format_help(command.context_class(command, info_name="run"), page)
    shown = Page(_as_html("\n\n".join(page.parts)))
    assert "Do it: a < b | c * d." in shown.text
    assert "--data <a|b>One | *two* <b> [x](y) c|d. [default: a_b_c]" in shown.text
    kept = "".join(shown.texts)
    assert "kept  as\n  it is" in kept and "$ run --data 'a | b'\n  $ run --json" in kept
    assert next(part for part in page.parts if "<table>" in part).count("<th>Data</th>") == 1


def _as_html(text: str) -> str:
    markdown = pytest.importorskip("markdown")
    return str(markdown.markdown(text, extensions=["tables", "attr_list", "md_in_html", "toc"]))


@pytest.mark.parametrize(
    "text",
    [
        "a|b",
        "<b>",
        "*a* _b_ **c**",
        "[x](y)",
        "1 `unpaired",
        "&amp; &",
        "# no heading",
        "{ #id }",
        "a\\|b",
        "中｜文",
        "{{ x }}",
    ],
)
def test_no_text_breaks_a_table_or_a_page(text: str) -> None:
    shown = Page(
        _as_html(f"## Before\n\n{table(('A', 'B'), [(inline(text), inline('end'))])}\n\n{paragraphs(text)}\n\nAfter")
    )
    assert "".join(shown.texts).count(text) == 2
    assert shown.text.startswith("Before") and shown.text.endswith("After")


def test_code_in_a_text_is_code() -> None:
    assert inline("a `b|<c>` d") == "a <code>b|&lt;c&gt;</code> d"
    assert html.unescape(block("  a\n\n    b\n")) == "<pre><code>a\n\n  b</code></pre>"


def test_every_component_has_all_its_settings(site: Path) -> None:
    page = read(site, "reference/settings")
    prefixes = {
        "retriever": "retriever.",
        "llm": "llm.",
        "engine": "llm.engine.",
        "ranker": "ranker.",
        "query": "query.",
    }
    for registry in REGISTRIES:
        for name in registry.table():
            assert f"{registry.kind}-{name}" in page.ids
            prefix = prefixes.get(registry.kind, f"metrics.{name}.")
            for setting in registry.resolve(name).model_fields:
                assert f"{prefix}{setting}" in page.text
    for setting in settable():
        assert setting in page.text


def test_every_setting_says_what_it_means() -> None:
    of_run = [doc.name for doc in setting_docs(RunSpec) if doc.name in settable()]
    silent = [name for name in of_run if not flag_help(name) and not _meaning(RunSpec, name)]
    classes: list[type[BaseModel]] = [LogSettings]
    classes += [registry.resolve(name) for registry in REGISTRIES for name in registry.table()]
    for cls in classes:
        silent += [f"{cls.__name__}.{name}" for name in cls.model_fields if not _meaning(cls, name)]
    assert not silent


def test_every_field_of_a_file_says_what_it_means() -> None:
    shown: set[type] = set()
    for path in re.findall(r"<!-- fields: (.+) -->", (REFERENCE / "files.md").read_text(encoding="utf-8")):
        files.fields(path, shown)
    assert len(shown) > 30
    empty = [model.__name__ for model in shown if "<td></td></tr>" in models.fields_table(model)]
    assert not empty


def test_a_meaning_has_one_place() -> None:
    """In the code, if it has one there; else in meanings.yaml, which holds nothing that no page asks for."""
    for page in REFERENCE.glob("*.md"):
        hooks.filled(page.read_text(encoding="utf-8"))
    for name in qilin_rag.__all__:
        if isinstance(cls := getattr(qilin_rag, name), type):
            with_fields("", cls)
    assert models.needless_meanings() == set()


def _meaning(model: Any, name: str) -> str:
    [doc] = [doc for doc in setting_docs(model, 10_000) if doc.name == name]
    return meaning(model, doc, type_name(model.model_fields[name].annotation))


def test_every_metric_has_its_signature_and_formula(site: Path) -> None:
    page = read(site, "reference/metrics")
    for name in SCORERS.table():
        assert name in page.ids
        for metric, signature in metrics.signatures(SCORERS.create(name, {})).items():
            assert signature in page.text and metric in page.text
    for metric, signature in (RANKING_SIGNATURES | POOLED_SIGNATURES).items():
        assert metric in page.text and signature in page.text


def test_every_column_of_qilin_is_explained_and_no_other(site: Path) -> None:
    page = read(site, "reference/qilin-columns")
    known = {re.sub(r"^(dense_feat)\d+$", r"\1", column) for of in TABLES.values() for column in of.readable}
    assert all(column in page.text for column in known)
    explained = {name for group in ("notes", "user_feat", "requests") for name in columns.MEANINGS[group]}
    assert not {name.partition("1 ...")[0] for name in explained} - known
    with pytest.raises(KeyError, match="no meaning of the column rec_hide_num"):
        columns._count("rec_hide_num")


def test_every_public_name_is_in_the_api(site: Path) -> None:
    page = read(site, "reference/api")
    names = set(qilin_rag.__all__) - {"__version__"}
    assert {f"qilin_rag.{name}" for name in names} <= page.ids
    assert "Examples:" in page.text and ">>>" in page.text
    assert "Saturation of the term frequency" in page.text
    with pytest.raises(KeyError, match=r"qilin_rag\.new is in no group"):
        api._group("qilin_rag.new")


def test_a_part_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(KeyError, match="nothing"):
        hooks.filled("# Page\n\n<!-- generated: nothing -->\n")


def test_links_to_notebooks_lead_to_their_pages() -> None:
    written = "[a](../notebooks/x.ipynb), [b](x.ipynb#part), `x.ipynb`, [c](https://host/x.ipynb)"
    assert hooks.on_page_markdown(written) == (
        "[a](../notebooks/x.md), [b](x.md#part), `x.ipynb`, [c](https://host/x.ipynb)"
    )


def _code(source: str, output: dict[str, Any]) -> dict[str, Any]:
    given = {"source": source, "outputs": [{**output, "metadata": {}}]}
    return {"cell_type": "code", "id": source[0], "metadata": {}, "execution_count": 1, **given}


FRAME = """<div>
<style scoped>
    .dataframe tbody tr th { vertical-align: middle; }
</style>
<table border="1" class="dataframe">
  <tbody><tr><td>0.3371</td></tr></tbody>
</table>
</div>"""
CELLS = [
    {"cell_type": "markdown", "id": "text", "metadata": {}, "source": "# Agreement\n\n排行榜"},
    _code("1 + 1", {"output_type": "execute_result", "execution_count": 1, "data": {"text/plain": "2"}}),
    _code("frame", {"output_type": "execute_result", "execution_count": 1, "data": {"text/html": FRAME}}),
    _code("plot()", {"output_type": "display_data", "data": {"image/png": "aGVsbG8="}}),
]


@pytest.fixture(scope="module")
def small_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pages and a notebook, with the search, the style and the hooks of the site."""
    need_packages()
    folder = tmp_path_factory.mktemp("small")
    given = yaml.safe_load((CHECKOUT / "mkdocs.yml").read_text(encoding="utf-8"))
    [search] = [plugin for plugin in given["plugins"] if "search" in plugin]
    config = {name: given[name] for name in ("site_name", "theme", "use_directory_urls")}
    config |= {"plugins": [search], "hooks": [str(CHECKOUT / "docgen" / "hooks.py")]}
    (folder / "mkdocs.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "docs").mkdir()
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": CELLS}
    (folder / "docs" / "agreement.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    pages = {
        "index": "# Start\n\nSystems and their figures.",
        "zh": "# 续跑\n\n崩溃后从断点继续运行，答案不会丢失。\n\n## 检验\n\n差异要看置信区间和符号翻转检验。",
        "en": "# Crash\n\n[Judge](agreement.ipynb): a command resumes where it stopped. See `rouge_l`, `--top-k`.",
    }
    for name, text in pages.items():
        (folder / "docs" / f"{name}.md").write_text(text, encoding="utf-8")
    done = build(folder / "mkdocs.yml", folder / "site")
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_a_notebook_becomes_a_page_with_its_outputs(small_site: Path) -> None:
    page = read(small_site, "agreement")
    assert "排行榜" in page.text and "1 + 1" in page.text
    [picture] = [address for address in page.fetched if address.endswith("_3_0.png")]
    assert (small_site / picture).read_bytes() == b"hello"
    written = (small_site / "agreement.html").read_text(encoding="utf-8")
    assert "0.3371" in page.text and "<table>" in written and "dataframe" not in written
    assert 'href="agreement.html"' in (small_site / "en.html").read_text(encoding="utf-8")


def test_the_index_of_search_has_chinese_words(small_site: Path) -> None:
    index = json.loads((small_site / "search" / "search_index.json").read_text(encoding="utf-8"))
    texts = [re.sub("<[^>]+>", " ", page["text"]) for page in index["docs"]]
    words = {word for text in texts for word in re.split(index["config"]["separator"], text)}
    assert {"断点", "置信区间", "翻转", "rouge_l"} <= words
    assert "zh.html#检验" in {page["location"] for page in index["docs"]}


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder on this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: qilin-rag[test-browser]")
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium: make chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found[0], args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.browser
def test_search_finds_a_word_in_the_middle_of_a_sentence(browser: Any, small_site: Path) -> None:
    chinese = {"断点": "zh", "置信区间": "zh", "翻转检验": "zh"}
    english = {"resumes": "en", "rouge_l": "en", "top-k": "en", "figures": "index"}
    page = browser.new_page()
    with served(small_site) as address:
        for query, name in {**chinese, **english}.items():
            page.goto(f"{address}index.html?q={query}")
            first = page.locator(".md-search-result__link").first
            first.wait_for(state="attached", timeout=20_000)
            assert f"/{name}.html" in (first.get_attribute("href") or ""), query
    page.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_phone_and_ask_no_other_host(browser: Any, site: Path, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    with served(site) as address:
        for path in site.rglob("*.html"):
            page.goto(f"{address}{path.relative_to(site)}")
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
            is_dark = page.evaluate("document.body.dataset.mdColorScheme") == "slate"
            assert is_dark == (scheme == "dark"), path
        assert asked and all(url.startswith((address, "data:", "blob:")) for url in asked)
    context.close()
