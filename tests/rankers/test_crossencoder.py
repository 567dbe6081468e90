"""The cross-encoder on requests whose clicks have a known cause, by a BERT of two layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
pytest.importorskip("datasets", reason="needs datasets: pip install 'qilin-rag[rankers]'")
torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")

from qilin_rag.config.resources import resource_names  # noqa: E402
from qilin_rag.core.errors import UsageError  # noqa: E402
from qilin_rag.core.progress import watched_by  # noqa: E402
from qilin_rag.core.types import Note  # noqa: E402
from qilin_rag.data import load_dataset  # noqa: E402
from qilin_rag.data.catalogue import Catalogue  # noqa: E402
from qilin_rag.data.requests import Floats, Requests  # noqa: E402
from qilin_rag.rankers import load_ranker  # noqa: E402
from qilin_rag.rankers.biencoder import BiEncoder  # noqa: E402
from qilin_rag.rankers.bm25 import BM25  # noqa: E402
from qilin_rag.rankers.crossencoder import CrossEncoder  # noqa: E402
from qilin_rag.rankers.passages import matching_part, note_texts  # noqa: E402
from qilin_rag.rankers.training import train_ranker  # noqa: E402
from tests.rankers.conftest import Made, MakeWorld, chance_mrr, mrr, p_of  # noqa: E402
from tests.rankers.made import made_requests  # noqa: E402
from tests.rankers.small_bert import write_bert  # noqa: E402
from tests.rankers.test_training import KillAt, Killed, log_of, model_of  # noqa: E402

SETTINGS: dict[str, Any] = {
    "max_length": 96,
    "n_negatives": 3,
    "optimizer": "adamw",
    "learning_rate": 1e-3,
    "batch_size": 16,
    "device": "cpu",
}
N_NOTES = 40


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue(load_dataset("sample").notes)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue) -> Path:
    return write_bert(tmp_path_factory.mktemp("models") / "tiny", [note.text for note in catalogue.notes])


def requests_on(catalogue: Catalogue, n: int = 60, seed: int = 0) -> Requests:
    """Clicks that go by the note alone, on notes of the sample."""
    made = made_requests(n, seed=seed, n_notes=N_NOTES)
    return replace(made, note_idx=np.sort(catalogue.notes.note_idxs)[:N_NOTES][made.note_idx])


def take_steps(recipe: Any, n_steps: int) -> float:
    """Steps on the first 16 examples by the recipe's own loss, collator and parameters; the loss before the last."""
    optimizer = torch.optim.AdamW(recipe.parameters, lr=1e-3)
    batch = recipe.given["data_collator"]([recipe.train_dataset[i] for i in range(16)])
    labels = batch.pop("label")
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss = recipe.given["loss"](batch, labels)
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_the_head_is_trained(catalogue: Catalogue, bert: Path) -> None:
    """Defect 2: the optimizer of the released cross-encoder never sees the classification head."""
    recipe = CrossEncoder(model=str(bert), **SETTINGS).recipe(requests_on(catalogue), catalogue)
    given = [id(parameter) for group in recipe.parameters for parameter in group["params"]]
    assert len(given) == len(set(given))
    assert set(given) == {id(parameter) for parameter in recipe.model.parameters() if parameter.requires_grad}
    head = recipe.fitted.model.classifier.weight
    before = head.detach().clone()
    take_steps(recipe, 1)
    assert (head != before).all()


