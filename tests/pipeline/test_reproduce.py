"""A run done again says that nothing changed, or which figures did, by how much and what else is not as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import QilinError, UsageError
from qilin_rag.pipeline.reproduce import check, reproduce
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from tests.conftest import QUESTIONS, Cli, write_jsonl
from tests.fake_server import MODEL, FakeServer
from tests.scored import score_run


def asked(data: object, server: FakeServer, *overrides: str, **flags: Any) -> Path:
    given = {"data": str(data), "llm": "openai", "base_url": server.url, "retriever": "oracle", "metrics": "rouge_l"}
    return run(resolve_run({**given, **flags}, [f"llm.model={MODEL}", *overrides])).directory.path


def changed_manifest(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    (path / "manifest.json").write_text(json.dumps(manifest | changes), encoding="utf-8")


def test_the_sample_is_reproduced(cli: Cli) -> None:
    path = cli("run", "--data", "sample", "-q").out.splitlines()[-1]
    before = {file: file.read_bytes() for file in Path(path).iterdir()}
    done = cli("reproduce", path, "-q")
    assert done.code == 0
    assert done.out.count("0 of 60") == 4
    assert "60 questions: 0 answers, 0 prompts, 0 rankings changed" in done.out
    copy = Path(done.out.splitlines()[-1])
    assert copy == Path("runs/reproduced") / Path(path).name
    assert RunDirectory(copy).read_summary().metrics == RunDirectory(Path(path)).read_summary().metrics
    assert {file: file.read_bytes() for file in Path(path).iterdir()} == before
    assert "reproduced" not in cli("leaderboard").out


def test_changed_answers_are_said_with_the_figures_they_change(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    server.answer = lambda body: "92度。"
    path = asked(data_dir, server)
    server.answer = lambda body: "冷水。" if "手冲水温" in body["messages"][-1]["content"] else "92度。"
    done = cli("reproduce", path, "--json")
    assert (done.code, len(server.calls)) == (1, 6)
    assert done.err == "error: not reproduced: rouge_l (1 of 3 scores changed)\n"
    found = json.loads(done.out)
    assert (found["agrees"], found["answers_changed"], found["prompts_changed"], found["hits_changed"]) == (
        False,
        1,
        0,
        0,
    )
    figure = found["metrics"]["rouge_l"]
    old, new = (RunDirectory(Path(p)).read_summary().metrics["rouge_l"].value for p in (path, found["reproduced"]))
    assert (figure["old"], figure["new"], figure["scores_changed"]) == (old, new, 1)
    assert old is not None
    assert new is not None
    assert figure["difference"] == pytest.approx(new - old)
    assert found["metrics"]["recall@5"]["agrees"]
    assert cli("reproduce", path, "--tolerance", "0.5").code == 0
    assert cli("reproduce", path, "--tolerance", "0.1").code == 1
    assert len(server.calls) == 6  # what was asked again is not asked a third time
    assert cli("reproduce", path, "--fresh").code == 1
    assert len(server.calls) == 9


def test_the_table_fits_80_columns(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    path = asked(data_dir, server, metrics="rouge_l,rouge_1,contains")
    packages = {"a-package-with-a-long-name" * 4: "1.0+local." * 9}
    changed_manifest(path, packages=packages, git_commit="0" * 40)
    done = cli("reproduce", path, "-q")
    assert done.code == 0
    assert max(map(len, done.out.splitlines()[:-1])) <= 80
    assert "+0.0000" in done.out


def test_provenance_that_differs_is_named(data_dir: Path, server: FakeServer) -> None:
    path = asked(data_dir, server)
    now = RunDirectory(path).read_manifest()
    assert reproduce(path).provenance == {}
    packages = {**now.packages, "openai": "1.0", "gone": "2.0"}
    changed_manifest(path, packages=packages, server={**now.server, "version": "0.12"}, git_commit="0" * 40)
    samples = path / "samples.jsonl"
    samples.write_text(samples.read_text(encoding="utf-8").replace(f'"model":"{MODEL}"', '"model":"older"'), "utf-8")
    found = reproduce(path, overrides=["concurrency=1"])
    assert found.agrees
    assert {name: then for name, (then, _) in found.provenance.items()} == {
        "packages.openai": "1.0",
        "packages.gone": "2.0",
        "server.version": "0.12",
        "git_commit": "000000000000",
        "model": "older",
        "config.concurrency": "16",
    }
    assert found.provenance["packages.gone"][1] == "nothing"
    assert found.provenance["model"][1] == MODEL


def test_what_changed_can_not_be_repeated(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    Path("prompts").mkdir()
    prompt = Path("prompts/mine.yaml")
    prompt.write_text("language: zh\ndescription: d\nwithout_notes: x\nwith_notes: '{{ query }}'\n", encoding="utf-8")
    path = asked(data_dir, server, prompt="mine")

    def refused(*arguments: object) -> str:
        done = cli("reproduce", path, *arguments)
        assert (done.code, done.out, done.err.count("\n"), len(server.calls)) == (2, "", 1, 3)
        return done.err

    assert "llm.temperature was 0.0, is 0.5; --set takes only" in refused("--set", "llm.temperature=0.5")
    assert "setting 'top_k' can't be changed when a run is repeated" in refused("--set", "top_k=1")
    assert "--tolerance nan must be a number from 0" in refused("--tolerance", "nan")
    write_jsonl(data_dir / "dqa.jsonl", [QUESTIONS[0]])
    assert "can't be repeated as it was: data was " in refused()
    write_jsonl(data_dir / "dqa.jsonl", QUESTIONS)
    prompt.write_text(prompt.read_text(encoding="utf-8").replace("x", "y"), encoding="utf-8")
    assert "can't be repeated as it was: prompt was " in refused()
    prompt.unlink()
    assert "can't be repeated: prompt 'mine' does not exist" in refused()
    changed_manifest(path, config={"retriever": {"name": "gone"}})
    assert "can't be repeated: retriever 'gone' does not exist" in refused()
    changed_manifest(path, config={"top_k": "many"})
    assert "its configuration can't be read: setting 'top_k' is 'many'" in refused()
    changed_manifest(path, state="incomplete")
    assert "is incomplete; finish it" in refused()


def test_other_questions_are_another_run(data_dir: Path, server: FakeServer) -> None:
    ids = Path("ids.txt")
    ids.write_text("1\n", encoding="utf-8")
    path = asked(data_dir, server, ids=ids)
    ids.write_text("2\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"questions was .*, is "):
        reproduce(path)
    moved = Path("moved.txt")
    moved.write_text("1\n", encoding="utf-8")
    assert reproduce(path, overrides=[f"ids={moved}"]).questions == 1


def test_an_address_and_data_may_move(data_dir: Path, server: FakeServer, tmp_path: Path) -> None:
    path = asked(data_dir, server, "llm.engine=vllm")
    data_dir.rename(tmp_path / "moved")
    with FakeServer() as other:
        found = reproduce(path, Path("again"), base_url=other.url, overrides=["data=moved"])
        assert (found.agrees, len(other.calls), len(server.calls)) == (True, 3, 3)
    assert set(found.provenance) == {"config.data", "config.llm.settings.base_url"}
    with pytest.raises(UsageError, match="takes no --base-url"):
        reproduce(path, serve=True, base_url=server.url, overrides=["data=moved"])


def test_it_goes_on_where_it_stopped(data_dir: Path, server: FakeServer) -> None:
    path = asked(data_dir, server)
    server.fault = lambda n, body: "null content" if n == 6 else None
    found = reproduce(path)
    assert (found.agrees, found.failed) == (False, 1)
    assert found.metrics["rouge_l"].why_not == "2 scored, then 3"
    with pytest.raises(QilinError, match="1 questions have no answer, the same command asks them again"):
        check(found)
    server.fault = lambda n, body: None
    assert reproduce(path).agrees
    assert len(server.calls) == 3 + 3 + 1


def test_a_run_is_not_written_over_itself(data_dir: Path, server: FakeServer) -> None:
    path = asked(data_dir, server)
    with pytest.raises(UsageError, match="written over itself"):
        reproduce(path, path.parent)


def test_a_metric_that_was_added_later_is_named(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    path = asked(data_dir, server)
    score_run(path, {"contains": {}})
    done = cli("reproduce", path)
    assert (done.code, "contains: added by score, not made again" in done.out) == (0, True)


def test_a_metric_made_in_another_way_is_no_reproduction(data_dir: Path, server: FakeServer, cli: Cli) -> None:
    path = asked(data_dir, server)
    done = cli("reproduce", path, "--set", "metrics.rouge_l.tokens=word", "--tolerance", "1")
    assert (done.code, "not reproduced: rouge_l (made by rouge_l|tokens:word" in done.err) == (1, True)


def test_code_is_run_only_where_it_was_allowed(data_dir: Path, cli: Cli) -> None:
    Path("own_to_reproduce.py").write_text(
        "from qilin_rag.retrievers.none import NoRetriever\nclass R(NoRetriever):\n    pass\n", encoding="utf-8"
    )
    path = cli("run", "--data", data_dir, "--retriever", "own_to_reproduce:R", "-q").out.splitlines()[-1]
    refused = cli("reproduce", path)
    assert (refused.code, "names code to run: own_to_reproduce:R; --allow-code" in refused.err) == (2, True)
    assert cli("reproduce", path, "--allow-code").code == 0


@pytest.mark.parametrize("file_name", ["samples.jsonl", "scores.jsonl"])
def test_a_run_that_lost_a_file_is_refused_before_a_question_is_asked(
    file_name: str, data_dir: Path, server: FakeServer, cli: Cli
) -> None:
    path = asked(data_dir, server)
    lines = (path / file_name).read_text(encoding="utf-8").splitlines(keepends=True)
    (path / file_name).write_text("".join(lines[1:]), encoding="utf-8")
    n_asked = len(server.calls)
    done = cli("reproduce", path, "-q")
    assert (done.code, done.err.count("\n")) == (2, 1), done.err
    assert len(server.calls) == n_asked
