"""Who a process is, whether it still is that one, and who listens on a TCP port: reads of /proc and the kernel's answers.

Standard library only, because the keeper imports it. Reads, and never signals. A process is its pid *and* its start time
(proc(5), field 22 of stat), so that a pid which the kernel handed out again is never taken for the first one. A zombie
counts as gone: where nobody reaps, it stays in /proc for ever. To have no descriptor left to look with is not to have seen that
it is gone: whatever reads here raises OSError for that (`shortage`).
"""

from __future__ import annotations

import os
import time

from resources.service.listeners import listeners
from resources.service.shortage import is_shortage

_GONE_STATES = ("Z", "X")
# How long a process that is within execve(2) is waited for, and how often it is looked at: that takes microseconds, or as long as
# its program is read from a slow disk.
_EXEC_SECONDS = 1.0
_EXEC_POLL_SECONDS = 0.001
# PF_KTHREAD in field 9 of stat: a thread of the kernel has no environment, ever.
_KERNEL_THREAD = 0x00200000
_CAP_NET_BIND_SERVICE = 1 << 10


def read_text(path: str) -> str | None:
    """The content of a file of /proc; None where the process is gone or the system refuses.

    Raises:
        OSError: this process lacks what it takes to look (`is_shortage`).
    """
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "surrogateescape")
    except OSError as err:
        if is_shortage(err):
            raise
        return None


def stat_fields(pid: int) -> list[str]:
    """The fields of stat after the program's name, state first; empty where there is no such process."""
    text = read_text(f"/proc/{pid}/stat")
    return text.rpartition(")")[2].split() if text else []


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None where it is gone or a zombie."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields and fields[0] not in _GONE_STATES else None


def is_alive(pid: int | None, ticks: int | None) -> bool:
    """Whether the process with this pid and this start time still runs."""
    return pid is not None and ticks is not None and start_ticks(pid) == ticks


def process_state(pid: int) -> str | None:
    """The state letter (`R`, `S`, `D`, `T`, `Z` ...); None where the process is gone."""
    fields = stat_fields(pid)
    return fields[0] if fields else None


def process_group(pid: int) -> int | None:
    """Its process group; None where it is gone. Needs no descriptor."""
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def user_id(pid: int) -> int | None:
    """The user that it runs as; None where it is gone."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def program(pid: int) -> str:
    """The name of the program for people: the last part of its first argument, else the kernel's name for it.

    Never more of the command line: other people's arguments may hold secrets.
    """
    first = (read_text(f"/proc/{pid}/cmdline") or "").partition("\0")[0]
    return first.rpartition("/")[2] or (read_text(f"/proc/{pid}/comm") or "").strip() or "unknown program"


def described(pid: int) -> str:
    """The process in words for people; 0 stands for one that we may not see (`port_owner`)."""
    if not pid:
        return "a process that this user may not see"
    user = user_id(pid)
    return f"process {pid} ({program(pid)})" + ("" if user is None else f" of user {user}")


def least_port(pid: int) -> int:
    """The lowest TCP port on which the process, and what it starts, may listen (ip(7), capabilities(7))."""
    least = read_text("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    held = (read_text(f"/proc/{pid}/status") or "").partition("\nCapEff:")[2].split()
    return 1 if least is None or not held or int(held[0], 16) & _CAP_NET_BIND_SERVICE else int(least)


def environ_value(pid: int, name: str) -> str | None:
    """One variable of the environment that the process was started with; None where absent or not readable."""
    return environ(pid).get(name)


def environ(pid: int) -> dict[str, str]:
    """The environment that the process was started with; empty where it is not readable.

    A process that is just becoming its program is waited for, for a second at most: in the middle of execve(2) its descriptors
    are closed already, our locks among them, and its environment reads as empty.
    """
    text = read_text(f"/proc/{pid}/environ")
    limit = time.monotonic() + _EXEC_SECONDS
    while text == "" and _shows_no_environment_yet(pid) and time.monotonic() < limit:
        time.sleep(_EXEC_POLL_SECONDS)
        text = read_text(f"/proc/{pid}/environ")
    items = (item.partition("=") for item in (text or "").split("\0"))
    found: dict[str, str] = {}
    for name, equals, value in items:
        if equals:
            # Of two of one name the first is what getenv(3) gives.
            found.setdefault(name, value)
    return found


def _shows_no_environment_yet(pid: int) -> bool:
    """Whether it is to have an environment and none was seen: fields 50 and 51 of stat are where that begins and ends."""
    fields = stat_fields(pid)
    if not fields or fields[0] in _GONE_STATES or int(fields[6]) & _KERNEL_THREAD:
        return False
    begins, ends = int(fields[47]), int(fields[48])
    return ends == 0 or begins < ends


def every_pid() -> list[int]:
    """The pids of this moment."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def group_members(group: int) -> list[int]:
    """The processes of a process group that run now."""
    return [
        pid
        for pid in every_pid()
        if (fields := stat_fields(pid)) and fields[0] not in _GONE_STATES and int(fields[2]) == group
    ]


