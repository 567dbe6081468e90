from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from qilin_rag.config.resources import find_resource, resource_names, shipped_root
from qilin_rag.config.run import RunConfig, resolve_run
from qilin_rag.config.spec import recorded_spec, resolve_spec
from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Usage
from qilin_rag.llms.extractive import Extractive
from qilin_rag.llms.serving.engines import build_engine
from qilin_rag.retrievers.bm25.retriever import BM25
from qilin_rag.scorers.bertscore import BertScore
from qilin_rag.scorers.retrieval import Retrieval
from qilin_rag.scorers.rouge import Rouge1, RougeL

knows_providers = pytest.mark.skipif(
    find_spec("langchain") is None, reason="needs LangChain: pip install 'qilin-rag[langchain]'"
)


def test_defaults() -> None:
    config = resolve_run({})
    assert (config.data, config.retriever, config.llm, config.top_k) == ("sample", BM25(), Extractive(), 5)
    assert config.metrics == {"retrieval": Retrieval(), "rouge_l": RougeL()}
    assert config == RunConfig()
    assert config.prompt.source == "default" and config.rerank is None


def test_bertscore_is_optional_until_it_is_named() -> None:
    assert resolve_run({}).optional_metrics == resolve_run({}, ["metrics.rouge_l.tokens=word"]).optional_metrics
    assert resolve_run({}).optional_metrics == ["bertscore"]
    for named in (resolve_run({"metrics": "rouge_l"}), resolve_run({"metrics": "bertscore"})):
        assert named.optional_metrics == []
    by_setting = resolve_run({}, ["metrics.bertscore.model=x", "metrics.bertscore.layer=2"])
    assert by_setting.metrics["bertscore"] == BertScore(model="x", layer=2)
    assert list(by_setting.metrics) == ["retrieval", "rouge_l", "bertscore"]
    assert by_setting.optional_metrics == []


def test_the_environment_names_another_default_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_RAG_DATA", "/some/where")
    assert resolve_run({}).data == "/some/where"
    assert resolve_run({"data": "sample"}).data == "sample"


