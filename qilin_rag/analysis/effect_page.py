"""The effect of an answer as files: figures as JSON and CSV, a page in plain words, and a love plot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from qilin_rag.analysis.causal import Estimate
from qilin_rag.analysis.dqa_effect import Balance, DqaEffect, Effect
from qilin_rag.analysis.figures import escaped
from qilin_rag.analysis.overlap import LARGEST_BALANCED, LARGEST_PROPENSITY
from qilin_rag.core.files import write_text
from qilin_rag.core.spreadsheet import csv_text

PAGE = "dqa_effect.md"
LOVE_PLOT = "balance"
_MOST_IN_PLOT = 30
_MOST_CHARS_IN_PLOT = 48
_WIDEST = 2.0


def write_effects(effects: Sequence[DqaEffect], out: Path, label: str, with_plots: bool, clock: str = "") -> None:
    """Write `dqa_effect.{json,csv,md}`, and `balance_N.{png,svg}` of each population, to an existing folder."""
    content = json.dumps([effect.model_dump() for effect in effects], ensure_ascii=False, indent=2)
    write_text(out / "dqa_effect.json", content + "\n")
    write_text(out / "dqa_effect.csv", as_csv(effects))
    write_text(out / PAGE, as_page(effects, label, with_plots, clock))
    if with_plots:
        for i, effect in enumerate(effects):
            draw_balance(effect, out / f"{LOVE_PLOT}_{i}")


def as_csv(effects: Sequence[DqaEffect]) -> str:
    """Return one line per estimate; a refused one has the reason instead of figures."""
    rows: list[list[object]] = []
    for effect in effects:
        for outcome in effect.effects:
            row = [effect.population, outcome.outcome, outcome.of]
            for method, estimate in (("naive", outcome.naive), ("matched", outcome.matched)):
                if estimate:
                    rows.append([*row, method, *_cells(estimate), ""])
            robust = outcome.doubly_robust
            rows.append([*row, "doubly robust", *(_cells(robust) if robust else [""] * 5), outcome.refused or ""])
    figures = ["effect", "low", "high", "answered", "without_answer"]
    return csv_text(["population", "outcome", "of", "method", *figures, "refused"], rows)


def as_page(effects: Sequence[DqaEffect], label: str, with_plots: bool, clock: str = "") -> str:
    """Return the page of findings and of limits; `clock` says which clock gives the hours."""
    lines = [
        f"# Does an answer change what users do? ({escaped(label)})",
        "",
        *METHODS,
        *(["", clock] if clock else []),
        *sections(effects, with_plots),
        "",
        "## What this does not show",
        "",
        *(f"- {line}" for line in CAVEATS),
    ]
    return "\n".join(lines) + "\n"


METHODS = (
    "Searches that were shown a direct answer are compared with searches that were not. Effects are those on "
    "searches with an answer, in units of the outcome.",
    "",
    "- **Naive**: the raw difference. It is not an effect: the two kinds of search differ in more than the answer.",
    "- **Matched**: the difference within pairs of nearly the same propensity, one with and one without an answer "
    "(logit within .2 standard deviations). It has no interval: the usual one does not hold for matched pairs.",
    "- **Doubly robust**: AIPW with cross-fitted models, in brackets its 95% interval. Searches of one user count "
    "as one piece of evidence, and unequal users as fewer.",
    "- **E-value**: how strong a hidden cause would have to be to explain the effect away, and in brackets to move "
    "its interval to no effect.",
)
"""The lines of a page that say what its estimates are."""


def sections(effects: Sequence[DqaEffect], with_plots: bool) -> list[str]:
    """Return the lines of a page with the effects in each population: a table, remarks, and the love plot."""
    lines = []
    for i, effect in enumerate(effects):
        lines += ["", f"## Among {effect.population}", ""]
        lines.append(
            f"{effect.n_answered:,} searches with an answer, {effect.n_others:,} without, of {effect.n_users:,} users."
        )
        lines += ["", "| outcome | naive | matched (pairs) | doubly robust | E-value (of the interval) |"]
        lines.append("|---|---:|---:|---:|---:|")
        for outcome in effect.effects:
            matched = f"{signed(outcome.matched.value)} ({outcome.n_pairs:,})" if outcome.matched else "-"
            cells = [
                outcome_name(outcome),
                signed(outcome.naive.value),
                matched,
                robust_cell(outcome),
                e_value_cell(outcome),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        lines += ["", *(f"- {escaped(line)}" for line in findings(effect))]
        if effect.propensity_quartiles:
            lines += [
                "",
                "| propensity | least | lower quartile | median | upper quartile | most |",
                "|---|---:|---:|---:|---:|---:|",
            ]
            for name, group in (("with an answer", "answered"), ("without", "others")):
                cells = [f"{value:.3f}" for value in effect.propensity_quartiles[group]]
                lines.append(f"| {name} | {' | '.join(cells)} |")
        if with_plots:
            lines += ["", f"![Balance among {effect.population}]({LOVE_PLOT}_{i}.svg)"]
        if effect.adjusted_for:
            names = [escaped(name) for name in effect.adjusted_for]
            lines += ["", f"Beside the covariates as they are, the models adjust for: {'; '.join(names)}."]
        if effect.dropped:
            dropped = [escaped(f"{name} ({why})") for name, why in effect.dropped.items()]
            lines += ["", f"Covariates left out: {', '.join(dropped)}."]
    return lines


NOT_RANDOM = (
    "Answers were not shown at random. A cause that is not in the data, such as how well the platform knew "
    "the answer, may explain the differences."
)
SAMPLED = (
    "Users were sampled because they engaged with answers. That is a selection on an outcome, so the effect on "
    "other users may differ."
)
NOT_ADJUSTED = (
    "Intervals are not adjusted for each other: one in twenty misses the truth. Searches of a user are clustered, the "
    "same query of several users is not."
)
FEWER_CLICKS = (
    "Fewer clicks do not make a search better or worse: the answer may have given the user what the clicks were for."
)
CAVEATS = (
    NOT_RANDOM,
    SAMPLED,
    "Searches without results are left out, and the click-through rate divides by the results shown. An answer may "
    "change both, so these figures hold fixed what may be one of its effects.",
    "Browsing depth and the rank of the first click are known for some searches only, and an answer makes these "
    "rarer: their differences mix two effects.",
    NOT_ADJUSTED,
    FEWER_CLICKS,
)
"""Warnings about the interpretation of the figures, for the page and the terminal."""


def findings(effect: DqaEffect) -> list[str]:
    """Return the remarks beside the figures of a population: refusals, trimming, evidence and balance."""
    by_line: dict[str, list[str]] = {}
    for outcome in effect.effects:
        for line in _remarks(outcome):
            by_line.setdefault(line, []).append(outcome_name(outcome))
    n_outcomes = len(effect.effects)
    lines = []
    for line, names in by_line.items():
        if len(names) < n_outcomes:
            line = f"{', '.join(names) if 2 * len(names) <= n_outcomes else 'The other figures'}: {line}"
        lines.append(line)
    lines.sort(key=lambda line: line.startswith("The other figures"))
    worth = sorted(outcome.effective_users for outcome in effect.effects if outcome.effective_users is not None)
    if worth:
        least, most = f"{worth[0]:,.0f}", f"{worth[-1]:,.0f}"
        equal = least if least == most else f"{least} to {most} (by outcome)"
        lines.append(
            f"The {effect.n_users:,} users are worth about {equal} equal ones: the intervals account for this."
        )
    return lines


def _remarks(effect: Effect) -> Iterator[str]:
    if effect.refused:
        yield f"No effect is given. {_sentence(effect.refused)}."
        return
    if trimmed := effect.n_answered - effect.n_compared:
        yield (
            f"The effect is that on {effect.n_compared:,} of the {effect.n_answered:,} searches with an answer: the "
            f"other {trimmed:,} have a propensity over {LARGEST_PROPENSITY}, and almost no comparable searches."
        )
    if effect.no_interval:
        yield f"No interval is given. {_sentence(effect.no_interval)}."
    if effect.is_balanced:
        balance = (
            f"Balanced: weighted, no function of the covariates differs by more than {LARGEST_BALANCED} standard "
            "deviations."
        )
    else:
        balance = (
            "NOT balanced: do not trust the figures. After weighting, these differ most, in standard deviations: "
            f"{'; '.join(effect.not_balanced)}."
        )
    worth = f"{effect.effective_others or 0:,.0f} (Kish)"
    yield f"{balance} Weighted, the {effect.n_others:,} searches without an answer are worth {worth}."


def outcome_name(effect: Effect) -> str:
    """Return the outcome's name, with its searches if these are not all."""
    return effect.outcome if effect.of == "all" else f"{effect.outcome} ({effect.of})"


