"""Format a leaderboard as Markdown, LaTeX, HTML, plain data and flat records; escape every name in it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from qilin_rag.core.stats import ALPHA
from qilin_rag.core.types import Mark, Status
from qilin_rag.reports.cells import Block, Cell, ResultTable, Spending, Standing
from qilin_rag.reports.side_tables import has_cached, judged_by, n_name_columns, side_tables

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"$\sim$",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "^": r"\textasciicircum{}",
    "·": r"$\cdot$",
    "–": "--",
    "»": r"$\gg$",
    "›": r"$>$",
    "\n": " ",
    "\r": " ",
    **{
        char: f"{{{char}}}" for char in "[*"
    },  # characters that at the start of a row would be read as arguments of the row end before it
    **{char: f"\\{char}" for char in "&%$#_"},
}
_STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}th,td{padding:.25rem .8rem;text-align:right}"
    "th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid}"
    "small,code,li{color:#666}td small{display:block;white-space:nowrap}tr.other td{color:#666;font-style:italic}"
)


def format_cell(cell: Cell | None) -> str:
    """Format a figure with four decimals, and the number of scored questions if not all are; `-` without a run."""
    if cell is None:
        return "-"
    value = "unscored" if cell.value is None else f"{'~' if cell.likely else ''}{cell.value:.{cell.decimals}f}"
    return f"{value} ({cell.n}/{cell.n + cell.n_unscored})" if cell.n is not None and cell.n_unscored else value


LEGEND = {
    "column": "Column: * best, = tied.",
    "only row": "Only row: * best, = tied.",
    "column or only row": "Column or only row: * best, = tied.",
    "row": "Row: » best, › tied.",
    "none": "+ better, - worse than none.",
    "cached": "In brackets: what answers from the cache took when first asked.",
    "how": (
        "Tied: not significantly worse, by paired sign-flip tests adjusted for all pairs of the column or row (max-T); "
        "in at most 5% of columns is any run without a mark as good as the best. Beside or under a figure: its 95% "
        "interval. Smallest detectable difference: the true one of two runs that a test of these two alone finds four "
        "times in five."
    ),
}
"""The meaning of the marks beside figures, a sentence each; the report has them in Chinese as well."""


def marks_of(cell: Cell | None) -> str:
    """Return the marks of a figure: in its column (or the only row), in its row, and against no notes."""
    if cell is None:
        return ""
    in_row = cell.in_row or Standing()
    gain = ""
    if cell.over_none and cell.over_none.p_holm <= ALPHA:
        gain = "+" if cell.over_none.difference > 0 else "-"
    return f"{_mark(cell.best, cell.tied, '*=')}{_mark(in_row.best, in_row.tied, '»›')}{gain}"


def _mark(is_best: bool, is_tied: bool, marks: str) -> str:
    return marks[0] if is_best else marks[1] if is_tied else ""


def is_best(cell: Cell | None) -> bool:
    """Return whether a figure is the best of its column or of its row."""
    return cell is not None and (cell.best or bool(cell.in_row and cell.in_row.best))


def is_tied(cell: Cell | None) -> bool:
    """Return whether a figure is tied with the best of its column or row, and is not the best of either."""
    return cell is not None and not is_best(cell) and (cell.tied or bool(cell.in_row and cell.in_row.tied))


def format_interval(cell: Cell | None) -> str:
    """Format the 95% interval, `.310–.364`; empty if there is none."""
    if cell is None or cell.ci95 is None:
        return ""
    low, high = (f"{end:.3f}".replace("0.", ".", 1) if abs(end) < 0.9995 else f"{end:.3f}" for end in cell.ci95)
    return f"{low}–{high}"


def legend(block: Block) -> str:
    """Return how the figures of a block were made, and which differences its questions can show."""
    of = f" of {block.columns[0]}" if block.signatures else ""
    said = [f"smallest detectable difference{of}: {block.detectable:.3f}"] if block.detectable else []
    said += [block.undetectable] if block.undetectable else []
    untold = {
        cell.untold: row
        for row, cells in zip(block.rows, block.cells, strict=True)
        for cell in cells
        if cell and cell.untold
    }
    said += [f"{row}, tied: {reason}" for reason, row in untold.items() if reason != block.undetectable]
    return f"{block.metric}: {block.signature}" + (f" ({'; '.join(said)})" if said else "")


def _compared_along(block: Block) -> str:
    """Return what the figures marked * and = in a block are compared with."""
    return "only row" if block.axes[0] == "llm" and block.kinds.count("run") == 1 else "column"


def marks(table: ResultTable) -> list[str]:
    """Return what the marks in a table mean, and how figures are compared."""
    *meanings, how = legend_sentences(table)
    judged = [f"{judged_by(comparison)}." for comparison in table.judged]
    return [line for line in (" ".join(meanings), how, *judged) if line]


def legend_sentences(table: ResultTable) -> list[str]:
    """Return those sentences of `LEGEND` that a table needs, the last about how figures are compared."""
    used = {mark for block in table.blocks for row in block.cells for cell in row for mark in marks_of(cell)}
    places = {_compared_along(block) for block in table.blocks}
    needed = {
        " or ".join(sorted(places)): used & set("*="),
        "row": used & set("»›"),
        "none": used & set("+-"),
        "cached": has_cached(table),
        "how": True,
    }
    return [LEGEND[name] for name, is_needed in needed.items() if is_needed]


def column_names(block: Block) -> list[str]:
    """Return the names of the columns; metrics of one name that were made in several ways are numbered."""
    return [
        name if block.columns.count(name) == 1 else f"{name} ({block.columns[: at + 1].count(name)})"
        for at, name in enumerate(block.columns)
    ]


def title(table: ResultTable) -> str:
    """Return the data set and the number of questions (or requests) of a table."""
    same = f" ({table.n_clusters} distinct)" if table.n_clusters < table.n_questions else ""
    return f"{table.data}, {table.n_questions} {table.unit}{same}"


def as_json(tables: Sequence[ResultTable]) -> list[dict[str, Any]]:
    """Return tables as plain data, for programs."""
    return [table.model_dump(mode="json") for table in tables]


def as_rows(tables: Sequence[ResultTable]) -> list[dict[str, Any]]:
    """Return one flat record for each figure, for CSV."""
    spending = {each.run: each for table in tables for each in table.spending}
    rows = []
    for table in tables:
        for block in table.blocks:
            for row, kind, cells in zip(block.rows, block.kinds, block.cells, strict=True):
                signatures = block.signatures or [block.signature] * len(block.columns)
                for column, signature, cell in zip(block.columns, signatures, cells, strict=True):
                    if cell is None:
                        continue
                    spent = spending.get(cell.run) if cell.run and block.axes[0] == "llm" else None
                    in_row, gain = cell.in_row, cell.over_none
                    rows.append(
                        {
                            "data": table.data,
                            "n_questions": table.n_questions,
                            "metric": block.metric,
                            "kind": kind,
                            **_place(block, row, column, spent),
                            "value": cell.value,
                            "ci95_low": cell.ci95[0] if cell.ci95 else None,
                            "ci95_high": cell.ci95[1] if cell.ci95 else None,
                            "n": cell.n,
                            "n_unscored": cell.n_unscored,
                            "value_unscored_as_zero": cell.value_unscored_as_zero,
                            "best": cell.best,
                            "no_interval": cell.no_interval,
                            "tied": cell.tied,
                            "p": cell.p,
                            "untold": cell.untold,
                            "best_in_row": bool(in_row and in_row.best),
                            "tied_in_row": bool(in_row and in_row.tied),
                            "p_in_row": in_row and in_row.p,
                            "over_none": gain and gain.difference,
                            "over_none_low": gain.ci95[0] if gain and gain.ci95 else None,
                            "over_none_high": gain.ci95[1] if gain and gain.ci95 else None,
                            "p_over_none": gain and gain.p,
                            "p_holm_over_none": gain and gain.p_holm,
                            "run": cell.run,
                            "prompt_tokens": spent and spent.prompt_tokens,
                            "completion_tokens": spent and spent.completion_tokens,
                            "cost": spent and spent.cost.amount,
                            "cost_is_at_most": spent and spent.cost.at_most,
                            "currency": spent and spent.cost.currency,
                            **(_calls(spent) if spending else {}),
                            **(_outcomes(spent) if spending else {}),
                            "signature": signature,
                        }
                    )
    return rows


def _place(block: Block, row: str, column: str, spent: Spending | None) -> dict[str, Any]:
    """Return the place of a figure; for an LLM, its name and each setting of its row's label in its own column."""
    place: dict[str, Any] = dict(zip(block.axes, (row, column), strict=True))
    if block.axes[0] != "llm":
        return place
    return {
        "row": row,
        **place,
        **({"llm": spent.model} if spent else {}),
        "note": spent and spent.note,
        "prompt": spent and spent.prompt,
        "top_k": spent and spent.top_k,
        "note_fields": spent and spent.note_fields,
        "note_order": spent and spent.note_order,
        "note_chars": spent and spent.note_chars,
        "note_images": spent and spent.note_images,
    }


