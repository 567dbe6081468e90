"""Pretrained rerankers by name or folder: their scores are sentence-transformers' own, and no pair is scored twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")

from qilin_rag.config.run import resolve_run  # noqa: E402
from qilin_rag.core.downloads import NotHereError, no_downloads  # noqa: E402
from qilin_rag.core.errors import QilinError, UsageError  # noqa: E402
from qilin_rag.core.types import Hit, Question  # noqa: E402
from qilin_rag.data import load_dataset  # noqa: E402
from qilin_rag.data.notes import NoteStore  # noqa: E402
from qilin_rag.models.families import RERANKER_FAMILIES  # noqa: E402
from qilin_rag.pipeline.run import run  # noqa: E402
from qilin_rag.rankers.pretrained import Pretrained  # noqa: E402
from qilin_rag.rankers.rerank import Reranker  # noqa: E402
from tests.conftest import NOTES, QUESTIONS, Cli  # noqa: E402
from tests.rankers.rerank_server import RerankServer  # noqa: E402
from tests.rankers.tiny_rerankers import write_cross_encoder, write_generative  # noqa: E402

TEXTS = [str(note) for note in NOTES] + [str(q["query"]) for q in QUESTIONS]
QWEN3 = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {instruction}\n'
    "<Query>: {query}\n<Document>: {note}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
SEARCH = "Given a web search query, retrieve relevant passages that answer the query"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_cross_encoder(folder / "cross", TEXTS)
    write_cross_encoder(folder / "of-three", TEXTS, n_labels=3)
    generative = write_generative(folder / "Qwen2.5-0.5B-Instruct")
    for name in ("Qwen3-Reranker-0.6B", "bge-reranker-v2-gemma", "mxbai-rerank-base-v2"):
        shutil.copytree(generative, folder / name)
    return folder


@pytest.fixture
def notes(data_dir: Path) -> NoteStore:
    return load_dataset(str(data_dir)).notes


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The pairs that a model has read."""
    from sentence_transformers import CrossEncoder

    pairs: list[tuple[str, str]] = []
    predict = CrossEncoder.predict

    def counted(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        pairs.extend(inputs)
        return predict(self, inputs, *args, **kwargs)

    monkeypatch.setattr(CrossEncoder, "predict", counted)
    return pairs


QUERIES = ["咖啡怎么冲", "哪里有好吃的"]


def scores_of(notes: NoteStore, source: Path | str, **settings: Any) -> dict[tuple[str, str], float]:
    """The score of each query with each note, as a second stage gives them."""
    questions = [Question(id=q, query=q, references=["-"], reference_notes=[]) for q in QUERIES]
    found = [Hit(note_idx=note.note_idx, score=-float(rank), rank=rank) for rank, note in enumerate(notes, 1)]
    rankings = Reranker.open(source, len(found), settings=settings).rerank(questions, [found, found], notes)
    text = {note.note_idx: note.text for note in notes}
    return {(q, text[hit.note_idx]): hit.score for q, hits in zip(QUERIES, rankings, strict=True) for hit in hits}


def test_scores_are_those_of_sentence_transformers(models: Path, notes: NoteStore) -> None:
    from sentence_transformers import CrossEncoder

    scores = scores_of(notes, models / "cross", batch_size=3)
    expected = CrossEncoder(str(models / "cross"), device="cpu", max_length=64).predict(list(scores))
    assert list(scores.values()) == pytest.approx(expected.tolist(), abs=1e-6)
    assert len(set(scores.values())) == len(scores)


@pytest.mark.parametrize("instruction", [None, "找出能回答问题的笔记"])
def test_a_generative_reranker_is_asked_in_the_words_of_its_family(
    models: Path, notes: NoteStore, instruction: str | None
) -> None:
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = models / "Qwen3-Reranker-0.6B"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    scores = scores_of(notes, folder, **({"instruction": instruction} if instruction else {}))
    template = {"chat_template": next(each.template for each in RERANKER_FAMILIES if each.name == "Qwen3-Reranker")}
    encoder = CrossEncoder(str(folder), device="cpu", processor_kwargs=template)
    own = encoder.predict(list(scores), prompt=instruction)
    assert list(scores.values()) == pytest.approx(own.tolist(), abs=1e-6)
    for (query, note), score in scores.items():
        prompt = QWEN3.format(instruction=instruction or SEARCH, query=query, note=note)
        with torch.no_grad():
            logits = model(**tokenizer(prompt, return_tensors="pt", add_special_tokens=False)).logits[0, -1]
        assert score == pytest.approx(float(torch.sigmoid(logits[yes] - logits[no])), abs=1e-5)


def test_each_family_has_its_prompt_and_its_answer(models: Path, notes: NoteStore) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    task = (
        "binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:<|im_end|>\n<|im_start|>assistant\n"
    )
    for name, begins, ends, relevant, irrelevant in (
        (
            "bge-reranker-v2-gemma",
            "<|endoftext|>A: {query}\nB: {note}\nGiven a",
            "of either 'Yes' or 'No'.",
            "Yes",
            None,
        ),
        ("mxbai-rerank-base-v2", "<|im_start|>system\nYou are Qwen, created by Alibaba", task, "1", "0"),
    ):
        ranker = Pretrained(model=str(models / name))
        model, tokenizer = AutoModelForCausalLM.from_pretrained(models / name), ranker._model().tokenizer
        (query, note), score = next(iter(scores_of(notes, models / name).items()))
        messages = [{"role": "query", "content": query}, {"role": "document", "content": note}]
        prompt = tokenizer.apply_chat_template(messages, tokenize=False)
        assert prompt.startswith(begins.format(query=query, note=note))
        assert prompt.endswith(ends)
        plain = AutoTokenizer.from_pretrained(models / name)
        with torch.no_grad():
            logits = model(**plain(prompt, return_tensors="pt", add_special_tokens=False)).logits[0, -1]
        logit = logits[plain.convert_tokens_to_ids(relevant)]
        if irrelevant:
            logit = logit - logits[plain.convert_tokens_to_ids(irrelevant)]
        assert score == pytest.approx(float(torch.sigmoid(logit)), abs=1e-5)


def test_a_served_model_gives_the_scores_of_its_folder(models: Path, notes: NoteStore) -> None:
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(str(models / "cross"), device="cpu", max_length=64)
    local = scores_of(notes, models / "cross")
    with RerankServer(score=lambda query, texts: encoder.predict([(query, text) for text in texts]).tolist()) as server:
        for path in ("/v1/rerank", "/rerank", "/v1/score"):
            served = scores_of(notes, server.root + path, model=path)
            assert served == pytest.approx(local, abs=1e-6)
            assert list(served) == list(local)
        assert len(server.pairs) == 3 * len(local)


def test_a_long_note_is_cut_and_the_prompt_stays_whole(models: Path) -> None:
    ranker = Pretrained(model=str(models / "Qwen3-Reranker-0.6B"), max_length=600)
    encoder = ranker._model()
    ids = encoder.preprocess([("问", "长" * 2000)])["input_ids"]
    assert ids.shape == (1, 600)
    text = encoder.tokenizer.decode(ids[0])
    assert "<Query>: 问\n<Document>: 长长" in text and text.endswith("</think>\n\n")


def test_what_its_own_files_say_counts_more_than_its_name(models: Path, notes: NoteStore, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    saved = tmp_path / "Qwen3-Reranker-saved"
    template = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}\n{% endfor %}"
    encoder = CrossEncoder(str(models / "Qwen2.5-0.5B-Instruct"), device="cpu", activation_fn=torch.nn.Identity())
    encoder.tokenizer.chat_template = template
    encoder.save_pretrained(str(saved), create_model_card=False)
    assert (saved / "modules.json").is_file()
    scores = scores_of(notes, saved)
    expected = CrossEncoder(str(saved), device="cpu").predict(list(scores))
    assert list(scores.values()) == pytest.approx(expected.tolist(), abs=1e-6)
    assert min(scores.values()) < 0


def test_no_pair_is_scored_twice(
    models: Path, notes: NoteStore, scored: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = iter(range(100))

    def killed(pairs: Sequence[tuple[str, str]]) -> None:
        if next(batches) == 2:
            raise KeyboardInterrupt

    from qilin_rag.rankers.score_store import ScoreStore

    put = ScoreStore.put

    def put_until_killed(self: ScoreStore, pairs: Any, scores: Any) -> None:
        killed(pairs)
        put(self, pairs, scores)

    monkeypatch.setattr(ScoreStore, "put", put_until_killed)
    with pytest.raises(KeyboardInterrupt):
        scores_of(notes, models / "cross", batch_size=3)
    assert len(scored) == 9
    monkeypatch.setattr(ScoreStore, "put", put)
    whole = scores_of(notes, models / "cross", batch_size=3)
    n_pairs = len(QUERIES) * len(notes)
    assert len(scored) == n_pairs + 3  # those of the batch that was lost
    assert scores_of(notes, models / "cross", batch_size=5) == whole
    assert len(scored) == n_pairs + 3
    scores_of(notes, models / "cross", max_length=32)  # another score
    assert len(scored) == 2 * n_pairs + 3


def test_an_interrupted_run_has_the_same_bytes(
    models: Path, notes: NoteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QILIN_RAG_CACHE", str(tmp_path / "whole"))
    whole = scores_of(notes, models / "cross", batch_size=3)
    monkeypatch.setenv("QILIN_RAG_CACHE", str(tmp_path / "resumed"))
    model, n = Pretrained(model=str(models / "cross"), batch_size=3), iter(range(9))
    monkeypatch.setattr(
        Pretrained, "_model", lambda self: (_ for _ in ()).throw(QilinError("gone")) if next(n) == 0 else model
    )
    with pytest.raises(QilinError, match="gone"):
        scores_of(notes, models / "cross", batch_size=3)
    monkeypatch.undo()
    monkeypatch.setenv("QILIN_RAG_CACHE", str(tmp_path / "resumed"))
    assert scores_of(notes, models / "cross", batch_size=3) == whole


def test_a_score_that_is_no_number_is_not_kept(models: Path, notes: NoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import CrossEncoder

    with monkeypatch.context() as patched:
        patched.setattr(CrossEncoder, "predict", lambda self, pairs, **others: np.full(len(pairs), np.nan))
        with pytest.raises(QilinError, match=r"reranker cross@.* has no finite score of the query '.*' with a note"):
            scores_of(notes, models / "cross")
    assert all(map(np.isfinite, scores_of(notes, models / "cross").values()))


def test_a_run_is_identified_by_the_content_of_the_model(models: Path, data_dir: Path, tmp_path: Path) -> None:
    def asked(source: Path | str, *overrides: str) -> Any:
        flags = {"data": str(data_dir), "metrics": "retrieval", "rerank": str(source), "rerank_depth": 4, "top_k": 2}
        return run(resolve_run(flags, overrides)).manifest

    first = asked(models / "cross")
    assert first.config["rerank"] == str(models / "cross")
    assert first.config["rerank_settings"]["batch_size"] == 32
    assert first.labels["retriever"].startswith("bm25 + cross@")
    shutil.copytree(models / "cross", tmp_path / "moved")
    assert asked(tmp_path / "moved", "rerank.batch_size=2", "rerank.device=cpu").fingerprint == first.fingerprint
    assert asked(models / "cross", "rerank.max_length=48").fingerprint != first.fingerprint
    assert asked(models / "Qwen3-Reranker-0.6B").identity["rerank"]["ranker"]["template"].startswith("<|im_start|>")


def test_it_works_on_the_command_line(models: Path, data_dir: Path, cli: Cli) -> None:
    flags = ("--data", data_dir, "--rerank", models / "cross", "--set", "rerank.max_length=48", "--top-k", 2, "-q")
    done = cli("retrieve", *flags, "--out", "run.trec")
    assert (done.code, done.err) == (0, "")
    Path("grid.yaml").write_text(
        f"retrievers: [bm25, random]\nmetrics: retrieval\nrerank: {{name: {models / 'cross'}, max_length: 48}}\n"
    )
    swept = cli("sweep", "grid.yaml", "--data", data_dir, "-q")
    assert swept.code == 0 and "bm25 + cross@" in swept.out
    assert "pretrained" in cli("list", "rankers").out
    assert "max_length" in cli("list", "rankers", "pretrained").out
    looked = cli("doctor", "--data", data_dir, "--rerank", models / "cross")
    assert "reranker" in looked.out and "cross" in looked.out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "nowhere holds no trained ranker: no such folder; give"),
        ("models/of-three", "gives 3 scores a pair, a reranker gives one"),
        ("models/Qwen2.5-0.5B-Instruct", "is a language model, and neither its files .* say how it reranks"),
        ("models/encoder", "weights are not in its files"),
        ("models/no-model", "models/no-model holds no trained ranker"),
    ],
)
def test_what_is_no_reranker_is_refused_in_one_line(
    models: Path, notes: NoteStore, name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.rankers.tiny_bert import write_tiny_bert

    monkeypatch.chdir(models.parent)
    place = models.parent / "models"
    if not place.exists():
        place.symlink_to(models)
        write_tiny_bert(models / "encoder", TEXTS)
        (models / "no-model").mkdir()
    with pytest.raises(UsageError, match=said):
        scores_of(notes, name)


def test_wrong_settings_are_refused_by_name(models: Path, notes: NoteStore) -> None:
    with pytest.raises(UsageError, match=r"rerank\.max_length 65: model .* reads 64 tokens at most"):
        scores_of(notes, models / "cross", max_length=65)
    with pytest.raises(UsageError, match=r"max_lenght"):
        resolve_run({"rerank": str(models / "cross")}, ["rerank.max_lenght=5"])
    with pytest.raises(UsageError, match=r"rerank\.max_length"):
        resolve_run({}, ["rerank.max_length=5"])


def test_a_dry_run_downloads_nothing(notes: NoteStore) -> None:
    with no_downloads(), pytest.raises(NotHereError, match="'nobody-here/no-reranker' is not on this machine"):
        Reranker.open("nobody-here/no-reranker", 5).identity()


def test_the_store_survives_a_damaged_file(models: Path, notes: NoteStore, caplog: pytest.LogCaptureFixture) -> None:
    from qilin_rag.core.cache import cache_dir

    cache_dir().mkdir(parents=True, exist_ok=True)
    (cache_dir() / "scores.sqlite").write_text(json.dumps("this is no database" * 100))
    assert len(scores_of(notes, models / "cross")) == len(QUERIES) * len(notes)
    assert "scores can't be kept" in caplog.text
