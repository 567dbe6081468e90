"""Show a replication as one page, ours beside the paper's: HTML in two languages, Markdown and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from qilin_rag.analysis.figures import FigureTable
from qilin_rag.analysis.page import LEAD, written
from qilin_rag.core.errors import QilinError
from qilin_rag.core.files import write_text
from qilin_rag.data.released import why_other_data
from qilin_rag.data.requests import TaskName
from qilin_rag.reports.cells import Block, Cell, ResultTable
from qilin_rag.reports.formats import column_names, format_cell, format_interval, legend, marks, marks_of
from qilin_rag.reports.formats import title as board_title
from qilin_rag.reports.leaderboard import Options, leaderboard_of
from qilin_rag.reports.ranking_board import ranking_board
from qilin_rag.reports.replication import answer_parts
from qilin_rag.reports.replication.chinese import CHINESE
from qilin_rag.reports.replication.part import FEWEST
from qilin_rag.reports.replication.ranking_parts import SMALL_DCN
from qilin_rag.reports.replication.told import Told, quote, tell
from qilin_rag.reports.replication.work import PartOutcome, Replication
from qilin_rag.reports.section_page import as_page
from qilin_rag.reports.sections import Section, as_markdown

HTML, MARKDOWN, JSON = "paper.html", "paper.md", "paper.json"
_FIGURE_3 = "figure-3"
_RECORDED = "recorded:bm25"
_RANKED: dict[str, TaskName] = {"table-10-search": "search", "table-10-recommendation": "recommendation"}
_OURS = {
    "bm25": "BM25",
    "biencoder": "BERT-bi",
    "crossencoder": "BERT-cross",
    "dcn-v2": "DCN-V2",
    "vlm": "VLM",
}
"""The names of our rankers, and those in the paper's Table 10."""
_TITLES = {
    "table-2": "Size of the data (Table 2)",
    "users": "Users (section 4.1)",
    "table-5": "User behaviour (Table 5)",
    "figure-3": "Figure 3",
    "table-6": "Consecutive requests in a session (Table 6)",
    "table-7": "Length of queries in characters (Table 7)",
    "table-8": "Reformulations of queries (Table 8)",
    "table-9": "Sources of queries (Table 9)",
    "table-10-search": "Table 10: rankers of search",
    "table-10-recommendation": "Table 10: rankers of recommendation",
    "table-11": "Table 11: answers of one LLM with four kinds of notes",
}


