"""Plots: drawn with a font that has Chinese (a missing glyph is a warning, and warnings are errors here)."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'qilin-rag[analysis]'")

from qilin_rag.analysis.causal import Estimate
from qilin_rag.analysis.dqa_effect import Balance, DqaEffect, Effect
from qilin_rag.analysis.effect_page import write_effects
from qilin_rag.analysis.figures import Column, table
from qilin_rag.analysis.plots import chinese_font, draw_bars, draw_tables

PNG = b"\x89PNG"
SHARE = [Column(name="share", unit="share"), Column(name="count", unit="count")]


@pytest.fixture(autouse=True)
def _font() -> None:
    if not chinese_font():
        pytest.skip("no font with Chinese: pip install mplfonts")


def test_tables_with_shares_are_drawn(tmp_path: Path) -> None:
    tables = [
        table("users_location", "Users", SHARE, {"中国": [0.8, 8], "$x_1$": [0.2, 2]}, {"中国": {"share": 0.84}}),
        table("figure3a", "CTR", SHARE[:1], {"1": [0.5], "2": [None], ">10": [0.1]}),
        table("table2", "Counts", SHARE[1:], {"users": [3]}),
        table("empty", "Nothing", SHARE, {"a": [None, 0]}),
    ]
    assert draw_tables(tables, tmp_path) == ["users_location", "figure3a"]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{key}.{kind}" for key in ("users_location", "figure3a") for kind in ("png", "svg")
    }
    first = (tmp_path / "users_location.svg").read_bytes()
    assert (tmp_path / "figure3a.png").read_bytes().startswith(PNG)
    draw_tables(tables, tmp_path)
    assert (tmp_path / "users_location.svg").read_bytes() == first  # the same figures, the same file


def test_every_share_has_its_bars_its_intervals_and_says_where_there_is_none() -> None:
    from matplotlib import pyplot

    columns = [Column(name=name, unit="share") for name in ("any", "liked", "content", "citation", "experience")]
    made = table("answers", "Feedback", columns, {"a": [0.5, 0.0, None, 0.1, 0.6], "b": [0.4, 0.3, 0.2, 0.1, 0.0]})
    made = made.model_copy(update={"ci95": [[(0.4, 0.6), None, None, None, None], [None] * 5]})
    figure, axes = pyplot.subplots()
    draw_bars(axes, made, range(5))
    assert axes.get_legend_handles_labels()[1] == ["any", "liked", "content", "citation", "experience"]
    assert len(axes.patches) == 10
    assert [text.get_text().strip() for text in axes.texts] == ["no data"]
    assert [list(line.get_xdata()) for line in axes.lines] == [[40.0, 60.0]]
    pyplot.close(figure)


def test_the_love_plot(tmp_path: Path) -> None:
    estimate = Estimate(-1.0, -2.0, -0.5, 1.0, 2.0)
    effect = Effect(
        outcome="clicks",
        of="all",
        n_answered=40,
        n_others=60,
        naive=estimate,
        matched=None,
        n_pairs=0,
        doubly_robust=estimate,
        n_compared=30,
        effective_others=25.2,
        effective_users=7.5,
        refused=None,
        no_interval=None,
        is_balanced=False,
        not_balanced=["age × length +0.20"],
        e_value=3.4,
        e_value_of_interval=2.0,
    )
    found = DqaEffect(
        population="all searches",
        n_answered=40,
        n_others=60,
        n_users=9,
        propensity_quartiles={"answered": [0.1] * 5, "others": [0.1] * 5},
        largest_imbalance=0.2,
        is_balanced=False,
        n_functions=2,
        adjusted_for=["age × length"],
        dropped={"fans_num": "constant"},
        effects=[effect],
        balance=[
            Balance(covariate=r"年龄 $\x$ <b>", before=0.5, weighted=0.2, matched=None),
            Balance(
                covariate="(a long name of a function > 0.123) × (another long name > 3)",
                before=-0.4,
                weighted=None,
                matched=0.1,
            ),
        ],
    )
    write_effects([found], tmp_path, "made", with_plots=True)
    assert (tmp_path / "balance_0.png").read_bytes().startswith(PNG)
    page = (tmp_path / "dqa_effect.md").read_text(encoding="utf-8")
    assert "![Balance among all searches](balance_0.svg)" in page and "NOT balanced" in page
    assert "| clicks | -1.000 | - | -1.000 [-2.000, -0.500] | 3.40 (2.00) |" in page
    assert "30 of the 40 searches" in page and "age × length +0.20" in page.replace("\\", "") and "constant" in page
    assert "<b>" not in page.replace("\\<b\\>", "")
