"""Nugget banks: for each question the facts that a good answer holds, in a file that people edit and other tools read.

A line of the file is a question, in the form of nuggetizer and AutoJudge, which pass over what they do not know. Each
line has the hash of its content: a line that was edited since its maker wrote it no longer fits its hash, and the bank
says so. The hash of the whole bank is in the signature of each figure that is made with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import as_lines, read_lines, write_text
from qilin_rag.core.hashing import json_hash
from qilin_rag.core.judged_answers import Nugget
from qilin_rag.core.text import query_key
from qilin_rag.core.types import Frozen, Question

T = TypeVar("T")


def _as_text(qid: Any) -> Any:
    return str(qid) if isinstance(qid, int) and not isinstance(qid, bool) else qid


class BankMaker(Frozen):
    """The maker of a bank: an LLM, and what it was asked.

    Attributes:
        llm: The name of the LLM.
        models: The model names that its server reported.
        settings: The hash of the LLM, its settings and the prompt.
        prompt: The hash of the prompt alone.
        sources: The texts that the nuggets are from: `answers`, or `answers and notes`.
        max_nuggets: The most nuggets of a question.
        question_set: The hash of the questions that the bank was made for.
    """

    llm: str
    models: list[str]
    settings: str
    prompt: str
    sources: str
    max_nuggets: int
    question_set: str


class BankedQuestion(Frozen):
    """A question with its nuggets: a line of a bank.

    Attributes:
        qid: The id of the question.
        query: Its text.
        nuggets: Its nuggets, in the order in which a judge is asked about them.
        made_by: The maker; null in a bank of other people's.
        sha256: The hash of the rest of the line, as its maker wrote it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    qid: Annotated[str, BeforeValidator(_as_text)]
    query: str
    nuggets: Annotated[list[Nugget], Field(min_length=1)]
    made_by: BankMaker | None = None
    sha256: str | None = None

    @property
    def content_sha256(self) -> str:
        """Return the hash of the line as it is now."""
        return json_hash(self.model_dump(mode="json", exclude={"sha256"}), sort_keys=True, ensure_ascii=False)

    @property
    def is_edited(self) -> bool:
        """Return whether the line was changed since its maker wrote it."""
        return self.made_by is not None and self.sha256 != self.content_sha256


class Bank(NamedTuple):
    """The nuggets of questions, by the id of the question."""

    questions: Mapping[str, BankedQuestion]

    @property
    def sha256(self) -> str:
        """Return the hash of the content; the order of the lines does not matter."""
        return json_hash(
            sorted(line.content_sha256 for line in self.questions.values()), sort_keys=False, ensure_ascii=False
        )

    @property
    def makers(self) -> list[BankMaker]:
        """Return the makers of the lines, each once."""
        return list({line.made_by.settings: line.made_by for line in self.questions.values() if line.made_by}.values())

    @property
    def maker(self) -> str:
        """Name the maker for people; `edited` if a line has changed since then, `unknown` if a line names none."""
        names = {line.made_by.llm if line.made_by else "unknown" for line in self.questions.values()}
        edited = {"edited"} if any(line.is_edited for line in self.questions.values()) else set()
        return " + ".join([*sorted(names), *edited])

    @property
    def prompts(self) -> str:
        """Return the beginnings of the hashes of the makers' prompts."""
        return "+".join(sorted({maker.prompt[:8] for maker in self.makers})) or "none"

    def check_questions(self, questions: Iterable[Question], path: Path) -> None:
        """Check that the bank in the file `path` is about these questions.

        Raises:
            UsageError: The bank has none of them, or another query under the same id.
        """
        shared = [question for question in questions if question.id in self.questions]
        if not shared:
            raise UsageError(f"bank {path} has none of the run's questions; make one of them: nuggets create RUN")
        for question in shared:
            if query_key(question.query) != query_key(self.questions[question.id].query):
                other = self.questions[question.id].query
                raise UsageError(
                    f"bank {path}: question {question.id} is {other!r} there and {question.query!r} in the run; "
                    "name the bank of the run's data (--bank)"
                )


def read_bank(path: Path) -> Bank:
    """Read a bank.

    Raises:
        UsageError: The file does not exist, or a line of it is not a question with nuggets.
    """
    if not path.is_file():
        raise UsageError(f"bank {path} is not a file; nuggets create RUN makes one")
    questions: dict[str, BankedQuestion] = {}
    for line in read_lines(path, BankedQuestion):
        if line.qid in questions:
            raise UsageError(f"bank {path} has question {line.qid} twice; remove one of the lines")
        questions[line.qid] = line
    if not questions:
        raise UsageError(f"bank {path} is empty; nuggets create RUN makes one")
    return Bank(questions)


def write_bank(folder: Path, lines: Iterable[BankedQuestion]) -> Path:
    """Write a bank into a file named after its hash, and return the path; each line gets the hash of its content."""
    signed = [line.model_copy(update={"sha256": line.content_sha256}) for line in lines]
    path = folder / f"bank-{Bank({line.qid: line for line in signed}).sha256[:8]}.jsonl"
    write_text(path, as_lines(signed))
    return path


def in_batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """Return the items in batches of this size; the last one has what is left."""
    return [items[start : start + size] for start in range(0, len(items), size)]
