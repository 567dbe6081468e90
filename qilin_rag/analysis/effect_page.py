"""The effect of an answer as files: figures as JSON and CSV, a page in plain words, and a love plot."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from qilin_rag.analysis.causal import Estimate
from qilin_rag.analysis.dqa_effect import LARGEST_BALANCED, Balance, DqaEffect
from qilin_rag.analysis.figures import escaped
from qilin_rag.store import write_text

PAGE = "dqa_effect.md"
LOVE_PLOT = "balance"
_MOST_IN_PLOT = 30


def write_effects(effects: Sequence[DqaEffect], out: Path, label: str, with_plots: bool, clock: str = "") -> None:
    """`dqa_effect.{json,csv,md}`, and `balance_N.{png,svg}` of each population, into a folder that is there."""
    content = json.dumps([effect.model_dump() for effect in effects], ensure_ascii=False, indent=2)
    write_text(out / "dqa_effect.json", content + "\n")
    write_text(out / "dqa_effect.csv", as_csv(effects))
    write_text(out / PAGE, as_page(effects, label, with_plots, clock))
    if with_plots:
        for i, effect in enumerate(effects):
            draw_balance(effect, out / f"{LOVE_PLOT}_{i}")


def as_csv(effects: Sequence[DqaEffect]) -> str:
    """One line an estimate."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["population", "outcome", "of", "method", "effect", "low", "high", "answered", "without_answer"])
    for effect in effects:
        for of in effect.effects:
            found = [("naive", of.naive), ("matched", of.matched), ("doubly robust", of.doubly_robust)]
            for method, estimate in found:
                if estimate:
                    writer.writerow([effect.population, of.outcome, of.of, method, *map(repr, estimate)])
    return text.getvalue()


def as_page(effects: Sequence[DqaEffect], label: str, with_plots: bool, clock: str = "") -> str:
    """Write what was found and what can't be concluded; `clock` says by which clock hours are told."""
    lines = [
        f"# Does an answer change what users do? ({escaped(label)})",
        "",
        "Searches that were shown a direct answer beside searches that were not. *Naive*: the difference as it is. "
        "*Matched*: within pairs of nearly the same propensity, one with and one without an answer (logit within .2 "
        "standard deviations). *Doubly robust*: AIPW for the searches with an answer, cross-fitted over users. All are "
        "effects on searches with an answer, in units of the outcome, with 95% intervals; searches of one user count "
        "as one piece of evidence.",
        *(["", clock] if clock else []),
    ]
    for i, effect in enumerate(effects):
        lines += ["", f"## Among {effect.population}", ""]
        lines.append(
            f"{effect.n_answered:,} with an answer, {effect.n_others:,} without, of {effect.n_users:,} users. "
            f"Propensity (least, quartiles, most): with an answer {_spread(effect, 'answered')}; without "
            f"{_spread(effect, 'others')}."
        )
        lines += ["", "| outcome | naive | matched (pairs) | doubly robust | E-value (of the interval) |"]
        lines.append("|---|---:|---:|---:|---:|")
        for of in effect.effects:
            e_value = "-" if of.e_value is None else f"{of.e_value:.2f} ({of.e_value_of_interval:.2f})"
            matched = f"{_written(of.matched)} ({of.n_pairs:,})" if of.matched else "-"
            name = of.outcome if of.of == "all" else f"{of.outcome} ({of.of})"
            cells = [name, _written(of.naive), matched, _written(of.doubly_robust), e_value]
            lines.append(f"| {' | '.join(cells)} |")
        worst = max(effect.balance, key=lambda balance: abs(balance.weighted))
        before = max(effect.balance, key=lambda balance: abs(balance.before))
        verdict = "balanced" if effect.largest_imbalance <= LARGEST_BALANCED else "NOT balanced: mind the figures"
        lines += [
            "",
            f"Balance of {len(effect.balance)} covariates: the largest standardised difference is {before.before:+.2f} "
            f"before ({escaped(before.covariate)}) and "
            f"{worst.weighted:+.2f} weighted ({escaped(worst.covariate)}): {verdict} "
            f"(at most {LARGEST_BALANCED}).",
        ]
        if with_plots:
            lines += ["", f"![Balance among {effect.population}]({LOVE_PLOT}_{i}.svg)"]
    lines += ["", "## What this does not show", "", *(f"- {line}" for line in _CAVEATS)]
    return "\n".join(lines) + "\n"


_CAVEATS = (
    "Nobody drew lots about who sees an answer. What decides it and is not in the data (how well the platform knew "
    "the answer, say) may cause the differences. The E-value says how strong such a cause would have to be: as a risk "
    "ratio with the answer and with the outcome alike.",
    "What came after the answer is not held fixed: if it makes lists shorter, fewer clicks are one of its effects.",
    "The rank of the first click is known only where there is a click, which the answer itself makes rarer: its "
    "difference mixes two things.",
    "Each interval is for itself: one in twenty leaves out what is true, so of a dozen now and then one does. Searches "
    "of one user are taken together, the same query of several users is not.",
    "Fewer clicks are no worse or better a search: a user may have found in the answer what the clicks were for.",
)


def _spread(effect: DqaEffect, group: str) -> str:
    return ", ".join(f"{value:.3f}" for value in effect.propensity_quartiles[group])


def _written(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def _largest(balance: Balance) -> float:
    return max(abs(balance.before), abs(balance.weighted), abs(balance.matched or 0.0))


def draw_balance(effect: DqaEffect, path: Path) -> None:
    """The love plot: standardised differences before and after of the covariates where any is largest."""
    from matplotlib import pyplot

    from qilin_rag.analysis.plots import BLUE, GREEN, ORANGE, plain, plotting, save

    largest = sorted(effect.balance, key=_largest, reverse=True)[:_MOST_IN_PLOT]
    shown = sorted(largest, key=lambda balance: -abs(balance.before))
    of = (
        "" if len(shown) == len(effect.balance) else f"\n(the {len(shown)} largest of {len(effect.balance)} covariates)"
    )
    at = range(len(shown))
    with plotting():
        figure, axes = pyplot.subplots(figsize=(7.0, 1.5 + 0.24 * len(shown)), layout="constrained")
        series = [("before", ORANGE, "o", [each.before for each in shown])]
        series.append(("weighted", BLUE, "s", [each.weighted for each in shown]))
        if all(each.matched is not None for each in shown):
            series.append(("matched", GREEN, "^", [each.matched or 0.0 for each in shown]))
        for name, colour, marker, values in series:
            axes.scatter(values, at, color=colour, marker=marker, s=22, label=name, zorder=3)
        for edge in (-LARGEST_BALANCED, LARGEST_BALANCED):
            axes.axvline(edge, color="#999999", linestyle="--", linewidth=0.8)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(list(at), [plain(each.covariate) for each in shown])
        axes.invert_yaxis()
        axes.set_xlabel("standardised mean difference, answered minus others")
        axes.set_title(f"Balance among {effect.population}{of}", loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.2)
        figure.legend(frameon=False, loc="outside right upper")
        save(figure, path)
        pyplot.close(figure)
