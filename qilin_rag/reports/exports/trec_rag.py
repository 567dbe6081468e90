"""Export a run in the answer format of the TREC RAG track: a JSON object for each topic, one a line.

The format is that of the 2024 track as Ragnarök writes it (Pradeep et al. 2024, arXiv:2406.16828; pyragnarok's
docs/rag24.md). The constraints are those of the track's guidelines and of Ragnarök's check_trec_rag24_gen: at most 20
references without duplicates; citations are places in that list, from 0; at most 400 words. The check counts words
between white space, after NFKC, so that a Chinese sentence is one word; `response_length` is this count. The check
accepts only MS MARCO's document ids as references; ours are the numbers of notes.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, StringConstraints, model_validator

from qilin_rag.core.cited_sentences import cited_sentences
from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import write_text
from qilin_rag.core.text import normalise, words
from qilin_rag.core.trec import trec_id
from qilin_rag.core.types import Frozen, Sample
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.exports.base import Exported, ExportFormat

MOST_REFERENCES = 20
MOST_WORDS = 400
Name = Annotated[str, StringConstraints(pattern=r"^\S+$")]


class CitedSentence(Frozen):
    """A sentence, with the references that it cites."""

    text: Annotated[str, StringConstraints(pattern=r"^\S(.*\S)?$")]
    citations: list[NonNegativeInt]

    @property
    def n_words(self) -> int:
        """Return the number of words, as the track's check counts them."""
        return len(unicodedata.normalize("NFKC", self.text).split())


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
    numbered = _prompt_notes(path, sample, remarks)
    notes = list(dict.fromkeys(numbered))  # an imported answer may count a note twice
    cited = [
        (text, [notes.index(numbered[n - 1]) + 1 if 1 <= n <= len(numbered) else n for n in its])
        for text, its in cited_sentences(sample.answer)
    ]
    numbers = [number for _, its in cited for number in its]
    given = _references(notes, numbers)
    whole = [_sentence(text, its, given) for text, its in cited]
    kept = _within_limit(whole)
    if not kept:
        remarks[f"answers without a sentence of at most {MOST_WORDS} words have no line"] += 1
        return None
    not_given = sum(not 1 <= number <= len(notes) for number in numbers)
    remarks["citations of notes that were not given are dropped"] += not_given
    too_many = f"citations are dropped of answers that cite more than {MOST_REFERENCES} notes"
    remarks[too_many] += sum(number not in given for number in numbers) - not_given
    remarks[f"answers are cut to {MOST_WORDS} words"] += len(kept) < len(whole)
    is_long = sum(len(words(normalise(sentence.text))) for sentence in kept) > MOST_WORDS
    remarks[
        f"answers have more than {MOST_WORDS} words if Chinese is cut into words, as the track's check does not"
    ] += is_long
    return TrecRagAnswer(
        run_id=run_id,
        topic_id=trec_id(sample.question_id),
        topic=" ".join(sample.query.split()),
        references=[str(notes[number - 1]) for number in given],
        response_length=sum(sentence.n_words for sentence in kept),
        answer=kept,
    )


def _prompt_notes(path: Path, sample: Sample, remarks: Counter[str]) -> list[int]:
    """Return the notes of the prompt in order, so that citation i is the i-th; None if they are not known."""
    if sample.known_prompt_notes is None and not sample.has_known_hits:
        remarks["answers have no references: it is not known which notes were found"] += 1
        return []
    if sample.known_prompt_notes is None:
        raise UsageError(
            f"{path}, question {sample.question_id}: not recorded which notes the prompt held; the command that made "
            "the run asks again with --fresh"
        )
    return sample.known_prompt_notes


def _references(notes: Sequence[int], cited: Sequence[int]) -> list[int]:
    """Return the notes that become references: all, or the first that are cited if there are too many."""
    numbers = range(1, len(notes) + 1)
    if len(notes) > MOST_REFERENCES:
        return [number for number in numbers if number in cited][:MOST_REFERENCES]
    return list(numbers)


def _sentence(text: str, numbers: Sequence[int], given: Sequence[int]) -> CitedSentence:
    """Return a sentence with its citations as places in the references, without duplicates and unknown notes."""
    return CitedSentence(text=text, citations=[given.index(n) for n in dict.fromkeys(numbers) if n in given])


def _within_limit(answer: Sequence[CitedSentence]) -> list[CitedSentence]:
    """Drop sentences at the end until the answer is within the limit, as the track's check does."""
    kept = list(answer)
    while sum(sentence.n_words for sentence in kept) > MOST_WORDS:
        kept.pop()
    return kept
