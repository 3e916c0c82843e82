"""What idle groups lend. No cluster needed."""

import asyncio

import pytest

from search.distributed.broker import Broker


def play(scene):
    async def whole():
        broker = Broker()
        for name, node, cpus in (("a", "here", 1), ("b", "here", 2), ("c", "there", 4), ("d", "here", 1)):
            await broker.register(name, 0, 1, {"pid": 1, "actor": None, "node": node, "cpus": cpus})
        await asyncio.wait_for(scene(broker), 2.0)

    asyncio.run(whole())


@pytest.mark.parametrize("busy", [["a"], ["a", "b"], ["a", "b", "c", "d"]])
def test_a_group_is_lent_what_idles_on_its_node(busy):
    async def scene(broker):
        for owner in busy:
            assert (await broker.lease(owner))["group"] == owner  # the first free one each
        wanted = {"b": 2, "d": 1}
        assert await broker.borrow("a") == sum(wanted[name] for name in wanted if name not in busy)
        assert await broker.borrow("gone") == 0

    play(scene)


def test_it_is_lent_once_and_until_its_user_or_its_own_work_ends():
    async def scene(broker):
        for owner in "ab":
            await broker.lease(owner)
        assert [await broker.borrow("a"), await broker.borrow("b"), await broker.borrow("a")] == [1, 0, 1]
        await broker.release("a")
        assert await broker.borrow("b") == 2  # of a, and of d, which is free again
        for owner in "xyz":
            await broker.lease(owner)
        assert await broker.borrow("b") == 0

    play(scene)


def test_nothing_is_lent_while_somebody_waits():
    async def scene(broker):
        for owner in "abcd":
            await broker.lease(owner)
        waiting = asyncio.ensure_future(broker.lease("e"))
        await asyncio.sleep(0)
        broker.groups["d"].owner = None
        assert await broker.borrow("a") == 0
        broker._grant_leases()
        assert (await waiting)["group"] == "d"

    play(scene)