def _calls(spent: Spending | None) -> dict[str, Any]:
    """Return the cached answers with what they used when first asked, and the seconds for each call."""
    first, latency = (spent.first_asked, spent.latency) if spent else (None, None)
    return {
        "n_cached": (first.n if first else 0) if spent else None,
        "prompt_tokens_when_first_asked": first and first.prompt_tokens,
        "completion_tokens_when_first_asked": first and first.completion_tokens,
        "cost_when_first_asked": first and first.cost.amount,
        "latency_median_s": latency and latency.median_s,
        "latency_p95_s": latency and latency.p95_s,
    }


def _outcomes(spent: Spending | None) -> dict[str, int | None]:
    """Return the number of questions with each status, and with each mark."""
    return {
        **{f"n_{status}": spent.statuses[status] if spent else None for status in get_args(Status)},
        **{f"n_{mark}": spent.marks.get(mark, 0) if spent else None for mark in get_args(Mark)},
    }


def as_markdown(tables: Sequence[ResultTable]) -> str:
    """Format GitHub tables; the best figures are bold, tied ones underlined, all with their marks."""
    lines: list[str] = []
    for table in tables:
        lines += [f"### {escape_md(title(table))}", ""]
        for block in table.blocks:
            lines.append("| " + " | ".join(map(escape_md, [block.metric, *column_names(block)])) + " |")
            lines.append("|---|" + "---:|" * len(block.columns))
            for row, cells in zip(block.rows, block.cells, strict=True):
                lines.append("| " + " | ".join([escape_md(row), *map(_md_cell, cells)]) + " |")
            lines += ["", f"{escape_md(legend(block))}", ""]
        for header, *rows in side_tables(table):
            n_names = n_name_columns(header)
            rule = "|" + "---|" * n_names + "---:|" * (len(header) - n_names)
            shown = [f"| {' | '.join(map(escape_md, cells))} |" for cells in (header, *rows)]
            lines += [shown[0], rule, *shown[1:], ""]
        lines += [
            *(f"- {escape_md(line)}" for line in (*marks(table), *table.notes)),
            "",
        ]
    return "\n".join(lines)


