"""`openclaw apply` and `openclaw run` where calls of the system fail: the right end, clear words, nothing lost, and the next run
without the fault goes on.

The faults are real for the program: strace lets the N-th call of a thread fail, or a limit, a mode or another user does.
"""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from reconciler.journal import Journal
from reconciler.model import Generation, Result
from tests.beds.needs import needs_programs, needs_root
from tests.beds.processes import run, wait_until
from tests.beds.site import Answer, Site
from tests.beds.strace import injected_in, strace_command
from tests.e2e.campaigns.lives import spread

pytestmark = pytest.mark.real

# How a system's error may be told: in its own words, or in SQLite's or ours.
WORDS = {
    "EIO": ("input/output error", "disk i/o error"),
    "ENOSPC": ("no space left on device", "the disk is full", "ran full"),
    "EMFILE": ("too many open files", "unable to open database file", "readonly database"),
    "EACCES": ("permission denied", "unable to open database file", "readonly database"),
    "EPERM": ("operation not permitted",),
}
LEVELS = ("info", "debug")
# Of all the calls that fail one at a time in a soak, what `make test` takes.
SAMPLE = 24


@dataclass(frozen=True)
class Fault:
    """Calls that fail with `error`: all of them, or those that name one of `paths` (below the state directory)."""

    calls: str
    error: str
    paths: tuple[str, ...] = ()


FAULTS = (
    Fault("fsync,fdatasync", "EIO"),
    Fault("pwrite64", "ENOSPC"),
    Fault("pwrite64", "EIO"),
    Fault("rename", "EIO"),
    Fault("fchmod", "EPERM"),
    Fault("write", "ENOSPC", (".openclaw.json.openclaw.tmp",)),
    Fault("openat", "ENOSPC", (".openclaw.json.openclaw.tmp",)),
    Fault("openat", "EMFILE", ("openclaw.json",)),
    Fault("openat", "EIO", ("openclaw.json",)),
    Fault("openat", "EACCES", ("openclaw.json",)),
    Fault("openat", "EMFILE", ("reconciler/lock",)),
    Fault("openat", "EMFILE", ("reconciler/verify.lock",)),
    Fault("openat", "EMFILE", ("reconciler/journal.sqlite",)),
    Fault("openat", "EMFILE", ("reconciler/journal.sqlite-wal",)),
    Fault("openat", "EMFILE", ("reconciler/backups/gateway-config.json", ".openclaw.json.openclaw.tmp")),
    Fault("openat", "EMFILE", ("reconciler/keeper/children",)),
)


