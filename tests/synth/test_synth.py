"""What `synth` writes: complete, clean but for what was planted, the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from qilin_rag.core.errors import UsageError
from qilin_rag.data.schema import TABLES
from qilin_rag.data.source import open_source
from qilin_rag.data.text_files import Defect
from qilin_rag.data.validate import validate
from qilin_rag.synth import World, corpus, resolve_world, synthesize, write
from qilin_rag.synth.covers import SIDE_PX
from qilin_rag.synth.dice import Dice
from qilin_rag.synth.shelf import Shelf
from qilin_rag.synth.words import dictionary
from tests.conftest import Cli

SMALL = {"notes": 400, "searches": 150, "recommendations": 150, "dqa": 40, "users": 50}
SEARCHES = ("search_train", "search_test", "dqa")
RECOMMENDATIONS = ("recommendation_train", "recommendation_test")
OPTIONAL = {"note_embedding", "question_embedding", "answers", "extra"}


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def details_of(folder: Path, name: str) -> list[list[dict[str, Any]]]:
    column = "search_result_details_with_idx" if name in SEARCHES else "rec_result_details_with_idx"
    details: list[list[dict[str, Any]]] = pq.read_table(folder / name).column(column).to_pylist()
    return details


def test_all_tables_are_there_and_clean(synthetic: Path, world: World) -> None:
    defects: list[Defect] = []
    n_rows = validate(open_source(str(synthetic), list(TABLES)), defects.append)
    assert defects == []
    counts = world.counts
    assert (n_rows["notes"], n_rows["user_feat"], n_rows["dqa"]) == (counts.notes, counts.users, counts.dqa)
    assert sum(n_rows[name] for name in SEARCHES) == counts.searches
    assert sum(n_rows[name] for name in RECOMMENDATIONS) == counts.recommendations
    assert n_rows["search_test"] == round(6192 / 57188 * counts.searches)
    for name, table in TABLES.items():
        there = set(pq.read_schema(next((synthetic / name).glob("train-00000-of-*.parquet"))).names)
        assert there <= set(table.columns) - OPTIONAL
        assert set(table.columns) - OPTIONAL - there <= {"bm25_results", "search_results", "rec_results"}
    for names in (SEARCHES, RECOMMENDATIONS):
        key = TABLES[names[0]].key
        idxs = [i for name in names for i in pq.read_table(synthetic / name).column(key).to_pylist()]
        assert sorted(idxs) == list(range(len(idxs))) != idxs


def test_the_same_seed_is_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for out, seed in (("first", 5), ("second", 5), ("other", 6)):
        synthesize(resolve_world(SMALL, seed), tmp_path / out, images=True)
    first = hashes(tmp_path / "first")
    assert first == hashes(tmp_path / "second")
    other = hashes(tmp_path / "other")
    same = {name for name in first.keys() & other.keys() if first[name] == other[name]}
    assert not {name for name in same if name.endswith(".parquet")}

    monkeypatch.setattr(write, "REQUESTS_BATCH", 37)
    monkeypatch.setattr(corpus, "NOTES_BATCH", 100)
    synthesize(resolve_world(SMALL, 5), tmp_path / "batches")
    for name in [*TABLES, "truth.parquet"]:
        again, before = (pq.read_table(tmp_path / folder / name) for folder in ("batches", "first"))
        assert repr(again.to_pylist()) == repr(before.to_pylist())  # NaN equals nothing, its name does


def test_world_yaml_gives_it_again(cli: Cli, tmp_path: Path) -> None:
    sizes = [f"--{name}={n}" for name, n in SMALL.items()]
    settings = ["--without", "taste", "--set", "causes.cover=1.5", "--set", "no_source=0.5"]
    done = cli("synth", "--out", "a", *sizes, "--seed", 3, *settings, "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["rows"]["notes"] == 400
    assert cli("synth", "--out", "b", "--config", "a/world.yaml", "-q").out == "b\n"
    assert hashes(Path("a")) == hashes(Path("b"))
    page = Path("a/README.md").read_text(encoding="utf-8")
    assert "| taste | 0 |" in page
    assert "| cover | 1.5 |" in page


def test_awkward_rows_are_there(synthetic: Path) -> None:
    for name in (*SEARCHES, *RECOMMENDATIONS):
        details = details_of(synthetic, name)
        notes = [[one["note_idx"] for one in shown] for shown in details]
        positions = [[one["position"] for one in shown] for shown in details]
        assert any(len(set(some)) < len(some) for some in notes)
        assert any(some != list(range(some[0], some[-1] + 1)) for some in positions)
        assert all(some == sorted(set(some)) for some in positions)
    assert min(shown[0]["position"] for shown in details) == 1 < max(shown[0]["position"] for shown in details)
    search = pq.read_table(synthetic / "search_train")
    assert 0 < search.column("query_from_type").null_count < 0.03 * len(search)
    notes_table = pq.read_table(synthetic / "notes")
    assert [] in notes_table.column("image_path").to_pylist()
    for level in (1, 2, 3):
        assert "nan" in notes_table.column(f"taxonomy{level}_id").to_pylist()
    dqa = pq.read_table(synthetic / "dqa").to_pylist()
    shown = [{one["note_idx"] for one in row["search_result_details_with_idx"]} for row in dqa]
    assert any(set(row["ref_note_idx_list"]) - there for row, there in zip(dqa, shown, strict=True))
    page_times = {
        name: {one["page_time"] for some in details_of(synthetic, name) for one in some if not one["click"]}
        for name in ("dqa", "recommendation_test", "search_test")
    }
    assert page_times["dqa"] == {-1.0}
    assert page_times["recommendation_test"] == {0.0}
    assert all(np.isnan(seconds) for seconds in page_times["search_test"])


def test_truth_is_the_log(synthetic: Path) -> None:
    truth = pq.read_table(synthetic / "truth.parquet")
    clicks: dict[tuple[str, int, int], tuple[int, bool]] = {
        (table, request, position): (note, click)
        for table, request, position, note, click in zip(
            *(truth.column(name).to_pylist() for name in ("table", "request", "position", "note_idx", "click")),
            strict=True,
        )
    }
    n = 0
    for name in (*SEARCHES, *RECOMMENDATIONS):
        keys = pq.read_table(synthetic / name).column(TABLES[name].key).to_pylist()
        for key, details in zip(keys, details_of(synthetic, name), strict=True):
            for one in details:
                assert clicks[name, key, int(one["position"])] == (one["note_idx"], one["click"] == 1)
                n += 1
    assert n == len(truth)


def test_a_synonym_is_in_the_meaning_and_not_in_the_text(synthetic: Path) -> None:
    """Notes that match lexically hold the query's name of the concept; those that match by synonym never do."""
    notes = {
        row["note_idx"]: row["note_title"] + row["note_content"]
        for row in pq.read_table(synthetic / "notes", columns=["note_idx", "note_title", "note_content"]).to_pylist()
    }
    queries = {
        (name, row["search_idx"]): row["query"]
        for name in SEARCHES
        for row in pq.read_table(synthetic / name).to_pylist()
    }
    columns = ["table", "request", "note_idx", "lexical", "synonym", "topical"]
    named: dict[str, list[bool]] = {"lexical": [], "synonym": [], "other": []}
    for row in pq.read_table(synthetic / "truth.parquet", columns=columns).to_pylist():
        if row["table"] in SEARCHES:
            assert row["topical"] or not (row["lexical"] or row["synonym"])
            match = "lexical" if row["lexical"] else "synonym" if row["synonym"] else "other"
            named[match].append(queries[row["table"], row["request"]][:2] in notes[row["note_idx"]])
    assert min(map(len, named.values())) > 5000
    assert all(named["lexical"])
    assert np.mean(named["synonym"]) < 0.01  # where two words meet, their characters may make a third
    assert np.mean(named["other"]) < 0.01


