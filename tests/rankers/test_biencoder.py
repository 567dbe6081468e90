"""The bi-encoder ranker: what it learns from, on one process and on two, and that it serves as the retriever."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.config.resources import find_resource, read_yaml
from qilin_rag.core.errors import UsageError
from qilin_rag.core.progress import watched_by
from qilin_rag.core.registry import RANKERS, RETRIEVERS
from qilin_rag.core.types import Hit, Question
from qilin_rag.data.catalogue import Catalogue
from qilin_rag.data.requests import Requests, requests_of
from qilin_rag.rankers.examples import ClickedNotes, contrasts
from qilin_rag.rankers.passages import note_texts
from qilin_rag.rankers.rerank import Reranker
from tests.conftest import Cli
from tests.rankers.conftest import mrr
from tests.rankers.made import made_requests
from tests.rankers.small_corpus import CHARACTERS, small_catalogue, write_small_corpus
from tests.rankers.tiny_bert import write_tiny_bert

pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
pytest.importorskip("datasets", reason="needs datasets: pip install 'qilin-rag[rankers]'")
torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")

from qilin_rag.rankers.biencoder import BiEncoder  # noqa: E402
from qilin_rag.rankers.trained import load_ranker  # noqa: E402
from qilin_rag.rankers.training import make_optimizer, train_ranker  # noqa: E402
from qilin_rag.retrievers.dense import retriever as retriever_biencoder  # noqa: E402
from tests.rankers.test_training import KillAt, Killed, log_of, model_of  # noqa: E402

SETTINGS: dict[str, Any] = {"max_length": 16, "device": "cpu", "optimizer": "adamw", "log_every": 1, "patience": 99}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_corpus(tmp_path_factory.mktemp("data") / "small")


@pytest.fixture(scope="module")
def catalogue(data: Path) -> Catalogue:
    return small_catalogue(data)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("models") / "tiny", [CHARACTERS, "好坏q0123456789"])


def tiny(model: Path, **settings: Any) -> BiEncoder:
    return BiEncoder(model=str(model), **SETTINGS | settings)


@pytest.fixture(scope="module")
def trained(model: Path, catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that training wrote: prefixes, and a step that is not the last are kept."""
    out = tmp_path_factory.mktemp("trained") / "my-encoder"
    ranker = tiny(model, batch_size=16, max_steps=12, evaluate_every=3, query_prefix="q", passage_prefix="茶茶")
    train_ranker(ranker, made_requests(), made_requests(20, seed=5), catalogue, out)
    return out


def test_negatives_are_results_of_the_request_that_were_not_clicked() -> None:
    """Defects 1 and 6: the released "negatives" are clicked notes, the positive among them."""
    requests = made_requests(200)
    found = contrasts(requests, 5, seed=3)
    assert len(found.request) == requests.clicked.sum()
    was_short = False
    for request, positive, negatives in zip(*found, strict=True):
        one = slice(requests.offsets[request], requests.offsets[request + 1])
        clicked = set(requests.note_idx[one][requests.clicked[one]].tolist())
        others = set(requests.note_idx[one].tolist()) - clicked
        there = negatives[negatives >= 0].tolist()
        assert positive in clicked
        assert set(there) <= others
        assert len(set(there)) == len(there) == min(5, len(others))
        assert (negatives[len(there) :] == -1).all()
        was_short |= len(others) < 5
    assert was_short
    again, other = contrasts(requests, 5, seed=3), contrasts(requests, 5, seed=4)
    assert np.array_equal(again.negatives, found.negatives)
    assert not np.array_equal(other.negatives, found.negatives)
    single = made_requests(1, n_candidates=20)
    drawn = np.concatenate([contrasts(single, 2, seed).negatives.ravel() for seed in range(300)])
    counts = np.bincount(drawn)[single.note_idx[~single.clicked]]
    assert 0.7 * counts.mean() < counts.min() < counts.max() < 1.4 * counts.mean()


def test_requests_without_unclicked_results_or_clicks() -> None:
    requests = made_requests(30)
    only = requests.with_candidates(requests.clicked)
    assert (contrasts(only, 3, 0).negatives == -1).all()
    assert contrasts(requests, 0, 0).negatives.shape == (requests.clicked.sum(), 0)
    clicked = ClickedNotes.of(requests).of_requests(np.flatnonzero(requests.n_clicked == 0)[:2])
    assert clicked.tolist() == [[-1], [-1]]