class PaperPage:
    """The content of the page of a replication."""

    def __init__(self, replication: Replication) -> None:
        """Collect the tables of the parts that are done."""
        self.replication = replication
        self.choices, self.source = replication.place.choices, replication.place.source
        self.of_section: dict[str, list[PartOutcome]] = {}
        for outcome in replication.outcomes:
            self.of_section.setdefault(outcome.part.section, []).append(outcome)
        self.why_other, self.is_known = self._why_other()
        self.tables = {
            section: [
                FigureTable.model_validate(table)
                for outcome in outcomes
                if outcome.record
                for table in outcome.record.result.get("tables", [])
            ]
            for section, outcomes in self.of_section.items()
        }
        self.boards = {section: self._board(section) for section in (*_RANKED, answer_parts.SECTION)}
        self._chinese = dict(CHINESE)
        self.title = self._say(tell("The Qilin paper, replicated on {data}", data=self.source.label))
        self.sections = [self._overview(), *(each for section in self.of_section for each in self._sections(section))]

    def write(self) -> Path:
        """Write `paper.html`, `paper.md` and `paper.json`; return the path of the page."""
        out = self.choices.out
        write_text(out / JSON, json.dumps(self.as_data(), ensure_ascii=False, indent=2) + "\n")
        write_text(out / MARKDOWN, f"# {self.title}\n\n{as_markdown(self.sections)}")
        write_text(out / HTML, as_page(self.title, self.sections, self._chinese, self._plots()))
        return out / HTML

    def as_data(self) -> dict[str, Any]:
        """Return everything on the page as plain data."""
        return {
            "data": self.choices.data,
            "paper": "Qilin",
            "why_not_qilin": self.why_other,
            "out": str(self.choices.out),
            "parts": [outcome_data(outcome) for outcome in self.replication.outcomes],
            "tables": [table.model_dump(mode="json") for tables in self.tables.values() for table in tables],
            "boards": {
                section: [table.model_dump(mode="json") for table in tables if table.n_questions >= FEWEST]
                for section, tables in self.boards.items()
            },
        }

    def _why_other(self) -> tuple[str | None, bool]:
        """Return why the data is not known to be Qilin, and whether that could be told."""
        try:
            return why_other_data(self.source, self.replication.place.n_rows("notes")), True
        except QilinError as error:
            return str(error), False

    def _board(self, section: str) -> list[ResultTable]:
        """Return the figures of the runs of a section, beside the paper's."""
        names = [str(each.record.result["run"]) for each in self.of_section.get(section, []) if each.record]
        paths = [self.choices.out / "runs" / name for name in names]
        if not paths:
            return []
        if section == answer_parts.SECTION:
            return _changed(leaderboard_of(paths, Options(paper=True, paper_anyway=True)), _with_paper_column)
        boards = ranking_board(*paths, task=_RANKED[section], with_paper=True, paper_anyway=True)
        return _changed(boards, _with_paper_rows)

    def _say(self, told: Told) -> str:
        """Return the English of a text, and keep its Chinese for the page."""
        self._chinese[told.english] = told.chinese
        return told.english

    def _overview(self) -> Section:
        outcomes = self.replication.outcomes
        done = [each for each in outcomes if each.state == "done"]
        if not self.is_known:
            about = tell("It could not be told whether this data is Qilin ({why}).", why=self.why_other)
        elif self.why_other:
            what = "This data is not known to be Qilin ({why}), so the paper's values are for another data set."
            about = tell(what, why=self.why_other)
        else:
            about = tell("This data is Qilin, by its number of notes and by known rows.")
        lines = [
            about,
            tell("{n} of {n_all} parts are done.", n=len(done), n_all=len(outcomes)),
            tell("Figures over fewer than {n} requests, pairs, users or questions are not printed.", n=FEWEST),
            *told_missing(outcomes),
        ]
        rows = [
            [each.part.name, each.state, "" if each.record is None else f"{each.record.seconds:,.1f}"]
            for each in outcomes
        ]
        title = self._say(tell("What was done"))
        return Section(title, ["part", "state", "seconds"], rows, [*map(self._say, lines)])

    def _sections(self, section: str) -> Iterator[Section]:
        """Yield the tables of a section; the first one also tells what is missing in it."""
        title = self._say(tell(_TITLES[section]))
        missing = [self._say(line) for line in told_missing(self.of_section[section])]
        shown = [self._of_table(table) for table in self.tables[section]] or list(self._of_boards(section, title))
        if section == _FIGURE_3 and shown:
            missing.append(self._say(tell("The paper shows Figure 3 as plots, without values.")))
            if not find_spec("matplotlib"):
                missing.append(self._say(tell("Plots need matplotlib: pip install 'qilin-rag[analysis]'.")))
        first, *others = shown or [Section(title, [], [], [])]
        yield first._replace(lines=[*missing, *first.lines])
        yield from others

    def _of_table(self, table: FigureTable) -> Section:
        """Show a table of the log: below each value the paper's, and the difference to it."""
        rows = []
        for row, values in zip(table.rows, table.values, strict=True):
            cells = []
            for column, value in zip(table.columns, values, strict=True):
                cell = "-" if value is None else written(value, column)
                if (printed := table.printed(row, column.name)) is not None:
                    less = "" if value is None else f"; {written(value - printed, column, signed=True)}"
                    cell += f"\n({written(printed, column)}{less})"
                cells.append(cell)
            rows.append([row, *cells])
        lines = [self._say(tell(LEAD))] if table.paper else []
        lines += table.notes
        if missing := _grouped(table):
            why = tell(table.why_missing) if table.why_missing in CHINESE else quote(table.why_missing)
            english = "This data can't give ({why}): {rows}."
            in_both = Told(
                english.format(why=why.english, rows=missing),
                CHINESE[english].format(why=why.chinese, rows=missing),
            )
            lines.append(self._say(in_both))
        has_value = any(value is not None for values in table.values for value in values)
        header = ["", *(column.name for column in table.columns)]
        return Section(table.title, header, rows if has_value else [], lines)

    def _of_boards(self, section: str, title: str) -> Iterator[Section]:
        """Show the boards of a section; a board over too few requests or questions says so instead."""
        if not (boards := self.boards.get(section)):
            return
        about = [*map(self._say, self._about_runs(section))]
        for board in boards:
            if board.n_questions < FEWEST:
                unit = tell(board.unit)
                english = "Only {n} {unit} have a figure, and at least {fewest} are needed; none is printed."
                values = {"n": board.n_questions, "fewest": FEWEST}
                few = Told(
                    english.format(unit=unit.english, **values), CHINESE[english].format(unit=unit.chinese, **values)
                )
                yield Section(title, [], [], [*about, self._say(few)])
                continue
            for number, block in enumerate(board.blocks):
                name = f"{title}: {block.metric}" if number else title
                self._say(Told(name, f"{self._chinese[title]}：{block.metric}" if number else self._chinese[title]))
                rows = [[row, *map(_board_cell, cells)] for row, cells in zip(block.rows, block.cells, strict=True)]
                lines = [] if number else [*about, board_title(board)]
                yield Section(name, [block.metric, *column_names(block)], rows, lines)
            yield Section("", [], [], [*map(legend, board.blocks), *marks(board), *board.notes])

    def _about_runs(self, section: str) -> Iterator[Told]:
        """Yield how the runs of a section differ from the paper's."""
        done = [outcome for outcome in self.of_section[section] if outcome.record]
        if section == answer_parts.SECTION:
            if self.choices.llm == "extractive":
                yield tell(_NO_LLM)
            else:
                yield tell("{llm} is one LLM; the paper's five are in configs/table11.yaml.", llm=self.choices.llm)
            if not any(block.metric == "bertscore" for board in self.boards[section] for block in board.blocks):
                yield tell(_NO_BERTSCORE)
            if not self.replication.place.has_column("dqa", "bm25_results"):
                yield tell("BM25's notes are found by an index of this program: the data has no bm25_results for dqa.")
            return
        first = self.choices.first
        yield tell(_FIRST, first=first) if first else tell(_ALL)
        if any(outcome.record.result.get("is_small") for outcome in done if outcome.record):
            yield tell(_SMALL_DCN, batch_size=f"{SMALL_DCN['batch_size']:,}")

    def _plots(self) -> dict[str, str]:
        """Return the plots of Figure 3 as SVG, by the title of their section; none without matplotlib."""
        tables = self.tables.get(_FIGURE_3, [])
        if not tables or not find_spec("matplotlib"):
            return {}
        from qilin_rag.analysis.plots import draw_tables

        with TemporaryDirectory() as folder:
            drawn = draw_tables(tables, Path(folder))
            return {
                table.title: (Path(folder) / f"{table.key}.svg").read_text(encoding="utf-8")
                for table in tables
                if table.key in drawn
            }


