"""The pool of threads: order, errors, batches, overload and end."""

import asyncio
import threading
import time

import pytest

from qin_zoo.serving.http.pool import Overloaded, Pool


@pytest.fixture
def make():
    pools = []

    def make(work, **changes) -> Pool:
        options = {"threads": 2, "max_waiting": 1000, "max_batch": 4, "max_seconds": 60.0, **changes}
        pools.append(Pool(work, **options))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close(5)


def test_everyone_gets_his_own_result(make):
    pool = make(lambda n: n * n, threads=3)

    async def main():
        return await asyncio.gather(*(pool.run(n) for n in range(500)))

    assert asyncio.run(main()) == [n * n for n in range(500)]


def test_an_error_is_the_one_item_s(make):
    pool = make(lambda n: 1 // n)

    async def main():
        return await asyncio.gather(*(pool.run(n) for n in (1, 0, 1)), return_exceptions=True)

    first, second, third = asyncio.run(main())
    assert (first, third) == (1, 1)
    assert isinstance(second, ZeroDivisionError)


def test_waiting_items_are_taken_together_and_no_more_than_said(make):
    sizes, free = [], threading.Event()
    pool = make(lambda n: free.wait(10), threads=1, max_batch=4, told=sizes.append)

    async def main():
        tasks = [asyncio.ensure_future(pool.run(n)) for n in range(9)]
        await asyncio.sleep(0)  # all wait
        free.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert sum(sizes) == 9
    assert max(sizes) == 4


def test_a_slow_item_s_result_does_not_wait_for_the_next_one(make):
    free = threading.Event()

    def work(n):
        if n:
            assert free.wait(10)
        else:
            time.sleep(0.05)
        return n

    pool = make(work, threads=1)

    async def main():
        tasks = [asyncio.ensure_future(pool.run(n)) for n in (0, 1)]
        assert await tasks[0] == 0  # while the second still runs
        free.set()
        assert await tasks[1] == 1

    asyncio.run(main())


def test_overload(make):
    free = threading.Event()
    pool = make(lambda n: free.wait(10), threads=1, max_waiting=2)

    async def main():
        first = asyncio.ensure_future(pool.run(0))
        await asyncio.sleep(0)
        while pool.waiting:  # until the thread has taken it
            await asyncio.sleep(0.001)
        waiting = [asyncio.ensure_future(pool.run(n)) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 requests wait already"):
            await pool.run(3)
        free.set()
        await asyncio.gather(first, *waiting)

    asyncio.run(main())


def test_an_item_that_waited_too_long_is_not_worked_on(make):
    worked = []

    def work(n):
        worked.append(n)
        time.sleep(0.2)

    pool = make(work, threads=1, max_seconds=0.1)

    async def main():
        return await asyncio.gather(*(pool.run(n) for n in range(3)), return_exceptions=True)

    found = asyncio.run(main())
    assert worked == [0]
    assert [type(f) for f in found] == [type(None), Overloaded, Overloaded]


def test_the_end_comes_after_what_waits(make):
    done = []
    pool = make(lambda n: (time.sleep(0.01), done.append(n)), threads=1)

    async def main():
        tasks = [asyncio.ensure_future(pool.run(n)) for n in range(3)]
        await asyncio.sleep(0)
        pool.close(10)
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert done == [0, 1, 2]
    assert not any(thread.is_alive() for thread in pool._threads)


def test_nobody_waits_any_more(make):
    worked, free = [], threading.Event()

    def work(n):
        worked.append(n)
        free.wait(10)

    pool = make(work, threads=1)

    async def main():
        tasks = [asyncio.ensure_future(pool.run(n)) for n in range(3)]
        await asyncio.sleep(0.05)
        tasks[1].cancel()
        await asyncio.sleep(0)
        free.set()
        await asyncio.gather(tasks[0], tasks[2])

    asyncio.run(main())
    assert worked == [0, 2]
