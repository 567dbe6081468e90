"""Answers to searches: written from reference notes, with citations, and the feedback of users."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from qilin_rag.data.questions import NO_ANSWER
from qilin_rag.data.schema import FEEDBACK
from qilin_rag.synth.dice import Dice, Floats, Ints
from qilin_rag.synth.exposures import Searches, ShownNotes
from qilin_rag.synth.shelf import Shelf
from qilin_rag.synth.texts import Writer
from qilin_rag.synth.words import CONCEPTS_PER_TOPIC, Lexicon
from qilin_rag.synth.world import World

_MOST_REFERENCES = 3
_SENTENCES = 2
_SENTENCE = re.compile(r"[^。！？\n#]+[。！？]")


class Answers(NamedTuple):
    """The answer of each request that was shown one."""

    texts: list[str]
    references: list[list[int]]
    probabilities: dict[str, Floats]
    """The probability of each kind of feedback; NaN if no answer was shown."""
    feedback: dict[str, Floats]
    """1 or 0; -1 if no answer was shown."""


def write_answers(
    world: World, dice: Dice, shelf: Shelf, writer: Writer, lexicon: Lexicon, requests: Searches, shown: ShownNotes
) -> Answers:
    """Return answers to the requests that get one, written from results about the query's concept."""
    n = len(requests.rows)
    references = _references(world, dice, shelf, requests, shown)
    flat = np.array([note for notes in references for note in notes], np.int64)
    bodies = iter(writer.bodies(flat).to_pylist() if len(flat) else [])
    by_query = iter((shelf.form(flat) == np.repeat(requests.form, [len(notes) for notes in references])).tolist())
    texts = [NO_ANSWER[1]] * n
    quality = np.full(n, np.nan)
    for request, notes in enumerate(references):
        if notes:
            name = lexicon.tokens[lexicon.concepts[requests.concept[request], requests.form[request]]]
            topic = int(requests.concept[request]) // CONCEPTS_PER_TOPIC
            flavour = lexicon.tokens[lexicon.flavours[topic, 0]]
            texts[request] = _text(name, flavour, [next(bodies) for _ in notes])
            quality[request] = np.mean([next(by_query) for _ in notes])
    probabilities: dict[str, Floats] = {
        name: 1 / (1 + np.exp(-(getattr(world.feedback, name) + world.quality * quality))) for name in FEEDBACK
    }
    feedback: dict[str, Floats] = {
        name: np.where(np.isnan(quality), -1.0, dice.uniform(name, requests.rows) < probabilities[name])
        for name in FEEDBACK
    }
    return Answers(texts, references, probabilities, feedback)


def _references(world: World, dice: Dice, shelf: Shelf, requests: Searches, shown: ShownNotes) -> list[list[int]]:
    """Return the first results about the concept; sometimes, or if there is none, a note that was not shown."""
    outside = dice.uniform("outside", requests.rows) < world.outside_references
    starts = np.searchsorted(shown.request, np.arange(len(requests.rows) + 1))
    concept = np.maximum(requests.concept, 0)
    firsts, ends = shelf.concept_starts[concept], shelf.concept_starts[concept + 1]
    references: list[list[int]] = [[] for _ in requests.rows]
    for i in np.flatnonzero(requests.is_answered).tolist():
        of_request = slice(starts[i], starts[i + 1])
        fits = (shown.lexical[of_request] + shown.synonym[of_request]) > 0
        notes = list(dict.fromkeys(shown.note[of_request][fits].tolist()))[:_MOST_REFERENCES]
        if outside[i] or not notes:
            concept_notes: Ints = shelf.note_at(np.arange(firsts[i], ends[i]))
            shown_notes = set(shown.note[of_request].tolist())
            notes += [note for note in concept_notes.tolist() if note not in shown_notes][:1]
        references[i] = notes
    return references


def _text(name: str, flavour: str, bodies: list[str]) -> str:
    """Return a line, and an item with its citation for each reference."""
    items = []
    for i, body in enumerate(bodies, start=1):
        sentences = [sentence.strip("，～ ") for sentence in _SENTENCE.findall(body)]
        told = "".join(sentences[:_SENTENCES]) or body[:40]
        items.append(f"{i}. {told}[第{i}篇](#)")
    return f"关于**{name}**和{flavour}，笔记里这样说：\n" + "\n".join(items)