def test_texts_are_like_notes(synthetic: Path) -> None:
    table = pq.read_table(synthetic / "notes").to_pydict()
    titles, bodies, lengths = (table[name] for name in ("note_title", "note_content", "content_length"))
    assert lengths == [len(body) for body in bodies]
    assert 120 < np.median(lengths) < 260
    assert 700 < max(lengths) <= 1000
    assert 7 < np.median([len(title) for title in titles]) < 20
    assert np.mean(["[话题]#" in body for body in bodies]) > 0.95
    assert np.mean(["R]" in body for body in bodies]) > 0.3
    beginnings = {body[:20] for body in bodies}
    assert 0.02 < 1 - len(beginnings) / len(bodies) < 0.05
    assert len(set(bodies)) == len(bodies)


def test_word_frequencies_are_those_of_the_dictionary(synthetic: Path) -> None:
    """Of the head words, which are dealt to no topic, each is as frequent as jieba says; characters may meet, too."""
    known = dictionary()
    text = "".join(pq.read_table(synthetic / "notes", columns=["note_content"]).column(0).to_pylist())
    words = [word for word in known.words if len(word) == 2][:60]
    counts = np.array([text.count(word) for word in words], float)
    expected = np.array([known.counts[known.words.index(word)] for word in words], float)
    assert np.corrcoef(np.log(counts), np.log(expected))[0, 1] > 0.9
    assert counts[0] > 3 * counts[-1]


