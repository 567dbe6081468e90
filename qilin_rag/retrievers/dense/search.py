"""Find the nearest of millions of vectors: compare every one (flat), or use faiss' inverted lists (ivf).

Vectors are 16-bit floats on disk and read block by block, so that memory does not grow with their number. faiss finds
candidates; their scores are computed again, so that equal vectors have equal scores at any place. An index holds each
distinct vector once, because copies of one would crowd out all other candidates.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from qilin_rag.core.files import atomic_path, write_text
from qilin_rag.core.ties import rank_order
from qilin_rag.core.types import Hit
from qilin_rag.models.sentence_encoder import Vectors, dot
from qilin_rag.retrievers.base import rank_hits
from qilin_rag.retrievers.distinct import digests_of, distinct

logger = logging.getLogger(__name__)
Neighbours = Literal["flat", "ivf"]
Ids = npt.NDArray[np.int64]
Found = tuple[list[list[Hit]], int]
BLOCK_ROWS = 65536  # vectors that are converted to 32-bit floats at a time
CHUNK_QUERIES = 1024  # vectors that are compared with a block at a time
MARGIN = 100  # notes to ask of faiss beyond k, so that ties at the cut are seen
_SEED = 0
_TRAINED_BY = 64  # vectors for each list of ivf
_RECALL_AT = 100
_LEAST_RECALL = 0.9
_SAMPLED = 200  # vectors to use as queries
COPIES = "copies.npy"


class Approximate(NamedTuple):
    """faiss' index of the distinct vectors, and the rows of the notes that have each of them."""

    index: Any
    rows: npt.NDArray[np.int64]
    """(n_notes,): the rows of the first distinct vector, of the second, ..."""
    starts: npt.NDArray[np.int64]
    """(n_distinct + 1,): the start of the rows of each."""


class _Products:
    """Closeness of a query and vectors as their dot product."""

    def nearest(self, queries: Vectors, block: Vectors, n: int) -> tuple[Vectors, Ids]:
        """Find the closest `n` of a block by faiss; return their closeness and rows, both (n_queries, n)."""
        import faiss

        found: tuple[Vectors, Ids] = faiss.knn(queries, block, n, metric=faiss.METRIC_INNER_PRODUCT)
        return found

    def all_of(self, queries: Vectors, block: Vectors) -> Vectors:
        """Return the closeness of all vectors of a block, (n_queries, n_vectors), in single precision."""
        products: Vectors = queries @ block.T
        return products

    def exact(self, vectors: npt.NDArray[Any], query: Vectors) -> Vectors:
        """Return the closeness of these vectors, (n_vectors,); equal vectors are equally close."""
        return dot(vectors, query)

    def errors(self, queries: Vectors, longest: float) -> Vectors:
        """Return the largest error of `nearest` and `all_of`, (n_queries,).

        The bound is dimension * 2^-24 * |query| * |vector| (Higham 2002, section 3.1), here doubled.
        """
        bounds: Vectors = 2 * queries.shape[1] * 2.0**-24 * longest * np.linalg.norm(queries, axis=1)
        return bounds


class _Distances(_Products):
    """Closeness as the negative square of the Euclidean distance."""

    def nearest(self, queries: Vectors, block: Vectors, n: int) -> tuple[Vectors, Ids]:
        import faiss

        squares, rows = faiss.knn(queries, block, n, metric=faiss.METRIC_L2)
        return -squares, rows

    def all_of(self, queries: Vectors, block: Vectors) -> Vectors:
        squares: Vectors = (queries**2).sum(axis=1)[:, None] + (block**2).sum(axis=1) - 2 * queries @ block.T
        return -squares

    def exact(self, vectors: npt.NDArray[Any], query: Vectors) -> Vectors:
        differences = vectors.astype(np.float64) - query.astype(np.float64)
        squares: Vectors = (differences**2).sum(axis=1).astype(np.float32)
        return -squares

    def errors(self, queries: Vectors, longest: float) -> Vectors:
        """Return the largest error: that of both squared lengths and of twice the product."""
        bounds: Vectors = 4 * queries.shape[1] * 2.0**-24 * (longest + np.linalg.norm(queries, axis=1)) ** 2
        return bounds


