"""The vision-language ranker, with a random Qwen2-VL of two layers: prompts, training, what it keeps, and its cause."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Hit, Question
from qilin_rag.data.catalogue import Catalogue, open_catalogue
from qilin_rag.data.exposures import concat
from qilin_rag.data.requests import Requests, requests_of
from qilin_rag.data.source import open_source
from tests.conftest import write_jsonl
from tests.rankers.conftest import Made, MakeWorld, chance_mrr, mrr, p_of
from tests.rankers.made import made_requests
from tests.rankers.random_vlm import write_tiny_vlm
from tests.rankers.test_training import KillAt, Killed, log_of

pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
pytest.importorskip("peft", reason="needs peft: pip install 'qilin-rag[rankers]'")
Image = pytest.importorskip("PIL.Image", reason="needs pillow: pip install 'qilin-rag[rankers]'")
torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")

from qilin_rag.core.progress import watched_by  # noqa: E402
from qilin_rag.rankers import load_ranker  # noqa: E402
from qilin_rag.rankers.examples import with_negatives  # noqa: E402
from qilin_rag.rankers.training import make_optimizer, train_ranker  # noqa: E402
from qilin_rag.rankers.vlm import VLM, four_bits  # noqa: E402
from qilin_rag.rankers.vlm_prompts import Prompts, read_with  # noqa: E402

N_NOTES = 40
CONFIGS = Path(__file__).parents[2] / "configs" / "rankers"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_vlm(tmp_path_factory.mktemp("models") / "tiny-vlm")


def write_notes(folder: Path) -> Path:
    """40 notes; those of the first quarter have a red cover, the others a blue one, note 39 none, and 38's is lost."""
    folder.mkdir()
    notes = []
    for i in range(N_NOTES):
        notes.append(
            {"note_idx": i, "note_title": f"标题{i}", "note_content": "内容" * i, "image_path": [f"{i}.png"] * (i < 39)}
        )
        colour = (220, 60, 60) if i < N_NOTES // 4 else (60, 60, 220)
        if i < 38:
            Image.new("RGB", (28, 28), colour).save(folder / f"{i}.png")
    write_jsonl(folder / "notes.jsonl", notes)
    return folder


@pytest.fixture(scope="session")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    return open_catalogue(open_source(str(write_notes(tmp_path_factory.mktemp("notes") / "covers"))))


def small(model: Path, **settings: Any) -> VLM:
    chosen: dict[str, Any] = {
        "max_length": 80,
        "max_pixels": 784,
        "history_covers": 3,
        "batch_size": 8,
        "score_batch_size": 8,
    }
    fast = {"learning_rate": 1e-2, "warmup_steps": 2, "lora_dropout": 0.0, "log_every": 1, "device": "cpu"}
    return VLM(model=str(model), **{**chosen, **fast, **settings})


def as_recommendations(requests: Requests, recent: Sequence[int]) -> Requests:
    """The same, each with these recent clicks."""
    n = len(requests)
    return replace(
        requests,
        ids=[f"r{i}" for i in requests.ids],
        is_search=np.zeros(n, bool),
        recent=np.array([*recent] * n, np.int64),
        recent_offsets=np.arange(n + 1) * len(recent),
    )


def prompts_of(ranker: VLM, requests: Requests, catalogue: Catalogue) -> Prompts:
    reader = read_with(Path(ranker.model), ranker.model, ranker.max_pixels)
    return ranker.prompts(reader, requests, catalogue)


def one_request(query: str, *notes: int) -> Requests:
    hits = [Hit(note_idx=note, score=0.0, rank=i) for i, note in enumerate(notes, 1)]
    return requests_of([Question(id="q", query=query, references=["-"], reference_notes=[notes[0]])], [hits])


def written(model: Path, ids: Any) -> str:
    from transformers import AutoTokenizer

    text: str = AutoTokenizer.from_pretrained(model).decode(ids)
    return text


