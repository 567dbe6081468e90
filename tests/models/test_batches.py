"""Batches that are prepared ahead: in order, and few at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from qilin_rag.models.batches import ahead


def test_results_come_in_order_and_few_are_under_way() -> None:
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        return item * item

    with ThreadPoolExecutor(3) as pool:
        for n_read, (item, result) in enumerate(ahead(pool, work, iter(range(50)), 4), start=1):
            assert (item, result) == (n_read - 1, item**2)
            assert len(begun) <= n_read + 4
    assert sorted(begun) == list(range(50))


def test_an_error_of_the_work_is_raised_at_its_place() -> None:
    with ThreadPoolExecutor(2) as pool:
        results = ahead(pool, lambda item: 6 // item, [3, 2, 0, 1], 2)
        assert [next(results), next(results)] == [(3, 2), (2, 3)]
        with pytest.raises(ZeroDivisionError):
            next(results)
