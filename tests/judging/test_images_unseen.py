"""Judges read the text of notes alone: figures about notes say so if answers were given with images."""

from __future__ import annotations

from pathlib import Path

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.judging.claim_scores import OF_NOTES
from qilin_rag.judging.claims import judge_claims
from qilin_rag.judging.config import JudgeConfig, PartSettings, resolve_judge
from qilin_rag.judging.pointwise import judge_run, plan_judge
from qilin_rag.judging.support import judge_support
from qilin_rag.pipeline.run import run
from tests.fake_server import MODEL, FakeServer
from tests.pictured import write_pictured

ABOUT_NOTES = {"judge_faithfulness", "support_precision", "support_recall", *OF_NOTES}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictured(tmp_path_factory.mktemp("data") / "pictured")


def answered(data: Path, server: FakeServer, note_images: int) -> Path:
    """A run whose answers cite their first note."""
    server.answer = lambda body: "先称量[1]。"
    given = {"data": str(data), "llm": "openai", "base_url": server.url, "retriever": "oracle", "metrics": "rouge_l"}
    return run(resolve_run({**given, "note_images": note_images}, [f"llm.model={MODEL}"])).path


def judge_of(server: FakeServer) -> JudgeConfig:
    return resolve_judge({"llm": "openai", "base_url": server.url}, [f"llm.model={MODEL}"])


@pytest.mark.parametrize("note_images", [0, 1])
def test_figures_about_notes_say_that_images_were_not_seen(
    data: Path, server: FakeServer, note_images: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = answered(data, server, note_images)
    server.answer = lambda body: "没有结论"
    judge, settings = judge_of(server), PartSettings()
    metrics = {
        **judge_run(path, judge).metrics,
        **judge_support(path, judge, settings).judged.metrics,
        **judge_claims(path, judge, settings).judged.metrics,
    }
    unseen = {name for name, metric in metrics.items() if "|images:unseen" in metric.signature}
    assert len(metrics) > len(ABOUT_NOTES) and metrics.keys() > ABOUT_NOTES
    assert unseen == (ABOUT_NOTES if note_images else set())
    warnings = [record.getMessage() for record in caplog.records if "does not see" in record.getMessage()]
    assert len(warnings) == (3 if note_images else 0)
    assert all("2 of 3 questions" in warning for warning in warnings)


def test_a_plan_warns_as_well(data: Path, server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    plan_judge(answered(data, server, 1), judge_of(server))
    assert "does not see" in caplog.text and "judge_faithfulness" in caplog.text