# What the model is given


def test_a_search_is_query_cover_and_note_in_the_models_template(model: Path, catalogue: Catalogue) -> None:
    made = prompts_of(small(model), one_request("冷萃", 2, 39), catalogue).batch([0, 1])
    cover = "<|vision_start|><|image_pad|><|vision_end|>"
    expected = [
        f"<|im_start|>user\n搜索词：冷萃\n笔记：{cover}标题2\n内容内容\n用户会点击这篇笔记吗？<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\n搜索词：冷萃\n笔记：标题39\n",  # has no cover; and is too long for the rest
    ]
    for ids, mask, text in zip(made["input_ids"], made["attention_mask"], expected, strict=True):
        assert written(model, ids[mask == 1]).startswith(text)
        assert mask.tolist() == sorted(mask.tolist(), reverse=True)  # padding stands on the right
    assert made["attention_mask"].sum(1).tolist()[1] == 80
    assert written(model, made["input_ids"][1]).endswith("用户会点击这篇笔记吗？<|im_end|>\n<|im_start|>assistant\n")
    assert made["image_grid_thw"].tolist() == [[1, 2, 2]]
    assert made["mm_token_type_ids"].sum(1).tolist() == [1, 0]
    red, _, blue = made["pixel_values"].reshape(4, 3, -1).mean((0, 2)).tolist()
    assert red > 1 and blue < 0  # in standard deviations from the mean, which is grey


def test_recommendations_show_the_newest_covers_there_are(model: Path, catalogue: Catalogue) -> None:
    """Note 39 has no cover, 38's is lost, and the data has no note 999."""
    requests = as_recommendations(one_request("旧", 30), [39, 999, 20, 38, 1, 21, 22])
    made = prompts_of(small(model), requests, catalogue).batch([0])
    images = made["pixel_values"].reshape(4, 4, 3, -1).mean((1, 3))
    assert [("red", "blue")[int(blue > red)] for red, _, blue in images.tolist()] == ["blue", "red", "blue", "blue"]
    assert written(model, made["input_ids"][0]).count("<|image_pad|>") == 4
    none = prompts_of(small(model, without=["image"]), requests, catalogue)
    assert set(none.batch([0])) == {"input_ids", "attention_mask"}
    assert "vision" not in written(model, none.batch([0])["input_ids"][0])


