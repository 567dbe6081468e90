"""Add up the samples of a run, one after another."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from qilin_rag.core.stats import query_clusters
from qilin_rag.core.types import Exchange, LeftOut, Repeats, Sample, Score, Status, Summary
from qilin_rag.pipeline.cost import Tally
from qilin_rag.scorers.summary import summarise_metrics
from qilin_rag.scorers.table import ScoreTable


class Totals:
    """The counts and sums of a run's samples for its summary; no sample is kept."""

    def __init__(
        self, repeats: Sequence[Sample] = (), samples: Iterable[Sample] = (), lines: Iterable[Exchange] = ()
    ) -> None:
        """Begin with the repeated answers, and add samples and lines.

        Args:
            repeats: The samples of repeated questions.
            samples: The last sample of each question, as for `add_sample`.
            lines: Every line that was ever written, as for `add_line`.
        """
        self._tally = Tally()
        self._n_lines, self._seconds = 0, array("d")
        self._ids: list[str] = []
        self._queries: list[str] = []
        self._counts: Counter[Status] = Counter()
        self._sums: Counter[str] = Counter()
        self._images: Counter[str] = Counter()
        self._doubts = Doubts()
        self._n_cut = Counter({True: 0, False: 0})
        self._repeats = repeats
        self._repeated = {repeat.question_id for repeat in repeats}
        self._first: dict[str, str] = {}
        for line in (*lines, *repeats):
            self.add_line(line)
        for sample in samples:
            self.add_sample(sample)

    @property
    def calls_s(self) -> float | None:
        """Return the sum of the seconds of all calls; None if nobody measured them."""
        return None if self._n_lines and not self._seconds else round(sum(self._seconds), 3)

    def add_line(self, line: Exchange) -> None:
        """Add what a call used."""
        self._tally.add(line)
        self._n_lines += 1
        if line.latency_s is not None:
            self._seconds.append(line.latency_s)

    def add_sample(self, sample: Sample) -> None:
        """Add the outcome of a question."""
        self._ids.append(sample.question_id)
        self._queries.append(sample.query)
        self._counts[sample.status] += 1
        self._doubts.add(sample)
        self._sums["lost"] += sample.is_lost
        self._sums["cached"] += sample.cached
        self._sums["not_in_data"] += sample.notes_missing
        self._n_cut[sample.usage.cached_tokens is not None] += sample.short_count
        if sample.status != "failed":
            if sample.notes_used is not None:
                self._sums["too_long"] += (sample.notes_given or 0) - sample.notes_used
            had_notes = (sample.notes_given or 0) + sample.notes_missing > 0
            self._sums["questions_without_notes"] += sample.notes_used == 0 and had_notes
            self._images.update(sample.images_left_out)
        if sample.question_id in self._repeated and sample.is_answered:
            self._first[sample.question_id] = sample.answer

    def summary(self, scores: Iterable[Iterable[Score]], seed: int = 0) -> Summary:
        """Return the summary of these groups of scores; see `scoring.summarise`."""
        table = ScoreTable(self._ids)
        for group in scores:
            if isinstance(group, ScoreTable) and group.ids == self._ids:
                table.columns.update(group.columns)
            else:
                table.add(group)
        complete = {metric: column for metric, column in table.columns.items() if column.is_complete}
        taken = self._tally
        return Summary(
            metrics=summarise_metrics(complete, query_clusters(self._queries), seed),
            counts={"questions": len(self._ids)} | {status: self._counts[status] for status in get_args(Status)},
            lost=self._sums["lost"],
            **self._doubts.fields,
            cached=self._sums["cached"],
            left_out=LeftOut(
                not_in_data=self._sums["not_in_data"],
                too_long=self._sums["too_long"],
                questions_without_notes=self._sums["questions_without_notes"],
                cut_by_server=self._n_cut[True] + (self._n_cut[False] if taken.has_limit else 0),
                images=dict(sorted(self._images.items())),
            ),
            retries=taken.retries,
            usage=taken.usage,
            batch_usage=taken.batch_usage,
            uncounted=taken.uncounted,
            repeats=_compare_repeats(self._first, self._repeats),
        )


class Doubts:
    """Counts why replies were empty, and which answers are doubtful."""

    def __init__(self) -> None:
        """Begin without a line."""
        self._why_empty: Counter[str] = Counter()
        self._marks: Counter[Any] = Counter()
        self._odd_endings: Counter[str] = Counter()

    def add(self, line: Exchange) -> None:
        """Count one more line."""
        if line.status == "empty":
            self._why_empty[line.error or "not known"] += 1
        self._marks.update(line.marks)
        if "odd_ending" in line.marks:
            self._odd_endings[line.finish_reason or ""] += 1

    @property
    def fields(self) -> dict[str, Any]:
        """Return the fields of a summary that say it."""
        counted = {"why_empty": self._why_empty, "marks": self._marks, "odd_endings": self._odd_endings}
        return {name: dict(sorted(counts.items())) for name, counts in counted.items()}


def doubts_of(lines: Iterable[Exchange]) -> dict[str, Any]:
    """Return the fields of a summary that say why replies were empty, and which answers are doubtful."""
    doubts = Doubts()
    for line in lines:
        doubts.add(line)
    return doubts.fields


def _compare_repeats(first: dict[str, str], repeats: Iterable[Sample]) -> Repeats | None:
    """Count the answers that changed among the questions repeated most often; None if nothing was repeated.

    Args:
        first: The first answer of each of these questions that has one.
        repeats: The samples of repeated questions.
    """
    again: dict[str, list[str]] = {}
    for repeat in repeats:
        if repeat.is_answered and repeat.question_id in first:
            again.setdefault(repeat.question_id, []).append(repeat.answer)
    if not again:
        return None
    times = max(map(len, again.values()))
    complete = {question_id: answers for question_id, answers in again.items() if len(answers) == times}
    changed = sum(any(answer != first[question_id] for answer in answers) for question_id, answers in complete.items())
    share = changed / len(complete)
    return Repeats(times=1 + times, questions=len(complete), changed=changed, share_changed=share)
