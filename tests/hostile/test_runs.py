"""Runs of strangers that are done again: each attack, what it could have done, and that it does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest

from qilin_rag.config.spec import recorded_spec
from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import RETRIEVERS
from qilin_rag.pipeline.trust import trusted
from qilin_rag.retrievers.bm25.retriever import BM25
from tests.conftest import Cli
from tests.hostile.conftest import Scene, needs_langchain
from tests.hostile.watch import SECRET, shown_in, watched

EVIL = "https://llm.evil.example/v1"
KEY = "CLOUD_SECRET_KEY"


def query(**llm: Any) -> Callable[[Scene], None]:
    """A query stage that names an LLM, or changes the run's own."""
    return lambda scene: scene.change("config", "query", to={"name": "hyde", "settings": {"llm": llm}})


class Attack(NamedTuple):
    name: str
    could: str
    prepare: Callable[[Scene], Any]
    says: str


def environment(**variables: str) -> Callable[[Scene], None]:
    return lambda scene: scene.engine(environment=variables)


def arguments(*extra: str, **engine: Any) -> Callable[[Scene], None]:
    return lambda scene: scene.engine(extra_arguments=list(extra), **engine)


def langchain(spec: str, **settings: Any) -> Callable[[Scene], None]:
    def prepare(scene: Scene) -> None:
        scene.change("config", "llm", to={"name": f"langchain:{spec}", "settings": {"spec": spec, **settings}})
        scene.change("config", "llm_label", to=f"langchain:{spec}")

    return prepare


def pipe(*path: str) -> Callable[[Scene], None]:
    def prepare(scene: Scene) -> None:
        os.mkfifo(scene.folder / "pipe.yaml")
        scene.change("config", *path, to=str(scene.folder / "pipe.yaml"))

    return prepare


def both(*steps: Callable[[Scene], Any]) -> Callable[[Scene], None]:
    def prepare(scene: Scene) -> None:
        for step in steps:
            step(scene)

    return prepare


def module(name: str) -> Callable[[Scene], Path]:
    """A module of the run's that changes the canary file when it is imported."""

    def prepare(scene: Scene) -> Path:
        path = scene.folder / f"{name}.py"
        path.write_text("import pathlib\npathlib.Path('canary.txt').write_text('changed')\n", encoding="utf-8")
        return path

    return prepare


class Search(BM25):
    """A retriever of an installed package that asks a server."""

    argument: ClassVar[str | None] = "url"

    url: str = "http://127.0.0.1:9200"


