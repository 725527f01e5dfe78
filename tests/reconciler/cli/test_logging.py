"""A log whose reader stands still holds nobody up, and says afterwards what it left out."""

from __future__ import annotations

import os
import threading
import time

import pytest

from reconciler.cli.logging import MAX_LINES, Writer

pytestmark = pytest.mark.req("OPS-1")


def lines_of(reading: int, until: str) -> list[str]:
    found = b""
    while until.encode() not in found:
        found += os.read(reading, 65536)
    return found.decode().splitlines()


def test_what_is_written_comes_in_order_and_is_waited_for_at_the_end() -> None:
    reading, writing = os.pipe()
    writer = Writer(writing)
    for number in range(100):
        writer.write(f"{number}\n")
    assert writer.drain(5.0)
    os.close(writing)
    with open(reading) as stream:
        assert stream.read().splitlines() == [str(number) for number in range(100)]


def test_whoever_reads_nothing_holds_nobody_up_and_finds_the_newest_lines() -> None:
    reading, writing = os.pipe()
    lost: list[int] = []

    def tell(lines: int) -> None:
        lost.append(lines)
        writer.write("lost\n")

    writer = Writer(writing, tell)
    long = "x" * 1000
    began = time.monotonic()
    for number in range(3 * MAX_LINES):
        writer.write(f"{number} {long}\n")
    assert not writer.drain(0.01)
    assert time.monotonic() - began < 5
    # That lines are lost is told in between as well, where the writing thread comes to it before the last of them.
    writer.write("end\n")
    found = [line.split()[0] for line in lines_of(reading, "end\n")]
    assert writer.drain(5.0)
    numbers = [int(each) for each in found if each not in ("lost", "end")]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 3 * MAX_LINES - 1
    assert len(numbers) + sum(lost) >= 3 * MAX_LINES
    os.close(writing)
    os.close(reading)


def test_a_reader_that_is_gone_and_one_that_made_the_pipe_impatient_are_both_borne() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    writer = Writer(writing)

    def read_late() -> None:
        time.sleep(0.2)
        lines_of(reading, "end\n")

    slow = threading.Thread(target=read_late)
    slow.start()
    writer.write("x" * 200_000 + "\nend\n")
    assert writer.drain(5.0)
    slow.join()
    os.close(reading)
    writer.write("nobody\n")
    assert writer.drain(5.0)
    os.close(writing)
