"""Samples a second of DCN-V2's batches, beside a loader that makes its samples one by one over the same table.

Both go through torch's DataLoader, in one process, over one synthetic Qilin, shuffled, and give the same features (of
some samples they are compared). The peer is what is usually written: a Dataset whose __getitem__ looks up the rows of
request, user and note and makes a dict of tensors, and torch's default_collate; its texts are hashed beforehand. They
take turns, and the median counts. Vectors of texts are random, of the paper's width. Where there is a GPU, also the
training throughput of the network of the paper's size, and the share of the peak that its matrix products reach.

usage: python benchmarks/dcn_throughput.py [--batch-size 2048] [--text-width 768] [--peak-tflops 989]
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

from qilin_rag.data.catalogue import Catalogue, open_catalogue
from qilin_rag.data.requests import Requests, read_table
from qilin_rag.data.source import open_source
from qilin_rag.rankers.batches import Examples, as_one
from qilin_rag.rankers.cross_network import CrossNetwork
from qilin_rag.rankers.dcn_v2 import DCNV2
from qilin_rag.rankers.features import (
    N_RECENT,
    NOTE_IDS,
    USER_COUNTS,
    USER_IDS,
    USER_NUMBERS,
    Columns,
    TextColumns,
    bucket_of_texts,
    columns_of,
    note_numbers,
    read_user_columns,
)
from qilin_rag.rankers.training import make_optimizer
from qilin_rag.synth import resolve_world, synthesize

COUNTS = {"notes": 20_000, "searches": 8_000, "recommendations": 200, "dqa": 10, "users": 500}
N_TURNS = 5
N_BUCKETS = DCNV2().tables.n_buckets()


class OneByOne(Dataset):  # type: ignore[misc]
    """The same features, looked up in rows of Python values for each sample."""

    def __init__(self, requests: Requests, catalogue: Catalogue, text: TextColumns) -> None:
        names = [*note_numbers(True), *NOTE_IDS]
        note_idx = np.unique(requests.note_idx)
        rows = catalogue.notes.read(note_idx, names).to_pylist()
        self.note_row = {note: row for row, note in enumerate(note_idx.tolist())}
        users = catalogue.need_users("a benchmark").to_pylist()
        for table, texts in ((rows, NOTE_IDS[1:4]), (users, USER_IDS[:4])):
            for name in texts:
                hashed = bucket_of_texts(name, pa.array([row[name] for row in table]), N_BUCKETS[name])
                for row, bucket in zip(table, hashed.tolist(), strict=True):
                    row[name] = bucket
        self.notes, self.users, self.text, self.requests = rows, users, text, requests
        self.of = requests.request

    def __len__(self) -> int:
        return self.requests.n_candidates

    def __getitem__(self, row: int) -> dict[str, Any]:
        requests, of = self.requests, int(self.of[row])
        note_row = self.note_row[int(requests.note_idx[row])]
        note = self.notes[note_row]
        user_idx = int(requests.user_idx[of])
        user = self.users[user_idx]
        recent = requests.recent[requests.recent_offsets[of] : requests.recent_offsets[of + 1]][:N_RECENT].tolist()
        ids = [1 + i % (N_BUCKETS["note_idx"] - 1) for i in recent]
        user_numbers = [math.log1p(user[name]) for name in USER_COUNTS] + [user[name] for name in USER_NUMBERS]
        note_type = 1 + int(note["note_type"]) % (N_BUCKETS["note_type"] - 1)
        return {
            "is_search": torch.tensor(float(requests.is_search[of])),
            "note_numbers": torch.tensor([math.log1p(max(note[name], 0)) for name in note_numbers(True)]),
            "note_ids": torch.tensor([note_type, *(note[name] for name in NOTE_IDS[1:4]), 1 + note["note_idx"]]),
            "source": torch.tensor(int(requests.source[of])),
            "recent": torch.tensor(ids + [0] * (N_RECENT - len(ids))),
            "user_numbers": torch.tensor(user_numbers),
            "user_ids": torch.tensor([*(user[name] for name in USER_IDS[:4]), 1 + user_idx]),
            "query_vector": torch.from_numpy(np.array(self.text.queries[of])),
            "note_vector": torch.from_numpy(np.array(self.text.notes[note_row])),
            "labels": torch.tensor(float(requests.clicked[row])),
        }


def samples_per_s(loader: Any, least_s: float = 3.0) -> float:
    """Over as many batches as fit in the time, after a first one."""
    batches = iter(loader)
    next(batches)
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < least_s:
        for batch in batches:
            done += len(batch["labels"])
            if time.perf_counter() - started > least_s:
                break
        batches = iter(loader)
    return done / (time.perf_counter() - started)


def on_a_gpu(columns: Columns, batch_size: int, text_width: int, peak_tflops: float, rank: int | None) -> None:
    """Steps of training at the paper's size, loader included; the share of the peak that matrix products take."""
    ranker = DCNV2(rank=rank)
    torch.manual_seed(0)
    network = CrossNetwork(ranker.shape(text_width)).cuda()
    optimizer = make_optimizer(ranker, ranker.parameters(network))
    examples = Examples(columns, np.zeros(len(columns), np.float32), np.ones(len(columns), np.int64))
    loader = DataLoader(examples, batch_size, shuffle=True, collate_fn=as_one, drop_last=True)

    def step(batch: dict[str, Any]) -> None:
        inputs = {name: values.cuda(non_blocking=True) for name, values in batch.items()}
        with torch.autocast("cuda", torch.bfloat16):
            loss = network(**inputs)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def steps_per_s(batches: Any, n: int) -> float:
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(n):
            step(next(batches))
        torch.cuda.synchronize()
        return n / (time.perf_counter() - started)

    def endless() -> Any:
        while True:
            yield from loader

    one = {name: values.cuda() for name, values in next(iter(loader)).items()}
    same = iter(lambda: one, None)
    steps_per_s(same, 10)
    from_loader, alone = steps_per_s(endless(), 100), steps_per_s(same, 100)
    products = sum(module.weight.numel() for module in network.modules() if isinstance(module, torch.nn.Linear))
    n_parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    tflops = 6 * products * batch_size * from_loader / 1e12  # two a weight forward, four backward
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16, rank {rank or 'full'}, "
        f"{n_parameters:.0f}M parameters, batch {batch_size}: "
        f"{from_loader * batch_size:,.0f} samples/s with the loader, {alone * batch_size:,.0f} without; "
        f"{tflops:.2f} TFLOP/s in matrix products, {tflops / peak_tflops:.2%} of {peak_tflops:.0f}"
    )


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--text-width", type=int, default=768)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the GPU, bf16, dense (H100, H200: 989)")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        synthesize(resolve_world(COUNTS, seed=0), Path(folder) / "qilin")
        source = open_source(str(Path(folder) / "qilin"))
        catalogue, requests = open_catalogue(source), read_table(source, "search_train")
        rng = np.random.default_rng(0)
        n_notes = len(np.unique(requests.note_idx))
        for name, n in (("notes", n_notes), ("queries", len(requests))):
            np.save(Path(folder) / name, rng.standard_normal((n, asked.text_width)).astype(np.float16))
        notes, queries = (np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in ("notes", "queries"))
        text = TextColumns(notes, np.arange(len(notes)), queries, np.arange(len(requests)))
        users = read_user_columns(catalogue.need_users("a benchmark"), N_BUCKETS)
        columns = columns_of(requests, catalogue, N_BUCKETS, (), users, text)

        ours = Examples(columns, requests.clicked.astype(np.float32), None)
        peer = OneByOne(requests, catalogue, text)
        rows = rng.integers(0, len(ours), 64).tolist()
        theirs = torch.utils.data.default_collate([peer[row] for row in rows])
        for name, values in ours.__getitems__(rows).items():
            assert torch.allclose(values.double(), theirs[name].double(), equal_nan=True), name

        shuffled = {"batch_size": asked.batch_size, "shuffle": True, "drop_last": True}
        of_both = [
            (
                samples_per_s(DataLoader(ours, collate_fn=as_one, **shuffled)),
                samples_per_s(DataLoader(peer, **shuffled)),
            )
            for _ in range(N_TURNS)
        ]
        ours_per_s, peer_per_s = np.median(of_both, axis=0)
        print(f"{len(ours):,} candidates of {len(requests):,} requests, batches of {asked.batch_size}, one process")
        print(f"gathered from columns   {ours_per_s:12,.0f} samples/s")
        print(f"one by one              {peer_per_s:12,.0f} samples/s")
        print(f"ratio                   {ours_per_s / peer_per_s:12.0f}")
        if torch.cuda.is_available():
            for batch_size, rank in ((2048, None), (43_008, None), (43_008, 64)):
                on_a_gpu(columns, batch_size, asked.text_width, asked.peak_tflops, rank)


if __name__ == "__main__":
    main()
