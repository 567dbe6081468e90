from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from qilin_rag import __version__
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer

HEAVY = {
    "torch",
    "transformers",
    "pandas",
    "langchain",
    "openai",
    "faiss",
    "numpy",
    "jinja2",
    "yaml",
    "sacrebleu",
    "pydantic",
}
COMMANDS = [
    "import-answers",
    "run",
    "score",
    "export",
    "judge",
    "nuggets",
    "nuggets create",
    "nuggets assign",
    "nuggets show",
    "agreement",
    "agreement pairs",
    "agreement runs",
    "agreement export",
    "agreement import",
    "agreement qilin",
    "agreement calibrate",
    "reproduce",
    "batch",
    "batch list",
    "batch cancel",
    "serve",
    "retrieve",
    "index",
    "leaderboard",
    "compare",
    "report",
    "view",
    "show",
    "list",
    "cache",
    "cache ls",
    "cache clear",
    "doctor",
    "sweep",
    "ablate",
    "sensitivity",
    "data",
    "data validate",
    "data stats",
    "data convert",
    "data filter",
    "synth",
    "track",
    "analyze",
    "analyze answers",
    "analyze dqa-effect",
    "analyze modality",
    "analyze re-search",
    "paper",
    "train",
    "rank",
]


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_is_light(command: str | None) -> None:
    arguments = [*(command or "").split(), "--help"]
    code = (
        "import sys; sys.argv = ['qilin-rag', *sys.argv[1:]]\n"
        "from qilin_rag.cli import main\n"
        "try: main()\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "print(' '.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "Usage:" in done.stdout
    assert not HEAVY & set(done.stderr.split())


def test_both_entries_are_the_same() -> None:
    as_module = subprocess.run([sys.executable, "-m", "qilin_rag", "--version"], capture_output=True, text=True)
    as_script = subprocess.run(
        [Path(sys.executable).with_name("qilin-rag"), "--version"], capture_output=True, text=True
    )
    assert as_module.stdout == as_script.stdout == f"qilin-rag {__version__}\n"


def test_every_command_is_tested(cli: Cli) -> None:
    listed = cli("--help").out.split("Commands:")[1].strip().splitlines()
    assert {line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "} | {"run"} == {
        command for command in COMMANDS if " " not in command
    }


def test_run_prints_figures_and_the_run(data_dir: Path, cli: Cli) -> None:
    done = cli("run", "--data", data_dir, "--retriever", "oracle")
    assert done.code == 0
    assert "rouge_l" in done.out
    assert "3 questions: 3 ok" in done.out
    assert Path(done.out.splitlines()[-1]).is_dir()


def test_json_is_one_document_and_nothing_else(data_dir: Path, cli: Cli) -> None:
    done = cli("run", "--data", data_dir, "--json")
    summary = json.loads(done.out)
    assert done.err == ""
    assert summary["counts"]["ok"] == 3
    scored = json.loads(cli("score", summary["run"], "--metrics", "rouge_1", "--json").out)
    assert "rouge_1" in scored["metrics"]


def test_the_sample_is_the_default_and_labelled(cli: Cli) -> None:
    assert "bundled sample, not Qilin" in cli("run", "--limit", "3").out
    assert "bundled sample, not Qilin" in cli("leaderboard").out


def test_show_a_run_and_a_question_whole(data_dir: Path, cli: Cli) -> None:
    run = cli("run", "--data", data_dir, "--retriever", "oracle", "-q").out.splitlines()[-1]
    table = cli("show", run).out
    assert "多肉怎么养" in table
    assert "complete" in table
    whole = cli("show", run, "--question", "2").out
    assert "1 * note 12" in whole
    assert "春天换盆，晾根两天" in whole
    assert "reference 2" in whole
    assert "rouge_l" in whole
    as_json = json.loads(cli("show", run, "--question", "2", "--json").out)
    assert as_json["sample"]["hits"][0]["note_idx"] == 12
    missing = cli("show", run, "--question", "22")
    assert (missing.code, "question '22' is not in this run" in missing.err) == (2, True)


def test_list(cli: Cli) -> None:
    assert {"none", "bm25", "oracle"} <= set(json.loads(cli("list", "retrievers", "--json").out))
    assert {"extractive", "openai", "qwen2.5-72b"} <= set(json.loads(cli("list", "llms", "--json").out))
    assert {"rouge_l", "rouge_1", "bertscore", "retrieval"} <= set(json.loads(cli("list", "metrics", "--json").out))
    assert "zero-shot RAG in Chinese" in cli("list", "prompts").out


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("run", "--retriever", "bm26"), "retriever"),
        (("run", "--llm", "qwen-pls"), "llm"),
        (("run", "--prompt", "concis"), "prompt"),
        (("run", "--metrics", "rouge_x"), "metric"),
        (("rank", "--ranker", "bm26"), "ranker"),
        (("train", "bm26", "--out", "x"), "ranker"),
        (("serve", "qwen"), "llm"),
        (("list", "metrics", "blue"), "metric"),
    ],
)
def test_an_unknown_name_points_to_the_list_that_has_it(arguments: tuple[str, ...], kind: str, cli: Cli) -> None:
    done = cli(*arguments)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert f"{kind} '" in done.err and "' does not exist; did you mean '" in done.err
    command = done.err.strip().rpartition("(qilin-rag ")[2].removesuffix(")").split()
    assert command == ["list", f"{kind}s"]
    assert cli(*command).code == 0  # the command exists


