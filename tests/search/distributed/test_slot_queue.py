"""Trays of slots: what a slot whose process died is given. No cluster needed."""

import asyncio

from search.distributed.slot_queue import SlotQueue

TRIAL, NEXT, LEAVE = {"op": "trial", "number": 7}, {"op": "next"}, {"op": "leave"}


def work_after(*steps):
    """Assign what is a piece of work, mark done what is "done", and ask for work otherwise (True:
    a fresh process asks)."""
    async def play():
        slot_queue, found = SlotQueue(), []
        for step in steps:
            if isinstance(step, dict):
                await slot_queue.assign(0, step)
            elif step == "done":
                await slot_queue.done(0)
            else:
                found.append(await asyncio.wait_for(slot_queue.next_work(0, step), 0.05))
        return found

    return asyncio.run(play())


def waits(*steps):
    try:
        work_after(*steps)
    except TimeoutError:
        return True
    return False


def test_a_slot_does_what_is_laid_out_in_order():
    assert work_after(TRIAL, NEXT, LEAVE, True, False, False) == [TRIAL, NEXT, LEAVE]
    assert waits(TRIAL, True, False)


def test_a_slot_whose_process_died_gets_its_trial_again_once_and_then_the_trial_is_to_blame():
    assert work_after(TRIAL, True, NEXT, True) == [TRIAL, TRIAL]
    assert work_after(TRIAL, True, True, True)[-1] == {"op": "blamed", "number": 7}


def test_a_slot_that_died_idle_does_not_run_a_trial_that_has_ended():
    assert waits(TRIAL, True, "done", True)
    assert work_after(TRIAL, True, "done", {**TRIAL, "number": 8}, True)[-1]["number"] == 8


def test_new_work_comes_before_the_old_trial():
    assert work_after(TRIAL, True, LEAVE, True) == [TRIAL, LEAVE]