_NO_LLM = (
    "extractive is not an LLM of the paper and no LLM at all: it copies sentences of the notes. Its figures show that "
    "the whole way works, and are a lower bound; name an LLM with --llm."
)
_NO_BERTSCORE = "BERTScore is left out: its model or its package is not on this machine; see qilin-rag doctor."
_FIRST = "Only the first {first} test requests are ranked, as --first says; the paper's code takes the first 1,000."
_ALL = "All test requests are ranked; the paper's code takes the first 1,000: --first 1000."
_SMALL_DCN = "DCN-V2 was trained without text vectors, in batches of {batch_size} candidates: not the paper's settings."


def _board_cell(cell: Cell | None) -> str:
    """Return a figure with its marks, and its interval below."""
    shown = " ".join(filter(None, (format_cell(cell), marks_of(cell))))
    return f"{shown}\n{interval}" if (interval := format_interval(cell)) else shown


def _changed(boards: Sequence[ResultTable], change: Callable[[Block], Block]) -> list[ResultTable]:
    return [board.model_copy(update={"blocks": [change(block) for block in board.blocks]}) for board in boards]


def _with_paper_rows(block: Block) -> Block:
    """Put each ranker of the paper below ours; the controls stay first."""
    theirs = list(_OURS.values())

    def place(at: int) -> tuple[int, bool]:
        is_paper = block.kinds[at] == "paper"
        first_word = re.split(r"[ (]", block.rows[at])[0]
        name = first_word if is_paper else _OURS.get(first_word, "")
        return theirs.index(name) if name in theirs else -1, is_paper

    order = sorted(range(len(block.rows)), key=place)
    moved = {name: [getattr(block, name)[at] for at in order] for name in ("rows", "kinds", "cells")}
    return block.model_copy(update=moved)


