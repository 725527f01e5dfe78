"""What a test of a real component needs of the machine; where it is missing the test says so and is skipped (in CI: fails)."""

from __future__ import annotations

import os
import shutil

import pytest


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
