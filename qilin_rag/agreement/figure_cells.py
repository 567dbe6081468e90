"""Format figures of agreement and their intervals as cells of tables."""

from __future__ import annotations

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
    if figure.value is None:
        return "-"
    shown = f"{figure.value:.4f}"
    if figure.ci95 is None:
        return shown
    low, high = (f"{end:.2f}".replace("0.", ".", 1) for end in figure.ci95)
    return f"{shown}{between}{low}–{high}"


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
