"""A setting that is text is taken as it is written, and any other as YAML reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.overrides import parse_overrides
from qilin_rag.config.run import resolve_run
from qilin_rag.config.spec import resolve_spec
from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import RETRIEVERS
from tests.conftest import Cli

TEXTS = [
    "query: ",
    "passage：",
    "on",
    "no",
    "1e3",
    "12:30",
    "2026-01-01",
    "1.20",
    "note: x",
    "a: b: c",
    "[1]",
    "[1",
    "{}",
]
TEXTS += [
    "*a",
    "&a",
    "#x",
    "a # b",
    "@x",
    "`x",
    "!x",
    "%x",
    "- x",
    "| x",
    " x",
    "x ",
    "为这个句子生成表示：",
    "?",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_as_it_is_written(text: str) -> None:
    owner = RETRIEVERS.resolve("biencoder")
    for key in ("query_prefix", "passage_prefix"):
        assert parse_overrides([f"retriever.{key}={text}"], lambda path: owner) == [(["retriever", key], text)]


@pytest.mark.parametrize(("text", "value"), [("'on'", "on"), ('"query: "', "query: "), ('"a\\tb"', "a\tb"), ("", "")])
def test_quotes_around_a_text_are_yamls(text: str, value: str) -> None:
    owner = RETRIEVERS.resolve("biencoder")
    assert parse_overrides([f"retriever.query_prefix={text}"], lambda path: owner)[0][1] == value


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("note=2026-01-01", "note", "2026-01-01"),
        ("note=on: 1", "note", "on: 1"),
        ("prompt=no", "prompt", "no"),
        ("data=1e3", "data", "1e3"),
        ("top_k=7", "top_k", 7),
        ("cache=off", "cache", False),
        ("limit=null", "limit", None),
        ("ids=~", "ids", None),
        ("ids=1", "ids", Path("1")),
    ],
)
def test_settings_of_a_run(setting: str, name: str, value: Any) -> None:
    assert getattr(resolve_spec({}, [setting]), name) == value


def test_what_is_no_text_must_still_be_yaml() -> None:
    for setting in ("retriever.k1=[1", "retriever.k1=*a", "top_k=@x"):
        with pytest.raises(UsageError, match="not valid YAML"):
            resolve_run({}, [setting])
    with pytest.raises(UsageError, match="setting 'top_k' is"):
        resolve_run({}, ["top_k=a: b"])
    model = resolve_run({"llm": "openai"}, ["llm.model=1e3", "llm.base_url=http://127.0.0.1:1"]).llm.model
    assert model == "1e3"


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("k1=1.2", "did you mean 'retriever.k1'?"),
        ("max_chars=5", "did you mean 'llm.max_chars'?"),
        ("tokens=word", "did you mean 'metrics.rouge_l.tokens'?"),
        ("topk=3", "did you mean 'top_k'?"),
        ("zzzzzz=3", "(qilin-rag list settings)"),
    ],
)
def test_a_setting_without_its_component_is_completed(cli: Cli, setting: str, hint: str) -> None:
    done = cli("run", "--set", setting)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert hint in done.err


@pytest.mark.parametrize(
    ("flags", "settings", "top_k"),
    [
        ({}, [], 100),
        ({"rerank": "folder"}, [], 20),
        ({"rerank": "folder", "rerank_depth": 50}, [], 50),
        ({"rerank": "folder"}, ["rerank_depth=7"], 7),
        ({"retriever": "hybrid"}, ["retriever.of=[bm25, random]", "retriever.depth=30"], 30),
        ({"retriever": "hybrid", "rerank": "folder"}, ["retriever.of=[bm25, random]", "retriever.depth=9"], 9),
        ({"rerank": "folder", "top_k": 40}, [], 40),
        ({"rerank_depth": 3}, [], 100),
    ],
)
def test_defaults_go_together(flags: dict[str, Any], settings: list[str], top_k: int) -> None:
    assert resolve_spec(flags, settings, top_k=100).top_k == top_k
    assert resolve_spec(flags, settings).top_k == (40 if "top_k" in flags else min(5, top_k))


def test_the_settings_of_everything_can_be_listed(cli: Cli) -> None:
    for kind, name, setting in (
        ("retrievers", "bm25", "retriever.k1"),
        ("llms", "openai", "llm.model"),
        ("llms", "qwen-plus", "llm.base_url"),
        ("metrics", "rouge_l", "metrics.rouge_l.tokens"),
        ("rankers", "dcn-v2", "ranker.dropout"),
    ):
        listed = {row["name"]: row for row in json.loads(cli("list", kind, name, "--json").out)}
        assert listed[setting]["default"] and listed[setting]["meaning"]
    assert listed["ranker.weight_decay"]["default"] == "0.0"
    settings = {row["name"]: row for row in json.loads(cli("list", "settings", "--json").out)}
    assert (settings["seed"]["default"], settings["cache"]["default"], settings["limit"]["default"]) == (
        "0",
        "true",
        "null",
    )
    assert "beside the LLM" in settings["note"]["meaning"]
    assert "retriever.k1" in cli("list", "retrievers", "bm25").out
    for wrong in (("prompts", "default"), ("retrievers", "bm26"), ("llms", "nobody"), ("settings", "bm25")):
        done = cli("list", *wrong)
        assert (done.code, done.err.count("\n")) == (2, 1)


def test_the_seed_has_a_flag(cli: Cli, data_dir: Path) -> None:
    drawn = [json.loads(cli("run", "--data", data_dir, "--seed", n, "--limit", 1, "--json").out)["run"] for n in (1, 2)]
    assert resolve_run({"seed": 7}).seed == 7
    assert {Path(run).exists() for run in drawn} == {True}
    manifests = [json.loads((Path(run) / "manifest.json").read_text()) for run in drawn]
    assert manifests[-1]["config"]["seed"] == 2


def test_a_long_path_has_a_short_name_that_tells_it_apart() -> None:
    labels = [
        resolve_run({"llm": "openai"}, [f"llm.model={model}"]).llm_label
        for model in ("/data/a/qwen2.5-7b", "/data/b/qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct", "qwen-plus")
    ]
    assert labels[2:] == ["Qwen/Qwen2.5-7B-Instruct", "qwen-plus"]
    assert labels[0].startswith("qwen2.5-7b@") and len({*labels}) == 4
