"""`agreement`: which measures agree with people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qilin_rag.cli import agreement_calibrate, agreement_labels, ui
from qilin_rag.cli.agreement_formats import (
    AgreementStatistic,
    ComparedBy,
    PlotOption,
    Result,
    TableSeed,
    set_up_output,
    show_result,
)
from qilin_rag.cli.agreement_group import RunsGroup
from qilin_rag.cli.help import App
from qilin_rag.cli.options import AsJson, QilinTables, Quiet, SetLog, log_settings, qilin_tables
from qilin_rag.cli.table_formats import FormatOption, OutOption, TableFormat
from qilin_rag.core.errors import UsageError

app = App("agreement", cls=RunsGroup, no_args_is_help=True)
app.command()(agreement_labels.runs)
app.command()(agreement_labels.export)
app.command("import")(agreement_labels.import_filled)
app.command()(agreement_calibrate.calibrate)


@app.callback()
def _agreement() -> None:
    """Find out which measures agree with people.

    `agreement RUN... --labels FILE` is short for `agreement runs RUN... --labels FILE`.
    """


@app.command()
def pairs(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A JSONL file of pairs: query, reference, a, b, people.")
    ],
    encoder: Annotated[
        str | None, typer.Option(help="Score BERTScore, too, with this encoder: a hub name or a folder.")
    ] = None,
    layer: Annotated[int | None, typer.Option(min=1, help="Layer of the encoder. [default: 8]")] = None,
    by: ComparedBy = AgreementStatistic.pearson,
    seed: TableSeed = 0,
    output_format: FormatOption = TableFormat.table,
    out: OutOption = None,
    plot: PlotOption = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare measures with people's preferences of pairs.

    Correlates what each measure says of two answers with what judges said, for the measures in the file, for ROUGE,
    chrF, BLEU and contains, and for sentinels that must not win. Says which measures agree with people beyond the
    sentinels, and how far below the judges they stay.

    Examples:
        qilin-rag agreement pairs pairs.jsonl
        qilin-rag agreement pairs pairs.jsonl --format html --out page.html
    """
    from qilin_rag.agreement.pair_scores import measure_scores, sentinel_scores
    from qilin_rag.agreement.pair_sections import pair_document, pair_records, pair_sections
    from qilin_rag.agreement.pair_table import pair_agreement
    from qilin_rag.agreement.pairs import read_pairs

    output = set_up_output(output_format, as_json, out, plot, quiet)
    if layer is not None and encoder is None:
        raise UsageError("--layer is a layer of the encoder; name one with --encoder, or leave --layer out")
    judged = read_pairs(file)
    with ui.progress_bars(quiet):
        measures = measure_scores(judged, encoder, layer)
        table = pair_agreement(judged, measures, sentinel_scores(judged, seed), by.value, seed)
    found = Result(
        "Which measures agree with people",
        lambda between: pair_sections(table, between),
        lambda: pair_records(table),
        lambda: pair_document(table),
    )
    show_result(found, output)


@app.command()
def qilin(
    data: QilinTables = None,
    minutes: Annotated[
        float | None, typer.Option(help="The most minutes between an answer and another search. [default: 10]")
    ] = None,
    settings: SetLog = None,
    seed: TableSeed = 0,
    output_format: FormatOption = TableFormat.table,
    out: OutOption = None,
    plot: PlotOption = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare measures with what Qilin's users did.

    Says which measures tell the answers that users favoured from the others, by each feedback flag and by whether the
    user searched again, beyond sentinels that must not win. No answer is compared with itself. Labels with too few
    answers are counted, and nothing else.

    Examples:
        qilin-rag agreement qilin --data data/Qilin
        qilin-rag agreement qilin --data data/Qilin --minutes 5 --plot auc.pdf
    """
    from qilin_rag.agreement.qilin_answers import read_labelled_answers
    from qilin_rag.agreement.qilin_sections import qilin_document, qilin_records, qilin_sections
    from qilin_rag.agreement.qilin_table import qilin_agreement
    from qilin_rag.data.feedback import RE_SEARCH_MINUTES
    from qilin_rag.data.source import open_source

    output = set_up_output(output_format, as_json, out, plot, quiet)
    tables = ("notes", "dqa", "search_train", "search_test")
    source = open_source(qilin_tables(data), tables, log=log_settings(settings))
    with ui.progress_bars(quiet):
        found = qilin_agreement(read_labelled_answers(source, RE_SEARCH_MINUTES if minutes is None else minutes), seed)
    shown = Result(
        "Which measures agree with Qilin's users",
        lambda between: qilin_sections(found),
        lambda: qilin_records(found),
        lambda: qilin_document(found),
    )
    show_result(shown, output)
