"""Components and the tables that name them: retrievers, query stages, LLMs and scorers, ours and third parties'.

A component *is* its configuration: a frozen model whose fields are its parameters. Validation, YAML, the manifest and
the fingerprint all derive from that one definition. Heavy state is built lazily and kept private.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoints
from importlib.metadata import entry_points as scan_entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Secret, SecretBytes, SecretStr, ValidationError

from qilin_rag.core.errors import UsageError, explain, unknown_name
from qilin_rag.core.files import expanded
from qilin_rag.core.plugins import import_object, source_hash
from qilin_rag.core.typed_in import typed_in_hash
from qilin_rag.core.types import Frozen


@lru_cache(maxsize=8)  # a scan reads a file of each installed package
def _scanned(path: tuple[tuple[str, int], ...]) -> Any:
    """Return the entry points of all packages on this path of imports, in the type of this Python."""
    return scan_entry_points()


def entry_points(group: str) -> EntryPoints:
    """Return the entry points of a group; a folder into which something was installed is scanned anew."""
    path = tuple((folder, _changed_ns(folder)) for folder in sys.path)
    found: EntryPoints = _scanned(path).select(group=group)
    return found


def _changed_ns(folder: str) -> int:
    try:
        return Path(folder).stat().st_mtime_ns
    except OSError:
        return 0


class Named(Frozen):
    """A component in stored form: its registered name, or `module:Class`, and its settings."""

    name: str
    settings: dict[str, Any] = {}


class Component(BaseModel):
    """A pluggable part of the harness, defined by its fields.

    Attributes:
        version: The version of the output. Raise it when the same fields come to mean other output.
        operational: Fields that cannot change any output (addresses, timeouts), which stay out of the fingerprint.
        only_if_set: Fields that are left out of the identity at their default. They were added later, and results made
            before keep their fingerprint.
        outward: Fields that say where the component sends its input, or by which key. In a run from somebody else they
            only count if a flag names them.
        argument: The field whose value may follow the name after a colon.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), defer_build=True
    )

    version: ClassVar[int] = 1
    operational: ClassVar[frozenset[str]] = frozenset()
    only_if_set: ClassVar[frozenset[str]] = frozenset()
    outward: ClassVar[frozenset[str]] = frozenset()
    argument: ClassVar[str | None] = None

    def __eq__(self, other: object) -> bool:
        """Return whether both have one class and the same settings; opened files and models do not count."""
        return self is other or (
            isinstance(other, Component) and type(self) is type(other) and self.as_text() == other.as_text()
        )

    def __hash__(self) -> int:
        return hash((type(self), self.as_text()))

    def as_text(self) -> str:
        """Return the settings as JSON, by which components are compared.

        Raises:
            UsageError: if a setting can't be stored.
        """
        try:
            for name, value in self.model_dump().items():
                if _holds_secret(value):
                    raise ValueError(f"{name} is a secret; name an environment variable instead, as api_key_env does")
            return json.dumps(self.model_dump(mode="json"), sort_keys=True)
        except ValueError as error:
            kind = next((each.kind for each in _REGISTRIES if each.makes(self)), "component")
            raise UsageError(f"{kind}: {self.called()} has a setting that can't be stored: {error}") from error

    @classmethod
    def class_path(cls) -> str:
        """Return `module:Class`, the name of this component that works everywhere."""
        return f"{cls.__module__}:{cls.__qualname__}"

    @classmethod
    def known_as(cls) -> str:
        """Return the stored name of the class: `kind/name` for our components, else `module:Class`."""
        ours = (f"{each.kind}/{name}" for each in _REGISTRIES if (name := each.built_in_name(cls)))
        return next(ours, cls.class_path())

    @classmethod
    def called(cls) -> str:
        """Return the name on the command line: the registered one, else `module:Class`."""
        known_as = cls.known_as()
        if known_as != cls.class_path():
            return known_as.partition("/")[2]
        return next((name for each in _REGISTRIES if (name := each.name_of(cls))), known_as)

    def identity(self) -> dict[str, Any]:
        """Return everything about this component that can change its output.

        Our components are identified by kind and name, others by path and the hash of their files.
        """
        name = self.known_as()
        is_ours = name != self.class_path()
        return {
            "component" if is_ours else "class": name,
            "version": self.version,
            **self.model_dump(mode="json", exclude=set(self.operational) | self._unset()),
            **({} if is_ours else self._source_hash()),
        }

    def _unset(self) -> set[str]:
        """Return the fields of `only_if_set` that have their default."""
        fields = type(self).model_fields
        return {name for name in self.only_if_set if getattr(self, name) == fields[name].default}

    @classmethod
    def _source_hash(cls) -> dict[str, str]:
        """Return the hash of the files of a user's component and of its base classes."""
        bases = [base for base in cls.__mro__ if base.__module__.partition(".")[0] not in _NOT_OF_USERS]
        return source_hash(*dict.fromkeys(base.__module__ for base in bases)) | typed_in_hash(*bases)

    @classmethod
    def names_code(cls, settings: Mapping[str, Any]) -> bool:
        """Return whether these settings name code to import, which a file must not do."""
        return False

    def own_settings(self) -> dict[str, Any]:
        """Return the fields that are needed to make this component again: all but those at their default."""
        cls = type(self)
        set_fields = self.model_dump(include=self.model_fields_set)
        needed = {name: set_fields[name] for name, field in cls.model_fields.items() if field.is_required()}
        try:
            usual = cls(**needed).model_dump()
            needed_settings = {
                name: value for name, value in set_fields.items() if name in needed or value != usual.get(name, ...)
            }
            is_whole = cls(**needed_settings).model_dump() == self.model_dump()
        except ValueError:  # some settings are only valid together
            return set_fields
        return needed_settings if is_whole else set_fields

    def named(self) -> Named:
        """Return this component by name and own settings; an argument that is not the default joins the name."""
        name, settings = self.called(), self.own_settings()
        given = settings.get(self.argument) if self.argument else None
        is_text = given is not None and not isinstance(given, dict)
        if self.argument and is_text and ":" not in name and str(given).strip():
            name = f"{name}:{given}"
            del settings[self.argument]
        return Named(name=name, settings=settings)

    def changed(self, base: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        """Return the output-changing fields that differ from `base`, or from their default if `base` does not set them.

        They distinguish two components of one class, or a component from its preset.
        """
        expected = type(self).model_construct(**base).model_dump(mode="json", warnings=False)
        fields = self.model_dump(mode="json", exclude=set(self.operational))
        return {name: value for name, value in fields.items() if name not in expected or expected[name] != value}


def _holds_secret(value: Any) -> bool:
    """Return whether a value has a secret in it, which would be stored as asterisks."""
    if isinstance(value, Mapping):
        return any(map(_holds_secret, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_holds_secret, value))
    return isinstance(value, Secret | SecretStr | SecretBytes) and bool(value.get_secret_value())


C = TypeVar("C", bound=Component)
_NOT_OF_USERS = {"qilin_rag", "pydantic", "pydantic_core", *sys.stdlib_module_names} - {"__main__"}
_SET_AS = {"retriever": "retriever", "query": "query", "llm": "llm", "metric": "metrics.{}", "ranker": "ranker"}


class Registry(Generic[C]):
    """The names of the components of one kind, each mapped to a lazy `"module:Class"` string.

    Third parties register through the entry-point group `qilin_rag.<plural>`, or are named `package.module:Class`. The
    text after a registered name and a colon is that component's `argument`: `trec:run.trec`.
    """

    def __init__(self, kind: str, base: str, table: Mapping[str, str]) -> None:
        """Set the kind, its base class (a lazy `"module:Class"`, too) and our names."""
        self.kind = kind
        self._base = base
        self._builtin = dict(table)

    @property
    def plural(self) -> str:
        """Return the kind in the plural: `queries`."""
        return f"{self.kind[:-1]}ies" if self.kind.endswith("y") else f"{self.kind}s"

    def table(self) -> dict[str, str]:
        """Return all names with their `"module:Class"`.

        Raises:
            UsageError: if two packages define the same name.
        """
        table = dict(self._builtin)
        for entry in entry_points(group=f"qilin_rag.{self.plural}"):
            if table.get(entry.name, entry.value) != entry.value:
                raise UsageError(
                    f"two {self.plural} are called {entry.name!r}: {table[entry.name]} and {entry.value}; "
                    "uninstall one of the two packages"
                )
            table[entry.name] = entry.value
        return table

    def built_in_name(self, cls: type[Component]) -> str | None:
        """Return the name of one of our classes, by comparing the classes of the table; else None."""
        for name, path in self._builtin.items():
            module, _, class_name = path.partition(":")
            if class_name == cls.__name__ and getattr(importlib.import_module(module), class_name) is cls:
                return name
        return None

    def name_of(self, cls: type[Component]) -> str | None:
        """Return the registered name of a class, by path if it is not ours; None if it has none."""
        if ours := self.built_in_name(cls):
            return ours
        path = cls.class_path()
        return next((name for name, known in self.table().items() if known == path), None)

    def name_of_known(self, known_as: str) -> str | None:
        """Return the registered name for a stored name (`Component.known_as`); None if it has none."""
        kind, slash, name = known_as.partition("/")
        if slash and kind == self.kind and name in self._builtin:
            return name
        return next((name for name, path in self.table().items() if path == known_as), None)

    def is_registered(self, name: str) -> bool:
        """Return whether this name is in the table, with or without an argument."""
        return name.partition(":")[0] in self.table()

    def resolve(self, name: str) -> type[Component]:
        """Return the class of a registered name (with or without an argument) or of `package.module:Class`.

        Raises:
            UsageError: if the name is unknown, or names something else than a component of this kind.
        """
        path = self.table().get(name.partition(":")[0], name)
        if ":" not in path:
            raise unknown_name(self.kind, name, self.table())
        module_name, _, class_name = path.partition(":")
        resolved = import_object(path, f"{self.kind} {name!r}", own=path == name)
        base = self._base_class()
        if not (isinstance(resolved, type) and issubclass(resolved, base)):
            raise UsageError(f"{self.kind} {name!r}: {module_name} has no {base.__name__} called {class_name!r}")
        return resolved

    def makes(self, value: object) -> bool:
        """Return whether this object is a component of this kind."""
        return isinstance(value, self._base_class())

    def _base_class(self) -> type[Component]:
        module, _, name = self._base.partition(":")
        base: type[Component] = getattr(importlib.import_module(module), name)
        return base

    def implied(self, name: str) -> dict[str, Any]:
        """Return the setting that the name itself gives after a colon."""
        registered, colon, argument = name.partition(":")
        if not colon or not self.is_registered(name):
            return {}
        if (field := self.resolve(name).argument) is None:
            raise UsageError(f"{self.kind} {registered} takes no argument after a colon, here {argument!r}")
        if not argument.strip():
            raise UsageError(
                f"{self.kind} {name!r}: the value after the colon is missing; write {registered}:{field.upper()}"
            )
        return {field: argument}

    def _where(self, name: str, error: ValidationError, at: str | None) -> str:
        """Return the place of a wrong setting in a configuration, or how to give a missing one."""
        first = error.errors()[0]
        is_part, at = at is not None, at or _SET_AS.get(self.kind, "").format(name)
        if not at or not first["loc"]:
            return ""
        path = ".".join([at, *map(str, first["loc"])])
        if first["type"] != "missing" or is_part:
            return f" ({path})"
        key = str(first["loc"][0])
        short = f", or {name}:{key.upper()}" if key == self.resolve(name).argument else ""
        return f"; give it with --set {at}.{key}=VALUE{short}"

    def short_name(self, name: str) -> str:
        """Return the name for a path, without an argument that changes no output (the place of a file)."""
        implied = self.implied(name)
        is_operational = bool(implied) and implied.keys() <= self.resolve(name).operational
        return name.partition(":")[0] if is_operational else self.label(name)

    def label(self, name: str) -> str:
        """Return the name for people: an argument that is a folder is shortened to the folder's name."""
        registered, colon, argument = name.partition(":")
        is_folder = bool(colon) and self.is_registered(name) and expanded(argument).is_dir()
        return f"{registered}:{expanded(argument).resolve().name}" if is_folder else name

    def names_code(self, name: str, settings: Mapping[str, Any]) -> bool:
        """Return whether this component is a user's own code, by its name or its settings."""
        if not self.is_registered(name):
            return ":" in name
        return self.resolve(name).names_code({**self.implied(name), **settings})

    def create(self, name: str, settings: Mapping[str, Any], at: str | None = None) -> C:
        """Build the named component.

        Args:
            name: A registered name, with or without an argument, or `package.module:Class`.
            settings: The settings of the component.
            at: The path of its settings in a configuration, if it is a part of another component.

        Raises:
            UsageError: if the name is unknown or a setting is wrong; the error names the settings that exist.
        """
        cls = self.resolve(name)
        settings = {**self.implied(name), **settings}
        try:
            return cls(**settings)  # type: ignore[return-value]
        except ValidationError as error:
            raise UsageError(f"{self.kind} {name}: {explain(error, cls)}{self._where(name, error, at)}") from error
        except TypeError as error:  # a method of the interface is missing
            raise UsageError(f"{self.kind} {name}: {error}") from error


RETRIEVERS: Registry[Any] = Registry(
    "retriever",
    "qilin_rag.retrievers.base:Retriever",
    {
        "none": "qilin_rag.retrievers.none:NoRetriever",
        "bm25": "qilin_rag.retrievers.bm25.retriever:BM25",
        "biencoder": "qilin_rag.retrievers.dense.retriever:BiEncoder",
        "sparse": "qilin_rag.retrievers.sparse.retriever:LearnedSparse",
        "history": "qilin_rag.retrievers.dense.history:UserHistory",
        "hybrid": "qilin_rag.retrievers.hybrid:Hybrid",
        "langchain": "qilin_rag.retrievers.langchain:LangChainRetriever",
        "multivector": "qilin_rag.retrievers.multivector.retriever:MultiVector",
        "mixed": "qilin_rag.retrievers.mixed:Mixed",
        "oracle": "qilin_rag.retrievers.oracle:Oracle",
        "oracle_top_k": "qilin_rag.retrievers.oracle:OracleTopK",
        "random": "qilin_rag.retrievers.random:Random",
        "recorded": "qilin_rag.retrievers.recorded:Recorded",
        "trec": "qilin_rag.retrievers.trec:Trec",
        "unanswerable": "qilin_rag.retrievers.mixed:Unanswerable",
    },
)
QUERIES: Registry[Any] = Registry(
    "query",
    "qilin_rag.retrievers.query_stage:QueryStage",
    {
        "rewrite": "qilin_rag.retrievers.query_stage:Rewrite",
        "hyde": "qilin_rag.retrievers.query_stage:HyDE",
        "multi": "qilin_rag.retrievers.query_stage:MultiQuery",
    },
)
LLMS: Registry[Any] = Registry(
    "llm",
    "qilin_rag.llms.base:LLM",
    {
        "extractive": "qilin_rag.llms.extractive:Extractive",
        "langchain": "qilin_rag.llms.langchain.chat_model:LangChain",
        "openai": "qilin_rag.llms.openai_compatible:OpenAICompatible",
    },
)
ENGINES: Registry[Any] = Registry(
    "engine",
    "qilin_rag.llms.serving.engines:Engine",
    {
        "vllm": "qilin_rag.llms.serving.engines:VLLM",
        "llamacpp": "qilin_rag.llms.serving.engines:LlamaCpp",
    },
)
RANKERS: Registry[Any] = Registry(
    "ranker",
    "qilin_rag.rankers.base:Ranker",
    {
        "random": "qilin_rag.rankers.simple:Random",
        "production": "qilin_rag.rankers.simple:Production",
        "bm25": "qilin_rag.rankers.bm25:BM25",
        "popularity": "qilin_rag.rankers.popularity:Popularity",
        "item-to-item": "qilin_rag.rankers.popularity:ItemToItem",
        "biencoder": "qilin_rag.rankers.biencoder:BiEncoder",
        "crossencoder": "qilin_rag.rankers.crossencoder:CrossEncoder",
        "dcn-v2": "qilin_rag.rankers.dcn_v2:DCNV2",
        "sasrec": "qilin_rag.rankers.sasrec:SASRec",
        "vlm": "qilin_rag.rankers.vlm:VLM",
        "pretrained": "qilin_rag.rankers.pretrained:Pretrained",
        "served": "qilin_rag.rankers.served:ServedReranker",
        "llm": "qilin_rag.rankers.listwise:LLMReranker",
    },
)
SCORERS: Registry[Any] = Registry(
    "metric",
    "qilin_rag.scorers.base:Scorer",
    {
        "rouge_l": "qilin_rag.scorers.rouge:RougeL",
        "rouge_1": "qilin_rag.scorers.rouge:Rouge1",
        "rouge_2": "qilin_rag.scorers.rouge:Rouge2",
        "bleu": "qilin_rag.scorers.overlap:Bleu",
        "chrf": "qilin_rag.scorers.overlap:ChrF",
        "bertscore": "qilin_rag.scorers.bertscore:BertScore",
        "contains": "qilin_rag.scorers.contains:Contains",
        "length_ratio": "qilin_rag.scorers.length:LengthRatio",
        "citations": "qilin_rag.scorers.citations:Citations",
        "refusal": "qilin_rag.scorers.refusal:RefusalRate",
        "retrieval": "qilin_rag.scorers.retrieval:Retrieval",
    },
)
HOOKS: Registry[Any] = Registry(
    "hook",
    "qilin_rag.pipeline.hooks.base:Hook",
    {
        "mlflow": "qilin_rag.pipeline.hooks.mlflow:MLflow",
        "trackio": "qilin_rag.pipeline.hooks.trackio:Trackio",
        "wandb": "qilin_rag.pipeline.hooks.wandb:WandB",
    },
)
_REGISTRIES: tuple[Registry[Any], ...] = (RETRIEVERS, QUERIES, LLMS, ENGINES, RANKERS, SCORERS, HOOKS)


def describe(name: str, changes: Mapping[str, Any]) -> str:
    """Return a component's name with the settings that differ from those the name alone means."""
    return " ".join([name, *(f"{key}={value}" for key, value in changes.items())])