def test_layers_defaults_file_flags_set(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("retriever: {name: bm25, k1: 2.0, b: 0.1}\ntop_k: 3\nlimit: 7\nmetrics: [rouge_l, rouge_1]\n")
    config = resolve_run({"top_k": 4, "limit": None}, ["retriever.k1=1.5", "metrics.rouge_l.tokens=word"], file)
    assert config.retriever == BM25(k1=1.5, b=0.1)
    assert (config.top_k, config.limit) == (4, 7)
    assert config.metrics == {"retrieval": Retrieval(), "rouge_l": RougeL(tokens="word"), "rouge_1": Rouge1()}


def test_a_preset_is_filled_in_and_can_be_overridden() -> None:
    config = resolve_run({"llm": "qwen2.5-72b", "base_url": "http://10.0.0.1:9/v1"}, ["llm.temperature=0.7"])
    assert config.llm_label == "qwen2.5-72b"
    assert config.llm.called() == "openai"
    assert config.llm.model == "Qwen/Qwen2.5-72B-Instruct"
    assert config.llm.base_url == "http://10.0.0.1:9/v1"
    assert config.llm.temperature == 0.7
    assert config.llm_preset["model"] == "Qwen/Qwen2.5-72B-Instruct"
    assert "temperature" not in config.llm_preset


def test_an_endpoint_without_a_preset_is_known_by_its_model() -> None:
    config = resolve_run({"llm": "openai"}, ["llm.model=my/model"])
    assert config.llm_label == "my/model"


def test_the_papers_five_llms_have_presets() -> None:
    assert {"gpt-3.5-turbo", "gpt-4o-mini", "qwen2.5-72b", "llama3.3-70b", "glm-4"} <= set(
        resource_names("configs/llms")
    )


@pytest.mark.parametrize("name", resource_names("configs/llms"))
def test_every_preset_can_be_used(name: str) -> None:
    """By a server of one's own that it knows how to start, or by an API whose key it names."""
    llm = resolve_run({"llm": name}).llm
    about = find_resource("configs/llms", name).read_text(encoding="utf-8").splitlines()[0]
    assert about.startswith("# ")
    assert llm.prompt_budget > 2048
    if llm.engine:
        assert f"`qilin-rag serve {name}`" in about
        assert build_engine(llm.engine, name).arguments(llm.model, llm.context_length, 8000)
        assert llm.price is None
    else:
        assert llm.base_url.startswith("https://")
        assert about.endswith(f"The key comes from {llm.api_key_env}.")


def test_each_api_has_a_key_of_its_own() -> None:
    presets = [resolve_run({"llm": name}).llm for name in resource_names("configs/llms")]
    apis = [llm for llm in presets if not llm.engine]
    hosts = {(urlsplit(llm.base_url).hostname, llm.api_key_env) for llm in apis}
    assert len(hosts) == len({host for host, _ in hosts}) == len({key for _, key in hosts}) == 5


def test_the_price_of_a_preset_is_that_of_its_model_at_its_address() -> None:
    assert resolve_run({"llm": "gpt-4o-mini"}, ["llm.temperature=1"]).llm.price.currency == "USD"
    assert resolve_run({"llm": "gpt-4o-mini"}, ["llm.model=gpt-4o"]).llm.price is None
    assert resolve_run({"llm": "gpt-4o-mini", "base_url": "http://127.0.0.1/v1"}).llm.price is None
    given = "llm.price={currency: CNY, prompt_per_mtok: 1, completion_per_mtok: 2, as_of: 2026-11-21}"
    price = resolve_run({"llm": "gpt-4o-mini", "base_url": "http://127.0.0.1/v1"}, [given]).llm.price
    usage = Usage(prompt_tokens=2_000_000, completion_tokens=500_000)
    assert (price.currency, price.as_of, price.of(usage)) == ("CNY", "2026-11-21", 3.0)


def test_values_are_such_as_json_holds(tmp_path: Path) -> None:
    dated = resolve_run({"llm": "openai"}, ["llm.model=m", "llm.extra_body={since: 2026-11-21}"])
    assert dated.llm.extra_body == {"since": "2026-11-21"}
    for value in ("!!binary gICA", "!!set {a, b}", "!!pairs [a: 1]"):
        with pytest.raises(UsageError, match="is not valid YAML"):
            resolve_run({}, [f"retriever.k1={value}"])
        (tmp_path / "run.yaml").write_text(f"note: {value}\n")
        with pytest.raises(UsageError, match=r"run\.yaml: not valid YAML: a setting can't be of the type"):
            resolve_run({}, file=tmp_path / "run.yaml")


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ("3", "setting 'price' is 3"),
        ("{currency: dollars, prompt_per_mtok: 1, completion_per_mtok: 2, as_of: 2026-11}", "'price.currency'"),
        ("{currency: USD, prompt_per_mtok: -1, completion_per_mtok: 2, as_of: 2026-11}", "'price.prompt_per_mtok'"),
        ("{currency: USD, prompt_per_mtok: .inf, completion_per_mtok: 2, as_of: 2026-11}", "'price.prompt_per_mtok'"),
        ("{currency: USD, prompt_per_mtok: 1, completion_per_mtok: 2}", "setting 'price.as_of' is missing"),
        ("{currency: USD, prompt_per_mtok: 1, completion_per_mtok: 2, as_of: today}", "'price.as_of'"),
    ],
)
def test_a_wrong_price_is_named(price: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_run({"llm": "openai"}, ["llm.model=m", f"llm.price={price}"])
    assert message in str(caught.value)


def test_the_working_directory_comes_first(tmp_path: Path) -> None:
    own = tmp_path / "prompts"
    own.mkdir()
    (own / "default.yaml").write_text("{}")
    assert find_resource("prompts", "default") == own / "default.yaml"
    assert find_resource("prompts", "concise") != own / "concise.yaml"


@pytest.mark.parametrize(
    ("flags", "overrides", "file", "message"),
    [
        ({"llm": "lama3.3-70b"}, [], None, "llm 'lama3.3-70b' does not exist; did you mean 'llama3.3-70b'"),
        ({"retriever": "mb25"}, [], None, "retriever 'mb25' does not exist"),
        ({"top_k": 0}, [], None, "setting 'top_k' is 0"),
        ({"limit": -1}, [], None, "setting 'limit' is -1"),
        ({}, ["retriever"], None, "expected key=value"),
        ({}, ["topk=3"], None, "setting 'topk' does not exist; did you mean 'top_k'?"),
        ({}, ["llm.a.b=3"], None, "setting 'llm.a.b' does not exist"),
        ({}, ["retriever.k1=[1"], None, "not valid YAML"),
        ({}, ["metrics.bleu.model=x"], None, "metric 'bleu' is not in this run"),
        ({"metrics": "rouge_l"}, ["metrics.bertscore.model=x"], None, "metric 'bertscore' is not in this run"),
        ({}, ["optional_metrics=[]"], None, "setting 'optional_metrics' does not exist"),
        ({}, [], "topk: 3", "setting 'topk' does not exist; did you mean 'top_k'?"),
        ({}, [], "optional_metrics: [bleu]", "setting 'optional_metrics' does not exist"),
        ({"llm_label": "x"}, [], None, "run: setting 'llm_label' does not exist"),
        ({}, [], "- a", "expected a mapping"),
        ({}, [], "a: [", "line 1: not valid YAML"),
        ({}, [], "retriever: 3", "expected a name"),
        ({}, [], "retriever: os:system", "must be a registered name"),
        ({}, [], "metrics: ['os:system']", "must be a registered name"),
        ({}, [], "retriever: langchain:os:system", "must be a registered name"),
        pytest.param({}, [], "llm: langchain:os:system", "must be a registered name", marks=knows_providers),
        pytest.param(
            {}, [], "llm: {name: langchain, spec: 'os:system'}", "must be a registered name", marks=knows_providers
        ),
        ({}, ["llm.name=openai"], None, "setting 'llm.name' does not exist"),
        ({}, ["llm_label=x"], None, "setting 'llm_label' does not exist"),
        ({}, ["data=2024-13-45"], None, "not valid YAML"),
        ({}, ["data=" + "[" * 5000], None, "not valid YAML"),
        ({"fail_on_error": float("inf")}, [], None, "setting 'fail_on_error' is inf"),
        ({}, [], "llm: !!python/object/apply:os.system [id]", "not valid YAML"),
    ],
)
def test_wrong_settings_are_named(
    tmp_path: Path, flags: dict[str, object], overrides: list[str], file: str | None, message: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(file or "")
    with pytest.raises(UsageError) as caught:
        resolve_run(flags, overrides, path if file else None)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        "retriever: mb25",
        "retriever: {name: bm25, k2: 1}",
        "retriever: {k1: 1}",
        "llm: 5",
        "llm: {name: openai, model: m, temperature: hot}",
        "metrics: [rouge]",
        "metrics: []",
        "metrics: {rouge_l: {tokens: nope}}",
        "prompt: nope",
        "rerank: nowhere",
        "top_k: many",
    ],
)
def test_an_error_in_a_file_names_the_file(setting: str) -> None:
    file = Path("run.yaml")
    file.write_text(f"{setting}\nseed: 1\n")
    for flags in ({}, {"note": "x"}):  # with flags that have nothing to do with it
        with pytest.raises(UsageError, match=r"^run\.yaml: "):
            resolve_run(flags, file=file)


