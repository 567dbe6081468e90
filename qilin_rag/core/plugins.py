"""Objects of third-party code, named `package.module:name`: imported, created, and kept free of secrets in records."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from qilin_rag.core.errors import UsageError

T = TypeVar("T")
_SECRET_NAME = re.compile(
    r"(api|access|private|auth|account|subscription)_?key(_id)?$|^token$|(api|access|auth|bearer|hub|session)_?token$"
    r"|passw|secret|(^|_)(credentials?|authorization)$"
)
_SECRET_VALUE = re.compile(r"^(Bearer |Basic |sk-)|^[a-z+]+://([^/@]*@|[^?]*\?)", re.IGNORECASE)
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)$", re.IGNORECASE)
_SHORTEST_SECRET = 8
_MOST_CHARS = 300  # characters of an error message


def import_object(path: str, what: str, own: bool = True) -> Any:
    """Return the object that `package.module:name` names; None if the module has no such name.

    Args:
        path: The name of the object.
        what: The thing that is named so, for the error.
        own: Whether the module may be in the user's working directory.

    Raises:
        UsageError: if the module can't be imported.
    """
    module_name, _, name = path.partition(":")
    if own and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise UsageError(f"{what} can't be imported: {type(error).__name__}: {error}") from error
    return getattr(module, name, None)


def make_object(
    path: str, what: str, kind: type[T], settings: Mapping[str, Any], offered: Mapping[str, Any] | None = None
) -> T:
    """Return the `kind` that `package.module:name` names, or that it returns when it is called.

    Args:
        path: The name of the object, class or function.
        what: The thing that is named so, for the error.
        kind: The type that is expected.
        settings: Arguments of the call.
        offered: More arguments, each passed only if the callable has a parameter of this name.

    Raises:
        UsageError: if the object can't be made, or is of another type.
    """
    candidate = import_object(path, what)
    if isinstance(candidate, kind):
        if settings:
            raise UsageError(f"{what}: {path} is an object, which takes no settings; name a function that makes it")
        return candidate
    if not callable(candidate):
        module, _, name = path.partition(":")
        raise UsageError(f"{what}: {module} has no {kind.__name__}, and no function that makes one, called {name!r}")
    accepted = parameters(candidate)
    extra = {name: value for name, value in (offered or {}).items() if name in accepted}
    try:
        result = candidate(**{**extra, **settings})
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{what}: {path} failed: {one_line(error)}") from error
    if not isinstance(result, kind):
        raise UsageError(f"{what}: {path} makes a {type(result).__name__}, not a {kind.__name__}")
    return result


def parameters(made_by: Callable[..., Any]) -> set[str]:
    """Return the parameter names of a callable; for a pydantic class its fields and their aliases."""
    fields = getattr(made_by, "model_fields", None)
    if isinstance(fields, Mapping):
        return {*fields, *(name for field in fields.values() for name in _aliases(field))}
    try:
        return set(inspect.signature(made_by).parameters)
    except (TypeError, ValueError):  # a callable written in C
        return set()


def _aliases(field: Any) -> list[str]:
    names = [field.alias, *getattr(field.validation_alias, "choices", [field.validation_alias])]
    return [name for name in names if isinstance(name, str)]


def source_hash(*module_names: str) -> dict[str, str]:
    """Return the hash of these modules' files: users edit their code, while our components have versions."""
    theirs = [name for name in module_names if not name.startswith("qilin_rag.")]
    sources = [getattr(sys.modules.get(name), "__file__", None) for name in theirs]
    contents = b"".join(Path(source).read_bytes() for source in sources if source)
    return {"source_sha256": hashlib.sha256(contents).hexdigest()} if contents else {}


def refuse_secrets(settings: Mapping[str, Any], what: str) -> None:
    """Check that settings hold no key or password, because settings are stored with every run.

    Raises:
        UsageError: if a setting looks like a key or a password.
    """
    for name, value in _flat(settings):
        if holds_secret(name, value):
            raise UsageError(
                f"{what}: the setting {name!r} seems to hold a key, and settings are stored with every run; "
                "set the environment variable that its package reads instead"
            )


def holds_secret(name: str, value: Any) -> bool:
    """Return whether a setting, by its name (which may be dotted) or its plain value, is a key or a password."""
    is_secret = isinstance(value, str) and (_SECRET_VALUE.search(value) or redacted(value) != value)
    return bool(is_secret) or is_secret_name(name.rpartition(".")[2])


def is_secret_name(name: str) -> bool:
    """Return whether a setting or variable of this name is a key or a password."""
    return _SECRET_NAME.search(name.lower().replace("-", "_")) is not None


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield all names and plain values, at every depth."""
    for name, value in settings.items():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Mapping):
                yield from _flat(each)
            else:
                yield str(name), each


def one_line(error: BaseException) -> str:
    """Return an error of third-party code as one line: its type and its text, without keys."""
    said = " ".join(redacted(str(error)).split())[:_MOST_CHARS]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def redacted(text: str) -> str:
    """Return the text without the keys and passwords in this process's environment."""
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value.strip()) >= _SHORTEST_SECRET:
            text = text.replace(value.strip(), "***")
    return text