def search_flat(
    texts: Sequence[str],
    queries: Vectors,
    vectors: npt.NDArray[Any],
    note_idxs: Ids,
    k: int,
    by_distance: bool = False,
) -> Found:
    """Rank the `k` notes nearest to each query out of all; order ties as `rank_hits` does.

    Args:
        texts: The texts of the queries, by which ties are ordered.
        queries: Shape (n_queries, dimension).
        vectors: Shape (n_notes, dimension).
        note_idxs: Shape (n_notes,).
        k: The number of notes to find.
        by_distance: Whether a score is the negative Euclidean distance instead of the dot product.

    Returns:
        The rankings, and the number of those that had ties at the cut.
    """
    measure = _Distances() if by_distance else _Products()
    rankings: list[list[Hit]] = []
    n_tied = 0
    for start in range(0, len(queries), CHUNK_QUERIES):
        chunk = slice(start, start + CHUNK_QUERIES)
        some, tied = _search_chunk(texts[chunk], queries[chunk], vectors, note_idxs, k, measure)
        rankings += some
        n_tied += tied
    if by_distance:
        rankings = [
            [hit.model_copy(update={"score": -math.sqrt(max(-hit.score, 0.0))}) for hit in hits] for hits in rankings
        ]
    return rankings, n_tied


def search_approximately(
    texts: Sequence[str],
    queries: Vectors,
    vectors: npt.NDArray[Any],
    note_idxs: Ids,
    k: int,
    index: Approximate,
    n_probe: int,
) -> Found:
    """Rank as `search_flat` does, but only the notes of the vectors that `index` finds in `n_probe` lists."""
    import faiss

    n_wanted = min(k + MARGIN, index.index.ntotal)
    _, found = index.index.search(queries, n_wanted, params=faiss.SearchParametersIVF(nprobe=n_probe))
    rankings = []
    n_tied = 0
    for text, query, nearest in zip(texts, queries, found, strict=True):
        found_vectors = np.sort(nearest[nearest >= 0])
        scores = dot(vectors[index.rows[index.starts[found_vectors]]], query)
        n_notes = index.starts[found_vectors + 1] - index.starts[found_vectors]
        order = np.argsort(-scores, kind="stable")
        n_needed = int(np.searchsorted(np.cumsum(n_notes[order]), k)) + 1
        of_best = np.flatnonzero(scores >= scores[order[:n_needed]].min(initial=np.inf))
        rows = [index.rows[index.starts[i] : index.starts[i + 1]] for i in found_vectors[of_best]]
        every = np.concatenate([np.zeros(0, np.int64), *rows])
        hits, left_out = rank_hits(
            np.repeat(scores[of_best], n_notes[of_best]), note_idxs[every], k, text, above=-math.inf
        )
        rankings.append(hits)
        n_tied += left_out > 0
    return rankings, n_tied


def opened_index(kind: Neighbours, vectors: npt.NDArray[Any], folder: Path) -> Approximate:
    """Open the index of these vectors that is kept in their folder; make it if it does not exist.

    The lists are trained on a seeded sample.
    """
    copies = _opened_copies(vectors, folder)
    rows = np.argsort(copies, kind="stable")
    starts = np.append(0, np.cumsum(np.bincount(copies)))
    return Approximate(_opened_faiss(kind, vectors, rows[starts[:-1]], folder), rows, starts)


def _opened_copies(vectors: npt.NDArray[Any], folder: Path) -> npt.NDArray[np.int32]:
    """Return the number of each row's vector among the distinct ones, (n_rows,), in the order of their first rows."""
    path = folder / COPIES
    with suppress(OSError, ValueError):
        kept: npt.NDArray[np.int32] = np.load(path, allow_pickle=False)
        if kept.shape == (len(vectors),) and kept.dtype == np.int32:
            return kept
    blocks = (np.asarray(vectors[start : start + BLOCK_ROWS]) for start in range(0, len(vectors), BLOCK_ROWS))
    found = distinct(digests_of(row.tobytes() for block in blocks for row in block))
    copies = np.argsort(np.argsort(found.first))[found.number].astype(np.int32)
    if (n_copies := len(vectors) - len(found.first)) > 0:
        logger.info("%d of %d notes share the vector of another; each vector is indexed once", n_copies, len(vectors))
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, copies, allow_pickle=False)
    except OSError as error:
        logger.warning("%s can't be kept in %s (%s); it is made again next time", COPIES, folder, error)
    return copies