def test_the_settings_of_an_llm_include_those_of_its_engine(cli: Cli) -> None:
    def settings(name: str) -> dict[str, dict[str, str]]:
        return {each["name"]: each for each in json.loads(cli("list", "llms", name, "--json").out)}

    own = settings("qwen2.5-72b")
    assert own["llm.engine.tensor_parallel_size"]["default"] == "4"  # the preset's, not the engine's
    assert own["llm.engine.start_timeout_s"]["meaning"].startswith("The longest time")
    assert "llm.engine.n_gpu_layers" not in own  # of an engine that the preset does not name
    either = settings("openai")
    assert either["llm.engine.n_gpu_layers"]["meaning"].startswith("llamacpp: ")
    assert own.keys() < either.keys()
    assert not [name for name in settings("extractive") if "engine" in name]


def test_an_endpoint_without_a_preset(data_dir: Path, cli: Cli, server: FakeServer) -> None:
    done = cli("run", "--data", data_dir, "--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", server.url)
    assert done.code == 0
    assert len(server.calls) == 3


def test_failed_questions_end_with_code_3(data_dir: Path, cli: Cli, server: FakeServer) -> None:
    server.fault = lambda n, body: "overflow"
    command = ["run", "--data", data_dir, "--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", server.url]
    done = cli(*command)
    assert (done.code, done.err.count("\n")) == (3, 3)  # the index being built, what is not scored, the error
    assert "error: 3 of 3 questions failed" in done.err
    assert "unscored" in done.out
    assert "3 questions: 3 failed" in done.out
    assert cli(*command, "--fail-on-error", "3").code == 0
    run = next(Path("runs").iterdir())
    assert "maximum context length" in cli("show", run).out