def _with_paper_column(block: Block) -> Block:
    """Put the paper's figures with BM25 into the column of the run with the recorded results of BM25."""
    if "bm25" not in block.columns or _RECORDED not in block.columns:
        return block
    own, of_paper = block.columns.index(_RECORDED), block.columns.index("bm25")
    rows = []
    for cells in block.cells:
        moved = [*cells]
        moved[own] = moved[own] or moved[of_paper]
        rows.append([cell for at, cell in enumerate(moved) if at != of_paper])
    return block.model_copy(update={"cells": rows, "columns": [each for each in block.columns if each != "bm25"]})


def _grouped(table: FigureTable) -> str:
    """Return the values that are missing, with rows that lack the same columns together."""
    rows_of: dict[str, list[str]] = {}
    for row, values in zip(table.rows, table.values, strict=True):
        lacking = [column.name for column, value in zip(table.columns, values, strict=True) if value is None]
        if lacking:
            rows_of.setdefault(", ".join(lacking), []).append(row)
    return "; ".join(f"{columns} ({', '.join(rows)})" for columns, rows in rows_of.items())


def told_missing(outcomes: Sequence[PartOutcome]) -> list[Told]:
    """Return what is lacking and what failed, a line for each reason with all the parts that it stops."""
    parts_of: dict[tuple[Told, Told], list[str]] = {}
    for outcome in outcomes:
        for lack in outcome.lacks:
            parts_of.setdefault((lack.what, lack.advice), []).append(outcome.part.name)
    lines = []
    for (what, advice), parts in parts_of.items():
        named = ", ".join(parts)
        english = "{part}: {what}. To do: {advice}."
        lines.append(
            Told(
                english.format(part=named, what=what.english, advice=advice.english),
                CHINESE[english].format(part=named, what=what.chinese, advice=advice.chinese),
            )
        )
    failed = [each for each in outcomes if each.state == "failed"]
    return lines + [tell("{part} failed: {error}", part=each.part.name, error=each.error) for each in failed]


def outcome_data(outcome: PartOutcome) -> dict[str, Any]:
    """Return what became of a part as plain data."""
    record = outcome.record
    return {
        "part": outcome.part.name,
        "state": outcome.state,
        "seconds": record and record.seconds,
        "run": record and record.result.get("run"),
        "lacks": [{"what": lack.what.english, "to_do": lack.advice.english} for lack in outcome.lacks],
        "error": outcome.error or None,
    }
