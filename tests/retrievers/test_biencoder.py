from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import RETRIEVERS
from qilin_rag.core.ties import rank_order
from qilin_rag.core.types import Question, Wording
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.data.notes import open_notes
from qilin_rag.retrievers.dense.retriever import BiEncoder
from tests.conftest import Cli, write_jsonl

torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
pytest.importorskip("faiss", reason="needs faiss-cpu")
safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
transformers = pytest.importorskip("transformers", reason="needs transformers")
sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")

MAX_POSITIONS = 64


def write_model(folder: Path, seed: int = 0, dtype: Any = None) -> Path:
    """A tiny random BERT whose vocabulary is the characters of the tests' notes, as a plain transformers folder."""
    folder.mkdir()
    text = (
        "冷萃咖啡怎么做多肉养手冲水温粗研磨粉克毫升藏小时后过滤度比闷蒸秒夏六月起遮阴超断保持通风春天换盆晾根两周再浇"
    )
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "query", "passage"]
    words = [*special, *dict.fromkeys(text + "0123456789:：，。今是想辞职的")]
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=0.5,
    )
    transformers.BertModel(config).to(dtype or torch.float32).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture
def model(made_model: Path, tmp_path: Path) -> Path:
    """A copy for each test, so that it may be changed."""
    return Path(shutil.copytree(made_model, tmp_path / "tiny"))


@pytest.fixture
def small(data_dir: Path) -> Dataset:
    return load_dataset(str(data_dir))


def ask(*queries: str) -> list[Question]:
    return [Question(id=str(i), query=query, references=["x"]) for i, query in enumerate(queries)]


def encode(folder: Path, texts: list[str], pooling: str = "mean", max_length: int = MAX_POSITIONS) -> Any:
    """Token vectors by transformers, one text at a time, pooled here; shape (n_texts, dimension)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    bert = transformers.AutoModel.from_pretrained(folder).float().eval()
    vectors = []
    for text in texts:
        tokens = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.no_grad():
            states = bert(**tokens).last_hidden_state[0].numpy()
        pooled = {"mean": states.mean(0), "cls": states[0], "max": states.max(0), "lasttoken": states[-1]}
        vectors.append(pooled[pooling])
    return np.array(vectors, dtype=np.float64)


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def check(data: Dataset, rankings: Any, scores: Any, k: int) -> None:
    """Rankings are those of the brute-force scores, shape (n_questions, n_notes), but for 16 bits of the notes."""
    for hits, row in zip(rankings, scores, strict=True):
        by_id = dict(zip(map(int, data.notes.note_idxs), row, strict=True))
        expected = sorted(by_id, key=lambda note_idx: (-by_id[note_idx], note_idx))[:k]
        assert [hit.note_idx for hit in hits] == expected
        assert [hit.score for hit in hits] == pytest.approx([by_id[i] for i in expected], rel=1e-3, abs=1e-3)
        assert [hit.rank for hit in hits] == list(range(1, len(expected) + 1))


@pytest.mark.parametrize("pooling", [None, "mean", "cls", "max", "lasttoken"])
@pytest.mark.parametrize("normalize", [True, False])
def test_rankings_are_those_of_brute_force(small: Dataset, model: Path, pooling: Any, normalize: bool) -> None:
    retriever = BiEncoder(model=str(model), pooling=pooling, normalize=normalize, batch_size=2)
    rankings = retriever.search(small.questions, small.notes, 3)
    queries = encode(model, [question.query for question in small.questions], pooling or "mean")
    notes = encode(model, [note.text for note in small.notes], pooling or "mean")
    if normalize:
        queries, notes = unit(queries), unit(notes)
    check(small, rankings, queries @ notes.T, 3)


def test_prefixes_and_length_are_what_the_model_reads(small: Dataset, model: Path) -> None:
    retriever = BiEncoder(model=str(model), query_prefix="query：", passage_prefix="冷冷", max_length=7)
    queries = encode(model, [f"query：{question.query}" for question in small.questions], max_length=7)
    notes = encode(model, [f"冷冷{note.text}" for note in small.notes], max_length=7)
    check(small, retriever.search(small.questions, small.notes, 5), unit(queries) @ unit(notes).T, 5)


def test_a_hypothetical_passage_is_encoded_as_notes_are(small: Dataset, model: Path) -> None:
    """HyDE's texts between questions; the hits are still in the order of the questions."""
    retriever = BiEncoder(model=str(model), query_prefix="query：", passage_prefix="冷冷")
    first, second, third = small.questions
    mixed = [Wording(**dict(first), is_passage=True), second, Wording(**dict(third), is_passage=True)]
    queries = encode(model, [f"冷冷{first.query}", f"query：{second.query}", f"冷冷{third.query}"])
    notes = encode(model, [f"冷冷{note.text}" for note in small.notes])
    check(small, retriever.search(mixed, small.notes, 5), unit(queries) @ unit(notes).T, 5)


