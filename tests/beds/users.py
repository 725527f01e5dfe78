"""Work without the rights of root, for whom no mode is in the way."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def directory_of_nobody() -> Iterator[Path]:
    """A directory of nobody's that anybody may look into."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(made, NOBODY, NOBODY)
    yield made
    shutil.rmtree(made)


@contextmanager
def nobody() -> Iterator[None]:
    """With no rights of root's."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