def _opened_faiss(kind: Neighbours, vectors: npt.NDArray[Any], rows: Ids, folder: Path) -> Any:
    """Open faiss' index of the vectors in these rows; make it if it does not exist."""
    import faiss

    path = folder / f"{kind}.faiss"
    if path.is_file():
        try:
            index = faiss.read_index(str(path))
            if (index.ntotal, index.d) == (len(rows), vectors.shape[1]):
                return index
            logger.warning("%s was made from other vectors; it is made again", path)
        except RuntimeError as error:  # an error of faiss
            logger.warning("%s is damaged (%s); it is made again", path, str(error)[:200])
    started = time.monotonic()
    index = _made(vectors, rows)
    logger.info("%s of %d vectors in %.0f s", kind, len(rows), time.monotonic() - started)
    try:
        with atomic_path(path) as temporary:
            faiss.write_index(index, str(temporary))
    except (OSError, RuntimeError) as error:  # an error of faiss
        logger.warning("%s can't be kept in %s (%s); it is made again next time", kind, folder, str(error)[:200])
    return index


def default_n_probe(n_vectors: int) -> int:
    """Return how many lists to read: enough for recall@100 of .95 and more over e5's vectors."""
    return min(_n_lists(n_vectors), 5 * math.isqrt(_n_lists(n_vectors)) + 16)


def measured_recall(
    texts: Sequence[str],
    queries: Vectors,
    vectors: npt.NDArray[Any],
    note_idxs: Ids,
    search: Callable[[Sequence[str], Vectors, int], Found],
) -> dict[str, Any]:
    """Measure the share of flat's first hundred that `search(texts, queries, k)` finds, and how long both take."""
    k = min(_RECALL_AT, len(vectors))
    started = time.perf_counter()
    exact, _ = search_flat(texts, queries, vectors, note_idxs, k)
    between = time.perf_counter()
    found, _ = search(texts, queries, k)
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


def sampled_queries(vectors: npt.NDArray[Any]) -> tuple[list[str], Vectors]:
    """Return some of the vectors as queries with names, for an index that is made on a machine without the model."""
    rows = np.random.default_rng(_SEED).choice(len(vectors), min(_SAMPLED, len(vectors)), replace=False)
    return [f"row {row}" for row in rows], vectors[np.sort(rows)].astype(np.float32)


def keep_recall(kind: Neighbours, folder: Path, measured: dict[str, Any]) -> None:
    """Write the result of `measured_recall` beside the index."""
    write_text(folder / f"{kind}.json", f"{json.dumps(measured, indent=2)}\n")


def kept_recall(kind: Neighbours, folder: Path) -> dict[str, Any] | None:
    """Read what `keep_recall` wrote; return None if it can't be read."""
    with suppress(OSError, ValueError):
        measured = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
        return measured if isinstance(measured, dict) and isinstance(measured.get("breadth"), int) else None
    return None


def warn_of_recall(kind: Neighbours, measured: dict[str, Any], n_probe: int) -> None:
    """Warn if an index misses many notes, or is searched less broadly than when its recall was measured."""
    name, recall = next((name, value) for name, value in measured.items() if name.startswith("recall@"))
    if n_probe < measured["breadth"]:
        logger.warning(
            "%s: recall at n_probe %d was not measured and may be lower (%s is %.4f at n_probe %d)",
            *(kind, n_probe, name, recall, measured["breadth"]),
        )
    elif recall < _LEAST_RECALL:
        logger.warning(
            "%s misses notes: %s against flat is %.4f at n_probe %d; raise retriever.n_probe, or set faiss=%s",
            *(kind, name, recall, measured["breadth"], "flat"),
        )


