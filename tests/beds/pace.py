"""How fast this machine computes at the moment, for promises in seconds of work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

_ROUNDS: Final = 1_000_000
# What the rounds take on the machine that the promises were made on, alone on its core: seconds.
_USUAL_SECONDS: Final = 0.065


def slowness(clock: Callable[[], float] = time.thread_time) -> float:
    """How many times slower than that this thread is now by `clock`, at least 1.

    A neighbour on the same core slows work down as much as a smaller machine does, and the time of the thread counts that. A
    clock on the wall (`time.perf_counter`) counts those as well that wait for the core.
    """
    began = clock()
    sum(number * number for number in range(_ROUNDS))
    return max(1.0, (clock() - began) / _USUAL_SECONDS)
