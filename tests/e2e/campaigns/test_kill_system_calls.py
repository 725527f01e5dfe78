"""The harder variety: an apply killed at the N-th system call of a thread, SQLite's own calls among them.

The program knows nothing of it: strace sends the signal. As with every kill, nothing is said about a loss of power.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest

from tests.beds.needs import needs_programs
from tests.beds.processes import Spawned, run
from tests.beds.strace import strace_command
from tests.e2e.campaigns.life import Order
from tests.e2e.campaigns.lives import PROGRAM, ROOT, Ground, Server, campaign, ground, spread
from tests.e2e.campaigns.test_kill_every_step import WINDOW_SECONDS, recovered

pytestmark = pytest.mark.real

# By which files come and go and the disk is told. Plain `write` is left to the steps: a started shell writes as well.
CALLS = "pwrite64,fsync,fdatasync,rename,unlink,fchmod,chmod,ftruncate,mkdir"
SAMPLE = 24


def applied(made: Ground, document: str, log: Path, inject: str) -> int:
    """The exit code of a process that applies `document`, traced; the processes that it starts are let go."""
    order = json.dumps(asdict(Order(directory=str(made.directory), document=document, window=WINDOW_SECONDS)))
    return run([*strace_command(log, CALLS, inject=inject, alone=True), *PROGRAM, order], cwd=ROOT).returncode


def longest(server: Server, document: str, log: Path) -> int:
    """How many of the calls the busiest thread makes in an apply that nobody kills."""
    with ground(server, document) as made:
        assert applied(made, document, log, "") == 0
        made.check(document, {})
    calls = Counter(line.split()[0] for line in log.read_text().splitlines() if "resumed>" not in line)
    return max(calls.values())


def killed_at(document: str, logs: Path, ended: Counter[int], server: Server, number: int) -> None:
    """An apply whose first thread that comes to its call `number` takes the process with it, and the next one."""
    with ground(server, document) as made:
        log = logs / f"{document}-{number}"
        code = applied(made, document, log, f"signal=SIGKILL:when={number}")
        # Who the actions that run side by side are shared out to is chance: it may come to the end.
        assert code in (0, -9), log.read_text()[-2000:]
        ended[code] += 1
        recovered(made, document, made.reached(document)) if code else made.check(document, {})


def campaign_of(spawned: Spawned, logs: Path, document: str, sample: int | None) -> None:
    needs_programs("strace")
    last = longest(Server(spawned), document, logs / "log")
    numbers = spread(range(1, last + 1), sample if sample is not None else last)
    ended: Counter[int] = Counter()
    campaign(spawned, numbers, partial(killed_at, document, logs, ended))
    print(f"{document}: killed at {ended[-9]} of {len(numbers)} calls of the busiest thread's {last}")
    assert ended[-9] >= len(numbers) // 3


@pytest.mark.req("PLAN-5", "PLAN-13")
@pytest.mark.parametrize("document", ["before", "after"], ids=["first", "change"])
def test_killed_at_a_system_call_the_next_process_finishes(spawned: Spawned, tmp_path: Path, document: str) -> None:
    campaign_of(spawned, tmp_path, document, SAMPLE)


@pytest.mark.soak
@pytest.mark.req("PLAN-5", "PLAN-13")
@pytest.mark.parametrize("document", ["before", "after"], ids=["first", "change"])
def test_killed_at_every_system_call_the_next_process_finishes(spawned: Spawned, tmp_path: Path, document: str) -> None:
    campaign_of(spawned, tmp_path, document, None)
