"""A program of an engine that we start: below a keeper, with a log, and with the reason if it ends on its own.

The keeper (keeper.py) ends the program with all its processes however we end.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from qilin_rag.core.cache import in_use
from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import open_new
from qilin_rag.core.text import clean
from qilin_rag.llms.base import FatalLLMError
from qilin_rag.llms.serving.engines import Engine

logger = logging.getLogger(__name__)
STOP_MARGIN_S = 10.0
TAIL_BYTES = 1 << 16
_REASON_LINES = 3
_LINE_CHARS = 240

# A line in which Python, or a command line, reports an error, after vLLM's prefix of every line.
_ERROR = re.compile(r"(?:^|[\])] )(?=[\w.]*(?:Error|Exception): \S|[\w.]+: error: \S)")


class EngineProcess:
    """A program of an engine, which ends with all its processes when `stop` is called, or when we end.

    Args:
        engine: The engine.
        log: The file for the program's output, made anew.

    Raises:
        UsageError: if programs can't be kept on this system.
    """

    def __init__(self, engine: Engine, log: Path) -> None:
        """Set the program without starting it."""
        if os.name != "posix":
            raise UsageError(
                "servers can be started on Linux and macOS only; start one elsewhere and set base_url (--base-url)"
            )
        self.engine, self.log = engine, log
        self._keeper: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str]) -> None:
        """Start the program.

        Raises:
            UsageError: if its log can't be written.
        """
        keeper = Path(__file__).with_name("keeper.py")
        logger.info("starting %s, log: %s", self.engine.title, self.log)
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with open_new(self.log, "wb") as log:
                in_use(self.log, by=self)
                self._keeper = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(keeper), str(self.engine.stop_timeout_s), *command],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self.engine.variables(),
                    start_new_session=True,  # Ctrl-C must reach us only
                )
        except OSError as error:
            self.stop()
            raise UsageError(f"the server's log {self.log} can't be written: {error.strerror}") from error

    @property
    def has_ended(self) -> bool:
        """Return whether the program has ended."""
        return self._keeper is None or self._keeper.poll() is not None

    @property
    def has_succeeded(self) -> bool:
        """Return whether the program has ended with exit code 0."""
        return self._keeper is not None and self._keeper.poll() == 0

    def ended_error(self, when: str) -> FatalLLMError:
        """Return how the program ended, with the reason from its log."""
        code = self._keeper.returncode if self._keeper else 0
        how = f"was killed by {signal.Signals(code - 128).name}" if code > 128 else f"ended with exit code {code}"
        hint = " (out of memory?)" if code == 128 + signal.SIGKILL else ""
        return FatalLLMError(f"{self.engine.title} {how}{hint} {when}: {self.reason()}; its whole log: {self.log}")

    def stop(self) -> None:
        """End the program and all its processes; kill those that do not end when asked."""
        if self._keeper is None:
            return
        keeper = self._keeper
        if keeper.poll() is None:
            keeper.send_signal(signal.SIGTERM)
        if keeper.stdin:
            keeper.stdin.close()
        try:
            keeper.wait(self.engine.stop_timeout_s + STOP_MARGIN_S)
        except subprocess.TimeoutExpired:
            keeper.kill()
            logger.warning("the processes below %d of %s did not end", keeper.pid, self.engine.title)
        self._keeper = None

    def last_line(self) -> str:
        """Return the end of the log's last line."""
        lines = log_lines(self.log)
        return lines[-1][-_LINE_CHARS:] if lines else "(nothing in its log yet)"

    def reason(self) -> str:
        """Return the first error at the end of the log, from which others follow, with its next lines.

        Without an error, return the last lines.
        """
        lines = log_lines(self.log)
        for number, line in enumerate(lines):
            if match := _ERROR.search(line):
                told = [line[match.end() :], *lines[number + 1 : number + _REASON_LINES]]
                break
        else:
            told = lines[-_REASON_LINES:]
        return " | ".join(line[:_LINE_CHARS] for line in told) or "its log is empty"


def check_context(engine: Engine, context_length: int | None) -> None:
    """Raise a UsageError if requests may be longer than what the engine reads."""
    if context_length and engine.max_model_len and engine.max_model_len < context_length:
        raise UsageError(
            f"llm.context_length ({context_length}) is more than the server's llm.engine.max_model_len "
            f"({engine.max_model_len}); set both: --set llm.context_length={engine.max_model_len}"
        )


def log_lines(log: Path) -> list[str]:
    """Return the last lines of a log that are not empty, as plain text."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    plain = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", clean(text)).replace("\r", "\n")
    return [line.strip() for line in plain.split("\n") if line.strip()]
