"""What an encoder does on GPUs, which are made up here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from qilin_rag.retrievers.encoder import has_native_bf16

torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")


@pytest.mark.parametrize("current", [0, 1])
def test_bf16_is_asked_of_the_gpu_that_encodes(monkeypatch: pytest.MonkeyPatch, current: int) -> None:
    """Of an A100 and a T4, which only emulates it."""
    generations = [8, 7]
    index = torch.cuda._utils._get_device_index

    def properties(device: object = None) -> SimpleNamespace:
        return SimpleNamespace(major=generations[current if device is None else index(device, optional=True)])

    for name, value in {"is_available": True, "device_count": 2, "current_device": current}.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch.version, "hip", None)
    assert has_native_bf16(torch.device("cuda:0"))
    assert not has_native_bf16(torch.device("cuda:1"))
