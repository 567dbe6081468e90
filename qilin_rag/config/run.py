"""The configuration of a run: components, built when it is read, so that a wrong setting is an error there.

File, flags and Python give equal configurations. Parts from packages that import this one (prompts, rankers) are found
by name, like components in the registries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from qilin_rag.config.batch_hosts import check_batch_host
from qilin_rag.config.ceilings import with_currency
from qilin_rag.config.presets import preset_file, preset_settings
from qilin_rag.config.query_llm import build_query_llm, query_llm_of
from qilin_rag.config.spec import RERANK_DEPTH, RERANK_WEIGHT, TOP_K, AskSettings, PlainSettings, RunSpec, resolve_spec
from qilin_rag.core.errors import UsageError, naming_file
from qilin_rag.core.registry import LLMS, QUERIES, RETRIEVERS, SCORERS, Component, Named

_PROMPT = "qilin_rag.prompts.answer:load_prompt"
_RERANKER = "qilin_rag.rankers.rerank:Reranker"


def _by_name(metrics: Any) -> Any:
    """Return metrics by their names in a file."""
    if isinstance(metrics, Mapping):
        return dict(metrics)
    if isinstance(metrics, Component):
        metrics = [metrics]
    named: dict[str, Any] = {}
    for metric in metrics:
        if not isinstance(metric, Component):
            raise UsageError(f"metrics: expected scorers; got {type(metric).__name__} (resolve_run takes names)")
        if named.setdefault(name := metric.named().name, metric) != metric:
            raise UsageError(f"metrics: {name} is named twice, with other settings; leave one of them out")
    return named


class LLMConfig(AskSettings):
    """An LLM (`llms.LLM`) and how it is asked."""

    llm: Any = Field(default_factory=lambda: LLMS.create("extractive", {}))

    @property
    def asked(self) -> list[tuple[str, Any]]:
        """Return each LLM that is asked, with the setting that holds it."""
        return [("llm", self.llm)]

    @model_validator(mode="after")
    def _check_ceiling(self) -> Self:
        """Check that a ceiling of money can be held."""
        if self.max_cost is not None:
            with_currency(self.max_cost, self.asked)
        return self


class RunConfig(PlainSettings, LLMConfig):
    """All settings of one run, with its parts as validated components.

    Attributes:
        retriever: A `retrievers.Retriever`.
        query: A `retrievers.query_stage.QueryStage`; None for none.
        rerank: A `rankers.rerank.Reranker`; None for no second stage.
        prompt: A `prompts.answer.Prompt`; None if no LLM is asked.
        metrics: Scorers (`scorers.Scorer`) by component name; each must be usable.
    """

    retriever: Any = Field(default_factory=lambda: RETRIEVERS.create("bm25", {}))
    query: Any = None
    rerank: Any = None
    prompt: Any = Field(default_factory=lambda: _load(_PROMPT)("default"))
    metrics: Annotated[dict[str, Any], BeforeValidator(_by_name)] = Field(
        default_factory=lambda: build_scorers(RunSpec().metrics)
    )

    @model_validator(mode="after")
    def _check_components(self) -> RunConfig:
        """Check the kind of each component, and that the second stage has enough hits for the prompt."""
        of_kinds = [(RETRIEVERS, "retriever", self.retriever), (LLMS, "llm", self.llm)]
        of_kinds += [] if self.query is None else [(QUERIES, "query", self.query)]
        of_kinds += [(SCORERS, "metrics", scorer) for scorer in self.metrics.values()]
        for field, part, needed in (("prompt", self.prompt, "source"), ("rerank", self.rerank, "source")):
            if part is not None and not hasattr(part, needed):
                raise UsageError(f"{field}: expected an object; got {type(part).__name__} (resolve_run takes names)")
        for registry, field, component in of_kinds:
            if not registry.makes(component):
                raise UsageError(f"{field}: {type(component).__name__} can't be used as {registry.kind}")
            component.as_text()
        if self.rerank is not None and self.top_k > self.rerank.depth and not self.retriever.ignores_k:
            raise UsageError(
                f"top_k {self.top_k} (--top-k): the second stage ranks only {self.rerank.depth} notes; "
                "raise rerank_depth (--rerank-depth)"
            )
        if self.query is not None:
            self.query.check_retriever(self.retriever)
            build_query_llm(self.query.llm, self.llm)
        self.retriever.check_k(self.top_k if self.rerank is None else self.rerank.depth)
        return self

    @property
    def asked(self) -> list[tuple[str, Any]]:
        """Return each LLM that is asked, with the setting that holds it."""
        query = self.query_config
        stages = [] if query is None else [("query.llm", query.llm)]
        of_rerank = None if self.rerank is None else self.rerank.asked_llm
        stages += [] if of_rerank is None else [("rerank.llm", of_rerank)]
        return [("llm", self.llm), *stages]

    @property
    def query_config(self) -> LLMConfig | None:
        """Return the LLM of the query stage and how it is asked, as this run asks its own; None without a stage."""
        if self.query is None:
            return None
        label, _ = query_llm_of(self.query.llm, self.llm_label, {"name": self.llm.called()})
        settings = {name: getattr(self, name) for name in AskSettings.model_fields}
        settings |= {"llm_label": label, "serve": self.serve and self.query.asks_own_llm}
        settings |= {"max_cost": None, "max_tokens_total": None}  # those of the run count
        return LLMConfig(**settings, llm=build_query_llm(self.query.llm, self.llm))

    def spec(self) -> RunSpec:
        """Return this run as a manifest records it: retriever and LLM with all settings, defaults included."""
        second: dict[str, Any] = {}
        if self.rerank is not None:
            second = {
                "rerank_settings": self.rerank.settings(),
                "rerank_depth": self.rerank.depth,
                "rerank_weight": self.rerank.weight,
            }
        return RunSpec(
            **{name: getattr(self, name) for name in PlainSettings.model_fields},
            retriever=_in_full(self.retriever),
            query=None if self.query is None else _in_full(self.query),
            rerank=None if self.rerank is None else self.rerank.source,
            **second,
            llm=_in_full(self.llm),
            prompt=self.prompt.source,
            metrics={name: scorer.named().settings for name, scorer in self.metrics.items()},
        )


def resolve_run(
    flags: Mapping[str, Any],
    overrides: Iterable[str] = (),
    file: Path | None = None,
    top_k: int = TOP_K,
    from_file: Mapping[str, Any] | None = None,
    with_prompt: bool = True,
) -> RunConfig:
    """Apply file, flags (None = not given) and `--set` assignments over the defaults, and build the components.

    LLM presets are filled in.

    Args:
        flags: Settings by name. `retriever`, `llm` and each of `metrics` may be a component, such as `BM25(k1=1.2)`.
        overrides: Assignments such as `retriever.k1=1.2`.
        file: A YAML file of settings.
        top_k: The default of that setting, lowered if the retriever or ranker returns fewer notes.
        from_file: The content of the file, if it was read before.
        with_prompt: Whether an LLM is asked; else no prompt is read, and `prompt` is None.

    Raises:
        UsageError: if a setting is unknown or wrong; the error names it as `retriever.k1`.
    """
    overrides = list(overrides)

    def build(flags: Mapping[str, Any], overrides: Iterable[str]) -> RunConfig:
        return build_run(resolve_spec(flags, overrides, file, top_k, from_file), with_prompt)

    with naming_file(file, lambda: build({}, ())):
        config = build(flags, overrides)
    scorers = [*metrics] if isinstance(metrics := flags.get("metrics"), list | tuple) else [metrics]
    return config.model_copy(
        update={
            "retriever": _own_object(config.retriever, flags.get("retriever")),
            "query": config.query and _own_object(config.query, flags.get("query")),
            "llm": _own_object(config.llm, flags.get("llm")),
            "metrics": {name: _own_object(scorer, *scorers) for name, scorer in config.metrics.items()},
        }
    )


def _own_object(component: Component, *given: Any) -> Component:
    """Return the object that the caller gave of a class of their own, which may hold more than its settings."""
    is_ours = component.known_as() != component.class_path()
    return component if is_ours else next((each for each in given if each == component), component)


def build_run(spec: RunSpec, with_prompt: bool = True) -> RunConfig:
    """Build the components that a spec names; a UsageError names the wrong setting."""
    retriever = RETRIEVERS.create(spec.retriever.name, spec.retriever.settings)
    llm = build_llm(spec)
    metrics = build_scorers(spec.metrics)
    rerank = None
    if spec.rerank is None and spec.rerank_settings:
        raise UsageError(f"rerank.{next(iter(spec.rerank_settings))}: this run has no reranker; name one (--rerank)")
    if spec.rerank is not None:
        rerank = _load(_RERANKER).open(spec.rerank, spec.rerank_depth, spec.rerank_weight, spec.rerank_settings)
    return RunConfig(
        **{name: getattr(spec, name) for name in PlainSettings.model_fields},
        retriever=retriever,
        query=None if spec.query is None else QUERIES.create(spec.query.name, spec.query.settings),
        rerank=rerank,
        llm=llm,
        prompt=_load(_PROMPT)(spec.prompt) if with_prompt else None,
        metrics=metrics,
    )


def build_llm(spec: RunSpec) -> Any:
    """Build the LLM that a spec names; an error of a preset names its file."""
    with naming_file(preset_file(spec.llm_label), lambda: LLMS.create(*preset_settings(spec.llm_label))):
        return LLMS.create(spec.llm.name, spec.llm.settings)


def build_scorers(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Build the scorers with these names and settings."""
    scorers: dict[str, Any] = {}
    for given, settings in metrics.items():
        scorer = SCORERS.create(given, settings)
        if (name := scorer.named().name) in scorers:
            raise UsageError(f"two of the metrics {', '.join(metrics)} give {name!r}; name only one of them")
        scorers[name] = scorer
    return scorers


