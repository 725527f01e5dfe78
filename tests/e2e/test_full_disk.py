"""A state directory without a free byte, or mounted for reading: what serves goes on, and nothing is lost or half done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reconciler.engine.ballast import SIZE_BYTES
from tests.beds.ports import free_port
from tests.beds.processes import Spawned, identify, pid_alive, processes_of_state, wait_until
from tests.beds.site import Site
from tests.beds.small_disk import SmallDisk, fill

pytestmark = pytest.mark.real

MEBIBYTES = 4
DAY = 86_400
RETENTION = "\n  retention: {age: 1d, total: null, files: null, compress_after: null}"


@dataclass
class Cramped:
    """A host whose state directory is a small disk, with a gateway that serves. `path` is the state directory."""

    site: Site
    disk: SmallDisk

    @property
    def path(self) -> Path:
        return self.disk.path

    @property
    def config(self) -> bytes:
        return (self.path / "openclaw.json").read_bytes()

    @property
    def ballast(self) -> Path:
        return self.path / "reconciler" / "ballast"

    @contextmanager
    def nearly_full(self, free_kib: int) -> Iterator[None]:
        """So much and no more is free at the beginning; at the end what filled the disk is gone."""
        kept = self.path / "kept"
        kept.write_bytes(b"x" * (free_kib << 10))
        with self.full():
            kept.unlink()
            yield

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a byte is free; at the end what filled the disk is gone."""
        filler = fill(self.path)
        assert self.disk.free_bytes() == 0
        try:
            yield
        finally:
            filler.unlink()

    def put(self, name: str, *, age: float, size: int) -> Path:
        """A log file of that age in seconds."""
        path = self.path / "logs" / name
        path.write_bytes(b"x" * size)
        os.utime(path, (time.time() - age,) * 2)
        return path

    def leftovers(self) -> list[str]:
        """The names of files that are written before they are whole."""
        return [str(path.relative_to(self.path)) for path in self.path.rglob("*") if ".tmp" in path.name]


@pytest.fixture
def cramped(site: Site, spawned: Spawned) -> Cramped:
    disk = SmallDisk(spawned, MEBIBYTES, site.state)
    site.inside = disk.inside
    site.write(verify="500ms")
    site.apply()
    return Cramped(site, disk)


@pytest.mark.req("LOG-3")
def test_a_prune_still_runs_on_a_full_disk(cramped: Cramped) -> None:
    site = cramped.site
    old = cramped.put("openclaw-2025-01-01.log", age=2 * DAY, size=200_000)
    site.edit("level: info", "level: info" + RETENTION)
    assert cramped.ballast.stat().st_blocks * 512 >= SIZE_BYTES
    with cramped.full():
        planned = site.plan()
        assert [action["verb"] for action in planned["actions"]] == ["prune"]
        assert site.run("status").code == 0
        done = site.apply()
        assert done["result"] == "confirmed"
        assert not old.exists()
        assert site.generations()[0]["result"] == "confirmed"
        assert site.plan()["actions"] == []
    # With room again it is there again, for the next time.
    old = cramped.put("openclaw-2025-01-02.log", age=2 * DAY, size=200_000)
    site.apply()
    assert cramped.ballast.stat().st_size == SIZE_BYTES
    with cramped.full():
        site.apply()
        assert not old.exists()


@pytest.mark.req("LOG-3", "PLAN-7")
def test_what_does_nothing_leaves_the_room_on_a_full_disk_to_a_prune(cramped: Cramped) -> None:
    site = cramped.site
    site.edit("level: info", "level: info" + RETENTION)
    site.apply()
    old = cramped.put("openclaw-2025-01-01.log", age=DAY / 2, size=20_000)
    with cramped.full():
        assert site.run("apply", "--yes").code == 0
        # Nothing is to be done for it; that it is the document now would be written down.
        site.edit("verify: 500ms", "verify: 600ms")
        for _ in range(3):
            answer = site.run("apply", "--yes")
            assert answer.code == 1, answer
            assert "the disk is full" in answer.err
            assert "hint: free some space" in answer.err
            assert cramped.ballast.stat().st_size == SIZE_BYTES
        assert len(site.generations()) == 2
        site.edit("verify: 600ms", "verify: 500ms")
        os.utime(old, (time.time() - 2 * DAY,) * 2)
        site.apply()
        assert not old.exists()
    site.edit("verify: 500ms", "verify: 600ms")
    assert site.apply()["generation"] == 3


