"""Filter notes as the paper does (Table 1): an LLM says whether a note is unsafe; if in doubt, the note is kept.

There is one call for each note and prompt. A judgement is on disk as soon as it is made, under a hash of LLM, prompt
and note: the same command resumes, and a note that has changed is judged again. Only a readable True flags a note.
Memory holds the ids and hashes of the notes, and a byte for each note and prompt; texts are read when needed.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.config.resources import resource_names
from qilin_rag.core.errors import UsageError
from qilin_rag.core.files import read_lines, write_text
from qilin_rag.core.former import former
from qilin_rag.core.hashing import fingerprint
from qilin_rag.core.progress import stage
from qilin_rag.core.types import NO_TOKENS, Image, LeftOut, NoteJudgement, RenderedPrompt, SentImage, Summary
from qilin_rag.data.note_images import THREADS, NoteImages
from qilin_rag.data.notes import open_notes
from qilin_rag.data.source import open_source
from qilin_rag.judging.config import JudgeConfig
from qilin_rag.judging.docket import check_judged
from qilin_rag.judging.safety_labels import Agreement, SafetyLabel, agreements, read_labels, write_review
from qilin_rag.judging.safety_states import (
    UNCERTAIN,
    Board,
    FilterSummary,
    SafetyState,
    counts_of,
    flagged_and_kept,
    state_of,
    verdict_of,
)
from qilin_rag.pipeline.asking import Asked, Asking, Reply, as_line, ask_all, complete, opened
from qilin_rag.pipeline.ceilings import Progress, replies_under_ceiling
from qilin_rag.pipeline.cost import cost_of, spent_on
from qilin_rag.pipeline.forecast import Call, Plan, priced, spread
from qilin_rag.pipeline.identity import llm_identity, llm_label
from qilin_rag.pipeline.run_directory import JUDGEMENTS, RunDirectory
from qilin_rag.prompts.judge import load_safety_prompts
from qilin_rag.prompts.templates import PromptTooLongError, estimated_tokens

logger = logging.getLogger(__name__)
VERSION = 1  # of how notes are shown and verdicts read
IMAGE_TOKENS = 1_400  # our estimate for one: Qwen2-VL takes a token for 28 x 28 points
UNSAFE, SUMMARY, REVIEW = "unsafe.jsonl", "summary.json", "review.csv"
_AT_ONCE = 256
Slots = npt.NDArray[np.int64]


class Filtered(NamedTuple):
    """A finished filter: its folder, its summary, and its tokens."""

    path: Path
    summary: FilterSummary
    spent: Summary

    def check_failures(self, fail_on_error: float) -> None:
        """Raise a FailedSamplesError if too many replies failed or are empty."""
        counts = self.summary.by_prompt.values()
        failed = sum(each.failed + each.empty for each in counts)
        total = failed + sum(each.true + each.false + sum(each.uncertain.values()) for each in counts)
        check_judged(failed, total, self.path / JUDGEMENTS, fail_on_error, self._lost())

    def _lost(self) -> Iterator[NoteJudgement]:
        """Yield the lost judgements that no later one replaced."""
        lost: dict[str, NoteJudgement] = {}
        for line in read_lines(self.path / JUDGEMENTS, NoteJudgement, half_line_ok=True):
            lost.pop(line.key, None)
            if line.is_lost:
                lost[line.key] = line
        yield from lost.values()


class _Note:
    """A note that is judged; its prompts share its images, which are read once."""

    def __init__(self, slot: int, row: dict[str, Any], n_images: int) -> None:
        self.slot = slot
        self.note_idx: int = row["note_idx"]
        self.values: dict[str, str] = {"title": row["note_title"], "content": row["note_content"]}
        self.paths: list[str] = (row.get("image_path") or [])[:n_images]
        self.images: list[Image] | None = None
        self.reading = asyncio.Lock()
        self.left_out: Counter[str] = Counter()


class Filter:
    """A data set's notes, an LLM and prompts; `limit` and `seed` of `config` choose the notes."""

    def __init__(self, config: JudgeConfig, data: str, path: Path, names: Sequence[str] | None, n_images: int) -> None:
        """Set up the filter; nobody is asked yet, and nothing is written."""
        self.config, self.path, self.n_images = config, path, n_images
        self.llm = config.llm
        if n_images and not self.llm.sends_images:
            raise UsageError(f"llm {config.llm_label} can't be sent images here; leave out --images")
        prompts = load_safety_prompts(names)
        if names and not n_images and (blind := next((each for each in names if prompts[each].needs_images), None)):
            raise UsageError(f"prompt {blind} is about images: name how many of each note to send, --images N")
        self.prompts = {name: each for name, each in prompts.items() if n_images or not each.needs_images}
        self.names = list(self.prompts)
        source = open_source(data, ["notes"])
        self.label = source.label
        self.notes = open_notes(*source.files("notes"), source.folder)
        self._images = NoteImages(self.notes, advice="leave out --images") if n_images else None
        self._reading = asyncio.Semaphore(THREADS)
        shared = {**llm_identity(config), "version": VERSION, "images": n_images}
        identities = {name: {**shared, "prompt": each.sha256} for name, each in self.prompts.items()}
        self._sha256 = {name: fingerprint(identity) for name, identity in identities.items()}
        self._former_sha256 = {name: fingerprint(former(identity)) for name, identity in identities.items()}
        self.chosen = self._choose()
        is_other = not (path / JUDGEMENTS).exists() and any(path.glob("[!.]*.json*"))
        if is_other or (path / "manifest.json").exists() or (path.exists() and not path.is_dir()):
            raise UsageError(f"--out {path} is something else; name a new folder, or that of an earlier filter")

    def read(self, board: Board) -> Iterator[NoteJudgement]:
        """Yield the judgements on disk of these prompts and the present notes, and put each on the board."""
        lines = read_lines(self.path / JUDGEMENTS, NoteJudgement, half_line_ok=True)
        while batch := list(islice(lines, 16 * _AT_ONCE)):
            note_idxs = [line.note_idx for line in batch]
            gone = set(self.notes.missing(note_idxs))
            there = [line for line in batch if line.note_idx not in gone]
            slots = self.notes.slots([line.note_idx for line in there]).tolist()
            for line, slot in zip(there, slots, strict=True):
                if line.prompt in self.prompts and self._is_key(line.key, slot, line.prompt):
                    board[slot, self.names.index(line.prompt)] = state_of(line)
                    yield line

    def new_board(self) -> Board:
        """Return a board on which only the chosen notes without images are known, for prompts that need images."""
        board = np.zeros((len(self.notes), len(self.names)), np.uint8)
        if blind := [i for i, prompt in enumerate(self.prompts.values()) if prompt.needs_images]:
            for slots in self._groups(self.chosen):
                paths = self.notes.read(self.notes.note_idxs[slots], ["image_path"])["image_path"].to_pylist()
                without = slots[[not each for each in paths]]
                board[np.ix_(without, np.array(blind))] = SafetyState.NO_IMAGES
        return board

    def ask(self, board: Board, directory: RunDirectory) -> None:
        """Ask about the chosen notes that have no judgement."""
        n_left = int((board[self.chosen] <= SafetyState.REFUSED).sum())
        if not n_left:
            return

        def progress() -> Progress:
            for _ in self.read(board):
                pass
            n_unjudged = int((board[self.chosen] <= SafetyState.REFUSED).sum())
            n_judged = int((board[self.chosen] != SafetyState.NO_IMAGES).sum()) - n_unjudged
            return Progress(n_judged, n_unjudged)

        with (
            replies_under_ceiling(self.config, directory.path / JUDGEMENTS, self._replies, progress),
            opened(self.config, directory.path / "filter-server.log") as asking,
            stage("judging", n_left) as advance,
        ):
            ask_all(asking, self.pending(board), lambda job: self._ask(asking, *job), directory, advance, JUDGEMENTS)

    def _replies(self) -> Iterator[NoteJudgement]:
        return read_lines(self.path / JUDGEMENTS, NoteJudgement, half_line_ok=True)

    def pending(self, board: Board) -> Iterator[tuple[_Note, str]]:
        """Yield each chosen note with each prompt that has not judged it."""
        columns = ["note_idx", "note_title", "note_content", *(["image_path"] if self.n_images else [])]
        for group in self._groups(self.chosen):
            slots = group[(board[group] <= SafetyState.REFUSED).any(axis=1)]
            rows = self.notes.read(self.notes.note_idxs[slots], columns).to_pylist()
            for slot, row in zip(slots.tolist(), rows, strict=True):
                note = _Note(slot, row, self.n_images)
                yield from ((note, self.names[i]) for i in np.flatnonzero(board[slot] <= SafetyState.REFUSED).tolist())

    def render(self, note: _Note, name: str, n_images: int) -> RenderedPrompt:
        """Render the prompt of a note without its images; raise a PromptTooLongError if both don't fit together."""
        budget = self.llm.prompt_budget
        return self.prompts[name].render(note.values, None if budget is None else budget - n_images * IMAGE_TOKENS)

    async def _ask(self, asking: Asking, note: _Note, name: str) -> Asked[NoteJudgement]:
        images = await self._images_of(note)
        line: dict[str, Any] = {
            "note_idx": note.note_idx,
            "prompt": name,
            "key": self._key(note.slot, name),
            "images": [SentImage(path=image.path, sha256=image.sha256) for image in images],
            "images_left_out": dict(note.left_out),
        }
        if self.prompts[name].needs_images and not images:
            unread = UNCERTAIN[SafetyState.IMAGES_UNREADABLE]
            unasked = NoteJudgement(
                **line, status="ok", verdict="uncertain", answer="", raw="", usage=NO_TOKENS, error=unread
            )
            return Asked(unasked)

        async def reply() -> Reply:
            prompt = self.render(note, name, len(images))
            return await complete(asking, prompt._replace(images=images))

        asked = await as_line(NoteJudgement, line, reply)
        return asked._replace(line=asked.line.model_copy(update={"verdict": verdict_of(asked.line)}))

    async def _images_of(self, note: _Note) -> list[Image]:
        """Read a note's images in a thread, once; those of few notes at the same time, so that memory is bounded."""
        if self._images is None:
            return []
        async with note.reading, self._reading:
            if note.images is None:
                note.images, note.left_out = await asyncio.to_thread(self._images.read_all, note.paths)
            return note.images or []

    def _choose(self) -> Slots:
        """Return all notes, or the first `limit` of a seeded permutation, in storage order."""
        n_notes = len(self.notes)
        if self.config.limit is None:
            return np.arange(n_notes)
        return np.sort(np.random.default_rng(self.config.seed).permutation(n_notes)[: self.config.limit])

    @staticmethod
    def _groups(slots: Slots) -> Iterator[Slots]:
        return (slots[start : start + _AT_ONCE] for start in range(0, len(slots), _AT_ONCE))

    def _key(self, slot: int, name: str) -> str:
        return self._keyed(self._sha256[name], slot)

    def _is_key(self, key: str, slot: int, name: str) -> bool:
        """Return whether this is the key of a note, now or in a version before 0.2."""
        return key == self._key(slot, name) or key == self._keyed(self._former_sha256[name], slot)

    def _keyed(self, sha256: str, slot: int) -> str:
        return hashlib.sha256(sha256.encode() + self.notes.digests[slot].tobytes()).hexdigest()

    def summarise(
        self, board: Board, spent: Summary, left_out: Counter[str], labels: Sequence[SafetyLabel] | None
    ) -> FilterSummary:
        """Return the summary of the filter."""
        unsafe, kept = flagged_and_kept(board)
        seen = ((board != SafetyState.UNASKED) & (board != SafetyState.NO_IMAGES)).any(axis=1)
        seen[self.chosen] = True
        n_unsafe, n_kept, n_seen = (int(rows.sum()) for rows in (unsafe, kept, seen))
        by_prompt = {name: counts_of(board[:, i]) for i, name in enumerate(self.names)}
        notes = {"in_data": len(board), "unsafe": n_unsafe, "kept": n_kept, "incomplete": n_seen - n_unsafe - n_kept}
        return FilterSummary(
            data=self.label,
            data_sha256=self.notes.sha256,
            llm=llm_label(self.config),
            prompts={name: prompt.sha256 for name, prompt in self.prompts.items()},
            images=self.n_images,
            notes=notes,
            by_prompt=by_prompt,
            images_left_out=dict(sorted(left_out.items())),
            usage=spent.usage,
            uncounted=spent.uncounted,
            cached=spent.cached,
            cost=cost_of(spent, self.llm.price),
            agreement=None if labels is None else self._agreement(board, labels),
        )

    def _agreement(self, board: Board, labels: Sequence[SafetyLabel]) -> dict[str, Agreement]:
        """Compare the filter with people's labels: by prompt, and for all prompts together as `any`."""
        slots = self.notes.slots([label.note_idx for label in labels])
        unsafe, kept = flagged_and_kept(board)
        said: dict[str, list[bool | None]] = {
            "any": [bool(unsafe[slot]) if unsafe[slot] or kept[slot] else None for slot in slots]
        }
        for i, name in enumerate(self.names):
            states = board[slots, i].tolist()
            said[name] = [None if state <= SafetyState.EMPTY else state == SafetyState.TRUE for state in states]
        return agreements(labels, said)


