"""`openclaw status` inside of a supervisor, which has more to do meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from reconciler.cli.commands.status import gather
from reconciler.cli.session import Session
from reconciler.cli.supervisor import Silent


@pytest.mark.real
@pytest.mark.req("DOC-4", "PLAN-12")
async def test_a_secret_that_takes_its_time_stops_nobody_else(tmp_path: Path, clean_env: dict[str, str]) -> None:
    await trio.Path(tmp_path / "openclaw.yaml").write_text(
        "version: 1\nservice: {environment: {A: {exec: [sh, -c, 'sleep 1.5; echo canary-0123456789']}}}\n"
    )
    environ = {**clean_env, "OPENCLAW_STATE_DIR": str(tmp_path / "state")}
    session = Session(environ=environ, directory=str(tmp_path), console=Silent(), kinds=lambda: ())
    gaps = []

    async def others() -> None:
        while True:
            began = trio.current_time()
            await trio.sleep(0.01)
            gaps.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        await gather(session)
        nursery.cancel_scope.cancel()
    assert len(gaps) > 10
    assert max(gaps) < 1.2
