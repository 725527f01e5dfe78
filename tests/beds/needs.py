"""What a test of a real component needs of the machine; where it is missing the test says so and is skipped (in CI: fails)."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

_LISTED: Final = Path(__file__).with_name("debian-packages.txt")
# As systemd_holder does it, all in namespaces that end with the shell.
_TRY_A_BOX: Final = """\
mount --make-rprivate / && mount -t tmpfs box /mnt && mkdir /mnt/upper /mnt/work &&
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work box /mnt &&
mknod /mnt/null c 1 3 && : >/mnt/null
"""


def needs_programs(*names: str) -> None:
    """Skips the calling test where one of these programs is not installed, naming it and where it comes from."""
    if missing := [name for name in names if shutil.which(name) is None]:
        pytest.skip(
            f"not installed: {', '.join(missing)} (`make test` as root installs tests/beds/debian-packages.txt)"
        )


def needs_root(what: str) -> None:
    """Skips the calling test where it does not run as root; `what` says what root is needed for."""
    if os.geteuid() != 0:
        pytest.skip(f"needs root for {what}")


def needs_systemd() -> None:
    """Skips the calling test where no machine with a systemd of its own can be made (tests/beds/systemd_box.py)."""
    needs_root("namespaces, mounts and control groups")
    needs_programs("unshare", "nsenter", "setpriv", "pivot_root", "runuser", "/lib/systemd/systemd")
    if missing := [package for package, file in _listed_files() if not Path(file).exists()]:
        pytest.skip(
            f"not installed: {', '.join(missing)} (`make test` as root installs tests/beds/debian-packages.txt)"
        )
    if reason := _no_box_because():
        pytest.skip(f"no machine can be made in namespaces here: {reason}")


def _listed_files() -> list[tuple[str, str]]:
    """Package and file of those that are known by a file."""
    lines = [line.split() for line in _LISTED.read_text().splitlines() if line and not line.startswith("#")]
    return [(package, shows) for package, shows in lines if shows.startswith("/")]


@functools.cache
def _no_box_because() -> str:
    """Why the kernel, or what this runs in, does not allow one; empty: it does."""
    namespaces = ["--pid", "--fork", "--mount", "--uts", "--ipc", "--net", "--cgroup"]
    tried = subprocess.run(
        ["unshare", *namespaces, "sh", "-c", _TRY_A_BOX],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return "" if tried.returncode == 0 else tried.stderr.strip() or f"exit code {tried.returncode}"
