"""Do the 95% intervals of `analyze dqa-effect` hold the truth, and does "balanced" mean it? Synthetic worlds.

In each world what decides about an answer also decides about clicks, so that the naive difference is wrong; the true
effect on clicks is known. A world counts how many of the doubly robust intervals hold the truth, how many figures are
refused, and how often the page says "balanced". The first eight worlds are the promise; the others are siblings.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from qilin_rag.analysis.dqa_effect import dqa_effects
from qilin_rag.analysis.log import Log, NoteFacts
from qilin_rag.core.errors import UsageError
from qilin_rag.data.exposures import Exposures

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Causes = tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.floating[Any]]]
"""Log odds of an answer, and mean clicks without one, (n,) each."""

N_RESULTS = 20
_DAY_MS = 24 * 3600 * 1000
_CHARACTERS = np.array(list("早餐旅行化妆穿搭推荐攻略学习电影音乐健身宠物家居好吃地方周末露营咖啡手机拍照"))


class Searches(NamedTuple):
    """What is known of each search, (n,): its user, the characters of its query, the hour, the clicks before."""

    user: Ints
    length: Ints
    hour: Floats
    n_recent: Ints

    @property
    def standard(self) -> tuple[Floats, Floats, Floats]:
        """Length, clicks before and hour (sine), each with mean 0 and variance 1."""
        return (self.length - 8) / math.sqrt(14), (self.n_recent - 10) / 6.06, np.sin(self.hour * math.pi / 12) * 2**0.5


class World(NamedTuple):
    """`cause` gives the log odds of an answer and the mean clicks without one; `sizes` are the users' searches."""

    cause: Callable[[Searches], Causes]
    sizes: list[int] = [4] * 300
    effect: float = 0.0
    user_deviation: float = 0.0
    is_constant: bool = False


def linear(searches: Searches) -> Causes:
    """Longer queries get more answers and more clicks."""
    length, _, _ = searches.standard
    return -0.8 + 0.9 * length, 3.5 + 0.8 * length


def u_shaped(searches: Searches) -> Causes:
    """Short and long queries get more answers and more clicks."""
    square = 0.08 * (searches.length - 8.0) ** 2
    return -2 + square, 3 + square


def interaction(searches: Searches) -> Causes:
    """Length and clicks before matter together alone."""
    length, recent, _ = searches.standard
    return -0.7 + length * recent, 4 + length * recent


def interaction_with_hour(searches: Searches) -> Causes:
    """Length and hour matter together alone."""
    length, _, hour = searches.standard
    return -0.7 + length * hour, 4 + length * hour


def threshold(searches: Searches) -> Causes:
    """Long queries after many clicks are others."""
    both = (searches.length > 8) & (searches.n_recent > 10)
    return -1.2 + 2.0 * both, 3 + 1.5 * both


def exclusive(searches: Searches) -> Causes:
    """Either of two thresholds matters, but not both."""
    either = (searches.length > 8) ^ (searches.n_recent > 10)
    return -1.2 + 2.0 * either, 3 + 1.5 * either


def extreme(searches: Searches) -> Causes:
    """As linear, with propensities from .004 to .97."""
    length, _, _ = searches.standard
    return -1 + 2.8 * length, 3.5 + 0.8 * length


def apart(searches: Searches) -> Causes:
    """All long queries have an answer, no short one has."""
    length, _, _ = searches.standard
    return np.where(searches.length > 8, 50.0, -50.0), 5 + 0.8 * length


def rare(searches: Searches) -> Causes:
    """As linear, with few answers."""
    length, _, _ = searches.standard
    return -3.2 + 0.7 * length, 3.5 + 0.8 * length


_FEW, _UNEQUAL = [120] * 10, [128] * 5 + [6] * 95
WORLDS = {
    "linear": World(linear),
    "U-shaped": World(u_shaped),
    "interaction": World(interaction),
    "extreme propensities": World(extreme),
    "no overlap": World(apart, effect=-1.0),
    "tiny treated group": World(rare),
    "few users": World(linear, _FEW, user_deviation=0.7),
    "unequal users": World(linear, _UNEQUAL, user_deviation=0.7),
}
SIBLINGS = {
    "U-shaped, effect -1": World(u_shaped, effect=-1.0),
    "interaction with the hour": World(interaction_with_hour),
    "threshold of two": World(threshold),
    "one of two thresholds": World(exclusive),
    "user effects": World(linear, user_deviation=1.0),
    "constant covariate": World(u_shaped, is_constant=True),
    "U-shaped, 320 searches": World(u_shaped, [4] * 80),
    "U-shaped, 4,800 searches": World(u_shaped, [4] * 1200),
    "interaction, 320 searches": World(interaction, [4] * 80),
    "few users, U-shaped": World(u_shaped, _FEW, user_deviation=0.7),
}