@pytest.mark.req("LOG-3", "PLAN-7")
@pytest.mark.parametrize("size", [1_000_000, 20_000], ids=["enough", "too_little"])
def test_on_a_full_disk_what_makes_room_comes_first_and_the_rest_only_once_there_is_enough(
    cramped: Cramped, size: int
) -> None:
    site = cramped.site
    # Written once more beside itself it takes more than the ballast gives.
    before = cramped.config + b"// " + b"x" * 230_000 + b"\n"
    (cramped.path / "openclaw.json").write_bytes(before)
    old = cramped.put("openclaw-2025-01-01.log", age=2 * DAY, size=size)
    site.edit("level: info", "level: debug" + RETENTION)
    with cramped.full():
        answer = site.run("apply", "--yes")
        assert not old.exists()
        newest = site.generations()[0]
        if size > SIZE_BYTES:
            assert (answer.code, newest["result"], site.level()) == (0, "confirmed", "debug"), answer
        else:
            assert (answer.code, newest["result"], cramped.config) == (1, "partial", before), answer
            assert "the disk is full" in answer.out + answer.err
            assert "hint: free some space" in answer.out + answer.err
        assert cramped.leftovers() == []
    site.apply()
    assert site.standing() == (newest["number"], "confirmed")
    assert site.level() == "debug"


@pytest.mark.req("LOG-3")
def test_a_supervisor_prunes_on_a_full_disk_and_makes_the_ballast_anew(cramped: Cramped) -> None:
    site = cramped.site
    site.edit("level: info", "level: info" + RETENTION)
    old = cramped.put("openclaw-2025-01-01.log", age=DAY / 2, size=200_000)
    supervisor = site.supervisor("--on-exit", "stop")
    wait_until(lambda: site.generations()[0]["number"] == 2, 10, "the retention in force")
    with cramped.full():
        os.utime(old, (time.time() - 2 * DAY,) * 2)
        poke(site, cramped)
        wait_until(lambda: not old.exists(), 10, "the expired file is gone")
        supervisor.wait_event(
            lambda event: event["event"] == "run" and event["result"] == "confirmed" and event["run"],
            "the run is confirmed",
        )
    poke(site, cramped)
    wait_until(lambda: cramped.ballast.exists(), 10, "the ballast is there again")
    assert supervisor.stop() == 0


@pytest.mark.req("PLAN-3", "PLAN-7", "PLAN-15")
def test_a_supervisor_whose_disk_filled_up_in_a_window_goes_on_once_there_is_room(cramped: Cramped) -> None:
    site = cramped.site
    text = site.write(site.document.read_text().replace("verify: 500ms", "verify: 3s"))
    supervisor = site.supervisor("--on-exit", "stop")
    site.write(text.replace("level: info", "level: debug"))
    wait_until(lambda: site.generations()[0]["result"] == "verifying", 20, "its window is open")
    with cramped.full():
        wait_until(lambda: site.generations()[0]["result"] == "rolled-back", 20, "it is taken back")
        site.write(text.replace("level: info", "level: warn"))
        supervisor.wait_event(lambda event: event["event"] == "not_applied", "it says what it does not do")
        assert not cramped.ballast.exists()
    wait_until(lambda: site.level() == "warn", 30, "the corrected document in force")
    wait_until(cramped.ballast.exists, 10, "the ballast is there again")
    assert supervisor.stop() == 0


