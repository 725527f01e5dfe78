"""One program of the keeper after the other in one process, up and down a version: whoever is served notices nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from resources.service.keeper import program, protocol
from tests.beds.processes import Spawned, argv_of, every_pid, identify, processes_of_state, wait_until
from tests.resources.service.beds import (
    DEADLINE,
    KEEPER,
    READY,
    Bed,
    Client,
    environ,
    kill,
    other_version,
    process_of,
    python,
)

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7")]

SLEEP = ["sleep", "1000"]
NEXT, LAST = protocol.VERSION + 1, protocol.VERSION - 1


@pytest.fixture
def bed(state: Path, spawned: Spawned) -> Bed:
    return Bed(state, spawned)


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path | None]:
    """Where each version of the keeper lies; None: in this checkout."""
    directory = tmp_path_factory.mktemp("keepers")
    return {
        LAST: other_version(directory, LAST),
        protocol.VERSION: None,
        NEXT: other_version(directory, NEXT),
    }


def ask(client: Client, path: Path | None) -> None:
    client.send("upgrade", argv=KEEPER, environ=environ(path))


def become(bed: Bed, path: Path | None) -> None:
    """Makes the running keeper the version at `path`, and returns when that one answers."""
    before = bed.holder()
    with bed.client() as client:
        ask(client, path)
        with pytest.raises((EOFError, ConnectionResetError)):
            client.next()
    # One connection, no second try: the socket was never closed.
    with bed.client() as client:
        assert client.hello["pid"] == before == bed.holder()


def below(pid: int) -> list[str]:
    """The state letters of all children of a process, those that nobody waited for among them."""
    stats = [Path(f"/proc/{other}/stat") for other in every_pid()]
    found = []
    for stat in stats:
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            found += [state] if int(parent) == pid else []
    return found


def keepers(bed: Bed) -> list[int]:
    return [item.pid for item in processes_of_state(bed.state) if KEEPER[-1] in argv_of(item.pid)]


def copies(bed: Bed) -> list[int]:
    return [item.pid for item in processes_of_state(bed.state) if KEEPER[-1] not in argv_of(item.pid)]


def fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize("other", [NEXT, LAST], ids=["up", "down"])
def test_the_child_and_all_that_is_known_of_it_stays_up_a_version_and_down_again(
    bed: Bed, versions: dict[int, Path | None], other: int
) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        kill(bed.up(client, bed.spec(python(READY), ready="notify"))["pid"])
    before = bed.wait_child("ready", restarts=1)
    for version in (other, protocol.VERSION, other):
        become(bed, versions[version])
        with bed.client((LAST, protocol.VERSION, NEXT)) as client:
            assert client.hello["version"] == version
        # Pid, restarts, last exit, since when it is ready, what the policy remembers: the whole record.
        assert bed.child() == before
        assert below(keeper.pid) == ["S"]
        assert keepers(bed) == [keeper.pid]
    # It is still its child: the exit code is known, and the notification of the next one heard.
    process_of(before["pid"]).send(signal.SIGTERM)
    after = bed.wait_child("ready", restarts=2)
    assert after["exits"][-1]["reason"] == "killed by SIGTERM"
    # Lock and sockets went from program to program, and go no further. Its own socket it closes after the READY.
    wait_until(lambda: fds(after["pid"]) == 3, DEADLINE, "the three of its output alone")


def test_neighbouring_versions_understand_each_other_and_agree_on_the_newest_common_one(
    bed: Bed, versions: dict[int, Path | None]
) -> None:
    bed.keeper(versions[NEXT])
    with bed.client() as ours:
        assert ours.hello["version"] == protocol.VERSION
        assert bed.up(ours, bed.spec(SLEEP))["state"] == "ready"
    become(bed, versions[LAST])
    with bed.client() as ours:
        assert ours.hello["version"] == LAST
        assert ours.ok("status")["children"]["gateway"]["state"] == "ready"


def test_which_program_runs_is_said_in_the_hello(bed: Bed, versions: dict[int, Path | None]) -> None:
    bed.keeper()
    with bed.client() as client:
        assert client.hello["program"] == program.digest()
    become(bed, versions[NEXT])
    with bed.client() as client:
        other = client.hello["program"]
    become(bed, versions[protocol.VERSION])
    with bed.client() as client:
        assert client.hello["program"] == program.digest() != other


def test_what_a_person_stopped_stays_stopped_and_what_waits_goes_on_waiting(
    bed: Bed, versions: dict[int, Path | None]
) -> None:
    bed.keeper()
    slow = {"delay": 3.0, "max_delay": 3.0, "burst": 100, "window": 60.0, "never_on_exit": [78]}
    with bed.client() as client:
        bed.up(client, bed.spec(SLEEP), "held")
        client.ok("stop", name="held", hold={"by": "operator", "who": "ann", "why": "a walk"})
        bed.up(client, bed.spec(["sh", "-c", "exit 78"], restart=slow), "refused")
        bed.up(client, bed.spec(["sh", "-c", "exit 3"], restart=slow), "waiting")
    names = {"held": "stopped", "refused": "held", "waiting": "waiting"}
    before = {name: bed.wait_child(state, name) for name, state in names.items()}
    for version in (NEXT, LAST, protocol.VERSION):
        become(bed, versions[version])
        assert {name: bed.child(name) for name in names} == before
    # The moment of the next start is the same one.
    wait_until(lambda: bed.child("waiting")["restarts"] == 1, DEADLINE, "the restart")
    started = bed.child("waiting")["spawned_boot"] - before["waiting"]["next_boot"]
    assert 0 <= started < DEADLINE
    assert bed.child("held") == before["held"]


def test_a_drain_goes_on_and_is_asked_for_once(bed: Bed, versions: dict[int, Path | None]) -> None:
    bed.keeper()
    code = "trap 'echo asked' TERM; echo up; while [ ! -e done ]; do sleep 0.05; done; echo drained"
    with bed.client() as client:
        bed.up(client, bed.spec(["sh", "-c", code], stop={"drain": 60.0, "grace": 60.0}))
        bed.output_says("up")
        client.ok("stop", name="gateway", hold=None)
        bed.output_says("asked")
    become(bed, versions[NEXT])
    become(bed, versions[protocol.VERSION])
    assert bed.child()["state"] == "stopping"
    (bed.state / "done").touch()
    assert bed.wait_child("stopped")["exits"][-1]["code"] == 0
    assert bed.output() == "up\nasked\ndrained\n"


def test_a_drain_ends_when_it_would_have_without(bed: Bed, versions: dict[int, Path | None]) -> None:
    bed.keeper()
    with bed.client() as client:
        code = "trap '' TERM; echo up; while :; do sleep 0.05; done"
        bed.up(client, bed.spec(["sh", "-c", code], stop={"drain": 1.0, "grace": 1.0}))
        bed.output_says("up")
        client.ok("stop", name="gateway", hold=None)
        began = time.monotonic()
    while time.monotonic() < began + 1.5:
        become(bed, versions[NEXT])
    # Were the time counted anew by each program, it would not be over before 3.5 seconds.
    assert bed.wait_child("stopped")["exits"][-1]["uptime_seconds"] < 3.4


def test_five_upgrades_leave_neither_descriptors_nor_zombies(bed: Bed, versions: dict[int, Path | None]) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
        bed.up(client, bed.spec(SLEEP), "other")
    before = rest(keeper.pid)
    for turn in range(5):
        become(bed, versions[(LAST, protocol.VERSION, NEXT)[turn % 3]])
        bed.child()
    assert rest(keeper.pid) == before
    assert below(keeper.pid) == ["S", "S"]
    assert bed.child()["pid"] == child["pid"]


def rest(pid: int) -> int:
    """How many descriptors it has once the connections that were just closed are closed on its side too."""
    counts: list[int] = []

    def steady() -> bool:
        counts.append(fds(pid))
        return counts[-20:] == [counts[-1]] * 20

    wait_until(steady, DEADLINE, "no more closing")
    return counts[-1]


def test_a_check_that_was_on_its_way_is_begun_again_and_leaves_no_zombie(
    bed: Bed, versions: dict[int, Path | None]
) -> None:
    first = bed.keeper()
    check = f"echo x >> {bed.state}/checks; while [ ! -e {bed.state}/good ]; do sleep 0.05; done"
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP, validate=["sh", "-c", check]))
    first.kill()
    first.wait()
    kill(child["pid"])
    keeper = bed.keeper()
    checks = bed.state / "checks"
    wait_until(checks.exists, DEADLINE, "the check")
    become(bed, versions[NEXT])
    wait_until(lambda: checks.read_text() == "x\nx\n", DEADLINE, "the check again")
    assert bed.child()["state"] == "waiting"
    wait_until(lambda: len(below(keeper.pid)) == 1, DEADLINE, "one check")
    (bed.state / "good").touch()
    assert bed.wait_child("ready")["restarts"] == 1
    assert below(keeper.pid) == ["S"]


@pytest.mark.parametrize("way", ["breaks", "unknown option", "vanishes"])
def test_a_program_that_cannot_take_over_is_refused_and_all_goes_on(bed: Bed, tmp_path: Path, way: str) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
    script = tmp_path / "keeper"
    # The last one is well when it is tried and gone when it is needed.
    script.write_text(
        {
            "breaks": "#!/bin/sh\necho 'no module named zlib'; exit 1\n",
            "unknown option": '#!/bin/sh\ncase "$*" in *--inherit*) echo "usage: keeper"; exit 64; esac\n',
            "vanishes": '#!/bin/sh\nrm "$0"\n',
        }[way]
    )
    script.chmod(0o700)
    why = {"breaks": "no module named zlib", "unknown option": "usage: keeper", "vanishes": "No such file or directory"}
    with bed.client() as client:
        before = rest(keeper.pid)
        for _ in range(2 if way != "vanishes" else 1):
            answer = client.ask("upgrade", argv=[str(script)], environ=environ())
            assert answer["error"]["code"] == "upgrade"
            assert why[way] in answer["error"]["message"]
        # The same connection, the same keeper; the descriptors of lock and sockets are its own again.
        assert client.ok("status")["children"]["gateway"] == child
        client.ok("restart", name="gateway")
        again = client.ok("wait", name="gateway")["child"]
        # The loader of a program that just began has its libraries open.
        wait_until(lambda: fds(again["pid"]) == 3, DEADLINE, "the three of its output alone")
        assert rest(keeper.pid) == before
    assert below(keeper.pid) == ["S"]


@pytest.mark.parametrize("argv", [None, [], ["python"], ["/x", 1], "sh"])
def test_words_that_start_no_program_are_refused(bed: Bed, argv: Any) -> None:
    bed.keeper()
    with bed.client() as client:
        assert client.ask("upgrade", argv=argv, environ={})["error"]["code"] == "spec"
        assert client.ask("upgrade", argv=["/x"], environ={"A": 1})["error"]["code"] == "spec"


def test_two_who_ask_at_once_get_one_upgrade(bed: Bed, versions: dict[int, Path | None]) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
    with bed.client() as one, bed.client() as two:
        ask(one, versions[NEXT])
        ask(two, versions[NEXT])
        for client in (one, two):
            with pytest.raises((EOFError, ConnectionResetError)):
                client.next()
    assert bed.child() == child
    assert below(keeper.pid) == ["S"]
    assert bed.log().count("becomes the program") == 1


def test_no_second_keeper_gets_in_between(bed: Bed, versions: dict[int, Path | None]) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
    for version in (NEXT, protocol.VERSION):
        rivals: list[subprocess.Popen[Any]] = []
        with bed.client() as client:
            ask(client, versions[version])
            for _ in range(4):
                rivals.append(bed.spawned.start([*KEEPER, "--state", bed.state], env=environ()))
                time.sleep(0.03)
        assert [rival.wait(DEADLINE) for rival in rivals] == [0] * 4
        assert bed.holder() == keeper.pid
        assert bed.child() == child
    assert keeper.poll() is None


def test_killed_at_any_moment_of_an_upgrade_the_next_keeper_adopts_the_child(
    bed: Bed, versions: dict[int, Path | None]
) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
    # How long one takes on this machine at this moment, so that the blows fall on all of it.
    began = time.monotonic()
    become(bed, versions[NEXT])
    whole = time.monotonic() - began
    for blow in range(12):
        with bed.client() as client:
            ask(client, versions[LAST if blow % 2 else NEXT])
            time.sleep(whole * blow / 10)
        keeper.kill()
        keeper.wait()
        assert identify(child["pid"]) is not None
        keeper = bed.keeper()
        held = bed.child()
        assert (held["pid"], held["state"], held["restarts"], held["exits"]) == (child["pid"], "ready", 0, [])
        assert copies(bed) == [child["pid"]]
        # A trial run that lost its keeper ends by itself.
        wait_until(lambda keeper=keeper: keepers(bed) == [keeper.pid], DEADLINE, "one keeper")  # type: ignore[misc]
