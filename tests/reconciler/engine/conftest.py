"""What the tests of the engine share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reconciler.engine.memory import MEMORY


@pytest.fixture
def memory() -> Iterator[Path]:
    """An empty directory for tests with hundreds of journals, whose flushes are not what is tested."""
    with tempfile.TemporaryDirectory(prefix="oc-memory-", dir=MEMORY) as path:
        yield Path(path)
