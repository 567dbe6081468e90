"""A run in four stages: each is a value, and what is searched with is what the configuration built."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field, PrivateAttr, field_validator

from qilin_rag.config.run import RunConfig, build_run, resolve_metrics, resolve_run
from qilin_rag.config.spec import RunSpec, recorded_spec
from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import Named
from qilin_rag.core.types import Hit
from qilin_rag.data import NoteStore
from qilin_rag.judging.config import JudgeConfig, resolve_judge
from qilin_rag.llms.extractive import Extractive
from qilin_rag.llms.openai_compatible import OpenAICompatible
from qilin_rag.pipeline.shared import Shared
from qilin_rag.pipeline.stages import Prepared, ask, find_work, finish, prepare
from qilin_rag.pipeline.sweep import read_sweep, sweep
from qilin_rag.prompts.answer import Prompt, load_prompt
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.retrievers.dense.retriever import BiEncoder
from qilin_rag.scorers.rouge import RougeL
from tests.fake_server import MODEL, FakeServer

OPENED: Counter[float] = Counter()


class Seen(BM25):
    """BM25 that counts how many of its kind are searched with."""

    operational: ClassVar[frozenset[str]] = BM25.operational
    _is_open: bool = PrivateAttr(default=False)

    def search(self, questions: Any, notes: NoteStore, k: int) -> list[list[Hit]]:
        OPENED[self.k1] += not self._is_open
        self._is_open = True
        return super().search(questions, notes, k)


SEEN = f"{__name__}:Seen"


@pytest.fixture(autouse=True)
def _nothing_counted() -> None:
    OPENED.clear()


def test_a_component_is_built_when_the_configuration_is_read_and_never_again(data_dir: Path) -> None:
    config = resolve_run({"data": str(data_dir), "retriever": SEEN}, ["retriever.k1=1.2"])
    prepared = prepare(config)
    assert prepared.config.retriever is config.retriever
    with prepared.directory.locked():
        finish(ask(find_work(prepared), config.llm))
    assert OPENED == {1.2: 1}


def test_the_runs_of_a_sweep_share_equal_components(data_dir: Path) -> None:
    Path("grid.yaml").write_text("top_k: [1, 2]\nprompts: [default, cite]\n")
    axes = {"retrievers": [SEEN, {"name": SEEN, "k1": 1.2}]}
    configs = read_sweep("grid.yaml", axes, {"data": str(data_dir), "metrics": "rouge_l"})
    assert len(sweep(configs).runs) == 8
    assert OPENED == {0.9: 1, 1.2: 1}


def test_stages_are_values(data_dir: Path) -> None:
    config = resolve_run({"data": str(data_dir), "retriever": "bm25", "metrics": "rouge_l"})
    prepared = prepare(config)
    assert isinstance(prepared, Prepared) and not prepared.directory.path.exists()
    with prepared.directory.locked():
        work = find_work(prepared)
        assert work.is_asking and not work.needs_server and len(work.jobs) == len(prepared.questions)
        answered = ask(work, config.llm)
        assert answered.manifest.state == "incomplete"
        run = finish(answered)
        assert run.manifest.state == "complete"
        for stage in (prepared, work, answered):
            with pytest.raises(AttributeError):
                stage.directory = None  # type: ignore[misc, union-attr]
        again = find_work(prepared)
        assert not again.is_asking
        assert finish(ask(again, config.llm)).summary == run.summary


def test_metrics_of_another_top_k_join_the_same_run(data_dir: Path) -> None:
    shared = Shared()
    first, second = (
        prepare(resolve_run({"data": str(data_dir), "retriever": "none", "top_k": k}), shared) for k in (1, 2)
    )
    assert first.directory.path == second.directory.path
    both = first.with_scorers_of(second)
    names = {metric for scorer in both.scorers for metric in scorer.signatures()}
    assert {"recall@1", "recall@2", "rouge_l"} <= names
    assert both.with_scorers_of(second).scorers == both.scorers


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"retriever": BM25(k1=1.2), "metrics": [RougeL(tokens="word")], "prompt": "cite", "top_k": 3, "note": "x"},
        {"retriever": BiEncoder(model="nobody/model"), "llm": OpenAICompatible(model="m", engine={"name": "vllm"})},
        {"retriever": "oracle_top_k", "llm": Extractive(max_chars=9), "seed": 3},
        {"retriever": "recorded:dpr", "llm": "qwen2.5-72b", "serve": True},
    ],
)
def test_what_is_written_down_builds_the_same_run(given: dict[str, Any]) -> None:
    config = resolve_run(given)
    spec = config.spec()
    assert build_run(spec) == config
    recorded = RunSpec(**spec.model_dump(mode="json"))
    assert recorded == spec
    assert build_run(recorded_spec(spec.model_dump(mode="json"))) == config


def test_one_run_has_one_label() -> None:
    ways = [
        resolve_run({"retriever": "biencoder:nobody/model"}),
        resolve_run({"retriever": BiEncoder(model="nobody/model")}),
        resolve_run({"retriever": "biencoder"}, ["retriever.model=nobody/model"]),
    ]
    assert {config.retriever.named().name for config in ways} == {"biencoder:nobody/model"}
    default = BiEncoder().model
    assert resolve_run({"retriever": f"biencoder:{default}"}).retriever.named() == Named(name="biencoder")


def test_a_prompt_may_be_given_as_an_object() -> None:
    prompt = load_prompt("cite")
    assert resolve_run({"prompt": prompt}) == resolve_run({"prompt": "cite"})
    with pytest.raises(UsageError, match="write it into a file"):
        resolve_run({"prompt": Prompt(**prompt.model_dump())})


def test_components_are_equal_by_their_settings_alone() -> None:
    one, other = BM25(k1=1.2), BM25(k1=1.2)
    assert one == other and len({one, other}) == 1
    assert one != BM25(k1=1.3) and one != RougeL() and one != "bm25"
    with pytest.raises(UsageError, match="retriever: RougeL "):
        RunConfig(retriever=RougeL())
    with pytest.raises(UsageError, match="rouge_l"):
        RunConfig(metrics=[RougeL(), RougeL(tokens="word")])
    assert RunConfig(metrics=[RougeL()]).metrics == {"rouge_l": RougeL()}


class Holding(BM25):
    """Holds more than its settings."""

    _documents: list[str] = PrivateAttr(default_factory=list)


class Growing(BM25):
    """Is another one each time it is built."""

    n: int = 1

    @field_validator("n")
    @classmethod
    def _double(cls, n: int) -> int:
        return 2 * n


class Hiding(BM25):
    """Does not write down all of its settings."""

    n: int = Field(default=1, exclude=True)


def test_an_object_of_another_class_is_used_as_it_is(data_dir: Path) -> None:
    given = Holding(k1=1.2)
    given._documents.append("x")
    config = resolve_run({"data": str(data_dir), "retriever": given})
    assert config.retriever is given and prepare(config).config.retriever._documents == ["x"]
    changed = resolve_run({"retriever": given}, ["retriever.k1=0.5"]).retriever
    assert (changed.k1, given.k1) == (0.5, 1.2)


@pytest.mark.parametrize("given", [Growing(n=3), Hiding(n=3)])
def test_an_object_that_its_settings_do_not_make_again_is_refused(given: BM25) -> None:
    with pytest.raises(UsageError, match=f"{type(given).__name__} can't be built again"):
        resolve_run({"retriever": given})


@pytest.mark.parametrize("parts", [{"prompt": "default"}, {"rerank": "x"}, {"metrics": ["rouge_l"]}])
def test_names_are_for_resolve_run(parts: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="resolve_run"):
        RunConfig(**parts)
    assert RunConfig(metrics=RougeL()).metrics == {"rouge_l": RougeL()}


def test_two_names_of_one_metric_are_refused() -> None:
    with pytest.raises(UsageError, match="name only one"):
        resolve_metrics("rouge_l,qilin_rag.scorers.rouge:RougeL")
    scorers, optional = resolve_metrics(None, ["metrics.rouge_l.tokens=word"])
    assert scorers["rouge_l"] == RougeL(tokens="word") and optional == ["bertscore"]


def test_a_judge_has_a_configuration_of_its_own(server: FakeServer) -> None:
    config = resolve_judge({"llm": "openai", "base_url": server.url, "limit": 3}, [f"llm.model={MODEL}"])
    assert config.llm == OpenAICompatible(model=MODEL, base_url=server.url)
    assert (config.llm_label, config.limit, config.runs_dir) == (MODEL, 3, Path("runs"))
    assert not {"retriever", "prompt", "metrics", "top_k", "rerank"} & set(JudgeConfig.model_fields)
    with pytest.raises(UsageError, match="extractive can't judge"):
        resolve_judge({"llm": "extractive"})
    with pytest.raises(UsageError, match=r"^data filter: setting 'limit' is 0"):
        resolve_judge({"llm": "qwen-plus", "limit": 0}, command="data filter")
    with pytest.raises(UsageError, match="retriever is not a setting of judge"):
        resolve_judge({"llm": "openai", "retriever": "bm25"})
    with pytest.raises(UsageError, match="only takes llm"):
        resolve_judge({"llm": "openai"}, ["top_k=3"])
