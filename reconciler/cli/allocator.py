"""How a process that lives for months deals with memory: what the C library and the interpreter would keep for nothing."""

from __future__ import annotations

import gc
from typing import Final

# The numbers of <malloc.h>, mallopt(3).
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
# What glibc begins with.
_MAPPED_BYTES: Final = 128 << 10


def keep_memory_together() -> None:
    """Lets this process give back what it no longer needs. To be called before it has threads; without glibc nothing happens.

    - One arena for all threads. glibc gives each thread that allocates beside another one of its own, up to eight a core, and
      none lends its free room: twelve of them held 15 MB of which 12 were free. What it is for, threads that do not wait for
      each other, Python's own lock forbids anyway.
    - Large blocks always from the system, and back to it. glibc raises the limit to the size of each such block that is freed,
      so that the next ones lie between small ones, and the heap grows around them.
    """
    import ctypes  # Trio has loaded it

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)


def forget_the_start() -> None:
    """Takes what is there by now, and stays, out of what the garbage collector looks through: that is then done in 2 ms."""
    gc.collect()
    gc.freeze()


def empty_free_lists() -> None:
    """Gives up what the interpreter keeps of objects that were freed, which only a full collection does.

    Tuples are kept by their length, up to 2,000 of each. Many begin longer than they end, so that the list of their last length
    only grows: some forty with each save. Left alone, a full collection comes when a quarter as much is new as has stayed, to
    a supervisor hardly ever.
    """
    gc.collect()