@pytest.mark.req("PLAN-3", "PLAN-15")
def test_a_save_on_a_full_disk_is_applied_by_itself_once_there_is_room(cramped: Cramped) -> None:
    site = cramped.site
    supervisor = site.supervisor("--on-exit", "stop")
    before, pid = cramped.config, site.gateway_pid()
    with cramped.full():
        site.edit("level: info", "level: debug")
        said = supervisor.wait_event(lambda event: event["event"] == "not_applied", "it says what it does not do")
        assert "the disk is full" in said["reason"]
        assert cramped.config == before
    wait_until(lambda: site.level() == "debug", 30, "the saved level in force")
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "it is confirmed")
    assert site.gateway_pid() == pid
    assert supervisor.stop() == 0


def poke(site: Site, cramped: Cramped) -> None:
    """Asks the supervisor to look, by its socket."""
    socket = site.state / "reconciler" / "control.sock"
    done = subprocess.run(
        cramped.disk.inside(
            ["curl", "-sf", "-X", "POST", "--unix-socket", socket, "http://localhost/v1/reconcile"], site.home
        ),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done


@pytest.mark.req("PLAN-5", "PLAN-7")
def test_an_apply_on_a_full_disk_says_so_changes_nothing_and_works_once_there_is_room(cramped: Cramped) -> None:
    site = cramped.site
    before, pid = cramped.config, site.gateway_pid()
    site.edit("level: info", "level: debug")
    with cramped.full():
        assert [action["verb"] for action in site.plan()["actions"]] == ["write", "reload"]
        answer = site.run("apply", "--yes")
        assert answer.code == 1, answer.err
        assert "the disk is full" in answer.err
        assert "hint: free some space" in answer.err
        assert cramped.config == before
        assert cramped.leftovers() == []
        # What makes no room does not take it either.
        assert cramped.ballast.exists()
        assert site.gateway_pid() == pid
        assert len(site.generations()) == 1
    assert site.apply()["result"] == "confirmed"
    assert site.config()["logging"]["level"] == "debug"
    assert site.gateway_pid() == pid


@pytest.mark.req("PLAN-5", "PLAN-7")
def test_on_a_disk_that_is_nearly_full_an_apply_is_whole_or_nothing_and_plan_says_which(cramped: Cramped) -> None:
    site = cramped.site
    site.edit("verify: 500ms", "verify: 100ms")
    site.apply()
    ports = [site.port, free_port()]
    ended: dict[int, int] = {}
    for free_kib in (0, 40, 76, 100, 130, 200, 248, 264, 300, 400):
        before, number = cramped.config, site.generations()[0]["number"]
        old, new = ports
        site.edit(f"port: {old}", f"port: {new}")
        with cramped.nearly_full(free_kib):
            refusal = "only what makes room is applied" in str(site.plan()["notes"])
            answer = site.run("apply", "--yes")
            told = (free_kib, answer)
            assert answer.code == (1 if refusal else 0), told
            newest = site.generations()[0]
            assert newest["result"] == "confirmed", told
            left = site.run("plan").out
            status = site.run("status").out
            if refusal:
                assert "the disk is full" in answer.err, told
                assert "done" not in answer.out + answer.err, told
                assert (cramped.config, newest["number"]) == (before, number), told
                assert "No changes" not in left, told
                assert "open_run" not in str(site.plan()["notes"]), told
            else:
                assert newest["number"] == number + 1, told
                assert "No changes" in left, told
                ports = [new, old]
            assert f"generation {newest['number']}" in status.lower(), (told, status)
            assert [site.health(port)[0] for port in ports] == [200, 0], told
            assert cramped.leftovers() == []
            assert cramped.ballast.exists(), told
        ended[free_kib] = answer.code
        if refusal:
            site.edit(f"port: {new}", f"port: {old}")
    assert ended == {kib: int(kib < 256) for kib in ended}
    assert not [item for item in site.generations() if item["result"] != "confirmed"]


@pytest.mark.req("PLAN-5", "PLAN-8")
def test_on_a_disk_that_is_nearly_full_a_document_is_held_back_only_by_a_rollback_that_was_done(
    cramped: Cramped,
) -> None:
    site = cramped.site
    site.edit("verify: 500ms", "verify: 100ms")
    site.edit("level: info", "level: debug")
    site.apply()
    codes = []
    for free_kib in (248, 256, 260, 264, 400):
        with cramped.nearly_full(free_kib):
            answer = site.run("rollback", "--yes")
            held = "held back" in site.run("status").out
            assert held == (answer.code == 0), (free_kib, answer)
        codes.append(answer.code)
        if held:
            site.apply()
    assert (codes[0], codes[-1]) == (1, 0)


@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-8")
def test_a_disk_that_fills_up_between_two_steps_takes_the_change_back(cramped: Cramped) -> None:
    site = cramped.site
    before, port = cramped.config, free_port()
    site.edit(f"port: {site.port}", f"port: {port}")
    with cramped.nearly_full(300):
        apply = site.start("apply", "--yes", "--no-wait")
        assert apply.stderr is not None
        lines = iter(apply.stderr.readline, "")
        assert any("write: done" in line for line in lines)
        filler = fill(cramped.path, "filler2")
        out, err = apply.communicate(timeout=60)
        assert apply.returncode == 5, (out, err)
        assert "ran full" in out + err
        assert cramped.config == before
        assert [site.health(each)[0] for each in (site.port, port)] == [200, 0]
        newest, first = site.generations()
        assert (newest["result"], first["result"]) == ("rolled-back", "confirmed")
        assert "open_run" not in str(site.plan()["notes"])
        filler.unlink()


@pytest.mark.req("PLAN-5", "PLAN-7")
def test_a_first_apply_on_a_full_disk_leaves_nothing_and_works_once_there_is_room(site: Site, spawned: Spawned) -> None:
    disk = SmallDisk(spawned, MEBIBYTES, site.state)
    site.inside = disk.inside
    site.write(verify="500ms")
    filler = fill(disk.path)
    answer = site.run("apply", "--yes")
    assert answer.code == 1, answer.err
    assert "full" in answer.err or "no space left" in answer.err.lower()
    assert "bug" not in answer.err
    assert not (disk.path / "openclaw.json").exists()
    assert site.health()[0] == 0
    filler.unlink()
    assert site.apply()["result"] == "confirmed"


def begin_apply(site: Site) -> subprocess.Popen[str]:
    """An apply that is inside its verify window."""
    apply = site.start("apply", "--yes")
    assert apply.stderr is not None
    for line in apply.stderr:
        if "watching the result" in line:
            return apply
    raise AssertionError(f"it never came to its window; it ended with {apply.wait()}")


HOT = ("level: info", "level: debug")
RESTART = ("manager: embedded", "manager: embedded, environment: {TZ: Europe/Berlin}")


@pytest.mark.req("PLAN-7", "PLAN-8", "PLAN-18")
@pytest.mark.parametrize(
    ("change", "falls"), [(HOT, False), (RESTART, False), (HOT, True)], ids=["hot", "restart", "fall"]
)
def test_a_disk_that_fills_up_in_the_window_takes_the_change_back(
    cramped: Cramped, change: tuple[str, str], falls: bool
) -> None:
    site = cramped.site
    before = json.loads(cramped.config)
    site.edit("verify: 500ms", "verify: 2s")
    site.edit(*change)
    text = site.document.read_text()
    apply = begin_apply(site)
    with cramped.full():
        if falls:
            # That the window begins anew then is written down, too.
            pid = site.gateway_pid()
            assert pid is not None
            os.kill(pid, 9)
        out, err = apply.communicate(timeout=60)
        assert apply.returncode == 5, (out, err)
        assert "ran full" in out + err
        assert json.loads(cramped.config) == before
        assert cramped.leftovers() == []
        assert site.health()[0] == 200
        assert site.document.read_text() == text
        newest, first = site.generations()
        assert (newest["result"], first["result"]) == ("rolled-back", "confirmed")
        assert "ran full" in newest["reason"]
        key = "gateway-config/gateway" if change is HOT else "service/gateway"
        assert "rolled-back" in site.run("why", key).out
        assert "held back" in site.run("status").out
    # The supervisor leaves the rejected document alone, also once there is room; a corrected one is applied.
    supervisor = site.supervisor("--on-exit", "stop")
    supervisor.wait_event(lambda event: event["event"] == "held_back", "the document is held back")
    site.document.write_text(text.replace("level: debug", "level: warn").replace("level: info", "level: warn"))
    wait_until(lambda: site.level() == "warn", 20, "the corrected document in force")
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "confirmed")


