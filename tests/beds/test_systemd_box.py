"""The systemd box itself: what a test in it may rely on, and what must never come out of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.beds.needs import needs_systemd
from tests.beds.processes import Spawned, children_of, identify, run, wait_until
from tests.beds.systemd_box import SystemdBox
from tests.beds.systemd_holder import PROJECT, own_cgroups

pytestmark = pytest.mark.real

BOOT_ID = "/proc/sys/kernel/random/boot_id"
UNIT = """\
[Service]
ExecStart=/bin/sh -c "echo said by the unit; exec sleep 1000"
[Install]
WantedBy=default.target
"""


@pytest.fixture
def box(tmp_path: Path, spawned: Spawned) -> SystemdBox:
    return SystemdBox(spawned, tmp_path)


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemdBox]:
    """One for all tests that only look."""
    with Spawned() as spawned:
        yield SystemdBox(spawned, tmp_path_factory.mktemp("box"))


def said(box: SystemdBox, *argv: str, user: str = "tester") -> str:
    done = box.run(argv, user=user)
    assert done.returncode == 0, (argv, done.stderr)
    return done.stdout.strip()


def test_a_command_runs_in_a_login_session_with_its_environment_directory_and_status(common: SystemdBox) -> None:
    done = common.run(["sh", "-c", 'id -un; pwd; echo "$WORD"; exit 9'], cwd="/srv", env={"WORD": "two  words; $HOME"})
    assert (done.returncode, done.stdout) == (9, "tester\n/srv\ntwo  words; $HOME\n")
    assert said(common, "printenv", "XDG_RUNTIME_DIR") == "/run/user/7357"
    assert said(common, "pwd") == "/home/tester"
    assert said(common, "sh", "-c", "id -un; pwd", user="root") == "root\n/root"


def test_both_managers_run_with_nothing_failed_and_tester_lingers(common: SystemdBox) -> None:
    assert said(common, "systemctl", "is-system-running", "--wait", user="root") == "running"
    assert said(common, "systemctl", "--user", "is-system-running", "--wait") == "running"
    assert said(common, "loginctl", "show-user", "tester", "--property=Linger", "--value") == "yes"
    # By its own word, as an operator without root does it (polkit).
    assert said(common, "loginctl", "disable-linger") == ""


@pytest.mark.parametrize("end", ["reboot", "power"])
def test_an_enabled_unit_runs_again_after_a_boot_without_any_login(box: SystemdBox, end: str) -> None:
    box.write("/home/tester/.config/systemd/user/talker.service", UNIT)
    said(box, "systemctl", "--user", "daemon-reload")
    said(box, "systemctl", "--user", "enable", "--now", "talker")
    wait_until(lambda: "said by the unit" in said(box, "journalctl", "--user", "--unit=talker"), 10, "its output")
    box.path("/tmp").joinpath("of-the-disk").write_text("hidden")
    said(box, "touch", "/tmp/short", "/home/tester/kept")
    first = said(box, "cat", BOOT_ID)
    if end == "reboot":
        box.reboot()
    else:
        box.cut_power()
        assert not box.running
        assert box.path("/home/tester/kept").exists()
        box.boot()
    again = said(box, "cat", BOOT_ID)
    assert again not in (first, Path(BOOT_ID).read_text().strip())
    assert said(box, "systemctl", "--user", "is-active", "talker") == "active"
    assert "short" not in said(box, "ls", "/tmp")
    assert len(said(box, "journalctl", "--list-boots", "--quiet", user="root").splitlines()) == 2


def test_this_project_works_inside_and_cannot_be_written_from_there(common: SystemdBox) -> None:
    python = ["-c", "import trio, reconciler; print(reconciler.__file__)"]
    assert said(common, sys.executable, *python) == said(common, sys.executable, *python, user="root")
    refused = common.run(["touch", PROJECT / "of-the-box"], user="root")
    assert "Read-only file system" in refused.stderr
    assert not (PROJECT / "of-the-box").exists()


def test_what_is_written_inside_stays_inside(common: SystemdBox, tmp_path: Path) -> None:
    assert "No such file" in common.run(["ls", tmp_path], user="root").stderr
    said(common, "touch", "/etc/of-the-box", "/srv/of-the-box", "/tmp/of-the-box", user="root")
    assert not [path for path in ("/etc", "/srv", "/tmp") if Path(path, "of-the-box").exists()]


def test_nothing_of_the_host_is_mounted_for_writing(common: SystemdBox) -> None:
    # Tried by reading only: what is to be shown here is that trying would be harmless.
    mounts = [line.split()[1:4] for line in said(common, "cat", "/proc/1/mounts", user="root").splitlines()]
    own = ("overlay", "tmpfs", "proc", "devpts", "mqueue", "hugetlbfs", "cgroup", "cgroup2")
    assert [
        (where, kind) for where, kind, options in mounts if kind not in own and "ro" not in options.split(",")
    ] == []
    assert {where for where, _, options in mounts if "ro" in options.split(",")} >= {"/proc/sys", "/sys", str(PROJECT)}
    # The rule that empties /tmp at a boot goes down into what is mounted below.
    assert not [
        rule for rule in said(common, "systemd-tmpfiles", "--cat-config").splitlines() if rule.startswith("D /tmp ")
    ]


def test_the_root_inside_has_no_power_over_clock_and_kernel(common: SystemdBox) -> None:
    status = dict(line.split(":\t", 1) for line in said(common, "cat", "/proc/1/status").splitlines())
    # Bits of <linux/capability.h>: SYS_MODULE, SYS_RAWIO, SYS_TIME, SYSLOG.
    assert [bit for bit in (16, 17, 25, 34) if int(status["CapBnd"], 16) >> bit & 1] == []
    assert int(status["CapBnd"], 16) >> 21 & 1, "SYS_ADMIN, without which there is no systemd"


def test_two_boxes_have_networks_and_processes_of_their_own(box: SystemdBox, tmp_path: Path, spawned: Spawned) -> None:
    (tmp_path / "other").mkdir()
    other = SystemdBox(spawned, tmp_path / "other")
    assert serve_and_ask(box, "one") == "one"
    assert serve_and_ask(other, "two") == "two"
    box.stop()
    assert other.running


def serve_and_ask(box: SystemdBox, word: str) -> str:
    """What a server on port 80 of the box answers, which says this word."""
    serve = f"import socket; s = socket.create_server(('127.0.0.1', 80)); s.accept()[0].sendall(b'{word}'); input()"
    ask = "import socket; print(socket.create_connection(('127.0.0.1', 80)).recv(9).decode())"
    said(box, "systemd-run", "--unit=server", sys.executable, "-c", serve, user="root")
    wait_until(lambda: box.listens(80), 10, "the server listens")
    return said(box, sys.executable, "-c", ask)


def test_the_unified_layout_of_control_groups_can_be_had_anywhere(tmp_path: Path, spawned: Spawned) -> None:
    box = SystemdBox(spawned, tmp_path, unified=True)
    assert said(box, "stat", "--file-system", "--format=%T", "/sys/fs/cgroup") == "cgroup2fs"
    said(box, "systemd-run", "--user", "--unit=sleeper", "sleep", "1000")
    group = said(box, "systemctl", "--user", "show", "--property=ControlGroup", "--value", "sleeper")
    assert said(box, "cat", f"/sys/fs/cgroup{group}/cgroup.procs").isdigit()


def groups_of(holder: int) -> list[Path]:
    return [group for path in own_cgroups() if (group := path / f"openclaw-box-{holder}").exists()]


def test_a_stopped_box_leaves_nothing(tmp_path: Path, spawned: Spawned) -> None:
    box = SystemdBox(spawned, tmp_path)
    holder = box._holder.pid
    assert groups_of(holder)
    said(box, "systemd-run", "--user", "sleep", "1000")
    box.stop()
    assert not groups_of(holder)
    assert not box.running
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert list((tmp_path / "disk").iterdir()) == []


KILLED = """
import pathlib, signal, sys
from tests.beds.needs import needs_systemd
from tests.beds.processes import Spawned
from tests.beds.systemd_box import SystemdBox
with Spawned() as spawned:
    box = SystemdBox(spawned, pathlib.Path(sys.argv[1]))
    print(box._holder.pid, box._first.pid, flush=True)
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_box_ends_with_the_test_that_is_killed(tmp_path: Path, spawned: Spawned, number: signal.Signals) -> None:
    needs_systemd()
    test = spawned.start(
        [sys.executable, "-c", KILLED, tmp_path], cwd=PROJECT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert test.stdout is not None
    holder, first = (identify(int(word)) for word in test.stdout.readline().split())
    assert holder is not None
    assert first is not None
    assert groups_of(holder.pid)
    os.killpg(test.pid, number)
    wait_until(lambda: not (holder.alive or first.alive or groups_of(holder.pid)), 10, "the end of the box")
    assert test.wait(10) != 0


def test_a_machine_ends_with_its_holder(box: SystemdBox) -> None:
    (waiter,) = children_of(box._holder.pid)
    holder = box._holder
    groups = groups_of(holder.pid)
    holder.kill()
    holder.wait()
    wait_until(lambda: not box.running and identify(waiter) is None, 10, "the end of the machine")
    # Only this one, which no test can cause by being killed, leaves something: empty control groups.
    for group in groups:
        run(["find", group, "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
    assert not groups_of(holder.pid)
