"""The configuration of a synthetic Qilin: the size of every cause of a click, and every share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError, model_validator

from qilin_rag.config.overrides import parse_overrides
from qilin_rag.config.resources import read_yaml
from qilin_rag.core.errors import UsageError, explain, unknown_name
from qilin_rag.core.types import Frozen
from qilin_rag.data.log_settings import LogSettings

Share = Annotated[FiniteFloat, Field(ge=0, le=1)]
Positive = Annotated[FiniteFloat, Field(gt=0)]
Reformulation = Literal["add", "delete", "change", "repeat", "others"]
Size = Annotated[FiniteFloat, Field(ge=-20, le=20)]


class Causes(Frozen):
    """The weight of each cause in logits of a click; `position` is the exponent of examination."""

    topical: Size = 0.7
    lexical: Size = 1.0
    synonym: Size = 0.8
    cover: Size = 0.8
    taste: Size = 1.2
    source: Size = 0.5
    popularity: Size = 0.35
    position: Annotated[FiniteFloat, Field(ge=0, le=5)] = 0.35
    fatigue: Size = -0.15
    factoid: Size = -0.25
    answer: Size = -0.35


ANSWER_CAUSES = ("quality", "length_bias", "re_search")
"""The settings of `World` that are sizes of causes of feedback on an answer, and of what the user asks next."""


class Actions(Frozen):
    """The share of clicks with each action."""

    like: Share
    collect: Share
    share: Share
    comment: Share


class Feedback(Frozen):
    """The logits of each kind of feedback on an answer of the lowest quality and the usual length."""

    is_like_clk: FiniteFloat = -3.5
    is_content_clk: FiniteFloat = -0.7
    is_onebox_trace_clk: FiniteFloat = -2.2
    is_experience_clk: FiniteFloat = -3.0


class QueryKind(Frozen):
    """One kind of request: the length of its result lists, and the behaviour of users without any cause."""

    intercept: FiniteFloat
    depth: Annotated[FiniteFloat, Field(ge=2, le=100)]
    """The mean of the largest position."""
    shown: Share
    """The share of positions that have a result; the others are gaps."""
    late_start: Share = 0.0
    """The share of requests whose first position is not 1, as in a continued feed."""
    actions: Actions


class WorldCounts(Frozen):
    """The numbers of rows."""

    notes: Annotated[int, Field(ge=200, le=2_000_000_000)] = 20_000
    searches: PositiveInt = 2_000
    """All searches, including those with a row in dqa."""
    recommendations: PositiveInt = 3_000
    dqa: NonNegativeInt = 250
    users: PositiveInt = 500

    @model_validator(mode="after")
    def _dqa_are_searches(self) -> WorldCounts:
        if self.dqa > self.searches:
            raise ValueError(f"of {self.searches} searches {self.dqa} can't have a row in dqa")
        return self


class World(Frozen):
    """All settings of a synthetic Qilin."""

    seed: NonNegativeInt = 0
    counts: WorldCounts = WorldCounts()
    causes: Causes = Causes()
    search: QueryKind = QueryKind(
        intercept=-1.74,
        depth=25.0,
        shown=0.81,
        actions=Actions(like=0.0411, collect=0.0187, share=0.0057, comment=0.0032),
    )
    recommendation: QueryKind = QueryKind(
        intercept=-0.48,
        depth=18.8,
        shown=0.81,
        late_start=0.25,
        actions=Actions(like=0.0707, collect=0.0147, share=0.0063, comment=0.0099),
    )

    # Notes
    topics: Annotated[int, Field(ge=2, le=700)] = 548
    notes_per_topic: PositiveInt = 100
    """The fewest notes of a topic, so that a small corpus has fewer topics."""
    median_tokens: Positive = 100.0
    sigma_tokens: Positive = 0.8
    near_duplicates: Annotated[FiniteFloat, Field(ge=0, le=0.4)] = 0.03
    video: Share = 0.35
    cover_cue: Share = 0.3
    mean_images: Annotated[FiniteFloat, Field(ge=1)] = 2.53
    no_images: Share = 0.02
    cards: Share = 0.0
    """The share of notes with two images or more whose second one is a text card, with facts that no text tells."""
    no_taxonomy: Annotated[list[Share], Field(min_length=3, max_length=3)] = [0.01, 0.03, 0.12]

    # Users
    gender: dict[str, Share] = {"female": 0.7653, "male": 0.2, "unknown": 0.0347}
    platform: dict[str, Share] = {"iOS": 0.5356, "Android": 0.3879, "Harmony": 0.05, "unknown": 0.0265}
    age: dict[str, Share] = {
        "1-12": 0.0088,
        "13-15": 0.03,
        "16-18": 0.085,
        "19-22": 0.15,
        "23-25": 0.14,
        "26-30": 0.16,
        "31-35": 0.13,
        "36-40": 0.08,
        "40+": 0.0727,
        "unknown": 0.1435,
    }
    china: Share = 0.8432
    no_location: Share = 0.5
    taste_topics: PositiveInt = 3
    taste_styles: PositiveInt = 2
    recent_by_taste: Share = 0.7

    # Sessions
    next_request: Share = 0.554
    to_recommendation: Share = 0.075
    """The share of recommendations among requests that follow a search in its session."""
    to_search: Share = 0.0474
    app_stays_open: Share = 0.3
    """The share of pauses just over 30 minutes within one session of the app; it halves with each hour more."""
    app_restarts: Share = 0.06
    """The share of requests within 30 minutes of another that begin a session of the app."""
    search_shift_s: int = LogSettings().search_shift_s
    """Seconds by which the timestamps of searches are ahead of true time."""
    edge: Share = 0.01
    """The share of gaps that are exactly 30 minutes (in a session), or a second more (between two)."""
    test_searches: Share = 6192 / 57188
    test_recommendations: Share = 11115 / 94552

    # Queries
    lengths: dict[int, Share] = {
        3: 0.0032,
        4: 0.1364,
        5: 0.1394,
        6: 0.1727,
        7: 0.1407,
        8: 0.1242,
        9: 0.0954,
        10: 0.0689,
        12: 0.0716,
        14: 0.0475,
    }
    reformulations: dict[Reformulation, Share] = {
        "add": 0.1357,
        "delete": 0.0253,
        "change": 0.4716,
        "repeat": 0.0757,
        "others": 0.2917,
    }
    sources: Annotated[list[Share], Field(min_length=8, max_length=8)] = [
        0.337,
        0.5097,
        0.0578,
        0.0397,
        0.0302,
        0.0137,
        0.0063,
        0.0055,
    ]
    no_source: Share = 0.01
    factoid_queries: Share = 0.25

    # The production ranker and its candidates
    ranker_noise: Positive = 1.5
    same_concept: Share = 0.5
    same_topic: Share = 0.3
    """The share of a search's candidates; the others are drawn from all notes."""
    of_taste: Share = 0.5
    """The share of a recommendation's candidates."""
    repeated: Share = 0.01

    # Answers
    shown_if_factoid: Share = 0.46
    shown_if_not: Share = 0.1
    depth_if_factoid: Positive = 0.75
    depth_if_answered: Positive = 0.57
    """The factors of the mean depth; if both conditions hold, both apply."""
    outside_references: Share = 0.08
    feedback: Feedback = Feedback()
    quality: Size = 1.0
    """The effect on those logits of the quality of the answer, from 0 to 1."""
    length_bias: Size = 0.5
    """The effect on those logits of twice the length, whatever the quality."""
    re_search: Share = 0.0
    """The share of searches soon after a worst answer that ask for the same need again because of it."""

    def sizes(self) -> dict[str, float]:
        """Return the size of each cause of clicks, feedback and re-search."""
        return self.causes.model_dump() | {name: getattr(self, name) for name in ANSWER_CAUSES}

    @model_validator(mode="after")
    def _shares_make_a_whole(self) -> World:
        for name in ("gender", "platform", "age", "lengths", "reformulations", "sources"):
            shares = getattr(self, name)
            total = sum(shares.values() if isinstance(shares, dict) else shares)
            if abs(total - 1) > 0.01:
                raise ValueError(f"the shares of {name} add up to {total:.4f}, not 1")
        if self.same_concept + self.same_topic > 1:
            raise ValueError("same_concept and same_topic together are more than all candidates")
        if any(not 3 <= length <= 16 for length in self.lengths):
            raise ValueError("lengths of queries must be from 3 to 16 characters")
        return self


