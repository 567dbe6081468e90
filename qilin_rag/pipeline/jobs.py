"""The questions to ask with their notes, of which later ones may be retrieved while earlier ones are asked."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from qilin_rag.core.types import Hit, Question
from qilin_rag.pipeline.clock import Clock

BLOCK = 1024
"""The number of questions that are retrieved at once while others are asked, so many that no server is faster."""


class Retrieved(NamedTuple):
    """The hits of a question that the data has a note for, and the number of hits that it has none for."""

    hits: list[Hit]
    n_missing: int = 0


class Coming(NamedTuple):
    """The hits that another thread retrieves for a question, in a block of questions."""

    block: Future[list[Retrieved]]
    place: int

    async def get(self) -> Retrieved:
        """Wait for it, while others ask.

        Raises:
            Exception: The error of the retrieval.
        """
        found = self.block.result() if self.block.done() else await asyncio.wrap_future(self.block)
        return found[self.place]


class Job(NamedTuple):
    """A question to ask, with the notes that were retrieved for it; `lost` says why it can't be asked."""

    question: Question
    found: Retrieved | Coming
    lost: str | None = None


Retrieve = Callable[[Sequence[Question]], list[Retrieved]]


class Jobs:
    """The jobs of a run, which can be walked through once; close them, so that nothing more is retrieved."""

    def __init__(self, questions: Sequence[Question], jobs: Generator[Job, None, None]) -> None:
        """Set the questions, and the job of each in the same order."""
        self.questions = questions
        self._jobs = jobs

    def __len__(self) -> int:
        return len(self.questions)

    def __iter__(self) -> Iterator[Job]:
        return self._jobs

    def close(self) -> None:
        """End the thread that retrieves ahead, here and now.

        Left to the garbage collector, it would be waited for at any time in any thread, such as one that is just
        beginning, while all others wait for this one.
        """
        self._jobs.close()

    @classmethod
    def retrieved(cls, questions: Sequence[Question], found: Sequence[Retrieved]) -> Jobs:
        """Return the jobs of questions whose notes are known."""
        return cls(questions, (Job(*each) for each in zip(questions, found, strict=True)))

    @classmethod
    def retrieved_ahead(cls, questions: Sequence[Question], first: int, retrieve: Retrieve, clock: Clock) -> Jobs:
        """Retrieve the first questions now, so that an error costs nothing, and the others a block ahead of the asking.

        Args:
            questions: The questions.
            first: The number of questions to retrieve now.
            retrieve: Returns what is found for some questions, which does not depend on the others. It is called by one
                other thread.
            clock: Counts the seconds of the first ones.
        """
        with clock.stage("retrieval"):
            found = retrieve(questions[:first])
        return cls(questions, _ahead(questions, found, retrieve))


def _ahead(questions: Sequence[Question], found: list[Retrieved], retrieve: Retrieve) -> Generator[Job, None, None]:
    """Yield the jobs; while those of a block are asked, the next block is retrieved."""
    context = contextvars.copy_context()
    with ThreadPoolExecutor(1) as thread:

        def submit(start: int) -> Future[list[Retrieved]]:
            return thread.submit(context.run, retrieve, questions[start : start + BLOCK])

        start = len(found)
        coming = submit(start)
        yield from (Job(*each) for each in zip(questions[:start], found, strict=True))
        while start < len(questions):
            block, coming = coming, submit(start + BLOCK)
            for place, question in enumerate(questions[start : start + BLOCK]):
                yield Job(question, Coming(block, place))
            start += BLOCK
