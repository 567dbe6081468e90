"""Ablations: differences to the default, and whether the order of systems outlasts the way of asking."""

from __future__ import annotations

import csv
import io
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from qilin_rag.core.errors import UsageError
from qilin_rag.core.stats import paired_tests, query_clusters
from qilin_rag.core.types import Completion, RenderedPrompt
from qilin_rag.llms import LLM
from qilin_rag.pipeline.sweep import read_sweep, sweep
from qilin_rag.reports.ablation import Ablation, ablation, default_settings, ranking, saved_runs
from qilin_rag.reports.measured import read_run, values_of
from tests.conftest import QUESTIONS, Cli
from tests.fake_server import MODEL, FakeServer

ANSWERS = {question["query"]: question["answers"][0] for question in QUESTIONS}  # type: ignore[index]
PROMPTS = {"default": "150到400字", "concise": "不超过100字", "bare": "", "structured": "三个部分"}
SHARES = {
    "default": {"a": 0.9, "b": 0.6, "c": 0.3},
    "concise": {"a": 0.9, "b": 0.3, "c": 0.6},
    "bare": {"a": 0.3, "b": 0.6, "c": 0.9},
    "structured": {"a": 0.9, "b": 0.6, "c": 0.3},
}


class ByPrompt(LLM):
    """Gives so much of the reference as SHARES says for its name and the prompt."""

    name: str

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        text = "\n".join(message["content"] for message in prompt.messages)
        asked = next(
            name for name in ("concise", "structured", "default", "bare") if PROMPTS[name] in text
        )  # the words of bare are in all
        reference = ANSWERS[prompt.query]
        answer = reference[: round(SHARES[asked][self.name] * len(reference))]
        return Completion(text=answer, raw=answer, model=self.name, finish_reason="stop")


class A(ByPrompt):
    name: str = "a"


class B(ByPrompt):
    name: str = "b"


class C(ByPrompt):
    name: str = "c"


HERE = "tests.reports.test_ablation"
LLMS = [f"{HERE}:{name}" for name in "ABC"]


def done(data: Path, **axes: list[Any]) -> list[Ablation]:
    configs = read_sweep(None, axes, {"data": str(data)}, one_factor=True)
    runs = [read_run(each.directory.path) for each in sweep(configs).runs]
    return ablation(runs, default_settings(configs[0]), "rouge_l")


def test_rank_stability_on_a_constructed_case() -> None:
    means = {"d": [0.9, 0.6, 0.3], "same": [0.5, 0.4, 0.1], "swap": [0.9, 0.3, 0.6], "turned": [0.3, 0.6, 0.9]}
    found = ranking("LLMs", ["a", "b", "c"], means, 7)
    assert found.by_default == ["a", "b", "c"]
    assert found.tau_with_default == pytest.approx({"same": 1, "swap": 1 / 3, "turned": -1})
    assert found.best == {"d": "a", "same": "a", "swap": "a", "turned": "c"}
    # pairs: d-same 1, d-swap 1/3, d-turned -1, same-swap 1/3, same-turned -1, swap-turned -1/3
    assert found.n_pairs == 6
    assert found.mean_tau == pytest.approx(-1 / 9)
    assert (found.lowest_tau, found.least_alike) == (-1, ("d", "turned"))


def test_rank_stability_equals_scipys_tau() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        means = {str(level): rng.integers(0, 6, 8).astype(float).tolist() for level in range(4)}  # with ties
        found = ranking("x", list("abcdefgh"), means, 1)
        taus = [kendalltau(means[a], means[b]).statistic for a, b in combinations(means, 2)]
        assert found.mean_tau == pytest.approx(np.mean(taus))
        assert found.lowest_tau == pytest.approx(min(taus))


def test_where_all_are_equal_there_is_no_order() -> None:
    found = ranking("x", ["a", "b"], {"d": [1.0, 1.0], "e": [1.0, 2.0]}, 1)
    assert (found.tau_with_default, found.mean_tau, found.lowest_tau) == ({"e": None}, None, None)


