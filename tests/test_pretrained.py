from __future__ import annotations

import sys
from pathlib import Path

import pytest

from qilin_rag.errors import UsageError
from qilin_rag.extras import missing_modules, require
from qilin_rag.pretrained import fetch_model, find_model, model_sha256


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
    with pytest.raises(UsageError, match=r"'someone/model' is no folder here and can't be fetched"):
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


def test_missing_packages_come_with_the_pip_line() -> None:
    assert missing_modules("json", "no_such_module") == ["no_such_module"]
    require("neural", "json", what="nothing")
    with pytest.raises(UsageError, match=r"reading needs no_such_module, .*pip install 'qilin-rag\[neural\]'"):
        require("neural", "json", "no_such_module", what="reading")


def test_asking_imports_nothing() -> None:
    before = set(sys.modules)
    missing_modules("torch", "faiss", "transformers")
    assert set(sys.modules) - before == set()
