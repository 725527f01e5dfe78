"""A machine with a real systemd as PID 1 and a lingering user with a manager of its own; it can be rebooted, and its power cut.

It has its own processes, mounts, network (only loopback) and control groups, and an overlay of this machine's files: whatever is
installed here is there, and nothing that it writes comes out. This project lies at the same path, for reading only, with its
environment. What was written is kept over reboots and power cuts, except in /tmp and /run; so a power cut is the death of all
processes at once, and says nothing about what a disk loses.

Several can run side by side. They end with their test, also where that is killed, and leave no process, mount or control group.
Knows nothing of the program under test; how the machine is made is `systemd_holder`'s part.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.beds.needs import needs_systemd
from tests.beds.processes import Process, Spawned, identify, run, wait_until
from tests.beds.systemd_holder import PROJECT, ROOT, TESTER, TESTER_UID, UP

BOOT_SECONDS: Final = 30
# A reboot stops every unit first; systemd gives one that does not end 90 seconds (systemd-system.conf(5)).
DOWN_SECONDS: Final = 120
_NAMESPACES: Final = ("--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup")
_ROOT_ENVIRON: Final = {
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}


class SystemdBox:
    """A machine for as long as a process of `spawned` lives; `directory`, the caller's own, is where its disk is mounted.

    It is up when this returns. Skips the test where that cannot be had.

    Args:
        unified: whether control groups are version 2 alone inside; without it as they are on this machine. Where this machine
            has its controllers in version 1, version 2 is there without any: no limit holds.
    """

    def __init__(self, spawned: Spawned, directory: Path, *, unified: bool | None = None) -> None:
        needs_systemd()
        if unified is None:
            unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        self._directory = directory.resolve()
        self._log = self._directory / "holder.log"
        with self._log.open("ab") as log:
            self._holder = spawned.start(
                [
                    sys.executable,
                    "-m",
                    "tests.beds.systemd_holder",
                    self._directory,
                    "unified" if unified else "hybrid",
                ],
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # A signal for all of the test's group must leave somebody who removes the control groups.
                start_new_session=True,
            )
        self._first: Process | None = None
        self.boot()

    @property
    def running(self) -> bool:
        """Whether PID 1 lives."""
        return self._first is not None and self._first.alive

    def boot(self) -> None:
        """Starts a machine that is down; returns when it is up and the manager of `tester` serves.

        Raises:
            AssertionError: it did not come up; the text says why.
        """
        assert not self.running
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write("\n")
        self._holder.stdin.flush()
        answer = self._holder.stdout.readline()
        assert answer, f"no machine: {self._log.read_text()}"
        self._first = identify(int(answer))
        wait_until(lambda: self._up() or not self.running, BOOT_SECONDS, "the machine is up")
        assert self.running, f"the machine went down in its boot: {self._log.read_text()}"

    def cut_power(self) -> None:
        """Ends every process of it at once; returns when they are gone. Its files stay."""
        assert self._first is not None
        self._first.send(signal.SIGKILL)
        wait_until(lambda: not self.running, 10, "the machine is down")

    def reboot(self) -> None:
        """An orderly reboot, as its operator asks for one; returns when it is up again."""
        # Its own end may be quicker than its answer.
        self.run(["systemctl", "reboot"], user="root")
        wait_until(lambda: not self.running, DOWN_SECONDS, "the machine went down")
        self.boot()

    def stop(self) -> None:
        """Ends it for good, at once; its files are gone."""
        assert self._holder.stdin is not None
        self._holder.stdin.close()
        self._holder.wait(30)

    def path(self, inside: str | Path) -> Path:
        """How a file on its disk is reached from outside, also while it is down; not those below /tmp, /run and this project."""
        return Path(f"/proc/{self._holder.pid}/root{self._directory}/{ROOT}{inside}")

    def write(self, inside: str | Path, text: str, *, user: str = TESTER) -> None:
        """Writes a file of `user` on its disk, with the directories that are missing."""
        owner = {TESTER: TESTER_UID, "root": 0}[user]
        path = self.path(inside)
        missing = [directory for directory in path.parents if not directory.exists()]
        for directory in reversed(missing):
            directory.mkdir()
            os.chown(directory, owner, owner)
        path.write_text(text)
        os.chown(path, owner, owner)

    def listens(self, port: int) -> bool:
        """Whether anybody listens on this TCP port of its network."""
        assert self._first is not None
        # proc(5): local address, remote address, and state 0A, which is listening.
        listening = re.compile(rf": [0-9A-F]+:{port:04X} [0-9A-F]+:0000 0A ")
        return any(
            listening.search(Path(f"/proc/{self._first.pid}/net/{name}").read_text()) for name in ("tcp", "tcp6")
        )

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        user: str = TESTER,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program in it to its end, as `processes.run` does; `inside` says how."""
        return run(self.inside(argv, user=user, cwd=cwd, env=env), **options)

    def inside(
        self,
        argv: Sequence[str | Path],
        *,
        user: str = TESTER,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> list[str]:
        """The command line that runs `argv` in it, with `env` beside what a login gives, in `cwd` or else at home.

        For `tester` in a login session of its own; for root beside all units and sessions, as from a rescue console. It waits
        beside the program: a PID namespace takes only children.
        """
        words = [str(word) for word in argv]
        assigned = [f"{name}={value}" for name, value in (env or {}).items()]
        # One string for a shell: runuser would take options out of any further arguments.
        line = "exec " + shlex.join(["env", *assigned, *words])
        if cwd is not None:
            line = f"cd {shlex.quote(str(cwd))} && {line}"
        assert self._first is not None
        enter = ["nsenter", "--target", str(self._first.pid), *_NAMESPACES]
        if user == TESTER:
            return [*enter, "runuser", "--login", TESTER, "--command", line]
        known = [f"{name}={value}" for name, value in _ROOT_ENVIRON.items()]
        return [*enter, "env", "--ignore-environment", *known, "sh", "-c", f"cd && {line}"]

    def _up(self) -> bool:
        assert self._first is not None
        # Before systemd runs this is a path of the host, where it never exists.
        return Path(f"/proc/{self._first.pid}/root{UP}").exists()
