"""The parts into which judges took answers apart reach the report as they are in the files of the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.judged_answers import ASSIGNED, CHECKED, SUPPORTED
from qilin_rag.pipeline.run import run
from qilin_rag.pipeline.run_directory import RunDirectory
from qilin_rag.reports.contents import collect
from qilin_rag.reports.judged_parts import read_judged_parts
from tests.conftest import Cli
from tests.reports.apart import TEXTS, write_parts
from tests.reports.test_html import unpacked

FILES = (ASSIGNED, CHECKED, SUPPORTED)


@pytest.fixture
def directory(data_dir: Path) -> RunDirectory:
    """A run whose first two answers were taken apart."""
    done = run(resolve_run({"data": str(data_dir), "retriever": "bm25", "metrics": "rouge_l"})).directory
    write_parts(done.path, list(done.read_samples()[0].values())[:2])
    return done


def test_the_report_has_what_is_in_the_files_and_nothing_else(directory: RunDirectory) -> None:
    first, second, third = unpacked(collect([directory.path]).blocks["t0-run0"])
    assert "parts" not in third and first["parts"] == second["parts"]
    a, b, c = TEXTS
    nuggets, claims, support = (first["parts"][name] for name in ("nuggets", "claims", "support"))
    assert nuggets == {
        "judge": "referee",
        "bank": "0123456789abcdef",
        "nuggets": [
            {"text": a, "importance": "vital", "assignment": "support"},
            {"text": b, "importance": "okay", "assignment": "partial_support"},
            {"text": c, "importance": "vital", "assignment": "not_support"},
        ],
    }
    written = json.loads((directory.path / CHECKED).read_text("utf-8").splitlines()[0])
    assert claims == {name: written[name] for name in ("judge", "answer_claims", "reference_claims", "n_notes")}
    assert [each["is_supported"] for each in claims["answer_claims"]] == [True, False, None]
    assert [[each["support"] for each in one["citations"]] for one in support["sentences"]] == [
        ["support", "partial_support", "not_support", None, None],
        [],
    ]


def test_an_answer_that_has_changed_has_no_parts(directory: RunDirectory) -> None:
    samples = list(directory.read_samples()[0].values())
    changed = samples[0].model_copy(update={"answer": "别的回答", "raw": "别的回答"})
    assert set(read_judged_parts(directory.path, [changed, *samples[1:]])) == {samples[1].question_id}
    failed = samples[1].model_copy(update={"status": "failed"})
    assert read_judged_parts(directory.path, [changed, failed]) == {}


def test_the_last_line_about_an_answer_counts(directory: RunDirectory) -> None:
    [sample, *_] = directory.read_samples()[0].values()
    before = (directory.path / ASSIGNED).read_text("utf-8")
    write_parts(directory.path, [sample], judge="another")
    with (directory.path / ASSIGNED).open("r+", encoding="utf-8") as file:
        later = file.read()
        file.seek(0)
        file.write(before + later)
    parts = read_judged_parts(directory.path, [sample])[sample.question_id]
    assert parts.nuggets is not None and parts.nuggets.judge == "another"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    ["link", "[" * 100_000, '{"qid": 1}', '{"qid": "1', "\ud800", '{"number": 1' + "0" * 5_000 + "}"],
    ids=["link", "deep", "other", "half", "surrogate", "number"],
)
def test_a_damaged_file_hides_nothing_else(
    directory: RunDirectory, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = directory.path / name
    kept = path.read_bytes()
    if damage == "link":
        path.rename("elsewhere")
        path.symlink_to(Path("elsewhere").absolute())
    else:
        path.write_bytes(kept + damage.encode(errors="surrogatepass"))
    told = unpacked(collect([directory.path]).blocks["t0-run0"])
    shown = {ASSIGNED: "nuggets", CHECKED: "claims", SUPPORTED: "support"}
    wanted = {part for file, part in shown.items() if damage != "link" or file != name}
    assert set(told[0]["parts"]) == wanted and told[0]["answer"]
    assert name in caplog.text


def test_show_prints_each_part_with_its_verdict(directory: RunDirectory, cli: Cli) -> None:
    ids = [question.id for question in directory.read_questions()]
    shown = cli("show", directory.path, "--question", ids[0])
    assert shown.code == 0, shown.err
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    a, b, c = TEXTS
    for line in (
        "nuggets: 1 of 3 supported, 1 in part (judged by referee, bank 01234567)",
        f"support vital {a}",
        f"partial_support okay {b}",
        f"not_support vital {c}",
        "claims of the answer: 1 of 3 stated by the references (judged by referee)",
        f"stated {a} (notes: 1, 3)",
        f"not stated {b} (notes: none)",
        f"not judged {c} (notes: not judged)",
        "claims of the references: not judged",
        "sentences: 1 of 2 cite notes, 1 of 5 citations supported (judged by referee)",
        f"{a} [1] support [2] partial_support [3] not_support [4] not judged [99] no such note",
        f"{b} no citation",
    ):
        assert line in lines
    assert "nuggets" not in cli("show", directory.path, "--question", ids[2]).out
    as_json = json.loads(cli("show", directory.path, "--question", ids[0], "--json").out)
    assert as_json["parts"] == unpacked(collect([directory.path]).blocks["t0-run0"])[0]["parts"]
    assert json.loads(cli("show", directory.path, "--question", ids[2], "--json").out)["parts"] == {}
    claims = directory.path / CHECKED
    claims.write_text(claims.read_text("utf-8").replace('"n_notes": 3', '"n_notes": null'), "utf-8")
    shown = cli("show", directory.path, "--question", ids[0])
    assert "it is not known which notes" in shown.out and "notes: 1, 3" not in shown.out
