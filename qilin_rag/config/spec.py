"""A run in stored form, by names and settings, and the reading of its layers; nothing is built here.

Layers, each over the one before: defaults < file < flags < `--set key=value`. Files are data: they are read with
`safe_load`, and can name only registered components; `package.module:Class` is for the command line.
"""

from __future__ import annotations

import logging
import os
import reprlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from qilin_rag.config.destinations import check_destination, say_destination, say_rerank_destination
from qilin_rag.config.engine_settings import named_by_flag, risky_variables
from qilin_rag.config.overrides import Owner, named_settings, parse_overrides
from qilin_rag.config.presets import GGUF, llm_label_of, named_llm
from qilin_rag.config.query_llm import flags_for_query_llm, named_query_llm, query_llm_of
from qilin_rag.config.rerank_llm import (
    check_rerank_destination,
    rerank_llm,
    rerank_settings,
    reranker_class,
    with_llm_setting,
)
from qilin_rag.config.resources import read_yaml
from qilin_rag.core.errors import UsageError, explain, unknown_name
from qilin_rag.core.files import expanded
from qilin_rag.core.note_fields import TITLE_AND_CONTENT
from qilin_rag.core.registry import (
    ENGINES,
    HOOKS,
    LLMS,
    QUERIES,
    RETRIEVERS,
    SCORERS,
    Component,
    Named,
    Registry,
)
from qilin_rag.core.text import clean
from qilin_rag.core.types import AnswerSelection, Frozen, MissingNotes, NoteFields, NoteOrder, ReferenceSelection
from qilin_rag.core.units import AmountSetting

logger = logging.getLogger(__name__)
_EVERY_RUN_METRICS = ("retrieval",)
_DEFAULT_METRICS = ("rouge_l",)
_OPTIONAL_METRICS = ("bertscore",)
TOP_K = 5
NO_QUERY = "none"
"""The name under which a sweep lists runs without a query stage."""
RERANK_DEPTH, RERANK_WEIGHT = 20, 1.0


def _listed(names: Any) -> Any:
    """Return names that are separated by commas, or a list of such, as a list without duplicates."""
    given = [names] if isinstance(names, str) else names
    if not isinstance(given, list | tuple) or not all(isinstance(each, str) for each in given):
        return names
    return list(dict.fromkeys(name.strip() for each in given for name in each.split(",") if name.strip()))


class AskSettings(Frozen):
    """Settings of how an LLM is asked, about anything.

    Attributes:
        llm_label: The name by which the LLM was given.
        llm_preset: The settings that this name alone means.
        serve: Whether to start the preset's own server for this run, and stop it afterwards.
        batch: Whether to ask by the service's batch API, which takes up to a day and costs less (`llms.batch`).
        concurrency: The most questions asked at once; it does not count for a batch.
        cache: Whether to take answers to equal earlier requests from the response cache.
        seed: The seed for drawing questions, shuffling notes, and intervals.
        limit: The number of questions, drawn by a seeded permutation; null takes all.
        runs_dir: The folder of runs.
        fail_on_error: The questions without an answer that are allowed before exit code 3: a share below 1, or a
            number.
        max_cost: Stop before the calls of an LLM cost more, in all sessions together, such as `5` or `5USD`; null for
            no ceiling. Not recorded.
        max_tokens_total: Stop before the calls of an LLM take more tokens of prompts and answers; null for no ceiling.
            Not recorded.
        track: Trackers that get the run when it has ended: mlflow, trackio, wandb, or your own. Not kept in the
            manifest: who runs a run again chooses anew.
    """

    llm_label: str = "extractive"
    llm_preset: dict[str, Any] = {}
    serve: bool = False
    batch: bool = False
    concurrency: PositiveInt = 16
    cache: bool = True
    seed: NonNegativeInt = 0
    limit: PositiveInt | None = None
    runs_dir: Path = Path("runs")
    fail_on_error: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    max_cost: Annotated[AmountSetting | None, Field(exclude=True)] = None
    max_tokens_total: Annotated[PositiveInt | None, Field(exclude=True)] = None
    track: Annotated[list[str], BeforeValidator(_listed), Field(exclude=True)] = []

    @model_validator(mode="before")
    @classmethod
    def _label(cls, values: Any) -> Any:
        """Take the name of an LLM that is given without a label."""
        if isinstance(values, dict) and "llm" in values and "llm_label" not in values:
            llm = values["llm"].named() if isinstance(values["llm"], Component) else values["llm"]
            name = llm.name if isinstance(llm, Named) else llm.get("name") if isinstance(llm, dict) else None
            return {**values, "llm_label": name} if name else values
        return values


