"""Training throughput and FLOP utilisation of the trained rankers on a GPU, at the paper's batch and length.

Each row of configs/rankers is trained for some steps, as `train` does it, on a synthetic Qilin whose notes fill the
prompt and whose covers are 900 by 1200 pixels; models have random weights of the right shapes. FLOPs are those that
torch counts in one step (forward, backward, and what checkpointing computes again); utilisation is their rate over the
device's peak in bf16. `--tiny` runs the same on a CPU with toy shapes, for the code's sake. There is no peer.

usage: python benchmarks/ranker_training.py [--only vlm_search] [--vlm 2B] [--checkpointing] [--tiny]
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # the tests' random models

from qilin_rag.config.resources import read_yaml  # noqa: E402
from qilin_rag.core.errors import UsageError  # noqa: E402
from qilin_rag.core.progress import Advance, watched_by  # noqa: E402
from qilin_rag.core.registry import RANKERS  # noqa: E402
from qilin_rag.data.catalogue import open_catalogue  # noqa: E402
from qilin_rag.data.requests import TaskName, read_requests  # noqa: E402
from qilin_rag.data.source import open_source  # noqa: E402
from qilin_rag.synth import resolve_world, synthesize  # noqa: E402

COUNTS = {"notes": 6000, "searches": 4000, "recommendations": 3000, "dqa": 10, "users": 500}
TINY_COUNTS = {"notes": 400, "searches": 80, "recommendations": 80, "dqa": 10, "users": 50}
TINY_BERT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}

PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 4090": 165.0,
}
"""Dense bf16 by the makers' data sheets, by words of a device's name: the first that it has counts."""

QWEN2_VL = {
    "2B": {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2},
    "7B": {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4},
}
"""What tells the two sizes apart; both have 28 layers, and a vision tower of 32 layers."""

TINY: dict[str, dict[str, Any]] = {
    "biencoder": {"batch_size": 2, "max_length": 32},
    "crossencoder": {"batch_size": 2, "max_length": 32},
    "dcn-v2": {"batch_size": 32, "tables": {"note_idx": [1000, 8], "user_idx": [100, 8]}, "hidden": [32]},
    "vlm": {"batch_size": 2, "max_length": 80, "max_pixels": 784, "gradient_accumulation": 1, "workers": 0},
}


class Measured(NamedTuple):
    """Of one ranker's training."""

    samples_per_step: int
    seconds_per_step: float
    flops_per_step: int


