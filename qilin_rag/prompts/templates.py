"""Templates of prompts, rendered in Jinja's sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import jinja2
from jinja2 import meta
from pydantic import ValidationError

from qilin_rag.config.resources import read_yaml
from qilin_rag.core.errors import QilinError, UsageError, explain, unknown_name
from qilin_rag.core.hashing import json_hash
from qilin_rag.core.text import clean, estimate_tokens
from qilin_rag.core.types import Frozen, Message
from qilin_rag.prompts.sandbox import Sandbox

_ENVIRONMENT = Sandbox(undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)


class PromptTooLongError(QilinError):
    """The prompt exceeds the budget even without notes."""


class Templates(Frozen):
    """The content of a prompt's file: its `parts` are templates that use `variables`.

    `version` is for people; a prompt is identified by the hash of its templates.
    """

    parts: ClassVar[tuple[str, ...]]
    variables: ClassVar[tuple[str, ...]]

    name: str
    language: str
    description: str
    version: int = 1
    system: str = ""

    @property
    def sha256(self) -> str:
        """Return the hash of all templates: prompts with equal hashes are the same."""
        return json_hash([getattr(self, part) for part in self.parts], sort_keys=False, ensure_ascii=False)

    @cached_property
    def _templates(self) -> dict[str, jinja2.Template]:
        return {part: self._compile(part) for part in self.parts}

    def _compile(self, part: str) -> jinja2.Template:
        source: str = getattr(self, part)
        try:
            unknown = meta.find_undeclared_variables(_ENVIRONMENT.parse(source)) - set(self.variables)
            if unknown:
                raise UsageError(
                    f"prompt {self.name!r}, {part}: {unknown_name('variable', min(unknown), self.variables)}"
                )
            return _ENVIRONMENT.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UsageError(f"prompt {self.name!r}, {part}, line {error.lineno}: {error.message}") from error
        except (RecursionError, MemoryError, ValueError) as error:
            raise UsageError(f"prompt {self.name!r}, {part} can't be read: {type(error).__name__}") from error

    def _filled(self, part: str, values: Mapping[str, Any]) -> list[Message]:
        """Return the messages of the system template and of this part."""
        try:
            text, instruction = (
                clean(_ENVIRONMENT.fill(self._templates[name], values).strip()) for name in (part, "system")
            )
            user_messages: list[Message] = [{"role": "user", "content": text}]
        except Exception as error:  # a template may raise anything
            raise UsageError(f"prompt {self.name!r} can't be rendered: {error or type(error).__name__}") from error
        return [{"role": "system", "content": instruction}, *user_messages] if instruction else user_messages


def estimated_tokens(messages: Sequence[Message]) -> int:
    """Return a cautious estimate of the prompt's tokens (see `estimate_tokens`)."""
    return sum(estimate_tokens(message["content"]) for message in messages)


T = TypeVar("T", bound=Templates)


def read_templates(path: Path, kind: type[T]) -> T:
    """Return the templates in a file.

    Raises:
        UsageError: if the file can't be read, or its templates are not of this kind.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"prompt {path} is not a plain file")  # opening a pipe would wait forever
    content: dict[str, Any] = read_yaml(path)
    try:
        return kind(**{"name": path.stem, **content})
    except (ValidationError, TypeError) as error:
        detail = explain(error, kind) if isinstance(error, ValidationError) else error
        raise UsageError(f"prompt {path}: {detail}") from error
