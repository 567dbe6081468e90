"""The group of `agreement`, whose first word may be a run: `agreement RUN...` is `agreement runs RUN...`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qilin_rag.cli.help import HelpGroup
from qilin_rag.core.errors import unknown_name

_DEFAULT = "runs"
_FOLDER = "--runs-dir"


class RunsGroup(HelpGroup):
    """A group of commands that takes runs, or options of `runs`, for the arguments of `runs`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse arguments; the command `runs` is put before a run and before an option of that command.

        Args:
            ctx: The context.
            args: The arguments after the name of the group.

        Raises:
            UsageError: if the first word is neither a command nor a run.
        """
        if args and args[0] not in self.commands and self._is_for_runs(ctx, args):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)

    def _is_for_runs(self, ctx: Any, args: Sequence[str]) -> bool:
        word = args[0]
        if word.startswith("-"):
            name = word.partition("=")[0]
            of_group, of_runs = (
                {option for each in command.get_params(ctx) for option in each.opts}
                for command in (self, self.commands[_DEFAULT])
            )
            return name not in of_group and name in of_runs
        if not _is_run(word, list(_folders(args))):
            raise unknown_name("command or run", word, self.commands, see="qilin-rag list runs")
        return True


def _is_run(word: str, folders: Sequence[Path]) -> bool:
    """Return whether a word means a run, or is a path, of which `runs` says what is wrong."""
    from qilin_rag.reports.finding import runs_meant

    path = Path(word)
    if path.is_file():
        return False
    return path.exists() or len(path.parts) > 1 or bool(runs_meant(path, folders))


def _folders(args: Sequence[str]) -> Iterator[Path]:
    """Yield the folders to look for runs in."""
    for place, word in enumerate(args):
        name, is_one_word, folder = word.partition("=")
        if name == _FOLDER and is_one_word:
            yield Path(folder)
        elif word == _FOLDER and place + 1 < len(args):
            yield Path(args[place + 1])