@pytest.mark.parametrize("query", ["冷", "冷萃咖啡" * 30])
def test_text_is_cut_and_pictures_are_not(model: Path, catalogue: Catalogue, query: str) -> None:
    requests = as_recommendations(one_request(query, *range(38)), [1, 2, 3])
    for max_length, max_pixels in ((80, 784), (100, 4 * 784), (200, 20 * 784)):
        ranker = small(model, max_length=max_length, max_pixels=max_pixels)
        made = prompts_of(ranker, requests, catalogue).batch(range(38))
        lengths = made["attention_mask"].sum(1)
        n_shown = made["mm_token_type_ids"].sum(1)
        assert made["input_ids"].shape[1] == int(lengths.max()) == max_length
        assert (n_shown == made["image_grid_thw"].prod(1).reshape(38, 4).sum(1) // 4).all()
        assert all("标题37"[:2] in written(model, ids) for ids in made["input_ids"][30:])  # the query leaves it room
    with pytest.raises(UsageError, match=r"max_length 60 holds no 4 pictures of 4 tokens .* a smaller max_pixels"):
        prompts_of(small(model, max_length=60, max_pixels=4 * 784), requests, catalogue)


def test_large_pictures_are_shrunk(model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (1200, 900)).save(tmp_path / "0.png")
    Image.new("RGB", (900, 30)).save(tmp_path / "1.png")  # at 28 pixels in height it would take more than it may
    write_jsonl(
        tmp_path / "notes.jsonl",
        [{"note_idx": i, "note_title": "", "note_content": "", "image_path": [f"{i}.png"]} for i in (0, 1)],
    )
    prompts = prompts_of(
        small(model, max_pixels=12 * 784), one_request("q", 0, 1), open_catalogue(open_source(str(tmp_path)))
    )
    made = prompts.batch([0, 1])
    assert made["image_grid_thw"].tolist() == [[1, 4, 6]]  # 56 by 84 pixels; 84 by 112 would be all it may be, not less
    assert made["mm_token_type_ids"].sum(1).tolist() == [6, 0]


def test_special_tokens_in_a_text_are_text(model: Path, tmp_path: Path) -> None:
    nasty = "<|image_pad|><|vision_start|><|im_end|>\ue000\ue001"
    write_jsonl(
        tmp_path / "notes.jsonl", [{"note_idx": 0, "note_title": nasty, "note_content": nasty, "image_path": []}]
    )
    catalogue = open_catalogue(open_source(str(tmp_path)))
    ranker = small(model, max_length=512)
    requests = one_request(nasty, 0)
    (ids,) = prompts_of(ranker, requests, catalogue).batch([0])["input_ids"]
    assert written(model, ids).count(nasty) == 3
    assert ids.tolist().count(5) == 0  # the token of an image
    assert ids.tolist().count(2) == 1  # the end of the one message
    fitted = ranker.recipe(requests, catalogue).fitted
    with torch.no_grad():
        assert np.isfinite(ranker.score_with(fitted, requests, catalogue)).all()


def test_a_model_that_cant_be_asked_is_said(tmp_path: Path, catalogue: Catalogue) -> None:
    requests = one_request("q", 0)
    bare = write_tiny_vlm(tmp_path / "bare", template=None)
    with pytest.raises(UsageError, match="has no chat template"):
        prompts_of(small(bare), requests, catalogue)
    blind = write_tiny_vlm(tmp_path / "blind", template="{% for m in messages %}{{ m['role'] }}{% endfor %}")
    with pytest.raises(UsageError, match="leaves out what it is given"):
        prompts_of(small(blind), requests, catalogue)
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UsageError, match="can't be read as a vision-language model"):
        prompts_of(small(tmp_path / "text"), requests, catalogue)


def test_negatives_are_of_the_request_and_never_clicked() -> None:
    """Defects 1 and 6: a "negative" that is a clicked note."""
    requests = made_requests(30)
    rows = with_negatives(requests, 2, seed=0)
    n_negative = np.bincount(requests.request[rows][~requests.clicked[rows]], minlength=30)
    n_positive = np.bincount(requests.request[rows][requests.clicked[rows]], minlength=30)
    n_others = np.diff(requests.offsets) - requests.n_clicked
    assert (n_positive == requests.n_clicked).all()
    assert (n_negative == requests.n_clicked * np.minimum(2, n_others)).all()
    assert rows.tolist() == with_negatives(requests, 2, seed=0).tolist() != with_negatives(requests, 2, seed=1).tolist()


# The model


