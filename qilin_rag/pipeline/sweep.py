"""Run a grid of retrievers, LLMs, prompts and forms of the notes; do what the runs share only once."""

from __future__ import annotations

import itertools
import logging
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.config.resources import find_resource, read_yaml
from qilin_rag.config.run import RunConfig, resolve_run
from qilin_rag.config.spec import NO_QUERY, RunSpec
from qilin_rag.core.errors import CeilingError, QilinError, UsageError, unknown_name
from qilin_rag.core.note_fields import note_fields_label
from qilin_rag.core.progress import Advance, stage
from qilin_rag.core.registry import QUERIES, describe
from qilin_rag.llms import LLM, FatalLLMError
from qilin_rag.llms.ceiling import current, error_of_ceiling
from qilin_rag.pipeline.asking import started
from qilin_rag.pipeline.ceilings import stopped_error
from qilin_rag.pipeline.dry_run import plan
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.forecast import Plan
from qilin_rag.pipeline.hooks.calling import call_ended, call_failed, check_hooks
from qilin_rag.pipeline.run import say_left_out
from qilin_rag.pipeline.run_ceilings import how_to_resume, progress_of, runs_under_ceiling
from qilin_rag.pipeline.shared import Shared
from qilin_rag.pipeline.stages import Answered, Prepared, Work, ask, find_work, finish, prepare, rest_of
from qilin_rag.retrievers.mixed import Mixed

logger = logging.getLogger(__name__)
NOISE = "noise"
NOTE_IMAGES = "note_images"
QUERY = "query"
FACTORS = {
    "prompts": "prompt",
    "top_k": "top_k",
    "note_fields": "note_fields",
    "note_order": "note_order",
    "note_chars": "note_chars",
    NOTE_IMAGES: NOTE_IMAGES,
    QUERY: QUERY,
    NOISE: NOISE,
}
AXES = {"retrievers": "retriever", "llms": "llm", **FACTORS}
"""The lists of a grid, and the setting of a run that each is of; the factors are how a system is asked.

`noise` lists numbers of wrong notes, `k_wrong` of the retriever mixed.
"""
CONTROLS = ("random", "oracle_top_k")
"""Retrievers to compare others with: notes that have nothing to do with the question, and the right ones."""


class Failure(NamedTuple):
    """A run that could not be finished, and the reason."""

    run: str
    reason: str

    @classmethod
    def of(cls, prepared: Prepared, error: QilinError) -> Failure:
        """Describe the run that `error` stopped."""
        return cls(prepared.label, " ".join(str(error).split()))


class Swept(NamedTuple):
    """The finished runs of a sweep, the failures, and the error of a ceiling that stopped it."""

    runs: list[Run]
    failures: list[Failure]
    stopped: CeilingError | None = None


def read_sweep(
    name: str | None,
    axes: Mapping[str, Sequence[Any]],
    flags: Mapping[str, Any],
    overrides: Iterable[str] = (),
    controls: bool = False,
    one_factor: bool = False,
) -> list[RunConfig]:
    """Read the runs of a grid.

    Args:
        name: A file, or the name of one in `configs/`; None for a grid of `axes` alone.
        axes: Lists that replace those of the file.
        flags: Settings of every run; None means not given.
        overrides: Assignments for every run, such as `llm.temperature=0.2`.
        controls: Add retrievers to compare with.
        one_factor: Leave out runs in which more than one factor differs from the first of its list.

    Returns:
        The configurations; the first has the first entry of every list.

    Raises:
        UsageError: The file can't be read, or names an unknown setting.
    """
    path, settings = None, {}
    if name is not None:
        path = Path(name) if name.endswith((".yaml", ".yml")) else find_resource("configs", name)
        settings = read_yaml(path)
    grid = {axis: _listed(path, axis, settings.pop(axis, None)) for axis in AXES}
    for axis, setting in AXES.items():
        if setting in settings:
            raise UsageError(f"{path}: a sweep has {axis} (a list), not {setting}")
    unknown = [key for key in settings if key not in RunSpec.model_fields]
    if unknown:
        error = unknown_name("setting", unknown[0], [*AXES, *RunSpec.model_fields], see="qilin-rag list settings")
        raise UsageError(f"{path}: {error}")
    of_file = {axis: values for axis, values in grid.items() if values and axis not in axes}
    of_flags = {axis: list(values) for axis, values in axes.items()}
    if controls:
        own = of_flags if "retrievers" in of_flags or "retrievers" not in of_file else of_file
        named = own.get("retrievers", [RunSpec.model_fields["retriever"].default.name])
        own["retrievers"] = [*named, *(control for control in CONTROLS if control not in named)]
    chosen = of_file | of_flags
    overrides = list(overrides)
    if NOISE in chosen:
        named = chosen.get("retrievers", [settings.get("retriever", flags.get("retriever") or "bm25")])
        if not any(map(_is_mixed, named)):
            raise UsageError(
                "noise is a factor of the retriever mixed, which is not among the retrievers; name it: retrievers mixed"
            )
    configs = []
    for combination in itertools.product(*chosen.values()):
        at = dict(zip(chosen, combination, strict=True))
        if one_factor and sum(at[axis] != chosen[axis][0] for axis in FACTORS if axis in at) > 1:
            continue
        noise = at.pop(NOISE, None)
        from_file = {**settings, **{AXES[axis]: value for axis, value in at.items() if axis in of_file}}
        from_flags = {**flags, **{AXES[axis]: value for axis, value in at.items() if axis in of_flags}}
        assigned = overrides
        if noise is not None:
            if _is_mixed(from_flags.get("retriever") or from_file.get("retriever", "bm25")):
                assigned = [*overrides, f"retriever.k_wrong={noise}"]
                if from_flags.get("top_k") is None and "top_k" not in from_file:  # one number for all levels
                    most = [f"retriever.k_wrong={_most(path, chosen[NOISE])}"]
                    from_flags["top_k"] = resolve_run(from_flags, [*overrides, *most], path, from_file=from_file).top_k
            elif noise != chosen[NOISE][0]:
                continue
        config = _with_query(from_flags, assigned, path, from_file, chosen.get(QUERY))
        if config is None:
            continue
        # An LLM that names no engine is somebody else's server, whatever is asked of the others.
        can_serve = bool(getattr(config.llm, "engine", None))
        config = config if can_serve else config.model_copy(update={"serve": False})
        # A reader that costs nothing has nothing to save.
        configs.append(config if config.llm.takes_tokens else config.model_copy(update={"batch": False}))
    return configs