def signed(value: float) -> str:
    """Return a difference as text, with its sign; -0 becomes 0."""
    return f"{round(value, 3) + 0.0:+.3f}"


def robust_cell(effect: Effect) -> str:
    """Return the doubly robust figure as text: refused, without an interval, or with one."""
    robust = effect.doubly_robust
    if robust is None:
        return "refused"
    if robust.low is None or robust.high is None:
        return f"{signed(robust.value)} [no interval]"
    return f"{signed(robust.value)} [{signed(robust.low)}, {signed(robust.high)}]"


def e_value_cell(effect: Effect) -> str:
    """Return the E-values of the figure and of its interval as text."""
    if effect.e_value is None:
        return "-"
    return f"{effect.e_value:.2f} ({effect.e_value_of_interval:.2f})"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cells(estimate: Estimate) -> list[str]:
    return ["" if value is None else repr(value) for value in estimate[:5]]


def _worst(balance: Sequence[Balance]) -> list[Balance]:
    """Return the functions that differ most before and after weighting, ordered by their difference before."""
    half = _MOST_IN_PLOT // 2
    by_weighted = sorted(balance, key=lambda each: -abs(each.weighted or 0.0))[:half]
    others = sorted((each for each in balance if each not in by_weighted), key=lambda each: -abs(each.before))
    return sorted([*by_weighted, *others[: _MOST_IN_PLOT - len(by_weighted)]], key=lambda each: -abs(each.before))


