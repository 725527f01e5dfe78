"""A host on which processes of `life` live and die, and what an observer from outside can say about it afterwards."""

from __future__ import annotations

import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from reconciler.host import Host, StatePaths
from reconciler.journal import Journal
from reconciler.model import Result
from resources.testing import pid_of
from tests.beds.processes import Spawned, end_state, processes_of_state, wait_until
from tests.e2e.campaigns.life import DOCUMENTS, Order

T = TypeVar("T")

ROOT: Final = Path(__file__).parents[3]
PROGRAM: Final = (sys.executable, "-m", "tests.e2e.campaigns.life")
# The machine has two cores, and much of a life is waiting for the disk.
AT_ONCE: Final = 2
# How many keys an apply of the document changes, withdrawn ones included: the first of all, and the one after it.
CHANGED: Final = {"before": 6, "after": 12}
SECTIONS: Final = {"file": "x-files", "child": "x-children"}
FORMER: Final = "theirs"


class Server:
    """Starts lives. One at a time: for more at once there are more servers."""

    def __init__(self, spawned: Spawned) -> None:
        self._process = spawned.start(PROGRAM, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def live(self, order: Order) -> dict[str, Any] | None:
        """Lets a process carry out `order`; what it told, or None where it was killed (by itself, as it was ordered)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        said = json.loads(self._process.stdout.readline())
        if os.WIFSIGNALED(said["status"]):
            assert os.WTERMSIG(said["status"]) == signal.SIGKILL, said
            return None
        assert said["status"] == 0, f"a life failed (its trace is on stderr): {order}"
        answer: dict[str, Any] = said["answer"]
        return answer


Reached = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Ground:
    """A host with one file that was there before us, and with whatever its lives brought about."""

    directory: Path
    server: Server

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def host(self) -> Host:
        return Host(
            state=StatePaths(self.state), environ={}, home=self.directory, runtime_directory=self.directory / "run"
        )

    def live(self, document: str, **order: Any) -> dict[str, Any] | None:
        """A life on this host (see `Order`)."""
        return self.server.live(Order(directory=str(self.directory), document=document, **order))

    def starts(self, name: str) -> list[str]:
        """The lines that the processes of the child `name` wrote when they began: the version, then the pid."""
        try:
            return (self.directory / "starts" / name).read_text().splitlines()
        except FileNotFoundError:
            return []

    def reached(self, document: str) -> Reached:
        """Inode and time of change of every file that is as `document` asks: to touch one again changes one of them."""
        found = {}
        for name, entry in DOCUMENTS[document](self.directory)["x-files"].items():
            path = Path(entry["path"])
            if path.exists():
                status, content = path.stat(), path.read_text()
                if content == entry["content"] and f"{status.st_mode & 0o777:04o}" == entry.get("mode", "0644"):
                    found[name] = (status.st_ino, status.st_ctime_ns)
        return found

    def check(self, document: str, reached: Reached) -> None:
        """Asserts that `document` is in force, once, and nothing is left over; `reached` is what was so already."""
        declared = DOCUMENTS[document](self.directory)
        self._check_files(declared["x-files"], self.reached(document), reached)
        self._check_processes(declared["x-children"])
        self._check_journal(document, declared)

    def _check_files(self, declared: dict[str, Any], now: Reached, before: Reached) -> None:
        assert set(now) == set(declared), f"not as declared: {set(declared) - set(now)}"
        assert {name: now[name] for name in before} == before, "a file that was as declared was touched again"
        targets = self.directory / "targets"
        assert {path.name for path in targets.iterdir()} == {*declared, "former"}
        assert "former" in declared or (targets / "former").read_text() == FORMER
        left = [path.name for path in self.directory.rglob("*") if ".tmp" in path.name or ".new" in path.name]
        assert left == [], f"temporary files are left: {left}"

    def _check_processes(self, declared: dict[str, Any]) -> None:
        wanted = set()
        for name, entry in declared.items():
            pid = pid_of(self.host, name)
            assert pid is not None, f"{name} does not run"
            # Who was started just now may not have come to its first line yet.
            wait_until(partial(self._told, name, pid), 10, f"the first line of {name}")
            versions = [line.split()[0] for line in self.starts(name)]
            assert versions == [str(number + 1) for number in range(int(entry["argv"][-1]))], f"{name}: {versions}"
            wanted.add(pid)
        running = {process.pid for process in processes_of_state(self.state)}
        assert running == wanted, f"processes that nobody holds: {running - wanted}"

    def _told(self, name: str, pid: int) -> bool:
        return any(line.split()[1] == str(pid) for line in self.starts(name))

    def _check_journal(self, document: str, declared: dict[str, Any]) -> None:
        journal = Journal.open_reader(self.host.state.journal)
        assert journal is not None
        with journal:
            assert journal.history_lost is None
            assert journal.open_runs() == ()
            newest = journal.generations()[0]
            assert newest.result is Result.CONFIRMED, newest
            assert newest.canonical["canonical"] == declared
            applied = {str(key) for key in journal.applied()}
            assert applied == {f"{kind}/{name}" for kind, section in SECTIONS.items() for name in declared[section]}
            runs = journal.runs()
            if document == "after":
                # The first run brought `before` about.
                runs = runs[:-1]
            intents = [intent for run in runs for intent in journal.actions_of(run.id)]
            done = Counter(intent.action.key for intent in intents if intent.result == "done")
            assert len(done) == CHANGED[document], done
            assert set(done.values()) == {1}, f"done twice, by the journal: {done}"


@contextmanager
def ground(server: Server, document: str) -> Iterator[Ground]:
    """A host on which `document` can be applied for the first time; with the context it is gone, and all that runs on it."""
    directory = Path(tempfile.mkdtemp(prefix="oc-life-", dir="/tmp"))
    try:
        for name in ("targets", "starts"):
            (directory / name).mkdir()
        (directory / "targets" / "former").write_text(FORMER)
        made = Ground(directory, server)
        if document == "after":
            answer = made.live("before")
            assert answer is not None
            assert answer["result"] == "confirmed", answer
            wait_until(lambda: made.starts("worker"), 10, "the process that is restarted later")
        yield made
    finally:
        end_state(directory / "state")
        shutil.rmtree(directory)


def campaign(spawned: Spawned, cases: Sequence[T], one: Callable[[Server, T], None]) -> None:
    """Tries `one` with every case, `AT_ONCE` at a time; says at the end for which it failed, and how."""
    free: queue.SimpleQueue[Server] = queue.SimpleQueue()
    for _ in range(AT_ONCE):
        free.put(Server(spawned))

    def tried(case: T) -> str | None:
        server = free.get()
        try:
            one(server, case)
        except AssertionError as err:
            return f"{case}: {err}"
        finally:
            free.put(server)
        return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        failed = [text for text in pool.map(tried, cases) if text is not None]
    assert not failed, f"{len(failed)} of {len(cases)} failed:\n" + "\n".join(failed)


def spread(cases: Sequence[T], count: int) -> list[T]:
    """`count` of the cases (all, where there are fewer), evenly spread over them, the same ones each time."""
    if len(cases) <= count:
        return list(cases)
    chance, width = random.Random(20_260_101), len(cases) / count
    return [cases[min(int(width * (number + chance.random())), len(cases) - 1)] for number in range(count)]
