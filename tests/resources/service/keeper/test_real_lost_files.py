"""A keeper whose files were deleted, damaged or exchanged: what runs is found without them, and is never started twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from resources.service import proc
from tests.beds.processes import Spawned, argv_of, pid_alive, processes_of_state, wait_until
from tests.resources.service.beds import DEADLINE, READY, Bed, kill, python

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7")]

SLEEP = ["sleep", "1000"]
DIGEST = "OPENCLAW_SPEC_DIGEST"


@pytest.fixture
def bed(state: Path, spawned: Spawned) -> Bed:
    return Bed(state, spawned)


def copies(bed: Bed, word: str = "1000") -> list[int]:
    """The children of this state that run."""
    return sorted(found.pid for found in processes_of_state(bed.state) if word in " ".join(argv_of(found.pid)))


def children(bed: Bed) -> Path:
    return bed.state / "reconciler/keeper/children"


def lost(bed: Bed) -> None:
    for path in children(bed).iterdir():
        path.unlink()


def damaged(bed: Bed) -> None:
    for path in children(bed).iterdir():
        path.write_bytes(b"\0" * 100)


def from_before(bed: Bed) -> None:
    """As from a backup: what was on record before the process was started."""
    record = bed.record()
    # A number that no process of this boot has together with this start time.
    record.update(attempt="gateway.0", pid=os.getpid(), start_ticks=1, state="ready")
    lost(bed)
    (children(bed) / "gateway.json").write_text(json.dumps(record))


@pytest.mark.parametrize("lose", [lost, damaged, from_before])
def test_a_child_whose_record_is_lost_is_held_by_the_next_keeper_and_not_started_again(
    bed: Bed, lose: Callable[[Bed], None]
) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        before = bed.up(client, bed.spec(SLEEP, {DIGEST: "d1"}, spec_digest="d1"))
    keeper.kill()
    keeper.wait()
    lose(bed)
    bed.keeper()
    with bed.client() as client:
        taken = client.ok("ensure", name="gateway", spec=bed.spec(SLEEP, {DIGEST: "d2"}, spec_digest="d2"))["child"]
        # What it was started with, not what it is told now.
        assert (taken["pid"], taken["digest"], taken["adopted"]) == (before["pid"], "d1", True)
        assert (taken["attempt"], taken["goal"]) == (before["attempt"], "up")
        after = bed.up(client, bed.spec(SLEEP, {DIGEST: "d2"}, spec_digest="d2"))
        assert (after["pid"], after["state"]) == (before["pid"], "ready")
        assert copies(bed) == [before["pid"]]
        client.ok("stop", name="gateway")
        client.ok("wait", name="gateway")
    assert copies(bed) == []


def test_of_several_without_a_record_the_owner_of_the_port_stays(bed: Bed, free_port: Callable[[], int]) -> None:
    port = free_port()
    carried = {"OPENCLAW_STATE_DIR": str(bed.state), "OPENCLAW_KEEPER_ATTEMPT": "gateway.0", "PATH": os.environ["PATH"]}
    with (bed.state / "child.log").open("ab") as log:
        older = bed.spawned.start(SLEEP, start_new_session=True, env=carried, stdout=log, stderr=log)
        other_state = bed.spawned.start(
            SLEEP, start_new_session=True, env={**carried, "OPENCLAW_STATE_DIR": "/other"}, stdout=log, stderr=log
        )
        code = f"import socket, time\ns = socket.create_server(('127.0.0.1', {port}))\ntime.sleep(1001)"
        carried["OPENCLAW_KEEPER_ATTEMPT"] = "1"
        owner = bed.spawned.start(python(code), start_new_session=True, env=carried, stdout=log, stderr=log)
    wait_until(lambda: proc.group_owns_port(owner.pid, port), DEADLINE, "the port")
    bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP, port=port))
    assert child["pid"] == owner.pid
    assert older.wait(DEADLINE) == -signal.SIGKILL
    assert other_state.poll() is None


def test_a_tool_that_outlived_its_gateway_is_not_taken_for_it(bed: Bed) -> None:
    keeper = bed.keeper()
    code = (
        "import subprocess, time\n"
        "subprocess.Popen(['sleep', '1000'], start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "time.sleep(1001)"
    )
    with bed.client() as client:
        first = bed.up(client, bed.spec(python(code)))
    (tool,) = wait_until(lambda: copies(bed, "sleep 1000"), DEADLINE, "the tool")
    bed.spawned.take(tool)
    keeper.kill()
    keeper.wait()
    kill(first["pid"])
    lost(bed)
    bed.keeper()
    with bed.client() as client:
        second = bed.up(client, bed.spec(SLEEP))
    assert second["pid"] not in (first["pid"], tool)
    assert pid_alive(tool)


def test_of_several_children_each_is_found_by_its_name(bed: Bed) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        before = {name: bed.up(client, bed.spec(SLEEP), name=name)["pid"] for name in ("gateway", "tunnel")}
    keeper.kill()
    keeper.wait()
    lost(bed)
    bed.keeper()
    with bed.client() as client:
        after = {name: bed.up(client, bed.spec(SLEEP), name=name)["pid"] for name in ("tunnel", "gateway")}
    assert after == before


def without_lock(bed: Bed) -> None:
    for name in ("lock", "keeper.sock"):
        (children(bed).parent / name).unlink()


def another_directory(bed: Bed) -> None:
    """The same files, and none of them the one that the keeper has open."""
    directory = children(bed).parent
    copy = directory.with_name("copy")
    shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("*.sock"))
    shutil.rmtree(directory)
    copy.rename(directory)


def an_empty_directory(bed: Bed) -> None:
    directory = children(bed).parent
    shutil.rmtree(directory)
    directory.mkdir(mode=0o700)


LOSSES = [without_lock, another_directory, an_empty_directory]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_keeper_without_its_lock_lets_go_when_its_child_ends_and_starts_nothing(
    bed: Bed, lose: Callable[[Bed], None]
) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
    lose(bed)
    left = {path: path.read_bytes() for path in children(bed).glob("*")}
    kill(child["pid"])
    assert keeper.wait(DEADLINE) == 0
    assert copies(bed) == []
    assert "lets go" in bed.log().splitlines()[-1]
    assert {path: path.read_bytes() for path in children(bed).glob("*")} == left


@pytest.mark.parametrize("lose", LOSSES)
def test_a_keeper_without_its_lock_leaves_the_child_to_its_successor(bed: Bed, lose: Callable[[Bed], None]) -> None:
    first = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
        lose(bed)
        second = bed.keeper()
        with bed.client() as other:
            assert bed.up(other, bed.spec(SLEEP))["pid"] == child["pid"]
        # Asked something it finds that it holds nothing any more.
        with pytest.raises((EOFError, ConnectionResetError)):
            client.ok("status")
    assert first.wait(DEADLINE) == 0
    kill(child["pid"])
    after = bed.wait_child("ready", restarts=1)
    assert copies(bed) == [after["pid"]]
    assert bed.holder() == second.pid


def deleted(path: Path) -> None:
    path.unlink()


def exchanged(path: Path) -> None:
    path.unlink()
    path.touch(mode=0o600)


@pytest.mark.req("SVC-8")
@pytest.mark.parametrize("lose", [deleted, exchanged])
def test_a_child_that_is_started_without_the_socket_for_its_ready_says_it_all_the_same(
    bed: Bed, lose: Callable[[Path], None]
) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(python(READY), ready="notify"))
    lose(children(bed).parent / "notify.sock")
    kill(child["pid"])
    after = bed.wait_child("ready", restarts=1)
    # And the next one, and with the socket of the first.
    kill(after["pid"])
    bed.wait_child("ready", restarts=2)
    assert bed.holder() == keeper.pid
    assert "is bound anew" in bed.log()


@pytest.mark.parametrize("lose", [deleted, exchanged])
def test_a_keeper_whose_socket_is_gone_can_be_reached_again_after_its_next_event(
    bed: Bed, lose: Callable[[Path], None]
) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
        lose(bed.socket)
        with pytest.raises(OSError):
            bed.client()
        # Whoever is connected goes on being served, and whatever it asks is an event.
        assert client.ok("status")["children"]["gateway"]["pid"] == child["pid"]
        assert bed.child()["pid"] == child["pid"]
    second = bed.keeper()
    assert second.wait(DEADLINE) == 0
    assert bed.holder() == keeper.pid


def test_the_directory_of_the_records_is_made_anew_with_all_that_the_keeper_holds(bed: Bed) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
        tunnel = bed.up(client, bed.spec(SLEEP), name="tunnel")
    shutil.rmtree(children(bed))
    kill(child["pid"])
    after = bed.wait_child("ready", restarts=1)
    assert children(bed).stat().st_mode & 0o777 == 0o700
    assert (bed.record("tunnel")["pid"], bed.record("tunnel")["goal"]) == (tunnel["pid"], "up")
    # A successor finds both by what is on record now.
    keeper.kill()
    keeper.wait()
    bed.keeper()
    assert (bed.child()["pid"], bed.child("tunnel")["pid"]) == (after["pid"], tunnel["pid"])
    assert "no record tells of it" not in bed.log()


def test_the_directory_that_a_child_writes_to_is_made_anew_before_its_next_start(bed: Bed) -> None:
    bed.keeper()
    output = bed.state / "far/logs/gateway.out.log"
    output.parent.mkdir(parents=True)
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP, output=str(output)))
    shutil.rmtree(bed.state / "far")
    kill(child["pid"])
    bed.wait_child("ready", restarts=1)
    made = (output.parent.parent, output.parent, output)
    assert [path.stat().st_mode & 0o777 for path in made] == [0o700, 0o700, 0o600]


def test_an_output_file_behind_a_link_that_leads_nowhere_is_refused_as_such(bed: Bed) -> None:
    bed.keeper()
    (bed.state / "logs").symlink_to(bed.state / "not-mounted")
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP, output=str(bed.state / "logs/gateway.out.log")))
    assert child["last_refusal"].endswith("logs/gateway.out.log: No such file or directory")
    assert not (bed.state / "not-mounted").exists()
