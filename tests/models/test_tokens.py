"""Tokens of cut texts are those of the whole ones, and tensors made here are those of sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
transformers = pytest.importorskip("transformers", reason="needs transformers (make test-all installs it)")
pytest.importorskip("sentence_transformers", reason="needs sentence-transformers (make test-all installs it)")

from qilin_rag.models.first_tokens import with_first_tokens  # noqa: E402
from qilin_rag.models.sentence_encoder import load_encoder  # noqa: E402
from qilin_rag.models.tokens import batch_tokens, tokenize  # noqa: E402
from tests.rankers.tiny_bert import write_tiny_bert  # noqa: E402

PIECES = [
    *(["咖", "啡", "冷萃", " a", "\n1", " coffee"] * 4),
    *("咖", "啡", "冷萃", "\u9fff", "\u3400", "\uf900", "かな", "한글", "한", "é", "e\u0301", "\u0301", "ß", "İ", "Σ"),
    *("a", "ab", "coffee", "C", "1", "２", "x" * 120, "[MASK]", "[SEP]", "[", "]", "#", "##a", "，", ".", "…", "😀"),
    *("👩\u200d👧", " ", "  ", "\n", "\t", "\u3000", "\u00a0", "\u2028", "\x1c", "\x00", "\u200b", "\ufffd", "\ue000"),
]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("models") / "tiny", ["咖啡冷萃abcofxe1[],.#かな"])


def made_texts(n: int = 1500, most_pieces: int = 80) -> list[str]:
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(PIECES, rng.integers(1, most_pieces))) for _ in range(n)]


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_cut_text_has_the_first_tokens_of_the_whole_text(bert: Path, lowercase: bool) -> None:
    tokenizer = transformers.BertTokenizer(str(bert / "vocab.txt"), do_lower_case=lowercase)
    texts = made_texts()
    whole = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for n_tokens in (1, 2, 7, 20):
        read = with_first_tokens(tokenizer, texts, n_tokens)
        is_cut = np.array([cut != text for cut, text in zip(read, texts, strict=True)])
        assert 0.1 < is_cut.mean() < 1
        assert all(text.startswith(cut) for cut, text in zip(read, texts, strict=True))
        for tokens, all_tokens in zip(tokenizer(read, add_special_tokens=False)["input_ids"], whole, strict=True):
            assert tokens == all_tokens[: len(tokens)]
            assert len(tokens) >= min(n_tokens, len(all_tokens))


def test_what_may_merge_words_is_not_cut(bert: Path) -> None:
    text, short = "咖啡 a " * 50, {"image": "x"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert)
    assert with_first_tokens(tokenizer, [text, ("咖" * 50, text), short], 3) == [
        "咖啡 a ",
        ("咖" * 50, "咖啡 a "),
        short,
    ]
    for token in (transformers.AddedToken("冷咖"), transformers.AddedToken("a", single_word=True)):
        other = transformers.AutoTokenizer.from_pretrained(bert)
        other.add_tokens([token])
        assert with_first_tokens(other, [text], 3) == [text]
    other = transformers.AutoTokenizer.from_pretrained(bert, truncation_side="left")
    assert with_first_tokens(other, [text], 3) == [text]
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "咖啡": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    other = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    assert with_first_tokens(other, [text], 3) == [text]
    assert with_first_tokens(object(), [text], 3) == [text]


def test_batches_are_those_of_sentence_transformers(bert: Path) -> None:
    encoder = load_encoder(bert, "tiny", "cpu", "mean", 32)
    texts = [text or " " for text in made_texts(300)]
    expected = encoder.preprocess(texts, prompt="咖：", task="document")
    assert_same(batch_tokens(encoder, texts, prompt="咖：", task="document"), expected)
    tokenized = tokenize(encoder, texts, "咖：", "document")
    assert_same(tokenized.prepare(np.arange(300)), expected)
    rows = np.argsort(tokenized.lengths)[:4]
    assert_same(tokenized.prepare(rows), encoder.preprocess([texts[i] for i in rows], prompt="咖：", task="document"))


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if isinstance(values, torch.Tensor):
            assert (found[name].dtype, found[name].tolist()) == (values.dtype, values.tolist()), name
        else:
            assert found[name] == values, name
