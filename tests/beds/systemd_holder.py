"""The other side of a systemd box: makes the machine's disk, starts its PID 1 as often as it is asked to, removes every trace.

    python -m tests.beds.systemd_holder DIRECTORY hybrid|unified

is started by `SystemdBox` and lives in a mount namespace of its own. A line on its standard input is one boot, answered by the
pid of systemd; the end of that input is the end of the box, so that nothing outlives a test that is killed.

What the machine shares with this one is shared for reading only: an overlay of `/`, and this project at its own path. That is
not for tidiness. The systemd inside is root, and at its boot it empties /tmp: what it could write there of the host were gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[2]
DISK: Final = "disk"  # the mount point below the directory, and below that the root of the machine
ROOT: Final = "disk/root"
UP: Final = "/run/openclaw-box-up"  # is there once the machine is up
TESTER: Final = "tester"
TESTER_UID: Final = 7357  # above what installed systems give to people and services
SYSTEMD: Final = "/lib/systemd/systemd"

# <linux/mount.h>, <linux/sched.h>, <linux/prctl.h>; os.unshare comes with Python 3.12.
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 1, 32, 4096, 16384, 1 << 18, 2
_CLONE_NEWNS, _CLONE_NEWCGROUP, _CLONE_NEWUTS = 0x20000, 0x2000000, 0x4000000
_CLONE_NEWIPC, _CLONE_NEWPID, _CLONE_NEWNET = 0x8000000, 0x20000000, 0x40000000
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)

# What reaches beyond the namespaces: the clock, modules, the kernel's log, its programs and its security rules.
_WITHOUT = (
    "sys_time",
    "sys_module",
    "sys_rawio",
    "syslog",
    "mac_admin",
    "mac_override",
    "wake_alarm",
    "bpf",
    "perfmon",
)
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}

# Generators make units out of what they find on the host (its old init scripts, its disks); these two ask the command line only.
_GENERATORS = ("systemd-debug-generator", "systemd-run-generator")
_UP_UNIT = f"""\
[Unit]
Description=The box is up: logins, the bus and the manager of {TESTER} are there
Wants=dbus.socket systemd-logind.service systemd-user-sessions.service user@{TESTER_UID}.service
After=dbus.socket systemd-logind.service systemd-user-sessions.service user@{TESTER_UID}.service

