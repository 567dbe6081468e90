"""Answers to searches: sentences of their references and of other notes, by quality, and the feedback of users."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from qilin_rag.data.questions import NO_ANSWER
from qilin_rag.data.schema import FEEDBACK
from qilin_rag.synth.cards import CardFact, Cards
from qilin_rag.synth.dice import Dice, Floats, Ints
from qilin_rag.synth.exposures import Searches, ShownNotes
from qilin_rag.synth.queries import ENDINGS
from qilin_rag.synth.shelf import Shelf
from qilin_rag.synth.texts import Writer
from qilin_rag.synth.words import CONCEPTS_PER_TOPIC, Lexicon
from qilin_rag.synth.world import World

SENTENCES = 8
"""The sentences of an answer."""
FEWEST_FACTS = 4
"""The sentences from the references in the worst answer: one for each of the most references that it may have."""
USUAL_LENGTH = 210
"""The length in characters at which the length bias is 0, near the median."""
_MOST_RESULTS = 3
_OTHER_NOTES = 4
_SENTENCE = re.compile(r"[^。！？\n#]+[。！？]")
_PHRASE = re.compile(r"[^。！？，～\n#]+[。！？，～\n]")


class Answers(NamedTuple):
    """The answer of each request that was shown one."""

    texts: list[str]
    references: list[list[int]]
    quality: Floats
    """From 0 to 1; NaN if no answer was shown."""
    length: Floats
    """The binary logarithm of the length over the usual one; NaN if no answer was shown."""
    probabilities: dict[str, Floats]
    """The probability of each kind of feedback; NaN if no answer was shown."""
    feedback: dict[str, Floats]
    """1 or 0; -1 if no answer was shown."""
    facts: list[CardFact | None]
    """The fact in each answer that is on a card alone."""


def draw_quality(dice: Dice, rows: Ints) -> Floats:
    """Return the latent quality of the answers to these rows of the plan: one of evenly spaced values from 0 to 1.

    It depends on seed and row alone, so that no size of its effects changes it.
    """
    steps = SENTENCES - FEWEST_FACTS
    return dice.below(steps + 1, "answer-quality", rows) / steps


def write_answers(
    world: World,
    dice: Dice,
    shelf: Shelf,
    writer: Writer,
    lexicon: Lexicon,
    cards: Cards,
    requests: Searches,
    shown: ShownNotes,
) -> Answers:
    """Return answers to the requests that get one, written from results about the query's concept."""
    references = _references(world, dice, shelf, requests, shown)
    answered = np.flatnonzero([bool(notes) for notes in references])
    rows, concept = requests.rows[answered], requests.concept[answered]
    quality, length = np.full((2, len(requests.rows)), np.nan)
    quality[answered] = draw_quality(dice, rows)
    n_facts = FEWEST_FACTS + np.rint(quality[answered] * (SENTENCES - FEWEST_FACTS)).astype(np.int64)
    others = _notes_of_other_topics(dice, shelf, rows, concept)
    names = lexicon.concepts[concept, requests.form[answered]].tolist()
    flavours = lexicon.flavours[concept // CONCEPTS_PER_TOPIC, 0].tolist()

    notes = np.array([note for i in answered.tolist() for note in references[i]], np.int64)
    bodies = iter(writer.bodies(np.concatenate([notes, others.ravel()])).to_pylist() if len(answered) else [])
    cited_by = [[next(bodies) for _ in references[i]] for i in answered.tolist()]
    texts = [NO_ANSWER[1]] * len(requests.rows)
    facts: list[CardFact | None] = [None] * len(requests.rows)
    for i, n, cited, name, flavour in zip(answered.tolist(), n_facts.tolist(), cited_by, names, flavours, strict=True):
        facts[i] = fact = cards.fact(references[i], ENDINGS[requests.ending[i]])
        about = (references[i].index(fact.note), fact.text) if fact else None
        items = _items(cited, [next(bodies) for _ in range(_OTHER_NOTES)], n, about)
        texts[i] = f"关于**{lexicon.tokens[name]}**和{lexicon.tokens[flavour]}，笔记里这样说：\n" + "\n".join(items)
    length[answered] = np.log2([len(texts[i]) / USUAL_LENGTH for i in answered.tolist()])
    probabilities: dict[str, Floats] = {
        name: 1 / (1 + np.exp(-(getattr(world.feedback, name) + world.quality * quality + world.length_bias * length)))
        for name in FEEDBACK
    }
    feedback: dict[str, Floats] = {
        name: np.where(np.isnan(quality), -1.0, dice.uniform(name, requests.rows) < probabilities[name])
        for name in FEEDBACK
    }
    return Answers(texts, references, quality, length, probabilities, feedback, facts)


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
        notes = list(dict.fromkeys(shown.note[of_request][fits].tolist()))[:_MOST_RESULTS]
        if outside[i] or not notes:
            concept_notes: Ints = shelf.note_at(np.arange(firsts[i], ends[i]))
            shown_notes = set(shown.note[of_request].tolist())
            notes += [note for note in concept_notes.tolist() if note not in shown_notes][:1]
        references[i] = notes
    return references


def _notes_of_other_topics(dice: Dice, shelf: Shelf, rows: Ints, concept: Ints) -> Ints:
    """Return some notes for each row that are not of its concept's topic."""
    topic = concept // CONCEPTS_PER_TOPIC
    start, end = (shelf.topic_starts[topic + i][:, None] for i in (0, 1))
    further = dice.below(shelf.n_notes - (end - start), "other-notes", rows[:, None], np.arange(_OTHER_NOTES)[None, :])
    return shelf.note_at((end + further) % shelf.n_notes)


def _items(cited: list[str], others: list[str], n_facts: int, of_card: tuple[int, str] | None) -> list[str]:
    """Return an item with its citation for each reference: `SENTENCES` sentences, of which `n_facts` are theirs.

    Each item begins with a fact of its reference. References that have too few sentences for the best answer give
    phrases instead, and so do the other notes. A sentence of another note replaces one that is as deep in its note, so
    that the length of an answer does not depend on its quality. A fact on the card of a reference (its number and the
    text) begins the item of that reference.
    """
    pattern = _SENTENCE
    facts = _in_turn(cited, pattern)
    if len(facts) < SENTENCES:
        pattern = _PHRASE
        facts = _in_turn(cited, pattern)
    items: list[list[str]] = [[] for _ in cited]
    if of_card:
        items[of_card[0]].append(f"{of_card[1]}。")
    for i, fact in facts[:n_facts]:
        items[i].append(fact)
    for _, sentence in _in_turn(others, pattern)[min(n_facts, len(facts)) : SENTENCES]:
        min(items, key=len).append(sentence)
    return [f"{i}. {''.join(sentences)}[第{i}篇](#)" for i, sentences in enumerate(items, start=1)]


def _in_turn(bodies: list[str], pattern: re.Pattern[str]) -> list[tuple[int, str]]:
    """Return the first piece of each body, then the second ones, and so on, each with the number of its body.

    The last piece of a body is left out if there are others: it ends where the note does, so that it is shorter.
    """
    pieces = []
    for number, body in enumerate(bodies):
        found = [piece.lstrip("，～ ").replace("\n", "，") for piece in pattern.findall(body)]
        of_body = [piece for piece in found if piece] or [body[:40]]
        pieces += [(depth, number, piece) for depth, piece in enumerate(of_body[: max(1, len(of_body) - 1)])]
    return [(number, piece) for _, number, piece in sorted(pieces)]