def resolve_world(
    counts: Mapping[str, int | None],
    seed: int | None,
    without: Iterable[str] = (),
    overrides: Iterable[str] = (),
    file: Path | None = None,
) -> World:
    """Apply file, flags (None = not given), `--set` assignments and `--without` over the defaults.

    Args:
        counts: The numbers of rows, by table.
        seed: The seed of all draws.
        without: Causes of clicks, feedback or re-search that are left out, by name.
        overrides: Assignments such as `causes.position=1`.
        file: A YAML file of settings.

    Raises:
        UsageError: if a setting is unknown or wrong.
    """
    settings = _merged(World(), read_yaml(file) if file else {})
    flags = {("counts", name): value for name, value in counts.items()} | {("seed",): seed}
    assigned = [(list(path), value) for path, value in flags.items() if value is not None]
    for path, value in [*assigned, *parse_overrides(overrides)]:
        _assign(settings, path, value)
    for cause in without:
        if cause in ANSWER_CAUSES:
            _assign(settings, [cause], 0.0)
        elif cause in Causes.model_fields:
            _assign(settings, ["causes", cause], 0.0)
        else:
            raise unknown_name("cause", cause, [*Causes.model_fields, *ANSWER_CAUSES])
    try:
        return World(**settings)
    except ValidationError as error:
        raise UsageError(f"{file or 'synth'}: {explain(error, World)}") from error


def _merged(defaults: Frozen, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given values over the defaults, group by group; shares must be given all together."""
    settings = defaults.model_dump()
    for name, value in given.items():
        group = getattr(defaults, name, None)
        settings[name] = _merged(group, value) if isinstance(group, Frozen) and isinstance(value, dict) else value
    return settings


def _assign(settings: dict[str, Any], path: list[str], value: Any) -> None:
    """Set one value, whose group must exist."""
    *groups, last = path
    for name in groups:
        if not isinstance(settings.get(name), dict):
            raise unknown_name("setting", ".".join(path), World.model_fields)
        settings = settings[name]
    if not groups and last not in settings:
        raise unknown_name("setting", last, settings)
    settings[last] = value