def _shortened(name: str) -> str:
    return name if len(name) <= _MOST_CHARS_IN_PLOT else f"{name[: _MOST_CHARS_IN_PLOT - 1]}…"


def draw_balance(effect: DqaEffect, path: Path) -> None:
    """Draw the love plot: standardised differences before and after, for the functions with the largest."""
    from matplotlib import pyplot

    from qilin_rag.analysis.plots import BLUE, GREEN, ORANGE, plain, plotting, save

    shown = _worst(effect.balance)
    subset = (
        "" if len(shown) == effect.n_functions else f"\n(the worst {len(shown)} of {effect.n_functions:,} functions)"
    )
    with plotting():
        figure, axes = pyplot.subplots(figsize=(7.0, 1.5 + 0.24 * len(shown)), layout="constrained")
        series: list[tuple[str, str, str, list[float | None]]] = [
            ("before", ORANGE, "o", [function.before for function in shown])
        ]
        series.append(("weighted", BLUE, "s", [function.weighted for function in shown]))
        series.append(("matched", GREEN, "^", [function.matched for function in shown]))
        for name, colour, marker, values in series:
            points = [
                (min(max(value, -_WIDEST), _WIDEST), row) for row, value in enumerate(values) if value is not None
            ]
            if points:
                axes.scatter(*zip(*points, strict=True), color=colour, marker=marker, s=22, label=name, zorder=3)
        for edge in (-LARGEST_BALANCED, LARGEST_BALANCED):
            axes.axvline(edge, color="#999999", linestyle="--", linewidth=0.8)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(shown)), [plain(_shortened(function.covariate)) for function in shown])
        axes.invert_yaxis()
        is_cut = any(abs(value) > _WIDEST for *_, values in series for value in values if value is not None)
        at_edge = f"\n(larger ones at {_WIDEST:g} and -{_WIDEST:g})" if is_cut else ""
        axes.set_xlabel(f"standardised mean difference, answered minus others{at_edge}")
        axes.set_title(f"Balance among {effect.population}{subset}", loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.2)
        figure.legend(frameon=False, loc="outside right upper")
        save(figure, path)
        pyplot.close(figure)
