"""A training folder that can't be written to, that leads elsewhere, or that a crash left behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate", reason="needs accelerate: pip install 'qilin-rag[rankers]'")
torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")

from qilin_rag.core.errors import QilinError, UsageError  # noqa: E402
from qilin_rag.core.progress import watched_by  # noqa: E402
from qilin_rag.data import load_dataset  # noqa: E402
from qilin_rag.data.catalogue import Catalogue  # noqa: E402
from qilin_rag.rankers.checkpoints import saving_to  # noqa: E402
from qilin_rag.rankers.training import BEGUN, CHECKPOINTS, LOG, train_ranker  # noqa: E402
from tests.faults import no_file_beyond  # noqa: E402
from tests.rankers.made import Toy, made_requests  # noqa: E402
from tests.rankers.test_training import KillAt, Killed, model_of  # noqa: E402


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue(load_dataset("sample").notes)


def train(catalogue: Catalogue, out: Path) -> Any:
    ranker = Toy(batch_size=16, max_steps=6, evaluate_every=2, patience=99)
    return train_ranker(ranker, made_requests(), made_requests(20, seed=5), catalogue, out)


def write_text(path: Path, content: dict[str, Any]) -> None:
    path.write_text(str(content) * 100)


def write_weights(path: Path, content: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(content, path)


@pytest.mark.parametrize("n_values", [9, 99_999], ids=["small", "large"])
@pytest.mark.parametrize("write", [write_text, write_weights, lambda path, content: torch.save(content, path)])
def test_a_write_that_the_system_refuses_is_one_line(tmp_path: Path, write: Any, n_values: int) -> None:
    """Whatever torch, safetensors and Python say of it."""
    with pytest.raises(QilinError) as said, saving_to(tmp_path), no_file_beyond(0):
        write(tmp_path / "weights", {"a": torch.zeros(n_values)})
    assert str(said.value).startswith(f"{tmp_path} can't be written to (")
    assert "the same command resumes" in str(said.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        FileNotFoundError(errno.ENOENT, "No such file", "elsewhere/vocab.txt"),
        OSError(errno.ENOSPC, "No space left on device", "/elsewhere/cache"),
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ],
)
def test_other_errors_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as raised, saving_to(tmp_path / "out"):
        raise error
    assert raised.value is error


@pytest.mark.parametrize("name", [LOG, CHECKPOINTS, "model", f"{CHECKPOINTS}/checkpoint-4/optimizer.pt"])
def test_a_folder_with_a_link_is_not_trained_in(catalogue: Catalogue, tmp_path: Path, name: str) -> None:
    """A stranger's could have our lines appended to any file."""
    out = tmp_path / "out"
    with watched_by(KillAt(5)), pytest.raises(Killed):
        train(catalogue, out)
    target = tmp_path / "elsewhere"
    if (out / name).is_dir():
        (out / name).rename(target)
    else:
        (out / name).unlink(missing_ok=True)
        target.write_text("mine")
    (out / name).symlink_to(target)
    before = sorted(target.rglob("*")) if target.is_dir() else target.read_text()
    with pytest.raises(UsageError, match="is a link") as said:
        train(catalogue, out)
    assert str(out / name) in str(said.value)
    assert (sorted(target.rglob("*")) if target.is_dir() else target.read_text()) == before


def test_a_folder_that_is_reached_by_a_link_is_one(catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "large disk")
    assert train(catalogue, tmp_path / "out").n_steps == 6
    assert (tmp_path / "large disk" / "ranker.json").is_file()


def test_what_a_process_left_that_was_killed_at_its_very_start_or_end(catalogue: Catalogue, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / f".{BEGUN}.0000-1-2.tmp").write_text('{"ran')
    done = train(catalogue, out)
    weights = model_of(out)
    (out / BEGUN).write_text("{}")
    (out / CHECKPOINTS).mkdir()
    (out / CHECKPOINTS / "large").write_bytes(os.urandom(9))
    assert train(catalogue, out) == done
    assert {path.name for path in out.iterdir() if path.suffix != ".tmp"} == {"ranker.json", "model", LOG}
    assert all((weights[name] == values).all() for name, values in model_of(out).items())