def test_what_is_trained_is_in_the_optimizer_once_and_moves(model: Path, catalogue: Catalogue) -> None:
    """Defect 2: the optimizer never saw the classification head."""
    torch.manual_seed(0)
    ranker = small(model)
    recipe = ranker.recipe(made_requests(), catalogue)
    trained = {name: p for name, p in recipe.model.named_parameters() if p.requires_grad}
    given = [id(p) for group in recipe.parameters for p in group["params"]]
    assert sorted(given) == sorted(map(id, trained.values())) and len(given) == len(set(given))
    assert {"head.weight", "head.bias"} <= trained.keys()
    adapted = {name.split(".lora_")[0].rpartition(".language_model.")[2] for name in trained if "lora" in name}
    assert adapted == {f"layers.{i}.self_attn.{part}_proj" for i in (0, 1) for part in "qkvo"}
    before = {name: p.detach().clone() for name, p in recipe.model.named_parameters()}
    optimizer = make_optimizer(ranker, recipe.parameters)
    for _ in range(2):  # the outer half of an adapter is zero at first, so that the inner one has no gradient yet
        recipe.model(**recipe.given["data_collator"](recipe.train_dataset[:8]))["loss"].backward()
        optimizer.step()
    moved = {name for name, p in recipe.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == trained.keys()


def test_the_mean_is_over_what_is_no_padding(model: Path, catalogue: Catalogue) -> None:
    """A candidate's score depends on nothing that is scored beside it, longer or with a picture or without."""
    ranker = small(model, score_batch_size=64)
    requests = concat([made_requests(4), as_recommendations(made_requests(4, seed=1), [1, 30])])
    fitted = ranker.recipe(requests, catalogue).fitted
    fitted.model.eval()
    with torch.no_grad():
        together = ranker.score_with(fitted, requests, catalogue)
        alone = ranker.model_copy(update={"score_batch_size": 1}).score_with(fitted, requests, catalogue)
    assert together.dtype == np.float32 and together.std() > 1e-3
    assert np.abs(together - alone).max() < 1e-5


@pytest.mark.slow
def test_it_overfits_one_batch(model: Path, catalogue: Catalogue) -> None:
    torch.manual_seed(0)
    ranker = small(model, n_negatives=3)
    requests = made_requests(3)
    recipe = ranker.recipe(requests, catalogue)
    batch = recipe.given["data_collator"](recipe.train_dataset)
    optimizer = make_optimizer(ranker, recipe.parameters)
    for _ in range(60):
        optimizer.zero_grad()
        loss = recipe.model(**batch)["loss"]
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01
    with torch.no_grad():
        scores = ranker.score_with(recipe.fitted, requests, catalogue)
    assert mrr(requests, scores).tolist() == [1.0] * int((requests.n_clicked > 0).sum())


@pytest.mark.slow
def test_saved_and_loaded_it_scores_the_same(model: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    own = tmp_path / "own-vlm"
    own.symlink_to(model)
    ranker = small(own, max_steps=4, evaluate_every=2)
    train, validation = made_requests(12), as_recommendations(made_requests(6, seed=1), [1, 30])
    kept: list[Any] = []

    class Kept(VLM):
        def save(self, fitted: Any, folder: Path) -> None:
            with torch.no_grad():
                kept.append(self.score_with(fitted, validation, catalogue))
            super().save(fitted, folder)

    train_ranker(Kept(**ranker.model_dump()), train, validation, catalogue, tmp_path / "out")
    path = tmp_path / "out" / "ranker.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "ranker": VLM.class_path()}))
    loaded = load_ranker(tmp_path / "out", device="cpu", score_batch_size=8)
    assert np.array_equal(loaded.score(validation, catalogue), kept[0])
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        *("ranker.json", "log.jsonl", "base.json", "head.safetensors"),
        *("adapter_model.safetensors", "adapter_config.json"),
    }
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") < 200_000

    moved = load_ranker(
        tmp_path / "out", device="cpu", score_batch_size=8, model=str(model)
    )  # the same base in another place
    assert np.array_equal(moved.score(validation, catalogue), kept[0])
    other = write_tiny_vlm(tmp_path / "other", seed=1)
    with pytest.raises(UsageError, match=r"trained on another model .*own-vlm"):
        load_ranker(tmp_path / "out", device="cpu", model=str(other)).score(validation, catalogue)
    with pytest.raises(UsageError, match="lora_r stays as it is"):
        load_ranker(tmp_path / "out", device="cpu", lora_r=4).score(validation, catalogue)


@pytest.mark.slow
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_killed_and_resumed_is_as_if_it_had_not_been(
    model: Path, catalogue: Catalogue, tmp_path: Path, gradient_checkpointing: bool
) -> None:
    settings = {"max_steps": 6, "evaluate_every": 2, "lora_dropout": 0.1, "patience": 99}
    ranker = small(model, gradient_checkpointing=gradient_checkpointing, **settings)
    requests = made_requests(16), made_requests(6, seed=1)
    train_ranker(ranker, *requests, catalogue, tmp_path / "whole")
    with watched_by(KillAt(3)), pytest.raises(Killed):
        train_ranker(ranker, *requests, catalogue, tmp_path / "killed")
    states = [path.stat().st_size for path in (tmp_path / "killed" / "checkpoints").glob("*/model.safetensors")]
    assert states and max(states) < 200_000  # without the base
    train_ranker(ranker, *requests, catalogue, tmp_path / "killed")
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    for path in (tmp_path / "whole" / "model").rglob("*.safetensors"):
        again = tmp_path / "killed" / "model" / path.relative_to(tmp_path / "whole" / "model")
        assert path.read_bytes() == again.read_bytes()


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in log_of(out) if "loss" in line]


