"""Settings of reading request logs: facts that the data does not document, and that may differ in another data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import PositiveInt, ValidationError

from qilin_rag.config.overrides import parse_overrides
from qilin_rag.core.errors import UsageError, explain, unknown_name
from qilin_rag.core.types import Frozen


class LogSettings(Frozen):
    """Settings of reading the request tables."""

    search_shift_s: int = 8 * 3600
    """Seconds by which the timestamps of searches are ahead of true time. Qilin's look like Beijing's wall clock in
    UTC; its recommendations have true time. This is inferred, not documented: see `clock`."""
    session_gap_s: PositiveInt = 30 * 60
    """Seconds of a user's pause after which another session begins, by the rule of the paper's section 4.3."""
    position_zero: Literal["top", "unknown"] = "top"
    """Meaning of position 0: the result was above position 1, or its position is not known."""

    def changed(self) -> dict[str, Any]:
        """Return the settings that are not the defaults."""
        return self.model_dump(exclude_defaults=True)


def parse_log_settings(assignments: Iterable[str]) -> LogSettings:
    """Read `log.KEY=VALUE` assignments.

    Raises:
        UsageError: if a key or value is not one of `LogSettings`.
    """
    values = {}
    for path, value in parse_overrides(assignments):
        match path:
            case ["log", key] if key in LogSettings.model_fields:
                values[key] = value
            case _:
                names = [f"log.{name}" for name in LogSettings.model_fields]
                raise unknown_name("setting", ".".join(path), names)
    try:
        return LogSettings(**values)
    except ValidationError as error:
        raise UsageError(f"log: {explain(error, LogSettings)}") from error
