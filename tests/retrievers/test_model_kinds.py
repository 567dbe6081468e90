"""Models of many kinds give the vectors and the rankings that sentence-transformers gives for them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.data import Dataset, load_dataset
from qilin_rag.models.pretrained import quiet_loading
from qilin_rag.retrievers.dense.retriever import BiEncoder

torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
pytest.importorskip("faiss", reason="needs faiss-cpu")
transformers = pytest.importorskip("transformers", reason="needs transformers")
sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")

from tests.retrievers.tiny_models import (  # noqa: E402
    HIDDEN,
    SPECIAL,
    plain_tokenizer,
    routed,
    save,
    static,
    transformer,
    words,
    write_kind,
    write_tokenizer,
)


@pytest.fixture
def small(data_dir: Path) -> Dataset:
    return load_dataset(str(data_dir))


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kind(tmp_path_factory.mktemp("kinds") / "bert", "bert", max_position_embeddings=64)


def check(data: Dataset, retriever: BiEncoder, folder: Path) -> None:
    """Rankings and scores are sentence-transformers' own, but for the 16 bits that notes are stored in."""
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu").float()
    queries = model.encode_query([question.query for question in data.questions])
    notes = model.encode_document([note.text for note in data.notes])
    expected = model.similarity(queries, notes).numpy()
    rankings = retriever.search(data.questions, data.notes, 5)
    place = {int(note_idx): i for i, note_idx in enumerate(data.notes.note_idxs)}
    for hits, row in zip(rankings, expected, strict=True):
        assert sorted(place[hit.note_idx] for hit in hits) == list(range(5))
        scores = np.array([hit.score for hit in hits])
        assert scores == pytest.approx(row[[place[hit.note_idx] for hit in hits]], rel=2e-3, abs=2e-3)
        assert (np.diff(scores) <= 0).all()


def dense(seed: int = 0) -> Any:
    from sentence_transformers.base.modules import Dense

    torch.manual_seed(seed)
    return Dense(HIDDEN, 8, init_weight=torch.randn(8, HIDDEN), activation_function=torch.nn.Tanh())


def normal() -> Any:
    from sentence_transformers.base.modules import Normalize

    return Normalize()


Make = Callable[[Path, Path], Path]
KINDS: dict[str, Make] = {
    "static": lambda bert, out: save(out, [static()]),
    "static, normalized": lambda bert, out: save(out, [static(), normal()]),
    "routes": lambda bert, out: save(out, [routed([static()], transformer(bert)), normal()]),
    "routes, the other way": lambda bert, out: save(out, [routed(transformer(bert, "cls"), [static(1)])]),
    "routes, a default for queries": lambda bert, out: save(
        out, [routed([static()], [static(1)], default_route="query")]
    ),
    "routes behind": lambda bert, out: save(out, [*transformer(bert), routed([dense(1)], [dense(2)])]),
    "one encoder, two heads": lambda bert, out: save(
        out, [(lambda one: routed([*one, dense(1)], [*one, dense(2)]))(transformer(bert))]
    ),
    "dense": lambda bert, out: save(out, [*transformer(bert), dense()]),
    "max": lambda bert, out: save(out, transformer(bert, "max")),
    "weightedmean": lambda bert, out: save(out, transformer(bert, "weightedmean")),
    "prompts": lambda bert, out: save(
        out, transformer(bert), prompts={"query": "冷", "document": "多肉"}, default_prompt_name="document"
    ),
    "a default prompt": lambda bert, out: save(
        out, transformer(bert), prompts={"other": "冷"}, default_prompt_name="other"
    ),
    "a prompt that is not pooled": lambda bert, out: without_prompt(
        save(out, transformer(bert), prompts={"query": "冷萃", "document": "多肉"})
    ),
    "truncated": lambda bert, out: save(out, transformer(bert), truncate_dim=5),
    "dot": lambda bert, out: save(out, transformer(bert), similarity_fn_name="dot"),
    "euclidean": lambda bert, out: save(out, transformer(bert), similarity_fn_name="euclidean"),
    "euclidean, static, truncated": lambda bert, out: save(
        out, [static()], similarity_fn_name="euclidean", truncate_dim=4
    ),
    "lower case": lambda bert, out: save(out, transformer(bert, do_lower_case=True)),
    "short": lambda bert, out: save(out, transformer(bert, max_seq_length=9)),
    "rotary": lambda bert, out: save(out, transformer(write_kind(out.parent / "rotary", "modernbert"))),
    "t5": lambda bert, out: save(out, transformer(write_kind(out.parent / "t5", "t5"))),
    "16 bits": lambda bert, out: save(out, [module.half() for module in transformer(bert)]),
}


