"""Let an LLM judge a run from Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

from pydantic import BaseModel, ValidationError

from qilin_rag.api.progress import shown_progress
from qilin_rag.core.errors import UsageError, explain, unknown_name
from qilin_rag.core.types import Frozen
from qilin_rag.judging.claims import judge_claims
from qilin_rag.judging.config import JudgeConfig, PartSettings, resolve_judge
from qilin_rag.judging.nugget_assigner import AssignerSettings, assign_nuggets
from qilin_rag.judging.pointwise import judge_run
from qilin_rag.judging.refusals import judge_refusals
from qilin_rag.judging.run_answers import Judged
from qilin_rag.judging.support import judge_support
from qilin_rag.llms import LLM
from qilin_rag.pipeline.finished import Run
from qilin_rag.reports.finding import find_run


class JudgeSettings(TypedDict, total=False):
    """The further settings of `judge`, as `qilin-rag judge --help` and `nuggets assign --help` explain them."""

    bank: str | Path
    per_call: int
    language: str
    controls: bool
    data: str
    base_url: str
    seed: int
    limit: int
    batch: bool
    concurrency: int
    serve: bool
    cache: bool
    fail_on_error: float
    max_cost: float | str
    max_tokens_total: int
    track: str | Sequence[str]


class _NuggetSettings(AssignerSettings):
    bank: Path


class _RefusalSettings(Frozen):
    language: str = "zh"


class _Measure(NamedTuple):
    """A measure by which runs are judged, and the settings that are its own."""

    judge: Callable[[Path, JudgeConfig, Any], Judged]
    settings: type[BaseModel]


_MEASURES = {
    "grades": _Measure(lambda path, config, _: judge_run(path, config), Frozen),
    "nuggets": _Measure(
        lambda path, config, settings: assign_nuggets(path, settings.bank, config, settings).judged, _NuggetSettings
    ),
    "claims": _Measure(lambda *given: judge_claims(*given).judged, PartSettings),
    "support": _Measure(lambda *given: judge_support(*given).judged, PartSettings),
    "refusal": _Measure(
        lambda path, config, settings: judge_refusals(path, config, settings.language), _RefusalSettings
    ),
}


def judge(
    run: Run | str | Path,
    llm: str | Mapping[str, Any] | LLM,
    *,
    measure: str = "grades",
    progress: bool | None = None,
    **settings: Unpack[JudgeSettings],
) -> Run:
    """Let an LLM judge the answers of a finished run, and add the figures to the run.

    The same call resumes after a stop; no question is asked twice.

    Args:
        run: A run, its path, or the beginning of its name in `runs`.
        llm: The judge: a component such as `OpenAICompatible(model=...)`, the name of a preset, or a mapping.
        measure: `grades` (correctness, completeness, faithfulness, 1 to 5), `nuggets` of the bank in the file `bank`,
            `claims`, `support` (of sentences by the notes that they cite), or `refusal`.
        progress: Whether a line of standard error shows how far it is. Default: in a terminal and in a notebook.
        **settings: Further settings by name, such as `limit=100`.

    Returns:
        The run, with the new figures in its `metrics`.

    Raises:
        UsageError: The run is not finished, or a setting or the bank is wrong; nothing was asked.
        QilinError: The LLM is gone. What it said is kept, and the same call resumes.
        FailedSamplesError: More replies failed than `fail_on_error` allows, if that is given.

    Example:
        >>> import qilin_rag as qr
        >>> run = qr.run(metrics="rouge_l", limit=20)
        >>> llm = qr.OpenAICompatible(model="qwen2.5-72b", base_url="http://127.0.0.1:8000/v1")
        >>> qr.judge(run, llm).metrics["judge_correctness"].value  # doctest: +SKIP
        4.25
        >>> qr.judge(run, llm, measure="nuggets", bank="bank.jsonl")  # doctest: +SKIP
        >>> qr.judge(run, llm, measure="nugets")
        Traceback (most recent call last):
        qilin_rag.core.errors.UsageError: measure 'nugets' does not exist; did you mean 'nuggets' or 'grades'?
    """
    if measure not in _MEASURES:
        raise unknown_name("measure", measure, _MEASURES)
    chosen = _MEASURES[measure]
    if isinstance(n := settings.get("batch"), int) and not isinstance(n, bool):  # what `per_call` was once called
        settings = {**settings, "batch": False, "per_call": n}
    own = {name: value for name, value in settings.items() if name in chosen.settings.model_fields}
    asking = {name: value for name, value in settings.items() if name not in own}
    path = run.path if isinstance(run, Run) else find_run(Path(run))
    config = resolve_judge(
        {"llm": dict(llm) if isinstance(llm, Mapping) else llm, **asking}, command=f"judge {measure}"
    )
    try:
        of_measure = chosen.settings(**own)
    except ValidationError as error:
        raise UsageError(f"judge {measure}: {explain(error, chosen.settings)}") from None
    with shown_progress(progress):
        judged = chosen.judge(path, config, of_measure)
    if "fail_on_error" in settings:
        judged.hearing.check_failures(config.fail_on_error)
    directory = judged.directory
    return Run(directory, directory.read_complete(), directory.read_summary_of_scores())
