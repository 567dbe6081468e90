"""`rank`, `train` and `leaderboard --task` as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qilin_rag.synth import resolve_world, synthesize
from tests.conftest import Cli, write_jsonl


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "qilin"
    synthesize(resolve_world({"notes": 300, "searches": 120, "recommendations": 100, "dqa": 30, "users": 30}, 1), out)
    return out


def test_rank_prints_figures_and_the_folder(cli: Cli, world: Path) -> None:
    done = cli("rank", "--ranker", "bm25", "--data", world, "--set", "ranker.k1=1.5")
    assert done.code == 0
    assert done.out.startswith("bm25 k1=1.5, search test; qilin\n")
    for figure in ("mrr@10", "map@100", "ndcg@10", "map@10 (released code)"):
        assert figure in done.out
    assert "cold start" not in done.out
    folder = Path(done.out.splitlines()[-1])
    assert (folder / "run.trec").is_file()
    again = cli("rank", "--ranker", "bm25", "--data", world, "--set", "ranker.k1=1.5", "--slices")
    assert (again.err.count("\n"), str(folder) in again.err, "--fresh" in again.err) == (1, True, True)
    for part in ("query length", "query source", "place in session", "seen in train *", "no, cold start", "video"):
        assert part in again.out
    as_json = json.loads(cli("rank", "--ranker", "bm25", "--data", world, "--set", "ranker.k1=1.5", "--json").out)
    assert as_json["run"] == str(folder)
    assert as_json["slices"][0]["figures"]["mrr@10"].keys() == {"value", "n", "stderr"}
    first = cli("rank", "--ranker", "random", "--data", world, "--task", "recommendation", "--first", "3", "-q")
    assert "random, recommendation test, the first 3 requests; qilin" in first.out


def test_candidates_by_name(cli: Cli, world: Path) -> None:
    command = ("rank", "--ranker", "random", "--data", world)
    shown = cli(*command)
    for text in ("gauc_user", "whole set", "request_auc", "no logloss, calibration: the ranker's scores are no prob"):
        assert text in shown.out
    sampled = cli(*command, "--candidates", "sampled:9", "--seed", "2", "--slices")
    assert sampled.code == 0, sampled.err
    assert "random, search test, candidates sampled:9, seed 2; qilin" in sampled.out
    assert "* Only these clicked notes, each ranked against all negatives." in sampled.out and "hit@10" in sampled.out
    recorded = cli(*command, "--candidates", "recorded:dpr", "--slices")
    assert "clicked notes not among the candidates: they count as not found" in recorded.out
    assert "candidates recorded:dpr" in recorded.out and "ranked among themselves" in recorded.out
    board = cli("leaderboard", "--task", "search", "--metrics", "gauc_request,hit@10")
    assert board.code == 0 and "GAUC by request" in board.out and "Hit@10" in board.out
    assert board.out.count("qilin, test") == 3
    sorted_board = cli("leaderboard", "--task", "search", "--metrics", "*", "--sort", "LogLoss")
    assert sorted_board.code == 0, sorted_board.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rank", "--ranker", "bm52"], "ranker 'bm52' does not exist; did you mean 'bm25'?"),
        (["rank"], "(--ranker; see: qilin-rag list rankers)"),
        (["rank", "--ranker", "bm25", "--set", "ranker.k2=1"], "setting 'k2' does not exist; did you mean 'k1'?"),
        (["rank", "--ranker", "bm25", "--set", "k1=1"], "setting 'k1' does not exist; known: ranker.KEY"),
        (["rank", "--ranker", "bm25", "--data", "nowhere"], "data 'nowhere' does not exist"),
        (["rank", "--ranker", "bm25", "--data", "sample"], "table search_test does not exist"),
        (["rank", "--ranker", "bm25", "--candidates", "corpus"], "--candidates trec:FILE"),
        (["rank", "--ranker", "bm25", "--candidates", "sampled:x"], "it must be sampled:N"),
        (["rank", "--ranker", "bm25", "--seed", "3"], "--seed is for --candidates sampled:N"),
        (["rank", "--ranker", "production", "--candidates", "sampled:9"], "takes the order of the candidates"),
        (["rank", "--checkpoint", "nowhere"], "nowhere holds no trained ranker"),
        (["rank", "--ranker", "bm25", "--task", "recommendation", "--split", "dqa"], "split dqa holds searches"),
        (["rank", "--ranker", "tests.rankers.made:Toy"], "has to be trained first; name the folder that `train` wrote"),
        (["train", "bm25", "--out", "out"], "ranker bm25 is not trained; the command rank takes it as it is"),
        (["train", "bienc", "--out", "out"], "ranker 'bienc' does not exist; did you mean 'biencoder'"),
        (["train", "mine.yaml", "--out", "out"], "ranker bm25: setting 'k2' does not exist; did you mean 'k1'?"),
        (["train", "nameless.yaml", "--out", "out"], "nameless.yaml: name must be one of random, production, bm25"),
        (["train", "nowhere.yaml", "--out", "out"], "nowhere.yaml can't be read"),
        (["train", "tests.rankers.made:Toy", "--out", "out", "--task", "search,dqa"], "task 'dqa' does not exist"),
        (["train", "tests.rankers.made:Toy", "--out", "out", "--without", "text"], "setting 'without' does not exist"),
        (["train", "tests.rankers.made:Toy", "--out", "out", "--set", "ranker.validation_share=0"], "greater than 0"),
    ],
)
def test_bad_input_is_one_line_with_code_2(cli: Cli, world: Path, arguments: list[str], message: str) -> None:
    Path("mine.yaml").write_text("name: bm25\nk2: 1\n")
    Path("nameless.yaml").write_text("k1: 1\n")
    data = [] if "--data" in arguments else ["--data", world]
    done = cli(*arguments, *data)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith("error: ")
    assert message in done.err
    assert not Path("out").exists() and not Path("runs").exists()


def test_a_secret_of_ones_own_ranker_is_refused(cli: Cli, world: Path) -> None:
    Path("hidden.py").write_text(
        "from pydantic import SecretStr\nfrom qilin_rag.rankers.base import Ranker\n"
        "from tests.rankers.made import Toy\n"
        "class R(Ranker):\n    token: SecretStr\n    def score(self, requests, catalogue): ...\n"
        "class T(Toy):\n    token: SecretStr\n"
    )
    token = ("--set", "ranker.token=sk-1234567890", "--data", world)
    for command in (("rank", "--ranker", "hidden:R"), ("train", "hidden:T", "--out", "out")):
        done = cli(*command, *token)
        assert (done.code, done.err.count("\n")) == (2, 1), done.err
        assert "token is a secret" in done.err and "1234567890" not in done.err
    assert not Path("out").exists() and not Path("runs").exists()


def test_data_is_named_once(cli: Cli, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (
        ["rank", "--ranker", "random"],
        ["train", "dcn-v2", "--out", "o"],
        ["analyze", "--out", "o", "--no-plots"],
    ):
        assert "name the data with --data" in cli(*command).err
    monkeypatch.setenv("QILIN_RAG_DATA", str(world))
    assert cli("rank", "--ranker", "random", "-q").code == 0


def test_a_configuration_by_name(cli: Cli, world: Path) -> None:
    folder = Path("configs/rankers")
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("name: bm25\nk1: 2.0\n")
    assert "ranker bm25 is not trained" in cli("train", "mine", "--out", "out", "--data", world).err
    (folder / "code.yaml").write_text("name: tests.rankers.made:Toy\n")
    assert "name must be one of" in cli("train", "code", "--out", "out", "--data", world).err
    assert "did you mean 'mine'" in cli("train", "mien", "--out", "out", "--data", world).err


def test_interrupted(cli: Cli, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qilin_rag.rankers.run.score_candidates", interrupt)
    done = cli("rank", "--ranker", "random", "--data", world)
    assert (done.code, "the same command begins again" in done.err) == (130, True)
    assert "left out, incomplete" in cli("leaderboard", "--task", "search").err
    monkeypatch.setattr("qilin_rag.rankers.run.train", interrupt)
    done = cli("train", "tests.rankers.made:Toy", "--out", "here", "--data", world)
    assert (done.code, "the checkpoints in here are kept" in done.err) == (130, True)


def test_verbose_shows_where_a_ranker_of_the_users_own_failed(cli: Cli, world: Path) -> None:
    Path("divides.py").write_text(
        "from qilin_rag.rankers.base import Ranker\nclass R(Ranker):\n    def score(self, requests, catalogue): 1 / 0\n"
    )
    command = ["rank", "--ranker", "divides:R", "--data", world]
    short = cli(*command)
    assert (short.code, short.err) == (1, "error: ranker divides:R failed: ZeroDivisionError: division by zero\n")
    assert "def score" in cli(*command, "--verbose").err


def test_list_rankers(cli: Cli) -> None:
    listed = json.loads(cli("list", "rankers", "--json").out)
    assert list(listed)[:3] == ["random", "production", "bm25"]
    assert all(listed.values())


def test_leaderboard_of_a_task(cli: Cli, world: Path) -> None:
    for task in ("search", "recommendation"):
        for ranker in ("random", "bm25"):
            assert cli("rank", "--ranker", ranker, "--task", task, "--data", world, "-q").code == 0
    board = cli("leaderboard", "--task", "search", "--paper-anyway")
    assert board.code == 0
    assert all(
        text in board.out for text in ("MRR@100", "VLM (paper,", "its BM25 looks like chance", "not of this data")
    )
    refused = cli("leaderboard", "--task", "search", "--paper").out
    assert "VLM" not in refused and "no rows of the paper" in refused
    assert f"to compare with: qilin-rag rank --ranker production --task search --data {world}" in " ".join(
        board.out.split()
    )
    assert "MAP@10 (released code)" in cli("leaderboard", "--task", "recommendation", "--format", "md").out
    [table] = json.loads(cli("leaderboard", "--task", "recommendation", "--format", "json").out)
    assert table["blocks"][0]["rows"] == ["random", "bm25"]
    for option in ("--common", "--controls"):
        done = cli("leaderboard", "--task", "search", option)
        assert (done.code, f"{option} is for answers" in done.err) == (2, True)
    assert "holds no complete run" in cli("leaderboard").err  # rankings are no runs of DQA


def test_a_narrow_terminal_breaks_the_columns_over_several_tables(
    cli: Cli, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ranker in ("random", "bm25"):
        cli("rank", "--ranker", ranker, "--data", world, "-q")
    monkeypatch.setattr("qilin_rag.cli.ui.PIPE_WIDTH_CHARS", 80)
    out = cli("leaderboard", "--task", "search", "--paper-anyway").out
    assert max(map(len, out.splitlines())) <= 80
    assert [line.split()[0] for line in out.splitlines() if line.startswith(("random", "VLM"))] == [
        "random",
        "VLM",
        "random",
    ]  # the paper has no figure in the last


def test_rank_reads_the_fields_that_are_named(cli: Cli, world: Path, tmp_path: Path) -> None:
    data = tmp_path / "qilin"
    data.mkdir()
    for part in world.iterdir():
        (data / part.name).symlink_to(part)
    write_jsonl(data / "image_text.jsonl", [{"note_idx": 0, "image_text": "咖啡"}])
    shown = {}
    for fields in (None, "title", "title,content,image_text"):
        named = [] if fields is None else ["--note-fields", fields]
        done = cli("rank", "--ranker", "bm25", "--data", data, *named, "--json")
        assert done.code == 0, done.err
        manifest = json.loads((Path(json.loads(done.out)["run"]) / "ranking.json").read_text())
        shown[fields] = manifest["requests_sha256"], manifest["identity"].get("note_fields")
    assert [fields for _, fields in shown.values()] == [None, "title", "title+content+image_text"]
    assert len({requests for requests, _ in shown.values()}) == 1
    board = cli("leaderboard", "--task", "search").out
    assert "bm25 · title+content+image_text" in board
    wrong = cli("rank", "--ranker", "bm25", "--data", data, "--note-fields", "text")
    assert (wrong.code, "'text' is not a field of notes" in wrong.err) == (2, True)
