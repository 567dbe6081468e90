"""A grid of runs: retrievers x LLMs x prompts x forms of the notes, with all that they share done once."""

from __future__ import annotations

import itertools
import logging
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from qilin_rag.config.resources import find_resource, read_yaml
from qilin_rag.config.run import RunConfig, resolve
from qilin_rag.core.errors import QilinError, UsageError, unknown_name
from qilin_rag.core.progress import Advance, stage
from qilin_rag.llms import LLM, FatalLLMError
from qilin_rag.llms.serving.server import serving
from qilin_rag.pipeline.dry_run import plan
from qilin_rag.pipeline.forecast import Plan
from qilin_rag.pipeline.run import Run, Task, say_left_out
from qilin_rag.pipeline.shared import Shared

logger = logging.getLogger(__name__)
FACTORS = {"prompts": "prompt", "top_k": "top_k", "note_order": "note_order", "note_chars": "note_chars"}
AXES = {"retrievers": "retriever", "llms": "llm", **FACTORS}
"""The lists of a grid, and the setting of a run that each is of; the factors are how a system is asked."""
CONTROLS = ("random", "oracle_top_k")
"""Retrievers to compare others with: notes that have nothing to do with the question, and the right ones."""


class Failure(NamedTuple):
    """A run that could not be finished, and why."""

    run: str
    reason: str

    @classmethod
    def of(cls, task: Task, error: QilinError) -> Failure:
        """What `error` did to this run."""
        return cls(task.label, " ".join(str(error).split()))


class Swept(NamedTuple):
    """What came of a sweep."""

    runs: list[Run]
    failures: list[Failure]


def read_sweep(
    name: str | None,
    axes: Mapping[str, Sequence[Any]],
    flags: Mapping[str, Any],
    overrides: Iterable[str] = (),
    controls: bool = False,
    one_factor: bool = False,
) -> list[RunConfig]:
    """The runs of a grid: a file, or the name of one in `configs/`; None for what `axes` alone say.

    `axes` replace lists of the file, `flags` (None = not given) are for every run, and so are `overrides`. `controls`
    adds retrievers to compare with. `one_factor` leaves out the runs in which more than one of the factors differs from
    the first of its list; the first run has the first of every list.
    """
    path, settings = None, {}
    if name is not None:
        path = Path(name) if name.endswith((".yaml", ".yml")) else find_resource("configs", name)
        settings = read_yaml(path)
    grid = {axis: _listed(path, axis, settings.pop(axis, None)) for axis in AXES}
    for axis, setting in AXES.items():
        if setting in settings:
            raise UsageError(f"{path}: a sweep has {axis} (a list), not {setting}")
    unknown = [key for key in settings if key not in RunConfig.model_fields]
    if unknown:
        raise UsageError(f"{path}: {unknown_name('setting', unknown[0], [*AXES, *RunConfig.model_fields])}")
    of_file = {axis: values for axis, values in grid.items() if values and axis not in axes}
    of_flags = {axis: list(values) for axis, values in axes.items()}
    if controls:
        own = of_flags if "retrievers" in of_flags or "retrievers" not in of_file else of_file
        named = own.get("retrievers", [RunConfig.model_fields["retriever"].default.name])
        own["retrievers"] = [*named, *(control for control in CONTROLS if control not in named)]
    chosen = of_file | of_flags
    configs = []
    for combination in itertools.product(*chosen.values()):
        at = dict(zip(chosen, combination, strict=True))
        if one_factor and sum(at[axis] != chosen[axis][0] for axis in FACTORS if axis in at) > 1:
            continue
        from_file = {AXES[axis]: value for axis, value in at.items() if axis in of_file}
        from_flags = {AXES[axis]: value for axis, value in at.items() if axis in of_flags}
        config = resolve({**settings, **from_file}, {**flags, **from_flags}, overrides, path)
        # An LLM that names no engine is somebody else's server, whatever is asked of the others.
        can_serve = bool(config.llm.settings.get("engine"))
        configs.append(config if can_serve else config.model_copy(update={"serve": False}))
    return configs


