"""Every format of the `agreement` commands has the same figures, is harmless, and the plot has them in their places."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from qilin_rag.agreement.intervals import AgreementFigure
from qilin_rag.agreement.pair_sections import pair_document, pair_sections
from qilin_rag.agreement.pair_table import AspectAgreement, MeasureAgreement, PairAgreement
from qilin_rag.reports.drawing import WIDTH_PX, as_svg
from qilin_rag.reports.forest import Forest, ForestRow, forest_drawing
from qilin_rag.reports.section_page import as_page
from qilin_rag.reports.sections import as_latex
from tests.agreement.test_pairs import pair
from tests.conftest import Cli, write_jsonl
from tests.reports.hostile import HOSTILE

SVG = "{http://www.w3.org/2000/svg}"
FIGURES = ("pearson", "spearman", "kendall", "accuracy")
HOSTILE_TEX = r"[a&b\end{tabular}%$#_^~*"


class Page(HTMLParser):
    """The tags of a page, and the cells and paragraphs outside its plots."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.rows: list[list[str]] = []
        self.lines: list[str] = []
        self._into: list[str] | None = None
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td", "p"):
            self._into = self.lines if tag == "p" else self.rows[-1]
            self._into.append("")
        if tag == "small" and self._into:
            self._into[-1] += " "

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td", "p"):
            self._into = None

    def handle_data(self, data: str) -> None:
        if self._into:
            self._into[-1] += data


def figure(value: float | None, low: float = 0, high: float = 0) -> AgreementFigure:
    return AgreementFigure(value=value, ci95=(low, high) if low or high else None, reason=None if low else "too few")


def measure(name: str, value: AgreementFigure, rank: int | None = None, p: float | None = None) -> MeasureAgreement:
    others = dict.fromkeys(("spearman", "kendall", "accuracy"), figure(0.25, 0.125, 0.5))
    return MeasureAgreement(
        measure=name,
        kind="measure" if rank or p else "sentinel",
        n=40,
        pearson=value,
        epsilon=0.0,
        rank=rank,
        p_beyond_sentinels=p,
        **others,
    )


def table_of(*rows: MeasureAgreement) -> PairAgreement:
    aspect = AspectAgreement(
        aspect="overall", n_judgements=40, ceiling=None, rows=list(rows), strongest_sentinel="length", detectable=0.2
    )
    return PairAgreement(n_pairs=40, n_queries=40, by="pearson", seed=0, aspects=[aspect])


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pairs, judged on an aspect of a hostile name, and with measures of hostile names."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(30):
        row = pair(rng, number)
        ours = {side: row["ours"][side]["seen"] for side in "ab"}
        people = [{HOSTILE[1]: judge["overall"]} for judge in row["people"]]
        named = {name: {side: ours[side] + float(rng.normal()) for side in "ab"} for name in (*HOSTILE, HOSTILE_TEX)}
        rows.append({**row, "people": people, **named})
    return write_jsonl(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows)


@pytest.fixture
def informed() -> PairAgreement:
    return table_of(
        measure("ours", figure(0.6123, 0.5, 0.7), rank=1, p=0.001),
        measure("rouge_l", figure(0.3, 0.1, 0.45), rank=2, p=0.3),
        measure("length", figure(-0.2, -0.35, 0.05)),
        measure("constant", figure(None)),
    )


def test_the_page_has_the_figures_of_json(informed: PairAgreement) -> None:
    [aspect] = pair_document(informed)["aspects"]
    source = as_page("Title", pair_sections(informed, "\n"))
    page = Page(source)
    rows = {first: others for first, *others in page.rows}
    for row in aspect["rows"]:
        for shown, name in zip(rows[row["measure"]][1:], FIGURES, strict=True):
            value, *interval = re.findall(r"-?\d*\.\d+|^-$", shown)
            expected = row[name]
            assert value == ("-" if expected["value"] is None else f"{expected['value']:.4f}")
            assert [float(end) for end in interval] == pytest.approx(expected["ci95"] or [], abs=0.005001)
    assert page.lines[: len(aspect["verdict"])] == aspect["verdict"]
    assert source.index(aspect["verdict"][0]) < source.index("<svg") < source.index("<table")
    assert "how to read it" in source


def test_a_hostile_name_is_text_everywhere(pairs_file: Path, cli: Cli) -> None:
    done = cli("agreement", "pairs", pairs_file, "--format", "html", "--out", "page.html", "--plot", "plot.svg")
    assert (done.code, done.out, done.err) == (0, "", "")
    source = Path("page.html").read_text(encoding="utf-8")
    page = Page(source)
    assert not page.tags & {"script", "img", "a", "b", "link", "iframe", "object"}
    assert not {name for name in page.attributes if name.startswith("on")} | {"href", "src", "style"} & page.attributes
    policy = re.search('Content-Security-Policy" content="([^"]*)"', source)
    assert policy and policy[1].startswith("default-src &#39;none&#39;; style-src &#39;sha256-")
    names = {first for first, *_ in page.rows}
    assert {*HOSTILE[:3], HOSTILE[4], HOSTILE_TEX} <= names
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", source)
    root = ElementTree.parse("plot.svg").getroot()
    texts = [each.text or "" for each in root.iter(f"{SVG}title")]
    assert any(text.startswith(HOSTILE[0]) for text in texts)
    assert {each.tag.removeprefix(SVG) for each in root.iter()} == {
        "svg", "g", "title", "text", "line", "rect", "circle",
    }  # fmt: skip


