"""Who makes what several trials need, and who waits. No cluster needed."""

import asyncio

from search.distributed.single_flight import SingleFlight

MAKE, MADE = {"make": True}, {"path": "here"}


def play(scene):
    """Run a scene of an async function of the broker and of `asks`, which claims in the background."""
    async def whole():
        broker = SingleFlight()

        def asks(owner, name="base"):
            return asyncio.ensure_future(broker.claim(name, owner))

        await asyncio.wait_for(scene(broker, asks), 2.0)

    asyncio.run(whole())


async def settled():
    """Let everybody go as far as they get."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_one_makes_it_and_all_others_get_it():
    async def scene(broker, asks):
        first = asks("a")
        others = [asks(owner) for owner in "bc"]
        await settled()
        assert first.result() == MAKE and not any(other.done() for other in others)
        await broker.settle("base", MADE)
        assert [await other for other in others] == [MADE, MADE] and await asks("d") == MADE

    play(scene)


def test_what_could_not_be_made_is_not_tried_again():
    async def scene(broker, asks):
        assert await asks("a") == MAKE
        other, failed = asks("b"), {"failed": "it diverged"}
        await settled()
        await broker.settle("base", failed)
        assert await other == failed and await asks("a") == failed and await asks("c", "another base") == MAKE

    play(scene)


def test_a_maker_whose_process_was_started_again_goes_on_making():
    async def scene(broker, asks):
        assert [await asks("a"), await asks("a")] == [MAKE, MAKE]

    play(scene)


def test_when_the_maker_is_gone_the_next_in_line_makes_it():
    async def scene(broker, asks):
        await asks("a")
        dead, again, third = asks("b"), asks("b"), asks("c")  # b's process was started again, and asked again
        await settled()
        await broker.withdraw("a")
        assert await dead == await again == MAKE and not third.done()
        await broker.withdraw("b")
        assert await third == MAKE
        await broker.withdraw("c")
        assert await asks("d") == MAKE

    play(scene)


def test_whoever_leaves_while_waiting_is_waited_for_no_more():
    async def scene(broker, asks):
        await asks("a")
        leaves, stays = asks("b"), asks("c")
        await settled()
        await broker.withdraw("b")
        assert "failed" in await leaves and not stays.done()
        await broker.withdraw("a")
        assert await stays == MAKE

    play(scene)