GREEDY = """\
import os, sys
file = open(sys.argv[1], "wb", buffering=0)
print("filling", flush=True)
while True:
    try:
        file.write(b"x" * 4096)
    except OSError:
        try:
            file.write(b"x")
        except OSError:
            pass
"""


@pytest.mark.req("PLAN-5", "PLAN-7")
def test_what_takes_the_ballast_too_ends_in_a_clear_word_and_the_next_run_goes_on(
    cramped: Cramped, spawned: Spawned
) -> None:
    site = cramped.site
    site.edit("verify: 500ms", "verify: 2s")
    site.edit(*HOT)
    apply = begin_apply(site)
    taken = cramped.path / "greedy"
    greedy = spawned.start([sys.executable, "-c", GREEDY, taken], stdout=subprocess.PIPE)
    assert greedy.stdout is not None
    assert greedy.stdout.readline() == b"filling\n"
    out, err = apply.communicate(timeout=60)
    assert apply.returncode == 6, (out, err)
    assert "cannot go back" in err
    assert "disk is full" in err
    assert "bug" not in err
    greedy.kill()
    greedy.wait()
    taken.unlink()
    assert site.health()[0] == 200
    json.loads(cramped.config)
    # Whoever writes next ends what was begun: a way back that is finished is all that is done then.
    code = site.run("apply", "--yes").code
    assert code in (0, 5)
    if code == 5:
        assert site.config()["logging"]["level"] == "info"
        site.apply()
    assert not [item for item in site.generations() if item["result"] in ("verifying", "rolling-back", "applying")]
    assert site.config()["logging"]["level"] == "debug"
    assert site.generations()[0]["result"] == "confirmed"