def test_no_server_ends_with_code_1(data_dir: Path, cli: Cli) -> None:
    done = cli("run", "--data", data_dir, "--llm", "qwen2.5-72b", "--base-url", "http://127.0.0.1:9/v1")
    assert done.code == 1
    assert "http://127.0.0.1:9/v1" in done.err
    assert "--serve" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "data 'nowhere' does not exist"),
        (["--retriever", "mb25"], "retriever 'mb25' does not exist; did you mean 'bm25'?"),
        (["--llm", "lama3.3-70b"], "did you mean 'llama3.3-70b'"),
        (["--metrics", "rouge"], "metric 'rouge' does not exist; did you mean 'rouge_l'"),
        (["--prompt", "defualt"], "prompt 'defualt' does not exist; did you mean 'default'?"),
        (["--prompt", "bad.yaml"], "variable 'nots' does not exist"),
        (["--set", "retriever.k2=1"], "setting 'k2' does not exist; did you mean 'k1'?"),
        (["--set", "retreiver.k1=1"], "setting 'retreiver.k1' does not exist"),
        (["--set", "k1"], "expected key=value"),
        (["--set", "metrics.rouge_l.since={1: 2026-11-21, b: c}"], "setting 'since' does not exist"),
        (["--top-k", "0"], "setting 'top_k' is 0"),
        (["--llm", "openai"], "setting 'model' is missing"),
        (["--llm", "extractive", "--base-url", "http://127.0.0.1:1/v1"], "setting 'base_url' does not exist"),
        (["--config", "nowhere.yaml"], "nowhere.yaml can't be read"),
        (["--data", "broken"], "notes.jsonl, line 2: not valid JSON"),
    ],
)
def test_bad_input_is_one_line_with_code_2(
    data_dir: Path, cli: Cli, tmp_path: Path, arguments: list[str], message: str
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "dqa.jsonl").write_text("{}\n")
    (broken / "notes.jsonl").write_text('{"note_idx": 1, "title": "", "content": ""}\n{"note_idx": 2,\n')
    (tmp_path / "bad.yaml").write_text(
        "language: zh\ndescription: x\nwithout_notes: x\nwith_notes: '{{ nots }}'\n", encoding="utf-8"
    )
    finished = cli("run", "--data", data_dir, "--json").out
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    done = cli("run", "--data", data_dir, *arguments)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert message in done.err
    assert done.out == ""
    assert {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()} == before
    assert json.loads(finished)["counts"]["ok"] == 3


def test_wrong_options_end_with_code_2(cli: Cli) -> None:
    assert cli("run", "--no-such-option").code == 2
    assert cli("runn").code == 2
    assert cli("list", "things").code == 2
    assert cli("score", "nowhere").code == 2
    assert cli("show", "nowhere").code == 2


def test_output_into_a_closed_pipe_is_no_traceback(data_dir: Path) -> None:
    command = f"{sys.executable} -m qilin_rag list llms | head -c 5"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_verbose_shows_where_a_component_of_the_users_own_failed(data_dir: Path, cli: Cli) -> None:
    Path("mine.py").write_text(
        "from qilin_rag.retrievers import Retriever\nclass R(Retriever):\n"
        "    def search(self, questions, notes, k): 1 / 0\n"
    )
    command = ["run", "--data", data_dir, "--retriever", "mine:R"]
    short = cli(*command)
    assert (short.code, short.err) == (1, "error: retriever mine:R failed: ZeroDivisionError: division by zero\n")
    assert "def search" in cli(*command, "--verbose").err


def test_retrieve_and_run_on_from_the_file(data_dir: Path, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "hits.trec"
    done = cli("retrieve", "--data", data_dir, "--retriever", "bm25", "--top-k", 4, "--out", out, "--json")
    figures = json.loads(done.out)["metrics"]
    assert set(figures) == {"recall@4", "ndcg@4", "mrr@4"}
    assert len(out.read_text().splitlines()) == 5
    direct = json.loads(cli("run", "--data", data_dir, "--retriever", "bm25", "--json").out)["metrics"]
    on = json.loads(cli("run", "--data", data_dir, "--retriever", f"trec:{out}", "--json").out)["metrics"]
    assert on == direct
    assert "recall@100" in cli("retrieve", "--data", data_dir, "--out", out).out
    missing = cli("run", "--data", data_dir, "--retriever", "trec:nowhere.trec")
    assert (missing.code, "nowhere.trec can't be read" in missing.err) == (2, True)
    assert cli("retrieve", "--data", data_dir, "--out", tmp_path / "no" / "where").code == 2
