"""Token vectors of late-interaction models are those of sentence-transformers, in each form in which they are saved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
sentence_transformers = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers")
if not hasattr(sentence_transformers, "MultiVectorEncoder"):
    pytest.skip("needs sentence-transformers 6", allow_module_level=True)

from qilin_rag.core.errors import UsageError  # noqa: E402
from qilin_rag.models.families import is_late_interaction  # noqa: E402
from qilin_rag.models.late_interaction import encode_tokens, load_multi_vector, max_sim, token_shape  # noqa: E402
from tests.retrievers.tiny_models import write_kind  # noqa: E402
from tests.retrievers.tiny_multivector import (  # noqa: E402
    NOTE_LENGTH,
    QUERY_LENGTH,
    WIDTH,
    write_multi_vector,
    write_pylate,
    write_stanford,
)

TEXTS = ["冷萃咖啡怎么做，粗研磨。", "hello world, 冷水 coffee", "", "多肉养" * 40, "水温92度:abc", "a", "😭" * 3]
NO_EXPANSION: dict[str, Any] = {"query_expansion": None, "query_length": 9}
AT_LEAST: dict[str, Any] = {"query_expansion": {"strategy": "min", "length": 10, "attend": True}}
FORMS: dict[str, Callable[[Path], Path]] = {
    "saved": write_multi_vector,
    "stanford": write_stanford,
    "pylate": write_pylate,
    "at-least": partial(write_multi_vector, kind="modernbert", **AT_LEAST),
    "decoder": partial(write_multi_vector, kind="qwen3", similarity_fn_name="meanmaxsim", **NO_EXPANSION),
    "long-vectors": partial(write_multi_vector, kind="xlm-roberta", normalize=False, document_length=None),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, write in FORMS.items():
        write(folder / name)
    return folder


def vectors_of(encoder: Any, texts: list[str], task: Any, **settings: Any) -> list[Any]:
    found: dict[int, Any] = {}
    given = {"prefix": None, "batch_size": None, "named": ("m", texts)} | settings
    for rows, vectors in encode_tokens(encoder, texts, task, **given):
        found.update(zip(rows.tolist(), vectors, strict=True))
    return [found[row] for row in range(len(texts))]


@pytest.mark.parametrize("form", FORMS)
def test_vectors_and_scores_are_those_of_sentence_transformers(models: Path, form: str) -> None:
    """Each text on its own there, and in batches of several sizes here."""
    theirs = sentence_transformers.MultiVectorEncoder(str(models / form), device="cpu")
    queries, notes = ([encode(text) for text in TEXTS] for encode in (theirs.encode_query, theirs.encode_document))
    encoder = load_multi_vector(models / form, form, "cpu", None)
    for batch_size in (None, 1, 3):
        found = {task: vectors_of(encoder, TEXTS, task, batch_size=batch_size) for task in ("query", "document")}
        for ours, expected in ((found["query"], queries), (found["document"], notes)):
            assert [of_text.shape for of_text in ours] == [of_text.shape for of_text in expected]
            torch.testing.assert_close(torch.cat(ours), torch.cat(expected), atol=1e-5, rtol=1e-5)
        scores = max_sim(encoder, found["query"], found["document"])
        np.testing.assert_allclose(scores, theirs.similarity(queries, notes).numpy(), rtol=1e-5, atol=1e-5)


def test_scores_are_the_sum_of_the_best_products(models: Path) -> None:
    encoder = load_multi_vector(models / "saved", "m", "cpu", None)
    queries, notes = (vectors_of(encoder, TEXTS, task) for task in ("query", "document"))
    by_hand = [[sum(max(float(q @ n) for n in note) for q in query) for note in notes] for query in queries]
    np.testing.assert_allclose(max_sim(encoder, queries, notes), by_hand, atol=1e-5)
    [query], [note] = (vectors_of(encoder, [TEXTS[0]], task) for task in ("query", "document"))
    assert query.shape == (QUERY_LENGTH, WIDTH)  # with masks
    assert note.shape == (2 + len("D") + len(TEXTS[0]) - 2, WIDTH)  # without punctuation: the prompt's, and two marks


def test_a_prefix_of_ones_own_counts(models: Path) -> None:
    theirs = sentence_transformers.MultiVectorEncoder(str(models / "saved"), device="cpu")
    encoder = load_multi_vector(models / "saved", "m", "cpu", None)
    for prefix in ("", "水"):
        [ours] = vectors_of(encoder, ["咖啡"], "document", prefix=prefix)
        torch.testing.assert_close(ours, theirs.encode_document("咖啡", prompt=prefix))
    assert len(vectors_of(encoder, ["咖啡"], "document", prefix="")[0]) == 4


def test_a_text_without_any_token_has_no_vector(tmp_path: Path) -> None:
    """Its tokenizer puts no marks around a text."""
    folder = write_multi_vector(tmp_path / "bare", marks="$A", prompts={}, **NO_EXPANSION)
    encoder = load_multi_vector(folder, "m", "cpu", None)
    empty, other, also_empty = vectors_of(encoder, ["", "咖啡", "\u200b"], "document")
    assert (empty.shape, other.shape, also_empty.shape) == ((0, WIDTH), (2, WIDTH), (0, WIDTH))
    scores = max_sim(encoder, vectors_of(encoder, ["冷萃"], "query"), [empty, other])[0]
    assert scores[0] == -1e9 and -2 <= scores[1] <= 2
    assert vectors_of(encoder, [], "query") == []


def test_its_length_is_the_files_or_a_given_one(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "冷萃" * 50
    for given, expected in ((None, NOTE_LENGTH), (7, 7)):
        encoder = load_multi_vector(models / "decoder", "m", "cpu", given)
        assert len(vectors_of(encoder, [text], "document")[0]) == expected - 1  # without the colon of the prompt
        assert token_shape(models / "decoder", given) == (expected, WIDTH)
    assert token_shape(models / "stanford") == token_shape(models / "pylate") == (NOTE_LENGTH, WIDTH)
    limit = load_multi_vector(models / "long-vectors", "m", "cpu", None)[0].max_seq_length
    with pytest.raises(UsageError, match=rf"rerank.max_length {limit + 1}: model 'm' reads {limit} tokens at most"):
        load_multi_vector(models / "long-vectors", "m", "cpu", limit + 1, setting="rerank.max_length")
    vectors_of(encoder, [text, "短", text], "query")
    assert "model m reads 9 tokens of a query; cut: 2 longer queries" in caplog.text


def test_other_models_are_refused(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For which sentence-transformers would make a random projection."""
    plain = write_kind(tmp_path / "plain", "bert")
    assert not is_late_interaction(plain) and all(is_late_interaction(models / form) for form in FORMS)
    with pytest.raises(UsageError, match="'plain' is no late-interaction model: its files name neither"):
        load_multi_vector(plain, "plain", "cpu", None)
    shutil.copytree(models / "saved", tmp_path / "damaged")
    path = tmp_path / "damaged" / "1_Dense" / "model.safetensors"
    whole = path.read_bytes()
    for spoil in (lambda: path.write_bytes(whole[:-9]), path.unlink, lambda: shutil.rmtree(path.parent)):
        spoil()
        with pytest.raises(UsageError, match=r"'d' can't be loaded: [^\n]*$"):
            load_multi_vector(tmp_path / "damaged", "d", "cpu", None)
    monkeypatch.delattr(sentence_transformers, "MultiVectorEncoder")
    with pytest.raises(UsageError, match="needs sentence-transformers 6: pip install -U"):
        load_multi_vector(models / "saved", "m", "cpu", None)