def test_an_ablation_over_prompts(data_dir: Path) -> None:
    [report] = done(data_dir, retrievers=["bm25", "none"], llms=LLMS, prompts=list(PROMPTS))
    [factor] = report.factors
    assert (factor.factor, factor.default, report.n_questions) == ("prompt", "default", 3)
    assert [(system.retriever, system.llm[-1]) for system in factor.systems] == [
        (retriever, llm) for retriever in ("bm25", "none") for llm in "ABC"
    ]
    for system in factor.systems:
        assert [level.level for level in system.levels] == ["default", "bare", "concise", "structured"]
        first, *others = system.levels
        assert (first.difference, first.p) == (None, None)
        assert system.spread == pytest.approx(
            max(each.value or 0 for each in system.levels) - min(each.value or 0 for each in system.levels)
        )
        for level in others:
            assert level.difference == pytest.approx((level.value or 0) - (first.value or 0))
            assert level.n_paired == 3
            assert (level.ci95, level.no_interval) == (None, "too few: 3 independent values, 20 needed")
            assert (level.p_holm or 0) >= (level.p or 0) > 0
    of_a = {level.level: level for level in factor.systems[0].levels}
    assert (of_a["structured"].difference, of_a["structured"].p) == (0, 1)
    assert (of_a["bare"].difference or 0) < -0.2
    assert of_a["bare"].p == 0.25  # of eight patterns of signs two are as far
    with_bm25, with_none, all_systems = factor.rankings
    for ranked in (with_bm25, with_none):
        assert [name[-1] for name in ranked.by_default] == ["A", "B", "C"]
        assert ranked.tau_with_default == pytest.approx({"bare": -1, "concise": 1 / 3, "structured": 1})
        assert {level: name[-1] for level, name in ranked.best.items()} == {
            "default": "A",
            "bare": "C",
            "concise": "A",
            "structured": "A",
        }
    assert (with_bm25.of, with_none.of, all_systems.of) == ("LLMs with bm25", "LLMs with none", "retrievers x LLMs")
    assert len(all_systems.by_default) == 6
    assert all_systems.lowest_tau == pytest.approx(-1)


def test_differences_are_those_of_the_statistics(data_dir: Path) -> None:
    [report] = done(data_dir, retrievers=["oracle"], llms=LLMS[:1], prompts=["default", "bare"])
    default, bare = report.factors[0].systems[0].levels
    values = values_of([read_run(Path("runs") / level.run) for level in (default, bare)], "rouge_l", ["1", "2", "3"])
    difference = values[:, 1:] - values[:, :1]
    clusters = query_clusters([str(question["query"]) for question in QUESTIONS])
    assert [(bare.p, bare.ci95, bare.no_interval)] == paired_tests(difference, clusters)
    assert report.factors[0].rankings == []  # one system has no order


def test_questions_that_failed_at_one_level_are_paired_without_them(data_dir: Path) -> None:
    configs = read_sweep(None, {"llms": LLMS[:1], "prompts": ["default", "bare"]}, {"data": str(data_dir)})
    runs = [read_run(each.directory.path) for each in sweep(configs).runs]
    runs[1].values["rouge_l"][list(runs[1].questions).index("1")] = np.nan
    [report] = ablation(runs, default_settings(configs[0]), "rouge_l")
    system = report.factors[0].systems[0]
    assert (system.levels[1].n_paired, system.n_spread) == (2, 2)
    values = values_of(runs, "rouge_l", ["2", "3"]).T
    assert system.levels[1].difference == pytest.approx(np.mean(values[1]) - np.mean(values[0]))
    assert system.spread == pytest.approx(abs(np.mean(values[1]) - np.mean(values[0])))


def test_every_factor_alone(data_dir: Path) -> None:
    axes: dict[str, list[Any]] = {
        "retrievers": ["bm25", "oracle"],
        "prompts": ["default", "bare"],
        "top_k": [5, 1],
        "note_order": ["best_first", "best_last"],
        "note_chars": [None, 4],
    }
    [report] = done(data_dir, **axes)
    levels = {factor.factor: (factor.default, factor.systems[0].levels[1].level) for factor in report.factors}
    assert levels == {
        "prompt": ("default", "bare"),
        "top_k": ("5", "1"),
        "note_order": ("best_first", "best_last"),
        "note_chars": ("whole", "4"),
    }
    factors = {factor.factor: factor for factor in report.factors}
    assert [system.retriever for system in factors["top_k"].systems] == ["bm25"]
    assert "oracle + extractive: the number of notes changes nothing" in report.notes
    [ranked] = factors["top_k"].rankings
    assert sorted(ranked.by_default) == ["bm25 + extractive", "oracle + extractive"]
    assert factors["prompt"].systems[0].spread == 0  # the embedded reader does not read the prompt
    assert (factors["note_chars"].systems[0].spread or 0) > 0