def test_the_head_is_drawn_by_the_seed(catalogue: Catalogue, bert: Path) -> None:
    ranker = CrossEncoder(model=str(bert), **SETTINGS)
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        heads.append(ranker.recipe(requests_on(catalogue), catalogue).fitted.model.classifier.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_examples_are_clicks_and_what_was_not_clicked(catalogue: Catalogue, bert: Path) -> None:
    """Defects 1 and 6: a clicked note is never a negative. Rows hold no text."""
    train = requests_on(catalogue)
    rows = CrossEncoder(model=str(bert), **SETTINGS | {"n_negatives": 2}).recipe(train, catalogue).train_dataset[:]
    assert set(rows) == {"request", "note", "label"}
    n_negatives = 0
    for request, note, label in zip(*rows.values(), strict=True):
        one = slice(train.offsets[request], train.offsets[request + 1])
        assert label == train.clicked[one][train.note_idx[one] == note].item()
        n_negatives += not label
    n_clicked, n_all = train.n_clicked, np.diff(train.offsets)
    assert sum(rows["label"]) == n_clicked.sum()
    assert n_negatives == (n_clicked * np.minimum(2, n_all - n_clicked)).sum()


def test_only_the_note_is_cut(catalogue: Catalogue, bert: Path) -> None:
    ranker = CrossEncoder(model=str(bert), **SETTINGS | {"max_length": 32})
    train = requests_on(catalogue)
    text = note_texts(catalogue, catalogue.notes.note_idxs[:1])[0]
    characters = [c for c in text if "一" <= c <= "鿿"]  # a token each
    for n_query, n_kept in ((20, 20), (30, 24)):
        query = "".join(characters[:n_query])
        recipe = ranker.recipe(replace(train, queries=[query] * len(train)), catalogue)
        pair = recipe.given["data_collator"]([{"request": 0, "note": catalogue.notes.note_idxs[0], "label": 0.0}])
        ids = pair["input_ids"][0].tolist()
        assert ids == recipe.fitted.preprocess([(query[:n_kept], text)])["input_ids"][0].tolist()
        separator = recipe.fitted.tokenizer.sep_token_id
        assert (len(ids), ids.index(separator), ids[-1]) == (32, 1 + n_kept, separator)


def test_of_a_long_note_the_part_nearest_to_the_query_may_be_read(catalogue: Catalogue, bert: Path) -> None:
    note = Note(note_idx=1, title="题", content="甲乙丙丁" * 10 + "手冲水温" + "戊己庚辛" * 10)
    for query, expected in (("水温多少", "水温"), ("甲乙", "题 甲乙丙丁甲乙丙丁"), ("无关", "题 甲乙丙丁甲乙丙丁")):
        part = matching_part(note, query, 8)
        assert expected in part
        assert len(part) == len("题 ") + 8
    assert matching_part(note, "水温", 84) == note.text
    ranker = CrossEncoder(model=str(bert), **SETTINGS | {"passage_chars": 20})
    recipe = ranker.recipe(requests_on(catalogue), catalogue)
    row = recipe.train_dataset[0]
    [read] = catalogue.notes.get([row["note"]])
    query = requests_on(catalogue).queries[row["request"]]
    text = matching_part(read, query, 20)
    assert len(text) < len(read.text)
    ids = recipe.given["data_collator"]([row])["input_ids"]
    assert torch.equal(ids, recipe.fitted.preprocess([(query, text)])["input_ids"])


def test_overfits_one_batch(catalogue: Catalogue, bert: Path) -> None:
    recipe = CrossEncoder(model=str(bert), **SETTINGS).recipe(requests_on(catalogue), catalogue)
    assert take_steps(recipe, 60) < 0.02


def test_the_head_may_be_on_the_mean_of_all_tokens(catalogue: Catalogue, bert: Path, tmp_path: Path) -> None:
    """By hand from the last layer; trained, saved and loaded; and never with weights that are not in the files."""
    ranker = CrossEncoder(model=str(bert), **SETTINGS, pooling="mean")
    recipe = ranker.recipe(requests_on(catalogue), catalogue)
    assert take_steps(recipe, 60) < 0.02
    encoder = recipe.fitted.eval()
    inputs = encoder.preprocess([("咖啡怎么冲", "手冲水温"), ("咖啡", "茶")])
    head = encoder[2].linear
    with torch.no_grad():
        read = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        tokens = encoder[0].model(**read).last_hidden_state
        mask = inputs["attention_mask"][:, :, None]
        expected = ((tokens * mask).sum(1) / mask.sum(1)) @ head.weight[0] + head.bias
        test = requests_on(catalogue, 10, 7)
        assert encoder(inputs)["scores"].squeeze(-1).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
        scores = ranker.score_with(encoder, test, catalogue)
        ranker.save(encoder, tmp_path / "saved")
        assert np.array_equal(ranker.score_with(ranker.load(tmp_path / "saved"), test, catalogue), scores)
    held = {id(parameter) for group in recipe.parameters for parameter in group["params"]}
    assert held == {id(parameter) for parameter in encoder.parameters() if parameter.requires_grad}
    assert {id(head.weight), id(head.bias)} <= held


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, catalogue: Catalogue, bert: Path) -> Path:
    """Trained in one go on clicks that go by the note."""
    out = tmp_path_factory.mktemp("trained") / "out"
    ranker = CrossEncoder(model=str(bert), **SETTINGS, max_steps=30, evaluate_every=10, log_every=1, patience=99)
    train_ranker(ranker, requests_on(catalogue), requests_on(catalogue, 20, 5), catalogue, out)
    return out


def test_saved_and_loaded_it_scores_identically(catalogue: Catalogue, trained: Path, tmp_path: Path) -> None:
    test = requests_on(catalogue, 10, 7)
    ranker = load_ranker(trained)
    scores = ranker.score(test, catalogue)
    assert scores.dtype == np.float32
    assert scores.shape == (test.n_candidates,)
    assert np.isfinite(scores).all()
    assert np.array_equal(load_ranker(trained).score(test, catalogue), scores)
    ranker.save(ranker.load(trained / "model"), tmp_path / "again")
    fitted = ranker.load(tmp_path / "again")
    with torch.no_grad():
        assert np.array_equal(ranker.score_with(fitted, test, catalogue), scores)


