"""The notebooks of the documentation run, print what they are stored with, and say of it what is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("nbclient", reason="needs nbclient: pip install 'qilin-rag[test]'")

from tests.notebooks import NOTEBOOKS, execute, outputs, read, texts

CLAIMS = {
    "leaderboard": """
        assert questions.nsmallest(5, "rouge_l")["recall@5"].max() == 0
        rouge = board.to_frame().query("metric == 'rouge_l'").set_index("retriever")
        assert rouge.index[rouge["best"]].tolist() == ["oracle"] and not rouge["tied"].any()
        assert rouge.loc["random", "over_none"] > 0 and round(rouge.loc["random", "value"], 2) == 0.11
        assert rouge_l["ci95_low"] < 0 < rouge_l["difference"] < rouge_l["detectable"]
        assert round(rouge_l["ci95_high"], 2) == 0.08
        assert rouge_l["wins"] < rouge_l["losses"]
        assert to_oracle.metrics[0].metric == "rouge_l" and to_oracle.metrics[0].ci95[0] > 0
    """,
    "judge-agreement": """
        assert len(answers) == 240
        value = correlations.set_index(["answers of", "aspect"])
        correctness, completeness, faithfulness = (value.loc["all", aspect]["spearman"] for aspect in ASPECTS)
        assert completeness > correctness > faithfulness
        assert value.loc["none", "correctness"]["n_other"] == 5
        assert value.loc["none", "correctness"]["spearman"] < 0
        assert value["low"].isna().tolist() == (value["n_other"] < 6).tolist()
        found = conclusions.set_index(["runs", "metric"])["differs"]
        assert found["bm25 - none"].all() and not found["biencoder - bm25"].any()
        for contrast in ("oracle - bm25", "oracle - biencoder"):
            assert found[contrast].to_dict() == {
                "rouge_l": False, "judge_correctness": True, "judge_completeness": False
            }
        assert len(conclusions) == 12
    """,
}
by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def test_there_are_two() -> None:
    assert [path.stem for path in NOTEBOOKS] == sorted(CLAIMS)


@by_name
def test_stored_whole_small_and_without_paths(path: Path) -> None:
    notebook = read(path)
    assert notebook.cells[0].source.startswith("# ")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    stored = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in stored} == {"execute_result", "display_data", "stream"}
    assert all(output.get("name") != "stderr" for output in stored)
    assert any("image/png" in output.get("data", {}) for output in stored)
    text = path.read_text(encoding="utf-8")
    assert len(text) < 200_000
    assert not re.search(r"/(?:home|root|tmp|Users|private)/|127\.0\.0\.1:\d", text)
    assert not re.search(r"\\u001b", text)  # colours of a terminal


@by_name
@pytest.mark.slow
def test_an_execution_prints_what_is_stored(path: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'qilin-rag[analysis]'")
    pytest.importorskip("pandas", reason="needs pandas: pip install 'qilin-rag[pandas]'")
    executed = execute(path, tmp_path / "clone", CLAIMS[path.stem])
    stored = read(path)
    assert texts(executed) == texts(stored)
    kinds = [[output.output_type for output in outputs(notebook)] for notebook in (executed, stored)]
    assert kinds[0] == kinds[1]
