"""A key in the environment reaches the server, and nothing else: no file, no line of output."""

from __future__ import annotations

from pathlib import Path

import pytest

from qilin_rag.llms import retry
from tests.conftest import Cli, Outcome
from tests.fake_server import MODEL, FakeServer

KEY = "sk-secret-1234567890"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BASE_S", 0.001)
    monkeypatch.setattr(retry, "LONGEST_S", 0.01)


def leaks(outcomes: list[Outcome], folder: Path) -> list[str]:
    """Where the key, or its greater part, can be read."""
    part = KEY[3:]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    in_files = [str(path) for path in files if part.encode() in path.read_bytes()]
    return in_files + [text for outcome in outcomes for text in (outcome.out, outcome.err) if part in text]


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "MY_OWN_VARIABLE"])
@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (None, 0),
        ("400", 3),  # these repeat the key in the text of their error
        ("500", 3),
        ("429", 3),
        ("401", 1),
        ("403", 1),
        ("404", 1),
        ("reset", 3),
        ("broken json", 3),
    ],
)
def test_a_key_is_nowhere(
    data_dir: Path,
    server: FakeServer,
    cli: Cli,
    own_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    fault: str | None,
    code: int,
) -> None:
    monkeypatch.setenv(variable, KEY)
    server.fault = lambda n, body: fault if n > 1 else None
    command = ["run", "--data", data_dir, "--llm", "openai", "--base-url", server.url, "--concurrency", "1"]
    for setting in (f"model={MODEL}", f"api_key_env={variable}", "max_tries=2"):
        command += ["--set", f"llm.{setting}"]
    done = cli(*command, "--verbose")
    assert done.code == code, done.err
    assert set(server.authorizations) == {f"Bearer {KEY}"}
    assert (own_folder / "cache" / "responses.sqlite").is_file()
    assert list((own_folder / "cache" / "indexes").iterdir())
    run = next(Path("runs").iterdir())
    others = [
        cli(*command, "--json", "--fail-on-error", "9"),
        cli(*command, "--dry-run", "--runs-dir", "b", "--verbose"),
        cli("show", run),
        cli("show", run, "--json"),
        cli("leaderboard"),
        cli("doctor", "--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", server.url),
    ]
    if code == 3 and fault and fault.isdigit():
        assert f"status {fault} for key ***" in others[2].out
    assert leaks([done, *others], own_folder) == []


def test_a_key_that_the_server_refuses_at_once_is_nowhere(
    data_dir: Path, cli: Cli, own_folder: Path, monkeypatch: pytest.MonkeyPatch, server: FakeServer
) -> None:
    """Where the list of models is refused, before anything else is done."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.models_status = 401
    command = ["run", "--data", data_dir, "--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", server.url]
    refused = cli(*command, "--verbose")
    assert refused.code == 1
    assert "refused the key in OPENAI_API_KEY (401)" in refused.err
    assert server.calls == []
    data = [path for path in own_folder.rglob("*") if path.is_file()]
    assert not [path for path in data if KEY.encode() in path.read_bytes()]
    assert KEY not in refused.out + refused.err