def test_notes_of_a_concept_are_found_by_arithmetic() -> None:
    for n in (200, 997, 4096):
        shelf = Shelf(resolve_world({"notes": n}, 0), Dice(0))
        notes = np.arange(n)
        assert (shelf.note_at(shelf.place(notes)) == notes).all()
        assert sorted(shelf.place(notes).tolist()) == notes.tolist()
        assert (np.diff(shelf.concept_starts) > 0).all()


def test_covers_show_the_cue(tmp_path: Path) -> None:
    out = tmp_path / "out"
    world = resolve_world(SMALL, 1)
    synthesize(world, out, images=True)
    shelf = Shelf(world, Dice(1))
    paths = dict(
        zip(*(pq.read_table(out / "notes").column(n).to_pylist() for n in ("note_idx", "image_path")), strict=True)
    )
    shown = set(pq.read_table(out / "truth.parquet").column("note_idx").to_pylist())
    covers = {str(path.relative_to(out)) for path in (out / "image").rglob("*.png")}
    assert covers == {paths[note][0] for note in shown if paths[note]}
    cues = []
    for note in sorted(shown):
        has_cue = bool(shelf.has_cue(np.array([note]))[0])
        if not paths[note]:
            assert not has_cue
            continue
        data = (out / paths[note][0]).read_bytes()
        assert data.startswith(b"\x89PNG\r\n\x1a\n")
        length = struct.unpack(">I", data[33:37])[0]
        lines = np.frombuffer(zlib.decompress(data[41 : 41 + length]), np.uint8).reshape(SIDE_PX, 1 + 3 * SIDE_PX)
        red, _, blue = lines[:, 1:].reshape(-1, 3).mean(axis=0)
        assert (red > blue) == has_cue
        cues.append(has_cue)
    assert 0.15 < np.mean(cues) < 0.45