class Clock:
    """Watches training: times `n_timed` steps after the first `n_warm`, and counts the FLOPs of the one after."""

    def __init__(self, n_warm: int, n_timed: int) -> None:
        from torch.utils.flop_counter import FlopCounterMode

        self.n_warm, self.n_timed = n_warm, n_timed
        self.counter = FlopCounterMode(display=False, custom_mapping=four_bit_flops())
        self._counting = ExitStack()
        self.n = 0
        self.seconds = self._started = 0.0

    @contextmanager
    def stage(self, name: str, total: int, done: int) -> Iterator[Advance]:
        """Nothing is shown."""
        if name != "training":
            yield lambda n=1, failed=False: None
            return
        with self._counting:  # which ends with training, as well where that fails in the step that is counted
            yield self.after_step

    def after_step(self, n: int = 1, failed: bool = False) -> None:
        """A step of training is done."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.n += 1
        if self.n == self.n_warm:
            self._started = time.perf_counter()
        elif self.n == self.n_warm + self.n_timed:
            self.seconds = time.perf_counter() - self._started
            self._counting.enter_context(self.counter)
        elif self.n == self.n_warm + self.n_timed + 1:
            self._counting.close()


def four_bit_flops() -> dict[Any, Callable[..., int]]:
    """How to count what bitsandbytes multiplies in 4 bits by an operator of its own, of which torch knows nothing."""
    try:
        import bitsandbytes  # noqa: F401  # defines the operator
        import torch

        operator = torch.ops.bitsandbytes.gemm_4bit
    except (ImportError, AttributeError):  # older ones have none: they use torch's product, which is counted
        return {}

    def flops(given: Sequence[int], packed: Sequence[int], weight: Sequence[int], *rest: Any, **more: Any) -> int:
        return 2 * math.prod(given) * weight[0]  # (..., k) by (n, k)

    return {operator: flops}


def main() -> None:
    """Measure what there is, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="a file of configs/rankers; default: all of single tasks")
    parser.add_argument("--vlm", choices=QWEN2_VL, default="7B", help="the size of Qwen2-VL; the paper's is 7B")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, for small memories")
    parser.add_argument("--steps", type=int, default=20, help="timed, after 5 more")
    parser.add_argument("--tiny", action="store_true", help="toy shapes on the CPU")
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        sys.exit("needs torch: pip install 'qilin-rag[rankers]'")
    if not torch.cuda.is_available() and not options.tiny:
        print("no GPU here, so there is nothing to measure; --tiny runs the code on the CPU")
        return
    device = "CPU, toy shapes" if options.tiny else torch.cuda.get_device_name()
    packages = ("torch", "transformers", "sentence-transformers", "peft")
    print(f"{device}; {', '.join(f'{package} {version(package)}' for package in packages)}")
    peak = None if options.tiny else peak_of(device)
    print(f"peak in bf16: {f'{peak:g} TFLOP/s' if peak else 'not known, so no utilisation'}\n")
    print("| training | samples a step | samples/s | TFLOP a step | TFLOP/s | utilisation |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder) / "data", TINY_COUNTS if options.tiny else COUNTS)
        for name in options.only or sorted(path.stem for path in (ROOT / "configs" / "rankers").glob("*.yaml")):
            task = name.rpartition("_")[2]
            if task not in ("search", "recommendation"):
                continue
            try:
                found = measure(name, task, data, Path(folder), options)
            except (UsageError, torch.cuda.OutOfMemoryError) as error:
                print(f"| {name} | {str(error).splitlines()[0]} |||||", flush=True)
            else:
                print(row_of(name, found, peak), flush=True)
            gc.collect()
            torch.cuda.empty_cache()


def peak_of(device: str) -> float | None:
    """By the name of the GPU; None where it is not known, nor what a part of one (MIG) or a laptop's has of it."""
    if re.search(r"\b(MIG|Laptop|D)\b", device):
        return None
    return next((peak for name, peak in PEAK_TFLOPS.items() if re.search(rf"\b{name}\b", device)), None)


def row_of(name: str, found: Measured, peak: float | None) -> str:
    """A line of the table."""
    tflops = found.flops_per_step / 1e12
    rate = tflops / found.seconds_per_step
    share = f"{rate / peak:.1%}" if peak else "-"
    speed = found.samples_per_step / found.seconds_per_step
    return f"| {name} | {found.samples_per_step} | {speed:,.1f} | {tflops:.3g} | {rate:.3g} | {share} |"


def write_data(out: Path, counts: dict[str, int]) -> Path:
    """A synthetic Qilin of long notes with large covers."""
    from PIL import Image

    synthesize(resolve_world(counts, 0, overrides=["median_tokens=550"]), out, True)
    noise = np.random.default_rng(0).integers(0, 255, (75, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((900, 1200), Image.Resampling.BICUBIC).save(out / "cover.jpg")
    for path in (out / "image").rglob("*.png"):
        path.unlink()
        os.link(out / "cover.jpg", path)
    return out


def measure(name: str, task: TaskName, data: Path, folder: Path, options: argparse.Namespace) -> Measured:
    """Train one ranker for some steps."""
    from qilin_rag.rankers.training import train_ranker

    settings = read_yaml(ROOT / "configs" / "rankers" / f"{name}.yaml")
    kind = settings.pop("name")
    n_warm, n_timed = (1, 1) if options.tiny else (5, options.steps)
    n_steps = n_warm + n_timed + 1
    settings |= {"max_steps": n_steps, "evaluate_every": n_steps, "device": "cpu" if options.tiny else None}
    settings |= TINY[kind] if options.tiny else {}
    if kind == "vlm":
        settings["model"] = str(qwen2_vl(folder, "tiny" if options.tiny else options.vlm))
    else:
        settings["encoder" if kind == "dcn-v2" else "model"] = str(bert(folder, TINY_BERT if options.tiny else {}))
    if kind != "dcn-v2":
        settings["gradient_checkpointing"] = options.checkpointing
    ranker = RANKERS.create(kind, settings)
    source = open_source(str(data))
    train, validation = (read_requests(source, task, split) for split in ("train", "validation"))
    few = validation.take(
        np.flatnonzero((validation.n_clicked > 0) & (np.diff(validation.offsets) > validation.n_clicked))[:2]
    )
    clock = Clock(n_warm, n_timed)
    with watched_by(clock):
        train_ranker(ranker, train, few, open_catalogue(source), folder / f"trained-{name}")
    n_samples = ranker.batch_size * ranker.gradient_accumulation
    return Measured(n_samples, clock.seconds / n_timed, clock.counter.get_total_flops())


def bert(folder: Path, smaller: dict[str, int]) -> Path:
    """The shape of bert-base-chinese, or one that is smaller."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    out = folder / "bert"
    if not out.exists():
        out.mkdir()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        words = [*special, *map(chr, [*range(33, 127), *range(0x3000, 0x3040), *range(0x4E00, 0x9FA6)])]
        (out / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=21_128, **smaller)).save_pretrained(out)
        BertTokenizer(str(out / "vocab.txt")).save_pretrained(out)
    return out


def qwen2_vl(folder: Path, size: str) -> Path:
    """The shape of Qwen2-VL; made on the GPU, and in bf16, unless tiny."""
    import torch

    from tests.rankers.random_vlm import write_tiny_vlm, write_vlm

    out = folder / f"qwen2-vl-{size}"
    if out.exists():
        return out
    if size == "tiny":
        return write_tiny_vlm(out)
    text = {"vocab_size": 151_936 if size == "2B" else 152_064, "num_hidden_layers": 28, **QWEN2_VL[size]}
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            return write_vlm(out, text, {"depth": 32, "embed_dim": 1280, "num_heads": 16}, tied=size == "2B")
    finally:
        torch.set_default_dtype(torch.float32)


if __name__ == "__main__":
    main()
