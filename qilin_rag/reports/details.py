"""Read of a run what only some tables need: how long its calls took, and which notes it retrieved."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

from qilin_rag.core.errors import UsageError
from qilin_rag.core.hashing import json_hash
from qilin_rag.core.plain_files import open_plain
from qilin_rag.core.trec import trec_id, trec_of
from qilin_rag.core.types import Hit, Question
from qilin_rag.pipeline.run_directory import SAMPLES, TREC_RUN, Manifest, RunDirectory
from qilin_rag.reports.kept_run import KeptPart
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
        part = KeptPart(self._directory.path, "calls", [SAMPLES], repr(self._manifest))
        if (content := part.read()) is not None:
            asked_before, latency = json.loads(content)
            return (
                asked_before and FirstAsked.model_validate(asked_before),
                latency and Latency.model_validate(latency),
            )
        calls = read_calls(self._directory)
        found = first_asked(calls, self._manifest), latency_of(calls)
        if calls:  # else the file may be damaged, which the log reports each time
            part.keep(json.dumps([each and each.model_dump(mode="json") for each in found]).encode())
        return found

    @cached_property
    def hits(self) -> Hits:
        """Return the notes of each question: from run.trec, which is small, if the run has one.

        Raises:
            UsageError: if they can't be read.
        """
        part = KeptPart(self._directory.path, "hits", [TREC_RUN, SAMPLES], self._manifest.state, *self._questions)
        if (content := part.read()) is not None:
            digest, _, hits = content.partition(b"\n")
            return self._once(digest.decode(), lambda: json.loads(hits))
        try:
            digest_now, found = self._hits_of_trec()
        except (OSError, UsageError):
            samples = self._directory.read_samples_of(self._questions.values())
            found = {question_id: _numbers(sample.hits) for question_id, sample in samples.items()}
            digest_now = json_hash(found, sort_keys=False, ensure_ascii=True)
        part.keep(f"{digest_now}\n{json.dumps(found)}".encode())
        return found

    def _once(self, digest: str, make: Callable[[], Hits]) -> Hits:
        """Return the hits that other runs have under this hash, else make them and share them."""
        if digest not in self._shared_hits:
            self._shared_hits[digest] = make()
        return self._shared_hits[digest]

    @property
    def known_hits(self) -> Hits | None:
        """Return `hits` if they were asked for before."""
        return vars(self).get("hits")

    def _hits_of_trec(self) -> tuple[str, Hits]:
        """Return the hits of run.trec, and the hash of the file without the name of the run."""
        path = self._directory.path / TREC_RUN
        if self._manifest.state != "complete":
            raise UsageError(f"{path} is not of all questions")
        with open_plain(path) as file:
            content = file.read(_MOST_TREC_BYTES + 1)
        if len(content) > _MOST_TREC_BYTES:
            raise UsageError(f"{path} is too large")
        tag = trec_id(self._directory.path.resolve().name)
        digest = hashlib.sha256(content.replace(f" {tag}\n".encode(errors="surrogateescape"), b"\n")).hexdigest()
        return digest, self._once(digest, lambda: self._parsed(path, content))

    def _parsed(self, path: Path, content: bytes) -> Hits:
        found = trec_of(path, io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig"))
        return {question_id: _numbers(found.get(trec_id(question_id), [])) for question_id in self._questions}


def _numbers(hits: Iterable[Hit]) -> list[int]:
    return [hit.note_idx for hit in hits]
