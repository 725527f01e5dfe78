"""The waiting line of the loop: no key twice at once, none lost, and later ones in their time."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from reconciler.engine.backoff import FIRST_SECONDS, Backoff, failed, held
from reconciler.engine.queue import WorkQueue


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_key_said_twice_is_taken_once() -> None:
    queue: WorkQueue[str] = WorkQueue(Clock())
    for key in ("a", "b", "a"):
        queue.add(key)
    assert queue.take_nowait() == ("a", "b")
    assert queue.take_nowait() == ()


def test_a_key_that_comes_while_it_is_processed_is_taken_once_more_afterwards() -> None:
    queue: WorkQueue[str] = WorkQueue(Clock())
    queue.add("a")
    assert queue.take_nowait() == ("a",)
    queue.add("a")
    queue.add("a")
    assert queue.take_nowait() == ()
    queue.done("a")
    assert queue.take_nowait() == ("a",)
    queue.done("a")
    assert queue.take_nowait() == ()


def test_the_earlier_of_two_times_counts_and_a_word_ends_the_wait() -> None:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(clock)
    queue.add_after("a", 10)
    queue.add_after("a", 5)
    queue.add_after("a", 20)
    clock.now = 5
    assert queue.take_nowait() == ("a",)
    queue.done("a")
    queue.add_after("a", 100)
    queue.add("a")
    assert queue.take_nowait() == ("a",)
    queue.done("a")
    clock.now = 1000
    assert queue.take_nowait() == ()


async def test_waiting_ends_with_a_word_or_with_the_time(autojump_clock: MockClock) -> None:
    queue: WorkQueue[str] = WorkQueue(trio.current_time)
    queue.add_after("late", 60)
    async with trio.open_nursery() as nursery:

        async def say() -> None:
            await trio.sleep(1)
            queue.add("soon")

        nursery.start_soon(say)
        began = trio.current_time()
        assert await queue.take() == ("soon",)
        assert trio.current_time() - began == 1
    assert await queue.take() == ("late",)
    assert trio.current_time() - began == 60


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(1, 300))
def test_a_backoff_doubles_with_jitter_and_never_passes_its_cap(randoms: list[float], cap: float) -> None:
    state, now = Backoff(), 0.0
    for number, random in enumerate(randoms):
        state = failed(state, now=now, cap_seconds=cap, random=random)
        bare = min(cap, FIRST_SECONDS * 2**number)
        assert state.failures == number + 1
        assert bare * 0.9 <= state.waited_seconds <= min(cap, bare * 1.1) + 1e-9
        assert state.until == now + state.waited_seconds
        now = state.until


def test_a_backoff_is_forgotten_once_it_held_as_long_as_it_last_waited() -> None:
    state = failed(Backoff(failures=5), now=100, cap_seconds=300, random=0.5)
    assert state.waited_seconds == 16
    well = held(state, now=120)
    assert well.failures == 6
    assert held(well, now=130).failures == 6
    assert held(well, now=136) == Backoff()
    assert failed(well, now=121, cap_seconds=300, random=0.5).waited_seconds == 32
    assert held(Backoff(), now=0) == Backoff()
