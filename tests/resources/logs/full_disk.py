"""What the logs kind does on a file system without a free byte; run by test_kind.py as a program of its own.

    python -m tests.resources.logs.full_disk DIRECTORY

Ends with status 0 when everything held.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest
import trio

from reconciler.errors import TemporaryError
from resources.logs.kind import LogsKind
from resources.testing import make_desired, make_world
from tests.beds.small_disk import fill
from tests.resources.contract import Case, carry_out, look
from tests.resources.logs.test_kind import logging, write


async def check(directory: Path) -> None:
    logs = directory / "logs"
    logs.mkdir()
    old = write(logs, "openclaw-2026-01-01.log", age=90_000, size=1 << 20)
    packed = write(logs, "openclaw-2026-01-02.log", age=40_000, data=os.urandom(1 << 20))
    write(logs, "openclaw-2026-01-03.log", age=1)
    world = make_world(directory, now=time.time)
    filler = fill(directory)
    desired = make_desired(logging=logging(logs, age=80_000, compress=20_000))
    case = Case(kind=LogsKind(), world=world, desired=desired, root=logs)
    seen = await look(case, desired)
    prune, compress = seen.actions
    before = packed.read_bytes()

    # With no room at all a compression fails, keeps the file and leaves nothing of the new one.
    with pytest.raises(TemporaryError, match="No space left"):
        await case.kind.apply(compress, None, world)
    assert packed.read_bytes() == before
    assert len(list(logs.iterdir())) == 3, list(logs.iterdir())

    # The prune needs no room and makes some.
    await case.kind.apply(prune, None, world)
    assert not old.exists()
    filler.unlink()
    await carry_out(case, await look(case, desired))
    assert (await look(case, desired)).converged
    assert not packed.exists()


if __name__ == "__main__":
    trio.run(check, Path(sys.argv[1]))
