"""In which order an apply writes and flushes, read from a trace of its system calls.

An intent is flushed before its effect, an effect in the order that a crash cannot tear, its result after it. That is what the
program asks of the system; whether a disk keeps what it was told to flush is not shown here.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.beds.needs import needs_programs
from tests.beds.processes import Spawned, run
from tests.beds.site import Site
from tests.beds.strace import Timed, calls_in, strace_command
from tests.e2e.campaigns.life import Order
from tests.e2e.campaigns.lives import PROGRAM, ROOT, Server, ground

pytestmark = pytest.mark.real

FLUSHES = "fsync,fdatasync"
CALLS = f"{FLUSHES},write,rename,unlink"
# A log that is new has a header and an entry in its directory, each flushed by SQLite before the first commit.
FRESH_LOG = 2


def word(timed: Timed, directory: Path) -> str:
    """One call as a short word; empty for what is not about the journal or the files in `directory`."""
    path = Path(timed.path)
    if timed.call.name in FLUSHES.split(",") and (path.name.startswith("journal.sqlite") or path.name == "reconciler"):
        return "journal"
    if path == directory or path.parent == directory:
        return f"{timed.call.name} {'directory' if path == directory else path.name}"
    return ""


def words(found: list[Timed], directory: Path) -> list[str]:
    """The order of all that matters, where nothing overlaps (which is asserted)."""
    kept = [(timed, text) for timed in found if (text := word(timed, directory))]
    for (one, _), (next_one, text) in itertools.pairwise(kept):
        assert one.ended < next_one.began, f"{text} began before what precedes it had ended"
    return [text for _, text in kept]


def replaced(name: str) -> list[str]:
    """How one file is replaced so that it is the old one or the new one at any instant."""
    temporary = f".{name}.openclaw.tmp"
    return [f"write {temporary}", f"fsync {temporary}", f"rename {name}", "fsync directory"]


@pytest.mark.req("PLAN-5")
def test_intent_effect_and_result_reach_the_disk_in_this_order_with_one_flush_of_the_journal_each(
    spawned: Spawned, tmp_path: Path
) -> None:
    needs_programs("strace")
    with ground(Server(spawned), "chain") as made:
        assert made.live("chain") is not None
        # Without what belongs to the first apply of all: the journal is there and closed.
        order = json.dumps(asdict(Order(directory=str(made.directory), document="chain again")))
        done = run([*strace_command(tmp_path / "log", CALLS), *PROGRAM, order], cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["actions"] == [f"file/f{number}:write" for number in range(4)]
        order_of_all = words(calls_in((tmp_path / "log").read_text().splitlines()), made.directory / "targets")
    expected = ["journal"] * FRESH_LOG
    for number in range(4):
        # The first intent comes with the head of the run: one flush for both.
        expected += ["journal", *replaced(f"f{number}"), "journal"]
    effects, rest = order_of_all[: len(expected)], order_of_all[len(expected) :]
    assert effects == expected
    assert set(rest) == {"journal"}, "after the last result only the journal is written"
    print(f"4 actions: {effects.count('journal')} flushes of the journal, {FRESH_LOG} of them for a new log,")
    print(f"{sum(item.startswith('fsync') for item in effects)} of the effects; {len(rest)} for the end of the run")


@pytest.mark.req("PLAN-2", "PLAN-5")
def test_openclaw_apply_flushes_in_this_order_and_not_at_all_where_nothing_differs(site: Site, tmp_path: Path) -> None:
    needs_programs("strace")
    site.write(verify="100ms")
    site.apply()
    site.edit("level: info", "level: debug")
    log = tmp_path / "log"
    site.inside = lambda argv, _cwd: [*strace_command(log, CALLS), *argv]
    assert site.apply()["result"] == "confirmed"
    order = words(calls_in(log.read_text().splitlines()), site.state)
    assert [item for item in order if item != "journal"] == replaced("openclaw.json")
    first = order.index("write .openclaw.json.openclaw.tmp")
    assert order[:first] == ["journal"] * (FRESH_LOG + 1)
    # The result of the write, and the intent and the result of the reload.
    assert len(order) - first - 4 >= 3
    print(f"2 actions: {order.count('journal')} flushes of the journal, {len(replaced('')) - 2} of the effect")
    site.apply()
    flushes = [timed for timed in calls_in(log.read_text().splitlines()) if timed.call.name in FLUSHES.split(",")]
    assert flushes == [], "nothing differs, so nothing is written"
    print("no differences: 0 flushes")
