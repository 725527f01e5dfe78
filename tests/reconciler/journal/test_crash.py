"""The journal under real processes: killed between intent and result, writing at once, counted by their flushes."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.journal import Journal
from reconciler.model import Result
from tests.reconciler.journal.conftest import action

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[3]
PRELUDE = """
import os, sys
from pathlib import Path
from reconciler.journal import Journal
from reconciler.kinds import AppliedField
from reconciler.model import Key, Result
from tests.reconciler.journal.conftest import action
journal = Journal.open_writer(Path(sys.argv[1]), now=0.0)
def begin(run):
    journal.begin_run(run, cause="apply", plan_digest="p", document_digest="d", at=1.0, first_intent=action())
def ready():
    print("ready", flush=True)
"""

# Closing a number that is not open does nothing, and shows in a trace.
MARK = """
from contextlib import suppress
def mark():
    with suppress(OSError):
        os.close(9999)
"""


def start(path: Path, body: str, *wrapper: str) -> subprocess.Popen[str]:
    """A process that runs `body` with an open journal."""
    return subprocess.Popen(
        [*wrapper, sys.executable, "-c", PRELUDE + body, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def wait_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def end(process: subprocess.Popen[str], number: int = 0) -> int:
    if number:
        process.send_signal(number)
    with process:
        return process.wait(30)


@pytest.mark.req("PLAN-5")
def test_killed_between_intent_and_result_the_intent_is_open(path: Path) -> None:
    victim = start(path, 'begin("r1")\nready()\nsys.stdin.read()\n')
    wait_ready(victim)
    assert end(victim, signal.SIGKILL) == -signal.SIGKILL

    reader = Journal.open_reader(path)
    assert reader is not None
    with reader:
        assert [intent.action for intent in reader.open_runs()[0].intents] == [action()]
    with Journal.open_writer(path, now=2.0) as journal:
        assert journal.history_lost is None
        (open_run,) = journal.open_runs()
        assert [intent.action for intent in open_run.intents] == [action()]
        journal.done("r1", action().id, "done", 3.0)
        journal.end_run("r1", Result.CONFIRMED, 3.0)
        assert journal.open_runs() == ()


@pytest.mark.req("PLAN-5")
def test_killed_inside_a_record_nothing_of_it_is_there(path: Path) -> None:
    body = """
begin("r1")
with journal.transaction():
    journal.done("r1", action().id, "done", 2.0, applied={"x": AppliedField(1)})
    ready()
    sys.stdin.read()
"""
    victim = start(path, body)
    wait_ready(victim)
    end(victim, signal.SIGKILL)
    with Journal.open_writer(path, now=2.0) as journal:
        assert len(journal.open_runs()[0].intents) == 1
        assert journal.applied() == {}


def test_two_processes_write_at_once_and_lose_nothing(path: Path) -> None:
    Journal.open_writer(path, now=0.0).close()
    body = "ready()\nsys.stdin.readline()\nfor n in range(100): journal.record_event(n, None, str(os.getpid()), 't')\n"
    writers = [start(path, body) for _ in range(2)]
    for writer in writers:
        wait_ready(writer)
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [end(writer) for writer in writers] == [0, 0]
    reader = Journal.open_reader(path)
    assert reader is not None
    with reader:
        found = [event.what for event in reader.events()]
    assert sorted(found) == sorted(str(writer.pid) for writer in writers for _ in range(100))


def test_readers_see_whole_records_while_a_writer_writes(path: Path) -> None:
    body = """
ready()
for n in range(200):
    journal.set_all_applied({Key("file", name): {"n": AppliedField(n)} for name in "abcdef"})
"""
    writer = start(path, body)
    wait_ready(writer)
    reader = Journal.open_reader(path)
    assert reader is not None
    seen = set()
    with reader:
        while writer.poll() is None:
            numbers = {fields["n"].value for fields in reader.applied().values()}
            assert len(numbers) <= 1
            seen |= numbers
    assert end(writer) == 0
    assert seen <= set(range(200))


def flushes(path: Path, body: str) -> list[int]:
    """How many flushes followed each `mark()` of `body`."""
    trace = path.parent.parent / "trace"
    process = start(
        path,
        MARK + body,
        "strace",
        "-f",
        "-e",
        "trace=fsync,fdatasync,sync_file_range,msync,close",
        "-o",
        str(trace),
    )
    assert end(process) == 0
    counts: list[int] = []
    for line in trace.read_text().splitlines():
        if "close(9999)" in line:
            counts.append(0)
        elif counts and re.search(r"\b(fsync|fdatasync|sync_file_range|msync)\(", line):
            counts[-1] += 1
    return counts


@pytest.mark.req("PLAN-5")
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_an_action_costs_two_flushes_and_the_head_of_its_run_none(path: Path) -> None:
    body = """
journal.record_event(0.0, None, "first", "the first commit of a fresh log also flushes its header")
mark(); begin("r1")
mark(); journal.done("r1", action().id, "done", 2.0, applied={"a": AppliedField(1)}, forgotten=["b"])
mark(); journal.intend("r1", action("reload"), 3.0)
mark(); journal.done("r1", action("reload").id, "done", 4.0)
mark(); journal.runs(); journal.applied(); journal.open_runs()
mark(); journal.set_conditions(Key("a", "b"), [], 1.0)
mark(); os._exit(0)
"""
    path.parent.mkdir(parents=True)
    assert flushes(path, body) == [1, 1, 1, 1, 0, 0, 0]