def escape_md(text: str) -> str:
    """Escape a name from files or flags, so that it can't end a cell or begin markup."""
    return "".join(f"\\{char}" if char in r"\|*_`<>[]$" else " " if char in "\r\n" else char for char in text)


def _md_cell(cell: Cell | None) -> str:
    text, interval = escape_md(format_cell(cell)), escape_md(format_interval(cell))
    shown = f"**{text}**" if is_best(cell) else f"<ins>{text}</ins>" if is_tied(cell) else text
    return " ".join(filter(None, (shown, escape_md(marks_of(cell)), interval)))


def as_latex(tables: Sequence[ResultTable]) -> str:
    """Format tables for booktabs, with short captions and labels; signatures and remarks are comments above them.

    The answers of a set of questions are one table: LLMs in rows, metrics x retrievers in columns. Retrieval, and
    rankers, are tables of their own. The best figures are bold, tied ones underlined, with their marks and 95%
    intervals.
    """
    lines = [r"% needs \usepackage{booktabs}; for Chinese names also \usepackage{xeCJK} and xelatex"]
    for number, table in enumerate(tables, start=1):
        answers = [block for block in table.blocks if not block.signatures and block.axes[0] == "llm"]
        groups = [answers] if answers else []
        groups += [[block] for block in table.blocks if block not in answers]
        said = [*map(legend, table.blocks), *marks(table), *table.notes]
        lines += ["", *(f"% {' '.join(line.split())}" for line in said)]
        for blocks in groups:
            kind = "answers" if blocks is answers else "rankers" if blocks[0].axes[0] == "ranker" else "retrieval"
            label = f"tab:{kind}" if len(tables) == 1 else f"tab:{kind}-{number}"
            lines += _latex_table(table, blocks, label)
    return "\n".join(lines)