def _with_query(
    flags: Mapping[str, Any],
    overrides: Sequence[str],
    path: Path | None,
    from_file: Mapping[str, Any],
    levels: Sequence[Any] | None,
) -> RunConfig | None:
    """Return the run with its query stage; None if it is the same as the run at the first of the `levels`.

    A retriever that does not search by the text of the question has one run, without a stage. A setting of one stage
    does not count for the others.
    """
    named = flags.get(QUERY) or from_file.get(QUERY) or NO_QUERY
    if named == NO_QUERY and not levels:
        return resolve_run(flags, overrides, path, from_file=from_file)
    plain = [each for each in overrides if not each.startswith(f"{QUERY}.")]
    others = {name: value for name, value in from_file.items() if name != QUERY}
    alone = resolve_run({**flags, QUERY: NO_QUERY}, plain, path, from_file=others)
    if not alone.retriever.reads_query:
        if levels and named != levels[0]:
            return None
        logger.info("%s runs without a query stage: it does not search by the text", alone.retriever.called())
        return alone
    if named == NO_QUERY:
        return alone
    its = _settings_of(named)
    foreign = {name for each in levels or () if each != NO_QUERY for name in _settings_of(each)} - its
    kept = [each for each in overrides if each.partition("=")[0].removeprefix(f"{QUERY}.") not in foreign]
    return resolve_run(flags, kept, path, from_file=from_file)


def _settings_of(stage: Any) -> set[str]:
    """Return the names of the settings of a query stage, which is given by name, mapping or object."""
    name = str(stage.get("name")) if isinstance(stage, Mapping) else stage
    return set((QUERIES.resolve(name) if isinstance(name, str) else type(stage)).model_fields)


def _is_mixed(retriever: Any) -> bool:
    """Return whether a retriever, by name, mapping or object, is mixed."""
    if isinstance(retriever, Mapping):
        retriever = retriever.get("name")
    return isinstance(retriever, Mixed) or (isinstance(retriever, str) and retriever.partition(":")[0] == "mixed")


def _most(path: Path | None, levels: Sequence[Any]) -> int:
    """Return the highest number of wrong notes."""
    if wrong := next((level for level in levels if not isinstance(level, int) or level < 0), None):
        raise UsageError(f"{path or 'ablate'}: noise must list numbers of wrong notes from 0; got {wrong!r}")
    return max(map(int, levels))


def factor_setting(config: RunConfig, factor: str) -> Any:
    """Return the setting of a factor (a value of `FACTORS`) in a run; None if the factor does not apply to it."""
    if factor == NOISE:
        return config.retriever.k_wrong if isinstance(config.retriever, Mixed) else None
    if factor == QUERY:
        if not config.retriever.reads_query:
            return None
        return NO_QUERY if config.query is None else describe(config.query.called(), config.query.changed())
    if factor == "note_fields":
        return note_fields_label(config.note_fields)
    return config.prompt.name if factor == "prompt" else getattr(config, factor)


def _listed(path: Path | None, axis: str, values: Any) -> list[Any]:
    if values is None:
        return []
    if axis == AXES[axis] and not isinstance(values, list):  # the setting by its own name
        return [values]
    if not isinstance(values, list) or not values:
        raise UsageError(f"{path}: {axis} must be a list with at least one entry; got {reprlib.repr(values)}")
    return values


def plan_sweep(configs: Sequence[RunConfig]) -> list[Plan]:
    """Plan the calls and the cost of each run of a sweep; leave out runs that are the same as an earlier one."""
    shared = Shared()
    plans: dict[str | int, tuple[int, Plan]] = {}
    for number in sorted(range(len(configs)), key=lambda i: -configs[i].top_k):  # a long ranking holds the short ones
        planned = plan(configs[number], shared)
        plans.setdefault(planned.run or number, (number, planned))  # without its data a run has no name yet
    return [planned for _, planned in sorted(plans.values(), key=lambda plan: plan[0])]