def test_latex_has_whole_rows(informed: PairAgreement) -> None:
    hostile = [row.model_copy(update={"measure": HOSTILE_TEX}) for row in informed.aspects[0].rows[:1]]
    text = as_latex(pair_sections(table_of(*informed.aspects[0].rows, *hostile), "\n"))
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    for row in body:
        assert row.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", row)) == (0 if row.startswith(r"\emph") else 5)
        assert row.count("{") - row.count(r"\{") == row.count("}") - row.count(r"\}")
    assert body[:2] == [
        r"ours & 1 & 0.6123 & 0.2500 & 0.2500 & 0.2500 \\",
        r"&  & {\scriptsize .50--.70} & {\scriptsize .12--.50} & {\scriptsize .12--.50} & {\scriptsize .12--.50} \\",
    ]
    escaped = r"{[}a\&b\textbackslash{}end\{tabular\}\%\$\#\_\textasciicircum{}$\sim${*}"
    assert any(row.startswith(escaped) for row in body)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\begin{tabular}{lrrrrr}") == 1


def plotted(root: ElementTree.Element) -> dict[str, dict[str, Any]]:
    """Return the mark and the ends of the interval of each row, as values that the numbers of the axis give."""
    ticks = {}
    for text in root.iter(f"{SVG}text"):
        if text.get("text-anchor") == "middle" and re.fullmatch(r"-?\d+\.\d+", text.text or ""):
            ticks[float(text.text or "")] = float(text.get("x", ""))
    (one, at_one), *_, (other, at_other) = sorted(ticks.items())

    def value(x: str | None) -> float:
        return one + (float(x or "nan") - at_one) / (at_other - at_one) * (other - one)

    rows = {}
    for group in root.iter(f"{SVG}g"):
        if (title := group.find(f"{SVG}title")) is None:
            continue
        marks = [*group.iter(f"{SVG}circle"), *(each for each in group.iter(f"{SVG}rect") if each.get("stroke"))]
        lines = [line for line in group.iter(f"{SVG}line") if line.get("y1") == line.get("y2")]
        rows[(title.text or "").split(":")[0]] = {
            "points": [value(mark.get("cx") or mark.get("x")) for mark in marks],
            "ends": [value(line.get(end)) for line in lines for end in ("x1", "x2")],
            "marks": [(mark.tag.removeprefix(SVG), mark.get("fill") == mark.get("stroke")) for mark in marks],
        }
    return rows


def test_the_plot_has_a_point_and_an_interval_for_each_measure(informed: PairAgreement) -> None:
    section = next(pair_sections(informed))
    assert section.plot
    rows = plotted(ElementTree.fromstring(as_svg(forest_drawing(section.plot, section.title), WIDTH_PX)))
    assert list(rows) == ["ours", "rouge_l", "length", "constant"]
    for row in informed.aspects[0].rows:
        drawn = rows[row.measure]
        assert drawn["points"] == pytest.approx([] if row.pearson.value is None else [row.pearson.value], abs=0.001)
        assert drawn["ends"] == pytest.approx(row.pearson.ci95 or [], abs=0.001)
    assert [rows[name]["marks"] for name in ("ours", "rouge_l", "length")] == [
        [("circle", True)],  # beyond the sentinels
        [("circle", False)],
        [("rect", True)],
    ]


def test_ranks_and_sentinels_are_apart_and_the_ceiling_is_behind_all_rows() -> None:
    rows = [ForestRow("a", 0.5, (0.4, 0.6), "", "named", "rank 1"), ForestRow("b", 0.1, None, "", "measure", "rank 2")]
    ceiling = ForestRow("judges", 0.7, (0.6, 0.8), "", "ceiling")
    drawing = forest_drawing(Forest("x", "tau", rows, 0.0, {}, ceiling))
    root = ElementTree.fromstring(as_svg(drawing, WIDTH_PX))
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert [text for text in texts if text and re.match("a|b|rank|judges", text)] == [
        "judges", "rank 1", "a", "rank 2", "b",
    ]  # fmt: skip
    [band] = [each for each in root.iter(f"{SVG}rect") if each.get("class") == "ceiling" and each.get("fill-opacity")]
    bars = plotted(root)["judges"]
    assert bars["ends"] == pytest.approx([0.6, 0.8], abs=0.001)
    places = [float(line.get("y1", "")) for line in root.iter(f"{SVG}line")]
    assert float(band.get("height", "")) > 3 * max(places)


@pytest.mark.parametrize("rows", [[0.5, 0.5 + 1e-16], [0.0], [-1.0, 1.0], []])
def test_an_axis_has_few_different_numbers(rows: list[float]) -> None:
    forest = Forest("x", "tau", [ForestRow("name", row, None, "", "measure") for row in rows], None, {})
    texts = [each.text or "" for each in ElementTree.fromstring(as_svg(forest_drawing(forest), 100)).iter(f"{SVG}text")]
    ticks = [text for text in texts if re.fullmatch(r"-?\d\.\d+", text)]
    assert 2 <= len(ticks) <= 9 and len(set(ticks)) == len(ticks)


