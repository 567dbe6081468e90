"""The nearest of millions of vectors: every one compared (flat), or by faiss' inverted lists (ivf) or graph (hnsw).

Vectors are 16-bit floats on disk and read block by block, so that memory doesn't grow with them. faiss finds
candidates; their scores are computed again, so that equal vectors have equal scores wherever they stand.
"""

from __future__ import annotations

import json
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from qilin_rag.retrievers.base import rank_hits
from qilin_rag.retrievers.encoder import Vectors, dot
from qilin_rag.types import Hit

logger = logging.getLogger(__name__)

Neighbours = Literal["flat", "ivf", "hnsw"]
Ids = npt.NDArray[np.int64]
Found = tuple[list[list[Hit]], int]

_BLOCK_ROWS = 65536  # of vectors, as 32-bit floats
_CHUNK_QUERIES = 1024  # compared with a block at a time
_MARGIN = 100  # notes asked of faiss beyond k, so that ties at the cut are seen
_SEED = 0
_TRAINED_BY = 64  # vectors a list of ivf
_RECALL_AT = 100


def search_flat(queries: Vectors, vectors: npt.NDArray[Any], note_idxs: Ids, k: int) -> Found:
    """`rank_hits` over the dot products of each query with all vectors; also how many rankings had ties at the cut."""
    rankings: list[list[Hit]] = []
    n_tied = 0
    for start in range(0, len(queries), _CHUNK_QUERIES):
        some, tied = _search_chunk(queries[start : start + _CHUNK_QUERIES], vectors, note_idxs, k)
        rankings += some
        n_tied += tied
    return rankings, n_tied


def search_approximately(
    queries: Vectors, vectors: npt.NDArray[Any], note_idxs: Ids, k: int, index: Any, breadth: int
) -> Found:
    """The same over the candidates that an index of `opened_index` finds, some more than `k`.

    `breadth` is n_probe, or ef_search, which is no less than the number of candidates.
    """
    n_wanted = min(k + _MARGIN, len(vectors))
    _, found = index.search(queries, n_wanted, params=search_parameters(index, max(breadth, n_wanted), breadth))
    rankings = []
    n_tied = 0
    for query, rows in zip(queries, found, strict=True):
        rows = np.sort(rows[rows >= 0])
        hits, left_out = rank_hits(dot(vectors[rows], query), note_idxs[rows], k, above=-math.inf)
        rankings.append(hits)
        n_tied += left_out > 0
    return rankings, n_tied


def search_parameters(index: Any, ef_search: int, n_probe: int) -> Any:
    """As faiss takes them for this index."""
    import faiss

    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=ef_search)
    return faiss.SearchParametersIVF(nprobe=n_probe)


def opened_index(kind: Neighbours, vectors: npt.NDArray[Any], folder: Path) -> Any:
    """faiss' index of these vectors, kept in their folder: made where it isn't there.

    Lists are trained on a seeded sample. With several threads a graph is not the same each time.
    """
    import faiss

    path = folder / f"{kind}.faiss"
    if path.is_file():
        try:
            index = faiss.read_index(str(path))
            if (index.ntotal, index.d) == vectors.shape:
                return index
            logger.warning("%s is of other vectors; it is made again", path)
        except RuntimeError as error:  # of faiss
            logger.warning("%s is damaged (%s); it is made again", path, str(error)[:200])
    started = time.monotonic()
    index = _made(kind, vectors)
    logger.info("%s of %d vectors in %.0f s", kind, len(vectors), time.monotonic() - started)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        faiss.write_index(index, str(temporary))
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # of faiss
        temporary.unlink(missing_ok=True)
        logger.warning("%s can't be kept in %s (%s); it is made again next time", kind, folder, str(error)[:200])
    return index


def default_breadth(kind: Neighbours, n_vectors: int) -> int:
    """Lists that are read (ivf), or candidates that are kept (hnsw): recall@100 of .95 and more over e5's vectors."""
    return 256 if kind == "hnsw" else min(_n_lists(n_vectors), 5 * math.isqrt(_n_lists(n_vectors)) + 16)


def measured_recall(
    queries: Vectors, vectors: npt.NDArray[Any], note_idxs: Ids, search: Callable[[Vectors, int], Found]
) -> dict[str, Any]:
    """The share of flat's first hundred that `search(queries, k)` finds, and how much faster it is."""
    k = min(_RECALL_AT, len(vectors))
    started = time.perf_counter()
    exact, _ = search_flat(queries, vectors, note_idxs, k)
    between = time.perf_counter()
    found, _ = search(queries, k)
    ended = time.perf_counter()
    n_found = sum(
        len({hit.note_idx for hit in one} & {hit.note_idx for hit in other})
        for one, other in zip(exact, found, strict=True)
    )
    return {
        f"recall@{k}": round(n_found / (k * len(queries)), 4),
        "n_queries": len(queries),
        "flat_s": round(between - started, 3),
        "search_s": round(ended - between, 3),
    }


