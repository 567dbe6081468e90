"""DCN-V2: its layers by hand, what its scores may depend on, and that it learns from what it is given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
pytest.importorskip("faiss", reason="needs faiss-cpu")
pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")

from qilin_rag.core.errors import UsageError  # noqa: E402
from qilin_rag.core.progress import watched_by  # noqa: E402
from qilin_rag.core.registry import RANKERS  # noqa: E402
from qilin_rag.rankers import load_ranker  # noqa: E402
from qilin_rag.rankers.batches import Examples, as_one  # noqa: E402
from qilin_rag.rankers.cross_network import CrossLayer, CrossNetwork  # noqa: E402
from qilin_rag.rankers.dcn_v2 import DCNV2  # noqa: E402
from qilin_rag.rankers.propensity import (  # noqa: E402
    N_POSITIONS,
    N_POSITIONS_IN_COLUMNS,
    Examination,
    click_weights,
    estimate_examination,
    position_buckets,
)
from qilin_rag.rankers.training import make_optimizer, train_ranker  # noqa: E402
from tests.rankers.conftest import Made, MakeWorld  # noqa: E402
from tests.rankers.dcn import COUNTS, small, trained  # noqa: E402
from tests.rankers.test_training import KillAt, Killed, log_of, model_of  # noqa: E402
from tests.retrievers.test_biencoder import write_model  # noqa: E402


@pytest.fixture(scope="module")
def made(make_world: MakeWorld) -> Made:
    return make_world(COUNTS)


@pytest.fixture(scope="module")
def any_model(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that was trained a little."""
    out = tmp_path_factory.mktemp("dcn") / "out"
    trained(small(max_steps=4, evaluate_every=4), made, out)
    return out


@pytest.mark.parametrize("rank", [None, 2])
def test_the_cross_layer_is_the_formula_by_hand(rank: int | None) -> None:
    """Wang et al. (2021): x0 * (W x + b) + x with W a matrix. Defect 5: it was DCN-v1's vector form."""
    torch.manual_seed(0)
    layer = CrossLayer(4, rank)
    x0, x = torch.randn(3, 4), torch.randn(3, 4)
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    w = weights["w.weight"] if rank is None else weights["w.weight"] @ weights["v.weight"]
    assert w.shape == (4, 4)
    for i in range(3):
        a, b = x0[i].numpy(), x[i].numpy()
        expected = [
            a[row] * (sum(w[row, k] * b[k] for k in range(4)) + weights["w.bias"][row]) + b[row] for row in range(4)
        ]
        assert layer(x0, x)[i].tolist() == pytest.approx(expected, abs=1e-5)


def test_at_the_papers_widths_it_has_2006_inputs_and_129_million_parameters() -> None:
    with torch.device("meta"):
        low_rank = CrossNetwork(DCNV2(rank=64).shape(768))
        full_rank = CrossNetwork(DCNV2().shape(768))
    assert low_rank.shape.width == 2006 + 1  # and whether it is a search
    count = {network: sum(p.numel() for p in network.parameters()) for network in (low_rank, full_rank)}
    cross = {network: sum(p.numel() for p in network.cross.parameters()) for network in count}
    assert count[low_rank] - cross[low_rank] == pytest.approx(129.4e6, rel=0.01)
    assert count[low_rank] == pytest.approx(129e6, rel=0.02)
    assert cross[full_rank] == 3 * (2007 * 2007 + 2007)
    assert low_rank.tables["note_idx"].weight.numel() == pytest.approx(127e6, rel=0.001)


def test_no_score_depends_on_what_else_is_in_the_batch(made: Made, any_model: Path) -> None:
    """Defect 5: batch norm on the logits and inside the cross layers."""
    requests = made.requests("recommendation", "test")
    together = load_ranker(any_model, device="cpu").score(requests, made.catalogue)
    alone = load_ranker(any_model, device="cpu", score_batch_size=7).score(requests, made.catalogue)
    first = load_ranker(any_model, device="cpu").score(requests.take(np.array([3])), made.catalogue)
    assert alone == pytest.approx(together, abs=1e-5)
    assert first == pytest.approx(together[requests.offsets[3] : requests.offsets[4]], abs=1e-5)
    network = load_ranker(any_model, device="cpu").load(any_model / "model").network
    assert not [module for module in network.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]