def _n_lists(n_vectors: int) -> int:
    """Return four times the root, as faiss advises, but at most a list for 39 vectors, which training needs."""
    return max(1, min(int(4 * math.sqrt(n_vectors)), n_vectors // 39))


def _made(vectors: npt.NDArray[Any], rows: Ids) -> Any:
    import faiss

    n_lists = _n_lists(len(rows))
    index = faiss.index_factory(vectors.shape[1], f"IVF{n_lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    n_samples = min(len(rows), _TRAINED_BY * n_lists)
    sample = rows[np.sort(np.random.default_rng(_SEED).choice(len(rows), n_samples, replace=False))]
    index.train(vectors[sample].astype(np.float32))
    for start in range(0, len(rows), BLOCK_ROWS):
        index.add(vectors[rows[start : start + BLOCK_ROWS]].astype(np.float32))
    return index


def _blocks(vectors: npt.NDArray[Any]) -> Iterator[tuple[int, Vectors]]:
    """Yield blocks as 32-bit floats, each with its first row."""
    for start in range(0, len(vectors), BLOCK_ROWS):
        yield start, vectors[start : start + BLOCK_ROWS].astype(np.float32)


def _search_chunk(
    texts: Sequence[str],
    queries: Vectors,
    vectors: npt.NDArray[Any],
    note_idxs: Ids,
    k: int,
    measure: _Products,
) -> Found:
    """Rank the nearest notes; look at all vectors once more if faiss may have cut among ties."""
    n_wanted = min(k + MARGIN, len(vectors))
    scores, rows = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    longest = 0.0
    for start, block in _blocks(vectors):
        longest = max(longest, float(np.linalg.norm(block, axis=1).max()))
        some_scores, some = measure.nearest(queries, block, min(n_wanted, len(block)))
        scores, rows = np.hstack([scores, some_scores]), np.hstack([rows, some + start])
        if scores.shape[1] > n_wanted:
            best = np.argpartition(-scores, n_wanted - 1, axis=1)[:, :n_wanted]
            scores, rows = np.take_along_axis(scores, best, axis=1), np.take_along_axis(rows, best, axis=1)
    errors = measure.errors(queries, longest)
    rankings: list[list[Hit]] = []
    n_tied, unsure, cuts = 0, [], []
    for i, query in enumerate(queries):
        exact = measure.exact(vectors[rows[i]], query)
        hits, left_out = rank_hits(exact, note_idxs[rows[i]], k, texts[i], above=-math.inf)
        rankings.append(hits)
        if n_wanted < len(vectors) and hits[-1].score <= scores[i].min() + errors[i]:
            unsure.append(i)
            cuts.append(hits[-1].score - errors[i])
        else:
            n_tied += left_out > 0
    if unsure:
        of_unsure, lowest = [texts[i] for i in unsure], np.array(cuts, np.float32)
        again, tied = _search_above(of_unsure, queries[unsure], lowest, vectors, note_idxs, k, measure)
        n_tied += tied
        for i, hits in zip(unsure, again, strict=True):
            rankings[i] = hits
    return rankings, n_tied


def _search_above(
    texts: Sequence[str],
    queries: Vectors,
    cuts: Vectors,
    vectors: npt.NDArray[Any],
    note_idxs: Ids,
    k: int,
    measure: _Products,
) -> Found:
    """Rank the best of all vectors that are at least as close as the cut of a query; at least k are."""
    kept = [(np.empty(0, np.float32), np.empty(0, np.int64)) for _ in queries]
    for start, block in _blocks(vectors):
        closeness = measure.all_of(queries, block)
        for i in np.flatnonzero(closeness.max(axis=1) >= cuts).tolist():
            rows = start + np.flatnonzero(closeness[i] >= cuts[i])
            scores = np.concatenate([kept[i][0], measure.exact(vectors[rows], queries[i])])
            ids = np.concatenate([kept[i][1], note_idxs[rows]])
            first = rank_order(scores, ids, texts[i])[: k + 1]  # one more, to see whether there are ties
            kept[i] = scores[first], ids[first]
    ranked = [rank_hits(scores, ids, k, text, above=-math.inf) for text, (scores, ids) in zip(texts, kept, strict=True)]
    return [hits for hits, _ in ranked], sum(left_out > 0 for _, left_out in ranked)