def test_saved_runs_are_read_without_data_or_model(data_dir: Path, cli: Cli) -> None:
    axes: dict[str, list[Any]] = {"llms": LLMS, "prompts": list(PROMPTS), "top_k": [5, 1]}
    [made] = done(data_dir, **axes)
    sweep(read_sweep(None, {"prompts": ["bare"], "llms": LLMS[:1]}, {"data": str(data_dir), "top_k": 1}))
    (data_dir / "notes.jsonl").unlink()
    said = cli("ablate", "--saved", "--json")
    assert said.code == 0, said.err
    [read] = json.loads(said.out)
    assert read["factors"] == made.model_dump(mode="json")["factors"]
    assert read["notes"] == ["left out, since more than one factor is unlike the default: 1 of 16 runs"]
    [some] = json.loads(cli("ablate", "--saved", "--llms", LLMS[2], "--prompts", "bare,default", "--json").out)
    assert [factor["factor"] for factor in some["factors"]] == ["prompt"]
    assert [system["llm"][-1] for system in some["factors"][0]["systems"]] == ["C"]
    assert some["factors"][0]["default"] == "bare"
    nothing = cli("ablate", "--saved", "--llms", "glm-4")
    assert (nothing.code, nothing.err.count("\n")) == (2, 1)
    assert "holds no such complete run" in nothing.err


def test_what_is_not_comparable_is_refused(data_dir: Path) -> None:
    configs = read_sweep(None, {"prompts": ["default", "bare"]}, {"data": str(data_dir)})
    runs = [read_run(each.directory.path) for each in sweep(configs).runs]
    default = default_settings(configs[0])
    with pytest.raises(UsageError, match="is not scored by bleu; qilin-rag score runs/small"):
        ablation(runs, default, "bleu")
    with pytest.raises(UsageError, match="nothing to compare: no system has a run at the default"):
        ablation(runs[:1], default, "rouge_l")
    with pytest.raises(UsageError, match="nothing to compare"):
        ablation(runs, {**default, "top_k": 3}, "rouge_l")
    with pytest.raises(UsageError, match="differ in nothing"):
        ablation([*runs, runs[0]._replace(name="copy")], default, "rouge_l")
    other = runs[0].summary.metrics["rouge_l"].model_copy(update={"signature": "other"})
    summary = runs[0].summary.model_copy(update={"metrics": {"rouge_l": other}})
    with pytest.raises(UsageError, match="in different ways"):
        ablation([runs[0]._replace(summary=summary), runs[1]], default, "rouge_l")
    assert saved_runs([Path("runs")], {"prompt": ["bare"]})[0][0].name == runs[1].name


def test_runs_of_unlike_questions_have_reports_of_their_own(data_dir: Path) -> None:
    configs = read_sweep(None, {"prompts": ["default", "bare"]}, {"data": str(data_dir)})
    fewer = [config.model_copy(update={"limit": 2, "runs_dir": Path("b")}) for config in configs]
    alone = configs[0].model_copy(update={"limit": 1, "runs_dir": Path("c")})
    runs = [read_run(each.directory.path) for each in sweep([*configs, *fewer, alone]).runs]
    reports = ablation(runs, default_settings(configs[0]), "rouge_l")
    assert [report.n_questions for report in reports] == [3, 2]


