"""What a newcomer types wrong ends in one clear line and exit code 2, never in a traceback."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

import pytest

from qilin_rag.cli import ui
from tests.conftest import Cli

WRONG = [
    ("run --data ''", "data '' is an empty name"),
    ("run --data f.txt", "is a file; give the folder that it is in: '.'"),
    ("run --data small/dqa.jsonl", "is a file; give the folder that it is in: 'small'"),
    ("run --data nowhere", "data 'nowhere' does not exist"),
    ("run --retriever BM25", "did you mean 'bm25'?"),
    ("run --retriever bm25:x", "takes no argument after a colon"),
    ("run --retriever trec", "setting 'path' is missing; give it with --set retriever.path=VALUE, or trec:PATH"),
    ("run --retriever trec:", "colon is missing; write trec:PATH"),
    ("run --retriever trec:binary", "binary can't be read: not UTF-8 text"),
    ("run --retriever trec:folder", "folder can't be read: Is a directory"),
    ("run --retriever hybrid", "setting 'of' is missing; give it with --set retriever.of=VALUE"),
    ("run --llm openai", "setting 'model' is missing; give it with --set llm.model=VALUE"),
    ("run --llm gguf:", "colon is missing; write gguf:FILE"),
    ("run --llm langchain:", "colon is missing; write langchain:SPEC"),
    ("run --llm gpt4", "did you mean 'gpt-4o-mini'?"),
    ("run --ids nowhere", "error: ids nowhere can't be read: No such file or directory"),
    ("run --ids binary", "error: ids binary can't be read: not UTF-8 text"),
    ("run --ids folder", "error: ids folder can't be read: Is a directory"),
    ("run --config gbk.yaml", "it seems to be GB18030 (GBK)"),
    ("run --prompt gbk.yaml", "it seems to be GB18030 (GBK)"),
    ("run --config folder", "folder can't be read"),
    ("run --config f.txt", "expected a mapping of settings"),
    ("run --rerank nowhere", "nowhere holds no trained ranker: no such folder"),
    ("run --rerank f.txt", "f.txt holds no trained ranker: no such folder"),
    ("run --set k1=1.2", "did you mean 'retriever.k1'?"),
    ("run --set retriever.k1=abc", "setting 'k1' is 'abc'"),
    ("run --seed -1", "setting 'seed' is -1"),
    ("run --limit 0", "setting 'limit' is 0"),
    ("run --metrics nope", "metric 'nope' does not exist"),
    ("score folder", "manifest.json does not exist"),
    ("reproduce f.txt", "f.txt/manifest.json can't be read"),
    ("sweep nowhere", "config 'nowhere' does not exist"),
    ("serve extractive", "needs no server"),
    ("retrieve --out folder", "'folder' (--out) must be a file"),
    ("index none --out x", "has no index to build"),
    ("compare folder folder", "manifest.json does not exist"),
    ("train bm25 --out x --data small", "is not trained"),
    ("rank --checkpoint nowhere --data small", "nowhere holds no trained ranker: no such folder"),
    ("data convert small --to jsonl --out f.txt", "f.txt exists and is not empty"),
    ("data validate folder", "; known: notes"),
    ("data validate small --set k1=1", "setting 'k1' does not exist"),
    ("synth --out x --set y=1", "setting 'y' does not exist"),
    ("list retrievers bm26", "did you mean 'bm25'?"),
    ("list prompts default", "have no settings of their own"),
]
OPTIONS = [
    ("run --top-k ５", "'５' is not a number in digits 0-9."),
    ("run --limit 1_0", "'1_0' is not a number in digits 0-9."),
    ("run --fail-on-error ٠", "is not a number in digits 0-9."),
    ("rank --first １", "is not a number in digits 0-9."),
    ("run --top-k five", "'five' is not a valid int"),
    ("data validate small --show -1", "-1 is not in the range"),
    ("data convert small --to csv --out x", "'csv' is not one of"),
    ("ruin", "Did you mean 'run'"),
    ("run extra", "unexpected extra argument"),
    ("list bm25", "'bm25' is not one of 'retrievers'"),
]


@pytest.fixture
def odd_files(data_dir: Path) -> None:
    Path("folder").mkdir()
    Path("f.txt").write_text("x\n")
    Path("binary").write_bytes(b"\x80\xff" * 50)
    Path("gbk.yaml").write_bytes("prompt: 默认的提示词\n".encode("gbk"))


@pytest.mark.usefixtures("odd_files")
@pytest.mark.parametrize(("command", "said"), WRONG)
def test_wrong_use_is_one_line(cli: Cli, command: str, said: str) -> None:
    arguments = shlex.split(command)
    if arguments[0] in ("run", "retrieve", "index") and "--data" not in arguments:
        arguments += ["--data", "small"]
    done = cli(*arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done.err
    assert said in done.err
    assert not list(Path().glob("runs/*/manifest.json"))


@pytest.mark.usefixtures("odd_files")
@pytest.mark.parametrize(("command", "said"), OPTIONS)
def test_wrong_options_are_named(cli: Cli, command: str, said: str) -> None:
    done = cli(*shlex.split(command))
    assert (done.code, done.out) == (2, "")
    assert said in " ".join(done.err.split())


def test_what_libraries_say_is_for_verbose(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    for verbose in (False, True):
        root.handlers = []
        ui.set_up_logs(quiet=False, verbose=verbose)
        logging.getLogger("some.library").warning("please pip install kernels")
        logging.getLogger("qilin_rag.x").warning("ours")
        said = capsys.readouterr().err
        assert ("kernels" in said, said.count("ours")) == (verbose, 1)
    logging.getLogger("qilin_rag").handlers = []


def test_one_of_a_thing_is_singular(cli: Cli, data_dir: Path) -> None:
    done = cli("run", "--data", data_dir, "--limit", 1)
    assert "1 question: 1 ok" in done.out
    assert (
        "1 call for 1 question\n" in cli("run", "--data", data_dir, "--limit", 1, "--dry-run", "--prompt", "bare").out
    )
