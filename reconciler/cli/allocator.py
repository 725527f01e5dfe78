"""How a process that lives for months deals with memory: what the C library would keep for nothing."""

from __future__ import annotations

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