class PlainSettings(AskSettings):
    """The settings of a run that are not components.

    Attributes:
        data: `sample`, `sample-images`, `hub:OWNER/NAME`, or a folder with the tables notes and dqa as parquet, arrow,
            csv or jsonl.
        answers: Which answers make a question: engaged (any feedback), liked, content, citation, experience, shown.
        references: `own`: the question's own answers; `query`: those to the same query as well.
        missing_notes: What to do with hits that the data has no note for: `error`, or `skip` (leave out and count).
        top_k: The number of notes a question gets; oracle gives all references.
        note_fields: The fields of a note that retrievers and prompts read: title, content, and image_text (what its
            images say; `qilin-rag data ocr` reads it), which is added to the content.
        note_order: The order of the notes in the prompt (`shuffled` depends on `seed` and question).
        note_chars: The most characters of each note's content in the prompt; null means no limit.
        note_images: The most images of each note that go with its text, the cover first; 0 sends no image.
        image_size: The most pixels of an image's longer side; larger images are shrunk.
        optional_metrics: Metrics that are scored only if this machine has what they need.
        ids: A file with the ids of the questions to ask, one a line; null asks all.
        fresh: Whether to ask every question again; earlier answers are set aside.
        repeat: How often to ask every question, past the cache, to count the answers that change.
        note: A remark for people, shown beside the LLM in tables.
    """

    data: str = Field(default_factory=lambda: os.environ.get("QILIN_RAG_DATA") or "sample")
    answers: AnswerSelection = "engaged"
    references: ReferenceSelection = "own"
    missing_notes: MissingNotes = "error"
    top_k: PositiveInt = TOP_K
    note_fields: NoteFields = TITLE_AND_CONTENT
    note_order: NoteOrder = "best_first"
    note_chars: PositiveInt | None = None
    note_images: NonNegativeInt = 0
    image_size: Annotated[int, Field(ge=28, le=8192)] = 1024
    optional_metrics: list[str] = list(_OPTIONAL_METRICS)
    ids: Path | None = None
    fresh: bool = False
    repeat: PositiveInt = 1
    note: Annotated[str, Field(max_length=60)] = ""


class RunSpec(PlainSettings):
    """A run in stored form: the settings of files, flags and `--set`, which a manifest records.

    Attributes:
        retriever: The retriever by name and settings.
        query: What an LLM writes for each question before the search (rewrite, hyde, multi), by name and settings; null
            for nothing.
        rerank: What reorders the hits: a folder that `train` wrote (crossencoder, biencoder), a pretrained reranker by
            folder or hub name, the address of a served one, or an LLM (`llm:PRESET`); null for none.
        rerank_settings: The settings of a pretrained or served reranker, or of an LLM, which `--set rerank.KEY=VALUE`
            sets.
        rerank_depth: The number of hits of a question that are reordered.
        rerank_weight: The weight of the ranker's score in the new order; the rest is the retriever's.
        llm: The LLM by name and settings.
        prompt: The name of a prompt, or the path of its YAML file.
        metrics: The settings of each metric by name.
    """

    retriever: Named = Named(name="bm25")
    query: Named | None = None
    rerank: Path | str | None = None
    rerank_settings: dict[str, Any] = {}
    rerank_depth: PositiveInt = RERANK_DEPTH
    rerank_weight: Annotated[float, Field(gt=0, le=1)] = RERANK_WEIGHT
    llm: Named = Named(name="extractive")
    prompt: str = "default"
    metrics: dict[str, dict[str, Any]] = {name: {} for name in _EVERY_RUN_METRICS + _DEFAULT_METRICS}