def test_counts_are_standardized_by_train_alone(made: Made, any_model: Path) -> None:
    """Defect 5: raw counts; here each column of train has mean 0 and deviation 1, and test changes no scale."""
    ranker = load_ranker(any_model, device="cpu")
    assert isinstance(ranker, DCNV2)
    network = ranker.load(any_model / "model").network
    train, test = made.requests("recommendation", "train"), made.requests("recommendation", "test")
    columns = ranker.recipe(train, made.catalogue).train_dataset.columns
    scaled = network.note_scale(torch.from_numpy(np.array(columns.notes.numbers)))[:, 6:]
    assert scaled.mean(dim=0).tolist() == pytest.approx([0] * 30, abs=0.05)
    assert scaled.std(dim=0).tolist() == pytest.approx([1] * 30, abs=0.1)
    before = network.note_scale.mean.clone()
    ranker.score(test, made.catalogue)
    assert torch.equal(before, network.note_scale.mean)
    kept = json.loads((any_model / "model" / "features.json").read_text())["note_numbers"]
    assert kept["click_num"]["mean"] == pytest.approx(float(before[6 + 3]))


def test_padding_has_no_part_in_the_mean_of_the_history() -> None:
    """Defect 6: padding was counted."""
    network = CrossNetwork(small().shape(0))
    recent = torch.tensor([[5, 7] + [0] * 8, [0] * 10, [9] * 10])
    table = network.tables["note_idx"].weight
    found = network.history(recent)
    assert torch.allclose(found[0], (table[5] + table[7]) / 2)
    assert not found[1].any()
    assert torch.allclose(found[2], table[9])


def test_each_example_is_an_exposure_and_no_clicked_note_counts_as_not_clicked(made: Made) -> None:
    """Defect 6: random negatives were clicked notes at times."""
    train = made.requests("recommendation", "train")
    examples = small(debias="none").recipe(train, made.catalogue).train_dataset
    batch = examples.__getitems__(list(range(len(examples))))
    clicked = {(r, n) for r, n, c in zip(train.request, train.note_idx, train.clicked, strict=True) if c}
    negative = batch["labels"].numpy() == 0
    assert len(examples) == train.n_candidates
    assert int((~negative).sum()) == len(clicked)
    assert not clicked & set(zip(train.request[negative], train.note_idx[negative], strict=True))
    assert np.array_equal(batch["note_ids"][:, 4].numpy(), 1 + train.note_idx % 1023)


