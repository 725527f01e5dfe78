"""The keeper with real children: started, ready, started again, stopped, adopted, upgraded."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from resources.service.keeper import protocol
from resources.service.keeper.child import FLUSH_SECONDS
from tests.beds.needs import needs_programs
from tests.beds.processes import Process, Spawned, argv_of, environ_of, identify, processes_of_state, wait_until
from tests.beds.strace import Timed, calls_in, strace_command
from tests.resources.service.beds import DEADLINE, FAST, KEEPER, Bed, environ, kill, process_of, python

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7")]

SLEEP = ["sleep", "1000"]
READY = """
import os, socket, time
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
    s.sendto(b"STATUS=x\\nREADY=1", os.environ["NOTIFY_SOCKET"])
time.sleep(1000)
"""


@pytest.fixture
def bed(state: Path, spawned: Spawned) -> Bed:
    return Bed(state, spawned)


def copies(bed: Bed, word: str = "1000") -> list[int]:
    """The children of this state that run."""
    return [found.pid for found in processes_of_state(bed.state) if word in " ".join(argv_of(found.pid))]


def test_a_child_is_started_in_a_session_of_its_own_with_its_output_in_a_file(bed: Bed) -> None:
    bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(["sh", "-c", "echo out; echo err >&2; exec sleep 1000"]))
    assert (child["state"], child["restarts"], child["hold"]) == ("ready", 0, None)
    assert os.getsid(child["pid"]) == child["pid"] == os.getpgid(child["pid"])
    bed.output_says("out\nerr\n")
    assert (bed.state / "child.log").stat().st_mode & 0o777 == 0o600
    assert environ_of(child["pid"])["OPENCLAW_KEEPER_ATTEMPT"] == child["attempt"] == bed.record()["attempt"]


def test_output_is_appended_and_no_descriptor_of_the_keeper_is_passed_on(bed: Bed) -> None:
    bed.keeper()
    (bed.state / "child.log").write_text("before\n")
    with bed.client() as client:
        bed.up(client, bed.spec(["sh", "-c", "ls /proc/self/fd | wc -l; exec sleep 1000"]))
    # 0, 1, 2 and the directory that ls reads.
    bed.output_says("before\n4\n")


def test_the_environment_is_the_file_and_nothing_else(bed: Bed) -> None:
    bed.keeper()
    odd = {"A": "two\nlines", "B": "back\\slash \\n", "C": "", "D": "=;#'\" $A", "E": "é\u2028\x85", "F": "\r"}
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP, odd))
    found = environ_of(child["pid"])
    assert {name: found.pop(name) for name in odd} == odd
    assert found.keys() == {"PATH", "OPENCLAW_STATE_DIR", "OPENCLAW_KEEPER_ATTEMPT"}


def test_the_environment_file_is_read_afresh_at_each_start(bed: Bed) -> None:
    bed.keeper()
    with bed.client() as client:
        bed.up(client, bed.spec(SLEEP, {"A": "1"}))
        bed.spec(SLEEP, {"A": "2"})
        client.ok("restart", name="gateway")
        child = client.ok("wait", name="gateway")["child"]
        bed.spawned.take(child["pid"])
    assert environ_of(child["pid"])["A"] == "2"
    assert child["restarts"] == 0


def test_ready_comes_from_the_child_by_notification(bed: Bed) -> None:
    bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(python(READY), ready="notify"))
    assert child["state"] == "ready"
    assert 0 < child["startup_seconds"] < DEADLINE


def test_a_notification_from_outside_the_childs_process_group_counts_for_nothing(bed: Bed) -> None:
    bed.keeper()
    with bed.client() as client:
        client.ok("ensure", name="gateway", spec=bed.spec(SLEEP, ready="notify"))
        client.ok("start", name="gateway")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"READY=1", str(bed.socket.with_name("notify.sock")))
        # Answered after the datagram was read: one loop, in order of arrival.
        client.ok("status")
    assert bed.child()["state"] == "starting"


def test_ready_comes_when_the_port_is_listened_on_by_the_child(bed: Bed, free_port: Callable[[], int]) -> None:
    bed.keeper()
    port = free_port()
    code = f"import socket, time\ns = socket.create_server(('127.0.0.1', {port}))\ntime.sleep(1000)"
    with bed.client() as client:
        assert bed.up(client, bed.spec(python(code), ready=f"port:{port}", port=port))["state"] == "ready"


def test_a_child_that_ends_is_started_again_after_a_growing_delay_and_never_given_up(bed: Bed) -> None:
    bed.keeper()
    with bed.client() as client:
        client.ok("subscribe")
        client.ok("ensure", name="gateway", spec=bed.spec(["sh", "-c", "exit 3"]))
        client.ok("start", name="gateway")
        events = ("exited", "exited", "broken", "broken")
        waited = [client.event(event)["child"]["history"]["waited"] for event in events]
        assert waited == [0.1, 0.2, 1.0, 1.0]
        child = client.ok("status")["children"]["gateway"]
        assert child["exits"][-1]["reason"] == "exit code 3"
        assert child["restarts"] >= 3
        client.ok("stop", name="gateway")


@pytest.mark.parametrize(("waits", "burst"), [("waiting", 9), ("broken", 1)])
def test_another_policy_shortens_the_wait_for_the_next_start_and_never_lengthens_it(
    bed: Bed, waits: str, burst: int
) -> None:
    def spec(seconds: float) -> dict[str, Any]:
        policy = {**FAST, "delay": seconds, "max_delay": seconds, "burst": burst}
        return bed.spec(["sh", "-c", "exit 3"], restart=policy)

    bed.keeper()
    with bed.client() as client:
        bed.up(client, spec(600.0))
        before = bed.wait_child(waits)
        for seconds in (700.0, 200.0, 500.0):
            child = client.ok("ensure", name="gateway", spec=spec(seconds))["child"]
        assert child["next_boot"] == pytest.approx(before["next_boot"] - 400.0)
        assert (child["history"]["waited"], child["exits"][-1]["restart_after"]) == (200.0, 200.0)
        assert {**bed.record(), "number": None} == {**child, "number": None}
        client.ok("subscribe")
        client.ok("ensure", name="gateway", spec=spec(1.0))
        assert client.event("spawned")["child"]["restarts"] == 1
        client.ok("stop", name="gateway")
        # What does not wait has nothing to shorten.
        assert client.ok("ensure", name="gateway", spec=spec(0.1))["child"]["state"] == "stopped"


def test_an_exit_code_that_must_not_restart_holds_the_child_down_with_its_reason(bed: Bed) -> None:
    bed.keeper()
    left = bed.run / "gateway.exit"
    code = f'printf \'{{"code": 78, "reason": "port is no number", "pid": %d}}\' $$ > {left}; exit 78'
    with bed.client() as client:
        bed.up(client, bed.spec(["sh", "-c", code], exit_file=str(left)))
    child = bed.wait_child("held")
    assert (child["state"], child["goal"], child["restarts"]) == ("held", "up", 0)
    assert child["exits"][-1]["reason"] == "exit code 78: port is no number"
    assert child["hold"]["by"] == "policy"


def test_a_program_that_is_not_there_is_a_failed_start_with_its_reason(bed: Bed) -> None:
    bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(["/nowhere/gateway"]))
        assert child["state"] == "waiting"
        assert child["last_refusal"] == "cannot run /nowhere/gateway: No such file or directory"
        client.ok("stop", name="gateway")


def test_stopping_asks_first_and_the_hold_is_kept(bed: Bed) -> None:
    bed.keeper()
    code = "trap 'echo asked; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    with bed.client() as client:
        bed.up(client, bed.spec(["sh", "-c", code]))
        bed.output_says("up")
        client.ok("stop", name="gateway", hold={"by": "operator", "who": "ann", "why": "upgrade"})
        child = client.ok("wait", name="gateway")["child"]
    assert (child["state"], child["goal"], child["hold"]["who"]) == ("stopped", "down", "ann")
    assert child["exits"][-1]["code"] == 0
    assert child["exits"][-1]["asked"]
    assert bed.output() == "up\nasked\n"
    assert bed.record()["hold"]["why"] == "upgrade"


@pytest.mark.req("SVC-9")
def test_a_child_that_does_not_end_is_killed_with_its_whole_process_group(bed: Bed) -> None:
    bed.keeper()
    code = "trap '' TERM; sh -c \"trap '' TERM; sleep 1001\" & sleep 1002 & echo up; wait; sleep 1003"
    with bed.client() as client:
        spec = bed.spec(["sh", "-c", code], stop={"drain": 0.1, "grace": 0.2})
        bed.up(client, spec)
        bed.output_says("up")
        wait_until(lambda: len(copies(bed, "sleep 100")) >= 3, DEADLINE, "the grandchildren")
        client.ok("stop", name="gateway")
        child = client.ok("wait", name="gateway")["child"]
    assert child["exits"][-1]["reason"] == "killed by SIGKILL"
    wait_until(lambda: not copies(bed, "sleep 100"), DEADLINE, "the end of the grandchildren")


def test_what_a_dead_child_leaves_in_its_group_is_swept_before_the_next_start(bed: Bed) -> None:
    bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(["sh", "-c", "sleep 1004 & echo up; wait; sleep 1005"]))
        bed.output_says("up")
        kill(child["pid"])
        wait_until(lambda: bed.child()["restarts"] == 1, DEADLINE, "the restart")
        wait_until(lambda: len(copies(bed, "sleep 1004")) == 2, DEADLINE, "the new one only")
        client.ok("stop", name="gateway")
        client.ok("wait", name="gateway")


def test_a_keeper_told_to_end_leaves_its_children(bed: Bed) -> None:
    first = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
    first.terminate()
    assert first.wait(DEADLINE) == 0
    assert process_of(child["pid"]).alive
    assert not bed.socket.exists()
    bed.keeper()
    assert bed.child()["pid"] == child["pid"]
    # It has said goodbye: there is nothing to wonder about.
    assert replaced(bed) is None


def replaced(bed: Bed) -> dict[str, Any] | None:
    """What a keeper says of the one before it."""
    with bed.client() as client:
        found: dict[str, Any] | None = client.ok("status")["keeper"]["replaced"]
    return found


@pytest.mark.req("PLAN-12")
def test_a_keeper_knows_that_the_one_before_it_ended_without_a_word(bed: Bed) -> None:
    first = bed.keeper()
    assert replaced(bed) is None
    first.kill()
    first.wait()
    began = time.time()
    second = bed.keeper()
    found = replaced(bed)
    assert found is not None
    assert found["pid"] == first.pid
    assert began - 1.0 <= found["at"] <= time.time()
    # It is the next one's own: the one after that has another one before it.
    second.kill()
    second.wait()
    bed.keeper()
    found = replaced(bed)
    assert found is not None
    assert found["pid"] == second.pid


def orphan(bed: Bed) -> dict[str, Any]:
    """The record of a child whose keeper was killed and waited for."""
    first = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
    first.kill()
    first.wait()
    return child


def test_the_child_of_a_killed_keeper_is_adopted_and_there_is_no_second_copy(bed: Bed) -> None:
    child = orphan(bed)
    bed.keeper()
    adopted = bed.child()
    assert (adopted["pid"], adopted["state"], adopted["restarts"]) == (child["pid"], "ready", 0)
    assert adopted["adopted"]
    assert copies(bed) == [child["pid"]]


def test_an_adopted_child_is_still_watched_and_stopped(bed: Bed) -> None:
    child = orphan(bed)
    bed.keeper()
    kill(child["pid"])
    again = wait_until(lambda: (c := bed.child())["state"] == "ready" and c, DEADLINE, "the restart")
    assert (again["restarts"], again["exits"][-1]["reason"]) == (1, "unknown (adopted)")
    with bed.client() as client:
        client.ok("stop", name="gateway")
        assert client.ok("wait", name="gateway")["child"]["state"] == "stopped"
    assert copies(bed) == []


def test_a_keeper_that_hangs_is_killed_by_its_successor_and_its_child_adopted(bed: Bed, tmp_path: Path) -> None:
    # It waits for good, and is not stopped: nothing that a keeper does by itself can be made to.
    hang = "import signal, time\nsignal.signal(signal.SIGUSR1, lambda *_: time.sleep(1000))\n"
    (tmp_path / "sitecustomize.py").write_text(hang)
    first = bed.keeper(tmp_path)
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
    first.send_signal(signal.SIGUSR1)
    second = bed.keeper()
    assert first.wait(DEADLINE) == -signal.SIGKILL
    assert bed.holder() == second.pid
    assert bed.child()["pid"] == child["pid"]
    assert copies(bed) == [child["pid"]]


def test_a_keeper_that_is_stopped_is_continued_and_not_replaced(bed: Bed) -> None:
    first = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(["sh", "-c", "trap 'exit 7' USR1; while :; do sleep 0.05; done"]))
    first.send_signal(signal.SIGSTOP)
    second = bed.keeper()
    assert second.wait(DEADLINE) == 0
    assert bed.holder() == first.pid
    assert bed.child() == child
    # It lost nothing: how its child ends is known.
    process_of(child["pid"]).send(signal.SIGUSR1)
    assert bed.wait_child("ready", restarts=1)["exits"][-1]["reason"] == "exit code 7"


def test_a_child_whose_pid_was_not_yet_written_is_found_by_its_attempt(bed: Bed) -> None:
    child = orphan(bed)
    # What is on disk between "the attempt is written" and "the pid is written".
    path = bed.state / "reconciler/keeper/children/gateway.json"
    path.write_text(json.dumps({**bed.record(), "pid": None, "start_ticks": None, "state": "starting"}))
    bed.keeper()
    adopted = bed.child()
    assert (adopted["pid"], adopted["state"], adopted["restarts"]) == (child["pid"], "ready", 0)
    assert copies(bed) == [child["pid"]]


def test_an_attempt_that_never_became_a_process_is_started_and_not_counted(bed: Bed) -> None:
    child = orphan(bed)
    kill(child["pid"])
    path = bed.state / "reconciler/keeper/children/gateway.json"
    path.write_text(json.dumps({**bed.record(), "pid": None, "start_ticks": None, "state": "starting"}))
    bed.keeper()
    started = bed.child()
    assert (started["state"], started["restarts"], started["exits"]) == ("ready", 0, [])
    # The kernel names a new program a moment before it shows its environment.
    wait_until(lambda: copies(bed) == [started["pid"]], DEADLINE, "one copy")


def test_an_exit_that_no_keeper_saw_is_counted_and_explained_by_what_the_child_left(bed: Bed) -> None:
    first = bed.keeper()
    left = bed.run / "gateway.exit"
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP, exit_file=str(left)))
    first.kill()
    first.wait()
    kill(child["pid"])
    left.write_text(f'{{"code": 78, "reason": "the token is missing", "pid": {child["pid"]}}}')
    bed.keeper()
    held = bed.child()
    assert (held["state"], held["exits"][-1]["reason"]) == ("held", "exit code 78: the token is missing")


@pytest.mark.parametrize(("verdict", "expected"), [("exit 0", "ready"), ("echo port is no number; exit 1", "held")])
def test_before_an_unknown_exit_is_followed_by_a_start_the_configuration_is_checked(
    bed: Bed, verdict: str, expected: str
) -> None:
    first = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP, validate=["sh", "-c", verdict]))
    first.kill()
    first.wait()
    kill(child["pid"])
    bed.keeper()
    found = bed.wait_child(expected)
    assert (found["hold"] or {}).get("why") in (None, "its configuration is not valid: port is no number")


def test_of_two_survivors_the_owner_of_the_port_stays(bed: Bed, free_port: Callable[[], int]) -> None:
    first = bed.keeper()
    port = free_port()
    code = (
        "import os, socket, time\n"
        f"try: s = socket.create_server(('127.0.0.1', {port}))\n"
        "except OSError: pass\n"
        "time.sleep(1000)"
    )
    with bed.client() as client:
        idle = bed.up(client, bed.spec(["sleep", "1000"], port=port))
        client.ok("stop", name="gateway")
        client.ok("wait", name="gateway")
        child = bed.up(client, bed.spec(python(code), port=port, ready=f"port:{port}"))
    first.kill()
    first.wait()
    copy = bed.spawned.start(python(code), start_new_session=True, env=environ_of(child["pid"]))
    wait_until(lambda: process_of(copy.pid).alive, DEADLINE, "the copy")
    path = bed.state / "reconciler/keeper/children/gateway.json"
    path.write_text(json.dumps({**bed.record(), "pid": copy.pid, "start_ticks": process_of(copy.pid).start_ticks}))
    bed.keeper()
    assert bed.child()["pid"] == child["pid"] != idle["pid"]
    assert copy.wait(DEADLINE) == -signal.SIGKILL


def test_of_two_keepers_that_start_together_one_holds_and_the_other_leaves(bed: Bed) -> None:
    argv = [sys.executable, "-P", "-m", "resources.service.keeper", "--state", str(bed.state)]
    log = bed.log_file()
    both = [bed.spawned.start(argv, stderr=log) for _ in range(2)]
    os.close(log)
    wait_until(lambda: sorted(str(popen.poll()) for popen in both) == ["0", "None"], DEADLINE, "one to leave")
    (holder,) = [popen for popen in both if popen.poll() is None]
    assert bed.serves(holder.pid)


def test_an_upgrade_keeps_pid_and_children_and_still_learns_their_exit(bed: Bed) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(["sh", "-c", "trap 'exit 7' USR1; while :; do sleep 0.05; done"]))
        client.send("upgrade")
        with pytest.raises((EOFError, ConnectionResetError)):
            client.next()
    wait_until(lambda: bed.serves(keeper.pid), DEADLINE, "the new program")
    kept = bed.child()
    assert (kept["pid"], kept["state"], kept["adopted"]) == (child["pid"], "ready", False)
    process_of(child["pid"]).send(signal.SIGUSR1)
    after = wait_until(lambda: (c := bed.child())["restarts"] == 1 and c, DEADLINE, "the restart")
    assert after["exits"][-1]["reason"] == "exit code 7"
    assert bed.log().count("becomes the program") == 1


def test_shutdown_ends_the_children_and_then_the_keeper(bed: Bed) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        child = process_of(bed.up(client, bed.spec(SLEEP))["pid"])
        client.ok("shutdown")
    assert keeper.wait(DEADLINE) == 0
    assert not child.alive
    assert bed.record()["goal"] == "down"


def test_a_hold_outlives_the_keeper(bed: Bed) -> None:
    first = bed.keeper()
    with bed.client() as client:
        bed.up(client, bed.spec(SLEEP))
        client.ok("stop", name="gateway", hold={"by": "operator", "who": "ann", "why": ""})
        client.ok("wait", name="gateway")
    first.kill()
    first.wait()
    bed.keeper()
    assert (bed.child()["state"], bed.child()["hold"]["who"]) == ("stopped", "ann")
    assert copies(bed) == []


def test_a_stop_that_the_keeper_did_not_live_to_finish_is_finished_by_the_next(bed: Bed) -> None:
    first = bed.keeper()
    code = "trap 'echo asked' TERM; echo up; while :; do sleep 0.05; done"
    with bed.client() as client:
        child = bed.up(client, bed.spec(["sh", "-c", code], stop={"drain": 0.0, "grace": 0.5}))
        bed.output_says("up")
        client.ok("stop", name="gateway")
    first.kill()
    first.wait()
    bed.keeper()
    bed.wait_child("stopped")
    assert identify(child["pid"]) is None


def test_the_limit_of_open_files_is_set_at_the_start_and_later_without_a_restart(bed: Bed) -> None:
    bed.keeper()
    with bed.client() as client:
        spec = bed.spec(SLEEP, limits={"files": 300})
        pid = bed.up(client, spec)["pid"]
        hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] == 300
        client.ok("ensure", name="gateway", spec={**spec, "limits": {"files": 10**9}})
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard)
        client.ok("ensure", name="gateway", spec=spec)
        client.ok("ensure", name="gateway", spec={**spec, "limits": {}})
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard)
        assert client.ok("status")["children"]["gateway"]["pid"] == pid


def test_a_broken_record_is_set_aside_and_the_others_are_held(bed: Bed) -> None:
    children = bed.state / "reconciler/keeper/children"
    children.mkdir(parents=True)
    (children / "torn.json").write_text('{"name": "torn"')
    bed.keeper()
    assert [path.name for path in children.iterdir()] == ["torn.json.broken"]
    with bed.client() as client:
        assert bed.up(client, bed.spec(SLEEP))["state"] == "ready"


def test_the_socket_is_for_this_user_and_its_folder_too(bed: Bed) -> None:
    bed.keeper()
    assert bed.socket.stat().st_mode & 0o777 == 0o600
    assert bed.socket.parent.stat().st_mode & 0o777 == 0o700


def test_a_peer_of_another_user_is_turned_away_even_where_the_files_let_him_in(bed: Bed) -> None:
    if os.getuid() != 0:
        # Only root can be somebody else; for all others the mode of the folder is all that can be seen.
        assert bed.state.stat().st_mode & 0o077 == 0
        return
    bed.keeper()
    for path in (bed.state, bed.state / "reconciler", bed.socket.parent):
        path.chmod(0o711)
    bed.socket.chmod(0o666)
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(DEADLINE)
            try:
                stranger.connect(str(bed.socket))
                answer = stranger.recv(1)
            except ConnectionResetError:
                answer = b""
            except OSError:
                answer = b"?"
        os._exit(len(answer))
    assert os.waitpid(pid, 0)[1] == 0
    assert "refused a connection of user 65534" in bed.log()


def test_a_peer_of_the_version_before_is_understood_and_of_another_refused(bed: Bed) -> None:
    bed.keeper()
    with bed.client((protocol.VERSION - 1,)) as old:
        assert old.hello["version"] == protocol.VERSION - 1
        assert old.ok("status")["children"] == {}
        assert old.ask("start", name="nobody")["error"] == "the keeper has no child 'nobody'"
    with bed.client((protocol.VERSION + 1,)) as new:
        assert new.hello["error"]["code"] == "version"
        assert new.ask("status")["error"]["code"] == "hello_first"


def test_a_peer_that_sends_rubbish_is_cut_off_and_nobody_else(bed: Bed) -> None:
    bed.keeper()
    with bed.client() as client:
        bed.up(client, bed.spec(SLEEP))
        with bed.client() as other:
            other.socket.sendall(b"\xff\xfe[]\n")
            assert other.next()["error"]["code"] == "not_json"
            with pytest.raises((EOFError, ConnectionResetError)):
                other.next()
        assert client.ok("status")["children"]["gateway"]["state"] == "ready"


def test_killed_at_any_moment_of_a_restart_there_is_one_copy_afterwards(bed: Bed) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        bed.up(client, bed.spec(SLEEP))
    for moment in range(10):
        with bed.client() as client, bed.client() as other:
            client.send("restart", name="gateway")
            # The round trips of another peer are the clock: each lets the keeper do one thing more.
            for _ in range(moment):
                other.ok("status")
        keeper.kill()
        keeper.wait()
        keeper = bed.keeper()
        child = bed.wait_child("ready")
        assert copies(bed) == [child["pid"]]
        assert child["restarts"] == 0


def test_without_room_for_its_record_a_child_is_not_started_but_tried_again(bed: Bed) -> None:
    bed.keeper()
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
        # Where its files would go: no write succeeds, as on a full disk.
        obstacle, now = (
            bed.state / "reconciler/keeper/children" / name for name in (".gateway.json.tmp", "gateway.now")
        )
        obstacle.mkdir()
        now.unlink(missing_ok=True)
        now.mkdir()
        kill(child["pid"])
        refused = wait_until(lambda: (c := bed.child())["last_refusal"] and c, DEADLINE, "the refusal")
        assert refused["last_refusal"] == "cannot write its record: Is a directory"
        assert copies(bed) == []
        obstacle.rmdir()
    again = bed.wait_child("ready")
    assert copies(bed) == [again["pid"]]


def test_between_an_exit_and_the_next_start_nothing_is_flushed_and_soon_after_the_record_is(
    bed: Bed, tmp_path: Path
) -> None:
    needs_programs("strace")
    log = tmp_path / "log"
    calls = "fsync,fdatasync,sync_file_range,msync,clone,clone3,vfork"
    bed.spawned.start([*strace_command(log, calls), *KEEPER, "--state", bed.state], env=environ())
    wait_until(lambda: bed.holder() is not None and bed.serves(bed.holder() or 0), DEADLINE, "the keeper")
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP))
    before = len(calls_in(log.read_text().splitlines()))
    kill(child["pid"])

    def since() -> list[str]:
        found = calls_in(log.read_text().splitlines())[before:]
        return [words(timed) for timed in found]

    wait_until(lambda: len(since()) >= 3, DEADLINE, "the flushes")
    children = bed.state / "reconciler/keeper/children"
    start, *rest = since()
    assert start.startswith(("clone", "vfork"))
    assert rest == [f"fsync {children}/.gateway.json.tmp", f"fsync {children}"]
    on_disk = json.loads((children / "gateway.json").read_text())
    assert (on_disk["restarts"], on_disk["state"], len(on_disk["exits"])) == (1, "ready", 1)


def words(timed: Timed) -> str:
    """A call and the file that it is about."""
    return f"{timed.call.name} {timed.path}"


def test_the_child_that_was_just_started_again_is_adopted_though_its_record_is_not_on_disk_yet(bed: Bed) -> None:
    keeper = bed.keeper()
    for moment in range(6):
        with bed.client() as client:
            if moment == 0:
                bed.up(client, bed.spec(SLEEP))
            client.ok("start", name="gateway")
            client.ok("wait", name="gateway")
            child = bed.child()
            client.ok("subscribe")
            kill(child["pid"])
            # Later and later in the restart: it has ended, it waits, it was started, it is ready.
            for _ in range(min(moment, 3)):
                client.next()
        keeper.kill()
        keeper.wait()
        keeper = bed.keeper()
        again = bed.wait_child("ready")
        assert again["pid"] != child["pid"]
        assert copies(bed) == [again["pid"]]
        assert len(again["exits"]) == again["restarts"] == moment + 1


def test_a_stop_outlives_the_loss_of_all_that_was_not_flushed(bed: Bed) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        kill(bed.up(client, bed.spec(SLEEP))["pid"])
        bed.wait_child("ready", restarts=1)
        client.ok("stop", name="gateway", hold={"by": "operator", "who": "ann", "why": "a walk"})
        # Answered, so it is on disk; what a power cut leaves of the other file does not matter.
        assert bed.record()["hold"]["who"] == "ann"
    keeper.kill()
    keeper.wait()
    now = bed.state / "reconciler/keeper/children/gateway.now"
    now.write_bytes(bytes(now.stat().st_size))
    bed.keeper()
    held = bed.wait_child("stopped")
    assert (held["goal"], held["hold"]["who"]) == ("down", "ann")
    assert copies(bed) == []


def test_a_keeper_that_is_told_to_end_leaves_everything_on_disk(bed: Bed) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        kill(bed.up(client, bed.spec(SLEEP))["pid"])
    before = bed.wait_child("ready", restarts=1)
    keeper.terminate()
    assert keeper.wait(DEADLINE) == 0
    assert {name: bed.record()[name] for name in before} == before


def test_a_child_that_is_removed_right_after_its_end_is_gone_for_good(bed: Bed) -> None:
    bed.keeper()
    with bed.client() as client:
        bed.up(client, bed.spec(SLEEP))
        client.ok("stop", name="gateway", hold=None)
        client.ok("wait", name="gateway")
        client.ok("remove", name="gateway")
    children = bed.state / "reconciler/keeper/children"
    assert list(children.iterdir()) == []
    # Longer than a flush may be put off.
    bed.spawned.start(["sleep", str(FLUSH_SECONDS * 1.5)]).wait()
    assert list(children.iterdir()) == []


@pytest.mark.parametrize("kind", ["fifo", "fifo with a reader", "socket", "device", "directory"])
def test_what_is_no_regular_file_is_refused_as_an_output_file_and_never_waited_for(bed: Bed, kind: str) -> None:
    keeper = bed.keeper()
    path = bed.state / "output"
    slow = {**FAST, "delay": 60.0, "max_delay": 60.0}
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack, bed.client() as client:
        match kind:
            case "fifo":
                os.mkfifo(path)
            case "fifo with a reader":
                os.mkfifo(path)
                stack.callback(os.close, os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            case "socket":
                listener.bind(str(path))
            case "device":
                path = Path("/dev/zero")
            case "directory":
                path.mkdir()
        child = bed.up(client, bed.spec(SLEEP, output=str(path), restart=slow))
        assert child["state"] == "waiting"
        why = "Is a directory" if kind == "directory" else "it is not a regular file"
        assert child["last_refusal"] == f"cannot open the output file {path}: {why}"
    assert keeper.poll() is None


def test_output_that_goes_to_dev_null_is_no_mistake(bed: Bed) -> None:
    bed.keeper()
    with bed.client() as client:
        assert bed.up(client, bed.spec(SLEEP, output="/dev/null"))["state"] == "ready"


def test_a_fifo_where_a_file_is_to_be_read_is_not_waited_for(bed: Bed) -> None:
    bed.keeper()
    environment, left = bed.state / "fifo.env", bed.run / "gateway.exit"
    os.mkfifo(environment)
    with bed.client() as client:
        child = bed.up(client, bed.spec(SLEEP, env_file=str(environment)))
        assert child["last_refusal"] == f"cannot read the environment file {environment}: it is not a regular file"
        child = bed.up(client, bed.spec(SLEEP, exit_file=str(left)))
        os.mkfifo(left)
        kill(child["pid"])
        assert bed.wait_child("ready", restarts=1)["exits"][-1]["reason"] == "killed by SIGKILL"


def test_a_keeper_at_rest_does_not_wake_up(bed: Bed) -> None:
    keeper = bed.keeper()
    with bed.client() as client:
        bed.up(client, bed.spec(SLEEP))

    def switches() -> int:
        text = Path(f"/proc/{keeper.pid}/status").read_text()
        return sum(int(line.split()[1]) for line in text.splitlines() if "ctxt_switches" in line)

    def quiet_second() -> bool:
        before = switches()
        # Something to wait for that is not the keeper: a second of another process.
        bed.spawned.start(["sleep", "1"]).wait()
        return switches() - before <= 2

    process = Process(keeper.pid, process_of(keeper.pid).start_ticks)
    # On a busy machine it may still be at what it was told: one that wakes up by itself never has such a second.
    wait_until(quiet_second, DEADLINE, "a keeper at rest")
    assert process.alive


def test_restart_policy_of_the_tests_is_one_that_the_keeper_takes() -> None:
    assert protocol.check_spec({"argv": ["x"], "restart": FAST})["restart"] == FAST
