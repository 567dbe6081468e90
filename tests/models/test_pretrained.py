from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from qilin_rag.core.errors import UsageError
from qilin_rag.core.extras import missing_modules, require
from qilin_rag.core.file_hashes import file_sha256
from qilin_rag.models.pretrained import fetch_model, find_model, model_sha256, why_not_loaded


def write_model(folder: Path, weights: bytes = b"weights") -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    (folder / "model.safetensors").write_bytes(weights)
    return folder


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and every download refused at once."""

    def refuse(*args: object, **kwargs: object) -> str:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    assert find_model(str(folder)) == fetch_model(str(folder)) == folder


def test_a_hub_name_is_found_where_it_was_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "snapshot")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **kwargs: str(folder))
    assert find_model("someone/model") == folder
    (folder / "model.safetensors").unlink()
    assert find_model("someone/model") is None  # only its configuration was downloaded


def test_what_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    assert find_model("someone/model") is None
    with pytest.raises(UsageError, match=r"'someone/model' .*can't be fetched"):
        fetch_model("someone/model")
    with pytest.raises(UsageError, match=r"no config\.json in this folder"):
        fetch_model(str(tmp_path))


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    one, same = write_model(tmp_path / "one"), write_model(tmp_path / "elsewhere")
    (same / "README.md").write_text("told apart by nothing a reader writes")
    (same / "pytorch_model.bin").write_bytes(b"the same weights, twice")
    assert model_sha256(one) == model_sha256(same)
    assert model_sha256(one) != model_sha256(write_model(tmp_path / "other", b"other"))
    (same / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    assert model_sha256(one) != model_sha256(same)


@pytest.mark.parametrize(
    "name",
    [
        "2_Dense/pytorch_model.bin",
        "additional_chat_templates/rag.jinja",
        "chat_template.jinja",
        "consolidated.00.pth",
        "generation_config.json",
        "mapping.npz",
        "merges.txt",
        "model.gguf",
        "modeling_own.py",
        "router_config.json",
        "tokenizer.model",
        "vocab.tsv.unheard-of",
    ],
)
def test_every_file_counts_that_nobody_called_irrelevant(tmp_path: Path, name: str) -> None:
    path = write_model(tmp_path / "model") / name
    path.parent.mkdir(exist_ok=True)
    hashes = []
    for content in (None, b"one", b"two"):
        if content is not None:
            path.write_bytes(content)
        hashes.append(model_sha256(tmp_path / "model"))
    assert len(set(hashes)) == 3


@pytest.mark.parametrize(
    "name",
    [
        *(".git/HEAD", ".gitattributes", "LICENSE", "Notice.txt", "README_zh.md", "onnx/model.onnx", "optimizer.pt"),
        *("tf_model.h5", "figure.PNG", ".cache/huggingface/download/config.json.metadata", "rng_state_0.pth"),
    ],
)
def test_what_changes_no_output_does_not_count(tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / "model")
    before = model_sha256(folder)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("x")
    assert model_sha256(folder) == before


def test_links_are_the_files_and_folders_they_lead_to(tmp_path: Path) -> None:
    """As in the hub's cache, where a snapshot is made of links; one that leads back is no endless way."""
    plain, linked = write_model(tmp_path / "plain"), tmp_path / "linked"
    linked.mkdir()
    for path in plain.iterdir():
        (linked / path.name).symlink_to(path)
    assert model_sha256(linked) == model_sha256(plain)
    (plain / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    changed = model_sha256(linked)
    assert changed == model_sha256(plain)
    (linked / "again").symlink_to(linked)
    assert model_sha256(linked) == changed


def write_adapter(folder: Path, base: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    return folder


def test_an_adapter_counts_with_its_base(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", str(base))
    assert find_model(str(adapter)) == adapter
    before = model_sha256(adapter)
    (base / "model.safetensors").write_bytes(b"trained on")
    after = model_sha256(adapter)
    assert after != before
    of_adapter = write_adapter(tmp_path / "second", str(adapter))
    twice = model_sha256(of_adapter)
    (base / "model.safetensors").write_bytes(b"weights")
    assert (model_sha256(adapter), model_sha256(of_adapter) != twice) == (before, True)


@pytest.mark.parametrize("place", [".", "0_Transformer", "0_Router/query_0_Transformer"])
def test_a_base_that_is_not_here_is_no_half_hash(tmp_path: Path, place: str) -> None:
    """Wherever the modules of the model are; an adapter that no module loads has no base to be found."""
    folder = write_model(tmp_path / "model")
    write_adapter(folder / "adapters" / "unused", "someone/absent")
    before = model_sha256(folder)
    module = place.partition("/")
    write_adapter(folder / place, "someone/base")
    (folder / "modules.json").write_text(json.dumps([{"path": module[0]}, {"path": "1_Pooling"}]))
    if module[2]:
        (folder / module[0] / "router_config.json").write_text(json.dumps({"types": {module[2]: "Transformer"}}))
    with pytest.raises(UsageError, match=r"adapter_config\.json adapts the model 'someone/base', which is not on this"):
        model_sha256(folder)
    with pytest.raises(UsageError, match=r"'someone/base' .*can't be fetched"):
        fetch_model(str(folder))
    write_adapter(folder / place, str(folder))
    with pytest.raises(UsageError, match="names itself as its base model"):
        model_sha256(folder)
    assert before


def test_a_large_file_is_hashed_again_once_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a program that keeps its size and sets its time back."""
    monkeypatch.setattr("qilin_rag.core.file_hashes._KEPT_FROM_BYTES", 4)
    monkeypatch.setattr("qilin_rag.core.file_hashes._SETTLED_AFTER_NS", 0)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights one")
    os.utime(path, ns=(10**18, 10**18))
    first = file_sha256(path)
    assert first == hashlib.sha256(b"weights one").hexdigest()
    with monkeypatch.context() as no_reading:
        no_reading.setattr("hashlib.file_digest", lambda *_: pytest.fail("read again"))
        assert file_sha256(path) == first
    path.write_bytes(b"weights two")
    os.utime(path, ns=(10**18, 10**18))
    assert file_sha256(path) == hashlib.sha256(b"weights two").hexdigest()
    next(path for path in (tmp_path / "cache").iterdir()).write_text("damaged")
    assert file_sha256(path) == hashlib.sha256(b"weights two").hexdigest()


def test_missing_packages_come_with_the_pip_line() -> None:
    assert missing_modules("json", "no_such_module") == ["no_such_module"]
    require("neural", "json", what="nothing")
    with pytest.raises(UsageError, match=r"reading needs no_such_module, .*pip install 'qilin-rag\[neural\]'"):
        require("neural", "json", "no_such_module", what="reading")


def test_asking_imports_nothing() -> None:
    before = set(sys.modules)
    missing_modules("torch", "faiss", "transformers")
    assert set(sys.modules) - before == set()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("Please pass the argument `trust_remote_code=True` to allow custom code.", "never run here"),
        ("Asking to pad but tokenizer.pad_token = tokenizer.eos_token", "no padding token"),
        ("You need to have sentencepiece installed to convert a slow tokenizer", "needs the package sentencepiece"),
        ("we now require users to upgrade torch; use weights_only (CVE-2025-32434)", "choose a model with safetensors"),
        ("Error while deserializing header: HeaderTooLarge", "fetch the model again"),
        ("The checkpoint has type `x` but Transformers does not recognize this architecture.", "does not know"),
        ("The size is wrong. For details look at the above report! Pass x=True.", "ValueError: The size is wrong."),
        ("You should set device_map='auto'.", "--verbose"),
    ],
)
def test_advice_to_programmers_is_left_out(words: str, said: str) -> None:
    why = why_not_loaded(ValueError(words), [])
    assert said in why
    assert not any(advice in why for advice in ("lease", "=True", "tokenizer.eos", "above report", "device_map", "`"))
