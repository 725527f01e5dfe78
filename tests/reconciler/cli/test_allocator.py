"""What a supervisor's process keeps of the memory that it once needed."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.req("SVC-7"),
    pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_stats"), reason="the C library is not glibc"),
]

# More at once than a supervisor ever has; each allocates what is too large for Python's own allocator.
THREADS = """
import ctypes, sys, threading
from reconciler.cli.allocator import keep_memory_together
if sys.argv[1] == "together":
    keep_memory_together()
all_there = threading.Barrier(12)
def work():
    blocks = [bytes(2000) for _ in range(1000)]
    all_there.wait()
threads = [threading.Thread(target=work) for _ in range(12)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
ctypes.CDLL(None).malloc_stats()
"""

# The first large block that is freed is what glibc learns from.
LARGE = """
import ctypes, sys
from reconciler.cli.allocator import keep_memory_together
if sys.argv[1] == "together":
    keep_memory_together()
bytes(2 << 20)
large = bytes(1 << 20)
ctypes.CDLL(None).malloc_stats()
"""


def malloc_stats(program: str, how: str) -> str:
    """What malloc_stats(3) says at the end of `program`."""
    done = subprocess.run([sys.executable, "-c", program, how], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_all_threads_share_one_arena() -> None:
    assert malloc_stats(THREADS, "together").count("Arena ") == 1
    assert malloc_stats(THREADS, "apart").count("Arena ") > 1


def mapped_bytes(stats: str) -> int:
    """What lies in mappings of its own; the last "in use bytes" is that of the total, mappings included."""
    arenas = [int(size) for size in re.findall(r"^in use bytes +=\s*(\d+)", stats, re.MULTILINE)]
    return arenas[-1] - sum(arenas[:-1])


def test_a_large_block_lies_in_a_mapping_of_its_own_whatever_was_freed_before() -> None:
    together, apart = (mapped_bytes(malloc_stats(LARGE, how)) for how in ("together", "apart"))
    assert together - apart >= 1 << 20


# A tuple that is made from a generator begins longer than it ends: freed, it is kept among those of its own length. CPython 3.11
# keeps all 7,000 of these.
TUPLES = """
import sys
from reconciler.cli.allocator import empty_free_lists, forget_the_start
forget_the_start()
before = sys.getallocatedblocks()
for length in range(1, 8):
    for _ in range(1000):
        tuple(item for item in range(length))
empty_free_lists()
print(sys.getallocatedblocks() - before)
"""


def test_what_the_interpreter_keeps_of_freed_objects_is_given_up() -> None:
    done = subprocess.run([sys.executable, "-c", TUPLES], capture_output=True, text=True, timeout=30, check=True)
    assert int(done.stdout) < 100
