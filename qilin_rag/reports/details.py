"""Read of a run what only some tables need: how long its calls took, and which notes it retrieved."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from functools import cached_property

from qilin_rag.core.errors import UsageError
from qilin_rag.core.plain_files import open_plain
from qilin_rag.core.trec import trec_id, trec_of
from qilin_rag.core.types import Hit, Question
from qilin_rag.pipeline.run_directory import TREC_RUN, Manifest, RunDirectory
from qilin_rag.reports.took import FirstAsked, Latency, first_asked, latency_of, read_calls

Hits = dict[str, list[int]]
"""The note_idx of the notes of each question, best first."""
_MOST_TREC_BYTES = 256 << 20


class Details:
    """The files of a run that are long, each read when it is first asked for.

    Args:
        directory: The run.
        manifest: Its manifest.
        questions: Its questions by id.
    """

    def __init__(self, directory: RunDirectory, manifest: Manifest, questions: dict[str, Question]) -> None:
        self._directory, self._manifest, self._questions = directory, manifest, questions
        self._shared_hits: dict[str, Hits] = {}

    def share(self, shared_hits: dict[str, Hits]) -> None:
        """Share equal hits with other runs.

        Args:
            shared_hits: The hits of other runs by the hash of the file they were read from.
        """
        self._shared_hits = shared_hits

    @cached_property
    def calls(self) -> tuple[FirstAsked | None, Latency | None]:
        """Return what cached answers used at first, and the seconds of the calls."""
        calls = read_calls(self._directory)
        return first_asked(calls, self._manifest), latency_of(calls)

    @cached_property
    def hits(self) -> Hits:
        """Return the notes of each question: from run.trec, which is small, if the run has one.

        Raises:
            UsageError: if they can't be read.
        """
        try:
            return self._hits_of_trec()
        except (OSError, UsageError):
            samples = self._directory.read_samples_of(self._questions.values())
            return {question_id: _numbers(sample.hits) for question_id, sample in samples.items()}

    @property
    def known_hits(self) -> Hits | None:
        """Return `hits` if they were asked for before."""
        return vars(self).get("hits")

    def _hits_of_trec(self) -> Hits:
        path = self._directory.path / TREC_RUN
        if self._manifest.state != "complete":
            raise UsageError(f"{path} is not of all questions")
        with open_plain(path) as file:
            content = file.read(_MOST_TREC_BYTES + 1)
        if len(content) > _MOST_TREC_BYTES:
            raise UsageError(f"{path} is too large")
        tag = trec_id(self._directory.path.resolve().name)
        digest = hashlib.sha256(content.replace(f" {tag}\n".encode(errors="surrogateescape"), b"\n")).hexdigest()
        if (shared := self._shared_hits.get(digest)) is not None:
            return shared
        text = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig")
        found = trec_of(path, text)
        hits = {question_id: _numbers(found.get(trec_id(question_id), [])) for question_id in self._questions}
        return self._shared_hits.setdefault(digest, hits)


def _numbers(hits: Iterable[Hit]) -> list[int]:
    return [hit.note_idx for hit in hits]
