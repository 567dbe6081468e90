"""A grid of runs: what is shared is done once, what fails costs no other run, and nothing is done twice."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import RunConfig
from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Hit
from qilin_rag.data import NoteStore
from qilin_rag.llms.openai_compatible import OpenAICompatible
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.sweep import plan_sweep, read_sweep, sweep
from qilin_rag.retrievers import Retriever
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.retrievers.none import NoRetriever
from tests.conftest import Cli, launch, wait_until
from tests.fake_server import MODEL, FakeServer


def write_grid(text: str) -> str:
    Path("grid.yaml").write_text(text)
    return "grid.yaml"


def preset(name: str, server: FakeServer) -> None:
    folder = Path("configs/llms")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(f"class: openai\nmodel: {MODEL}\nbase_url: {server.url}\n")


def grid_of(configs: list[RunConfig]) -> list[tuple[str, str, str, int]]:
    return [(config.retriever.named().name, config.llm_label, config.prompt.source, config.top_k) for config in configs]


def test_a_grid_is_a_product() -> None:
    path = write_grid(
        "retrievers: [none, {name: bm25, k1: 1.2}]\nllms: [extractive]\nprompts: [default, concise]\n"
        "top_k: [3, 5]\nlimit: 7\n"
    )
    configs = read_sweep(path, {}, {"seed": 3})
    assert len(set(grid_of(configs))) == len(configs) == 8
    assert {config.limit for config in configs} == {7}
    assert {config.seed for config in configs} == {3}
    assert {config.retriever for config in configs} == {NoRetriever(), BM25(k1=1.2)}


def test_lists_can_be_replaced_and_flags_win() -> None:
    path = write_grid("retrievers: [none, bm25]\nllms: [glm-4, gpt-4o-mini]\nlimit: 7\n")
    configs = read_sweep(path, {"llms": ["extractive"]}, {"limit": 2, "data": None}, ["top_k=9"])
    assert grid_of(configs) == [("none", "extractive", "default", 9), ("bm25", "extractive", "default", 9)]
    assert {config.limit for config in configs} == {2}


def test_the_notes_have_axes_of_their_own() -> None:
    path = write_grid("note_order: [best_first, best_last]\nnote_chars: [null, 100, 200]\ntop_k: 3\n")
    configs = read_sweep(path, {}, {})
    assert [(config.note_order, config.note_chars) for config in configs] == [
        (order, chars) for order in ("best_first", "best_last") for chars in (None, 100, 200)
    ]
    [single] = read_sweep(write_grid("note_order: shuffled\nnote_chars: 50"), {}, {})
    assert (single.note_order, single.note_chars) == ("shuffled", 50)


def test_one_factor_at_a_time_around_the_first_of_each_list() -> None:
    axes: dict[str, list[Any]] = {"retrievers": ["none", "bm25"], "prompts": ["cite", "bare"], "top_k": [5, 1, 3]}
    axes["note_chars"] = [None, 9]
    configs = read_sweep(None, axes, {}, one_factor=True)
    factors = [("cite", 5, None), ("cite", 5, 9), ("cite", 1, None), ("cite", 3, None), ("bare", 5, None)]
    assert [(config.prompt.source, config.top_k, config.note_chars) for config in configs] == factors * 2
    assert [config.retriever.named().name for config in configs] == ["none"] * 5 + ["bm25"] * 5


def test_controls_join_the_retrievers(data_dir: Path, cli: Cli) -> None:
    def retrievers(text: str, **axes: list[Any]) -> list[str]:
        return [config.retriever.named().name for config in read_sweep(write_grid(text), axes, {}, controls=True)]

    assert retrievers("limit: 1") == ["bm25", "random", "oracle_top_k"]
    assert retrievers("retrievers: [none, {name: bm25, k1: 1}, random]") == ["none", "bm25", "random", "oracle_top_k"]
    assert retrievers("retrievers: [none]", retrievers=["oracle"]) == ["oracle", "random", "oracle_top_k"]
    done = cli("sweep", write_grid("top_k: [1, 2]"), "--controls", "--data", data_dir, "--json")
    assert done.code == 0, done.err
    names = [path.name.split("-")[1] for path in sorted(Path("runs").iterdir())]
    assert names == ["bm25"] * 2 + ["oracle_top_k"] * 2 + ["random"] * 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("note_order: [sideways]", "'best_first', 'best_last' or 'shuffled'"),
        ("note_chars: [0]", "note_chars"),
        ("retriever: bm25", "a sweep has retrievers"),
        ("retrievers: bm25", "retrievers must be a list"),
        ("llms: []", "llms must be a list with at least one"),
        ("llms: [extractive]\nlimt: 3", "did you mean 'limit'"),
        ("llms: ['os:system']", "must be a registered name"),
        ("llms: [glm4]", "did you mean 'glm-4'"),
        ("top_k: [0]", "top_k"),
        ("prompts: [defualt]", "did you mean 'default'"),
        ("- bm25", "expected a mapping"),
    ],
)
def test_a_wrong_grid_is_one_line(text: str, said: str, cli: Cli) -> None:
    done = cli("sweep", write_grid(text))
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.parametrize("axis", ["--retrievers", "--llms", "--prompts"])
def test_a_list_that_names_nothing_is_one_line(axis: str, cli: Cli) -> None:
    for dry_run in ([], ["--dry-run"]):
        done = cli("sweep", write_grid("llms: [extractive]"), axis, " ,", *dry_run)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert f"{axis} ' ,' names nothing" in done.err


def test_the_papers_table_has_a_file() -> None:
    configs = read_sweep("table11", {}, {})
    assert len(configs) == 20
    assert {config.retriever.named().name for config in configs} == {"none", "recorded:bm25", "recorded:dpr", "oracle"}
    assert {config.data for config in configs} == {"hub:THUIR/Qilin"}
    own = read_sweep("table11_own_index", {}, {})
    assert {config.retriever.named().name for config in own} == {"none", "bm25", "biencoder", "oracle"}
    local = read_sweep("table11_local", {}, {"serve": True})
    assert [config.llm.engine["name"] for config in local] == ["vllm"] * 4
    with pytest.raises(UsageError, match="did you mean 'table11'"):
        read_sweep("table12", {}, {})


def test_a_server_is_started_only_for_who_names_one() -> None:
    configs = read_sweep(write_grid("llms: [extractive, qwen2.5-72b, glm-4]"), {}, {"serve": True})
    assert [config.serve for config in configs] == [False, True, False]


class Counting(BM25):
    """BM25 that counts what it is asked."""

    def search(self, questions: Any, notes: NoteStore, k: int) -> list[list[Hit]]:
        SEARCHED[k] += len(questions)
        return super().search(questions, notes, k)


class Unnested(Retriever):
    """What it finds at a smaller k is no beginning of what it finds at a larger one."""

    def search(self, questions: Any, notes: NoteStore, k: int) -> list[list[Hit]]:
        SEARCHED[k] += len(questions)
        best = sorted(map(int, notes.note_idxs))[-k:]
        return [[Hit(note_idx=n, score=1.0, rank=rank) for rank, n in enumerate(best, 1)] for _ in questions]


SEARCHED: Counter[int] = Counter()


@pytest.mark.parametrize(("name", "searched"), [("Counting", {2: 3}), ("Unnested", {1: 3, 2: 3})])
def test_retrieval_is_done_once_a_retriever(data_dir: Path, name: str, searched: dict[int, int]) -> None:
    SEARCHED.clear()
    path = write_grid("llms: [extractive]\nprompts: [default, concise, cite]\ntop_k: [1, 2]\n")
    configs = read_sweep(path, {"retrievers": [f"tests.pipeline.test_sweep:{name}"]}, {"data": str(data_dir)})
    assert [plan.calls for plan in plan_sweep(configs)] == [3] * 6
    assert searched == SEARCHED
    SEARCHED.clear()
    swept = sweep(configs)
    assert searched == SEARCHED
    assert [each.manifest.config["top_k"] for each in swept.runs] == [1, 2] * 3  # in the order of the grid
    for config, done in zip(configs, swept.runs, strict=True):
        alone = run(config.model_copy(update={"runs_dir": Path("alone")}))
        assert alone.directory.path.name == done.directory.path.name
        assert alone.summary == done.summary
        samples = [each.directory.read_samples()[0] for each in (alone, done)]
        assert [sample.hits for sample in samples[0].values()] == [sample.hits for sample in samples[1].values()]


def test_missing_notes_are_counted_at_each_k(data_dir: Path) -> None:
    Path("x.trec").write_text("1 Q0 10 1 3 t\n1 Q0 99 2 2 t\n1 Q0 11 3 1 t\n2 Q0 12 1 1 t\n3 Q0 11 1 1 t\n")
    path = write_grid("retrievers: ['trec:x.trec']\nllms: [extractive]\ntop_k: [1, 3]\nmissing_notes: skip\n")
    swept = sweep(read_sweep(path, {}, {"data": str(data_dir)}))
    assert [each.summary.left_out.not_in_data for each in swept.runs] == [0, 1]


def test_runs_that_are_the_same_are_done_once(data_dir: Path, cli: Cli) -> None:
    done = cli(
        "sweep", write_grid("retrievers: [none, oracle]\nllms: [extractive]\ntop_k: [3, 5]\n"), "--data", data_dir
    )
    assert done.code == 0
    assert "2 of 4 runs are the same as others" in done.err
    assert len(list(Path("runs").iterdir())) == 2
    assert "extractive" in done.out


def test_nothing_is_asked_twice(data_dir: Path, cli: Cli, server: FakeServer) -> None:
    preset("mine", server)
    command = (
        "sweep",
        write_grid("retrievers: [none, bm25, oracle]\nllms: [mine]\ncache: false"),
        "--data",
        data_dir,
        "--json",
    )
    first = cli(*command)
    assert first.code == 0, first.err
    assert len(server.calls) == 9
    assert cli(*command).out == first.out
    assert len(server.calls) == 9


def test_an_llm_that_is_gone_costs_only_its_own_runs(data_dir: Path, cli: Cli, server: FakeServer) -> None:
    preset("good", server)
    with FakeServer(fault=lambda n, body: "401" if n > 4 else None) as refusing:
        preset("bad", refusing)
        grid = write_grid("retrievers: [none, bm25, oracle]\nllms: [bad, good]\nconcurrency: 1\ncache: false")
        done = cli("sweep", grid, "--data", data_dir)
        assert done.code == 1
        assert done.err.count("not finished: ") == 2
        assert "2 of 6 runs are not finished" in done.err
        assert len(server.calls) == 9
        assert len(refusing.calls) == 5
        refusing.fault = lambda n, body: None
        assert cli("sweep", grid, "--data", data_dir).code == 0
        assert len(refusing.calls) == 5 + 9 - 4
    assert len(server.calls) == 9


def test_all_servers_are_asked_before_anything_is_spent(data_dir: Path, cli: Cli, server: FakeServer) -> None:
    preset("good", server)
    with FakeServer() as gone:
        preset("gone", gone)
    done = cli("sweep", write_grid("llms: [good, gone]"), "--data", data_dir)
    assert done.code == 1
    assert "no server answers at" in done.err
    assert server.calls == []


def test_failed_questions_have_their_exit_code(data_dir: Path, cli: Cli, server: FakeServer) -> None:
    preset("mine", server)
    server.fault = lambda n, body: "400" if n == 1 else None
    command = ("sweep", write_grid("retrievers: [none, bm25]\nllms: [mine]"), "--data", data_dir)
    done = cli(*command)
    assert done.code == 3
    assert "in 1 of 2 runs questions failed; the first: 1 of 3 questions failed" in done.err
    assert cli(*command).code == 0


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_that_is_ended_goes_on(data_dir: Path, cli: Cli, server: FakeServer, signum: signal.Signals) -> None:
    preset("mine", server)
    server.latency_s = 0.2
    server.fault = lambda n, body: "hang" if n > 6 else None
    command = (
        "sweep",
        write_grid("retrievers: [none, bm25, oracle]\nllms: [mine]\nconcurrency: 1\ncache: false"),
        "--data",
        data_dir,
    )
    process = launch(*command, "--quiet")
    wait_until(lambda: len(server.calls) >= 5, process)
    process.send_signal(signum)
    _, err = process.communicate(timeout=60)
    if signum == signal.SIGINT:
        assert (process.returncode, "the same command resumes" in err) == (130, True)
    server.latency_s, server.fault = 0, lambda n, body: None
    finished = sum(len(path.read_text().splitlines()) for path in Path("runs").glob("*/samples.jsonl"))
    assert finished >= 4
    n_before = len(server.calls)
    done = cli(*command, "--json")
    assert done.code == 0, done.err
    assert len(server.calls) - n_before == 9 - finished
    assert [each["counts"]["ok"] for each in json.loads(done.out)["runs"]] == [3, 3, 3]


def test_a_dry_run_of_a_sweep(data_dir: Path, cli: Cli, server: FakeServer) -> None:
    preset("mine", server)
    folder = Path("configs/llms")
    priced = (folder / "mine.yaml").read_text() + (
        "price: {currency: USD, prompt_per_mtok: 1, completion_per_mtok: 2, as_of: 2026-11}\nmax_tokens: 10\n"
    )
    (folder / "priced.yaml").write_text(priced)
    command = ("sweep", write_grid("retrievers: [none, bm25]\nllms: [mine, priced]\ntop_k: [1, 2]"), "--data", data_dir)
    said = cli(*command, "--dry-run")
    assert said.code == 0, said.err
    assert "USD + unknown for 3 of 6 runs" in said.out
    assert said.out.count("the longest: question") == 1
    assert server.calls == []
    assert not Path("runs").exists()
    plans = json.loads(cli(*command, "--dry-run", "--json").out)
    assert [plan["questions"] for plan in plans] == [3] * 6
    n_calls = sum(plan["calls"] for plan in plans)
    assert f"6 runs: {n_calls} calls" in said.out
    assert cli(*command, "--quiet").code == 0
    assert len(server.calls) == n_calls
    assert sum(plan["calls"] for plan in json.loads(cli(*command, "--dry-run", "--json").out)) == 0


def test_a_dry_run_asks_a_server_once_whether_it_is_there(
    data_dir: Path, cli: Cli, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset("mine", server)
    grid = write_grid("retrievers: [none, bm25]\nllms: [mine]")
    assert cli("sweep", grid, "--data", data_dir).code == 0
    checked: list[str] = []
    check = OpenAICompatible.check

    def counted(llm: OpenAICompatible) -> dict[str, Any]:
        checked.append(llm.base_url)
        return check(llm)

    monkeypatch.setattr(OpenAICompatible, "check", counted)
    command = ("sweep", grid, "--data", data_dir, "--runs-dir", "b", "--dry-run")
    assert "2 runs: 0 calls" in cli(*command).out
    assert checked == [server.url]
    with FakeServer() as gone:
        preset("mine", gone)
    said = cli(*command)
    assert "2 runs: 6 calls" in said.out
    assert said.out.count("which answers are cached is not known, none is counted") == 1
    assert checked == [server.url, gone.url]


def test_a_dry_run_knows_which_answers_runs_will_share(data_dir: Path, cli: Cli, server: FakeServer) -> None:
    """Two retrievers that find the same notes make the same prompts, and the second is answered from the cache."""
    preset("mine", server)
    grid = write_grid("retrievers: [bm25, {name: bm25, k1: 1.2}, none]\nllms: [mine]\ntop_k: 1")
    plans = json.loads(cli("sweep", grid, "--data", data_dir, "--dry-run", "--json").out)
    assert cli("sweep", grid, "--data", data_dir).code == 0
    assert [(plan["calls"], plan["cached"]) for plan in plans] == [(3, 0), (0, 3), (3, 0)]
    assert len(server.calls) == 6
    uncached = cli("sweep", grid, "--data", data_dir, "--set=cache=false", "--runs-dir=b", "--dry-run", "--json").out
    assert [plan["calls"] for plan in json.loads(uncached)] == [3, 3, 3]


def test_a_run_that_stands_for_several_k_has_the_figures_of_each(data_dir: Path) -> None:
    path = write_grid("retrievers: [oracle, bm25]\nllms: [extractive]\ntop_k: [1, 3]\n")
    swept = sweep(read_sweep(path, {}, {"data": str(data_dir)}))
    figures = [{name for name in each.summary.metrics if name.startswith("recall")} for each in swept.runs]
    assert figures == [{"recall@1", "recall@3"}, {"recall@1"}, {"recall@3"}]
    assert swept.runs[0].summary.metrics["recall@1"].value == pytest.approx((1 + 1 / 2 + 1) / 3)