def test_it_is_data_like_any_other(synthetic: Path, cli: Cli) -> None:
    done = cli("run", "--data", synthetic, "--retriever", "oracle", "--limit", 20, "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["metrics"]["rouge_l"]["value"] > 0.3
    recorded = cli("run", "--data", synthetic, "--retriever", "recorded:bm25", "--limit", 5, "--json")
    assert json.loads(recorded.out)["counts"]["ok"] == 5
    assert cli("data", "stats", synthetic).code == 0
    assert "0 defects" in cli("data", "validate", synthetic).out


def test_no_dqa_is_an_empty_table(tmp_path: Path) -> None:
    written = synthesize(resolve_world({**SMALL, "dqa": 0}, 0), tmp_path / "out")
    assert written["dqa"] == 0
    assert pq.read_table(tmp_path / "out" / "dqa").column_names[0] == "search_idx"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--without", "tast"], "cause 'tast' does not exist; did you mean 'taste'?"),
        (["--searches", "10", "--dqa", "11"], "of 10 searches 11 can't have a row in dqa"),
        (["--notes", "3"], "setting 'counts.notes' is 3"),
        (["--set", "causes.tast=1"], "setting 'causes.tast' does not exist"),
        (["--set", "search.actions.like=2"], "setting 'search.actions.like' is 2"),
        (["--set", "sources=[1, 1, 0, 0, 0, 0, 0, 0]"], "the shares of sources add up to 2.0000, not 1"),
        (["--set", "nothing=1"], "setting 'nothing' does not exist"),
        (["--set", "topics=100000"], "setting 'topics' is 100000"),
        (["--config", "nowhere.yaml"], "nowhere.yaml can't be read"),
    ],
)
def test_bad_input_is_one_line(cli: Cli, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = cli("synth", "--out", tmp_path / "out", *arguments)
    assert (done.code, done.err.count("\n"), done.out) == (2, 1, "")
    assert message in done.err
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    done = cli("synth", "--out", tmp_path / "mine")
    assert (done.code, "not empty" in done.err) == (2, True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["file"]


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UsageError("stop")

    monkeypatch.setattr(write, "truth", fail)
    with pytest.raises(UsageError, match="stop"):
        synthesize(resolve_world(SMALL, 0), tmp_path / "folder" / "out")
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_file_may_name_some_settings_only(cli: Cli) -> None:
    Path("world.yaml").write_text(
        "counts: {notes: 300, searches: 5, recommendations: 5, dqa: 0, users: 2}\nsearch: {depth: 10}\n"
        "feedback: {is_like_clk: 0.5}\n",
        encoding="utf-8",
    )
    assert cli("synth", "--out", "a", "--config", "world.yaml", "--set", "recommendation.depth=12").code == 0
    given = yaml.safe_load(Path("a/world.yaml").read_text(encoding="utf-8"))
    usual = World().model_dump()
    assert given["search"] == usual["search"] | {"depth": 10}
    assert given["recommendation"] == usual["recommendation"] | {"depth": 12}
    assert given["feedback"] == usual["feedback"] | {"is_like_clk": 0.5}
    assert given["causes"] == usual["causes"]


@pytest.mark.parametrize(
    ("counts", "settings"),
    [
        ({"notes": 200, "searches": 1, "recommendations": 1, "dqa": 0, "users": 1}, []),
        ({"notes": 200, "searches": 30, "recommendations": 1, "dqa": 30, "users": 3}, ["outside_references=1"]),
        (
            {"notes": 211, "searches": 20, "recommendations": 20, "dqa": 5, "users": 2},
            ["search.depth=100", "shown_if_not=1"],
        ),
        ({"notes": 300, "searches": 20, "recommendations": 20, "dqa": 9, "users": 9}, ["no_images=1", "no_source=1"]),
        ({"notes": 300, "searches": 40, "recommendations": 9, "dqa": 9, "users": 9}, ["next_request=1", "topics=2"]),
    ],
)
def test_odd_worlds_are_clean(tmp_path: Path, counts: dict[str, int], settings: list[str]) -> None:
    synthesize(resolve_world(counts, 0, (), settings), tmp_path / "out", images=True)
    defects: list[Defect] = []
    validate(open_source(str(tmp_path / "out"), list(TABLES)), defects.append)
    assert defects == []


def test_recent_clicks_show_the_taste(synthetic: Path) -> None:
    """How often a note's taxonomy is among the recent clicks tells of the taste that truth has for it."""
    notes = pq.read_table(synthetic / "notes", columns=["note_idx", "taxonomy3_id"]).to_pylist()
    kinds = {row["note_idx"]: row["taxonomy3_id"] for row in notes}
    truth = pq.read_table(synthetic / "truth.parquet", columns=["table", "request", "note_idx", "taste"]).to_pylist()
    recent = {
        row["request_idx"]: [kinds[note] for note in row["recent_clicked_note_idxs"]]
        for row in pq.read_table(synthetic / "recommendation_test").to_pylist()
    }
    assert max(map(len, recent.values())) == 20
    assert min(map(len, recent.values())) >= 1
    shares, tastes = [], []
    for row in truth:
        if row["table"] == "recommendation_test" and kinds[row["note_idx"]] != "nan":
            before = recent[row["request"]]
            shares.append(before.count(kinds[row["note_idx"]]) / len(before))
            tastes.append(row["taste"])
    assert np.corrcoef(shares, tastes)[0, 1] > 0.3