@pytest.mark.req("LOG-2", "SVC-7")
def test_the_gateway_serves_on_a_full_disk_comes_back_from_death_and_says_what_its_log_lost(cramped: Cramped) -> None:
    site = cramped.site
    pid = site.gateway_pid()
    assert pid is not None
    with cramped.full():
        site.run("gateway", "call", "config.get")
        assert site.gateway_pid() == pid
        victim = identify(pid)
        assert victim is not None
        os.kill(pid, 9)
        wait_until(lambda: site.gateway_pid() not in (None, pid), 20, "another gateway serves")
        assert site.service()["state"] == "ready"
        assert site.service()["restarts"] == 1
        assert site.run("service", "restart").code == 0
        assert site.health()[0] == 200
    site.edit(*HOT)
    site.apply()
    log = next((cramped.path / "logs").glob("openclaw-*.log")).read_text()
    assert "log lines were lost" in log
    answer = site.run("logs", "--json")
    lines: list[Any] = [json.loads(line) for line in answer.out.splitlines()]
    assert any("log lines were lost" in str(line) for line in lines)


@pytest.mark.req("SVC-9", "PLAN-12")
def test_what_is_done_by_hand_on_a_full_disk_is_done_and_status_names_the_disk(cramped: Cramped) -> None:
    site = cramped.site
    # With it the first one could still be written down.
    cramped.ballast.unlink()
    with cramped.full():
        pid = site.gateway_pid()
        for verb, health in (("stop", 0), ("start", 200), ("restart", 200)):
            answer = site.run("service", verb)
            assert answer.code == 0, (verb, answer)
            assert "note: this is done, and not in the history: " in answer.err
            assert "the disk is full" in answer.err
            assert site.health()[0] == health
        assert site.gateway_pid() != pid
        assert f'the disk of the state directory "{site.state}" is full' in site.run("status").out
    assert "is full" not in site.run("status").out


