"""Learned sparse vectors against sentence-transformers and FlagEmbedding's formula, and their index on disk."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.registry import RETRIEVERS
from qilin_rag.core.ties import ranked
from qilin_rag.core.types import Hit, Question, Wording
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.models.sparse_encoder import SparseVectors, load_sparse_encoder
from qilin_rag.retrievers import postings
from qilin_rag.retrievers.dense.retriever import BiEncoder
from qilin_rag.retrievers.hybrid import Hybrid
from qilin_rag.retrievers.sparse import build as sparse_build
from qilin_rag.retrievers.sparse.index import FILES, add_weighted
from qilin_rag.retrievers.sparse.retriever import LearnedSparse
from tests.conftest import Cli, hear_signals, write_jsonl
from tests.rankers.tiny_bert import write_tiny_bert
from tests.retrievers.counted import Counted
from tests.retrievers.test_bm25 import store_of
from tests.retrievers.tiny_models import CHARACTERS, SPECIAL, words, write_kind
from tests.retrievers.tiny_sparse import (
    save_sparse,
    splade,
    write_csr,
    write_inference_free,
    write_lexical,
    write_masked_lm,
)

torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
ROOT = Path(__file__).parents[2]
TEXTS = ["冷萃咖啡怎么做", "多肉养 冲水温粗研磨粉克毫升", "0123", "", "咖啡" * 60, "冷萃咖啡怎么做", "词外的龘"]


@pytest.fixture(scope="session")
def masked_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masked_lm(tmp_path_factory.mktemp("sparse") / "masked-lm")


@pytest.fixture(scope="session")
def lexical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lexical(tmp_path_factory.mktemp("sparse") / "bge-m3")


@pytest.fixture
def small(data_dir: Path) -> Dataset:
    return load_dataset(str(data_dir))


def ask(*queries: str) -> list[Question]:
    return [Question(id=str(i), query=query, references=["x"]) for i, query in enumerate(queries)]


def random_texts(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(CHARACTERS[:60]), size)) for size in rng.integers(1, 25, n)]


def dense(vectors: SparseVectors) -> npt.NDArray[np.float32]:
    whole = np.zeros((len(vectors.indptr) - 1, vectors.n_terms), np.float32)
    whole[np.repeat(np.arange(len(whole)), np.diff(vectors.indptr)), vectors.terms] = vectors.weights
    return whole


def theirs(folder: Path, texts: Sequence[str], task: str, **more: Any) -> npt.NDArray[np.float32]:
    """By sentence-transformers, with its own batches; an empty text as a space."""
    encoder = sentence_transformers.SparseEncoder(str(folder), device="cpu", local_files_only=True)
    encode = encoder.encode_query if task == "query" else encoder.encode_document
    vectors = encode([text or " " for text in texts], convert_to_sparse_tensor=False, **more)
    made: npt.NDArray[np.float32] = vectors.float().numpy()
    return made


def with_prompts(folder: Path) -> Path:
    prompts = {"query": "查:", "document": "文:"}
    return save_sparse(folder / "prompts", splade(write_masked_lm(folder / "plain")), prompts=prompts)


def by_cosine(folder: Path) -> Path:
    modules = splade(write_masked_lm(folder / "plain"))
    return save_sparse(folder / "cosine", modules, similarity_fn_name="cosine", max_active_dims=5)


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize(
    "write",
    [lambda folder: write_masked_lm(folder / "masked-lm"), write_csr, write_inference_free, with_prompts, by_cosine],
    ids=["masked-lm", "csr", "inference-free", "prompts", "cosine"],
)
def test_vectors_are_those_of_sentence_transformers(
    write: Callable[[Path], Path], tmp_path: Path, batch_size: int | None
) -> None:
    folder = write(tmp_path)
    retriever = LearnedSparse(model=str(folder), device="cpu", batch_size=batch_size)
    for task, vectors in (("query", retriever.embed_queries(TEXTS)), ("document", retriever.embed_notes(TEXTS))):
        expected = theirs(folder, TEXTS, task)
        if folder.name == "cosine":
            expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
            assert np.diff(vectors.indptr).max() <= 5
        np.testing.assert_allclose(dense(vectors), expected, atol=1e-5)
        assert (vectors.weights != 0).all()
        assert dense(vectors)[0].tobytes() == dense(vectors)[5].tobytes()


def test_prefixes_and_limits_are_those_that_are_set(masked_lm: Path, tmp_path: Path) -> None:
    own = LearnedSparse(model=str(with_prompts(tmp_path)), query_prefix="", device="cpu")
    assert (own.identity()["query_prefix"], own.identity()["passage_prefix"]) == ("", "文:")
    np.testing.assert_allclose(dense(own.embed_queries(TEXTS)), theirs(masked_lm, TEXTS, "query"), atol=1e-5)
    few = LearnedSparse(model=str(masked_lm), max_active_dims=3, max_length=6, device="cpu")
    long, short = few.embed_notes(["冷萃咖啡怎么做", "冷萃咖啡"]), few.embed_queries(["冷萃咖啡"])
    np.testing.assert_allclose(dense(long)[0], dense(short)[0], atol=1e-5)
    np.testing.assert_allclose(dense(short), theirs(masked_lm, ["冷萃咖啡"], "query", max_active_dims=3), atol=1e-5)
    assert np.diff(long.indptr).tolist() == [3, 3]
    with pytest.raises(UsageError, match="reads 64 tokens at most"):
        LearnedSparse(model=str(masked_lm), max_length=65, device="cpu").embed_queries(TEXTS)
    free = write_inference_free(tmp_path / "free")
    assert np.diff(LearnedSparse(model=str(free), max_length=3, device="cpu").embed_queries(["冷萃咖啡"]).indptr) == [3]


def check_sums(query: str, hits: Sequence[Hit], scores: npt.NDArray[np.float64], k: int) -> None:
    """That these are the best `k` notes by their scores, whichever of those that tie."""
    found = np.array([hit.score for hit in hits])
    np.testing.assert_allclose(found, scores[[hit.note_idx for hit in hits]], atol=1e-5, rtol=0)
    np.testing.assert_allclose(found, np.sort(scores[scores > 0])[::-1][:k], atol=1e-5, rtol=0)
    assert hits == ranked({hit.note_idx: hit.score for hit in hits}, query)


def test_scores_of_5000_notes_are_dense_dot_products(
    masked_lm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ties aside, and with notes that share a text; in several shards and blocks, by one thread and by several."""
    texts = random_texts(4000)
    texts += texts[:500] + [texts[7]] * 500
    notes, queries = store_of(texts), random_texts(20, seed=1)
    monkeypatch.setattr(sparse_build, "SHARD_NOTES", 1024)
    monkeypatch.setattr(postings, "BLOCK_POSTINGS", 10_000)
    made: dict[str, npt.NDArray[np.float32]] = {}
    encode = LearnedSparse._encode

    def keeping(self: LearnedSparse, texts: Sequence[str], task: Any, names: Sequence[str]) -> SparseVectors:
        vectors = encode(self, texts, task, names)
        made.update(zip(texts, dense(vectors), strict=True))
        return vectors

    monkeypatch.setattr(LearnedSparse, "_encode", keeping)
    LearnedSparse(model=str(masked_lm), device="cpu").write_index(notes, tmp_path / "index")
    retriever = LearnedSparse(model=str(masked_lm), device="cpu", index=tmp_path / "index")
    of_notes = np.array([made[f" {text}"] for text in texts])
    np.testing.assert_allclose(of_notes[:500], theirs(masked_lm, [f" {t}" for t in texts[:500]], "document"), atol=1e-5)
    scores = dense(retriever.embed_queries(queries)).astype(np.float64) @ of_notes.astype(np.float64).T
    for k in (1, 10, 600):
        rankings = retriever.search(ask(*queries), notes, k)
        for query, hits, expected in zip(queries, rankings, scores, strict=True):
            check_sums(query, hits, expected, k)
    monkeypatch.setattr(postings, "THREADED_NOTES", 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    assert retriever.search(ask(*queries), notes, 600) == rankings
    [hits] = retriever.search(ask(queries[0]), notes, 6000)
    check_sums(queries[0], hits, scores[0], 6000)
    assert {path.name for path in (tmp_path / "index").iterdir()} == {*FILES, "qilin_rag.json"}


def flag_embedding(folder: Path, text: str, max_length: int) -> npt.NDArray[np.float64]:
    """The weights of BGEM3FlagModel.encode(return_sparse=True), one token at a time."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).float().eval()
    head = torch.load(folder / "sparse_linear.pt", weights_only=True)
    ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
    with torch.no_grad():
        hidden = model(torch.tensor([ids])).last_hidden_state[0].double()
    unused = {tokenizer.cls_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}
    weights = np.zeros(model.config.vocab_size)
    for number, state in zip(ids, hidden, strict=True):
        weight = max(0.0, float(head["weight"][0].double() @ state + head["bias"][0].double()))
        if number not in unused:
            weights[number] = max(weights[number], weight)
    return weights


@pytest.mark.parametrize("is_safe", [False, True])
def test_the_sparse_head_of_bge_m3_gives_the_weights_of_flag_embedding(
    lexical: Path, tmp_path: Path, is_safe: bool
) -> None:
    folder = Path(shutil.copytree(lexical, tmp_path / "m3"))
    expected = np.array([flag_embedding(folder, text or " ", 40) for text in TEXTS])
    if is_safe:
        from safetensors.torch import save_file

        save_file(torch.load(folder / "sparse_linear.pt"), folder / "sparse_linear.safetensors")
        (folder / "sparse_linear.pt").unlink()
    retriever = LearnedSparse(model=str(folder), device="cpu")
    np.testing.assert_allclose(dense(retriever.embed_queries(TEXTS)), expected, atol=1e-5)
    np.testing.assert_allclose(dense(retriever.embed_notes(TEXTS)), expected, atol=1e-5)
    assert (expected > 0).sum(axis=1).tolist() == np.diff(retriever.embed_notes(TEXTS).indptr).tolist()
    assert (expected[[0, 1, 4]] > 0).any(axis=1).all()


class Trap:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def damage(folder: Path, how: str) -> None:
    head = folder / "sparse_linear.pt"
    if how == "pickle":
        head.write_bytes(pickle.dumps({"weight": Trap(), "bias": torch.zeros(1)}))
    elif how == "zip":
        torch.save({"weight": Trap()}, head)
    elif how == "shape":
        torch.save({"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}, head)
    elif how == "keys":
        torch.save({"weight": torch.zeros(1, 16), "other": torch.zeros(1)}, head)
    else:
        head.write_bytes(head.read_bytes()[:100])


@pytest.mark.parametrize("how", ["pickle", "zip", "shape", "keys", "cut"])
def test_a_head_that_is_none_is_refused_and_never_executed(lexical: Path, tmp_path: Path, how: str) -> None:
    folder = Path(shutil.copytree(lexical, tmp_path / "m3"))
    damage(folder, how)
    with pytest.raises(UsageError, match=r"sparse_linear\.pt does not hold the weight \(1, 16\)") as caught:
        LearnedSparse(model=str(folder), device="cpu").embed_queries(TEXTS)
    assert "\n" not in str(caught.value)
    assert not Path("executed").exists()


def test_models_without_sparse_vectors_are_refused(tmp_path: Path, lexical: Path) -> None:
    from sentence_transformers import SentenceTransformer

    plain = write_kind(tmp_path / "plain", "bert")
    dense_model = tmp_path / "dense"
    SentenceTransformer(str(plain), device="cpu").save_pretrained(str(dense_model), create_model_card=False)
    headless = Path(shutil.copytree(lexical, tmp_path / "headless"))
    (headless / "sparse_linear.pt").unlink()
    pairs = Path(shutil.copytree(plain, tmp_path / "pairs"))
    config = json.loads((pairs / "config.json").read_text())
    (pairs / "config.json").write_text(json.dumps(config | {"architectures": ["BertForSequenceClassification"]}))
    far = write_masked_lm(tmp_path / "far")
    distance = save_sparse(tmp_path / "distance", splade(far), similarity_fn_name="euclidean")
    headless_lm = Path(shutil.copytree(plain, tmp_path / "headless-lm"))
    (headless_lm / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    for folder, why in (
        (plain, "makes no sparse vectors"),
        (dense_model, "makes no sparse vectors"),
        (headless, "makes no sparse vectors.*sparse_linear.pt"),
        (pairs, "is a cross-encoder"),
        (distance, "compares vectors by 'euclidean'"),
        (headless_lm, "weights are not in its files"),
    ):
        with pytest.raises(UsageError, match=why):
            LearnedSparse(model=str(folder), device="cpu").embed_queries(TEXTS)


@pytest.mark.parametrize("config", ["no json", "[]", '{"architectures": 5}', '{"architectures": [1]}'])
def test_a_damaged_configuration_is_one_line(lexical: Path, small: Dataset, tmp_path: Path, config: str) -> None:
    saved = save_sparse(tmp_path / "splade", splade(write_masked_lm(tmp_path / "plain")))
    for retriever, folder in ((LearnedSparse, saved), (LearnedSparse, lexical), (BiEncoder, lexical)):
        damaged = Path(shutil.copytree(folder, tmp_path / f"{retriever.__name__}-{folder.name}"))
        (damaged / "config.json").write_text(config)
        with pytest.raises(UsageError, match="can't be loaded") as caught:
            retriever(model=str(damaged), device="cpu").search(small.questions, small.notes, 1)
        assert "\n" not in str(caught.value)


def test_prompts_of_a_wrong_type_are_none(lexical: Path, tmp_path: Path) -> None:
    odd = Path(shutil.copytree(lexical, tmp_path / "odd"))
    (odd / "config_sentence_transformers.json").write_text('{"prompts": ["query: "]}')
    mine, given = (LearnedSparse(model=str(folder), device="cpu").embed_queries(TEXTS) for folder in (odd, lexical))
    assert (dense(mine) == dense(given)).all()


def test_more_terms_than_a_model_has_are_all_of_them(tmp_path: Path) -> None:
    folder = str(write_csr(tmp_path))
    some, more = (LearnedSparse(model=folder, device="cpu", max_active_dims=n).embed_queries(TEXTS) for n in (64, 65))
    assert (dense(some) == dense(more)).all()


def test_hypothetical_passages_are_encoded_as_notes(tmp_path: Path) -> None:
    """HyDE's texts between questions; the hits are still in the order of the questions."""
    retriever = LearnedSparse(model=str(write_inference_free(tmp_path)), device="cpu")
    texts = random_texts(30)
    first, second, third = ask(*random_texts(3, seed=9))
    mixed = [Wording(**dict(first), is_passage=True), second, Wording(**dict(third), is_passage=True)]
    passages, queries = (
        dense(encode([each.query for each in mixed])) for encode in (retriever.embed_notes, retriever.embed_queries)
    )
    scores = (
        np.stack([passages[0], queries[1], passages[2]])
        @ dense(retriever.embed_notes([f" {text}" for text in texts])).T
    )
    for hits, expected in zip(retriever.search(mixed, store_of(texts), 30), scores, strict=True):
        assert [hit.score for hit in hits] == pytest.approx(sorted(expected[expected > 0], reverse=True), abs=1e-4)


def test_weights_that_are_not_finite_are_refused(masked_lm: Path, lexical: Path) -> None:
    """A token is damaged: in a masked language model, it is a term of every text as well."""
    for folder, which in ((masked_lm, "note 5 and 1 more"), (lexical, "note 7")):
        retriever = LearnedSparse(model=str(folder), device="cpu")
        encoder = load_sparse_encoder(folder, "broken", "cpu", None)
        with torch.no_grad():
            encoder[0].model.get_input_embeddings().weight[words().index("咖")] = np.nan
        retriever._encoder = encoder
        with pytest.raises(UsageError, match=rf"weights that are not finite \({which}\); its weights") as caught:
            retriever._encode(["冷萃", "咖"], "document", ["note 5", "note 7"])
        assert "\n" not in str(caught.value)


def test_negative_weights_count_and_a_note_that_is_not_above_zero_is_no_hit(tmp_path: Path) -> None:
    weights = [0.0] * len(words())
    texts = [*random_texts(300), "", "龘"]
    for i, word in enumerate(words()):
        if word not in SPECIAL:
            weights[i] = ((i * 7) % 11) / 5 - 1
    folder = write_inference_free(tmp_path, weights)
    notes, queries = store_of(texts), random_texts(10, seed=3)
    retriever = LearnedSparse(model=str(folder), device="cpu")
    scores = theirs(folder, queries, "query").astype(np.float64) @ (
        theirs(folder, [f" {text}" for text in texts], "document").astype(np.float64).T
    )
    assert (scores < -0.01).any() and (scores > 0.01).any()
    for query, hits, expected in zip(queries, retriever.search(ask(*queries), notes, 400), scores, strict=True):
        check_sums(query, hits, np.where(expected > 1e-5, expected, 0), 400)


def test_a_note_without_weights_is_never_a_hit() -> None:
    texts = ["冷萃", "x", "", "冷冷", "萃", "x"]
    notes = store_of(texts)
    [cold, none] = Counted(model="-").search(ask("冷", "x"), notes, 10)
    assert [(hit.note_idx, hit.score) for hit in cold] == [(3, 2.0), (0, 1.0)]
    assert none == []
    nothing = store_of(["x", "y"])
    assert Counted(model="-").search(ask("冷"), nothing, 10) == [[]]
    assert Counted(model="-").search([], nothing, 10) == []


def test_a_question_without_tokens_has_no_weights(tmp_path: Path) -> None:
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(write_tiny_bert(tmp_path / "bert", ["冷萃"]))
    model = save_sparse(tmp_path / "static", [SparseStaticEmbedding(tokenizer)])
    retriever = LearnedSparse(model=str(model), device="cpu")
    assert retriever.embed_queries([" ", ""]).indptr.tolist() == [0, 0, 0]
    assert retriever.embed_queries(["", "冷萃冷"]).indptr.tolist() == [0, 0, 2]
    assert retriever.embed_queries([]).indptr.tolist() == [0]


BUILD = """
import sys, time
from pathlib import Path
from qilin_rag.data import load_dataset
from qilin_rag.retrievers import postings
from qilin_rag.retrievers.sparse import build
from tests.rankers.tiny_bert import write_tiny_bert
from tests.retrievers.counted import Counted
data, out, where = sys.argv[1:]
build.SHARD_NOTES = 8
def stop(*_):
    print("stopped", flush=True)
    time.sleep(600)
keep, blocks = build.kept_part, postings.PostingMerge._blocks
def keep_and_stop(folder, name, write):
    return stop() if where == "shards" and len(list(folder.glob("shard-*.npz"))) == 3 else keep(folder, name, write)
build.kept_part = keep_and_stop
if where == "merge":
    def half(self):
        yield next(blocks(self))
        stop()
    postings.BLOCK_POSTINGS = 1
    postings.PostingMerge._blocks = half
Counted(model="-").write_index(load_dataset(data).notes, Path(out))
"""


@pytest.mark.parametrize("where", ["shards", "merge"])
def test_a_build_that_was_killed_goes_on_to_the_same_bytes(
    data_dir: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = random_texts(45)
    write_jsonl(data_dir / "notes.jsonl", [{"note_idx": i, "title": "", "content": t} for i, t in enumerate(texts)])
    notes = load_dataset(str(data_dir)).notes
    monkeypatch.setattr(sparse_build, "SHARD_NOTES", 8)
    retriever = Counted(model="-")
    retriever.write_index(notes, tmp_path / "whole")
    command = [sys.executable, "-c", BUILD, str(data_dir), str(tmp_path / "index"), where]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, preexec_fn=hear_signals, env=os.environ | {"PYTHONPATH": str(ROOT)}
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "stopped\n"
        os.kill(child.pid, signal.SIGKILL)
    encoded: list[str] = []
    encode = Counted._encode

    def counting(self: Counted, texts: Sequence[str], task: Any, names: Sequence[str]) -> SparseVectors:
        encoded.extend(names)
        return encode(self, texts, task, names)

    monkeypatch.setattr(Counted, "_encode", counting)
    retriever.write_index(notes, tmp_path / "index")
    assert len(encoded) == (45 - 24 if where == "shards" else 0)
    contents = [{name: (tmp_path / each / name).read_bytes() for name in FILES} for each in ("whole", "index")]
    assert contents[0] == contents[1]
    assert {path.name for path in (tmp_path / "index").iterdir()} == {*FILES, "qilin_rag.json"}
    assert not (tmp_path / ".index-building").exists()


def rewritten(folder: Path, name: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> None:
    """Change a file of an index, and its manifest so that it vouches for it."""
    from qilin_rag.core.checksums import file_digest, file_record

    array = np.load(folder / name)
    np.save(folder / name, change(array))
    manifest = json.loads((folder / "qilin_rag.json").read_text())
    manifest["files"][name] = file_record(folder / name, file_digest(folder / name))
    (folder / "qilin_rag.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("rows.npy", lambda rows: rows + 1_000_000, "names a note that does not exist"),
        ("rows.npy", lambda rows: rows - 1_000_000, "names a note that does not exist"),
        ("rows.npy", lambda rows: rows[:-1], "of other lengths"),
        ("rows.npy", lambda rows: rows.astype(np.int64), "of other types"),
        ("impacts.npy", lambda impacts: impacts[None], "of other types"),
        ("notes.npy", lambda notes: notes[1:], "of other lengths"),
        ("notes.npy", lambda notes: notes + 1_000_000, "names a note that does not exist"),
        ("note_starts.npy", lambda starts: starts[:0], "do not rise"),
        ("indptr.npy", lambda indptr: np.append(indptr[-2::-1], indptr[-1]), "do not rise"),
    ],
)
def test_an_index_of_a_stranger_reads_no_memory_that_is_not_its_own(
    masked_lm: Path, tmp_path: Path, name: str, change: Any, why: str
) -> None:
    notes = store_of(["冷萃咖啡怎么做", "多肉养", "冷萃咖啡怎么做"])
    LearnedSparse(model=str(masked_lm), device="cpu").write_index(notes, tmp_path / "index")
    rewritten(tmp_path / "index", name, change)
    with pytest.raises(UsageError, match=why) as caught:
        LearnedSparse(model=str(masked_lm), device="cpu", index=tmp_path / "index").search(ask("冷萃"), notes, 5)
    assert "\n" not in str(caught.value)


def test_an_index_knows_what_it_was_made_of(small: Dataset, masked_lm: Path, tmp_path: Path) -> None:
    LearnedSparse(model=str(masked_lm), device="cpu").write_index(small.notes, tmp_path / "index")
    other = Path(shutil.copytree(masked_lm, tmp_path / "elsewhere"))
    same = LearnedSparse(model=str(other), device="cpu", query_prefix="查", batch_size=1, index=tmp_path / "index")
    assert same.search(ask("冷萃"), small.notes, 5)[0]
    for changed in ({"passage_prefix": "文"}, {"max_length": 9}, {"max_active_dims": 2}):
        [name] = changed
        with pytest.raises(UsageError, match=f"does not fit: {name}: "):
            LearnedSparse(model=str(masked_lm), index=tmp_path / "index", **changed).search(ask("冷萃"), small.notes, 5)
    identity = LearnedSparse(model=str(masked_lm)).identity()
    assert identity["component"] == "retriever/sparse"
    assert identity == LearnedSparse(model=str(other), batch_size=3, device="cpu", index=tmp_path / "index").identity()


def test_the_product_of_scipy_that_is_private_adds_in_place_and_lets_threads_run() -> None:
    rows, impacts = np.array([0, 2, 2], np.int32), np.array([1.0, 2.0, 3.0], np.float32)
    rows.setflags(write=False)
    scores = np.array([1.0, 1.0, 1.0], np.float32)
    add_weighted(scores, rows, (impacts, np.array([0.5], np.float32)))
    add_weighted(scores, rows[:0], (impacts[:0], np.array([0.5], np.float32)))
    assert scores.tolist() == [1.5, 1.0, 3.5]


@pytest.fixture
def quiet_model(masked_lm: Path) -> str:
    return str(masked_lm)


def test_in_a_hybrid_and_as_a_retriever_of_langchain(small: Dataset, quiet_model: str) -> None:
    alone = LearnedSparse(model=quiet_model, device="cpu")
    parts = [{"name": "sparse", "model": quiet_model, "device": "cpu"}]
    fused = Hybrid(of=["bm25", *parts])
    assert fused.search(small.questions, small.notes, 5)[0]
    only = Hybrid(of=[*parts, "none"]).search(small.questions, small.notes, 5)
    expected = alone.search(small.questions, small.notes, 5)
    assert [[hit.note_idx for hit in hits] for hits in only] == [[hit.note_idx for hit in hits] for hits in expected]
    pytest.importorskip("langchain_core", reason="needs langchain-core")
    documents = alone.as_langchain(small.notes, k=2).invoke(small.questions[0].query)
    assert [document.metadata["note_idx"] for document in documents] == [hit.note_idx for hit in expected[0][:2]]


def test_the_commands(data_dir: Path, cli: Cli, quiet_model: str) -> None:
    settings = ("--data", data_dir, "--set", f"retriever.model={quiet_model}", "--set", "retriever.device=cpu")
    planned = cli("run", "--retriever", "sparse", *settings, "--llm", "extractive", "--dry-run")
    assert planned.code == 0 and "encode 5 notes by LearnedSparse: there is no index yet" in planned.out + planned.err
    done = cli("index", "sparse", *settings, "--out", "index")
    assert (done.code, done.out.splitlines()[-1]) == (0, "index")
    index = ("--set", "retriever.index=index")
    assert cli("retrieve", "--retriever", "sparse", *settings, *index, "--out", "run.trec").code == 0
    assert Path("run.trec").read_text().splitlines()
    run = cli("run", "--retriever", f"sparse:{quiet_model}", *settings[:2], *index, "--llm", "extractive", "--json")
    assert run.code == 0, run.err
    assert json.loads(run.out)
    found = json.loads(cli("doctor", "--retriever", "sparse", *settings, "--json").out)
    assert {each["subject"]: each["state"] for each in found}["sparse"] == "ok"
    listed = cli("list", "retrievers", "sparse")
    assert listed.code == 0 and "max_active_dims" in listed.out


def test_doctor_and_index_name_what_is_missing(
    data_dir: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet_model: str
) -> None:
    plain = write_kind(tmp_path / "plain", "bert")
    settings = ("--data", data_dir, "--set", f"retriever.model={plain}")
    found = json.loads(cli("doctor", "--retriever", "sparse", *settings, "--json").out)
    [finding] = [each for each in found if each["subject"] == "sparse"]
    assert finding["state"] == "failed" and "makes no sparse vectors" in finding["detail"]
    monkeypatch.setattr("qilin_rag.core.extras.find_spec", lambda module: None)
    done = cli("index", "sparse", "--data", data_dir, "--set", f"retriever.model={quiet_model}", "--out", "x")
    assert done.code == 2
    assert "needs torch, sentence_transformers, scipy, not installed here: pip install 'qilin-rag[neural]'" in done.err
    assert RETRIEVERS.resolve("sparse") is LearnedSparse