def _listed(path: Path | None, axis: str, values: Any) -> list[Any]:
    if values is None:
        return []
    if axis == AXES[axis] and not isinstance(values, list):  # the setting by its own name
        return [values]
    if not isinstance(values, list) or not values:
        raise UsageError(f"{path}: {axis} must be a list with at least one entry; got {reprlib.repr(values)}")
    return values


def plan_sweep(configs: Sequence[RunConfig]) -> list[Plan]:
    """What each run of a sweep would ask and cost; runs that are the same as an earlier one are left out."""
    shared = Shared()
    plans: dict[str, tuple[int, Plan]] = {}
    for number in sorted(range(len(configs)), key=lambda i: -configs[i].top_k):  # a long ranking holds the short ones
        planned = plan(configs[number], shared)
        plans.setdefault(planned.run, (number, planned))
    return [planned for _, planned in sorted(plans.values(), key=lambda plan: plan[0])]


def sweep(configs: Sequence[RunConfig]) -> Swept:
    """Do these runs, or what is left of them: one LLM after another, each with at most one server.

    Everything is checked before anything is spent. After that, a run that can't be finished costs no other; where an
    LLM is gone, its other runs are given up.
    """
    shared = Shared()
    tasks: dict[Path, Task] = {}
    for config in configs:
        task = Task(config, shared)
        if (first := tasks.setdefault(task.directory.path, task)) is not task:
            first.join(task)  # without notes, every top-k is the same run
    if len(tasks) < len(configs):
        logger.info("%d of %d runs are the same as others", len(configs) - len(tasks), len(configs))
    by_llm: dict[int, list[Task]] = {}
    for task in tasks.values():
        by_llm.setdefault(id(task.llm), []).append(task)
    done = Swept([], [])
    say_left_out(next(iter(tasks.values())).left_out, "RUN")
    with stage("runs", len(tasks)) as advance:
        for group in by_llm.values():
            _sweep_llm(group, done, advance)
    order = {path: number for number, path in enumerate(tasks)}
    done.runs.sort(key=lambda run: order[run.directory.path])
    return done


def _sweep_llm(group: Sequence[Task], done: Swept, advance: Advance) -> None:
    """The runs of one LLM: asked with one server, if one is needed, and scored when it is gone."""
    with ExitStack() as locks:
        ready = _find_work(group, locks, done, advance)
        lacking = next((task for task in ready if task.needs_server), None)
        server = serving(lacking.llm, lacking.config.llm_label, lacking.server_log) if lacking else nullcontext()
        gone: QilinError | None = None
        errors: dict[Path, QilinError | None] = {}
        for task in ready:
            if not task.is_asking:
                errors[task.directory.path] = _ask(task, None, advance)
        try:
            with server as served:
                for task in ready:
                    if task.is_asking:
                        errors[task.directory.path] = _ask(task, served, advance)
        except QilinError as error:  # no server, or nobody answers any more: what is left for this LLM has to wait
            gone = error
            for _ in range(len(ready) - len(errors)):
                advance(failed=True)
        for task in ready:
            if why := errors.get(task.directory.path, gone):
                done.failures.append(Failure.of(task, why))
            else:
                _finish(task, done)


def _ask(task: Task, served: LLM | None, advance: Advance) -> QilinError | None:
    """What kept this run, and no other, from its answers."""
    try:
        task.ask(served or task.llm, f"{task.label}: ")
    except FatalLLMError:
        raise
    except QilinError as error:
        advance(failed=True)
        return error
    advance()
    return None


def _find_work(group: Sequence[Task], locks: ExitStack, done: Swept, advance: Advance) -> list[Task]:
    """Those of the runs that can go on, in their order; the largest top-k first, since it holds the hits of others."""
    ready = []
    for task in sorted(group, key=lambda task: -task.config.top_k):
        try:
            locks.enter_context(task.directory.locked())
            task.find_work()
            ready.append(task)
        except QilinError as error:
            done.failures.append(Failure.of(task, error))
            advance(failed=True)
    return sorted(ready, key=group.index)


def _finish(task: Task, done: Swept) -> None:
    try:
        done.runs.append(task.finish())
    except QilinError as error:
        done.failures.append(Failure.of(task, error))