def test_code_of_the_model_is_never_run(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "saved", tmp_path / "own-code")
    (tmp_path / "own-code" / "evil.py").write_text("open('ran', 'w')\nclass Evil: pass\n")
    path = tmp_path / "own-code" / "modules.json"
    modules = json.loads(path.read_text())
    path.write_text(json.dumps([*modules, {"idx": 4, "name": "4", "path": "", "type": "evil.Evil"}]))
    with pytest.raises(UsageError, match="'own' can't be loaded"):
        load_multi_vector(tmp_path / "own-code", "own", "cpu", None)
    assert not Path("ran").exists()


def test_vectors_that_are_not_finite_are_refused(models: Path) -> None:
    encoder = load_multi_vector(models / "saved", "m", "cpu", None)
    encoder[1].linear.weight.data[0] = float("nan")
    with pytest.raises(UsageError, match=r"'m' makes vectors that are not finite \(note 咖啡\)"):
        vectors_of(encoder, ["咖啡"], "document", named=("m", ["note 咖啡"]))


def test_a_note_may_be_longer_than_the_tokenizer_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is cut before it is tokenized, far beyond the length that counts: that of notes."""
    monkeypatch.setattr("qilin_rag.models.sentence_encoder.MAX_CHARS_PER_TOKEN", 1)
    folder = write_multi_vector(tmp_path / "short", max_seq_length=9, document_length=9, skiplist=[])
    encoder = load_multi_vector(folder, "m", "cpu", 50)
    assert encoder.max_seq_length == 9
    [vectors] = vectors_of(encoder, ["多肉养" * 20], "document")
    assert len(vectors) == 50
