"""Repeat a finished run from its manifest, and report which of its figures changed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat

from qilin_rag.config.overrides import named_settings
from qilin_rag.config.run import build_run
from qilin_rag.config.spec import RunSpec, recorded_spec
from qilin_rag.core.errors import INSTEAD, QilinError, UsageError
from qilin_rag.core.types import Frozen, MetricSummary, Sample
from qilin_rag.data.dataset import hash_questions
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import do
from qilin_rag.pipeline.run_directory import Manifest, RunDirectory
from qilin_rag.pipeline.stages import Prepared, prepare
from qilin_rag.pipeline.trust import trusted

REPRODUCED = Path("runs") / "reproduced"
_NOT_COMPARED = (
    *("runs_dir", "fresh", "cache", "repeat", "note", "fail_on_error", "llm_label", "llm_preset"),
    *("rerank_depth", "rerank_weight", "rerank_settings"),  # of the identity, which is the same; older runs lack them
)
_MOST_DIFFERENCES = 5


class FigureChange(Frozen):
    """A metric then and now. `scores_changed` counts questions; `why_not` says what else is not the same."""

    old: FiniteFloat | None
    new: FiniteFloat | None
    difference: FiniteFloat | None
    scores_changed: int
    agrees: bool
    why_not: str | None = None


class Reproduction(Frozen):
    """A run, and the result of repeating it.

    `provenance`: what is not as it was, (then, now) by name. `not_made`: metrics that the run has and its
    configuration does not name. `tolerance` null: every score must be the same.
    """

    run: str
    reproduced: str
    agrees: bool
    tolerance: FiniteFloat | None
    questions: int
    hits_changed: int
    prompts_changed: int
    answers_changed: int
    failed: int
    metrics: dict[str, FigureChange]
    not_made: list[str]
    provenance: dict[str, tuple[str, str]]


def reproduce(
    path: Path,
    runs_dir: Path = REPRODUCED,
    *,
    base_url: str | None = None,
    overrides: Sequence[str] = (),
    serve: bool = False,
    fresh: bool = False,
    allow_code: bool = False,
    tolerance: float | None = None,
) -> Reproduction:
    """Repeat the run at `path` in a folder below `runs_dir`, without the response cache, and compare.

    A second call resumes the first.

    Raises:
        UsageError: The run can't be repeated as it was; no question was asked.
    """
    if tolerance is not None and not (math.isfinite(tolerance) and tolerance >= 0):
        raise UsageError(f"--tolerance {tolerance} must be a number from 0")
    directory = RunDirectory(path)
    manifest = directory.read_complete()
    if manifest.imported:
        raise UsageError(
            f"{path} holds answers that {manifest.imported.name} gave elsewhere: they can't be asked for again; "
            "qilin-rag score scores them again"
        )
    _check_whole(directory)
    spec = _configured(path, manifest, overrides, base_url, serve, allow_code)
    prepared = _prepare(path, spec, runs_dir, fresh)
    if prepared.directory.path.resolve() == path.resolve():
        raise UsageError(f"{path} would be written over itself; write elsewhere with --runs-dir")
    if changes := _changes(manifest, prepared):
        hint = "; --set takes only what changes no answer" if overrides else ""
        raise UsageError(f"{path} can't be repeated as it was: {changes}{hint}")
    return compare(directory, do(prepared), tolerance)


def check(reproduction: Reproduction) -> None:
    """Raise a QilinError if a figure does not agree."""
    changed = [
        f"{name} ({change.why_not or f'{change.scores_changed} of {reproduction.questions} scores changed'})"
        for name, change in reproduction.metrics.items()
        if not change.agrees
    ]
    if changed:
        again = f"; {reproduction.failed} questions have no answer, the same command asks them again"
        raise QilinError(f"not reproduced: {', '.join(changed)}{again if reproduction.failed else ''}")


def _check_whole(directory: RunDirectory) -> None:
    """Raise a UsageError if samples or scores that the comparison needs are missing."""
    questions = directory.read_questions()
    directory.read_samples_of(questions)
    directory.read_scores_of(questions, directory.read_summary().metrics)


def _configured(
    path: Path, manifest: Manifest, overrides: Sequence[str], base_url: str | None, serve: bool, allow_code: bool
) -> RunSpec:
    """Return the recorded configuration with the caller's changes, and no address, key or code without permission."""
    is_same_server = base_url is None and serve <= bool(manifest.config.get("serve"))
    batch = is_same_server and bool(manifest.config.get("batch"))  # another server may have no batches
    serve = serve or bool(manifest.config.get("serve"))
    if serve and base_url is not None:
        raise UsageError("a server is started for this run (--serve), so it takes no --base-url")
    recorded = _without_gone(manifest.config)
    config = recorded_spec(recorded, overrides, base_url, serve=serve, batch=batch)
    return trusted(path, config, named_settings(overrides, base_url), allow_code)


def _prepare(path: Path, spec: RunSpec, runs_dir: Path, fresh: bool) -> Prepared:
    """Prepare the run: check that data, components, prompt and server are there."""
    changes = {"runs_dir": runs_dir, "fresh": fresh, "cache": False, "repeat": 1, "fail_on_error": 0.0}
    try:
        return prepare(build_run(spec.model_copy(update=changes)))
    except UsageError as error:
        raise UsageError(f"{path} can't be repeated: {error}") from error