def resolve_metrics(metrics: Any = None, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Build the scorers of a scoring command; also return the names of those that are optional."""
    spec = resolve_spec({"metrics": metrics}, overrides)
    return build_scorers(spec.metrics), spec.optional_metrics


def check_batch(config: LLMConfig) -> None:
    """Raise a UsageError if the LLM is to be asked by batch, and takes none."""
    if not config.batch:
        return
    if not config.serve:
        check_batch_host(str(getattr(config.llm, "base_url", "")))
    engine = (getattr(config.llm, "engine", None) or {}).get("name", "vllm")
    if config.serve and engine != "vllm":
        raise UsageError(
            f"llm.engine {engine} answers no files of requests; leave out batch (--batch), or serve the model with vllm"
        )
    if not config.llm.takes_batches:
        raise UsageError(
            f"llm {config.llm_label} takes no batches; leave out batch (--batch), or name an LLM behind an address"
        )


def changed_rerank_settings(depth: int, weight: float) -> dict[str, Any]:
    """Return the settings of a second stage that are not the default."""
    usual = {"depth": RERANK_DEPTH, "weight": RERANK_WEIGHT}
    return {name: value for name, value in {"depth": depth, "weight": weight}.items() if value != usual[name]}


def _in_full(component: Component) -> Named:
    return Named(name=component.named().name, settings=component.model_dump(mode="json"))


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