def test_one_command_gives_one_figure_in_every_format(tmp_path: Path, cli: Cli) -> None:
    rng = np.random.default_rng(0)
    lines = [
        {
            "query": f"问{row}",
            "reference": "92度",
            "a": {"answer": "水温"},
            "b": {"answer": "92度"},
            "people": [{"liked": said}],
            "strict": {"a": 0, "b": said + rng.normal(0, 0.5)},
            "kind": {"a": 0, "b": rng.normal()},
        }
        for row, said in enumerate(rng.choice([-1, 1], 60).tolist())
    ]
    command = ("agreement", "calibrate", write_jsonl(tmp_path / "pairs.jsonl", lines))
    [found] = json.loads(cli(*command, "--format", "json").out)
    assert [found] == json.loads(cli(*command, "--json").out)
    assert found["is_shown"] and found["verdict"][0].startswith("Use strict")
    shown = f"{found['held_out']['value']:.3f}"
    for form in ("table", "md", "latex", "html"):
        out = tmp_path / f"calibrated.{form}"
        done = cli(*command, "--format", form, "--out", out)
        assert (done.code, done.out) == (0, "")
        text = out.read_text(encoding="utf-8")
        assert shown in text and "strict" in text and text.rstrip() == cli(*command, "--format", form).out.rstrip()
    records = list(csv.DictReader(io.StringIO(cli(*command, "--format", "csv").out)))
    assert [record["kind"] for record in records] == ["choice", "most_frequent", "alone", "alone"]
    assert float(records[0]["held_out"]) == found["held_out"]["value"] and records[0]["judge"] == "strict"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--plot", "plot.gif"), ".svg, .png, .pdf"),
        (("--plot", "none/plot.svg"), "--plot"),
        (("--out", "none/table.md"), "--out"),
        (("--json", "--format", "md"), "--json and --format md"),
        (("--out", "one.svg", "--plot", "one.svg"), "one.svg"),
    ],
)
def test_wrong_use_is_one_line_before_any_work(options: tuple[str, ...], named: str, cli: Cli) -> None:
    done = cli("agreement", "pairs", "missing.jsonl", *options)
    assert (done.code, done.out) == (2, "")
    assert named in done.err and "missing.jsonl" not in done.err and len(done.err.splitlines()) == 1


def test_without_matplotlib_svg_is_drawn_and_the_rest_named(
    pairs_file: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qilin_rag.core.extras.find_spec", lambda name: None)
    done = cli("agreement", "calibrate", pairs_file, "--plot", "plot.pdf")
    assert done.code == 2 and "qilin-rag[analysis]" in done.err
    assert cli("agreement", "calibrate", pairs_file, "--plot", "plot.svg").code == 0
    assert ElementTree.parse("plot.svg").getroot().get("role") == "img"


def test_nothing_compared_draws_nothing(shared: Path, cli: Cli) -> None:
    done = cli("agreement", "qilin", "--data", shared / "data" / "qilin_toy", "-q", "--plot", "plot.svg")
    assert done.code == 0 and "plot.svg is not written" in done.err and not Path("plot.svg").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "start"), [("plot.png", b"\x89PNG"), ("plot.pdf", b"%PDF")])
def test_a_plot_for_papers(name: str, start: bytes, pairs_file: Path, cli: Cli) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'qilin-rag[analysis]'")
    written = []
    for _ in range(2):
        assert cli("agreement", "calibrate", pairs_file, "--plot", name).code == 0
        written.append(Path(name).read_bytes())
    assert written[0].startswith(start) and written[0] == written[1]


@pytest.mark.browser
def test_the_page_in_a_browser(chromium: Any, informed: PairAgreement, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(as_page("Title", pair_sections(informed, "\n")), encoding="utf-8")
    for width, scheme, *inks in (
        (1400, "light", "rgb(17, 113, 58)", "rgb(255, 255, 255)"),
        (390, "dark", "rgb(111, 209, 149)", "rgb(20, 23, 27)"),
    ):
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        heard: list[str] = []
        page.on("console", lambda message, heard=heard: heard.append(message.text))
        page.on("request", lambda request, heard=heard: heard.append(request.url))
        page.goto(path.as_uri())
        assert heard == [path.as_uri()]
        wide, shown = page.locator("html").evaluate("page => [page.scrollWidth, page.clientWidth]")
        assert wide <= shown
        label, label_ink, back = page.locator(".forest g text.named").first.evaluate(
            "text => [text.textContent, getComputedStyle(text).fill, getComputedStyle(document.body).backgroundColor]"
        )
        assert (label, label_ink, back) == ("ours", *inks)
        box = page.locator(".forest svg").bounding_box()
        for text in page.locator(".forest text").all():
            at = text.bounding_box()
            assert at["x"] >= box["x"] and at["x"] + at["width"] <= box["x"] + box["width"]
        page.close()
