"""What benchmarks compute that no machine here shows."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("NVIDIA H200", 989.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40", 181.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA GeForce RTX 4090", 165.0),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("NVIDIA GB200", None),
        ("Tesla T4", None),
    ],
)
def test_utilisation_is_of_the_gpu_that_it_is(device: str, expected: float | None) -> None:
    assert runpy.run_path(str(BENCHMARKS / "ranker_training.py"))["peak_of"](device) == expected


def test_products_of_4_bit_weights_are_counted() -> None:
    """Forward by bitsandbytes' operator, backward by torch's, both of 10 rows with 64 by 128."""
    torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="needs bitsandbytes (make test-all installs it)")
    clock = runpy.run_path(str(BENCHMARKS / "ranker_training.py"))["Clock"](1, 1)
    layer = bitsandbytes.nn.Linear4bit(128, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4").to("cpu")
    given = torch.randn(2, 5, 128, requires_grad=True)
    with clock.counter:
        layer(given).sum().backward()
    assert clock.counter.get_total_flops() == 2 * (2 * 10 * 64 * 128)


def test_training_that_fails_while_it_is_counted_slows_no_other() -> None:
    torch = pytest.importorskip("torch", reason="needs torch (make test-all installs it)")
    clock = runpy.run_path(str(BENCHMARKS / "ranker_training.py"))["Clock"](1, 1)
    with pytest.raises(torch.OutOfMemoryError), clock.stage("training", 3, 0) as advance:
        advance()
        advance()
        assert torch.utils._python_dispatch._get_current_dispatch_mode() is not None
        raise torch.OutOfMemoryError
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