def _latex_table(table: ResultTable, blocks: Sequence[Block], label: str) -> list[str]:
    """Format blocks side by side as one table, with their metrics above the columns if there are several."""
    rows = list(
        dict.fromkeys(zip((r for b in blocks for r in b.rows), (k for b in blocks for k in b.kinds), strict=True))
    )
    rows.sort(key=lambda row: ("run", "control", "paper").index(row[1]))
    names = [column_names(block) for block in blocks]
    n_columns = sum(map(len, names))
    lines = ["", r"\begin{table}", r"\centering", r"\begin{tabular}{l" + "r" * n_columns + "}", r"\toprule"]
    corner = blocks[0].metric
    if len(blocks) > 1:
        corner, spans, at = "", [], 2
        for block, of_block in zip(blocks, names, strict=True):
            spans.append((at, at + len(of_block) - 1, _metric_name(block, blocks)))
            at += len(of_block)
        heads = [rf"\multicolumn{{{end - start + 1}}}{{c}}{{{escape_tex(name)}}}" for start, end, name in spans]
        lines.append(" & ".join(["", *heads]).strip() + r" \\")
        lines.append(" ".join(rf"\cmidrule(lr){{{start}-{end}}}" for start, end, _ in spans))
    header = [corner, *(name for of_block in names for name in of_block)]
    lines += [" & ".join(map(escape_tex, header)) + r" \\", r"\midrule"]
    for number, (row, kind) in enumerate(rows):
        if number and kind != rows[number - 1][1]:
            lines.append(r"\midrule")
        cells = [cell for block in blocks for cell in _cells_of(block, row)]
        lines.append(" & ".join([escape_tex(row), *map(_tex_cell, cells)]) + r" \\")
        if any(intervals := [escape_tex(format_interval(cell)) for cell in cells]):
            small = [rf"{{\scriptsize {interval}}}" if interval else "" for interval in intervals]
            lines.append(" & ".join(["", *small]).strip() + r" \\")
    what = ", ".join(dict.fromkeys(block.metric for block in blocks))
    caption = f"{title(table)}: {what}, with 95% intervals. Best in bold, not significantly worse underlined."
    return [
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
        rf"\caption{{{escape_tex(caption)}}}",
        rf"\label{{{label}}}",
        r"\end{table}",
    ]


def _metric_name(block: Block, blocks: Sequence[Block]) -> str:
    """Return the metric of a block, numbered if blocks of one name were made in several ways."""
    same = [other for other in blocks if other.metric == block.metric]
    return block.metric if len(same) == 1 else f"{block.metric} ({same.index(block) + 1})"


def _cells_of(block: Block, row: str) -> list[Cell | None]:
    return block.cells[block.rows.index(row)] if row in block.rows else [None] * len(block.columns)


def escape_tex(text: str) -> str:
    """Escape a name from files or flags for LaTeX."""
    return "".join(_LATEX.get(char, char) for char in text)


def _tex_cell(cell: Cell | None) -> str:
    text = escape_tex(format_cell(cell))
    marked = rf"\textbf{{{text}}}" if is_best(cell) else rf"\underline{{{text}}}" if is_tied(cell) else text
    if found := marks_of(cell):
        marked += rf"\textsuperscript{{{escape_tex(found)}}}"
    return marked


def as_html(tables: Sequence[ResultTable]) -> str:
    """Format one page without scripts; the best figures are bold, tied ones underlined, all with their marks."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
    body = html_tables(tables)
    return f'<!doctype html>\n<html lang="en"><head>{head}<title>Leaderboard</title></head>\n<body>{body}</body></html>'


def html_tables(tables: Sequence[ResultTable]) -> str:
    """Format only the tables of the page."""
    parts = []
    for table in tables:
        parts.append(f"<h2>{html.escape(title(table))}</h2>")
        for block in table.blocks:
            parts += ["<table><thead><tr>", *_tags("th", [block.metric, *column_names(block)]), "</tr></thead><tbody>"]
            for row, kind, cells in zip(block.rows, block.kinds, block.cells, strict=True):
                parts.append(f"<tr{'' if kind == 'run' else ' class=other'}>")
                parts += [f"<th scope=row>{html.escape(row)}</th>", *map(_html_cell, cells), "</tr>"]
            parts += ["</tbody></table>", f"<p><code>{html.escape(legend(block))}</code></p>"]
        for rows in side_tables(table):
            parts.append("<table>")
            parts += [f"<tr>{''.join(_tags('td', cells))}</tr>" for cells in rows]
            parts.append("</table>")
        parts += ["<ul>", *_tags("li", [*marks(table), *table.notes]), "</ul>"]
    return "\n".join(parts)


def _tags(tag: str, texts: Iterable[str]) -> list[str]:
    return [f"<{tag}>{html.escape(text)}</{tag}>" for text in texts]


def _html_cell(cell: Cell | None) -> str:
    text = html.escape(format_cell(cell))
    shown = f"<b>{text}</b>" if is_best(cell) else f"<u>{text}</u>" if is_tied(cell) else text
    return f"<td>{shown} {html.escape(marks_of(cell))}<small>{html.escape(format_interval(cell))}</small></td>"
