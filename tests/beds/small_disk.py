"""A small file system that really runs full: a tmpfs in a mount namespace of its own, for one program or for several.

Nobody else sees the mount, and the kernel takes it away with the last process in it, so that nothing stays behind a
test that is killed. Knows nothing of the program under test.

    python -m tests.beds.small_disk MEBIBYTES DIRECTORY PROGRAM [ARGUMENT...]

mounts over DIRECTORY (empty, made by the caller) and becomes PROGRAM; it is meant to be started by `run_on_small_disk`
and `SmallDisk`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.beds.needs import needs_programs, needs_root
from tests.beds.processes import Spawned, run

_ROOT = Path(__file__).parents[2]
_UNSHARE = ("unshare", "--mount", "--propagation", "private")


def run_on_small_disk(
    mebibytes: int, directory: Path, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs `argv` where `directory` is a tmpfs of that size; skips the test where that cannot be had.

    It starts in the root of this project, so that `python -m tests...` finds its module.
    """
    needs_root("a mount namespace")
    needs_programs("unshare", "mount")
    head: list[str | Path] = [*_UNSHARE, sys.executable, "-m", __name__, str(mebibytes), directory]
    return run([*head, *argv], env=env, cwd=_ROOT)


class SmallDisk:
    """A tmpfs over `directory` for as long as a process of `spawned` lives; skips the test where that cannot be had.

    Attributes:
        path: how a process outside of the namespace reaches what lies on the disk.
    """

    def __init__(self, spawned: Spawned, mebibytes: int, directory: Path) -> None:
        needs_root("a mount namespace")
        needs_programs("unshare", "mount", "nsenter")
        self.directory = directory
        # It says that the mount is there, then does nothing for as long as it is left alone.
        keep = "printf ready; exec sleep infinity"
        holder = spawned.start(
            [*_UNSHARE, sys.executable, "-m", __name__, str(mebibytes), directory, "sh", "-c", keep],
            cwd=_ROOT,
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        assert holder.stdout.read(5) == b"ready"
        self._pid = holder.pid
        self.path = Path(f"/proc/{self._pid}/root{directory}")

    def inside(self, argv: Sequence[str | Path], cwd: Path) -> list[str | Path]:
        """The command line that runs `argv` where the disk is mounted, in `cwd`; it stays one process."""
        enter = 'cd "$0" && exec "$@"'
        return ["nsenter", "--target", str(self._pid), "--mount", "sh", "-c", enter, cwd, *argv]

    def reading(self, argv: Sequence[str | Path], cwd: Path) -> list[str | Path]:
        """As `inside`, but `argv` finds the disk mounted for reading only; for all others it stays as it is."""
        enter = 'mount -o remount,bind,ro "$1" && shift && cd "$0" && exec "$@"'
        return self.inside([*_UNSHARE, "sh", "-c", enter, cwd, self.directory, *argv], cwd)

    def free_bytes(self) -> int:
        """What is left for everybody."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize


def fill(directory: Path, name: str = "filler") -> Path:
    """Takes the last free byte of the file system of `directory`; returns the file, called `name`, that did it."""
    path = directory / name
    with open(path, "wb", buffering=0) as file:
        # A page at a time in the end: a refused big write may still leave room for a small one.
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(_Full):
                while True:
                    _write(file.fileno(), size)
    return path


class _Full(Exception):
    """There is no room for a write of this size."""


def _write(descriptor: int, size: int) -> None:
    try:
        os.write(descriptor, b"x" * size)
    except OSError as err:
        if err.errno != errno.ENOSPC:
            raise
        raise _Full from err


def main() -> None:
    """See the module."""
    mebibytes, directory, *argv = sys.argv[1:]
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(mebibytes)}m,mode=0700", "tmpfs", directory]
    subprocess.run(mount, check=True, stdin=subprocess.DEVNULL)
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main()