def test_a_models_own_pooling_and_half_precision(small: Dataset, tmp_path: Path) -> None:
    """A sentence-transformers folder that pools by [CLS], stored in 16 bits, is computed in 32."""
    plain = write_model(tmp_path / "half", dtype=torch.float16)
    modules = sentence_transformers.sentence_transformer.modules
    own = sentence_transformers.SentenceTransformer(
        modules=[modules.Transformer(str(plain)), modules.Pooling(16, "cls")], device="cpu"
    )
    own.save_pretrained(str(tmp_path / "own"), create_model_card=False)
    rankings = BiEncoder(model=str(tmp_path / "own")).search(small.questions, small.notes, 5)
    queries = encode(plain, [question.query for question in small.questions], "cls")
    notes = encode(plain, [note.text for note in small.notes], "cls")
    check(small, rankings, unit(queries) @ unit(notes).T, 5)


def test_vectors_are_as_short_as_the_model_says(small: Dataset, model: Path, tmp_path: Path) -> None:
    """Those of a Matryoshka model (Kusupati et al. 2022), cut before they are made as long as 1."""
    modules = sentence_transformers.sentence_transformer.modules
    short = sentence_transformers.SentenceTransformer(
        modules=[modules.Transformer(str(model)), modules.Pooling(16, "mean")], device="cpu", truncate_dim=4
    )
    short.save_pretrained(str(tmp_path / "short"), create_model_card=False)
    retriever = BiEncoder(model=str(tmp_path / "short"))
    queries = encode(model, [question.query for question in small.questions])[:, :4]
    notes = encode(model, [note.text for note in small.notes])[:, :4]
    assert retriever.embed_queries(["冷萃"]).shape == (1, 4)
    check(small, retriever.search(small.questions, small.notes, 5), unit(queries) @ unit(notes).T, 5)


