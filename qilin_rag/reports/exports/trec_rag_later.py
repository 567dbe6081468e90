"""Export a run in the answer formats of the TREC RAG tracks of 2025 and 2026: a JSON object for each topic, one a line.

The formats and their limits are those of the specifications `rag25` and `rag26` of the tracks' autojudge-base, whose
verifiers the tests run. A line has `metadata`, `references` and `answer`. A question without an answer has an empty
one, since the verifiers want a line for each topic. They accept only the document ids of their collections; ours are
the numbers of notes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import StringConstraints, model_validator

from qilin_rag.core.cited_sentences import cited_sentences
from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import write_text
from qilin_rag.core.trec import trec_id
from qilin_rag.core.types import Frozen, Sample
from qilin_rag.pipeline.run_directory import Manifest, RunDirectory
from qilin_rag.reports.exports.base import Exported, ExportFormat
from qilin_rag.reports.exports.json_lines import as_json, without_addresses
from qilin_rag.reports.exports.trec_topics import CitedSentence, TopicAnswer, TrackLimits, topic_answer

_FINGERPRINT_CHARS = 8
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Short = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,19}$")]


class TrackLine(Frozen):
    """One topic: a line of the file. `metadata` names the run and the topic, `narrative` is the query."""

    metadata: dict[str, str]
    references: list[str]
    answer: list[CitedSentence]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(set(self.references)) < len(self.references):
            raise ValueError("a document is named twice in references")
        if any(citation >= len(self.references) for sentence in self.answer for citation in sentence.citations):
            raise ValueError("a citation is not a place in references")
        return self


class _TrackFormat(ExportFormat):
    """A format of a track; a year has its metadata and its limits."""

    limits: ClassVar[TrackLimits]

    team_id: Text = "qilin_rag"
    """Name of the team."""

    @abstractmethod
    def metadata(self, run: RunDirectory, manifest: Manifest) -> dict[str, str]:
        """Return the fields that say which run it is."""

    def write(self, runs: Sequence[RunDirectory], out: Path) -> Exported:
        """Write a line for each question to the file `out`.

        Raises:
            UsageError: The run has no answer to export.
        """
        [run] = runs
        samples = run.read_samples_of(run.read_questions()).values()
        remarks: Counter[str] = Counter()
        metadata = self.metadata(run, run.read_complete())
        lines = [self._line(run.path, metadata, sample, remarks) for sample in samples]
        if not any(line.answer for line in lines):
            raise UsageError(f"{run.path} has no answer to export")
        write_text(out, (f"{as_json(line.model_dump())}\n" for line in lines))
        n_citations = sum(len(sentence.citations) for line in lines for sentence in line.answer)
        counts = {"topics": len(lines), "citations": n_citations}
        return Exported(counts, {remark: n for remark, n in sorted(remarks.items()) if n})

    def _line(self, path: Path, metadata: dict[str, str], sample: Sample, remarks: Counter[str]) -> TrackLine:
        if sample.is_answered:
            found = topic_answer(path, sample, self.limits, remarks)
            worded = [sentence for sentence in found.sentences if cited_sentences(sentence.text)]
            remarks["sentences of punctuation alone are left out"] += len(found.sentences) - len(worded)
            found = TopicAnswer(found.references, worded)
        else:
            remarks[f"{sample.why_unanswered} questions have an empty answer"] += 1
            found = TopicAnswer([str(note) for note in dict.fromkeys(sample.known_prompt_notes or [])], [])
        most = self.limits.references
        return TrackLine(
            metadata={**metadata, "narrative_id": sample.question_id, "narrative": sample.query},
            references=found.references if found.sentences else found.references[:most],
            answer=found.sentences,
        )


class TrecRag2025(_TrackFormat):
    """The TREC RAG track of 2025: at most 100 references and 400 words."""

    limits: ClassVar[TrackLimits] = TrackLimits(words=400, references=100)

    run_id: Text | None = None
    """Name of the run. Default: that of its folder."""
    type: Literal["automatic", "manual"] = "automatic"
    """Whether people took part in the run."""

    def metadata(self, run: RunDirectory, manifest: Manifest) -> dict[str, str]:
        """Return team, run and type."""
        run_id = self.run_id or trec_id(run.path.resolve().name)
        return {"team_id": self.team_id, "run_id": run_id, "type": self.type}


class TrecRag2026(_TrackFormat):
    """The TREC RAG track of 2026: at most 1,024 words, and 3 citations a sentence."""

    limits: ClassVar[TrackLimits] = TrackLimits(words=1024, citations=3)

    run_id: Short | None = None
    """Name of the run: at most 20 letters, digits, `-`, `_` and `.`. Default: `qilin-rag-` and the fingerprint."""
    run_desc: Text | None = None
    """Description of the run. Default: its retriever, LLM and prompt."""

    def metadata(self, run: RunDirectory, manifest: Manifest) -> dict[str, str]:
        """Return team, run and its description."""
        labels: Any = manifest.labels
        described = ", ".join(f"{part}: {labels[part]}" for part in ("retriever", "llm", "prompt"))
        fingerprint = "".join(char for char in manifest.fingerprint if char.isascii() and char.isalnum())
        return {
            "team_id": self.team_id,
            "run_id": self.run_id or f"qilin-rag-{fingerprint[:_FINGERPRINT_CHARS]}",
            "run_desc": self.run_desc or without_addresses(described),
        }