@dataclass
class Host:
    """A site whose gateway serves, and whose document changes its log level again and again."""

    site: Site
    level: str = "info"
    ended: Counter[int] = field(default_factory=Counter)

    @property
    def config(self) -> Path:
        return self.site.state / "openclaw.json"

    def run(self, head: Callable[[], Sequence[str | Path]], *argv: str) -> Answer:
        """`openclaw ARGV` behind another command line."""
        self.site.inside = lambda argv, _cwd: [*head(), *argv]
        try:
            return self.site.run(*argv)
        finally:
            self.site.inside = lambda argv, _cwd: argv

    def attempt(
        self,
        head: Callable[[], Sequence[str | Path]],
        what: str,
        words: Sequence[str],
        *,
        mend: Callable[[], object] = lambda: None,
    ) -> Answer:
        """An apply of a changed document under a fault, judged; `words` are those by which the fault may be told.

        What `head` did to the host is undone by `mend` right after the apply.
        """
        old, pid, generations = self.config.read_text(), self.site.gateway_pid(), len(self._generations())
        was, self.level = self.level, LEVELS[self.level == LEVELS[0]]
        self.site.edit(f"level: {was}", f"level: {self.level}")
        new = old.replace(f'"{was}"', f'"{self.level}"')
        try:
            answer = self.run(head, "apply", "--yes")
        finally:
            mend()
        self.ended[answer.code] += 1
        try:
            judge(answer, self.config.read_text(), words, old, new)
            assert len(self._generations()) >= generations, "a part of the history is gone"
            assert self.site.gateway_pid() == pid, "the gateway was disturbed"
        except AssertionError as err:
            raise AssertionError(f"{what}: {err}") from err
        finally:
            again = self.site.run("apply", "--yes")
        if "going on with the way back" in again.err:
            # What was taken back is tried again by another word than the one that finished its way back.
            assert again.code == 5, (what, answer, again)
            again = self.site.run("apply", "--yes")
        assert again.code == 0, (what, answer, again)
        assert self.config.read_text() == new, what
        self._check_converged(what)
        assert self.site.gateway_pid() == pid, what
        return answer

    def _check_converged(self, what: str) -> None:
        assert self.site.call("gateway", "call", "config.get").json["config"]["logging"]["level"] == self.level, what
        assert self.site.call("plan", "--json").json["actions"] == [], what
        journal = Journal.open_reader(self.site.state / "reconciler" / "journal.sqlite")
        assert journal is not None, what
        with journal:
            assert journal.open_runs() == (), what
            assert journal.generations(1)[0].result is Result.CONFIRMED, what
        left = [path.name for path in self.site.state.rglob("*") if ".tmp" in path.name]
        assert left == [], (what, left)

    def _generations(self) -> tuple[Generation, ...]:
        """The history, which must be readable whatever happened."""
        journal = Journal.open_reader(self.site.state / "reconciler" / "journal.sqlite")
        assert journal is not None
        with journal:
            assert journal.history_lost is None
            assert journal.last_confirmed() is not None
            return journal.generations()


def judge(answer: Answer, now: str, words: Sequence[str], old: str, new: str) -> None:
    """Whether an apply under a fault ended rightly: its code, its words, and what openclaw.json (`now`) is by then."""
    told = answer.out + answer.err
    assert answer.code in (0, 1, 4, 5, 6, 77), answer
    for forbidden in ("Traceback", "bug of ours", "Error:", "Exception"):
        assert forbidden not in told, answer
    # Whoever is told that it is done finds it done, and whoever is told that it was taken back finds it so.
    assert now in {0: (new,), 5: (old,)}.get(answer.code, (old, new)), (answer, now)
    assert not answer.code or any(word in told.lower() for word in words), answer


@pytest.fixture
def host(site: Site) -> Host:
    site.write(verify="150ms")
    site.apply()
    # What the first change of all leaves behind is there from now on: every later one makes the same calls.
    made = Host(site)
    made.attempt(lambda: (), "nothing", ())
    assert made.ended == {0: 1}
    return made


def cases(host: Host, log: Path) -> list[tuple[Fault, int]]:
    """Every fault with every number that a thread of an apply comes to."""
    found = []
    for fault in FAULTS:
        paths = [host.site.state / path for path in fault.paths]
        host.attempt(partial(strace_command, log, fault.calls, paths=paths), str(fault), ())
        threads = Counter(line.split()[0] for line in log.read_text().splitlines() if "resumed>" not in line)
        found += [(fault, number) for number in range(1, max(threads.values(), default=0) + 1)]
    return found


def faults_of(host: Host, log: Path, sample: int | None) -> None:
    needs_programs("strace")
    every = cases(host, log)
    host.ended.clear()
    met = 0
    chosen = spread(every, sample if sample is not None else len(every))
    failed, stuck = [], []
    for fault, number in chosen:
        paths = [host.site.state / path for path in fault.paths]
        inject = f"error={fault.error}:when={number}"
        # SQLite does not say why it could not enlarge the index of its log; it is taken for the usual reason.
        words = (*WORDS[fault.error], *(("the disk is full",) if fault.calls == "pwrite64" else ()))
        what = f"{fault.error} for call {number} of {fault.calls} {' '.join(fault.paths)}"
        try:
            answer = host.attempt(partial(strace_command, log, fault.calls, inject=inject, paths=paths), what, words)
            stuck += [what] * (answer.code == 6)
        except AssertionError as err:
            failed.append(str(err))
        met += bool(injected_in(log.read_text().splitlines()))
    print(f"not brought to an end by itself (exit 6): {'; '.join(stuck) or 'none'}")
    print(
        f"{met} of {len(chosen)} faults met (of {len(every)} there are); exit codes {dict(sorted(host.ended.items()))}"
    )
    assert not failed, f"{len(failed)} of {len(chosen)} ended badly:\n" + "\n".join(failed)
    assert met >= len(chosen) * 3 // 4


