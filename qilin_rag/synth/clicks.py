"""The click model: a result is clicked if its position is examined and the result attracts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qilin_rag.data.schema import ACTIONS
from qilin_rag.synth.dice import Bools, Dice, Floats, Ints
from qilin_rag.synth.exposures import Searches, ShownNotes, kind_of
from qilin_rag.synth.shelf import Shelf
from qilin_rag.synth.world import Causes, World

SOURCE_PATTERN = np.array([0.2, 0.0, -0.4, 0.6, 0.8, -1.0, -0.6, 0.4])
"""The value of each source of a query; a missing one counts 0."""
MOST_FATIGUE = 10
LOGIT_CAUSES = tuple(name for name in Causes.model_fields if name != "position")


class Clicks(NamedTuple):
    """Why each result was clicked or not; one value per result."""

    values: dict[str, Floats]
    """The value of each cause."""
    logits: dict[str, Floats]
    """The contribution of each cause: its size times its value."""
    examination: Floats
    """The probability that the position is examined."""
    attraction: Floats
    """The probability that an examined result is clicked."""
    examined: Bools
    actions: dict[str, Bools]
    """`click`, and the actions that come with it."""


def click(
    world: World, dice: Dice, shelf: Shelf, requests: Searches, ordinal: Ints, source: Floats, shown: ShownNotes
) -> Clicks:
    """Simulate the actions of users on the results that they are shown."""
    request = shown.request
    has_source = ~np.isnan(source)
    pattern = np.where(has_source, SOURCE_PATTERN[np.where(has_source, source, 1).astype(np.int64) - 1], 0.0)
    values: dict[str, Floats] = {
        "topical": shown.topical,
        "lexical": shown.lexical,
        "synonym": shown.synonym,
        "cover": shelf.has_cue(shown.note).astype(float),
        "taste": shown.taste,
        "source": pattern[request],
        "popularity": shown.popularity,
        "fatigue": np.minimum(ordinal, MOST_FATIGUE)[request].astype(float),
        "factoid": requests.is_factoid[request].astype(float),
        "answer": requests.is_answered[request].astype(float),
    }
    logits = {name: getattr(world.causes, name) * values[name] for name in LOGIT_CAUSES}
    total = kind_of(world, requests.is_search, "intercept")[request] + sum(logits.values())
    attraction = 1 / (1 + np.exp(-total))
    examination = shown.position**-world.causes.position
    row = requests.rows[request]
    examined = dice.uniform("examined", row, shown.position) < examination
    clicked = examined & (dice.uniform("click", row, shown.position) < attraction)
    actions = {"click": clicked}
    for name in ACTIONS[1:]:
        shares = np.where(
            requests.is_search, getattr(world.search.actions, name), getattr(world.recommendation.actions, name)
        )
        actions[name] = clicked & (dice.uniform(f"action/{name}", row, shown.position) < shares[request])
    return Clicks(values, logits, examination, attraction, examined, actions)
