"""Format figures of agreement as cells and rows of tables, and say below a table why some are missing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qilin_rag.agreement.intervals import AgreementFigure


def figure_cell(figure: AgreementFigure, between: str) -> str:
    """Return a figure with four decimals and its interval, as one cell.

    Args:
        figure: The figure.
        between: The text between both.

    Returns:
        A dash for a figure without a value.

    >>> figure_cell(AgreementFigure(value=0.5, ci95=(-0.25, 1.0)), " ")
    '0.5000 -.25–1.00'
    """
    shown = value_cell(figure.value)
    if figure.value is None or figure.ci95 is None:
        return shown
    low, high = (f"{end:.2f}".replace("0.", ".", 1) for end in figure.ci95)
    return f"{shown}{between}{low}–{high}"


def value_cell(value: float | None) -> str:
    """Return a value with four decimals, or a dash.

    Args:
        value: The value.

    >>> value_cell(0.5), value_cell(None)
    ('0.5000', '-')
    """
    return "-" if value is None else f"{value:.4f}"


def share_cells(figure: AgreementFigure) -> tuple[str, str]:
    """Return a share with three decimals, and its interval, as two cells.

    Args:
        figure: The share.

    >>> share_cells(AgreementFigure(value=0.5, ci95=(0.25, 1.0)))
    ('0.500', '0.250 .. 1.000')
    """
    return share_cell(figure.value), f"{figure.ci95[0]:.3f} .. {figure.ci95[1]:.3f}" if figure.ci95 else ""


def share_cell(share: float | None) -> str:
    """Return a share with three decimals, or a dash.

    >>> share_cell(None)
    '-'
    """
    return "-" if share is None else f"{share:.3f}"


def with_heading(rows: Iterable[tuple[str, Sequence[str]]]) -> list[list[str]]:
    """Return rows with a heading above the sentinels, which come last.

    Args:
        rows: The kind of each row, `measure` or `sentinel`, and its cells.

    >>> with_heading([("measure", ["chrf", "0.5"]), ("sentinel", ["length", "0.1"])])
    [['chrf', '0.5'], ['sentinels', ''], ['length', '0.1']]
    """
    found: list[list[str]] = []
    before = "measure"
    for kind, cells in rows:
        if kind != before:
            found.append(["sentinels", *[""] * (len(cells) - 1)])
        found.append([*cells])
        before = kind
    return found


def lines_by_remark(remarks: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line for each remark, with the names that it is about.

    Args:
        remarks: Names, each with a remark.

    >>> lines_by_remark([("chrf", "no interval"), ("bleu", "no interval")])
    ['chrf, bleu: no interval.']
    """
    names: dict[str, list[str]] = {}
    for name, remark in remarks:
        names.setdefault(remark, []).append(name)
    return [f"{', '.join(of_remark)}: {remark}." for remark, of_remark in names.items()]