def without_prompt(folder: Path) -> Path:
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"include_prompt": False}))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_rankings_are_those_of_the_library(small: Dataset, bert: Path, tmp_path: Path, kind: str) -> None:
    folder = KINDS[kind](bert, tmp_path / "model")
    check(small, BiEncoder(model=str(folder)), folder)


def test_the_kinds_differ(small: Dataset, bert: Path, tmp_path: Path) -> None:
    """So that the test above can tell the routes apart."""
    folder = save(tmp_path / "model", [routed([static()], [static(1)])])
    model = BiEncoder(model=str(folder))
    assert np.abs(model.embed_queries(["冷萃"]) - model.embed_notes(["冷萃"])).max() > 0.1


def test_routes_without_one_for_queries_are_refused(small: Dataset, tmp_path: Path) -> None:
    from sentence_transformers.base.modules import Router

    folder = save(tmp_path / "model", [Router({"short": [static()], "long": [static(1)]})])
    with pytest.raises(UsageError, match="has routes for short, long, and none for document"):
        BiEncoder(model=str(folder)).search(small.questions, small.notes, 5)


def test_a_length_of_static_vectors(small: Dataset, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", [static()])
    cut, whole = BiEncoder(model=str(folder), max_length=3), BiEncoder(model=str(folder))
    assert cut.embed_queries(["冷萃咖啡"]) == pytest.approx(whole.embed_queries(["冷萃咖"]), abs=1e-6)
    assert np.isfinite(whole.embed_queries(["咖啡" * 100_000, ""])).all()


def test_a_folder_of_model2vec(small: Dataset, tmp_path: Path) -> None:
    """As its own library writes it, without a word to sentence-transformers."""
    from safetensors.torch import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"embeddings": static().embedding.weight.data}, folder / "model.safetensors")
    plain_tokenizer("").save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    same = save(tmp_path / "same", [static(), normal()])
    texts = [note.text for note in small.notes]
    assert BiEncoder(model=str(folder)).embed_notes(texts) == pytest.approx(
        BiEncoder(model=str(same)).embed_notes(texts), abs=1e-6
    )


def test_what_is_compared_otherwise(small: Dataset, bert: Path, tmp_path: Path) -> None:
    folder = save(tmp_path / "model", transformer(bert), similarity_fn_name="euclidean")
    kinds = {BiEncoder(model=str(folder), normalize=value).identity()["similarity"] for value in (None, True, False)}
    assert kinds == {"euclidean", "cosine", "dot"}
    with pytest.raises(UsageError, match="Euclidean distance, which flat alone searches"):
        BiEncoder(model=str(folder), faiss="ivf").search(small.questions, small.notes, 5)
    folder = save(tmp_path / "other", transformer(bert), similarity_fn_name="manhattan")
    with pytest.raises(UsageError, match=r"by 'manhattan'.*; set normalize to true"):
        BiEncoder(model=str(folder)).search(small.questions, small.notes, 5)
    assert BiEncoder(model=str(folder), normalize=True).search(small.questions, small.notes, 5)


POSITIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "bert": (32, {"max_position_embeddings": 32}),
    "roberta": (32, {"max_position_embeddings": 34}),
    "xlm-roberta": (32, {"max_position_embeddings": 34}),
    "camembert": (32, {"max_position_embeddings": 34}),
    "mpnet": (32, {"max_position_embeddings": 34}),
    "modernbert": (32, {"max_position_embeddings": 32}),
    "t5": (10**6, {}),
}


