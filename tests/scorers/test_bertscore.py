from __future__ import annotations

import json
import math
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qilin_rag.config.run import resolve_run
from qilin_rag.core.errors import UsageError
from qilin_rag.core.types import Question, Sample
from qilin_rag.models.pretrained import model_sha256
from qilin_rag.models.token_encoder import Encoder, max_tokens
from qilin_rag.pipeline.finished import Run
from qilin_rag.pipeline.run import run
from qilin_rag.scorers.bertscore import BertScore
from tests.conftest import Cli
from tests.fake_server import MODEL, FakeServer
from tests.retrievers.tiny_models import write_kind
from tests.scored import score_run

torch = pytest.importorskip("torch", reason="needs torch: pip install 'qilin-rag[neural]'")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'qilin-rag[neural]'")

CHINESE = (
    "冷萃咖啡怎么做多肉夏天浇水的了一是不我有在这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会，。？！"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
N_LAYERS = 9
TEXTS = {
    "chinese": "冷萃咖啡怎么做？夏天做冷萃，要在冷水里浇一天。",
    "english": "The coffee is cold, don't heat it: 3.14 times.",
    "mixed": "用 SPF50 的 sunscreen，夏天也要 WiFi",
    "marked": "**冷萃**要在[第1篇](#)`夏天`做[2]",
    "full width": "ＳＰＦ５０　ﾊﾝｶｸ",
    "empty": "",
    "white space": " \n　",
    "emoji": "😀👨‍👩‍👧 1️⃣🇨🇳❗",
    "one token": "冷",
    "special tokens": "[SEP] 冷 [CLS] </s>",
    "long": "多肉夏天浇水，coffee 一天会浇。" * 60,
    "longer": "她说在国里，也有 x y z 咖啡！" * 90,
}


class Model(NamedTuple):
    folder: Path
    oracle: Path  # the same weights, stored in fp32: bert_score computes in what is stored


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


def tiny_bert(folder: Path, seed: int = 0) -> Path:
    """A random BERT with a WordPiece vocabulary of some Chinese and the Latin letters."""
    folder.mkdir()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "coffee", *dict.fromkeys(CHINESE)]
    vocabulary = [*pieces, *LETTERS, *(f"##{letter}" for letter in LETTERS), *"'.:/"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    transformers.BertTokenizer.from_pretrained(folder, model_max_length=512).save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=512,
        initializer_range=0.2,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=["tiny", pytest.param("e5-small-zh", marks=pytest.mark.slow)])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    if request.param == "tiny":
        folder = request.getfixturevalue("tiny")
        return Model(folder, folder)
    folder = request.getfixturevalue("shared") / "models" / request.param
    if not folder.is_dir():
        pytest.skip(f"needs the model {folder}")
    oracle = tmp_path_factory.mktemp("oracle") / folder.name
    transformers.AutoModel.from_pretrained(folder).float().save_pretrained(oracle)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, oracle / name)
    return Model(folder, oracle)


def theirs(
    model: Path, answers: Sequence[str], references: Sequence[Sequence[str]], layer: int, monkeypatch: Any
) -> list[float]:
    """The F1 of bert_score itself, on the texts as they are given."""
    pytest.importorskip("bert_score", reason="the oracle bert_score is not installed: pip install bert-score")
    module = sys.modules["bert_score.score"]
    find = module.get_tokenizer

    def get_tokenizer(*arguments: Any) -> Any:
        """With the method that bert_score calls for empty texts, and transformers 5 no longer has."""
        tokenizer = find(*arguments)
        cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        monkeypatch.setattr(
            type(tokenizer), "build_inputs_with_special_tokens", lambda self, ids: [cls, *ids, sep], raising=False
        )
        return tokenizer

    monkeypatch.setattr(module, "get_tokenizer", get_tokenizer)
    *_, f1 = module.score(
        list(answers), [list(known) for known in references], model_type=str(model), num_layers=layer, device="cpu"
    )
    return list(map(float, f1))