def filter_notes(
    config: JudgeConfig,
    data: str,
    path: Path,
    names: Sequence[str] | None = None,
    n_images: int = 0,
    n_sample: int = 200,
    labels: Path | None = None,
) -> Filtered:
    """Judge the notes of the data by each prompt; write judgements, results and a sample to label into `path`."""
    safety = Filter(config, data, path, names, n_images)
    labelled = (
        None
        if labels is None
        else read_labels(labels, {*safety.names, *resource_names("prompts/safety")}, safety.notes)
    )
    directory = RunDirectory(path)
    with directory.locked("--out"):
        board = safety.new_board()
        n_known = sum(line.is_settled for line in safety.read(board))
        if n_known:
            logger.info("%d judgements are in %s", n_known, path)
        safety.ask(board, directory)
        left_out: Counter[str] = Counter()

        def counted() -> Iterator[NoteJudgement]:
            for line in safety.read(board):
                left_out.update(line.images_left_out if line.prompt == safety.names[0] else {})
                yield line

        spent = spent_on(counted())
        summary = safety.summarise(board, spent, left_out, labelled)
        unsafe, kept = flagged_and_kept(board)
        _write_unsafe(safety, board, np.flatnonzero(unsafe))
        write_review(path / REVIEW, safety.notes, unsafe, kept, n_sample, config.seed)
        write_text(path / SUMMARY, summary.model_dump_json(indent=2) + "\n")
    return Filtered(path, summary, spent)