_MADE_HERE = {"llm_label", "llm_preset", "optional_metrics"}
"""Settings of a manifest that follow from the others; nobody gives them."""
_COMPOSED_SETTINGS = {"retriever", "query", "llm", "metrics", *_MADE_HERE}
_LIST_SETTINGS = "qilin-rag list settings"
_REPEATED_SETTINGS = (
    "data",
    "ids",
    "concurrency",
    "retriever",
    "query",
    "rerank",
    "rerank_settings",
    "llm",
    "metrics",
)  # their paths may differ in the next session
_PLAIN_SETTINGS = [name for name in RunSpec.model_fields if name not in _COMPOSED_SETTINGS]


def _refuse_unwritable(settings: Mapping[str, Any]) -> None:
    """Refuse paths and names that the manifest can't hold or the system can't open."""
    for name, value in settings.items():
        if isinstance(value, str | Path) and ("\0" in str(value) or clean(str(value)) != str(value)):
            raise UsageError(
                f"{name} {ascii(str(value))[:80]} holds a character that is invalid in a name; "
                "if the system's language is not UTF-8, set LANG=C.UTF-8"
            )


def _expand_paths(settings: dict[str, Any]) -> None:
    """Replace `~` in the paths of a run, whichever way they were given."""
    for name in ("runs_dir", "ids", "rerank"):
        is_path = name != "rerank" or str(settings.get(name)).startswith("~")
        if isinstance(settings.get(name), str | Path) and is_path:
            settings[name] = expanded(settings[name])
    if isinstance(prompt := settings.get("prompt"), str | Path):
        settings["prompt"] = str(expanded(prompt) if str(prompt).endswith((".yaml", ".yml")) else prompt)


