"""What is read of /proc about processes and ports, with real ones."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from resources.service import proc
from tests.beds.processes import Spawned, wait_until
from tests.resources.service.beds import DEADLINE

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7")]


def test_a_process_is_its_pid_and_its_start_time() -> None:
    ticks = proc.start_ticks(os.getpid())
    assert proc.is_alive(os.getpid(), ticks)
    assert ticks is not None
    assert not proc.is_alive(os.getpid(), ticks + 1)
    assert not proc.is_alive(None, ticks)
    assert not proc.is_alive(os.getpid(), None)


def test_a_zombie_counts_as_gone() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    try:
        wait_until(lambda: proc.process_state(pid) == "Z", DEADLINE, "the zombie")
        assert proc.start_ticks(pid) is None
        assert pid not in proc.group_members(os.getpgid(0))
    finally:
        os.waitpid(pid, 0)
    assert proc.process_state(pid) is None


def test_a_program_is_named_without_its_arguments(spawned: Spawned) -> None:
    popen = spawned.start(["sleep", "1000.25"])
    wait_until(lambda: proc.program(popen.pid) == "sleep", DEADLINE, "exec")
    assert proc.program(2**22 + 1) == "unknown program"


def test_one_variable_is_read_exactly(spawned: Spawned) -> None:
    popen = spawned.start(["sleep", "1000"], env={"A": "1=2\n3", "AB": "x", "PATH": os.environ["PATH"]})
    assert proc.environ_value(popen.pid, "A") == "1=2\n3"
    assert proc.environ_value(popen.pid, "B") is None
    assert popen.pid in proc.processes_with("A", "1=2\n3")


def test_a_process_in_the_middle_of_its_exec_is_never_taken_for_one_without_an_environment() -> None:
    """Its lock is free before its environment can be read: a keeper that came then would start a second gateway."""
    for _ in range(200):
        # subprocess.Popen returns when the descriptors are closed, which is that moment.
        with subprocess.Popen(["sleep", "1000"], env={"A": "1", "PATH": os.environ["PATH"]}) as popen:
            try:
                assert proc.environ_value(popen.pid, "A") == "1"
            finally:
                popen.kill()


def test_who_has_no_environment_is_not_waited_for(spawned: Spawned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("waited"))
    bare = spawned.start([shutil.which("sleep") or "", "1000"], env={})
    assert proc.environ(bare.pid) == {}
    kernel_threads = [pid for pid in proc.every_pid() if proc.process_group(pid) == 0]
    assert [proc.environ(pid) for pid in kernel_threads] == [{}] * len(kernel_threads)


@pytest.mark.parametrize(
    ("address", "dialled"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.1.2.3", "127.1.2.3"), ("::1", "::1"), ("::", "::1")],
)
def test_a_listener_is_found_with_its_owner_and_where_to_dial_it(
    free_port: Callable[[], int], address: str, dialled: str
) -> None:
    port = free_port()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if family == socket.AF_INET6 and not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("this machine has no IPv6")
    assert proc.port_owner(port) is None
    assert proc.group_host(os.getpgid(0), port) is None
    with socket.socket(family) as server:
        server.bind((address, port))
        assert proc.port_owner(port) is None
        server.listen()
        assert proc.port_owner(port) == os.getpid()
        assert proc.port_owner(port, os.getpid()) == os.getpid()
        assert proc.port_owner(port, 1) == os.getpid()
        assert port in proc.listening_ports()
        assert proc.group_owns_port(os.getpgid(0), port)
        assert proc.group_host(os.getpgid(0), port) == dialled
    assert proc.port_owner(port) is None


def test_the_port_of_a_childs_child_is_its_groups(spawned: Spawned, free_port: Callable[[], int]) -> None:
    port = free_port()
    code = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(1000)"
    shell = spawned.start(["sh", "-c", '"$0" -S -c "$1"; exit 1', sys.executable, code], start_new_session=True)
    owner = wait_until(lambda: proc.port_owner(port), DEADLINE, "the listener")
    spawned.take(owner)
    assert owner != shell.pid
    assert proc.group_owns_port(shell.pid, port)
    assert not proc.group_owns_port(os.getpgid(0), port)


def test_of_two_who_listen_on_one_port_the_groups_own_address_is_dialled(
    spawned: Spawned, free_port: Callable[[], int]
) -> None:
    port = free_port()
    code = f"import socket, time; s = socket.create_server(('127.0.0.9', {port})); time.sleep(1000)"
    other = spawned.start([sys.executable, "-S", "-c", code], start_new_session=True)
    with socket.create_server(("127.0.0.1", port)):
        assert wait_until(lambda: proc.group_host(other.pid, port), DEADLINE, "the listener") == "127.0.0.9"
        assert proc.group_host(os.getpgid(0), port) == "127.0.0.1"


LACKING = """
import os, resource, socket, sys
from resources.service import proc
held = socket.create_server(("127.0.0.1", 0))
port, pid, ticks = held.getsockname()[1], os.getpid(), proc.start_ticks(os.getpid())
next_one = os.open("/", os.O_RDONLY)
os.close(next_one)
resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, next_one))
looks = {
    "is_alive": lambda: proc.is_alive(pid, ticks),
    "environ_value": lambda: proc.environ_value(pid, "PATH"),
    "group_members": lambda: proc.group_members(os.getpgid(0)),
    "listening_ports": proc.listening_ports,
    "port_owner": lambda: proc.port_owner(port, pid),
    "holds_inode": lambda: proc.holds_inode(pid, frozenset(("1",))),
}
for name, look in looks.items():
    try:
        print(name, look())
    except OSError as err:
        print(name, err.strerror)
print("process_group", proc.process_group(pid) == os.getpgid(0))
"""


def test_whoever_has_no_descriptor_left_says_that_and_not_that_nobody_is_there(spawned: Spawned) -> None:
    popen = spawned.start([sys.executable, "-c", LACKING], stdout=subprocess.PIPE, text=True)
    names = ["is_alive", "environ_value", "group_members", "listening_ports", "port_owner", "holds_inode"]
    said = [f"{name} {os.strerror(errno.EMFILE)}" for name in names]
    assert popen.communicate(timeout=DEADLINE)[0].splitlines() == [*said, "process_group True"]