def values(scorer: BertScore, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    found = scorer.score_answers(answers, references)
    return [score.value for score in found if score.value is not None]


@pytest.mark.parametrize("layer", [1, 8])
def test_equals_bert_score(model: Model, layer: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(layer)
    texts = list(TEXTS.values())
    answers = texts + [rng.choice(texts) for _ in texts]
    references = [rng.sample(texts, rng.randint(1, 3)) for _ in answers]
    scorer = BertScore(model=str(model.folder), layer=layer, batch_size=5)
    mine = values(scorer, answers, references)
    prepared = [[scorer.prepare_text(target) for target in known] for known in references]
    expected = theirs(model.oracle, [scorer.prepare_text(answer) for answer in answers], prepared, layer, monkeypatch)
    assert mine == pytest.approx(expected, abs=1e-5)
    assert len(set(mine)) > 10


def test_identical_texts_score_one_unless_nothing_is_left_of_them(model: Model) -> None:
    scorer = BertScore(model=str(model.folder))
    scores = dict(zip(TEXTS, values(scorer, list(TEXTS.values()), [[text] for text in TEXTS.values()]), strict=True))
    assert scores == pytest.approx({name: 0.0 if name in ("empty", "white space") else 1.0 for name in TEXTS}, abs=1e-5)


def test_neither_order_nor_batches_matter(model: Model) -> None:
    rng = random.Random(1)
    texts = ["".join(rng.choices(CHINESE + LETTERS + " ", k=rng.randint(0, 60))) for _ in range(30)]
    pairs = [(rng.choice(texts), rng.sample(texts, 2)) for _ in range(50)]
    found = []
    for batch_size in (1, 3, 64):
        rng.shuffle(pairs)
        scorer = BertScore(model=str(model.folder), batch_size=batch_size)
        made = values(scorer, [answer for answer, _ in pairs], [known for _, known in pairs])
        found.append({(answer, *known): value for (answer, known), value in zip(pairs, made, strict=True)})
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    assert found[0] == pytest.approx(found[2], abs=1e-5)


def test_each_distinct_text_is_encoded_once(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qilin_rag.models.token_encoder import Encoder

    seen: list[tuple[int, ...]] = []
    encode = Encoder.encode

    def count(self: Encoder, batch: Sequence[Sequence[int]], device: str) -> Any:
        seen.extend(tuple(ids) for ids in batch)
        return encode(self, batch, device)

    monkeypatch.setattr(Encoder, "encode", count)
    texts = [letter * n for letter in "冷萃咖啡" for n in range(1, 8)]
    BertScore(model=str(tiny), batch_size=2).score_answers(texts + texts, [["冷", text] for text in texts + texts])
    assert len(seen) == len(set(seen)) == len(texts)


def test_markup_width_and_case_do_not_count(tiny: Path) -> None:
    scorer = BertScore(model=str(tiny))
    assert values(scorer, ["**ＣＯＦＦＥＥ**[第1篇](#)"], [["coffee"]]) == pytest.approx([1.0], abs=1e-5)
    assert values(BertScore(model=str(tiny), strip_markup=False), ["**coffee**"], [["coffee"]])[0] < 0.99


def test_cut_texts_are_remarked_and_counted(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    answers = ["冷" * 510, "冷" * 511, "冷", "冷", "冷" * 511]
    references = [["萃"], ["萃"], ["萃", "萃" * 600], ["萃"], ["萃" * 600]]
    found = BertScore(model=str(tiny)).score_answers(answers, references)
    assert [score.reason for score in found] == [None, *["cut to 512 tokens"] * 2, None, "cut to 512 tokens"]
    [said] = caplog.messages
    assert "2 of 5 texts" in said and "510 tokens" in said


@pytest.mark.parametrize("status", ["failed", "filtered"])
def test_answers_that_do_not_count_are_unscored(tiny: Path, status: Any) -> None:
    empty: dict[str, Any] = {"query": "q", "hits": [], "notes_given": 0, "notes_used": 0, "messages": [], "raw": ""}
    samples = [Sample(question_id=s, status=s, answer="冷", **empty) for s in ("truncated", status)]
    questions = [Question(id=sample.question_id, query="q", references=["冷"]) for sample in samples]
    scored, unscored = BertScore(model=str(tiny)).score(samples, questions)
    assert scored.value == pytest.approx(1.0, abs=1e-5)
    assert scored.reason is None
    assert (unscored.value, unscored.reason) == (None, status)
    assert [score.value for score in BertScore(model=str(tiny)).score(samples[1:], questions[1:])] == [None]


def test_the_signature_says_what_was_done(tiny: Path, tmp_path: Path) -> None:
    signature = BertScore(model=str(tiny)).signatures()["bertscore"]
    assert signature == (
        f"bertscore|model:tiny-bert@{model_sha256(tiny)[:8]}|layer:8|f1:greedy|idf:no|rescale:no|max:512 tokens|"
        "strip:citations+emphasis|norm:nfkc_casefold|refs:max|v2"
    )
    others = [BertScore(model=str(tiny), layer=7), BertScore(model=str(tiny), strip_markup=False)]
    assert len({signature, *(other.signatures()["bertscore"] for other in others)}) == 3
    assert BertScore(model=str(tiny), batch_size=1, device="cpu").signatures()["bertscore"] == signature


@pytest.mark.parametrize(
    ("config", "tokenizer", "longest"),
    [
        ({"max_position_embeddings": 512}, {"model_max_length": 512}, 512),
        ({"max_position_embeddings": 512}, {"model_max_length": 1e30}, 512),
        ({"max_position_embeddings": 512}, {}, 512),
        ({"max_position_embeddings": 8192}, {"model_max_length": 128}, 128),
        ({"max_position_embeddings": 514, "model_type": "xlm-roberta", "pad_token_id": 1}, {}, 512),
        ({"max_position_embeddings": 514, "model_type": "mpnet"}, {"model_max_length": 514}, 512),
        ({"max_position_embeddings": 4098, "model_type": "longformer", "pad_token_id": 1}, {}, 4096),
        ({"max_position_embeddings": 514, "model_type": "data2vec-text"}, {}, 512),
        ({"max_position_embeddings": 300, "model_type": "modernbert", "pad_token_id": 0}, {}, 300),
        ({}, {}, 512),
    ],
)
def test_the_limit_is_the_least_that_is_known(
    tmp_path: Path, config: dict[str, Any], tokenizer: dict[str, Any], longest: int
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert max_tokens(tmp_path) == longest


@pytest.mark.parametrize("kind", ["roberta", "mpnet", "modernbert"])
def test_texts_are_cut_to_the_positions_of_the_model(tmp_path: Path, kind: str) -> None:
    folder = write_kind(tmp_path / kind, kind, max_position_embeddings=32 if kind == "modernbert" else 34)
    scorer = BertScore(model=str(folder), layer=1)
    assert "|max:32 tokens|" in scorer.signatures()["bertscore"]
    text = "冷萃咖啡怎么做多肉养手冲水温粗研磨粉克毫升藏小时后过滤度比闷"
    assert len(text) == 30  # and two marks
    [whole, *longer] = values(scorer, [text, *(text + "冷" * n for n in (1, 2, 300))], [["多肉"]] * 4)
    assert longer == pytest.approx([whole] * 3, abs=1e-6)


def copy_of(model: Path, folder: Path, **config: Any) -> Path:
    shutil.copytree(model, folder)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | config))
    return folder


def test_a_tokenizer_that_knows_no_limit(tiny: Path, tmp_path: Path) -> None:
    """On which bert_score raises OverflowError."""
    folder = copy_of(tiny, tmp_path / "model")
    described = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(described | {"model_max_length": int(1e30)}))
    text = TEXTS["longer"]
    assert values(BertScore(model=str(folder)), [text], [["冷萃"]]) == pytest.approx(
        values(BertScore(model=str(tiny)), [text], [["冷萃"]]), abs=1e-5
    )


def no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).unlink()


def no_padding(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pad_token": None}))


def other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({f"other.{name}": value for name, value in weights.items()}, folder / "model.safetensors")


def decoder(folder: Path) -> None:
    config = transformers.GPT2Config(vocab_size=200, n_embd=16, n_layer=9, n_head=2)
    transformers.GPT2Model(config).save_pretrained(folder)


def small_vocabulary(folder: Path) -> None:
    described = json.loads((folder / "config.json").read_text())
    transformers.BertModel(transformers.BertConfig(**described | {"vocab_size": 50})).save_pretrained(folder)


BROKEN = {
    "broken weights": (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 99), "can't be loaded"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "can't be loaded"),
    "other weights": (other_weights, "of its weights, embeddings.LayerNorm.bias for one"),
    "no tokenizer": (no_tokenizer, "has no tokenizer"),
    "no padding": (no_padding, "no padding token"),
    "a decoder": (decoder, "(its type is 'gpt2')"),
    "a vocabulary too small": (small_vocabulary, "knows 50 tokens, its tokenizer"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "bad configuration": (lambda folder: (folder / "config.json").write_text("{"), "config.json can't be read"),
    "no mapping": (lambda folder: (folder / "config.json").write_text("[]"), "expected a JSON object"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_stops_the_run_before_the_first_call(
    tiny: Path, data_dir: Path, cli: Cli, server: FakeServer, name: str
) -> None:
    break_it, message = BROKEN[name]
    break_it(copy_of(tiny, Path("model")))  # type: ignore[no-untyped-call]
    asked = ["run", "--data", data_dir, "--llm", "openai", "--set", f"llm.model={MODEL}", "--base-url", server.url]
    done = cli(*asked, "--set", "metrics.bertscore.model=model", "-q")
    assert done.code == 2, done.err
    assert message in done.err
    assert done.err.count("\n") == 1
    assert (server.calls, Path("runs").exists()) == ([], False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 10}, "has 9 layers, no layer 10"),
        ({"device": "cuda:99"}, "can't use device 'cuda:99'"),
        ({"device": "gpu"}, "can't use device 'gpu'"),
    ],
)
def test_settings_that_cannot_be_are_found_when_it_is_made_ready(
    tiny: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        BertScore(model=str(tiny), **settings).prepare()


def test_a_named_model_that_is_not_there(data_dir: Path, cli: Cli) -> None:
    done = cli("run", "--data", data_dir, "--metrics", "bertscore", "-q")
    assert (done.code, "model 'bert-base-chinese' is not a folder" in done.err, done.err.count("\n")) == (2, True, 1)


def do(data: Path, *overrides: str, **flags: Any) -> Run:
    return run(resolve_run({"data": str(data), **flags}, overrides))


def test_a_run_with_it(tiny: Path, data_dir: Path, cli: Cli) -> None:
    path = data_dir / "dqa.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("92度。", "九十二度" * 200), encoding="utf-8")
    without = do(data_dir)
    done = cli("run", "--data", data_dir, "--set", f"metrics.bertscore.model={tiny}")
    assert done.code == 0
    assert (done.err.count("\n"), "1 of 7 texts" in done.err) == (1, True)  # no bar, no report
    assert "bertscore: cut to 512 tokens (1 of 3)" in done.out
    assert Path(done.out.splitlines()[-1]) == without.directory.path  # metrics are no part of the fingerprint
    board = cli("leaderboard").out
    assert f"{without.directory.path.name}: bertscore: cut to 512 tokens (1 of 3)" in board
    summary = without.directory.read_summary().metrics["bertscore"]
    assert (summary.n, summary.reasons) == (3, {"cut to 512 tokens": 1})
    again = score_run(without.directory.path, {"bertscore": {"model": str(tiny)}})
    assert again.summary.metrics["bertscore"] == summary


def test_it_is_scored_by_default_where_its_model_is(
    tiny: Path, data_dir: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **kwargs: str(tiny))
    done = cli("run", "--data", data_dir)
    assert "left out" not in done.err
    finished = do(data_dir)
    assert finished.summary.metrics["bertscore"].signature.startswith("bertscore|model:bert-base-chinese@")
    assert finished.manifest.config["metrics"] == {"retrieval": {}, "rouge_l": {}, "bertscore": {}}
    assert set(do(data_dir, metrics="rouge_l", prompt="concise").summary.metrics) == {
        "rouge_l",
        "recall@5",
        "ndcg@5",
        "mrr@5",
    }
    scored = cli("score", done.out.splitlines()[-1], "--json")
    assert "bertscore" in json.loads(scored.out)["metrics"]


def test_it_is_left_out_by_default_where_its_model_is_broken(
    tiny: Path, data_dir: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_of(tiny, tmp_path / "model", num_hidden_layers=4)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **kwargs: str(folder))
    done = cli("run", "--data", data_dir)
    assert done.code == 0
    assert "bertscore is left out: model" in done.err
    assert "has 4 layers, no layer 8" in done.err


def test_broken_weights_are_no_score_of_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = BertScore(model=str(tiny_bert(tmp_path / "tiny-bert")))
    monkeypatch.setattr(Encoder, "encode", lambda _, batch, __: [torch.full((len(ids), 8), torch.nan) for ids in batch])
    assert math.isnan(values(scorer, ["冷萃"], [["冷萃"]])[0])
    assert values(scorer, [""], [["冷萃"]]) == [0.0]


def test_a_gpu_whose_memory_is_full_is_one_line(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*of: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of")

    monkeypatch.setattr("transformers.PreTrainedModel.to", full)
    with pytest.raises(
        UsageError, match=r"\(CUDA out of memory. Tried to allocate 2.00 GiB\); lower metrics.bertscore"
    ):
        values(BertScore(model=str(tiny)), ["冷萃"], [["冷萃"]])