def _names_in(settings: Mapping[str, Any]) -> Iterator[tuple[str, Registry[Any], dict[str, dict[str, Any]]]]:
    """Yield the components that a file names, with their settings, by kind; an LLM with those of its preset."""
    if "retriever" in settings:
        component = _named(settings["retriever"], "retriever")
        yield "retriever", RETRIEVERS, {component.pop("name"): component}
    if (query := _named_query(settings.get("query"))) is not None:
        yield "query", QUERIES, {query.pop("name"): query}
    if "llm" in settings:
        component = _named(settings["llm"], "llm")
        component = named_llm(component.pop("name")) | component
        yield "llm", LLMS, {component.pop("name"): component}
    if "metrics" in settings:
        yield "metrics", SCORERS, _metrics(settings["metrics"])
    if isinstance(track := _listed(settings.get("track")), list):
        yield "track", HOOKS, {str(name): {} for name in track}
    second = settings.get("rerank")
    named = _named(second, "rerank") if isinstance(second, dict) else {"name": second}
    of_second = rerank_settings(named) if isinstance(second, dict) else _mapping(settings.get("rerank_settings"))
    if of_llm := rerank_llm(named["name"], of_second):
        yield "rerank", LLMS, {of_llm.pop("name"): of_llm}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _components_as_written(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Replace a prompt and a second stage given as objects by the file and folder they came from."""
    written: dict[str, Any] = {}
    if (source := getattr(settings.get("prompt"), "source", None)) is not None:
        if not source:
            raise UsageError("prompt: a prompt without a file can't be asked again; write it into a file")
        written["prompt"] = source
    second: Any = settings.get("rerank")
    if (source := getattr(second, "source", None)) is not None:
        written = {
            **written,
            "rerank": source,
            "rerank_settings": second.settings(),
            "rerank_depth": second.depth,
            "rerank_weight": second.weight,
        }
    elif isinstance(second, dict):
        named = _named(second, "rerank")
        written |= {"rerank": named["name"], "rerank_settings": rerank_settings(named)}
    return written


def _named(layer: Any, kind: str) -> dict[str, Any]:
    """Return a component of a file, flag or Python: a name, a mapping with `name` and settings, or an object."""
    if isinstance(layer, Component):
        named = _named_component(layer, kind, {"retriever": RETRIEVERS, "query": QUERIES}.get(kind, LLMS))
        return {"name": named.name, **named.settings}
    if isinstance(layer, str):
        return {"name": layer}
    if isinstance(layer, dict) and isinstance(layer.get("name"), str):
        return dict(layer)
    raise UsageError(f"{kind}: expected a name, or a mapping with 'name' and its settings; got {reprlib.repr(layer)}")


def _named_query(layer: Any) -> dict[str, Any] | None:
    """Return a query stage as `_named` does; None for none."""
    if layer is None or layer == NO_QUERY:
        return None
    return _named(layer, "query")


def _set_value(overrides: Iterable[str], name: str) -> str | None:
    """Return the value that `--set` gives a setting; None if it gives none."""
    values = [value for key, _, value in (assignment.partition("=") for assignment in overrides) if key == name]
    return values[-1] if values else None


def _named_component(component: Component, kind: str, registry: Registry[Any]) -> Named:
    if registry.name_of(type(component)) is None and ":" not in component.called():  # a name of another kind's
        raise UsageError(f"{kind}: {type(component).__name__} can't be used as {registry.kind}")
    named = component.named()
    again = registry.create(named.name, named.settings)
    hidden = [name for name, field in type(component).model_fields.items() if field.exclude]
    if again != component or any(getattr(again, name) != getattr(component, name) for name in hidden):
        raise UsageError(
            f"{kind}: {type(component).__name__} can't be built again from its settings, so its run could not be "
            "repeated; keep what it needs in fields that are written down and read back unchanged"
        )
    return named


def _metrics(layer: Any) -> dict[str, dict[str, Any]]:
    if isinstance(layer, str):
        layer = [name.strip() for name in layer.split(",") if name.strip()]
    if isinstance(layer, list | tuple | dict) and not layer:
        raise UsageError("metrics names no metric; name one, or retrieval for the figures of the hits alone")
    if isinstance(layer, Component):
        layer = [layer]
    if isinstance(layer, list | tuple) and all(isinstance(each, str | Component) for each in layer):
        metrics: dict[str, dict[str, Any]] = {}
        for each in layer:
            named = Named(name=each) if isinstance(each, str) else _named_component(each, "metrics", SCORERS)
            if metrics.setdefault(named.name, named.settings) != named.settings:
                raise UsageError(f"metrics: {named.name} is named twice, with other settings; leave one of them out")
        return metrics
    if isinstance(layer, dict) and all(isinstance(value, dict) for value in layer.values()):
        return {str(name): dict(settings) for name, settings in layer.items()}
    raise UsageError(f"metrics: expected names, or a mapping of names to settings; got {reprlib.repr(layer)}")


def _usual_top_k(retriever: Any, settings: Mapping[str, Any]) -> int | None:
    """Return the `top_k` that the settings of this class of retrievers fix, if they do."""
    found: int | None = retriever.usual_top_k(settings)
    return found


def resolve_spec(
    flags: Mapping[str, Any],
    overrides: Iterable[str] = (),
    file: Path | None = None,
    top_k: int = TOP_K,
    from_file: Mapping[str, Any] | None = None,
    command: str = "run",
) -> RunSpec:
    """Return the spec like `run.resolve_run`, without building components; messages name the `command`."""
    if from_file is None:
        from_file = read_yaml(file) if file else {}
    overrides = list(overrides)
    for kind, registry, components in _names_in(from_file):
        if any(registry.names_code(name, component_settings) for name, component_settings in components.items()):
            raise UsageError(
                f"{file}: {kind} must be a registered name; give code (package.module:NAME) as {kind} (--{kind})"
            )
    merged = {**from_file, **{key: value for key, value in flags.items() if value is not None}}
    if made_here := next((name for name in sorted(_MADE_HERE) if name in merged), None):
        raise UsageError(f"{file or command}: {_no_setting(made_here, RunSpec.model_fields.keys() - _MADE_HERE)}")
    merged |= _components_as_written(merged)
    _refuse_unwritable(merged)
    base_url, stream = merged.pop("base_url", None), merged.pop("stream", None)
    retriever = _named(merged.pop("retriever", "bm25"), "retriever")
    query = _named_query(merged.pop("query", None))
    llm = _named(merged.pop("llm", "extractive"), "llm")
    optional = [] if "metrics" in merged else list(_OPTIONAL_METRICS)
    components = _metrics(merged.pop("metrics", list(_DEFAULT_METRICS)))
    metrics: dict[str, dict[str, Any]] = {**{name: {} for name in _EVERY_RUN_METRICS}, **components}
    label = llm["name"]
    preset = named_llm(label)
    llm = {**preset, **{key: value for key, value in llm.items() if key != "name"}}
    for name, value in (("base_url", base_url), ("stream", stream)):
        if value is not None:
            llm[name] = value
    if isinstance(engine := llm.get("engine"), dict):
        for key, action in (("python", "name a program"), ("allowed", "allow itself anything")):
            if key in engine:
                raise UsageError(f"a file can't {action} (engine.{key}); give it with --set llm.engine.{key}=")
    rerank = _set_value(overrides, "rerank") or merged.get("rerank")
    owner = _owner_of(retriever["name"], llm, rerank=rerank, query=query, overrides=overrides)
    for path, value in parse_overrides(overrides, owner):
        if path[0] == "metrics" and len(path) == 3 and path[1] in optional:  # a metric that is set is wanted
            optional.remove(path[1])
            metrics[path[1]] = {}
        _override(path, value, merged, retriever, llm, metrics, query)
    _expand_paths(merged)
    merged |= {name: _typed(RunSpec, name, merged[name]) for name in _PLAIN_SETTINGS if name in merged}
    retriever_name, llm_class = retriever.pop("name"), llm.pop("name")
    retriever_class = RETRIEVERS.resolve(retriever_name)
    depth = _typed(retriever_class, "depth", retriever.get("depth"))
    depths = [depth, merged.get("rerank_depth", RERANK_DEPTH) if merged.get("rerank") else None]
    usual = _usual_top_k(retriever_class, retriever) or min(
        [top_k, *(depth for depth in depths if isinstance(depth, int) and depth > 0)]
    )
    merged.setdefault("top_k", usual)
    LLMS.resolve(llm_class)  # before the check of its destination
    by_flag = named_settings(overrides, flags.get("base_url"))
    check_destination(label, {**llm, "name": llm_class}, by_flag, bool(merged.get("serve")))
    if file is not None and not merged.get("serve"):
        say_destination(file, from_file, {**llm, "name": llm_class}, by_flag)
    if query is not None:
        _check_query_llm(query, label, {**llm, "name": llm_class}, by_flag, bool(merged.get("serve")))
        of_file = _named_query(from_file.get("query")) or {}
        if file is not None and isinstance(of_llm := of_file.get("llm"), dict):
            _, query_llm = query_llm_of(query.get("llm"), label, {**llm, "name": llm_class})
            say_destination(file, {"llm": of_llm}, query_llm, by_flag, at="query.llm")
    if file is not None and "rerank" in from_file and flags.get("rerank") is None and "rerank" not in by_flag:
        say_rerank_destination(file, str(merged.get("rerank")), _mapping(merged.get("rerank_settings")))
    check_rerank_destination(merged.get("rerank"), _mapping(merged.get("rerank_settings")), by_flag, file)
    if label.startswith(GGUF) and "base_url" not in llm:
        merged.setdefault("serve", True)
    is_as_preset = all(llm.get(key) == preset.get(key) for key in ("model", "base_url"))
    if llm.get("price") is preset.get("price") and not is_as_preset:
        llm.pop("price", None)  # the price of another model or provider
    if merged.get("serve") and base_url is not None:
        raise UsageError(
            "serve (--serve) starts its own server, so it takes no base_url (--base-url); leave one of them out"
        )
    label, preset = llm_label_of(label, preset, llm_class, llm)
    settings = {
        **merged,
        "retriever": {"name": retriever_name, "settings": retriever},
        "query": None if query is None else {"name": query.pop("name"), "settings": query},
        "llm": {"name": llm_class, "settings": llm},
        "llm_label": label,
        "llm_preset": {key: value for key, value in preset.items() if key != "name"},
        "metrics": metrics,
        "optional_metrics": optional,
    }
    try:
        return RunSpec(**settings)
    except ValidationError as error:
        raise UsageError(f"{file or command}: {explain(error, RunSpec)}") from error


def _check_query_llm(
    query: Mapping[str, Any], label: str, llm: Mapping[str, Any], by_flag: Collection[str], serve: bool
) -> None:
    """Check the destination of the query stage's prompts, as for the run's own LLM, whose flags count for it, too."""
    query_label, query_llm = query_llm_of(query.get("llm"), label, llm)
    if query_llm == llm:
        return
    LLMS.resolve(query_llm["name"])
    flags = flags_for_query_llm(query.get("llm"), by_flag)
    is_own = "name" not in (named_query_llm(query.get("llm")) or {})
    check_destination(query_label, query_llm, flags, serve and is_own, at="query.llm")


def _typed(model: type[BaseModel], name: str, value: Any) -> Any:
    """Return a value as the field takes it (`'3'` is 3), so that what follows from it sees no other type.

    One that does not fit is returned as it is: building the model says what is wrong with it.
    """
    if (field := model.model_fields.get(name)) is None:
        return value
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return value


def recorded_spec(
    recorded: Mapping[str, Any], overrides: Iterable[str] = (), base_url: str | None = None, **changes: Any
) -> RunSpec:
    """Return the configuration of a manifest, with `--set` assignments, an address, and settings of the caller.

    What it allows its engine does not count: only flags can allow that. Code that it names is not imported.
    """
    overrides = list(overrides)
    try:
        values = RunSpec(**recorded).model_dump()
        retriever, llm = values["retriever"]["settings"], values["llm"]["settings"]
        if isinstance(engine := llm.get("engine"), dict):
            llm["engine"] = {key: value for key, value in engine.items() if key != "allowed"}
        names = values["retriever"]["name"], {"name": values["llm"]["name"], **llm}
        rerank = _set_value(overrides, "rerank") or values["rerank"]
        query = None if values["query"] is None else {"name": values["query"]["name"], **values["query"]["settings"]}
        owner = _owner_of(*names, imports_code=False, rerank=rerank, query=query, overrides=overrides)
        for path, value in parse_overrides(overrides, owner):
            if path[0] not in _REPEATED_SETTINGS:
                raise unknown_name(
                    "setting", ".".join(path), _REPEATED_SETTINGS, "can't be changed when a run is repeated"
                )
            _override(path, value, values, retriever, llm, values["metrics"], query)
        if base_url is not None:
            llm["base_url"] = base_url
        if query is not None:
            values["query"] = {"name": query.pop("name"), "settings": query}
        _expand_paths(values)
        _refuse_unwritable({**values, "base_url": base_url})
        return RunSpec(**values | changes)
    except ValidationError as error:
        raise UsageError(f"its configuration can't be read: {explain(error, RunSpec)}") from error


def _override(
    path: list[str],
    value: Any,
    settings: dict[str, Any],
    retriever: dict[str, Any],
    llm: dict[str, Any],
    metrics: dict[str, dict[str, Any]],
    query: dict[str, Any] | None = None,
) -> None:
    """Apply one `--set` assignment."""
    match path:
        case ["query", *_] if query is None:
            raise UsageError(f"{'.'.join(path)}: this run has no query stage; name one (--query)")
        case ["query", "llm", key] if query is not None and key not in ("name", "label"):
            query["llm"] = {**_as_mapping(query.get("llm"), "query.llm"), key: value}
        case ["query", "llm"] if query is not None and isinstance(value, str):
            changes = _as_mapping(query.get("llm"), "query.llm")
            query["llm"] = {"name": value} if "name" in changes else {"name": value, **changes}
        case ["query", key] if query is not None and key != "name":
            query[key] = value
        case ["retriever", key] if key != "name":
            retriever[key] = value
        case ["llm", "engine"] if isinstance(value, dict):
            llm["engine"] = {}
            for setting, setting_value in sorted(value.items(), key=lambda item: item[0] != "name"):
                llm["engine"] = _with_setting(llm["engine"], [str(setting)], setting_value)
        case ["rerank", key]:
            settings["rerank_settings"] = {
                **_as_mapping(settings.get("rerank_settings"), "rerank_settings"),
                key: value,
            }
        case ["rerank", "llm", key] if key != "name":
            before = _as_mapping(settings.get("rerank_settings"), "rerank_settings")
            settings["rerank_settings"] = with_llm_setting(before, key, value)
        case ["llm", key] if key != "name":
            llm[key] = value
        case ["llm", "engine", *keys]:
            llm["engine"] = _with_setting(llm.get("engine"), keys, value)
        case ["metrics", metric, key]:
            if metric not in metrics:
                raise unknown_name("metric", metric, metrics, "is not in this run")
            metrics[metric][key] = value
        case [key] if key in _PLAIN_SETTINGS:
            settings[key] = value
        case _:
            raise _unknown_setting(".".join(path), retriever.get("name", ""), llm.get("name", ""), metrics)


def _as_mapping(named: Any, at: str) -> dict[str, Any]:
    """Return a component that is given by name, or as a mapping, as a mapping.

    Args:
        named: The component; None for an empty mapping.
        at: The path of its settings in a configuration, for the error.
    """
    if not isinstance(named, str | dict | None):
        raise UsageError(f"{at}: expected a name, or a mapping of settings; got {reprlib.repr(named)}")
    return {"name": named} if isinstance(named, str) else dict(named or {})


def _unknown_setting(name: str, retriever: str, llm: str, metrics: Iterable[str]) -> UsageError:
    """Return the error for an unknown setting in `--set`, naming the component that has a setting of this name."""
    components = {
        "retriever": (RETRIEVERS, retriever),
        "llm": (LLMS, llm),
        **{f"metrics.{metric}": (SCORERS, metric) for metric in metrics},
    }
    owners = [
        kind
        for kind, (table, component) in components.items()
        if table.is_registered(component) and name in table.resolve(component).model_fields
    ]
    known_names = [*_PLAIN_SETTINGS, "retriever.KEY", "query.KEY", "rerank.KEY", "llm.KEY", "metrics.NAME.KEY"]
    if owners:
        meant = " or ".join(repr(f"{kind}.{name}") for kind in owners)
        return UsageError(f"setting {name!r} does not exist; did you mean {meant}? ({_LIST_SETTINGS})")
    return _no_setting(name, known_names)


def _no_setting(name: str, known: Iterable[str]) -> UsageError:
    return unknown_name("setting", name, known, see=_LIST_SETTINGS)


def _owner_of(
    retriever: str,
    llm: Mapping[str, Any],
    imports_code: bool = True,
    rerank: Any = None,
    query: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
) -> Owner:
    """Return which model has the setting of a path, in a run with this retriever, LLM, reranker and query stage."""

    def class_of(registry: Registry[Any], name: str) -> type[BaseModel] | None:
        return registry.resolve(name) if imports_code or registry.is_registered(name) else None

    def owner(path: list[str]) -> type[BaseModel] | type[str] | None:
        match path:
            case ["retriever", _]:
                return class_of(RETRIEVERS, retriever)
            case ["query", _] if query is not None:
                return class_of(QUERIES, query["name"])
            case ["query", "llm", _] if query is not None:
                named = _set_value(overrides, "query.llm") or query.get("llm")
                _, of_query = query_llm_of(named, "", llm)
                return class_of(LLMS, of_query["name"])
            case ["rerank", _]:
                return reranker_class(rerank)
            case ["rerank", "llm", _]:
                of_llm = rerank_llm(rerank, {})
                return class_of(LLMS, of_llm["name"]) if of_llm else None
            case ["llm", _]:
                return class_of(LLMS, llm["name"])
            case ["llm", "engine", "environment", _]:
                return str
            case ["llm", "engine", _]:
                engine = llm.get("engine")
                name = engine if isinstance(engine, str) else engine.get("name") if isinstance(engine, dict) else None
                return ENGINES.resolve(name) if isinstance(name, str) and name in ENGINES.table() else None
            case ["metrics", metric, _]:
                return SCORERS.resolve(metric) if SCORERS.is_registered(metric) else None
            case [_]:
                return RunSpec
        return None

    return owner


def _with_setting(engine: Any, keys: list[str], value: Any) -> dict[str, Any]:
    """Return an engine block (or its bare name) with one setting, or one environment variable, changed by a flag."""
    settings: dict[str, Any] = {"name": engine} if isinstance(engine, str) else dict(engine or {})
    match keys:
        case ["allowed"] if isinstance(value, list):
            engine_settings = value
        case [key]:
            settings |= {key: value}
            engine_settings = named_by_flag(settings, key, value)
        case ["environment", variable]:
            before = settings.get("environment")
            settings |= {"environment": {**(before if isinstance(before, dict) else {}), variable: value}}
            engine_settings = risky_variables({variable: value})
        case _:
            raise unknown_name("setting", ".".join(["llm.engine", *keys]), ["llm.engine.KEY"])
    if engine_settings and isinstance(allowed := settings.get("allowed", []), list):
        settings["allowed"] = [*allowed, *engine_settings]
    return settings


def settable() -> tuple[str, ...]:
    """Return the settings of a run that `--set` takes by their own name."""
    return tuple(_PLAIN_SETTINGS)