def test_from_the_command_line(cli: Cli) -> None:
    command = ("ablate", "--prompts", "default,concise,cite,strict,structured,bare", "--retrievers", "bm25,oracle")
    shown = cli(*command, "--note-chars", "whole,40", "--data", "sample", "--limit", 20)
    assert shown.code == 0, shown.err
    assert max(map(len, shown.out.splitlines())) <= 80
    for expected in ("rouge_l by prompt, compared with default", "spread over 6", "whole", "retrievers x LLMs by note"):
        assert expected in shown.out
    tables = cli(*command, "--note-chars", "whole,40", "--data", "sample", "--limit", 20, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(tables.out)))
    assert len(rows) == 2 * 6 + 2 * 2
    assert {row["difference"] for row in rows if row["factor"] == "prompt"} == {"", "0.0"}
    planned = cli(*command, "--dry-run", "--data", "sample", "--json")
    assert len(json.loads(planned.out)) == 12
    assert "## " in cli(*command, "--data", "sample", "--limit", 20, "--format", "md").out


def preset(server: FakeServer) -> None:
    path = Path("configs/llms/mine.yaml")
    path.parent.mkdir(parents=True)
    path.write_text(f"class: openai\nmodel: {MODEL}\nbase_url: {server.url}\n")


def test_over_a_server_nothing_is_asked_twice(data_dir: Path, cli: Cli, server: FakeServer) -> None:
    server.answer = lambda body: "92度。" if "不超过100字" in body["messages"][-1]["content"] else "不知道"
    preset(server)
    Path("grid.yaml").write_text("retrievers: [none, bm25]\nllms: [mine]\nprompts: [default, concise]\ncache: false\n")
    command = ("ablate", "grid.yaml", "--data", data_dir, "--json")
    assert cli(*command, "--dry-run").code == 0
    assert len(server.calls) == 0
    first = cli(*command)
    assert first.code == 0, first.err
    assert len(server.calls) == 4 * 3
    assert cli(*command).out == first.out
    assert len(server.calls) == 4 * 3
    [report] = json.loads(first.out)
    levels = [level for system in report["factors"][0]["systems"] for level in system["levels"]]
    assert [level["level"] for level in levels] == ["default", "concise"] * 2
    assert all(level["difference"] > 0.3 for level in levels[1::2])  # one question of three is answered right
    assert all(level["value"] == 0 for level in levels[::2])


def test_failed_questions_are_unscored_and_have_their_exit_code(data_dir: Path, cli: Cli, server: FakeServer) -> None:
    preset(server)
    command = ("ablate", "--llms", "mine", "--prompts", "default,bare", "--data", data_dir)
    server.fault = lambda n, body: "400" if n <= 4 else None
    done = cli(*command, "--set", "concurrency=1")
    assert done.code == 3
    assert "in 2 of 2 runs questions failed" in done.err
    assert "unscored" in done.out
    assert "bm25 + mine, default: 0 of 3 questions are scored\n" in done.out
    assert "bm25 + mine, bare: 2 of 3 questions are scored, 0 by default as well" in done.out
    assert cli(*command).code == 0


def test_a_run_that_is_not_finished_ends_it(data_dir: Path, cli: Cli, server: FakeServer) -> None:
    preset(server)
    server.fault = lambda n, body: "401" if n > 4 else None
    done = cli("ablate", "--llms", "mine", "--prompts", "default,bare", "--data", data_dir)
    assert (done.code, done.out) == (1, "")
    assert "1 of 2 runs are not finished" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--top-k", "5,x"], "--top-k: 'x' is not a number"),
        (["--note-chars", "40,some"], "--note-chars: 'some' is not a number"),
        (["--note-order", "best_first,worst_first"], "note_order"),
        (["--prompts", "default,defualt"], "did you mean 'default'"),
        (["--prompts", ","], "names nothing"),
        (["--prompts", "default,bare", "--metric", "bleu"], "'bleu' is not scored"),
        (["--top-k", "1,2", "--metric", "recall@2"], "is not scored by runs of top_k 1"),
        (["--prompts", "default"], "nothing to compare"),
        (["grid.yaml", "--saved"], "it takes no CONFIG"),
        (["--saved"], "it takes no --data"),
    ],
)
def test_wrong_use_is_one_line(data_dir: Path, cli: Cli, arguments: list[str], said: str) -> None:
    failed = cli("ablate", "--data", data_dir, *arguments)
    assert (failed.code, failed.err.count("\n")) == (2, 1), failed.err
    assert said in failed.err
    assert not Path("runs").exists()