def declare(folder: Path, prompts: dict[str, str]) -> Path:
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "prompts", "settings", "expected"),
    [
        ("my-model", {}, {}, ("", "")),
        ("my-model", {"query": "q ", "passage": "p "}, {}, ("q ", "p ")),
        ("my-model", {"query": "q ", "document": "d ", "passage": "p "}, {"query_prefix": ""}, ("", "d ")),
        ("e5-small-zh", {}, {}, ("query: ", "passage: ")),
        ("multilingual-e5-base", {"query": "", "document": ""}, {"passage_prefix": "x"}, ("query: ", "x")),
        ("e5-small", {"query": "q "}, {}, ("q ", "")),
        ("multilingual-e5-large-instruct", {}, {}, ("", "")),
        ("bge-base-zh-v1.5", {}, {}, ("为这个句子生成表示以用于检索相关文章：", "")),
        ("bge-m3", {}, {}, ("", "")),
    ],
)
def test_prefixes_not_given_are_the_models_own(
    tmp_path: Path, name: str, prompts: dict[str, str], settings: dict[str, str], expected: tuple[str, str]
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    declare(folder, prompts)
    identity = BiEncoder(model=str(folder), **settings).identity()
    assert (identity["query_prefix"], identity["passage_prefix"]) == expected


def test_the_identity_is_of_the_content(model: Path, tmp_path: Path) -> None:
    here = BiEncoder(model=str(model)).identity()
    copied = Path(shutil.copytree(model, tmp_path / "elsewhere"))
    assert BiEncoder(model=str(copied), batch_size=1, device="cpu").identity() == here
    assert BiEncoder(model=str(model), pooling="mean").identity() == here
    assert str(tmp_path) not in json.dumps(here)
    for settings in ({"pooling": "cls"}, {"max_length": 9}, {"normalize": False}, {"query_prefix": "x"}):
        assert BiEncoder(model=str(model), **settings).identity() != here
    assert BiEncoder(model=str(write_model(tmp_path / "other", seed=1))).identity() != here


def test_ties_are_ordered_by_a_hash_and_reported(data_dir: Path, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    """More equal notes than faiss is asked for, before and after better and worse ones."""
    texts = ["多肉", *["咖啡"] * 300, "今天"]
    ids = list(np.random.default_rng(0).permutation(len(texts)))
    rows = [{"note_idx": int(i), "title": "", "content": text} for i, text in zip(ids, texts, strict=True)]
    write_jsonl(data_dir / "notes.jsonl", rows)
    data = load_dataset(str(data_dir))
    caplog.set_level(logging.INFO, "qilin_rag")
    questions = ask("咖啡", "多肉", "今天")
    rankings = BiEncoder(model=str(model), batch_size=512).search(questions, data.notes, 7)
    notes = unit(encode(model, [f" {text}" for text in ("多肉", "咖啡", "今天")]))
    scores = np.round(unit(encode(model, [question.query for question in questions])) @ notes.T, 6)
    order = {"多肉": 0, "咖啡": 1, "今天": 2}
    for question, hits, row in zip(questions, rankings, scores, strict=True):
        best = rank_order(np.array([row[order[text]] for text in texts]), np.array(ids), question.query)[:7]
        assert [hit.note_idx for hit in hits] == [ids[i] for i in best]
    assert "3 of 3 rankings had ties at rank 7" in caplog.text


def test_edges(small: Dataset, data_dir: Path, model: Path) -> None:
    retriever = BiEncoder(model=str(model))
    rankings = retriever.search(ask("", "冷萃", "\0 𠮷"), small.notes, 1000)
    assert [sorted(hit.note_idx for hit in hits) for hits in rankings] == [[10, 11, 12, 13, 14]] * 3
    assert all(math.isfinite(hit.score) for hits in rankings for hit in hits)
    assert retriever.search([], small.notes, 5) == []
    write_jsonl(data_dir / "notes.jsonl", [{"note_idx": 1, "title": "", "content": "咖啡" * 5_000_000}])
    [hits] = retriever.search(ask("咖啡"), load_dataset(str(data_dir)).notes, 5)
    assert [hit.note_idx for hit in hits] == [1]
    (data_dir / "notes.jsonl").write_text("")
    assert retriever.search(ask("咖啡"), load_dataset(str(data_dir)).notes, 5) == [[]]


def test_the_notes_are_encoded_in_chunks_in_their_order(
    small: Dataset, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = BiEncoder(model=str(model)).search(small.questions, small.notes, 5)
    monkeypatch.setattr("qilin_rag.retrievers.dense.shards.SHARD_NOTES", 2)
    monkeypatch.setattr("qilin_rag.retrievers.dense.search.CHUNK_QUERIES", 1)
    monkeypatch.setattr("qilin_rag.retrievers.dense.search.BLOCK_ROWS", 2)
    monkeypatch.setenv("QILIN_RAG_CACHE", str(tmp_path / "other"))
    parts = BiEncoder(model=str(model)).search(small.questions, small.notes, 5)
    assert [[hit.note_idx for hit in hits] for hits in parts] == [[hit.note_idx for hit in hits] for hits in whole]


def test_what_cannot_be_used_is_one_line(small: Dataset, made_model: Path, model: Path) -> None:
    def refused(match: str, **settings: Any) -> None:
        with pytest.raises(UsageError, match=match) as caught:
            BiEncoder(**({"model": str(model)} | settings)).search(small.questions, small.notes, 5)
        assert "\n" not in str(caught.value)

    refused("max_length 65: model .* reads 64 tokens at most", max_length=65)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    refused("is a cross-encoder: it reads two texts at once")
    (model / "config.json").write_text(json.dumps(config))
    (model / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}')
    refused("is a cross-encoder: it reads two texts at once")
    for kind in ("MultiVectorEncoder", "ColBERT"):
        (model / "config_sentence_transformers.json").write_text(json.dumps({"model_type": kind}))
        refused("is a late-interaction model.*retriever multivector", normalize=True)
    (model / "config_sentence_transformers.json").write_text('{"model_type": "SparseEncoder"}')
    refused("makes sparse vectors; use it as retriever sparse")
    (model / "config_sentence_transformers.json").unlink()
    weights = model / "model.safetensors"
    some = {name: tensor for name, tensor in safetensors.load_file(weights).items() if "layer.1.attention" not in name}
    safetensors.save_file(some, weights, metadata={"format": "pt"})
    refused(r"weights are not in its files \(encoder\.layer\.1\.attention")
    weights.write_bytes((made_model / weights.name).read_bytes())
    tensors = transformers.AutoModel.from_pretrained(model)
    tensors.embeddings.word_embeddings.weight.data[:] = math.nan
    tensors.save_pretrained(model)
    refused(r"makes vectors that are not finite \(note 10 and 4 more\)")
    weights.write_bytes(b"no weights")
    refused("can't be loaded")
    (model / "config_sentence_transformers.json").write_text("{")
    refused("config_sentence_transformers.json can't be read")
    with pytest.raises(UsageError, match="setting 'pooling' is 'first'"):
        RETRIEVERS.create("biencoder", {"pooling": "first"})


def test_the_index_is_kept_and_the_notes_are_not_encoded_again(
    small: Dataset, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = BiEncoder(model=str(model)).search(small.questions, small.notes, 5)
    [index] = (tmp_path / "cache" / "indexes").iterdir()
    assert sorted(path.name for path in index.iterdir()) == ["qilin_rag.json", "vectors.npy"]
    assert np.load(index / "vectors.npy", allow_pickle=False).shape == (5, 16)
    monkeypatch.setattr(BiEncoder, "write_files", lambda *_: pytest.fail("encoded again"))
    copied = str(shutil.copytree(model, tmp_path / "elsewhere"))
    assert BiEncoder(model=copied).search(small.questions, small.notes, 5) == first
    BiEncoder(model=copied, query_prefix="query：").search(small.questions, small.notes, 5)
    with pytest.raises(pytest.fail.Exception, match="encoded again"):
        BiEncoder(model=copied, passage_prefix="冷").search(small.questions, small.notes, 5)


def test_nothing_of_the_libraries_reaches_the_terminal(data_dir: Path, model: Path, cli: Cli) -> None:
    setting = f"retriever.model={model}"
    done = cli("run", "--data", data_dir, "--retriever", "biencoder", "--set", setting, "--metrics", "rouge_l")
    assert done.code == 0
    assert done.err.splitlines() == [
        f"model '{model}' does not say how its token vectors are pooled: mean, as most encoders are pooled "
        "(set pooling to one of mean, cls, max, lasttoken)",
        f"indexing 5 notes (biencoder, {model}, passage prefix '', fp32)",
        "encoding 3 queries, prefix ''",
    ]
    assert cli("run", "--data", data_dir, "--retriever", "biencoder", "--set", "retriever.model=nowhere").code == 2


@pytest.fixture
def index_of(data_dir: Path, model: Path, cli: Cli, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    def make(*settings: str) -> Path:
        options = [word for setting in (f"model={model}", *settings) for word in ("--set", f"retriever.{setting}")]
        done = cli("index", "biencoder", "--data", data_dir, "--out", tmp_path / "index", *options)
        assert done.code == 0, done.err
        return tmp_path / "index"

    yield make


def test_a_named_index_is_searched(
    small: Dataset, model: Path, index_of: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = BiEncoder(model=str(model)).search(small.questions, small.notes, 5)
    folder = index_of()
    monkeypatch.setattr(BiEncoder, "write_files", lambda *_: pytest.fail("built"))
    retriever = BiEncoder(model=str(model), index=folder)
    assert retriever.search(small.questions, small.notes, 5) == expected
    assert retriever.identity() == BiEncoder(model=str(model)).identity()


def test_a_named_index_of_anything_else_is_refused(
    small: Dataset, data_dir: Path, model: Path, tmp_path: Path, index_of: Callable[..., Path]
) -> None:
    folder = index_of()

    def refused(match: str, **settings: Any) -> None:
        retriever = BiEncoder(**({"model": str(model), "index": folder} | settings))
        with pytest.raises(UsageError, match=match):
            retriever.search(small.questions, load_dataset(str(data_dir)).notes, 5)

    refused("does not fit: model: [0-9a-f]{12} there, [0-9a-f]{12} here;", model=str(write_model(tmp_path / "m", 1)))
    refused('passage_prefix: "" there, "passage: " here', passage_prefix="passage: ")
    refused("pooling: mean there, cls here", pooling="cls")
    refused("normalize: true there, false here", normalize=False)
    manifest = folder / "qilin_rag.json"
    now = manifest.read_text()
    manifest.write_text(now.replace(f'"version": {BiEncoder.index_version}', '"version": 1'))
    refused(f"version: 1 there, {BiEncoder.index_version} here")
    manifest.write_text(now)
    refused("does not exist; make it with: qilin-rag index biencoder --data DATA --out nowhere", index=Path("nowhere"))
    (folder / "vectors.npy").write_bytes((folder / "vectors.npy").read_bytes()[:-4] + b"oops")
    refused(f"damaged .vectors.npy is not what was written.*index biencoder .*--set retriever.model={model}")
    write_jsonl(data_dir / "notes.jsonl", [{"note_idx": 77, "title": "", "content": "冷萃"}])
    refused("made for another corpus")


@pytest.mark.slow
def test_real_questions_by_a_real_model(shared: Path, tmp_path: Path) -> None:
    """60 questions over 80 notes; their own notes are as often among the first five as of all questions and notes."""
    model = shared / "models" / "e5-small-zh"
    if not model.is_dir():
        pytest.skip(f"needs a real encoder: {model} is not there")
    data = load_dataset(str(shared / "data" / "cmrc_dqa"))
    questions = data.questions[:: len(data.questions) // 60][:60]
    own = [question.reference_notes[0] for question in questions]
    some = list(dict.fromkeys([*own, *data.notes.note_idxs.tolist()]))[:80]
    rows = [{"note_idx": note.note_idx, "title": note.title, "content": note.content} for note in data.notes.get(some)]
    notes = open_notes("jsonl", [write_jsonl(tmp_path / "some.jsonl", rows)])
    rankings = BiEncoder(model=str(model)).search(questions, notes, 5)
    places = [
        [hit.note_idx for hit in hits].index(note_idx) if note_idx in {hit.note_idx for hit in hits} else 5
        for note_idx, hits in zip(own, rankings, strict=True)
    ]
    assert np.mean(np.array(places) < 5) >= 0.98
    assert np.mean(np.array(places) == 0) >= 0.95