def test_an_error_of_a_flag_does_not_name_the_file() -> None:
    file = Path("run.yaml")
    file.write_text("retriever: {name: bm25, k1: 1.2}\n")
    for flags, overrides in (({"retriever": "mb25"}, []), ({}, ["retriever.k2=1"]), ({"metrics": []}, [])):
        with pytest.raises(UsageError) as raised:
            resolve_run(flags, overrides, file)
        assert "run.yaml" not in str(raised.value)


def test_an_error_in_a_preset_names_its_file() -> None:
    folder = Path("configs/llms")
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("class: openai\nmodel: m\ntemperature: hot\n")
    with pytest.raises(UsageError, match=r"configs/llms/mine\.yaml: llm openai: setting 'temperature' is 'hot'"):
        resolve_run({"llm": "mine"})
    with pytest.raises(UsageError, match=r"^llm openai: setting 'temperature' is 'cold'"):
        resolve_run({"llm": "mine"}, ["llm.temperature=cold"])


@pytest.mark.parametrize("depth", [3, "3", " 3 ", 3.0])
def test_settings_have_the_type_of_their_field_before_others_follow_from_them(depth: Any) -> None:
    hybrid = {"name": "hybrid", "of": ["bm25", "random"], "depth": depth}
    assert resolve_run({"retriever": hybrid}).top_k == 3
    assert resolve_spec({"rerank": "folder", "rerank_depth": depth}).top_k == 3
    flags = {"llm": "qwen2.5-7b", "base_url": "http://127.0.0.1:1/v1"}
    assert not resolve_spec({**flags, "serve": "no"}).serve
    with pytest.raises(UsageError, match="takes no base_url"):
        resolve_spec({**flags, "serve": "yes"})


@pytest.mark.parametrize("metrics", [[], (), {}, "", ","])
def test_metrics_name_at_least_one(metrics: Any) -> None:
    with pytest.raises(UsageError, match="metrics names no metric"):
        resolve_run({"metrics": metrics})
    assert list(resolve_run({"metrics": "retrieval"}).metrics) == ["retrieval"]


def test_a_home_folder_is_found_in_every_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    names = {"runs_dir": "~/r", "ids": "~/i", "prompt": "~/p.yaml"}
    file = tmp_path / "run.yaml"
    file.write_text("".join(f"{name}: {value}\n" for name, value in names.items()))
    (tmp_path / "p.yaml").write_text((shipped_root() / "prompts" / "concise.yaml").read_text(encoding="utf-8"))
    by_set = resolve_run({}, [f"{name}={value}" for name, value in names.items()])
    paths = {name: Path(value) for name, value in names.items()}
    assert by_set == resolve_run(names) == resolve_run(paths) == resolve_run({}, file=file)
    assert (by_set.runs_dir, by_set.ids, by_set.prompt.source) == (tmp_path / "r", tmp_path / "i", f"{tmp_path}/p.yaml")
    assert resolve_spec({}, ["rerank=~/b"]).rerank == tmp_path / "b"
    assert recorded_spec({}, ["ids=~/i"]).ids == tmp_path / "i"


@pytest.mark.parametrize("setting", ["llm", "retriever", "metrics", "llm.name", "llm.a.b", "retriever.name"])
def test_a_setting_that_no_recorded_run_has(setting: str) -> None:
    with pytest.raises(UsageError, match=f"setting '{setting}' (does not exist|can't be changed)"):
        recorded_spec({}, [f"{setting}=x"])


def test_a_preset_can_only_name_registered_classes(tmp_path: Path) -> None:
    folder = tmp_path / "configs" / "llms"
    folder.mkdir(parents=True)
    (folder / "bad.yaml").write_text("class: os:system\n")
    with pytest.raises(UsageError, match="class must be one of"):
        resolve_run({"llm": "bad"})