def batch_of(ranker: BiEncoder, requests: Requests, catalogue: Catalogue, rows: list[int]) -> tuple[Any, Any, Any]:
    """The model, and the features and labels of these examples as the trainer gets them."""
    recipe = ranker.recipe(requests, catalogue)
    batch = recipe.given["data_collator"]([{"example": row} for row in rows])
    features = [
        {name.removeprefix(f"{kind}_"): values for name, values in batch.items() if name.startswith(f"{kind}_")}
        for kind in ("query", "document")
    ]
    return recipe, features, batch["label"]


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_the_loss_is_over_the_distinct_notes_without_other_clicks(
    model: Path, catalogue: Catalogue, similarity: Any
) -> None:
    """Defects 1 and 6, in the loss: what the request clicked is no negative, though it is another's positive."""
    requests = made_requests(20)
    ranker = tiny(model, similarity=similarity, scale=3.0, n_negatives=3, query_prefix="q", passage_prefix="茶")
    rows = list(range(12))
    recipe, features, labels = batch_of(ranker, requests, catalogue, rows)
    found = contrasts(requests, 3, seed=0)
    notes = sorted({*found.positive[rows].tolist(), *found.negatives[rows].ravel().tolist()} - {-1})
    assert labels["passages"].tolist() == notes

    encoder = recipe.model.eval()
    normal = similarity == "cosine"
    texts = [f"茶{note.text}" for note in catalogue.notes.get(notes)]
    vectors = dict(zip(notes, encoder.encode(texts, normalize_embeddings=normal).astype(float), strict=True))

    def loss(leave_out_clicked: bool) -> float:
        losses = []
        for row in rows:
            request, positive = found.request[row], int(found.positive[row])
            one = slice(requests.offsets[request], requests.offsets[request + 1])
            clicked = set(requests.note_idx[one][requests.clicked[one]].tolist()) - {positive}
            query = encoder.encode(f"q{requests.queries[request]}", normalize_embeddings=normal).astype(float)
            others = [note for note in notes if not (leave_out_clicked and note in clicked)]
            logits = {note: 3.0 * query @ vectors[note] for note in others}
            losses.append(np.log(sum(np.exp(logit - logits[positive]) for logit in logits.values())))
        return float(np.mean(losses))

    with torch.no_grad():
        got = recipe.given["loss"](features, labels).item()
    assert got == pytest.approx(loss(True), rel=1e-4)
    assert got != pytest.approx(loss(False), rel=1e-3)


def test_every_parameter_is_in_the_optimizer_once(model: Path, catalogue: Catalogue) -> None:
    """Defect 2: a part of the model that the optimizer never sees. What has no part in the vectors is frozen."""
    ranker = tiny(model)
    recipe, features, labels = batch_of(ranker, made_requests(20), catalogue, list(range(8)))
    recipe.given["loss"](features, labels).backward()
    with_gradient = {name for name, value in recipe.model.named_parameters() if value.grad is not None}
    assert with_gradient == {name for name, value in recipe.model.named_parameters() if value.requires_grad}
    assert {name for name, _ in recipe.model.named_parameters()} - with_gradient == {
        name for name, _ in recipe.model.named_parameters() if ".pooler." in name
    }
    optimizer = make_optimizer(ranker, recipe.parameters)
    held = [id(value) for group in optimizer.param_groups for value in group["params"]]
    assert sorted(held) == sorted(id(value) for value in recipe.model.parameters() if value.requires_grad)


def shuffled_clicks(requests: Requests, seed: int = 0) -> Requests:
    """As many clicks, on results by chance."""
    return replace(requests, clicked=np.random.default_rng(seed).permutation(requests.clicked))