@pytest.mark.req("PLAN-5", "PLAN-7")
def test_a_call_that_fails_is_told_loses_nothing_and_the_next_run_goes_on(host: Host, tmp_path: Path) -> None:
    faults_of(host, tmp_path / "log", SAMPLE)


@pytest.mark.soak
@pytest.mark.req("PLAN-5", "PLAN-7")
def test_every_call_that_fails_is_told_loses_nothing_and_the_next_run_goes_on(host: Host, tmp_path: Path) -> None:
    faults_of(host, tmp_path / "log", None)


@pytest.mark.req("PLAN-4", "PLAN-7", "PLAN-15")
def test_a_write_for_which_there_is_no_room_is_a_failure_to_try_again_and_condemns_no_document(
    host: Host, tmp_path: Path
) -> None:
    needs_programs("strace")
    number = host.site.generations()[0]["number"]
    head = partial(
        strace_command,
        tmp_path / "log",
        "write",
        inject="error=ENOSPC",
        paths=[host.site.state / ".openclaw.json.openclaw.tmp"],
    )
    answer = host.attempt(head, "no room for openclaw.json", WORDS["ENOSPC"])
    assert injected_in((tmp_path / "log").read_text().splitlines())
    assert answer.code == 1, answer
    # The run without the fault went on with the generation that the failed one had begun.
    newest = host.site.generations()[0]
    assert (newest["number"], newest["result"]) == (number + 1, "confirmed")
    journal = Journal.open_reader(host.site.state / "reconciler" / "journal.sqlite")
    assert journal is not None
    with journal:
        assert journal.quarantines() == ()


@pytest.mark.req("PLAN-5", "PLAN-7")
@pytest.mark.parametrize("limits", [range(6, 25, 3), pytest.param(range(5, 32), marks=pytest.mark.soak)], ids=str)
def test_an_apply_with_few_descriptors_is_done_or_says_what_it_lacks(host: Host, limits: range) -> None:
    needs_programs("prlimit")
    host.ended.clear()
    # With four not even the interpreter comes up; what an apply needs altogether is some fifteen, by what it does at once.
    for limit in limits:
        head = ("prlimit", f"--nofile={limit}", "--")
        host.attempt(partial(tuple, head), f"{limit} descriptors", WORDS["EMFILE"])
    print(f"limits of {[*limits]} descriptors: exit codes {dict(sorted(host.ended.items()))}")
    assert host.ended[0] >= 1
    assert host.ended[1] >= 2


@pytest.mark.req("PLAN-3")
@pytest.mark.parametrize("limit", [14, 18, 22])
def test_a_supervisor_with_few_descriptors_lives_and_goes_on_once_it_has_more(site: Site, limit: int) -> None:
    needs_programs("prlimit")
    site.write(verify="150ms")
    site.apply()
    site.inside = lambda argv, _cwd: ["prlimit", f"--nofile={limit}:256", "--", *argv]
    supervisor = site.supervisor("--on-exit", "leave")
    site.edit("level: info", "level: debug")
    wait_until(
        lambda: supervisor.process.poll() is not None or len(supervisor.events()) > 2, 10, "it meets what it lacks"
    )
    assert supervisor.process.poll() is None, supervisor.text()
    raised = run(["prlimit", f"--pid={supervisor.process.pid}", "--nofile=256"])
    assert raised.returncode == 0, raised.stderr
    # Whatever it could not watch is found by its next look: asked for here, for the slow one comes in minutes.
    supervisor.process.send_signal(signal.SIGHUP)
    config = site.state / "openclaw.json"
    wait_until(lambda: json.loads(config.read_text())["logging"]["level"] == "debug", 20, "the saved level in force")
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "it is confirmed")
    assert supervisor.stop() == 0
    assert "bug" not in supervisor.text()
    assert "Traceback" not in supervisor.text()


