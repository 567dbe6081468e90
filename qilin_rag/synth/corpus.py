"""The tables notes and user_feat, generated in batches."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qilin_rag.data.schema import TABLES
from qilin_rag.synth.dice import Bools, Dice, Floats, Ints
from qilin_rag.synth.shelf import Shelf, stride
from qilin_rag.synth.texts import Writer
from qilin_rag.synth.words import STYLES
from qilin_rag.synth.world import World

NOTES_BATCH = 8192
_USERS_BATCH = 8192
_DENSE_FEATURES = 40

_CITIES = [
    f"China  {city}" for city in ("Beijing", "Shanghai", "Guangdong", "Zhejiang", "Sichuan", "Hubei", "Shandong")
]
_ABROAD = [
    "Andorra  Andorra la Vella",
    "Australia  Sydney",
    "Iceland  Reykjavik",
    "Malaysia  Kuala Lumpur",
    "Hong Kong  Tsuen Wan",
    "Japan  Tokyo",
    "Singapore  Singapore",
    "Canada  Toronto",
]


def cover_path(note: int) -> str:
    """Return the path of a note's cover, relative to the folder of the tables."""
    return f"image/part_{note // 10_000}/{note}/0.png"


def note_batches(world: World, dice: Dice, shelf: Shelf, writer: Writer) -> Iterator[pa.RecordBatch]:
    """Yield the table notes; its rows are not in the order of their ids."""
    columns = {name: kind for name, kind in TABLES["notes"].columns.items() if name != "note_embedding"}
    schema = pa.schema(list(columns.items()))
    mixing = stride(shelf.n_notes) + 2
    while np.gcd(mixing, shelf.n_notes) != 1:
        mixing += 1
    for start in range(0, shelf.n_notes, NOTES_BATCH):
        rows = np.arange(start, min(start + NOTES_BATCH, shelf.n_notes))
        notes = (rows * mixing + 1) % shelf.n_notes
        contents = writer.bodies(notes)
        levels = shelf.taxonomies(notes)
        values = {
            "note_idx": notes,
            "note_title": writer.titles(notes),
            "note_content": contents,
            "content_length": pc.utf8_length(contents),
            **_numbers(dice, shelf, notes),
            **{f"taxonomy{level}_id": names for level, names in enumerate(levels, start=1)},
            "image_path": _image_paths(notes, shelf.n_images(notes)),
        }
        yield pa.RecordBatch.from_arrays([_array(values[name], kind) for name, kind in columns.items()], schema=schema)


def _array(values: object, kind: pa.DataType) -> pa.Array:
    return values.cast(kind) if isinstance(values, pa.Array) else pa.array(values, kind)


def _image_paths(notes: Ints, n_images: Ints) -> list[list[str]]:
    return [
        [f"{cover_path(note)[:-5]}{i}.png" for i in range(n)]
        for note, n in zip(notes.tolist(), n_images.tolist(), strict=True)
    ]


def _numbers(dice: Dice, shelf: Shelf, notes: Ints) -> dict[str, Floats]:
    """Return the platform's counts for each note, which depend on its popularity, not on the clicks of this log."""
    video = shelf.is_video(notes)
    size = np.exp(5.5 + 1.6 * shelf.popularity(notes))

    def count(name: str, base: Floats, share: float) -> Floats:
        noise = np.exp(0.3 * dice.normal(f"count/{name}", notes))
        counts: Floats = np.floor(np.minimum(base * share * noise + dice.uniform(f"rest/{name}", notes), base))
        return counts

    numbers: dict[str, Floats] = {"imp_num": np.ceil(size)}
    numbers["imp_search_num"] = count("imp_search_num", numbers["imp_num"], 0.45)
    numbers["imp_rec_num"] = numbers["imp_num"] - numbers["imp_search_num"]
    for way in ("search", "rec"):
        clicks = numbers[f"click_{way}_num"] = count(f"click_{way}_num", numbers[f"imp_{way}_num"], 0.2)
        for action, share in (
            ("like", 0.05),
            ("collect", 0.03),
            ("comment", 0.006),
            ("share", 0.008),
            ("follow", 0.004),
        ):
            numbers[f"{way}_{action}_num"] = count(f"{way}_{action}_num", clicks, share)
        numbers[f"{way}_view_time"] = np.floor(clicks * (25.0 + 30 * dice.exponential(f"view/{way}", notes)))
    for total in ("click", "view_time", "like", "collect", "comment", "share"):
        names = (
            ("click_search_num", "click_rec_num")
            if total == "click"
            else tuple(f"{way}_{total}" if total == "view_time" else f"{way}_{total}_num" for way in ("search", "rec"))
        )
        numbers["view_time" if total == "view_time" else f"{total}_num"] = numbers[names[0]] + numbers[names[1]]
    for name, share in (("screenshot", 0.01), ("hide", 0.002)):
        numbers[f"{name}_num"] = count(f"{name}_num", numbers["click_num"], share)
    for name, share in (("like", 20.0), ("collect", 10.0), ("comment", 1.5)):
        numbers[f"accum_{name}_num"] = np.floor(
            numbers["imp_num"] * share * 0.05 * dice.exponential(f"accum/{name}", notes)
        )
    numbers["valid_view_times"] = count("valid_view_times", numbers["click_num"], 0.6)
    numbers["full_view_times"] = count("full_view_times", numbers["valid_view_times"], 0.3)
    numbers |= {
        "note_type": 1.0 + video,
        "video_duration": np.where(video, np.ceil(5 + 60 * dice.exponential("duration", notes)), 0),
        "video_height": np.where(video, 1920.0, 0),
        "video_width": np.where(video, 1080.0, 0),
        "image_num": np.where(video, np.minimum(1, shelf.n_images(notes)), shelf.n_images(notes)).astype(float),
        "commercial_flag": (dice.uniform("commercial", notes) < 0.02).astype(float),
    }
    return numbers