def test_a_loader_asks_for_whole_batches(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through transformers' Trainer and accelerate, on the path that training takes."""
    from transformers import Trainer

    asked = []
    real = Examples.__getitems__

    def counted(self: Any, rows: list[int]) -> Any:
        asked.append(len(rows))
        return real(self, rows)

    monkeypatch.setattr(Examples, "__getitems__", counted)
    assert not hasattr(Examples, "__getitem__") or Examples.__getitem__ is torch.utils.data.Dataset.__getitem__
    ranker = small(max_steps=3, batch_size=50)
    recipe = ranker.recipe(made.requests("recommendation", "train"), made.catalogue)
    arguments = recipe.arguments(
        output_dir="unused",
        max_steps=3,
        per_device_train_batch_size=50,
        use_cpu=True,
        report_to="none",
        **recipe.more_arguments,
    )
    batch = next(
        iter(
            Trainer(recipe.model, arguments, train_dataset=recipe.train_dataset, **recipe.given).get_train_dataloader()
        )
    )
    assert set(asked) == {50}
    assert batch["note_numbers"].shape == (50, 36)
    assert as_one(batch) is batch


def test_positions_and_clicks_of_the_test_change_no_score(made: Made, any_model: Path) -> None:
    """Defect 7: the order of production leaked into the result."""
    requests = made.requests("recommendation", "test")
    rng = np.random.default_rng(0)
    order = rng.permutation(requests.n_candidates)
    shuffled = replace(requests, position=requests.position[order], clicked=requests.clicked[order])
    without = replace(requests, position=np.full_like(requests.position, -1))
    ranker = load_ranker(any_model, device="cpu")
    scores = ranker.score(requests, made.catalogue)
    assert np.array_equal(scores, ranker.score(shuffled, made.catalogue))
    assert np.array_equal(scores, ranker.score(without, made.catalogue))
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


def test_the_tower_learns_in_training_and_adds_nothing_to_a_score(made: Made) -> None:
    recipe = small().recipe(made.requests("recommendation", "train"), made.catalogue)
    batch = recipe.train_dataset.__getitems__(list(range(64)))
    recipe.model(**batch)["loss"].backward()
    gradient = recipe.model.tower.weight.grad.squeeze(-1)
    seen = torch.unique(batch["position"])
    assert (gradient[seen] != 0).all()
    recipe.model.eval()
    features = {name: values for name, values in batch.items() if name not in ("labels", "position")}
    before = recipe.model.logits(features)
    torch.nn.init.normal_(recipe.model.tower.weight)
    assert torch.equal(before, recipe.model.logits(features))


def test_without_position_there_is_no_tower_and_no_weight(made: Made) -> None:
    for debias in ("tower", "ipw"):
        recipe = small(debias=debias, without=["position"]).recipe(made.requests("search", "train"), made.catalogue)
        assert recipe.model.tower is None
        assert recipe.train_dataset.position is None
        assert set(np.unique(recipe.train_dataset.labels)) == {0, 1}


@pytest.mark.parametrize(
    ("name", "missing"),
    [("counts", None), ("query_source", "source"), ("history", "recent"), ("user", "user_ids"), ("text", None)],
)
def test_what_is_left_out_is_not_there(made: Made, name: str, missing: str | None) -> None:
    """Defect 8: counts carry no date, so a run without them is offered."""
    recipe = small(without=[name]).recipe(made.requests("search", "train"), made.catalogue)
    batch = recipe.train_dataset.__getitems__([0, 1])
    if missing:
        assert missing not in batch
    assert batch["note_numbers"].shape[1] == (6 if name == "counts" else 36)
    assert np.isfinite(recipe.model(**batch)["loss"].item())


def test_wrong_settings_are_named() -> None:
    with pytest.raises(UsageError, match=r"input 'conts' does not exist; did you mean 'counts'\?"):
        RANKERS.create("dcn-v2", {"without": ["conts"]})
    with pytest.raises(UsageError, match="position_bias_exponent is for debias ipw, not tower"):
        RANKERS.create("dcn-v2", {"position_bias_exponent": 1.0})
    with pytest.raises(UsageError, match="gradient_checkpointing"):
        RANKERS.create("dcn-v2", {"gradient_checkpointing": True})
    assert DCNV2(without=("text", "counts")) == DCNV2(without=("counts", "text"))


def test_positions_and_weights() -> None:
    assert position_buckets(np.array([-1, 1, 20, 21, 40, 10**6])).tolist() == [0, 1, 20, 20, 24, N_POSITIONS - 1]
    assert click_weights(np.array([0, 1, 4, 100]), Examination(0.5), 5.0).tolist() == [1, 1, 2, 5]


def test_columns_of_the_page_have_buckets_and_weights_of_their_own() -> None:
    """Position 0 is in neither; below 20 each position has its own bucket anyway."""
    positions = np.array([-1, 0, 1, 2, 19, 20, 21, 22, 23, 24, 25, 10**6, 10**6 + 1])
    right = N_POSITIONS - 20
    wanted = [0, 48, 1, 2, 19, 20 + right, 20, 20 + right, 20, 21 + right, 21, 33 + right, 33]
    assert position_buckets(positions, 2).tolist() == wanted
    assert N_POSITIONS_IN_COLUMNS == 49
    weights = click_weights(np.array([-1, 0, 1, 2, 3, 4, 100]), Examination(1.0, 0.5), 50)
    assert weights.tolist() == [1, 1, 1, 4, 3, 8, 50]


@pytest.mark.parametrize("right", [1.0, 0.4])
def test_the_right_column_is_estimated_with_the_exponent(right: float) -> None:
    """Relevance has no feature here: one number for all, by the model's own network."""

    class One(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.number = torch.nn.Parameter(torch.tensor(0.0))

        def logits(self, features: Any) -> Any:
            return self.number + features["logit"]

    rng = np.random.default_rng(0)

    def batches() -> Any:
        for _ in range(600):
            position = rng.integers(0, 40, 1024)
            logit = rng.normal(0, 1.5, 1024)
            seen = np.maximum(position, 1) ** -0.6 * np.where((position > 0) & (position % 2 == 0), right, 1)
            clicked = rng.random(1024) < seen / (1 + np.exp(-0.5 - logit))
            yield {"logit": torch.tensor(logit)}, torch.tensor(clicked).float(), torch.tensor(position)

    network = One()
    found = estimate_examination(network, [{"params": network.parameters(), "lr": 0.02}], batches(), 2)
    assert found.exponent == pytest.approx(0.6, abs=0.05) and found.right == pytest.approx(right, abs=0.05)
    network = One()
    alone = estimate_examination(network, [{"params": network.parameters(), "lr": 0.02}], batches())
    assert alone.right == 1


@pytest.mark.parametrize("debias", ["tower", "ipw"])
def test_a_page_of_two_columns_is_trained_saved_and_read(made: Made, tmp_path: Path, debias: Any) -> None:
    ranker = small(debias=debias, page_columns=2, max_steps=3)
    train_ranker(
        ranker,
        made.requests("search", "train"),
        made.requests("search", "validation"),
        made.catalogue,
        tmp_path / "out",
    )
    again = load_ranker(tmp_path / "out", device="cpu")
    assert again.page_columns == 2  # type: ignore[attr-defined]
    fitted = again.load(tmp_path / "out" / "model")
    if debias == "ipw":
        assert fitted.examination.right > 0 and fitted.examination.right != 1
        kept = json.loads((tmp_path / "out" / "model" / "features.json").read_text())
        assert fitted.examination == (kept["position_bias_exponent"], kept["right_column_propensity"])
    else:
        assert fitted.network.tower.weight.shape == (2 * N_POSITIONS_IN_COLUMNS, 1) and fitted.examination is None


def test_one_column_is_what_it_was() -> None:
    """Rankers that were trained before the setting keep their identity and resume."""
    assert "page_columns" not in small().identity() and "page_columns" not in small().training_settings()
    assert small(page_columns=2).identity()["page_columns"] == 2
    with pytest.raises(UsageError, match="page_columns is for debias tower and ipw, not none"):
        RANKERS.create("dcn-v2", {"debias": "none", "page_columns": 2})
    with pytest.raises(UsageError, match="leave position_bias_exponent out"):
        RANKERS.create("dcn-v2", {"debias": "ipw", "position_bias_exponent": 1.0, "page_columns": 2})


def test_weighted_clicks_are_labels_over_propensity(made: Made) -> None:
    train = made.requests("recommendation", "train")
    labels = (
        small(debias="ipw", position_bias_exponent=1.0, most_weight=4)
        .recipe(train, made.catalogue)
        .train_dataset.labels
    )
    assert np.array_equal(labels, train.clicked * np.minimum(train.position, 4))


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_the_optimizer_has_each_parameter_once(made: Made, optimizer: Any) -> None:
    """Defect 2: a head that the optimizer never saw. Embeddings have a rate of their own."""
    ranker = small(optimizer=optimizer)
    recipe = ranker.recipe(made.requests("search", "train"), made.catalogue)
    groups = make_optimizer(ranker, recipe.parameters).param_groups
    there = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(there) == sorted(id(p) for p in recipe.model.parameters() if p.requires_grad)
    assert [group["lr"] for group in groups] == [0.01, 0.002]
    assert {id(p) for p in recipe.model.tables.parameters()} < {id(p) for p in groups[0]["params"]}


def test_it_overfits_one_batch(made: Made) -> None:
    ranker = small(debias="none", dropout=0)
    torch.manual_seed(0)
    recipe = ranker.recipe(made.requests("search", "train"), made.catalogue)
    batch = recipe.train_dataset.__getitems__(list(range(128)))
    optimizer = make_optimizer(ranker, recipe.parameters)
    for _ in range(100):
        loss = recipe.model(**batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01


def test_saved_and_loaded_it_scores_the_same(made: Made, tmp_path: Path) -> None:
    """Also notes and users that train has not."""
    train = made.requests("recommendation", "train").take(np.arange(20))
    test = made.requests("search", "test")
    assert set(test.user_idx) - set(train.user_idx)
    assert set(test.note_idx) - set(train.note_idx)
    ranker = small()
    torch.manual_seed(0)
    fitted = ranker.recipe(train, made.catalogue).fitted
    fitted.network.eval()
    with torch.no_grad():
        before = ranker.score_with(fitted, test, made.catalogue)
        ranker.save(fitted, tmp_path)
        again = small()
        assert np.array_equal(before, again.score_with(again.load(tmp_path), test, made.catalogue))


@pytest.mark.slow
def test_killed_and_resumed_is_as_if_it_had_not_been(made: Made, tmp_path: Path) -> None:
    ranker = small(max_steps=12, evaluate_every=4, log_every=1, debias="ipw")
    requests = made.requests("recommendation", "train"), made.requests("recommendation", "validation")
    whole = train_ranker(ranker, *requests, made.catalogue, tmp_path / "whole")
    with watched_by(KillAt(6)), pytest.raises(Killed):
        train_ranker(ranker, *requests, made.catalogue, tmp_path / "killed")
    resumed = train_ranker(small(**ranker.model_dump()), *requests, made.catalogue, tmp_path / "killed")
    assert resumed[1:] == whole[1:]
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    for name, values in model_of(tmp_path / "whole").items():
        assert np.array_equal(values, model_of(tmp_path / "killed")[name])


def test_another_encoder_than_in_training_is_refused(made: Made, tmp_path: Path) -> None:
    """And each distinct text is encoded once, whoever asks again."""
    write_model(tmp_path / "a")
    write_model(tmp_path / "b", seed=1)
    train = made.requests("search", "train").take(np.arange(30))
    ranker = small(encoder=str(tmp_path / "a"))
    torch.manual_seed(0)
    recipe = ranker.recipe(train, made.catalogue)
    batch = recipe.train_dataset.__getitems__([0, 1])
    assert batch["query_vector"].shape == batch["note_vector"].shape == (2, 16)
    recipe.model.eval()
    (tmp_path / "model").mkdir()
    ranker.save(recipe.fitted, tmp_path / "model")
    with torch.no_grad():
        before = ranker.score_with(recipe.fitted, train, made.catalogue)
        (tmp_path / "a").rename(tmp_path / "moved")
        moved = small(encoder=str(tmp_path / "moved"))
        assert np.array_equal(before, moved.score_with(moved.load(tmp_path / "model"), train, made.catalogue))
    assert moved.identity() == small(encoder=str(tmp_path / "moved")).identity()
    with pytest.raises(UsageError, match="is not the one this ranker was trained with"):
        small(encoder=str(tmp_path / "b")).load(tmp_path / "model")
    with pytest.raises(UsageError, match="encoder None is not the one"):
        small().load(tmp_path / "model")


def test_vectors_are_as_long_as_one_however_they_are_compared(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train biencoder` compares by dot product unless it is told otherwise."""
    from qilin_rag.rankers.text_vectors import open_encoder, text_columns

    monkeypatch.setenv("QILIN_RAG_CACHE", str(tmp_path / "cache"))
    folder = write_model(tmp_path / "dot")
    (folder / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "dot"}')
    requests = made.requests("search", "train").take(np.arange(3))
    requests = replace(requests, queries=["咖啡", "咖啡\0", "茶"])  # fixed-width text would drop what ends in \0
    found = text_columns(open_encoder(str(folder), "cpu"), requests, made.catalogue)
    assert len(found.queries) == 3
    for vectors in (found.queries, found.notes):
        assert np.linalg.norm(vectors.astype(np.float32), axis=1) == pytest.approx(1, abs=1e-2)


def test_vectors_are_those_of_the_encoder_and_made_once(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qilin_rag.rankers.text_vectors import open_encoder, text_columns

    monkeypatch.setenv("QILIN_RAG_CACHE", str(tmp_path / "cache"))
    encoder = open_encoder(str(write_model(tmp_path / "a")), "cpu")
    requests = made.requests("search", "train").take(np.arange(30))
    found = text_columns(encoder, requests, made.catalogue)
    note_idx = np.unique(requests.note_idx)
    assert found.notes.dtype == np.float16
    expected = encoder.embed_notes([note.text for note in made.catalogue.notes.get(note_idx.tolist())])
    assert np.asarray(found.notes)[found.text_of_note] == pytest.approx(expected, abs=1e-3)
    assert len(found.queries) == len(set(requests.queries))
    for row in (0, 29):
        expected = encoder.embed_queries([requests.queries[row]])[0]
        assert np.asarray(found.queries[found.query_row[row]]) == pytest.approx(expected, abs=1e-3)

    def never(*args: Any) -> Any:
        raise AssertionError("encoded again")

    monkeypatch.setattr(type(encoder), "embed_notes", never)
    monkeypatch.setattr(type(encoder), "embed_queries", never)
    again = text_columns(encoder, requests, made.catalogue)
    assert np.array_equal(again.notes, found.notes)
    assert isinstance(again.notes, np.memmap)