def test_it_overfits_one_batch(model: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    requests = shuffled_clicks(made_requests(4))
    n = int(requests.clicked.sum())
    ranker = tiny(model, batch_size=n, max_steps=80, evaluate_every=80, learning_rate=3e-3, n_negatives=8)
    done = train_ranker(ranker, requests, requests, catalogue, tmp_path / "out")
    losses = [line["loss"] for line in log_of(tmp_path / "out") if "loss" in line]
    assert done.mrr_at_10 == 1
    assert losses[-1] < 0.01


def test_saved_and_loaded_it_scores_identically(trained: Path, catalogue: Catalogue) -> None:
    """Also while it is trained: MRR@10 of the best step is that of the model that was kept."""
    test = made_requests(20, seed=5)
    ranker = load_ranker(trained)
    scores = ranker.score(test, catalogue)
    assert scores.dtype == np.float32
    assert scores.shape == (test.n_candidates,)
    assert np.isfinite(scores).all()
    assert np.array_equal(load_ranker(trained).score(test, catalogue), scores)
    of_best = max(line["mrr@10"] for line in log_of(trained) if "mrr@10" in line)
    assert mrr(test, scores).mean() == pytest.approx(of_best)


def test_nothing_but_query_and_note_counts(trained: Path, catalogue: Catalogue) -> None:
    """Neither clicks nor positions, nor what else is ranked."""
    test = made_requests(20, seed=5)
    ranker = load_ranker(trained)
    scores = ranker.score(test, catalogue)
    other = replace(shuffled_clicks(test), position=np.random.default_rng(1).permutation(test.position))
    assert np.array_equal(ranker.score(other, catalogue), scores)
    few = test.take(np.array([7, 3]))
    rows = np.concatenate([np.flatnonzero(test.request == row) for row in (7, 3)])
    assert ranker.score(few, catalogue) == pytest.approx(scores[rows], abs=1e-4)


def test_a_trained_one_serves_as_the_retriever(trained: Path, catalogue: Catalogue) -> None:
    """Prefixes, pooling, length and similarity carry over; the folder is named as it is. The index has 16 bits."""
    test = made_requests(20, seed=5)
    scores = load_ranker(trained).score(test, catalogue)
    served = RETRIEVERS.create(f"biencoder:{trained}", {})
    assert served.identity()["normalize"] is False
    assert (served.identity()["query_prefix"], served.identity()["passage_prefix"]) == ("q", "茶茶")
    questions = [Question(id=i, query=query, references=["-"]) for i, query in zip(test.ids, test.queries, strict=True)]
    for hits, own in zip(served.search(questions, catalogue.notes, 40), test.rankings(scores), strict=True):
        found = {hit.note_idx: hit.score for hit in hits}
        assert [found[hit.note_idx] for hit in own] == pytest.approx([hit.score for hit in own], rel=1e-3, abs=1e-2)
        candidates = {hit.note_idx for hit in own}
        assert [hit.note_idx for hit in hits if hit.note_idx in candidates] == [hit.note_idx for hit in own]
    assert RETRIEVERS.create(f"biencoder:{trained}/model", {}).identity() == served.identity()


def test_it_ranks_again_what_was_retrieved(trained: Path, catalogue: Catalogue) -> None:
    questions = [Question(id=str(i), query=query, references=["-"]) for i, query in enumerate(("咖啡", "好"))]
    hits = [[Hit(note_idx=note, score=-rank, rank=rank) for rank, note in enumerate((30, 3, 12), 1)]] * 2
    found = Reranker.open(trained, 3).rerank(questions, hits, catalogue.notes)
    assert found == (requests := requests_of(questions, hits)).rankings(load_ranker(trained).score(requests, catalogue))


def test_the_command_line_serves_it(trained: Path, data: Path, cli: Cli, tmp_path: Path) -> None:
    runs = ("--runs-dir", tmp_path / "runs")
    flags = ("--data", data, "--retriever", f"biencoder:{trained}", "--llm", "extractive", "--metrics", "rouge_l")
    done = cli("run", *flags, *runs)
    assert done.code == 0, done.err
    [run] = (tmp_path / "runs").iterdir()
    assert "biencoder-my-encoder-extractive" in run.name
    assert json.loads((run / "manifest.json").read_text())["labels"]["retriever"] == "biencoder:my-encoder"
    no_model = cli("run", *flags[:2], "--retriever", f"biencoder:{data}", *runs)
    assert (no_model.code, "no config.json in this folder" in no_model.err) == (2, True)


def test_vectors_for_other_models(trained: Path, catalogue: Catalogue) -> None:
    """Their dot products are the scores."""
    test = made_requests(20, seed=5)
    served = retriever_biencoder.BiEncoder(model=str(trained))
    queries = served.embed_queries(test.queries)
    notes = served.embed_notes(note_texts(catalogue, test.note_idx))
    assert queries.dtype == notes.dtype == np.float32
    expected = load_ranker(trained).score(test, catalogue)
    assert (queries[test.request] * notes).sum(axis=1) == pytest.approx(expected, abs=1e-3)


def test_the_papers_settings_are_there() -> None:
    for task, batch_size, n_negatives in (("search", 320, 6), ("recommendation", 96, 18)):
        settings = read_yaml(find_resource("configs/rankers", f"biencoder_{task}"))
        ranker = RANKERS.create(settings.pop("name"), settings)
        assert isinstance(ranker, BiEncoder)
        assert (ranker.batch_size, ranker.n_negatives) == (batch_size, n_negatives)
        assert (ranker.max_length, ranker.optimizer, ranker.learning_rate) == (256, "lamb", 1e-3)


@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"precision": "bf16"}])
def test_other_ways_to_compute_learn_the_same(
    model: Path, catalogue: Catalogue, tmp_path: Path, settings: dict[str, Any]
) -> None:
    requests = made_requests(), made_requests(20, seed=5)
    losses = []
    for name, more in (("plain", {}), ("other", settings)):
        ranker = tiny(model, batch_size=16, max_steps=4, evaluate_every=4, scale=0.1, **more)
        train_ranker(ranker, *requests, catalogue, tmp_path / name)
        losses.append([line["loss"] for line in log_of(tmp_path / name) if "loss" in line])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2 if "precision" in settings else 1e-5)