@pytest.fixture(scope="session")
def positioned(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = write_kind(tmp_path_factory.mktemp("kinds") / kind, kind, **POSITIONS[kind][1])
        return made[kind]

    return make


@pytest.mark.parametrize("kind", POSITIONS)
@pytest.mark.parametrize("named", [None, 34, 512])
def test_texts_longer_than_a_models_positions_are_cut(
    positioned: Callable[[str], Path], tmp_path: Path, kind: str, named: int | None
) -> None:
    """Whatever limit the tokenizer or the model's own files name (None: 1e30)."""
    folder, limit = positioned(kind), POSITIONS[kind][0]
    if named is not None:
        folder = save(tmp_path / "model", transformer(folder, max_seq_length=named))
        limit = min(limit, named)
    model = BiEncoder(model=str(folder), pooling="mean")
    n_most = min(limit, 100) - 2  # a text with its two marks
    texts = ["冷萃咖啡怎么做多肉养手"[i % 11] for i in range(10 * n_most)]
    lengths = (n_most - 1, n_most, n_most + 1, n_most + 2, 10 * n_most)
    one_less, whole, *longer = model.embed_notes(["".join(texts[:n]) for n in lengths])
    assert np.abs(one_less - whole).max() > 1e-3
    for vector in longer:
        is_cut = np.abs(vector - whole).max() < 1e-5
        assert is_cut == (limit <= 100)


@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_a_length_beyond_the_positions_is_refused(positioned: Callable[[str], Path], kind: str) -> None:
    assert BiEncoder(model=str(positioned(kind)), pooling="mean", max_length=32).embed_queries(["冷" * 99]).size
    with pytest.raises(UsageError, match=r"max_length 33: model .* reads 32 tokens at most"):
        BiEncoder(model=str(positioned(kind)), pooling="mean", max_length=33).embed_queries(["冷"])


def rename(folder: Path, to: Path, **config: Any) -> Path:
    """A copy under another name, whose configuration says something else."""
    import shutil

    shutil.copytree(folder, to)
    described = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(described | config))
    return to


@pytest.mark.parametrize(
    ("name", "config", "pooling", "level", "reason"),
    [
        ("bge-base-zh-v1.5", {}, "cls", "INFO", "the family bge documents"),
        ("mine", {"_name_or_path": "/cache/BAAI_bge-small-zh/"}, "cls", "INFO", "the family bge documents"),
        ("mine", {"_name_or_path": "thenlper/gte-large-zh"}, "cls", "INFO", "the family gte documents"),
        ("e5-small-zh", {"_name_or_path": "BAAI/bge-small-zh"}, "mean", "INFO", "the family e5 documents"),
        ("models--BAAI--bge-m3/snapshots/0123abc", {}, "cls", "INFO", "the family bge documents"),
        ("mine", {"_name_or_path": "hfl/chinese-roberta"}, "mean", "WARNING", "as most encoders"),
    ],
)
def test_pooling_that_is_not_said_is_said(
    bert: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    config: Any,
    pooling: Any,
    level: str,
    reason: str,
) -> None:
    folder = rename(bert, tmp_path / name, **config)
    caplog.set_level(logging.INFO, "qilin_rag")
    model = BiEncoder(model=str(folder), query_prefix="", passage_prefix="")
    assert model.identity()["pooling"] == pooling
    vector = model.embed_queries(["冷萃咖啡"])
    [said] = [record for record in caplog.records if "how its token vectors are pooled" in record.getMessage()]
    assert (said.levelname, f": {pooling}, " in said.getMessage(), reason in said.getMessage()) == (level, True, True)
    assert "set pooling to one of" in said.getMessage()
    caplog.clear()
    told = BiEncoder(model=str(folder), query_prefix="", passage_prefix="", pooling=pooling)
    assert np.array_equal(told.embed_queries(["冷萃咖啡"]), vector)
    assert (told.identity(), caplog.text) == (model.identity(), "")
    other = BiEncoder(model=str(folder), query_prefix="", passage_prefix="", pooling="max")
    assert np.abs(other.embed_queries(["冷萃咖啡"]) - vector).max() > 1e-3


def last_token(folder: Path, text: str, end: list[int]) -> Any:
    """The last state of one text, alone, whose tokens are its characters and `end`; of length 1."""
    model = transformers.AutoModel.from_pretrained(folder).float().eval()
    ids = torch.tensor([[words().index(character) for character in text] + end])
    with torch.no_grad():
        state = model(input_ids=ids).last_hidden_state[0, -1].numpy()
    return state / np.linalg.norm(state)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
