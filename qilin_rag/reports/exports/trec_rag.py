"""Export a run in the answer format of the TREC RAG track of 2024: a JSON object for each topic, one a line.

The format is that of the 2024 track as Ragnarök writes it (Pradeep et al. 2024, arXiv:2406.16828; pyragnarok's
docs/rag24.md). The constraints are those of the track's guidelines and of Ragnarök's check_trec_rag24_gen: at most 20
references without duplicates; citations are places in that list, from 0; at most 400 words. The check counts words
between white space, after NFKC, so that a Chinese sentence is one word; `response_length` is this count. The check
accepts only MS MARCO's document ids as references; ours are the numbers of notes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, StringConstraints, model_validator

from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import write_text
from qilin_rag.core.trec import trec_id
from qilin_rag.core.types import Frozen, Sample
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.exports.base import Exported, ExportFormat
from qilin_rag.reports.exports.trec_topics import CitedSentence, TrackLimits, topic_answer

MOST_REFERENCES = 20
MOST_WORDS = 400
_LIMITS = TrackLimits(words=MOST_WORDS, references=MOST_REFERENCES)
Name = Annotated[str, StringConstraints(pattern=r"^\S+$")]


class TrecRagAnswer(Frozen):
    """One topic: a line of the file. The check only warns of a topic without an answer."""

    run_id: Name
    topic_id: Name
    topic: str
    references: Annotated[list[Name], Field(max_length=MOST_REFERENCES)]
    response_length: Annotated[NonNegativeInt, Field(le=MOST_WORDS)]
    answer: Annotated[list[CitedSentence], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(set(self.references)) < len(self.references):
            raise ValueError("a document is named twice in references")
        for sentence in self.answer:
            if len(set(sentence.citations)) < len(sentence.citations):
                raise ValueError("a sentence cites a document twice")
            if any(citation >= len(self.references) for citation in sentence.citations):
                raise ValueError("a citation is not a place in references")
        if self.response_length != sum(sentence.n_words for sentence in self.answer):
            raise ValueError("response_length is not the number of words of the answer")
        return self


class TrecRag2024(ExportFormat):
    """Export the answers of a run, and count what is dropped."""

    def write(self, runs: Sequence[RunDirectory], out: Path) -> Exported:
        """Write a line for each answered question to the file `out`.

        Raises:
            UsageError: The run has no answer to export.
        """
        [directory] = runs
        path = directory.path
        samples = directory.read_samples_of(directory.read_questions()).values()
        remarks: Counter[str] = Counter()
        run_id = trec_id(path.resolve().name)
        found = [_answer(path, run_id, sample, remarks) for sample in samples]
        lines = [line for line in found if line is not None]
        if not lines:
            raise UsageError(f"{path} has no answer to export")
        write_text(out, "".join(f"{line.model_dump_json()}\n" for line in lines))
        n_citations = sum(len(sentence.citations) for line in lines for sentence in line.answer)
        counts = {"topics": len(lines), "citations": n_citations}
        return Exported(counts, {remark: n for remark, n in sorted(remarks.items()) if n})


def _answer(path: Path, run_id: str, sample: Sample, remarks: Counter[str]) -> TrecRagAnswer | None:
    """Return the line of one question; None if it has no answer."""
    if not sample.is_answered:
        remarks[f"{sample.why_unanswered} questions have no line"] += 1
        return None
    references, sentences = topic_answer(path, sample, _LIMITS, remarks)
    if not sentences:
        return None
    return TrecRagAnswer(
        run_id=run_id,
        topic_id=trec_id(sample.question_id),
        topic=" ".join(sample.query.split()),
        references=references,
        response_length=sum(sentence.n_words for sentence in sentences),
        answer=sentences,
    )