def test_what_is_empty_or_missing(trained: Path, catalogue: Catalogue) -> None:
    ranker = load_ranker(trained)
    questions = [Question(id=str(i), query=query, references=["-"]) for i, query in enumerate(("", " ", "q1"))]
    hits = [[Hit(note_idx=3, score=1, rank=1), Hit(note_idx=30, score=0, rank=2)], [], []]
    scores = ranker.score(requests_of(questions, hits), catalogue)
    assert np.isfinite(scores).all()
    assert len(scores) == 2
    unknown = requests_of(questions[:1], [[Hit(note_idx=999, score=1, rank=1)]])
    with pytest.raises(UsageError, match="the data has no note 999"):
        ranker.score(unknown, catalogue)
    with pytest.raises(UsageError, match="reads 64 tokens at most"):
        tiny(trained, max_length=65).recipe(made_requests(), catalogue)


def test_the_content_of_the_base_model_counts_not_its_place(model: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    requests = made_requests(), made_requests(20, seed=5)
    there = {"batch_size": 16, "max_steps": 2}
    first = train_ranker(tiny(model, **there), *requests, catalogue, tmp_path / "out")
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(model, moved)
    assert train_ranker(tiny(moved, **there), *requests, catalogue, tmp_path / "out") == first
    write_tiny_bert(other, [CHARACTERS, "好坏q0123456789"], width=16)
    with pytest.raises(UsageError, match=r"another training \(other pretrained\)"):
        train_ranker(tiny(other, **there), *requests, catalogue, tmp_path / "out")


def test_killed_and_resumed_is_as_if_it_had_not_been(model: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    ranker = tiny(model, batch_size=16, max_steps=18, evaluate_every=4)  # six steps an epoch
    requests = made_requests(), made_requests(20, seed=5)
    whole = train_ranker(ranker, *requests, catalogue, tmp_path / "whole")
    for n_steps in (6, 9):
        with watched_by(KillAt(n_steps)), pytest.raises(Killed):
            train_ranker(ranker, *requests, catalogue, tmp_path / "killed")
    resumed = train_ranker(ranker, *requests, catalogue, tmp_path / "killed")
    assert resumed[1:] == whole[1:]
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    for name, values in model_of(tmp_path / "whole").items():
        assert np.array_equal(values, model_of(tmp_path / "killed")[name])


def test_several_processes_need_a_batch_each(
    model: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    requests = made_requests(4)
    n = int(requests.clicked.sum())
    tiny(model, batch_size=n // 2).recipe(requests, catalogue)
    with pytest.raises(UsageError, match=f"{n} clicks are less than a batch of {n} on 2 processes"):
        tiny(model, batch_size=n).recipe(requests, catalogue)
