"""What the processes weigh, and what they do when there is nothing to do: memory and CPU, as the kernel counts them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.beds.processes import Spawned, argv_of, end_state, processes_of_state
from tests.bench.harness import CommandFailedError, Contender, Row
from tests.resources.service.beds import Bed

REST_SECONDS: Final = 20.0
SETTLE_SECONDS: Final = 5.0
KEEPER_MB: Final = 18.0
CHILD_MB: Final = 0.05


def resident_mb(pid: int) -> float:
    """Resident memory in MB (10^6 bytes): VmRSS of proc(5)."""
    return resident_of(Path(f"/proc/{pid}/status").read_text())


def resident_of(status: str) -> float:
    """The same from the text of proc(5)'s status.

    Raises:
        CommandFailedError: it is not in there: the process has ended.
    """
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise CommandFailedError("a process that was to be weighed has ended")


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time of these processes so far, threads that have ended included, to a hundredth of a second each: proc(5)'s stat."""
    return sum(cpu_of(Path(f"/proc/{pid}/stat").read_text()) for pid in pids)


def cpu_of(stat: str) -> float:
    """The same from the text of one stat: `utime` and `stime`, the 14th and 15th fields; the name before may hold spaces."""
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pid_of(state: Path, *words: str) -> int:
    """The one process of this state directory with these words in its command line."""
    found = [one.pid for one in processes_of_state(state) if set(words) <= set(argv_of(one.pid))]
    if len(found) != 1:
        raise CommandFailedError(f"one process with {words} was to be found, there are {len(found)}")
    return found[0]


def rest_rows(state: Path) -> list[Row]:
    """The three processes of a state directory that a supervisor serves; once is enough, and takes `REST_SECONDS`."""
    supervisor, keeper, gateway = (
        pid_of(state, *words) for words in (("run", "--on-exit"), ("resources.service.keeper",), ("gateway", "run"))
    )

    def rest() -> float:
        time.sleep(SETTLE_SECONDS)  # the window of the last change
        began, before = time.monotonic(), cpu_seconds((supervisor, keeper, gateway))
        time.sleep(REST_SECONDS)
        used = cpu_seconds((supervisor, keeper, gateway)) - before
        return 100 * used / (time.monotonic() - began)

    def weight(name: str, pid: int, at_most: float) -> Row:
        contender = Contender(name=name, measure=lambda: resident_mb(pid))
        return Row(name=f"memory of the {name}", contender=contender, floor=None, at_most=at_most, unit="MB")

    return [
        Row(
            name="CPU at rest, all three",
            contender=Contender(name="rest", measure=rest),
            floor=None,
            at_most=0.5,
            unit="%",
        ),
        weight("supervisor", supervisor, 60),
        weight("keeper, 1 child", keeper, KEEPER_MB + CHILD_MB),
    ]


def keeper_rows(directory: Path, children: int = 20) -> list[Row]:
    """A keeper with so many children."""

    def measure() -> float:
        state = directory / "many-children"
        state.mkdir()
        with Spawned() as spawned:
            try:
                bed = Bed(state, spawned)
                keeper = bed.keeper()
                with bed.client() as client:
                    for at in range(children):
                        client.ok("ensure", name=f"child-{at}", spec=bed.spec(["sleep", "100000"]))
                        client.ok("start", name=f"child-{at}")
                        client.ok("wait", name=f"child-{at}")
                return resident_mb(keeper.pid)
            finally:
                end_state(state)

    return [
        Row(
            name=f"memory of the keeper, {children} children",
            contender=Contender(name=f"keeper with {children}", measure=measure),
            floor=None,
            at_most=KEEPER_MB + children * CHILD_MB,
            unit="MB",
        )
    ]