SENDS_KEY = "sends a key of the user's to the stranger"
SENDS = "sends the user's questions to the stranger"
RUNS = "runs the stranger's code"
OPENS = "lets other machines ask the server"
ATTACKS = [
    Attack("address", SENDS, lambda s: s.llm(base_url=EVIL), f"--base-url {EVIL}"),
    Attack("address and key", SENDS_KEY, lambda s: s.llm(base_url=EVIL, api_key_env=KEY), f"llm.api_key_env={KEY}"),
    Attack("key to loopback", SENDS_KEY, lambda s: s.llm(base_url=s.canary.url, api_key_env=KEY), KEY),
    Attack("key to its own server", SENDS_KEY, lambda s: s.llm(api_key_env=KEY), KEY),
    Attack(
        "address under the name of a preset",
        SENDS_KEY,
        lambda s: (s.llm(base_url=EVIL), s.change("config", "llm_label", to="gpt-4o-mini")),
        EVIL,
    ),
    Attack("address in odd letters", SENDS, lambda s: s.llm(base_url="HTTP://LOCALHOST.evil.example/v1"), "evil"),
    Attack("address of no machine", SENDS, lambda s: s.llm(base_url="http://0.0.0.0:9/v1"), "--base-url"),
    Attack("a program as Python", RUNS, lambda s: s.engine(python=str(s.program())), "--allow-code"),
    Attack("LD_PRELOAD", RUNS, environment(LD_PRELOAD="evil.so"), "LD_PRELOAD"),
    Attack("OPENSSL_CONF", RUNS, environment(OPENSSL_CONF="evil.cnf"), "OPENSSL_CONF"),
    Attack("GCONV_PATH", RUNS, environment(GCONV_PATH="."), "GCONV_PATH"),
    Attack("BASH_ENV", RUNS, environment(BASH_ENV="evil.sh"), "BASH_ENV"),
    Attack("PYTHONSTARTUP", RUNS, environment(PYTHONSTARTUP="evil.py"), "PYTHONSTARTUP"),
    Attack("VLLM_PLUGINS", RUNS, environment(VLLM_PLUGINS="evil"), "VLLM_PLUGINS"),
    Attack("VLLM_NCCL_SO_PATH", RUNS, environment(VLLM_NCCL_SO_PATH="evil.so"), "VLLM_NCCL_SO_PATH"),
    Attack("a configuration of logging", RUNS, environment(VLLM_LOGGING_CONFIG_PATH="e.json"), "VLLM_LOGGING"),
    Attack("NCCL_DEBUG_FILE", "overwrites a file", environment(NCCL_DEBUG_FILE="canary.txt"), "NCCL_DEBUG_FILE"),
    Attack("HF_ENDPOINT", "fetches a model from the stranger", environment(HF_ENDPOINT=EVIL), "HF_ENDPOINT"),
    Attack("http_proxy", SENDS, environment(http_proxy=EVIL), "http_proxy"),
    Attack("--host", OPENS, arguments("--host", "0.0.0.0"), "--host"),
    Attack("--host=", OPENS, arguments("--host=0.0.0.0"), "--host"),
    Attack("--hos", OPENS, arguments("--hos", "0.0.0.0"), "--hos"),
    Attack("--trust_remote_code", RUNS, arguments("--trust_remote_code"), "--trust_remote_code"),
    Attack("--tool-parser-plugin", RUNS, arguments("--tool-parser-plugin", "evil.py"), "plugin"),
    Attack("--middleware", RUNS, arguments("--middleware", "evil.mw"), "--middleware"),
    Attack("any argument", "changes how the server is run", arguments("--enforce-eager"), "extra_arguments"),
    Attack("hostnames of llama.cpp", OPENS, arguments('hostnames=["0.0.0.0"]', name="llamacpp"), "hostnames"),
    Attack("its own leave", OPENS, arguments("--host", "0.0.0.0", allowed=["--host"]), "extra_arguments"),
    Attack(
        "a class as retriever",
        RUNS,
        both(module("strange_a"), lambda s: s.change("config", "retriever", "name", to="strange_a:R")),
        "names code to run: strange_a:R",
    ),
    Attack(
        "a class as LLM",
        RUNS,
        both(module("strange_b"), lambda s: s.change("config", "llm", "name", to="strange_b:L")),
        "names code to run: strange_b:L",
    ),
    Attack(
        "a class as metric",
        RUNS,
        both(module("strange_c"), lambda s: s.change("config", "metrics", to={"strange_c:M": {}})),
        "names code to run: strange_c:M",
    ),
    Attack(
        "a factory for LangChain",
        RUNS,
        both(module("strange_d"), langchain("strange_d:f")),
        "names code to run: strange",
    ),
    Attack("a model of LangChain", SENDS_KEY, langchain("openai:gpt-4o"), "llm.spec=openai:gpt-4o"),
    Attack("an address for LangChain", SENDS_KEY, langchain("openai:gpt-4o", base_url=EVIL), f"--base-url {EVIL}"),
    Attack("settings for LangChain", SENDS_KEY, langchain("openai:g", settings={"openai_proxy": EVIL}), "llm.settings"),
    Attack(
        "an address for embeddings",
        SENDS_KEY,
        lambda s: s.change("config", "retriever", to={"name": "biencoder", "settings": {"base_url": EVIL}}),
        "retriever.base_url",
    ),
    Attack(
        "an address for the embeddings of a part",
        SENDS_KEY,
        lambda s: s.change(
            "config",
            "retriever",
            to={"name": "hybrid", "settings": {"of": ["bm25", {"name": "biencoder", "base_url": EVIL}]}},
        ),
        "retriever.of",
    ),
    Attack("an address for the queries", SENDS, query(base_url=EVIL), f"query.llm.base_url={EVIL}"),
    Attack("a key for the queries", SENDS_KEY, query(api_key_env=KEY), f"query.llm.api_key_env={KEY}"),
    Attack("another LLM for the queries", SENDS, query(name="openai", model="m", base_url=EVIL), "query.llm.base_url"),
    Attack(
        "an address for the queries under the name of a preset",
        SENDS_KEY,
        query(name="openai", label="gpt-4o-mini", model="gpt-4o-mini", base_url=EVIL),
        f"query.llm.base_url={EVIL}",
    ),
    Attack(
        "a class that writes the queries",
        RUNS,
        both(module("strange_q"), query(name="strange_q:L", label="strange_q:L")),
        "names code to run: strange_q:L",
    ),
    Attack(
        "a class as query stage",
        RUNS,
        both(module("strange_r"), lambda s: s.change("config", "query", to={"name": "strange_r:Q", "settings": {}})),
        "names code to run: strange_r:Q",
    ),
    Attack(
        "a model of LangChain for the queries", SENDS_KEY, query(name="langchain", spec="openai:g"), "query.llm.spec"
    ),
    Attack("data of the hub", "asks the hub for it", lambda s: s.change("config", "data", to="hub:evil/x"), "data=hub"),
    Attack("ids in a pipe", "waits for ever", pipe("ids"), "plain file"),
    Attack("a prompt in a pipe", "waits for ever", pipe("prompt"), "plain file"),
    Attack(
        "ranking by a device",
        "reads for ever",
        lambda s: s.change("config", "retriever", to={"name": "trec:/dev/zero", "settings": {"path": "/dev/zero"}}),
        "plain file",
    ),
]


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_a_run_of_a_stranger_does_no_harm(
    attack: Attack, scene: Scene, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    attack.prepare(scene)
    before = {path: path.read_bytes() for path in scene.run.iterdir() if path.is_file()}
    with watched() as watch:
        done = cli("reproduce", scene.run)
    assert (watch.programs, watch.places) == ([], []), attack.could
    assert (scene.canary.calls, scene.canary.authorizations) == ([], []), attack.could
    assert scene.server.calls == [], attack.could
    assert (scene.folder / "canary.txt").read_text(encoding="utf-8") == "untouched", attack.could
    assert shown_in(scene.folder, done.out, done.err) == []
    assert {path: path.read_bytes() for path in scene.run.iterdir() if path.is_file()} == before
    assert not Path("runs/reproduced").exists()
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert attack.says in done.err or needs_langchain(done.err)


@pytest.mark.parametrize("setting", ["retriever.index=x", "retriever=x", "llm.base_url=http://127.0.0.1:1/v1"])
@pytest.mark.parametrize("part", ["retriever", "llm"])
def test_a_setting_does_not_import_what_the_run_names(part: str, setting: str, scene: Scene, cli: Cli) -> None:
    """The type of a setting is asked of its class, before anybody trusts the run."""
    module("strange_s")(scene)
    scene.change("config", part, to={"name": "strange_s:X", "settings": {}})
    done = cli("reproduce", scene.run, "--set", setting)
    assert (scene.folder / "canary.txt").read_text(encoding="utf-8") == "untouched"
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert "strange_s:X" in done.err or "does not exist" in done.err


@pytest.mark.parametrize(
    ("retriever", "flag"),
    [
        ({"name": "search", "settings": {"url": EVIL}}, f"retriever.url={EVIL}"),
        ({"name": f"search:{EVIL}", "settings": {}}, f"retriever.url={EVIL}"),
        ({"name": "hybrid", "settings": {"of": ["bm25", {"name": "search", "url": EVIL}]}}, "retriever.of="),
        ({"name": "hybrid", "settings": {"of": ["bm25", f"search:{EVIL}"]}}, "retriever.of="),
        ({"name": "mixed", "settings": {"wrong": {"name": "search", "url": EVIL}}}, "retriever.wrong="),
        ({"name": f"mixed:search:{EVIL}", "settings": {}}, "retriever.wrong="),
        (
            {"name": "mixed", "settings": {"wrong": {"name": "hybrid", "of": ["bm25", f"search:{EVIL}"]}}},
            "retriever.wrong=",
        ),
        ({"name": f"unanswerable:search:{EVIL}", "settings": {}}, "retriever.of="),
    ],
)
def test_an_address_is_found_wherever_it_stands(
    retriever: dict[str, Any], flag: str, scene: Scene, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = RETRIEVERS.table()
    monkeypatch.setattr(RETRIEVERS, "table", lambda: table | {"search": f"{__name__}:Search"})
    scene.change("config", "retriever", to=retriever)
    done = cli("reproduce", scene.run)
    assert done.code == 2 and "alone names retriever." in done.err and flag in done.err


@pytest.mark.parametrize(
    ("retriever", "shown"),
    [
        ({"name": "hybrid", "settings": {"of": ["bm25", "strange_s:X"]}}, "hybrid of .*strange_s:X"),
        ({"name": "mixed", "settings": {"wrong": "strange_s:X"}}, "mixed of .*strange_s:X"),
        ({"name": "mixed:strange_s:X", "settings": {}}, "mixed:strange_s:X"),
        ({"name": "unanswerable", "settings": {"of": {"name": "strange_s:X"}}}, "unanswerable of .*strange_s:X"),
        (
            {"name": "mixed", "settings": {"wrong": {"name": "hybrid", "of": ["bm25", "strange_s:X"]}}},
            "mixed of .*strange_s:X",
        ),
    ],
)
def test_the_code_of_a_part_is_shown(retriever: dict[str, Any], shown: str) -> None:
    spec = recorded_spec({"retriever": retriever})
    with pytest.raises(UsageError, match=rf"names code to run: {shown}"):
        trusted(Path("run"), spec, set())


@pytest.mark.parametrize(
    ("llm", "serve"),
    [
        ({"base_url": EVIL}, False),
        ({"name": "openai", "model": "m", "base_url": EVIL}, False),
        ({"name": "openai", "model": "m", "base_url": EVIL}, True),
    ],
)
def test_an_address_by_flag_is_not_that_of_the_queries(llm: dict[str, Any], serve: bool) -> None:
    """The flag names where answers are made; the run must not send the queries, and a key, elsewhere."""
    own = {"name": "openai", "settings": {"model": "m", "base_url": "https://mine.example/v1"}}
    query = {"name": "hyde", "settings": {"llm": llm}}
    spec = recorded_spec({"llm": own, "llm_label": "m", "query": query, "serve": serve})
    with pytest.raises(UsageError, match=rf"alone names query\.llm\.base_url {EVIL}"):
        trusted(Path("run"), spec, {"llm.base_url"})


def test_a_flag_for_the_run_s_own_llm_counts_for_its_queries() -> None:
    own = {"name": "openai", "settings": {"model": "m", "base_url": "https://mine.example/v1"}}
    query = {"name": "hyde", "settings": {"llm": {"temperature": 0.5}}}
    spec = recorded_spec({"llm": own, "llm_label": "m", "query": query})
    assert trusted(Path("run"), spec, {"llm.base_url"}) == spec


@pytest.mark.parametrize(
    ("llm", "says"),
    [
        ("strange_t:L", "names code to run: strange_t:L"),
        ({"name": "openai", "label": 3}, "expected the name of an LLM"),
        (["openai"], "expected the name of an LLM"),
    ],
)
def test_an_llm_of_the_queries_in_another_form_is_one_clear_line(llm: Any, says: str) -> None:
    spec = recorded_spec({"query": {"name": "hyde", "settings": {"llm": llm}}})
    with pytest.raises(UsageError, match=says):
        trusted(Path("run"), spec, set())


def test_an_llm_that_reranks_is_one_clear_line() -> None:
    spec = recorded_spec({"rerank": "llm:openai", "rerank_settings": {"llm_settings": {"name": 3}}})
    with pytest.raises(UsageError, match=r"rerank\.llm\.name: expected the name of an LLM; got 3"):
        trusted(Path("run"), spec, set())


def test_a_provider_in_the_name_of_an_llm_that_reranks_is_asked_about() -> None:
    pytest.importorskip("langchain", reason="needs LangChain: pip install 'qilin-rag[langchain]'")
    spec = recorded_spec({"rerank": "llm:langchain:openai:gpt-4o-mini"})
    with pytest.raises(UsageError, match=r"alone names rerank\.llm\.spec openai:gpt-4o-mini"):
        trusted(Path("run"), spec, set())


def test_a_provider_in_the_name_of_an_llm_is_asked_about() -> None:
    pytest.importorskip("langchain", reason="needs LangChain: pip install 'qilin-rag[langchain]'")
    spec = recorded_spec({"llm": {"name": "langchain:openai:gpt-4o-mini", "settings": {}}})
    with pytest.raises(UsageError, match=r"alone names llm\.spec openai:gpt-4o-mini"):
        trusted(Path("run"), spec, set())


def test_what_a_flag_names_is_used(scene: Scene, cli: Cli) -> None:
    scene.llm(base_url=EVIL, api_key_env=KEY)
    done = cli("reproduce", scene.run, "--base-url", scene.server.url, "--set", f"llm.api_key_env={KEY}", "-q")
    assert done.code == 0, done.err
    assert set(scene.server.authorizations) == {f"Bearer {SECRET}"}
    assert shown_in(scene.folder, done.out, done.err) == []


def test_a_server_here_that_only_the_run_names_gets_no_key(
    scene: Scene, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    done = cli("reproduce", scene.run)
    assert done.code == 0, done.err
    assert set(scene.server.authorizations) == {"Bearer none"}
    assert f"{scene.server.url} gets no key" in done.err
    assert cli("reproduce", scene.run, "--base-url", scene.server.url, "--fresh").code == 0
    assert f"Bearer {SECRET}" in scene.server.authorizations


def test_it_is_written_where_the_user_says(scene: Scene, cli: Cli) -> None:
    """The run's own `runs_dir` counts for nothing."""
    scene.change("config", "runs_dir", to=str(scene.folder / "elsewhere"))
    assert cli("reproduce", scene.run, "-q").code == 0
    assert not (scene.folder / "elsewhere").exists()


@pytest.mark.parametrize("command", ["leaderboard", "report", "show", "compare", "score", "ablate", "export"])
def test_reading_runs_no_code_and_sends_nothing(command: str, scene: Scene, cli: Cli) -> None:
    """All that `reproduce` refuses at once, in a run that is only read."""
    module("strange_e")(scene)
    scene.engine(python=str(scene.program()), environment={"LD_PRELOAD": "x"}, extra_arguments=["--host=0.0.0.0"])
    scene.llm(base_url=EVIL, api_key_env=KEY)
    scene.change("config", "retriever", "name", to="strange_e:R")
    scene.change("config", "query", to={"name": "strange_e:Q", "settings": {"llm": {"name": "strange_e:L"}}})
    queries = (
        '{"question_id": "1", "query": "q", "messages": [], "status": "ok", "answer": "a", "raw": "a", "key": "k"}'
    )
    (scene.run / "queries.jsonl").write_text(f"{queries}\n", encoding="utf-8")
    scene.change("config", "metrics", to={"strange_e:M": {}, "retrieval": {}, "rouge_l": {}})
    lines: dict[str, list[object]] = {
        "leaderboard": ["leaderboard", "--controls"],
        "report": ["report", scene.run, "--out", "report.html"],
        "show": ["show", scene.run, "--question", "1"],
        "compare": ["compare", scene.run, scene.run],
        "score": ["score", scene.run, "--metrics", "contains"],
        "ablate": ["ablate", "--saved", "runs"],
        "export": ["export", scene.run, "--format", "trec-rag", "--out", "answers.jsonl"],
    }
    with watched() as watch:
        done = cli(*lines[command])
    assert (watch.programs, watch.places) == ([], [])
    assert (scene.folder / "canary.txt").read_text(encoding="utf-8") == "untouched"
    assert (scene.server.calls, scene.canary.calls) == ([], [])
    assert shown_in(scene.folder, done.out, done.err) == []
    assert "Traceback" not in done.err
