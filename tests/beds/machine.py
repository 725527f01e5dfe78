"""A machine whose power can be cut: all of its processes end in one blow, and its next boot has another boot id.

Processes in a PID namespace of their own, with their own /proc; files and network are the host's. What was written is kept, so
this is the death of the machine as its programs see it, and says nothing about what a disk loses. Knows nothing of the program
under test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path

from tests.beds.needs import needs_programs, needs_root
from tests.beds.processes import Process, Spawned, identify, wait_until

# The namespace ends with its first process. The file stands in for what the kernel says of this boot (proc(5)).
_BOOT = 'mount --bind "$0" /proc/sys/kernel/random/boot_id && printf ready && exec sleep infinity'
_UNSHARE = ("unshare", "--pid", "--fork", "--mount", "--propagation", "private", "--mount-proc", "--kill-child=KILL")


class Machine:
    """A machine that runs for as long as `spawned` lives, or until its power is cut; `directory` is for its boot id.

    Skips the test where that cannot be had.
    """

    def __init__(self, spawned: Spawned, directory: Path) -> None:
        needs_root("a PID namespace")
        needs_programs("unshare", "nsenter", "mount")
        self._spawned = spawned
        self._boot_id = directory / "boot_id"
        self._first: Process | None = None
        self.boot()

    def boot(self) -> None:
        """Starts it (again)."""
        self._boot_id.write_text(f"{uuid.uuid4()}\n")
        holder = self._spawned.start([*_UNSHARE, "sh", "-c", _BOOT, self._boot_id], stdout=subprocess.PIPE)
        assert holder.stdout is not None
        assert holder.stdout.read(5) == b"ready"
        (pid,) = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        self._first = identify(int(pid))

    def cut_power(self) -> None:
        """Ends every process of it at once; returns when they are gone."""
        first = self._first
        assert first is not None
        os.kill(first.pid, signal.SIGKILL)
        wait_until(lambda: not first.alive, 10, "the machine is down")

    def inside(self, argv: Sequence[str | Path], cwd: Path) -> list[str | Path]:
        """The command line that runs `argv` on the machine, in `cwd`. It waits beside it: a PID namespace takes only children."""
        assert self._first is not None
        enter = 'cd "$0" && exec "$@"'
        return ["nsenter", "--target", str(self._first.pid), "--pid", "--mount", "sh", "-c", enter, cwd, *argv]
