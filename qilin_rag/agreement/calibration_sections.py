"""Show how well a judge that people's labels chose agrees with others of them: sections, flat records, plain data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from qilin_rag.agreement.calibration import Calibration
from qilin_rag.agreement.figure_cells import share_cells
from qilin_rag.agreement.forests import CHOICE, MOST_FREQUENT, plot_calibration
from qilin_rag.agreement.intervals import AgreementFigure
from qilin_rag.core.text import counted
from qilin_rag.reports.sections import Section

_HEADER = ["", "folds won", "held out", "95% interval"]
_HOW = (
    "held out: the share of judgements that judge and threshold get right if both were chosen on the other folds. "
    "An unscored pair counts as wrong. The highest of the judges alone looks better than it is: it was picked here."
)


def calibration_sections(found: Sequence[Calibration]) -> Iterator[Section]:
    """Yield a section for each aspect.

    Args:
        found: The choice on each aspect.
    """
    for each in found:
        title = (
            f"{each.aspect}: {counted(each.n_judgements, 'judgement')}, {counted(each.n_queries, 'query', 'queries')}, "
            f"{each.n_folds} folds"
        )
        rows = [
            [CHOICE, "", *share_cells(each.held_out)],
            [MOST_FREQUENT, "", *share_cells(each.most_frequent)],
            ["each judge alone", "", "", ""],
            *([alone.judge, str(alone.n_chosen), *share_cells(alone.held_out)] for alone in each.judges),
        ]
        yield Section(title, _HEADER, rows, list(_lines(each)), plot_calibration(each))


def _lines(found: Calibration) -> Iterator[str]:
    if found.is_shown:
        yield (
            f"Use {found.judge}, and call a pair a tie if its scores differ by at most {found.epsilon:g}. Expect it to "
            f"agree with {found.held_out.value:.3f} of the judgements."
        )
    else:
        yield "No judge is shown to agree better than always saying what people say most, so none is recommended."
    yield _HOW
    if found.held_out.reason:
        yield f"No interval, {found.held_out.reason}."


def calibration_document(found: Sequence[Calibration]) -> list[dict[str, Any]]:
    """Return the choices as plain data, with the verdict on each aspect.

    Args:
        found: The choice on each aspect.
    """
    return [each.model_dump(mode="json") | {"is_shown": each.is_shown, "verdict": list(_lines(each))} for each in found]


def calibration_records(found: Sequence[Calibration]) -> list[dict[str, object]]:
    """Return flat records for CSV: for each aspect the choice, what people say most, and each judge alone.

    Args:
        found: The choice on each aspect.
    """
    records: list[dict[str, object]] = []
    for each in found:
        aspect: dict[str, object] = {"aspect": each.aspect}
        about: dict[str, object] = {"judge": each.judge, "epsilon": each.epsilon, "is_shown": each.is_shown}
        about["p_beyond_most_frequent"] = each.p_beyond_most_frequent
        records.append(aspect | {"kind": "choice"} | about | _figure(each.held_out))
        records.append(aspect | {"kind": "most_frequent"} | _figure(each.most_frequent))
        for alone in each.judges:
            name: dict[str, object] = {"kind": "alone", "judge": alone.judge, "n_chosen": alone.n_chosen}
            records.append(aspect | name | _figure(alone.held_out))
    return records


def _figure(figure: AgreementFigure) -> dict[str, object]:
    low, high = figure.ci95 or (None, None)
    return {"held_out": figure.value, "low": low, "high": high, "reason": figure.reason}