def test_in_half_precision_it_is_judged_by_the_scores_it_will_give(
    catalogue: Catalogue, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only training is in bfloat16, whose logits are coarse; before and after loading the scores are the same."""
    judged: list[tuple[Requests, Floats]] = []
    score_with = CrossEncoder.score_with

    def kept(self: CrossEncoder, fitted: Any, requests: Requests, catalogue: Catalogue) -> Floats:
        scores = score_with(self, fitted, requests, catalogue)
        judged.append((requests, scores))
        return scores

    ranker = CrossEncoder(model=str(bert), max_steps=4, evaluate_every=4, precision="bf16", **SETTINGS)
    monkeypatch.setattr(CrossEncoder, "score_with", kept)
    train_ranker(ranker, requests_on(catalogue), requests_on(catalogue, 20, seed=5), catalogue, tmp_path / "out")
    ((requests, scores),) = judged
    assert np.array_equal(load_ranker(tmp_path / "out", device="cpu").score(requests, catalogue), scores)


def test_scores_are_of_the_pair_alone(catalogue: Catalogue, trained: Path) -> None:
    """Neither positions nor clicks nor what else is scored change them."""
    test = requests_on(catalogue, 10, 7)
    ranker = load_ranker(trained)
    scores = ranker.score(test, catalogue)
    rng = np.random.default_rng(0)
    shuffled = replace(test, position=rng.permutation(test.position), clicked=rng.permutation(test.clicked))
    assert np.array_equal(ranker.score(shuffled, catalogue), scores)
    first = ranker.score(test.take(np.array([3])), catalogue)
    assert first == pytest.approx(scores[test.offsets[3] : test.offsets[4]], abs=1e-5)
    other_batches = load_ranker(trained, score_batch_size=7).score(test, catalogue)
    assert other_batches == pytest.approx(scores, abs=1e-5)


def test_killed_and_resumed_is_as_if_it_had_not_been(
    catalogue: Catalogue, bert: Path, trained: Path, tmp_path: Path
) -> None:
    """With the dropout of the model."""
    ranker = CrossEncoder(model=str(bert), **SETTINGS, max_steps=30, evaluate_every=10, log_every=1, patience=99)
    requests = requests_on(catalogue), requests_on(catalogue, 20, 5)
    with watched_by(KillAt(14)), pytest.raises(Killed):
        train_ranker(ranker, *requests, catalogue, tmp_path / "out")
    train_ranker(ranker, *requests, catalogue, tmp_path / "out")
    assert log_of(tmp_path / "out") == log_of(trained)
    for name, values in model_of(trained).items():
        assert np.array_equal(values, model_of(tmp_path / "out")[name])


def test_a_best_model_that_can_not_be_loaded_is_an_error(
    catalogue: Catalogue, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sentence-transformers logs it and goes on with the last one."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainer

    def damaged(*of: Any) -> None:
        raise OSError("damaged")

    monkeypatch.setattr(CrossEncoderTrainer, "_load_from_checkpoint", damaged)
    ranker = CrossEncoder(model=str(bert), **SETTINGS, max_steps=1)
    with pytest.raises(OSError, match="damaged"):
        train_ranker(ranker, requests_on(catalogue), requests_on(catalogue, 20, 5), catalogue, tmp_path / "out")


OTHERS = ("topical", "cover", "taste", "source", "popularity", "position", "fatigue", "factoid", "answer")
WORLD = (
    *(f"causes.{cause}=0" for cause in OTHERS),
    *("causes.synonym=4", "causes.lexical=3", "search.intercept=-3.5", "search.depth=14", "same_concept=0.3"),
    *("topics=2", "median_tokens=4", "sigma_tokens=0.3", "lengths={4: 1.0}", "test_searches=0.3"),
)
COUNTS = {"notes": 200, "searches": 900, "recommendations": 10, "dqa": 0, "users": 50}
IN_WORLD = SETTINGS | {"max_length": 32, "learning_rate": 2e-3, "batch_size": 64, "warmup_steps": 20}


def trained_in(world: Made, out: Path, train: Requests | None = None, **settings: Any) -> Floats:
    """What a cross-encoder trained on the searches of this world scores on its test."""
    train = world.requests("search", "train") if train is None else train
    notes = (note.text for note in world.catalogue.notes)
    bert = write_bert(out / "bert", [*notes, *train.queries], dropout=0.0)
    ranker = CrossEncoder(model=str(bert), **IN_WORLD | settings)
    train_ranker(ranker, train, world.requests("search", "validation"), world.catalogue, out / "out")
    return load_ranker(out / "out").score(world.requests("search", "test"), world.catalogue)


@pytest.fixture(scope="module")
def in_synonyms(make_world: MakeWorld, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Reciprocal ranks of a cross-encoder where synonyms cause clicks."""
    world = make_world(COUNTS, *WORLD)
    out = tmp_path_factory.mktemp("synonyms")
    scores = trained_in(world, out, max_steps=500, evaluate_every=250, schedule="linear")
    return mrr(world.requests("search", "test"), scores)


@pytest.mark.slow
def test_it_gains_by_synonyms_where_they_cause_clicks(make_world: MakeWorld, in_synonyms: Any, tmp_path: Path) -> None:
    """Over BM25, which sees a concept's other name no more than any other word."""
    world = make_world(COUNTS, *WORLD)
    bm25 = mrr(world.requests("search", "test"), BM25().score(world.requests("search", "test"), world.catalogue))
    assert in_synonyms.mean() - bm25.mean() > 0.05
    assert p_of(in_synonyms, bm25) < 0.05
    without = make_world(COUNTS, *WORLD, without=("synonym",))
    test = without.requests("search", "test")
    scores = trained_in(without, tmp_path, max_steps=300, evaluate_every=150)
    assert p_of(mrr(test, scores), mrr(test, BM25().score(test, without.catalogue))) >= 0.05


@pytest.mark.slow
def test_it_is_not_below_the_biencoder(make_world: MakeWorld, in_synonyms: Any, tmp_path: Path) -> None:
    """From the same weights, in the world of synonyms."""
    world = make_world(COUNTS, *WORLD)
    train, validation, test = (world.requests("search", split) for split in ("train", "validation", "test"))
    bert = write_bert(tmp_path / "bert", [*(note.text for note in world.catalogue.notes), *train.queries], dropout=0.0)
    settings = IN_WORLD | {"max_length": 16, "learning_rate": 3e-3, "batch_size": 32, "max_steps": 200}
    ranker = BiEncoder(model=str(bert), **settings, evaluate_every=200)
    train_ranker(ranker, train, validation, world.catalogue, tmp_path / "bi")
    theirs = mrr(test, load_ranker(tmp_path / "bi").score(test, world.catalogue))
    assert in_synonyms.mean() > theirs.mean() - 0.01, (in_synonyms.mean(), theirs.mean())


@pytest.mark.slow
def test_with_shuffled_labels_it_is_at_chance(make_world: MakeWorld, tmp_path: Path) -> None:
    world = make_world(COUNTS, *WORLD)
    train, test = world.requests("search", "train"), world.requests("search", "test")
    shuffled = replace(train, clicked=np.random.default_rng(0).permutation(train.clicked))
    scores = trained_in(world, tmp_path, shuffled, max_steps=100, evaluate_every=50)
    mean, deviation = chance_mrr(test)
    assert abs(mrr(test, scores).mean() - mean) < 3 * deviation


def test_weights_that_are_missing_in_a_trained_one_are_said(trained: Path, tmp_path: Path) -> None:
    """A head may be new where training starts, and only there."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(trained, tmp_path / "out")
    weights = tmp_path / "out" / "model" / "model.safetensors"
    kept = {name: values for name, values in load_file(weights).items() if "classifier" not in name}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"weights are not in its files \(classifier"):
        load_ranker(tmp_path / "out").score(made_requests(1), Catalogue(load_dataset("sample").notes))


def test_a_model_without_its_encoder_is_refused(catalogue: Catalogue, bert: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(bert, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    kept = {name: values for name, values in load_file(weights).items() if "layer.1." not in name}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"weights are not in its files \(bert\.encoder\.layer\.1"):
        CrossEncoder(model=str(tmp_path / "model"), **SETTINGS).recipe(requests_on(catalogue), catalogue)
    with pytest.raises(UsageError, match="reads 128 tokens at most"):
        CrossEncoder(model=str(bert), **SETTINGS | {"max_length": 129}).recipe(requests_on(catalogue), catalogue)


def test_the_papers_settings_are_settings_of_it() -> None:
    from qilin_rag.config.resources import read_yaml
    from qilin_rag.core.registry import RANKERS

    for task, batch_size, n_negatives in (("search", 80, 10), ("recommendation", 512, 1)):
        settings = read_yaml(resource_names("configs/rankers")[f"crossencoder_{task}"])
        ranker = RANKERS.create(settings.pop("name"), settings)
        assert isinstance(ranker, CrossEncoder)
        assert (ranker.batch_size, ranker.n_negatives, ranker.max_length) == (batch_size, n_negatives, 512)
        assert (ranker.optimizer, ranker.learning_rate, ranker.warmup_steps) == ("lamb", 1e-3, 10)
