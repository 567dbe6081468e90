"""Whatever the tables, prompts and answers hold: the pipeline ends in a result or in one QilinError."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from qilin_rag.config.run import RunConfig, resolve_run
from qilin_rag.core.errors import QilinError
from qilin_rag.core.types import Completion, RenderedPrompt
from qilin_rag.data.source import open_source
from qilin_rag.data.validate import validate
from qilin_rag.llms import LLM, LLMError
from qilin_rag.pipeline.run import run
from qilin_rag.reports.formats import as_html, as_json, as_latex, as_markdown, as_rows
from qilin_rag.reports.leaderboard import Options, leaderboard
from tests.scored import score_run


class Scripted(LLM):
    """Says what a test told it to (as JSON), and ends as it was told."""

    text: str
    ends: str

    async def generate(self, prompt: RenderedPrompt) -> Completion:
        text = json.loads(self.text)
        if self.ends == "error":
            raise LLMError(text or "no answer")
        if self.ends == "crash":
            raise RuntimeError(text)
        return Completion(text=text, raw=text, model="scripted", finish_reason=self.ends)


# Text as it turns up: Chinese, markup, lone surrogates, NUL, control characters, templates, very long.
pieces = st.one_of(
    st.sampled_from(
        [
            "咖啡",
            "多肉怎么养",
            "[第1篇](#)",
            "**",
            "#话题[话题]#",
            "[笑哭R]",
            "😭",
            "\ud800",
            "\0",
            "\x1b[31m",
            "{{",
            "%}",
            "\n",
            " ",
            "ＡＢ",
            "。",
            "a,b",
            "|",
        ]
    ),
    st.text(st.characters(codec=None), max_size=8),
)
texts = st.lists(pieces, max_size=6).map("".join) | st.just("长" * 5000)
note_idxs = st.integers(0, 12)
odd = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.lists(st.integers(-1, 9), max_size=2))
finish_reasons = st.sampled_from(["stop", "length", "content_filter", "error", "crash", "unheard of"])

notes_tables = st.lists(
    st.fixed_dictionaries({"note_idx": note_idxs, "title": texts, "content": texts}),
    max_size=8,
    unique_by=lambda row: row["note_idx"],
)
answers = texts.map(lambda text: f"答{text}")
generic_questions = st.lists(
    st.fixed_dictionaries(
        {
            "search_idx": st.integers(0, 10**6) | texts,
            "query": texts,
            "answers": st.lists(answers, min_size=1, max_size=3),
        },
        optional={"ref_note_idx_list": st.lists(note_idxs, max_size=4), "topic": odd},
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda row: str(row["search_idx"]),
)
qilin_questions = st.lists(
    st.fixed_dictionaries(
        {
            "search_idx": st.integers(0, 10**6),
            "query": texts,
            "dqa_output": st.just("-1") | answers,
            "is_content_clk": st.sampled_from([-1.0, 1.0, 1.0]),
            "bm25_results": st.lists(st.tuples(note_idxs, st.floats(-9, 9)), max_size=4),
        },
        optional={
            "is_like_clk": st.sampled_from([-1.0, 0.0, 1.0]),
            "ref_note_idx_list": st.lists(note_idxs, max_size=4),
        },
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda row: str(row["search_idx"]),
)
# Now and then one value of one row is replaced or taken away.
damages = st.none() | st.tuples(
    st.sampled_from(["notes", "dqa"]), st.integers(0, 7), st.integers(0, 5), odd, st.booleans()
)
templates = st.sampled_from(
    [
        "{{ query }}{% for note in notes %}{{ note.title }}:{{ note.content }}{% endfor %}",
        "{{ notes[0].title }} {{ query }}",
        "{{ query * 3 }}",
    ]
)
prompts = st.fixed_dictionaries(
    {
        "language": st.just("zh"),
        "description": st.just("x"),
        "with_notes": templates | texts,
        "without_notes": templates | texts,
    }
)
configs = st.fixed_dictionaries(
    {},
    optional={
        "retriever": st.sampled_from(
            ["none", "bm25", "oracle", "random", "recorded:bm25", {"name": "bm25", "analyzer": "char"}]
        ),
        "top_k": st.sampled_from([1, 5, 10**9]),
        "limit": st.integers(1, 4),
        "answers": st.sampled_from(["engaged", "liked", "shown"]),
        "references": st.sampled_from(["own", "query"]),
        "missing_notes": st.just("skip"),
        "metrics": st.just("rouge_l,rouge_1"),
        "concurrency": st.integers(1, 3),
    },
)


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} was written")


def check_files(folder: Path) -> None:
    """Every line that was written is JSON without NaN or infinity."""
    for path in folder.rglob("*.json*"):
        content = path.read_text(encoding="utf-8")
        for text in [content] if path.suffix == ".json" else content.rstrip("\n").split("\n"):
            json.loads(text, parse_constant=no_constant)


def damaged(rows: list[dict[str, Any]], row: int, column: int, value: Any, is_gone: bool) -> None:
    """Replace one value, or take it away."""
    chosen = rows[row % len(rows)]
    name = list(chosen)[column % len(chosen)]
    if is_gone:
        del chosen[name]
    else:
        chosen[name] = value


@settings(
    max_examples=100,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    notes=notes_tables,
    questions=generic_questions | qilin_questions,
    damage=damages,
    prompt=prompts,
    flags=configs,
    answer=texts,
    ends=finish_reasons,
)
def test_a_result_or_one_error(
    notes: list[dict[str, Any]],
    questions: list[dict[str, Any]],
    damage: tuple[str, int, int, Any, bool] | None,
    prompt: dict[str, Any],
    flags: dict[str, Any],
    answer: str,
    ends: str,
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tables = {"notes": notes, "dqa": questions}
        if damage and tables[damage[0]]:
            damaged(tables[damage[0]], *damage[1:])
        for name, rows in tables.items():
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        (folder / "prompt.yaml").write_text(yaml.safe_dump(prompt), encoding="utf-8")
        defects: list[str] = []
        validate(open_source(temporary), lambda defect: defects.append(str(defect)))
        given_flags = {"data": temporary, "prompt": str(folder / "prompt.yaml"), "runs_dir": folder / "runs", **flags}
        llm = {"name": f"{__name__}:Scripted", "settings": {"text": json.dumps(answer), "ends": ends}}
        try:
            resolved = resolve_run({"metrics": "rouge_l", **given_flags})
            config = RunConfig(**resolved.model_dump() | {"llm": llm, "llm_label": "scripted"})
            finished = run(config)
        except QilinError as error:
            event("an error")
            assert str(error).strip()
            check_files(folder / "runs")
            return
        event(f"a result ending in {ends}")
        check_files(folder / "runs")
        counts = finished.summary.counts
        assert sum(n for status, n in counts.items() if status != "questions") == counts["questions"] > 0
        for metric in finished.summary.metrics.values():
            assert metric.n + metric.n_unscored == counts["questions"]
            assert metric.value is None or 0 <= metric.value <= 1
        again = run(config)
        assert finished.summary.lost or again.summary == finished.summary
        assert score_run(finished.directory.path, {"rouge_l": {}}).summary == again.summary
        boards = leaderboard(folder / "runs", options=Options(controls=True, paper=True))
        as_markdown(boards), as_rows(boards), as_json(boards), as_latex(boards), as_html(boards)
