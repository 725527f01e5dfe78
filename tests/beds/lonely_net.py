"""A network of its own, with nothing in it but loopback: every port is free there, whoever uses it on this machine.

Nobody else sees it, and the kernel takes it away with the last process in it. Knows nothing of the program under test.

    python -m tests.beds.lonely_net PROGRAM [ARGUMENT...]

brings up loopback and becomes PROGRAM; it is meant to be started by `LonelyNet`.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.beds.needs import needs_programs, needs_root
from tests.beds.processes import Spawned

_ROOT = Path(__file__).parents[2]
# From <linux/sockios.h> and <net/if.h> (netdevice(7)).
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


class LonelyNet:
    """A network for as long as a process of `spawned` lives; skips the test where that cannot be had."""

    def __init__(self, spawned: Spawned) -> None:
        needs_root("a network namespace")
        needs_programs("unshare", "nsenter")
        # It says that loopback is up, then does nothing for as long as it is left alone.
        keep = "printf ready; exec sleep infinity"
        holder = spawned.start(
            ["unshare", "--net", sys.executable, "-m", __name__, "sh", "-c", keep], cwd=_ROOT, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        assert holder.stdout.read(5) == b"ready"
        self._pid = holder.pid

    def inside(self, argv: Sequence[str | Path]) -> list[str | Path]:
        """The command line that runs `argv` in the network; it stays one process, in the directory where it is started."""
        return ["nsenter", "--target", str(self._pid), "--net", *argv]


def main() -> None:
    """See the module."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