@pytest.mark.req("PLAN-3", "SVC-7")
def test_a_supervisor_brings_back_keeper_and_gateway_soon_after_there_is_room(cramped: Cramped) -> None:
    site = cramped.site
    supervisor = site.supervisor("--on-exit", "stop")
    with cramped.full():
        for pid in (site.service()["keeper"], site.gateway_pid()):
            assert pid is not None
            os.kill(pid, 9)
        supervisor.wait_event(lambda event: event["event"] == "not_applied", "it says what it does not do")
        # As long as it takes a wait that doubles to be longer than what is asked for below.
        time.sleep(20)
        assert len([event for event in supervisor.events() if event["event"] == "not_applied"]) == 1
    wait_until(lambda: site.health()[0] == 200, 10, "it serves again")
    assert supervisor.stop() == 0


@pytest.mark.req("PLAN-3", "SVC-7")
def test_on_a_disk_that_is_nearly_full_a_supervisor_brings_back_what_fell(cramped: Cramped) -> None:
    site = cramped.site
    site.supervisor("--on-exit", "stop")
    with cramped.nearly_full(150):
        for pid in (site.service()["keeper"], site.gateway_pid()):
            assert pid is not None
            os.kill(pid, 9)
        wait_until(lambda: site.health()[0] == 0, 10, "nobody serves")
        site.wait_healthy()
        # A change is no cure: there would be too little room to go back from it.
        site.edit(*HOT)
        assert "the disk is full" in site.run("apply", "--yes").err
    wait_until(lambda: site.level() == "debug", 20, "what was saved is applied")


@pytest.mark.req("PLAN-5", "PLAN-7")
def test_a_disk_that_is_mounted_for_reading_is_said_and_nothing_is_lost(cramped: Cramped) -> None:
    site = cramped.site
    before, pid = cramped.config, site.gateway_pid()
    site.edit(*HOT)
    site.inside = cramped.disk.reading
    for command in (["plan"], ["status"], ["history"], ["validate"], ["why", "service/gateway"], ["diff", "1"]):
        answer = site.run(*command)
        assert answer.code == 0, (command, answer.err)
        told = "is mounted for reading only: nothing can be applied" in answer.err + answer.out
        assert told == (command[0] in ("plan", "status", "why")), (command, answer)
    for command in (["apply", "--yes"], ["rollback", "1", "--yes"], ["run"], ["service", "stop"]):
        answer = site.run(*command)
        assert answer.code in (1, 77), (command, answer.out, answer.err)
        assert "read-only" in answer.err.lower(), (command, answer.err)
        assert "bug" not in answer.err
    assert cramped.config == before
    assert site.gateway_pid() == pid
    site.inside = cramped.disk.inside
    assert len(site.generations()) == 1
    assert site.apply()["result"] == "confirmed"
    assert site.config()["logging"]["level"] == "debug"
    assert site.gateway_pid() == pid


@pytest.mark.req("SVC-7", "PLAN-13")
def test_a_boot_on_a_full_disk_starts_what_was_applied_last(cramped: Cramped) -> None:
    site = cramped.site
    ours = [item.pid for item in processes_of_state(site.state)]
    # Something is to be written down, so that it cannot be planned past the full disk.
    site.edit("level: info", "level: debug")
    with cramped.full():
        for pid in ours:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(pid_alive(pid) for pid in ours), 10, "all are gone")
        supervisor = site.supervisor()
        site.wait_healthy()
        supervisor.wait_event(lambda event: event["event"] == "kept", "what was applied last is kept up")
    wait_until(lambda: site.level() == "debug", 30, "with room again the document is applied")