def make(world: World, seed: int) -> tuple[Log, pa.Table]:
    """One draw of a world: its log and its users."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(len(world.sizes)), world.sizes)
    n, n_users = len(user), len(world.sizes)
    searches = Searches(user, rng.integers(2, 15, n), rng.uniform(0, 24, n), rng.integers(0, 21, n))
    log_odds, mean = world.cause(searches)
    answered = rng.random(n) < 1 / (1 + np.exp(-log_odds))
    mean = mean + rng.normal(0, world.user_deviation, n_users)[user] + world.effect * answered
    clicks = np.minimum(rng.poisson(np.maximum(mean, 0.05)), N_RESULTS)
    users = pa.table(
        {
            "user_idx": np.arange(n_users),
            "gender": rng.choice(["female", "male", "unknown"], n_users, p=[0.7, 0.2, 0.1]).tolist(),
            "platform": rng.choice(["iOS", "Android"], n_users).tolist(),
            "age": rng.choice(["16-18", "19-22", "23-25", "26-30", "31-35", "40+"], n_users).tolist(),
            "fans_num": np.ones(n_users) if world.is_constant else rng.geometric(0.02, n_users).astype(float),
            "follows_num": rng.geometric(0.05, n_users).astype(float),
        }
    )
    source = rng.choice([1, 2, 3, 4], n, p=[0.35, 0.45, 0.1, 0.1])
    return _log(searches, source, answered, clicks, rng), users


def _log(searches: Searches, source: Ints, answered: npt.NDArray[np.bool_], clicks: Ints, rng: Any) -> Log:
    """A log of searches, one a day, of 20 results each."""
    n = len(clicks)
    actions = np.zeros((n * N_RESULTS, 5), bool)
    position = np.tile(np.arange(1, N_RESULTS + 1), n)
    actions[:, 0] = position <= np.repeat(clicks, N_RESULTS)
    recent_offsets = np.concatenate([[0], np.cumsum(searches.n_recent)])
    shown = Exposures(
        ids=list(map(str, range(n))),
        queries=["".join(rng.choice(_CHARACTERS, length)) for length in searches.length],
        is_search=np.ones(n, bool),
        user_idx=searches.user.astype(np.int64),
        session_idx=np.arange(n),
        source=source.astype(np.int64),
        time_ms=(np.arange(n) * _DAY_MS + searches.hour * 3600 * 1000).astype(np.int64),
        answered=answered,
        recent_offsets=recent_offsets,
        recent=np.zeros(recent_offsets[-1], np.int64),
        offsets=np.arange(n + 1) * N_RESULTS,
        note_idx=np.arange(n * N_RESULTS),
        position=position,
        actions=actions,
        page_time_s=np.full(len(actions), -1, np.float32),
    )
    none = np.zeros(0, np.int64)
    return Log(shown, np.zeros(n, bool), NoteFacts(none, none, none))


def measure(world: World, n_replications: int, first: int) -> dict[str, Any]:
    """Draw a world so many times; shares and means of what was found."""
    errors, widths, held, naive, users = [], [], [], [], []
    reasons: Counter[str] = Counter()
    n_balanced = 0
    started = time.perf_counter()
    for seed in range(first, first + n_replications):
        log, known = make(world, seed)
        try:
            effect = dqa_effects(log, known, seed, only=["clicks"])[-1].effects[0]
        except UsageError as error:
            reasons[str(error)] += 1
            continue
        naive.append(effect.naive.value - world.effect)
        n_balanced += effect.is_balanced
        robust = effect.doubly_robust
        if robust is None or robust.low is None or robust.high is None:
            reasons[(effect.refused or effect.no_interval or "").split(":")[0]] += 1
            continue
        errors.append(robust.value - world.effect)
        widths.append(robust.high - robust.low)
        held.append(robust.low <= world.effect <= robust.high)
        users.append(effect.effective_users)
    return {
        "replications": n_replications,
        "naive bias": _mean(naive),
        "figures": len(held),
        "coverage": _mean(held),
        "bias": _mean(errors),
        "deviation": float(np.std(errors)) if errors else None,
        "width": _mean(widths),
        "effective users": _mean(users),
        "refused": sum(reasons.values()) / n_replications,
        "reasons": dict(reasons),
        "balanced": n_balanced / n_replications,
        "seconds": (time.perf_counter() - started) / n_replications,
    }


def _mean(values: list[Any]) -> float | None:
    return float(np.mean(values)) if values else None


def main() -> None:
    """Measure and print, a line a world."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replications", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--worlds", nargs="+", choices=[*WORLDS, *SIBLINGS], default=[*WORLDS], metavar="WORLD")
    parser.add_argument("--siblings", action="store_true", help="the other worlds")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    columns = ("naive bias", "coverage", "bias", "deviation", "width", "effective users", "refused", "balanced")
    if not given.json:
        print(f"| world | {' | '.join(columns)} |")
        print(f"|---|{'---:|' * len(columns)}", flush=True)
    found = {}
    for name in SIBLINGS if given.siblings else given.worlds:
        found[name] = line = measure((WORLDS | SIBLINGS)[name], given.replications, given.first)
        if not given.json:
            cells = ["-" if (value := line[column]) is None else f"{value:.3f}" for column in columns]
            print(f"| {name} | {' | '.join(cells)} | {line['reasons'] or ''}", flush=True)
    if given.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