def _without_gone(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Remove metrics of earlier versions, whose figures are kept, and settings that had no effect."""
    kept = dict(recorded)
    if isinstance(metrics := kept.get("metrics"), dict):
        kept["metrics"] = {name: settings for name, settings in metrics.items() if name not in INSTEAD}
    retriever = kept.get("retriever")
    if isinstance(retriever, dict) and isinstance(settings := retriever.get("settings"), dict):
        said = {name: value for name, value in settings.items() if name not in INSTEAD or value is not None}
        kept["retriever"] = {**retriever, "settings": said}
    return kept


def _changes(manifest: Manifest, prepared: Prepared) -> str:
    """Describe what changes answers and is not as it was; empty if the run can be repeated."""
    identity = prepared.identity
    if "engine" not in manifest.identity:  # of the server that was there then, the settings are not known
        identity = {name: value for name, value in identity.items() if name != "engine"}
    differences = _differences(manifest.identity, identity)
    questions = hash_questions(prepared.questions)
    if not differences and questions != manifest.question_set_sha256:
        differences = {"questions": (manifest.question_set_sha256, questions)}
    shown = [f"{name} was {_short(old)}, is {_short(new)}" for name, (old, new) in differences.items()]
    more = [f"and {len(shown) - _MOST_DIFFERENCES} more"] if len(shown) > _MOST_DIFFERENCES else []
    return ", ".join(shown[:_MOST_DIFFERENCES] + more)


def compare(old: RunDirectory, again: Run, tolerance: float | None = None) -> Reproduction:
    """Compare a finished run with its repetition."""
    manifest, figures = old.read_manifest(), old.read_summary()
    questions = old.read_questions()
    ids = [question.id for question in questions]
    then, now = (directory.read_samples()[0] for directory in (old, again.directory))
    shared = [name for name in figures.metrics if name in again.summary.metrics]
    scores_then, scores_now = (directory.read_scores_of(questions, shared) for directory in (old, again.directory))
    metrics = {
        name: _figure(
            figures.metrics[name],
            again.summary.metrics[name],
            [scores_then[name][question_id].value for question_id in ids],
            [scores_now[name][question_id].value for question_id in ids],
            tolerance,
        )
        for name in shared
    }
    pairs = [(then[question_id], now[question_id]) for question_id in ids]
    return Reproduction(
        run=str(old.path),
        reproduced=str(again.directory.path),
        agrees=all(metric.agrees for metric in metrics.values()),
        tolerance=tolerance,
        questions=len(ids),
        hits_changed=sum([h.note_idx for h in a.hits] != [h.note_idx for h in b.hits] for a, b in pairs),
        prompts_changed=sum((a.messages, a.images) != (b.messages, b.images) for a, b in pairs),
        answers_changed=sum((a.answer, a.status) != (b.answer, b.status) for a, b in pairs),
        failed=again.summary.lost,
        metrics=metrics,
        not_made=[name for name in figures.metrics if name not in again.summary.metrics],
        provenance={
            name: (_short(a), _short(b))
            for name, (a, b) in _differences(
                _provenance(manifest, then.values()), _provenance(again.manifest, now.values())
            ).items()
        },
    )


def _figure(
    old: MetricSummary,
    new: MetricSummary,
    then: Sequence[float | None],
    now: Sequence[float | None],
    tolerance: float | None,
) -> FigureChange:
    """Compare a metric then and now; a mean over other questions, or of another signature, does not agree."""
    difference = None if old.value is None or new.value is None else new.value - old.value
    why_not = None
    if old.signature != new.signature:
        why_not = f"made by {new.signature}, then by {old.signature}"
    elif [value is None for value in then] != [value is None for value in now]:
        why_not = f"{new.n} scored, then {old.n}"
    changed = sum(a != b for a, b in zip(then, now, strict=True))
    within = not changed if tolerance is None else difference is None or abs(difference) <= tolerance
    return FigureChange(
        old=old.value,
        new=new.value,
        difference=difference,
        scores_changed=changed,
        agrees=within and why_not is None,
        why_not=why_not,
    )


def _provenance(manifest: Manifest, samples: Iterable[Sample]) -> dict[str, Any]:
    """Return what a run was made with, apart from its identity."""
    return {
        "packages": manifest.packages,
        "python": manifest.python,
        "git_commit": manifest.git_commit,
        "server": {name: value for name, value in manifest.server.items() if name not in ("base_url", "start_s")},
        "model": ", ".join(sorted({sample.model for sample in samples if sample.model})),
        "config": {name: value for name, value in manifest.config.items() if name not in _NOT_COMPARED},
    }


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Return the values that differ, by dotted name; a value on one side only is paired with None."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found |= _differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found[f"{prefix}{key}"] = (before, after)
    return found


def _short(value: Any) -> str:
    """Shorten a value for people: a hash to its beginning."""
    text = "nothing" if value is None or value == "" else str(value)
    is_hash = len(text) in (40, 64) and all(char in "0123456789abcdef" for char in text)
    return text[:12] if is_hash else text