def processes_with(name: str, value: str) -> list[int]:
    """All running processes of this user whose environment holds `name=value` (a walk through /proc)."""
    own = os.getuid()
    return [
        pid
        for pid in every_pid()
        if (own == 0 or user_id(pid) == own) and environ_value(pid, name) == value and start_ticks(pid) is not None
    ]


def boot_id() -> str:
    """What names this boot; empty where the kernel does not tell."""
    return (read_text("/proc/sys/kernel/random/boot_id") or "").strip()


def listening_inodes(port: int) -> frozenset[str]:
    """The socket inodes that listen on a TCP port, whatever the address (IPv4 and IPv6)."""
    return frozenset(found.inode for found in listeners(port))


def listening_ports() -> frozenset[int]:
    """All TCP ports that somebody listens on."""
    return frozenset(found.port for found in listeners())


def holds_inode(pid: int, inodes: frozenset[str]) -> bool:
    """Whether the process has one of these sockets open."""
    directory = f"/proc/{pid}/fd"
    wanted = {f"socket:[{inode}]" for inode in inodes}
    try:
        names = os.listdir(directory)
    except OSError as err:
        if is_shortage(err):
            raise
        return False
    for name in names:
        try:
            if os.readlink(f"{directory}/{name}") in wanted:
                return True
        except OSError:
            continue
    return False


def port_owner(port: int, candidate: int | None = None) -> int | None:
    """The pid that listens on a TCP port; None where nobody does, 0 where somebody does whom we may not see.

    `candidate` is asked first: with the usual owner the walk through all processes is saved.
    """
    inodes = listening_inodes(port)
    if not inodes:
        return None
    if candidate is not None and holds_inode(candidate, inodes):
        return candidate
    return next((pid for pid in every_pid() if holds_inode(pid, inodes)), 0)


def inode_owner(inode: str) -> int | None:
    """A process that has this socket open (a walk through /proc); None where we see none."""
    return next((pid for pid in every_pid() if holds_inode(pid, frozenset((inode,)))), None)


def group_owns_port(group: int, port: int) -> bool:
    """Whether a process of this group listens on the port; the leader is asked first."""
    inodes = listening_inodes(port)
    return bool(inodes) and _group_holds(group, inodes)


def group_host(group: int, port: int) -> str | None:
    """Where a client on this host dials what a process of this group listens on with this port, IPv4 first; None where it
    listens on none. Somebody else may listen on another address with the same port.
    """
    return next((found.host for found in listeners(port) if _group_holds(group, frozenset((found.inode,)))), None)


def _group_holds(group: int, inodes: frozenset[str]) -> bool:
    return holds_inode(group, inodes) or any(holds_inode(pid, inodes) for pid in group_members(group))