@pytest.mark.parametrize("name", ["Qwen3-Embedding-0.6B", "my-model"])
def test_a_model_that_reads_left_to_right_is_pooled_by_its_last_token(
    tmp_path: Path, side: str, kind: str, name: str
) -> None:
    """Plain folders, with a chat template that is for chat; texts of many lengths in a batch; the family's last token.

    The model card of Qwen3-Embedding ends a text with <|endoftext|>.
    """
    folder = write_kind(tmp_path / name, kind, max_position_embeddings=64, marks="")
    chat = "{% for message in messages %}冷冷{{ message['content'] }}{% endfor %}"
    write_tokenizer(folder, "", padding_side=side, chat_template=chat, pad_token=None if kind == "gpt2" else "<pad>")
    model = BiEncoder(model=str(folder), query_prefix="")
    assert model.identity()["pooling"] == "lasttoken"
    end = [SPECIAL.index("<|endoftext|>")] if "Qwen3-Embedding" in name else []
    texts = ["冷", "冷萃咖啡", "多肉怎么养", "冷萃" * 10]
    expected = [last_token(folder, text, end) for text in texts]
    assert model.embed_queries(texts) == pytest.approx(np.array(expected), abs=1e-5)
    [cut] = BiEncoder(model=str(folder), query_prefix="", max_length=5).embed_queries(["冷萃咖啡怎么做"])
    assert cut == pytest.approx(last_token(folder, "冷萃咖啡怎么做"[: 5 - len(end)], end), abs=1e-5)
    if end:
        assert BiEncoder(model=str(folder)).identity()["query_prefix"].startswith("Instruct: ")


@pytest.mark.parametrize(("kind", "pooling"), [("bert", "mean"), ("qwen3", "lasttoken")])
def test_an_adapter_reads_with_its_base(small: Dataset, tmp_path: Path, kind: str, pooling: str) -> None:
    """A plain folder of PEFT; its vectors are those of the two merged, and another base is another model."""
    peft = pytest.importorskip("peft", reason="needs peft: pip install 'qilin-rag[rankers]'")
    base = write_kind(tmp_path / "base", kind, max_position_embeddings=32)
    targets = ["query", "q_proj"]
    config = peft.LoraConfig(r=2, target_modules=targets if kind == "bert" else targets[1:], init_lora_weights=False)
    merged = tmp_path / "merged"
    with quiet_loading():  # and without the warnings of PEFT
        model = peft.get_peft_model(transformers.AutoModel.from_pretrained(base), config)
        model.save_pretrained(tmp_path / "adapter")
        model.merge_and_unload().save_pretrained(merged)
    write_tokenizer(tmp_path / "adapter")
    write_tokenizer(merged)
    texts = ["冷萃", "多肉怎么养" * 20]
    adapted = BiEncoder(model=str(tmp_path / "adapter"))
    assert adapted.identity()["pooling"] == pooling
    assert adapted.embed_queries(texts) == pytest.approx(BiEncoder(model=str(merged)).embed_queries(texts), abs=1e-4)
    assert np.abs(adapted.embed_queries(texts) - BiEncoder(model=str(base)).embed_queries(texts)).max() > 1e-3
    before = adapted.identity()
    write_kind(tmp_path / "other", kind, seed=1, max_position_embeddings=32)
    (base / "model.safetensors").write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    assert BiEncoder(model=str(tmp_path / "adapter")).identity()["model"] != before["model"]


@pytest.mark.parametrize("name", ["bge-code-v1", "bge-reasoner-embed-qwen3", "e5-qwen", "m3e-qwen3"])
def test_a_causal_model_of_a_family_of_encoders_is_pooled_by_its_last_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Its first token sees itself alone."""
    folder = write_kind(tmp_path / name, "qwen3")
    model = BiEncoder(model=str(folder), query_prefix="", passage_prefix="")
    assert model.identity()["pooling"] == "lasttoken"
    first, second = model.embed_queries(["冷萃咖啡", "冷多肉"])
    assert np.abs(first - second).max() > 1e-3
    assert "since it reads left to right" in caplog.text


def test_a_bidirectional_model_of_a_causal_kind_is_pooled_by_mean(tmp_path: Path) -> None:
    folder = write_kind(tmp_path / "model", "qwen3", is_causal=False)
    assert BiEncoder(model=str(folder)).identity()["pooling"] == "mean"


def test_advice_to_programmers_reaches_no_user(small: Dataset, bert: Path, tmp_path: Path) -> None:
    def refused(folder: Path, match: str) -> None:
        with pytest.raises(UsageError, match=match) as caught:
            BiEncoder(model=str(folder)).search(small.questions, small.notes, 5)
        assert not any(word in str(caught.value) for word in ("trust_remote_code", "above report", "ignore_mismatched"))
        assert "\n" not in str(caught.value)

    own_code = rename(bert, tmp_path / "code", model_type="own", auto_map={"AutoConfig": "own.Config"})
    (own_code / "own.py").write_text("raise SystemExit('never run')")
    refused(own_code, "needs Python code of its own, which is never run here")
    refused(
        rename(bert, tmp_path / "shape", intermediate_size=24), "the shape of its weights .* does not fit its config"
    )
