"""A host of its own for every end-to-end test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.beds.processes import Spawned
from tests.beds.site import Site


@pytest.fixture
def site(state: Path, free_port: Callable[[], int], clean_env: dict[str, str], spawned: Spawned) -> Site:
    """An empty host: no document yet, an empty state directory, a free port."""
    home = Path(clean_env["HOME"]) / "site"
    home.mkdir()
    return Site(home=home, state=state, port=free_port(), spawned=spawned, base=clean_env)
