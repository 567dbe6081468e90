from __future__ import annotations

import asyncio
import math
import random

from qilin_rag.llms.limiter import AdaptiveLimit


def test_there_is_no_limit_until_the_server_refuses() -> None:
    async def main() -> float:
        limit = AdaptiveLimit()
        async with limit.call(), limit.call(), limit.call():
            limit.speed_up()
        return limit.limit

    assert asyncio.run(main()) == math.inf


def test_refusals_of_one_round_halve_it_once() -> None:
    async def main() -> list[float]:
        limit = AdaptiveLimit()
        seen = []
        async with limit.call() as first, limit.call() as second, limit.call(), limit.call():
            for begun_in in (first, second, first):
                limit.slow_down(begun_in)
                seen.append(limit.limit)
        async with limit.call() as later:
            limit.slow_down(later)
            seen.append(limit.limit)
        for _ in range(3):
            limit.speed_up()
        return [*seen, limit.limit]

    assert asyncio.run(main()) == [2, 2, 2, 1, 1 + 1 + 1 / 2 + 1 / 2.5]


def test_no_more_than_the_limit_are_under_way_and_all_get_their_turn() -> None:
    rng = random.Random(0)

    async def main() -> tuple[int, int]:
        limit = AdaptiveLimit()
        async with limit.call() as begun_in:
            limit.slow_down(begun_in)
        under_way = most = n_done = 0

        async def work() -> None:
            nonlocal under_way, most, n_done
            async with limit.call():
                under_way += 1
                most = max(most, under_way)
                await asyncio.sleep(rng.uniform(0, 0.002))
                under_way -= 1
                n_done += 1

        await asyncio.gather(*(work() for _ in range(40)))
        return most, n_done

    assert asyncio.run(main()) == (1, 40)


def test_a_call_that_is_cancelled_frees_its_place() -> None:
    async def main() -> None:
        limit = AdaptiveLimit()
        async with limit.call() as begun_in:
            limit.slow_down(begun_in)
        async with limit.call():
            waiting = asyncio.create_task(limit.call().__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
        async with asyncio.timeout(1), limit.call():
            pass

    asyncio.run(main())


def test_a_free_place_goes_on_to_the_next_where_the_one_that_was_told_is_cancelled() -> None:
    async def main() -> None:
        limit = AdaptiveLimit()
        async with limit.call() as begun_in:
            limit.slow_down(begun_in)
        async with limit.call():
            first, second = (asyncio.create_task(limit.call().__aenter__()) for _ in range(2))
            await asyncio.sleep(0)
        first.cancel()
        async with asyncio.timeout(10):
            await second

    asyncio.run(main())


def test_all_places_that_become_free_are_taken() -> None:
    async def main() -> int:
        limit = AdaptiveLimit()
        calls = [limit.call() for _ in range(3)]
        async with limit.call(), limit.call(), limit.call(), limit.call() as begun_in:
            limit.slow_down(begun_in)
            waiting = [asyncio.create_task(call.__aenter__()) for call in calls]
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        n_in = sum(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        return n_in

    assert asyncio.run(main()) == 2