def sweep(configs: Sequence[RunConfig]) -> Swept:
    """Do or resume these runs: one LLM after another, each with at most one server.

    Everything is checked before anything is spent. After that, a failed run does not stop the others; if an LLM is
    gone, its other runs fail as well.
    """
    check_hooks(list(dict.fromkeys(name for config in configs for name in config.track)))
    shared = Shared()
    runs: dict[Path, Prepared] = {}
    for config in configs:
        prepared = prepare(config, shared)
        path = prepared.directory.path  # without notes, every top-k is the same run
        runs[path] = runs[path].with_scorers_of(prepared) if path in runs else prepared
    if len(runs) < len(configs):
        logger.info("%d of %d runs are the same as others", len(configs) - len(runs), len(configs))
    by_llm: dict[LLM, list[Prepared]] = {}
    for prepared in runs.values():
        by_llm.setdefault(prepared.config.llm, []).append(prepared)
    done = Swept([], [])
    say_left_out(next(iter(runs.values())).left_out, "RUN")
    every = list(runs.values())
    with runs_under_ceiling(every) as ceiling:
        with stage("runs", len(runs)) as advance:
            for group in by_llm.values():
                _sweep_llm(group, done, advance)
        order = {path: number for number, path in enumerate(runs)}
        done.runs.sort(key=lambda run: order[run.path])
        if ceiling is None or not ceiling.is_reached:
            return done
        return done._replace(stopped=stopped_error(ceiling, progress_of(every), "question", how_to_resume(configs[0])))


def _sweep_llm(group: Sequence[Prepared], done: Swept, advance: Advance) -> None:
    """Do the runs of one LLM: ask them with one server, if one is needed, and score them when it has stopped."""
    with ExitStack() as locks:
        ready = _find_work(group, locks, done, advance)
        lacking = None if error_of_ceiling() else next((work for work in ready if work.needs_server), None)
        llm: LLM = group[0].config.llm
        server = started(lacking.prepared.config, lacking.server_log) if lacking else nullcontext(llm)
        gone: QilinError | None = error_of_ceiling()
        asked: dict[Path, Answered | QilinError] = {}
        for work in ready:
            if not work.is_asking:
                asked[work.prepared.directory.path] = _ask(work, llm, advance)
        try:
            with server as served:
                left = [work for work in ready if work.is_asking and gone is None]
                for work in [_submit(work, served) for work in left]:
                    asked[work.prepared.directory.path] = _ask(work, served, advance)
        except QilinError as error:  # no server, or nobody answers any more: what is left for this LLM has to wait
            gone = error
        for _ in range(len(ready) - len(asked)):
            advance(failed=True)
        for work in ready:
            answered = asked.get(work.prepared.directory.path, gone)
            if isinstance(answered, Answered):
                _finish(answered, done)
            elif answered:
                _fail(work.prepared, answered, done)


def _submit(work: Work, llm: LLM) -> Work:
    """Submit the batches of a run, if it asks by batch, so that the service has those of all runs at a time.

    What stops it is raised when the run is asked. The batches of a query stage and of its run come one after another,
    and so do those of an engine that we start.
    """
    config = work.prepared.config
    if not config.batch or config.serve or work.prepared.queries is not None:
        return work
    with suppress(QilinError):
        ask(work, llm, f"{work.prepared.label}: ", waits=False)
    if (ceiling := current()) is not None:
        ceiling.reconsider()  # batches take less than they reserve
    return work._replace(is_begun=True)


def _ask(work: Work, llm: LLM, advance: Advance) -> Answered | QilinError:
    """Ask the questions of a run; return the error if it affects only this run."""
    try:
        answered = ask(rest_of(work) if work.is_begun else work, llm, f"{work.prepared.label}: ")
    except (FatalLLMError, CeilingError):
        raise
    except QilinError as error:
        advance(failed=True)
        return error
    advance()
    return answered


def _find_work(group: Sequence[Prepared], locks: ExitStack, done: Swept, advance: Advance) -> list[Work]:
    """Find the work of runs, the largest top-k first, since its rankings hold those of the others."""
    ready: dict[int, Work] = {}
    for number in sorted(range(len(group)), key=lambda i: -group[i].config.top_k):
        try:
            locks.enter_context(group[number].directory.locked())
            ready[number] = find_work(group[number])
        except QilinError as error:
            done.failures.append(Failure.of(group[number], error))
            advance(failed=True)
    return [ready[number] for number in sorted(ready)]


def _finish(answered: Answered, done: Swept) -> None:
    try:
        done.runs.append(finish(answered))
    except QilinError as error:
        _fail(answered.work.prepared, error, done)
    else:
        call_ended(answered.work.prepared.config.track, done.runs[-1].path)


def _fail(prepared: Prepared, error: QilinError, done: Swept) -> None:
    done.failures.append(Failure.of(prepared, error))
    call_failed(prepared.config.track, prepared.directory.path, error)