class Users:
    """The tastes of users, and their table."""

    def __init__(self, world: World, dice: Dice, shelf: Shelf) -> None:
        self.n = world.counts.users
        self._world, self._dice, self._shelf = world, dice, shelf

    def topics(self, users: Ints) -> Ints:
        """Return the favourite topics, one row per user; a topic may occur twice."""
        return self._shelf.topics_at_random("taste-topic", users[:, None], np.arange(self._world.taste_topics)[None, :])

    def styles(self, users: Ints) -> Ints:
        """Return the favourite styles, one row per user."""
        ways = np.arange(self._world.taste_styles)[None, :]
        return self._dice.below(len(STYLES), "taste-style", users[:, None], ways)

    def taste(self, users: Ints, notes: Ints) -> Floats:
        """Return 1 if a note's topic and style are both to its user's taste, 1/2 if one of them is, else 0."""
        by_topic: Bools = (self.topics(users) == self._shelf.topic(notes)[:, None]).any(axis=1)
        by_style: Bools = (self.styles(users) == self._shelf.style(notes)[:, None]).any(axis=1)
        return 0.5 * by_topic + 0.5 * by_style

    def past_clicks(self, users: Ints, n: int) -> Ints:
        """Return `n` notes per user, mostly to the user's taste, that were clicked before this log began."""
        slots = np.arange(n)[None, :]
        world, shelf, who = self._world, self._shelf, users[:, None]
        liked = np.take_along_axis(
            self.topics(users), self._dice.below(world.taste_topics, "past-topic", who, slots), axis=1
        )
        starts, ends = shelf.topic_starts[liked], shelf.topic_starts[liked + 1]
        styles = self.styles(users)
        chosen = shelf.note_at(starts + self._dice.below(ends - starts, "past/0", who, slots))
        for attempt in (1, 2, 3):  # prefer a style that the user likes
            other = shelf.note_at(starts + self._dice.below(ends - starts, f"past/{attempt}", who, slots))
            fits = (styles[:, None, :] == shelf.style(chosen)[:, :, None]).any(axis=2)
            chosen = np.where(fits, chosen, other)
        anything = self._dice.below(shelf.n_notes, "past-any", who, slots)
        return np.where(self._dice.uniform("past-way", who, slots) < world.recent_by_taste, chosen, anything)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the table user_feat."""
        schema = pa.schema(list(TABLES["user_feat"].columns.items()))
        world, dice = self._world, self._dice
        for start in range(0, self.n, _USERS_BATCH):
            users = np.arange(start, min(start + _USERS_BATCH, self.n))
            location = np.where(
                dice.uniform("china", users) < world.china,
                np.array(_CITIES)[dice.below(len(_CITIES), "city", users)],
                np.array(_ABROAD)[dice.below(len(_ABROAD), "abroad", users)],
            )
            values: dict[str, object] = {
                "user_idx": users,
                **{
                    name: np.array(list(shares))[dice.choose(list(shares.values()), name, users)].tolist()
                    for name, shares in (("gender", world.gender), ("platform", world.platform), ("age", world.age))
                },
                "location": np.where(dice.uniform("no-location", users) < world.no_location, "", location).tolist(),
                "fans_num": np.floor(np.exp(1 + 1.8 * dice.normal("fans", users))),
                "follows_num": np.floor(np.exp(3 + 1.3 * dice.normal("follows", users))),
            }
            for i in range(1, _DENSE_FEATURES + 1):
                values[f"dense_feat{i}"] = np.floor(np.exp(i % 7 + dice.normal("dense", users, i)))
            yield pa.RecordBatch.from_arrays(
                [_array(values[field.name], field.type) for field in schema], schema=schema
            )
