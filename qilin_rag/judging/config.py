"""Configure a judge or a filter: the LLM, and how it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import PositiveInt, model_validator

from qilin_rag.config.run import LLMConfig, build_llm, check_batch
from qilin_rag.config.spec import AskSettings, resolve_spec
from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Frozen


class JudgeConfig(LLMConfig):
    """An LLM that judges. `limit` and `seed` choose what it judges; `runs_dir` keeps comparisons."""

    @model_validator(mode="after")
    def _check_llm(self) -> JudgeConfig:
        if not self.llm.takes_tokens:
            raise UsageError(f"llm {self.llm_label} can't judge: it reads no instructions; name another with --llm")
        check_batch(self)
        return self


class PartSettings(Frozen):
    """Settings of a judge that takes answers apart, into claims or sentences.

    Attributes:
        per_call: The most claims or sentences that are shown at once.
        language: The language of the prompts: zh or en.
        controls: Whether to judge controls as well (see `answer_controls` and `support_controls`).
        data: The data with the notes of the prompts; None takes the data that the run names.
    """

    per_call: PositiveInt = 10
    language: str = "zh"
    controls: bool = False
    data: str | None = None


def resolve_judge(flags: Mapping[str, Any], overrides: Iterable[str] = (), command: str = "judge") -> JudgeConfig:
    """Build the judge that flags and assignments name.

    Args:
        flags: `llm` (a component or its name), `base_url`, and settings of a `JudgeConfig`; None means not given.
        overrides: Assignments such as `llm.temperature=0.2`.
        command: The name of the command, for messages.

    Raises:
        UsageError: A setting is unknown or wrong, or the LLM reads no instructions.
    """
    overrides = list(overrides)
    if other := next((each for each in overrides if not each.startswith("llm.")), None):
        raise UsageError(f"--set {other}: {command} only takes llm.KEY=VALUE")
    known = {"llm", "base_url", "stream", *AskSettings.model_fields}
    if unknown := sorted(flags.keys() - known):
        raise UsageError(f"{unknown[0]} is not a setting of {command}")
    spec = resolve_spec(flags, overrides, command=command)
    plain = {name: getattr(spec, name) for name in AskSettings.model_fields}
    return JudgeConfig(**plain, llm=build_llm(spec))
