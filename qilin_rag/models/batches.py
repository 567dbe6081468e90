"""Batches of an encoder: how texts are grouped, and how a CPU or a GPU works through them to the same vectors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from qilin_rag.core.progress import stage

if TYPE_CHECKING:
    from sentence_transformers.base import BaseModel

Rows = npt.NDArray[np.int64]
Features = TypeVar("Features")
Item = TypeVar("Item")
Result = TypeVar("Result")
_PREPARING = 4  # threads that prepare batches for a GPU


def batches(lengths: npt.NDArray[np.int64], budget: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield positions of texts in batches of at most `budget` tokens, longest first, given their lengths in tokens.

    If texts of one length fill half a batch, the batch holds no others, so that it needs neither padding nor a mask.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        batch = order[start : start + max(1, budget // longest)]
        n_alike = int((lengths[batch] == longest).sum())
        if 2 * n_alike * longest >= budget:
            batch = batch[:n_alike]
        yield batch
        start += len(batch)


def run_batches(
    encoder: BaseModel,
    n: int,
    batches: Iterable[Rows],
    prepare: Callable[[Rows], Features],
    run: Callable[[Features], npt.NDArray[np.float32]],
    name: str,
) -> npt.NDArray[np.float32]:
    """Return the vectors of `n` inputs, made batch by batch, shape (n, dimension).

    On a CPU each core has its own batches: small batches stay in its caches, and one thread per batch makes the vectors
    independent of the number of cores. On a GPU threads prepare the next batches. Few are in memory at a time.

    Args:
        encoder: The model, whose device decides.
        n: The number of inputs.
        batches: The positions of the inputs in each batch.
        prepare: Returns what the model reads of the inputs at these positions.
        run: Returns their vectors.
        name: The work in a progress bar.
    """
    result = np.empty((n, 0), np.float32)
    with stage(name, n) as advance, closing(each_batch(encoder, batches, prepare, run)) as encoded:
        for rows, vectors in encoded:
            if not result.size:
                result = np.empty((n, vectors.shape[1]), np.float32)
            result[rows] = vectors
            advance(len(rows))
    return result


def each_batch(
    encoder: BaseModel,
    batches: Iterable[Rows],
    prepare: Callable[[Rows], Features],
    run: Callable[[Features], Result],
) -> Generator[tuple[Rows, Result], None, None]:
    """Yield each batch with what `run` makes of it, in order, for `run_batches` and for results of unlike sizes.

    Close the generator, which ends its threads.

    Args:
        encoder: The model, whose device decides.
        batches: The positions of the inputs in each batch.
        prepare: Returns what the model reads of the inputs at these positions.
        run: Returns the result; on a CPU it is called in several threads at once.
    """
    import torch

    n_threads = torch.get_num_threads()
    on_cpu = encoder.device.type == "cpu"
    try:
        with ThreadPoolExecutor(
            n_threads if on_cpu else _PREPARING, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            if on_cpu:
                yield from ahead(pool, lambda rows: run(prepare(rows)), batches, 2 * n_threads)
            else:
                for rows, features in ahead(pool, prepare, batches, 2 * _PREPARING):
                    yield rows, run(features)
    finally:
        torch.set_num_threads(n_threads)  # for new threads: those of the pool changed it


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], n: int
) -> Iterator[tuple[Item, Result]]:
    """Yield each item with the result of `work`, in order, while threads work on at most the next `n`."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    for item in items:
        waiting.append((item, pool.submit(work, item)))
        if len(waiting) > n:
            first, future = waiting.popleft()
            yield first, future.result()
    for item, future in waiting:
        yield item, future.result()
