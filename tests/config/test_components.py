"""Components in the configuration: Python, YAML and flags give one configuration, checked when it is read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr, model_validator

import qilin_rag as qr
from qilin_rag.config.run import RunConfig, resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.llms.openai_compatible import OpenAICompatible
from qilin_rag.pipeline.dry_run import plan
from qilin_rag.rankers import bm25 as bm25_ranker
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.retrievers.dense.retriever import BiEncoder
from qilin_rag.retrievers.hybrid import Hybrid
from qilin_rag.retrievers.oracle import Oracle
from qilin_rag.retrievers.recorded import Recorded
from qilin_rag.retrievers.trec import Trec
from qilin_rag.scorers.bertscore import BertScore
from qilin_rag.scorers.rouge import RougeL
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer

ADDRESS = "http://127.0.0.1:1/v1"


def in_file(folder: Path, text: str) -> RunConfig:
    (folder / "run.yaml").write_text(text)
    return resolve_run({}, file=folder / "run.yaml")


@pytest.mark.parametrize(
    ("given", "yaml", "flags", "overrides"),
    [
        ({"retriever": BM25(k1=1.2)}, "retriever: {name: bm25, k1: 1.2}", {"retriever": "bm25"}, ["retriever.k1=1.2"]),
        ({"retriever": BM25(k1=0.9)}, "retriever: bm25", {}, ["retriever.k1=0.9"]),
        ({"retriever": BM25()}, "retriever: {name: bm25, k1: '0.9'}", {"retriever": "bm25"}, []),
        (
            {"llm": OpenAICompatible(model="m", base_url=ADDRESS + "/", temperature=None)},
            f"llm: {{name: openai, model: m, base_url: '{ADDRESS}', temperature: null}}",
            {"llm": "openai", "base_url": ADDRESS},
            ["llm.model=m", "llm.temperature=null"],
        ),
        (
            {"llm": OpenAICompatible(model="m", engine={"name": "vllm"})},
            "llm: {name: openai, model: m, engine: vllm}",
            {"llm": "openai"},
            ["llm.model=m", "llm.engine=vllm"],
        ),
        (
            {"metrics": [RougeL(tokens="word"), "retrieval"]},
            "metrics: {rouge_l: {tokens: word}}",
            {"metrics": "rouge_l"},
            ["metrics.rouge_l.tokens=word"],
        ),
        ({"metrics": RougeL()}, "metrics: rouge_l", {"metrics": "retrieval, rouge_l"}, []),
        (
            {"retriever": Recorded(results="dpr")},
            "retriever: {name: recorded, results: dpr}",
            {"retriever": "recorded:dpr"},
            [],
        ),
        (
            {"retriever": Trec(path=Path("a.trec"))},
            "retriever: trec:a.trec",
            {"retriever": "trec"},
            ["retriever.path=a.trec"],
        ),
        (
            {"retriever": Hybrid(of=["bm25", Recorded(results="dpr")], weights=[1, 2])},
            "retriever: {name: hybrid, of: [bm25, {name: recorded, results: dpr}], weights: [1, 2]}",
            {"retriever": "hybrid"},
            ["retriever.of=[bm25, {name: recorded, results: dpr}]", "retriever.weights=[1.0, 2]"],
        ),
        (
            {"retriever": BiEncoder(model="nobody/model", normalize=False)},
            "retriever: {name: biencoder, model: nobody/model, normalize: false}",
            {"retriever": "biencoder"},
            ["retriever.model=nobody/model", "retriever.normalize=false"],
        ),
    ],
)
def test_python_yaml_and_flags_give_one_configuration(
    given: dict[str, Any], yaml: str, flags: dict[str, Any], overrides: list[str], tmp_path: Path
) -> None:
    from_python = resolve_run(given)
    assert from_python == in_file(tmp_path, yaml) == resolve_run(flags, overrides)
    assert resolve_run(flags, overrides).model_dump_json() == from_python.model_dump_json()


def test_they_are_one_run(data_dir: Path, server: FakeServer, tmp_path: Path) -> None:
    common = {"data": str(data_dir), "top_k": 2}
    llm = OpenAICompatible(model=MODEL, base_url=server.url)
    settings = f"retriever: {{name: bm25, k1: 1.2}}\nllm: {{name: openai, model: {MODEL}, base_url: '{server.url}'}}\n"
    configs = [
        resolve_run({**common, "retriever": BM25(k1=1.2), "llm": llm, "metrics": [RougeL()]}),
        in_file(tmp_path, f"{settings}metrics: [rouge_l]\ndata: {data_dir}\ntop_k: 2\n"),
        resolve_run(
            {**common, "retriever": "bm25", "llm": "openai", "metrics": "rouge_l", "base_url": server.url},
            ["retriever.k1=1.2", f"llm.model={MODEL}"],
        ),
    ]
    assert configs[0] == configs[1] == configs[2]
    assert len({plan(config).run for config in configs}) == 1
    assert plan(resolve_run({**common, "retriever": BM25(), "llm": llm})).run != plan(configs[0]).run


WRONG = [
    ("retriever: {name: bm25, k1: abc}", [], {}, "retriever.k1"),
    ("{}", ["retriever.k1=abc"], {}, "retriever.k1"),
    ("{}", [], {"retriever": {"name": "bm25", "k1": "abc"}}, "retriever.k1"),
    ("retriever: {name: bm25, k2: 1}", [], {}, "retriever.k2"),
    ("llm: {name: openai, model: m, max_tokens: 0}", [], {}, "llm.max_tokens"),
    ("llm: {name: openai, model: m}", ["llm.extra_body=3"], {}, "llm.extra_body"),
    ("metrics: {rouge_l: {tokens: letters}}", [], {}, "metrics.rouge_l.tokens"),
    ("{}", ["metrics.bertscore.layer=-1"], {}, "metrics.bertscore.layer"),
    ("{}", ["metrics.retrieval.k=0"], {}, "metrics.retrieval.k"),
    ("retriever: {name: hybrid, of: [bm25, {name: bm25, b: 2}]}", [], {}, "retriever.of.1.b"),
]


@pytest.mark.parametrize(("yaml", "overrides", "flags", "named"), WRONG)
def test_a_wrong_setting_is_named_before_any_data_is_read(
    yaml: str, overrides: list[str], flags: dict[str, Any], named: str, tmp_path: Path, cli: Cli
) -> None:
    (tmp_path / "run.yaml").write_text(yaml)
    with pytest.raises(UsageError, match=named.replace(".", r"\.")) as caught:
        resolve_run({"data": "no-such-folder", **flags}, overrides, tmp_path / "run.yaml")
    assert "\n" not in str(caught.value)
    if not flags:
        more = [part for override in overrides for part in ("--set", override)]
        done = cli("run", "--data", "no-such-folder", "--config", tmp_path / "run.yaml", *more)
        assert done.code == 2 and named in done.err and len(done.err.splitlines()) == 1
        assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"retriever": RougeL()}, "retriever: RougeL"),
        ({"retriever": bm25_ranker.BM25()}, "retriever: BM25"),
        ({"llm": BM25()}, "llm: BM25"),
        ({"metrics": [BM25()]}, "metrics: BM25"),
        ({"metrics": [RougeL(), RougeL(tokens="word")]}, "rouge_l is named twice"),
        ({"metrics": [3]}, "metrics: expected names"),
        ({"retriever": BM25}, "retriever: expected a name"),
    ],
)
def test_components_in_the_wrong_place_are_refused(flags: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        resolve_run(flags)


def test_building_loads_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was looked for")

    for module in ("retrievers.dense.retriever", "scorers.bertscore"):
        monkeypatch.setattr(f"qilin_rag.{module}.fetch_model", refuse)
        monkeypatch.setattr(f"qilin_rag.{module}.model_sha256", refuse)
    config = resolve_run({"retriever": "hybrid", "metrics": "rouge_l,bertscore"}, ["retriever.of=[bm25, biencoder]"])
    assert config.metrics["bertscore"] == BertScore()


def test_a_file_can_not_put_code_behind_the_name_of_a_preset(cli: Cli, data_dir: Path) -> None:
    pytest.importorskip("langchain", reason="needs LangChain: pip install 'qilin-rag[langchain]'")
    Path("configs/llms").mkdir(parents=True)
    Path("configs/llms/mine.yaml").write_text("class: langchain\nspec: openai:gpt-4o\n")
    Path("run.yaml").write_text(f"data: {data_dir}\nllm: {{name: mine, spec: 'os:system'}}\n")
    Path("grid.yaml").write_text(f"data: {data_dir}\nllms: [{{name: mine, spec: 'os:system'}}]\n")
    for command in (("run", "--config", "run.yaml"), ("sweep", "grid.yaml")):
        done = cli(*command)
        assert done.code == 2 and "code (package.module:NAME)" in done.err, done.err


def test_the_more_exact_word_wins_over_the_name() -> None:
    Path("a.trec").write_text("1 Q0 2 1 1.0 run\n")
    Path("b.trec").write_text("1 Q0 3 1 1.0 run\n")
    for name, key, value in (
        ("biencoder:A", "model", "B"),
        ("biencoder:A", "model", "BAAI/bge-base-zh-v1.5"),
        ("recorded:dpr", "results", "bm25"),
        ("trec:a.trec", "path", "b.trec"),
    ):
        config = resolve_run({"retriever": name}, [f"retriever.{key}={value}"])
        assert str(getattr(config.retriever, key)) == value
        assert config == resolve_run({"retriever": {"name": name, key: value}})


class Derived(Oracle):
    """A default that hangs on another setting."""

    mode: str = "a"
    width: int | None = None

    @model_validator(mode="after")
    def _fill(self) -> Derived:
        if self.width is None:
            object.__setattr__(self, "width", {"a": 1, "b": 5}[self.mode])
        return self


def test_settings_that_hang_on_each_other_stay_what_they_are() -> None:
    for settings in ({"mode": "b", "width": 1}, {"mode": "b"}, {"width": 5}, {"mode": "b", "width": 5}):
        component = Derived(**settings)
        assert Derived(**component.own_settings()) == component


def test_places_in_the_home_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Cli) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_run({"runs_dir": "~/x"}).runs_dir == tmp_path / "x"
    done = cli("run", "--retriever", "biencoder:~nobody-of-this-name/x", "--llm", "extractive", "--dry-run")
    assert "Traceback" not in done.err


def test_a_wrong_limit_of_the_cache_is_said_before_the_work(
    monkeypatch: pytest.MonkeyPatch, cli: Cli, data_dir: Path
) -> None:
    for wrong in ("50GB", "9" * 400, "nan"):
        monkeypatch.setenv("QILIN_RAG_CACHE_GB", wrong)
        done = cli("run", "--data", data_dir, "--llm", "extractive")
        assert done.code == 2 and "QILIN_RAG_CACHE_GB" in done.err
        assert not Path("runs").exists() and not Path("cache/indexes").exists()


def test_a_run_directory_that_is_a_link_is_not_written_through(cli: Cli, data_dir: Path, tmp_path: Path) -> None:
    command = ("run", "--data", data_dir, "--llm", "extractive", "--metrics", "rouge_l", "--quiet")
    assert cli(*command).code == 0
    [path] = Path("runs").iterdir()
    path.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "manifest.json").unlink()
    before = sorted((tmp_path / "elsewhere").iterdir())
    path.symlink_to(tmp_path / "elsewhere")
    done = cli(*command)
    assert done.code == 2 and "is a link" in done.err
    assert sorted((tmp_path / "elsewhere").iterdir()) == before


def test_equal_components_have_one_hash() -> None:
    one, other = (OpenAICompatible(model="m", extra_body=body) for body in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert one == other and hash(one) == hash(other)
    one, other = (OpenAICompatible(model="m", extra_body={"a": value}) for value in (1, True))
    assert one != other


class WithAnObject(BM25):
    """A component with a setting that no file can hold."""

    thing: Any = object()


def test_a_setting_that_no_file_can_hold_is_refused() -> None:
    with pytest.raises(UsageError, match=r"retriever: .*:WithAnObject has a setting that can't be stored"):
        resolve_run({"retriever": WithAnObject()})


class WithASecret(BM25):
    """A component with secrets, one of which is not stored and comes from the environment each time."""

    token: SecretStr = SecretStr("")
    tokens: list[SecretStr] = []
    from_environment: SecretStr = Field(default_factory=lambda: SecretStr(os.environ.get("TOKEN", "")), exclude=True)


@pytest.mark.parametrize("setting", ["token", "tokens", "from_environment"])
def test_a_secret_is_not_stored_as_asterisks(setting: str) -> None:
    """A run that was stored with them could not be repeated."""
    secret = SecretStr("sk-1234567890")
    with pytest.raises(UsageError) as raised:
        resolve_run({"retriever": WithASecret(**{setting: [secret] if setting == "tokens" else secret})})
    assert setting in str(raised.value) or "can't be built again" in str(raised.value)
    assert "sk-1234567890" not in str(raised.value)


def test_a_secret_of_a_flag_is_refused_in_one_line(cli: Cli, data_dir: Path, own_folder: Path) -> None:
    retriever = f"{__name__}:WithASecret"
    done = cli("run", "--data", data_dir, "--retriever", retriever, "--set", "retriever.token=sk-1234567890")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "token is a secret; name an environment variable instead" in done.err and "1234567890" not in done.err
    assert not (own_folder / "runs").exists()


def test_a_secret_of_the_environment_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "sk-1234567890")
    made = resolve_run({"retriever": WithASecret()})
    assert made.retriever.from_environment.get_secret_value() == "sk-1234567890"
    assert "1234567890" not in made.spec().model_dump_json() and "**" not in made.spec().model_dump_json()


def test_a_prompt_is_only_read_where_an_llm_is_asked(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "default.yaml").write_text("name: [")
    (tmp_path / "answers.jsonl").write_text('{"question_id": "12", "answer": "a"}\n')
    assert cli("run", "--limit", "2").code == 2
    assert cli("retrieve", "--out", "x.trec", "--limit", "2").code == 0
    assert cli("index", "bm25", "--out", "index").code == 0
    assert "default.yaml" not in cli("import-answers", "answers.jsonl", "--name", "theirs").err


def test_a_prompt_that_was_read_is_run_by_its_file() -> None:
    prompt: Any = resolve_run({"prompt": "concise"}).prompt
    settings: Any = {"data": "sample", "limit": 2, "metrics": "rouge_l", "progress": False}
    paths = {qr.run(prompt=each, **settings).path for each in (prompt, "concise")}
    assert len(paths) == 1
    with pytest.raises(UsageError, match="setting 'prompt' is 3"):
        qr.run(prompt=3, **settings)  # type: ignore[arg-type]