def plan_filter(
    config: JudgeConfig, data: str, path: Path, names: Sequence[str] | None = None, n_images: int = 0
) -> Plan:
    """Plan the calls and the cost of `filter_notes`; write nothing, open no image."""
    safety = Filter(config, data, path, names, n_images)
    board = safety.new_board()
    n_judgements = int((board[safety.chosen] != SafetyState.NO_IMAGES).sum())
    for _ in safety.read(board):
        pass
    tokens = np.zeros(board.shape, np.int32)
    too_long = 0
    for note, name in safety.pending(board):
        try:
            prompt = safety.render(note, name, len(note.paths))
        except PromptTooLongError:
            too_long += 1
            continue
        tokens[note.slot, safety.names.index(name)] = estimated_tokens(prompt.messages) + IMAGE_TOKENS * len(note.paths)
    n_calls = int((tokens > 0).sum())
    return Plan(
        **priced(safety.llm, n_calls, int(tokens.sum(dtype=np.int64)), config.batch),
        run=str(path),
        questions=n_judgements,
        answered=n_judgements - n_calls - too_long,
        cached=0,
        cache_unknown="the filter does not look them up beforehand" if config.cache and n_calls else None,
        too_long=too_long,
        left_out=LeftOut(),
        examples=_examples(safety, board, tokens),
    )


def _examples(safety: Filter, board: Board, tokens: npt.NDArray[np.int32]) -> list[Call]:
    """Return the longest prompt, the middle and the shortest."""
    slots, columns = np.nonzero(tokens)
    order = np.argsort(-tokens[slots, columns], kind="stable")
    calls = []
    for i in spread(order.tolist()):
        slot, column = int(slots[i]), int(columns[i])
        [note] = safety.notes.get([int(safety.notes.note_idxs[slot])])
        name = safety.names[column]
        messages = safety.prompts[name].render({"title": note.title, "content": note.content}).messages
        calls.append(
            Call(question_id=f"{note.note_idx}, {name}", prompt_tokens=int(tokens[slot, column]), messages=messages)
        )
    return calls


def _write_unsafe(safety: Filter, board: Board, slots: Slots) -> None:
    """Write a line for each flagged note, with the prompts that flag it."""
    lines = []
    for slot in slots.tolist():
        flagged_by = [name for i, name in enumerate(safety.names) if board[slot, i] == SafetyState.TRUE]
        lines.append(json.dumps({"note_idx": int(safety.notes.note_idxs[slot]), "flagged_by": flagged_by}) + "\n")
    write_text(safety.path / UNSAFE, "".join(lines))