def keep_recall(kind: Neighbours, folder: Path, measured: dict[str, Any]) -> None:
    """Beside the index, for people."""
    (folder / f"{kind}.json").write_text(f"{json.dumps(measured, indent=2)}\n", encoding="utf-8")


def _n_lists(n_vectors: int) -> int:
    """Four times the root, as faiss advises, but 39 vectors each, which it wants for training."""
    return max(1, min(int(4 * math.sqrt(n_vectors)), n_vectors // 39))


def _made(kind: Neighbours, vectors: npt.NDArray[Any]) -> Any:
    import faiss

    n_lists = _n_lists(len(vectors))
    name = "HNSW32,SQfp16" if kind == "hnsw" else f"IVF{n_lists},SQfp16"
    index = faiss.index_factory(vectors.shape[1], name, faiss.METRIC_INNER_PRODUCT)
    if kind == "hnsw":
        index.hnsw.efConstruction = 100
    n_samples = min(len(vectors), _TRAINED_BY * n_lists)
    rows = np.sort(np.random.default_rng(_SEED).choice(len(vectors), n_samples, replace=False))
    index.train(vectors[rows].astype(np.float32))
    for _, block in _blocks(vectors):
        index.add(block)
    return index


def _blocks(vectors: npt.NDArray[Any]) -> Iterator[tuple[int, Vectors]]:
    """Blocks as 32-bit floats, each with its first row."""
    for start in range(0, len(vectors), _BLOCK_ROWS):
        yield start, vectors[start : start + _BLOCK_ROWS].astype(np.float32)


def _search_chunk(queries: Vectors, vectors: npt.NDArray[Any], note_idxs: Ids, k: int) -> Found:
    """Where faiss may have cut among ties, all vectors are looked at once more.

    faiss is off by at most dimension * 2^-24 * |query| * |vector| (Higham 2002, section 3.1), here taken twice.
    """
    import faiss

    n_wanted = min(k + _MARGIN, len(vectors))
    scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    longest = 0.0
    for start, block in _blocks(vectors):
        longest = max(longest, float(np.linalg.norm(block, axis=1).max()))
        some_scores, some = faiss.knn(queries, block, min(n_wanted, len(block)), metric=faiss.METRIC_INNER_PRODUCT)
        scores, rows = np.hstack([scores, some_scores]), np.hstack([rows, some + start])
        if scores.shape[1] > n_wanted:
            best = np.argpartition(-scores, n_wanted - 1, axis=1)[:, :n_wanted]
            scores, rows = np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)
    errors = 2 * vectors.shape[1] * 2.0**-24 * longest * np.linalg.norm(queries, axis=1)
    rankings: list[list[Hit]] = []
    n_tied, unsure, cuts = 0, [], []
    for i, query in enumerate(queries):
        exact = dot(vectors[rows[i]], query)
        hits, left_out = rank_hits(exact, note_idxs[rows[i]], k, above=-math.inf)
        rankings.append(hits)
        if n_wanted < len(vectors) and hits[-1].score <= scores[i].min() + errors[i]:
            unsure.append(i)
            cuts.append(hits[-1].score - errors[i])
        else:
            n_tied += left_out > 0
    if unsure:
        again, tied = _search_above(queries[unsure], np.array(cuts, np.float32), vectors, note_idxs, k)
        n_tied += tied
        for i, hits in zip(unsure, again, strict=True):
            rankings[i] = hits
    return rankings, n_tied


def _search_above(queries: Vectors, cuts: Vectors, vectors: npt.NDArray[Any], note_idxs: Ids, k: int) -> Found:
    """Of all vectors whose product with a query is its cut or more, of which there are k at least: the best."""
    kept = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in queries]
    for start, block in _blocks(vectors):
        products = queries @ block.T
        for i in np.flatnonzero(products.max(axis=1) >= cuts).tolist():
            rows = start + np.flatnonzero(products[i] >= cuts[i])
            scores = np.concatenate([kept[i][0], dot(vectors[rows], queries[i])])
            ids = np.concatenate([kept[i][1], note_idxs[rows]])
            first = np.lexsort((ids, -scores))[: k + 1]  # one more, to see whether there are ties
            kept[i] = scores[first], ids[first]
    ranked = [rank_hits(scores, ids, k, above=-math.inf) for scores, ids in kept]
    return [hits for hits, _ in ranked], sum(left_out > 0 for _, left_out in ranked)