@pytest.mark.slow
def test_how_it_is_computed_changes_no_loss(
    model: Path, catalogue: Catalogue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Checkpointed activations, accumulated gradients, and batches read by other processes."""
    requests = made_requests(16), made_requests(4, seed=1)
    ways: dict[str, dict[str, Any]] = {
        "plain": {},
        "checkpointing": {"gradient_checkpointing": True},
        "accumulation": {"batch_size": 2, "gradient_accumulation": 4},
        "workers": {"workers": 2},
    }
    told: dict[str, list[str]] = {}
    for name, settings in ways.items():
        with caplog.at_level(logging.INFO, "qilin_rag"):
            train_ranker(small(model, max_steps=5, **settings), *requests, catalogue, tmp_path / name)
        told[name] = [message for message in caplog.messages if message.startswith("covers: ")]
        caplog.clear()
    plain = losses(tmp_path / "plain")
    assert len(plain) == 5 and plain[-1] != plain[0]
    for name in ways:
        assert losses(tmp_path / name) == pytest.approx(plain, abs=1e-4), name
    assert losses(tmp_path / "workers") == plain
    assert all(
        re.match(r"covers: \d\d of \d\d notes have one that can be read; ", lines[-1]) for lines in told.values()
    )


def test_full_precision_is_said(model: Path, catalogue: Catalogue, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "qilin_rag"):
        small(model).recipe(made_requests(3), catalogue)
    assert "no CUDA GPU: the model is loaded in full precision, not in 4 bits" in caplog.messages


@pytest.mark.parametrize("task", ["search", "recommendation"])
def test_the_papers_settings_fit_a_prompt(task: str, model: Path, catalogue: Catalogue) -> None:
    settings = yaml.safe_load((CONFIGS / f"vlm_{task}.yaml").read_text(encoding="utf-8"))
    assert settings.pop("name") == "vlm"
    ranker = VLM(**settings)
    requests = one_request("q", 1)
    requests = requests if task == "search" else as_recommendations(requests, [1] * 20)
    made = prompts_of(ranker.model_copy(update={"model": str(model)}), requests, catalogue).batch([0])
    assert len(made["image_grid_thw"]) == (1 if task == "search" else 11)
    assert ranker.batch_size * ranker.gradient_accumulation == (64 if task == "search" else 8)
    assert (ranker.lora_r, ranker.lora_alpha, ranker.lora_dropout, ranker.four_bit) == (16, 32, 0.1, True)


def test_the_language_model_alone_is_in_four_bits(model: Path) -> None:
    """On the CPU, where bitsandbytes can load as well; the ranker does so on a GPU only."""
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    from transformers import AutoModelForImageTextToText

    loaded = AutoModelForImageTextToText.from_pretrained(model, quantization_config=four_bits(torch.float32))
    names = [name for name, module in loaded.named_modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(names) == 14  # 7 a layer
    assert all(".language_model.layers." in name for name in names)


@pytest.mark.gpu
def test_four_bits_on_a_gpu(model: Path, catalogue: Catalogue, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes")
    ranker = small(model, max_steps=1, device=None)
    requests = made_requests(16), made_requests(4, seed=1)
    modules = ranker.recipe(requests[0], catalogue).model.modules()
    assert sum(isinstance(module, bitsandbytes.nn.Linear4bit) for module in modules) == 14  # 7 a layer
    train_ranker(ranker, *requests, catalogue, tmp_path / "out")
    assert np.isfinite(losses(tmp_path / "out")).all()
    assert np.isfinite(load_ranker(tmp_path / "out").score(requests[1], catalogue)).all()


# What it learns

OTHER_CAUSES = (
    "topical",
    "lexical",
    "synonym",
    "taste",
    "source",
    "popularity",
    "position",
    "fatigue",
    "factoid",
    "answer",
)
COUNTS = {"notes": 1000, "searches": 300, "recommendations": 60, "dqa": 10, "users": 50}


def cover_world(make_world: MakeWorld, *without: str) -> Made:
    """Clicks that the covers alone cause."""
    others = [f"causes.{cause}=0" for cause in OTHER_CAUSES]
    return make_world(COUNTS, *others, "causes.cover=4", "test_searches=0.2", without=without, images=True)


def searches(made: Made) -> tuple[Requests, Requests]:
    return made.requests("search", "train"), made.requests("search", "validation")


def scores_of(model: Path, made: Made, out: Path, train: Requests, validation: Requests, **settings: Any) -> Any:
    """The scores on the test requests of a ranker trained on these."""
    few = {"max_steps": 16, "evaluate_every": 16, "max_length": 48, "batch_size": 32, "score_batch_size": 64}
    train_ranker(small(model, **few, **settings), train, validation, made.catalogue, out)
    return load_ranker(out, device="cpu").score(made.requests("search", "test"), made.catalogue)


@pytest.mark.slow
def test_it_gains_by_covers_where_covers_cause_clicks(model: Path, make_world: MakeWorld, tmp_path: Path) -> None:
    made = cover_world(make_world)
    test = made.requests("search", "test")
    seeing = scores_of(model, made, tmp_path / "seeing", *searches(made))
    blind = scores_of(model, made, tmp_path / "blind", *searches(made), without=["image"])
    assert p_of(mrr(test, seeing), mrr(test, blind)) < 0.05
    assert mrr(test, seeing).mean() > 0.85

    few = test.take(np.arange(10))
    mixed = replace(few, clicked=~few.clicked, position=np.random.default_rng(0).permutation(few.position))
    ranker = load_ranker(tmp_path / "seeing", device="cpu")
    assert np.array_equal(ranker.score(mixed, made.catalogue), ranker.score(few, made.catalogue))


@pytest.mark.slow
def test_without_that_cause_there_is_no_gain(model: Path, make_world: MakeWorld, tmp_path: Path) -> None:
    made = cover_world(make_world, "cover")
    test = made.requests("search", "test")
    seeing = scores_of(model, made, tmp_path / "seeing", *searches(made))
    blind = scores_of(model, made, tmp_path / "blind", *searches(made), without=["image"])
    assert p_of(mrr(test, seeing), mrr(test, blind)) >= 0.05


@pytest.mark.slow
def test_shuffled_labels_teach_nothing(model: Path, make_world: MakeWorld, tmp_path: Path) -> None:
    """In a world of all causes: where colours are the only one, any order by colour is far from chance, or below it."""
    made = make_world(COUNTS, "test_searches=0.2", images=True)
    rng = np.random.default_rng(0)
    shuffled = [replace(r, clicked=rng.permutation(r.clicked)) for r in searches(made)]
    test = made.requests("search", "test")
    found = mrr(test, scores_of(model, made, tmp_path / "out", *shuffled)).mean()
    mean, deviation = chance_mrr(test)
    assert abs(found - mean) < 3 * deviation