[Service]
Type=oneshot
ExecStart=/bin/touch {UP}
"""


@dataclass(frozen=True)
class Cgroup:
    """A control group of our own in one hierarchy, below the one that we are in: its limits hold for the box as well."""

    path: Path

    def make(self) -> None:
        self.path.mkdir()
        for name in ("cpuset.cpus", "cpuset.mems"):
            # A cpuset of version 1 takes no process before it has processors and memory.
            if (file := self.path / name).exists() and not file.read_text().strip():
                file.write_text((self.path.parent / name).read_text())

    def remove(self) -> None:
        """Removes it with all groups below; the last of them may stay busy for a moment after its last process."""
        deadline = time.monotonic() + 5
        while self.path.exists() and time.monotonic() < deadline:
            for directory, _, _ in os.walk(self.path, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
            time.sleep(0.005)


class Holder:
    """What `directory` needs for booting; `unified` is the layout of control groups inside: version 2 alone."""

    def __init__(self, directory: Path, *, unified: bool) -> None:
        self._disk = directory / DISK
        self._root = directory / ROOT
        self._unified = unified
        self._cgroups = [Cgroup(path / f"openclaw-box-{os.getpid()}") for path in own_cgroups()]
        self._waiter = 0

    def prepare(self) -> None:
        """Makes the disk, empty of what the host's own services would do, and the control groups."""
        _call("unshare", _CLONE_NEWNS)
        _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
        self._disk.mkdir()
        _mount("tmpfs", self._disk, "tmpfs", options="mode=755")
        for name in ("upper", "work", "root"):
            (self._disk / name).mkdir()
        layers = f"lowerdir=/,upperdir={self._disk}/upper,workdir={self._disk}/work"
        _mount("overlay", self._root, "overlay", options=layers)
        furnish(self._root)
        for cgroup in self._cgroups:
            cgroup.make()

    def boot(self) -> int:
        """Starts PID 1, after the end of the one before; returns its pid."""
        self._wait()
        reading, writing = os.pipe()
        self._waiter = _fork(lambda: self._start_and_wait(writing))
        os.close(writing)
        with open(reading) as answer:
            return int(answer.read())

    def remove(self) -> None:
        """Ends the machine at once, and removes the control groups; the kernel takes all mounts away with us."""
        if self._waiter:
            # Its child ends with it, and all others with that one.
            os.kill(self._waiter, signal.SIGKILL)
            self._wait()
        for cgroup in self._cgroups:
            cgroup.remove()

    def _wait(self) -> None:
        if self._waiter:
            os.waitpid(self._waiter, 0)
            self._waiter = 0

    def _start_and_wait(self, answer: int) -> None:
        """The parent of PID 1. It leaves the control groups again: on version 2 a group with processes has no groups below."""
        leave = [os.open(cgroup.path.parent / "cgroup.procs", os.O_WRONLY) for cgroup in self._cgroups]
        enter = [os.open(cgroup.path / "cgroup.procs", os.O_WRONLY) for cgroup in self._cgroups]
        _move(enter)
        # The groups that we are in now are the roots that the machine sees.
        _call(
            "unshare", _CLONE_NEWNS | _CLONE_NEWCGROUP | _CLONE_NEWUTS | _CLONE_NEWIPC | _CLONE_NEWPID | _CLONE_NEWNET
        )
        _move(leave)
        first = _fork(lambda: self._become_systemd(enter))
        # The answer ends where the last of us lets go of it: when systemd is executed.
        os.write(answer, f"{first}".encode())
        os.close(answer)
        os.waitpid(first, 0)

    def _become_systemd(self, enter: list[int]) -> None:
        _move(enter)
        mount_kernel(self._root, boot_id=self._disk / "boot_id")
        bind_for_reading(PROJECT, self._root)
        os.chdir(self._root)
        subprocess.run(["pivot_root", ".", "."], check=True)
        # The old root lies over the new one now (pivot_root(2)).
        _call("umount2", b".", _MNT_DETACH)
        os.chdir("/")
        os.setsid()
        nothing = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        # In a container the arguments of PID 1 are read as the kernel's command line (kernel-command-line(7)).
        layout = f"systemd.unified_cgroup_hierarchy={self._unified:d}"
        without = ",".join(f"-{name}" for name in _WITHOUT)
        environment = {
            "container": "openclaw-test",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        os.execvpe("setpriv", ["setpriv", f"--bounding-set={without}", SYSTEMD, "--system", layout], environment)


def own_cgroups() -> Iterator[Path]:
    """The directory of our control group in every hierarchy that is mounted (cgroups(7), proc(5))."""
    hierarchies: dict[str, tuple[Path, str]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _source, options = after.split()
        root, mounted = before.split()[3:5]
        if kind == "cgroup2":
            hierarchies[""] = Path(mounted), root
        elif kind == "cgroup":
            hierarchies.update({option: (Path(mounted), root) for option in options.split(",")})
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _number, controllers, path = line.split(":", 2)
        if found := hierarchies.get(controllers.split(",")[0]):
            yield found[0] / os.path.relpath(path, found[1])


def furnish(root: Path) -> None:
    """Makes the copy of the host below `root` a machine of its own: nothing of the host's runs, `tester` exists and lingers."""
    etc = root / "etc"
    for emptied in (
        etc / "systemd/system",
        etc / "systemd/user",
        root / "var/lib/systemd/linger",
        root / "var/log/journal",
    ):
        shutil.rmtree(emptied, ignore_errors=True)
        emptied.mkdir(parents=True)
    (etc / "fstab").unlink(missing_ok=True)
    (etc / "hostname").write_text("box\n")
    (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
    # /tmp is made anew at each boot; the rule that empties it would go down into what is mounted below as well.
    _mask(etc / "tmpfiles.d/tmp.conf")
    for generator in (root / "usr/lib/systemd/system-generators").iterdir():
        if generator.name not in _GENERATORS:
            _mask(etc / "systemd/system-generators" / generator.name)
    units = etc / "systemd/system"
    # Who could write there could end file systems of the host.
    _mask(units / "sys-fs-fuse-connections.mount")
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    (units / "box-up.service").write_text(_UP_UNIT)
    (units / "multi-user.target.wants").mkdir()
    (units / "multi-user.target.wants/box-up.service").symlink_to("../box-up.service")
    add_tester(root)
    # A Python below /root, as installed for one user, must be reachable for the other.
    for directory in Path(sys.base_prefix).parents:
        inside = root / directory.relative_to("/")
        inside.chmod(inside.stat().st_mode | stat.S_IXOTH)


def add_tester(root: Path) -> None:
    """Adds the user, with a home and without a password."""
    for name, line in {
        "passwd": f"{TESTER}:x:{TESTER_UID}:{TESTER_UID}::/home/{TESTER}:/bin/sh",
        "group": f"{TESTER}:x:{TESTER_UID}:",
        "shadow": f"{TESTER}:*:1::::::",
    }.items():
        with (root / "etc" / name).open("a") as file:
            file.write(f"{line}\n")
    home = root / "home" / TESTER
    home.mkdir(mode=0o700, parents=True)
    os.chown(home, TESTER_UID, TESTER_UID)
    (root / "var/lib/systemd/linger" / TESTER).touch()


def mount_kernel(root: Path, boot_id: Path) -> None:
    """Mounts what systemd would take from the host or could change on it; the rest it mounts itself."""
    _mount(root, root, None, _MS_BIND)
    _mount("proc", root / "proc", "proc")
    # The file stands in for what the kernel says of this boot (proc(5)).
    boot_id.write_text(f"{uuid.uuid4()}\n")
    _mount(boot_id, root / "proc/sys/kernel/random/boot_id", None, _MS_BIND)
    _mount(root / "proc/sys", root / "proc/sys", None, _MS_BIND | _MS_REC)
    _mount(None, root / "proc/sys", None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)
    if (sysrq := root / "proc/sysrq-trigger").exists():
        _mount("/dev/null", sysrq, None, _MS_BIND)
    _mount("sysfs", root / "sys", "sysfs", _MS_RDONLY)
    _mount("tmpfs", root / "tmp", "tmpfs", options="mode=1777")
    _mount("tmpfs", root / "dev", "tmpfs", options="mode=755")
    for name, (major, minor) in _DEVICES.items():
        os.mknod(root / "dev" / name, stat.S_IFCHR, os.makedev(major, minor))
        (root / "dev" / name).chmod(0o666)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        (root / "dev" / name).symlink_to(f"/proc/self/fd/{number}")
    (root / "dev/fd").symlink_to("/proc/self/fd")
    (root / "dev/ptmx").symlink_to("pts/ptmx")


def bind_for_reading(path: Path, root: Path) -> None:
    """Shows `path` at the same place below `root`, for reading only; directories on the way there that are new are everybody's.

    Raises:
        OSError: it is not for reading only; nothing may run then.
    """
    target = root / path.relative_to("/")
    for directory in reversed(target.relative_to(root).parents[:-1]):
        inside = root / directory
        inside.mkdir(exist_ok=True)
        inside.chmod(inside.stat().st_mode | stat.S_IXOTH)
    target.mkdir(exist_ok=True)
    _mount(path, target, None, _MS_BIND)
    _mount(None, target, None, _MS_BIND | _MS_REMOUNT | _MS_RDONLY)
    if not os.statvfs(target).f_flag & os.ST_RDONLY:
        raise OSError(f"cannot boot: {path} could be written from inside")


def _mask(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to("/dev/null")


def _move(procs: list[int]) -> None:
    for descriptor in procs:
        os.write(descriptor, b"0")


def _mount(source: Path | str | None, target: Path | str, kind: str | None, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    texts = (None if text is None else os.fsencode(text) for text in (source, target, kind))
    _call("mount", *texts, ctypes.c_ulong(flags), os.fsencode(options))


def _call(name: str, *arguments: object) -> None:
    """A system call by its name in the C library; raises OSError."""
    if getattr(_LIBC, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot {name} {arguments}: {os.strerror(number)}")


def _fork(target: Callable[[], None]) -> int:
    """Runs `target` in a child that ends with it, or with us; returns the child's pid."""
    if child := os.fork():
        return child
    try:
        _call("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
        target()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def main() -> None:
    """See the module."""
    directory, layout = sys.argv[1:]
    holder = Holder(Path(directory), unified=layout == "unified")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        holder.prepare()
        for _line in sys.stdin:
            print(holder.boot(), flush=True)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        holder.remove()


if __name__ == "__main__":
    main()
