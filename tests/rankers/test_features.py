"""Columns of users, notes and context: the same in every process, and nothing in a batch that is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Requests
from qilin_rag.rankers.features import (
    N_RECENT,
    NOTE_COUNTS,
    RECOMMENDATION_SOURCE,
    Columns,
    bucket_of_ids,
    bucket_of_texts,
    columns_of,
    log_counts,
    mean_and_std,
    read_user_columns,
    recent_buckets,
)
from tests.rankers.conftest import Made, MakeWorld

COUNTS = {"notes": 400, "searches": 60, "recommendations": 60, "dqa": 5, "users": 20}
N_BUCKETS = dict.fromkeys(
    [
        *("gender", "platform", "age", "location", "user_idx"),
        *("note_type", "taxonomy1_id", "taxonomy2_id", "taxonomy3_id", "note_idx"),
    ],
    512,
)
HASHES = """
import pyarrow as pa
from qilin_rag.rankers.features import bucket_of_texts
print(bucket_of_texts("location", pa.array(["上海", "北京", "", "nan", None, "Andorra"]), 4096).tolist())
"""


@pytest.fixture(scope="module")
def made(make_world: MakeWorld) -> Made:
    return make_world(COUNTS)


def columns(requests: Requests, catalogue: Catalogue) -> Columns:
    users = read_user_columns(catalogue.need_users("a test"), N_BUCKETS)
    return columns_of(requests, catalogue, N_BUCKETS, (), users, None)


def test_texts_have_the_same_bucket_in_every_process() -> None:
    """Defect 4: taxonomy and location ids were Python's `hash(str)`, another one in each process."""
    found = set()
    for seed in ("0", "1", "random"):
        command = [sys.executable, "-c", HASHES]
        env = os.environ | {"PYTHONHASHSEED": seed}
        found.add(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert found == {"[1964, 1251, 0, 0, 0, 4089]\n"}


def test_no_two_known_values_meet_in_the_default_tables() -> None:
    from qilin_rag.rankers.dcn_v2 import Tables

    n_buckets = Tables().n_buckets()
    ages = ["1-12", "13-15", "16-18", "19-22", "23-25", "26-30", "31-35", "36-40", "40+", "unknown"]
    for name, values in {
        "gender": ["male", "female", "unknown"],
        "platform": ["iOS", "Android", "Harmony", "unknown"],
        "age": ages,
    }.items():
        found = bucket_of_texts(name, pa.array(values), n_buckets[name])
        assert len(set(found.tolist())) == len(values)
        assert found.min() > 0
    assert np.array_equal(
        bucket_of_ids(np.array([-1, 0, 1_983_937]), n_buckets["note_idx"]),
        [0, 1, 1_983_938],
    )
    assert len(np.unique(bucket_of_ids(np.arange(15_482), n_buckets["user_idx"]))) == 15_482


def test_counts_are_scaled_and_what_is_missing_has_no_part_in_it() -> None:
    """Defect 5: counts went in unscaled."""
    values = log_counts(np.array([[0.0, 5], [np.e - 1, 5], [np.nan, 5], [-1, 5]]))
    assert values[:2, 0].tolist() == [0, 1]
    assert values[3, 0] == 0
    mean, std = mean_and_std(values)
    assert mean == pytest.approx([1 / 3, np.log(6)])
    assert std == pytest.approx([np.std([0, 1, 0]), 1])
    mean, std = mean_and_std(np.full((2, 1), np.nan, np.float32))
    assert (mean.tolist(), std.tolist()) == ([0], [1])


def test_all_thirty_counts_are_known() -> None:
    assert len(NOTE_COUNTS) == 30
    assert all(name.endswith(("_num", "_time", "_times")) for name in NOTE_COUNTS)


def test_history_is_the_first_ten_and_padding_is_told_apart(made: Made) -> None:
    requests = made.requests("recommendation", "train")
    found = recent_buckets(requests, 512)
    assert found.shape == (len(requests), N_RECENT)
    for row in range(len(requests)):
        start, end = requests.recent_offsets[row : row + 2]
        expected = (1 + requests.recent[start:end][:N_RECENT] % 511).tolist()
        assert found[row].tolist() == expected + [0] * (N_RECENT - len(expected))


def test_a_request_without_recent_clicks_has_no_history(made: Made) -> None:
    requests = made.requests("recommendation", "train")
    none = replace(requests, recent=requests.recent[:0], recent_offsets=np.zeros_like(requests.recent_offsets))
    assert not recent_buckets(none, 512).any()


def test_a_missing_query_source_is_a_class_of_its_own(made: Made) -> None:
    """Defect 6: a NaN query source crashed."""
    requests = made.requests("search", "train")
    sources = requests.source.copy()
    sources[:3] = [0, 8, 99]
    found = columns(replace(requests, source=sources), made.catalogue)
    assert found.source is not None
    assert found.source[:3].tolist() == [0, 8, 0]
    of_recommendations = columns(made.requests("recommendation", "train"), made.catalogue)
    assert of_recommendations.source is not None
    assert set(of_recommendations.source.tolist()) == {RECOMMENDATION_SOURCE}


def test_a_batch_is_what_the_tables_say_row_by_row(made: Made) -> None:
    requests = made.requests("search", "train")
    batch = columns(requests, made.catalogue).batch(np.array([5, 0, 5, 17]))
    users = made.catalogue.need_users("a test").to_pylist()
    for i, row in enumerate([5, 0, 5, 17]):
        note = made.catalogue.notes.read([int(requests.note_idx[row])]).to_pylist()[0]
        user = users[int(requests.user_idx[requests.request[row]])]
        assert batch["note_numbers"][i, 0] == pytest.approx(np.log1p(note["video_duration"]), nan_ok=True)
        expected = [np.log1p(note[name]) for name in NOTE_COUNTS]
        assert batch["note_numbers"][i, 6:].tolist() == pytest.approx(expected, rel=1e-6)
        assert batch["note_ids"][i, 4] == 1 + note["note_idx"] % 511
        assert batch["note_ids"][i, 3] == bucket_of_texts("taxonomy3_id", pa.array([note["taxonomy3_id"]]), 512)[0]
        assert batch["user_numbers"][i, 0] == pytest.approx(np.log1p(user["fans_num"]), rel=1e-6)
        assert batch["user_numbers"][i, 2] == pytest.approx(user["dense_feat1"], rel=1e-6)
        assert batch["user_ids"][i, 4] == 1 + user["user_idx"] % 511
        assert batch["user_ids"][i, 0] == bucket_of_texts("gender", pa.array([user["gender"]]), 512)[0]


def test_a_user_nobody_knows_has_no_values(made: Made) -> None:
    requests = made.requests("search", "train")
    users = requests.user_idx.copy()
    users[:2] = [-1, 10**6]
    batch = columns(replace(requests, user_idx=users), made.catalogue).batch(
        np.array([requests.offsets[0], requests.offsets[1]])
    )
    assert np.isnan(batch["user_numbers"]).all()
    assert batch["user_ids"].tolist() == [[0, 0, 0, 0, 0], [0, 0, 0, 0, 1 + 10**6 % 511]]


def test_data_without_users_is_said(made: Made) -> None:
    pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
    from qilin_rag.rankers.dcn_v2 import DCNV2

    with pytest.raises(UsageError, match="dcn-v2 \\(unless without: \\[user\\]\\) needs the table user_feat"):
        DCNV2().recipe(made.requests("search", "train"), Catalogue(made.catalogue.notes))


@pytest.mark.parametrize("name", ["dcn_v2_search", "dcn_v2_recommendation", "dcn_v2_joint"])
def test_the_papers_settings_are_settings(name: str) -> None:
    from qilin_rag.config.resources import find_resource, read_yaml
    from qilin_rag.core.registry import RANKERS

    settings = read_yaml(find_resource("configs/rankers", name))
    ranker = RANKERS.create(settings.pop("name"), settings)
    assert ranker.embedding_learning_rate == 0.1
    assert ranker.hidden == (512, 512)