# Root without its capabilities obeys the modes of files like everybody else.
BARE = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")
STRANGER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")


# What is forbidden by which mode, and how an apply may end then.
FORBIDDEN = (
    ("openclaw.json", 0o000, {1}),
    (".", 0o500, {1, 5}),
    # Where SQLite's side files lie there already, nothing has to be made.
    ("reconciler", 0o500, {0, 1}),
    ("reconciler", 0o000, {77}),
    ("reconciler/journal.sqlite", 0o400, {77}),
    ("reconciler/journal.sqlite", 0o000, {77}),
    ("reconciler/lock", 0o000, {77}),
    ("reconciler/keeper", 0o000, {1}),
)


@pytest.mark.req("PLAN-5", "PLAN-7")
def test_what_a_mode_forbids_is_told_and_the_next_run_goes_on(host: Host) -> None:
    needs_root("modes that it obeys once its capabilities are dropped")
    needs_programs("setpriv")
    for path, mode, codes in FORBIDDEN:
        target = host.site.state / path
        usual = target.stat().st_mode & 0o7777
        forbid, mend = partial(forbidding, target, mode), partial(target.chmod, usual)
        answer = host.attempt(forbid, f"{path} with mode {mode:o}", WORDS["EACCES"], mend=mend)
        assert answer.code in codes, (path, answer)


def forbidding(path: Path, mode: int) -> Sequence[str]:
    """Sets the mode and returns the command line that obeys it."""
    path.chmod(mode)
    return BARE


@pytest.mark.req("PLAN-5")
def test_another_user_is_told_that_it_may_not(host: Host) -> None:
    needs_root("becoming another user")
    needs_programs("setpriv")
    site = host.site
    before = host.config.read_bytes()
    # The document may be read by everybody, the state directory may not.
    site.home.parent.chmod(0o755)
    site.document.chmod(0o644)
    for command in COMMANDS:
        answer = host.run(lambda: STRANGER, *command)
        assert (answer.code, answer.out) == (77, ""), (command, answer)
        assert "permission denied" in answer.err.lower(), (command, answer)
        assert "Traceback" not in answer.err, (command, answer)
    assert host.config.read_bytes() == before


COMMANDS = (
    ("apply", "--yes"),
    ("rollback", "1", "--yes"),
    ("plan",),
    ("status",),
    ("history",),
    ("diff", "1"),
    ("why", "service/gateway"),
    ("run",),
    ("service", "status"),
    ("service", "stop"),
    ("gateway", "health"),
    ("gateway", "call", "config.get"),
    ("logs",),
)


@pytest.mark.req("PLAN-3")
def test_a_supervisor_whose_keeper_may_not_be_asked_lives_and_says_so(site: Site) -> None:
    needs_root("modes that it obeys once its capabilities are dropped")
    needs_programs("setpriv")
    site.write(verify="150ms")
    site.apply()
    keeper = site.state / "reconciler" / "keeper"
    keeper.chmod(0)
    try:
        site.inside = lambda argv, _cwd: [*BARE, *argv]
        supervisor = site.supervisor("--on-exit", "leave")
        supervisor.wait_event(lambda event: event["event"] == "unknown", "it says what it cannot see")
        assert supervisor.process.poll() is None
    finally:
        keeper.chmod(0o700)
    supervisor.process.send_signal(signal.SIGHUP)
    site.edit("level: info", "level: debug")
    supervisor.wait_event(lambda event: event.get("result") == "confirmed", "the saved level is confirmed")
    assert supervisor.stop() == 0
    assert "bug" not in supervisor.text()
