"""Cut answers into sentences with citations, within the limits of a TREC RAG track."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import NonNegativeInt, StringConstraints

from qilin_rag.core.cited_sentences import cited_sentences
from qilin_rag.core.errors import UsageError
from qilin_rag.core.text import normalise, words
from qilin_rag.core.types import Frozen, Sample


class CitedSentence(Frozen):
    """A sentence, with the references that it cites."""

    text: Annotated[str, StringConstraints(pattern=r"^\S(.*\S)?$")]
    citations: list[NonNegativeInt]

    @property
    def n_words(self) -> int:
        """Return the number of words, as the track's check counts them."""
        return len(unicodedata.normalize("NFKC", self.text).split())


class TrackLimits(NamedTuple):
    """The limits of a track; None: it has none."""

    words: int
    references: int | None = None
    citations: int | None = None


class TopicAnswer(NamedTuple):
    """The sentences of an answer, and the notes that their citations count, from 0."""

    references: list[str]
    sentences: list[CitedSentence]

    @property
    def n_citations(self) -> int:
        """Return the number of citations."""
        return sum(len(sentence.citations) for sentence in self.sentences)


def topic_answer(path: Path, sample: Sample, limits: TrackLimits, remarks: Counter[str]) -> TopicAnswer:
    """Return an answer within the limits, without a sentence if none fits, and count what is dropped."""
    numbered = _prompt_notes(path, sample, remarks)
    notes = list(dict.fromkeys(numbered))  # an imported answer may count a note twice
    cited = [
        (text, [notes.index(numbered[n - 1]) + 1 if 1 <= n <= len(numbered) else n for n in its])
        for text, its in cited_sentences(sample.answer)
    ]
    numbers = [number for _, its in cited for number in its]
    given = _references(notes, numbers, limits.references)
    whole = [_sentence(text, its, given) for text, its in cited]
    kept = _within_limit([_with_few_citations(sentence, limits, remarks) for sentence in whole], limits.words)
    references = [str(notes[number - 1]) for number in given]
    if not kept:
        remarks[f"answers without a sentence of at most {limits.words} words are left out"] += 1
        return TopicAnswer(references, [])
    not_given = sum(not 1 <= number <= len(notes) for number in numbers)
    remarks["citations of notes that were not given are dropped"] += not_given
    if limits.references is not None:
        too_many = f"citations are dropped of answers that cite more than {limits.references} notes"
        remarks[too_many] += sum(number not in given for number in numbers) - not_given
    remarks[f"answers are cut to {limits.words} words"] += len(kept) < len(whole)
    is_long = sum(len(words(normalise(sentence.text))) for sentence in kept) > limits.words
    remarks[
        f"answers have more than {limits.words} words if Chinese is cut into words, as the track's check does not"
    ] += is_long
    return TopicAnswer(references, kept)


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


def _references(notes: Sequence[int], cited: Sequence[int], most: int | None) -> list[int]:
    """Return the notes that become references: all, or the first that are cited if there are too many."""
    numbers = range(1, len(notes) + 1)
    if most is not None and len(notes) > most:
        return [number for number in numbers if number in cited][:most]
    return list(numbers)


def _sentence(text: str, numbers: Sequence[int], given: Sequence[int]) -> CitedSentence:
    """Return a sentence with its citations as places in the references, without duplicates and unknown notes."""
    return CitedSentence(text=text, citations=[given.index(n) for n in dict.fromkeys(numbers) if n in given])


def _with_few_citations(sentence: CitedSentence, limits: TrackLimits, remarks: Counter[str]) -> CitedSentence:
    """Return a sentence with its first citations only, if the track reads no more."""
    if limits.citations is None or len(sentence.citations) <= limits.citations:
        return sentence
    remarks[f"citations are dropped of sentences with more than {limits.citations}"] += (
        len(sentence.citations) - limits.citations
    )
    return CitedSentence(text=sentence.text, citations=sentence.citations[: limits.citations])


def _within_limit(answer: Sequence[CitedSentence], most_words: int) -> list[CitedSentence]:
    """Drop sentences at the end until the answer is within the limit, as the track's check does."""
    kept = list(answer)
    while sum(sentence.n_words for sentence in kept) > most_words:
        kept.pop()
    return kept
