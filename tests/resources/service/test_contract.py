"""The kind `service` keeps the promises of every kind, with a keeper and a process that really listens."""

from __future__ import annotations

from pathlib import Path

import pytest

from resources.testing import make_desired
from tests.beds.ports import free_port
from tests.resources.contract import Case, KindContract
from tests.resources.service.worlds import CANARY, Bench, document

pytestmark = [pytest.mark.real, pytest.mark.req("SVC-7")]


class TestService(KindContract):
    def make(self, directory: Path) -> Case:
        # Not `directory`: its path is too long for a socket of the keeper.
        bench = Bench()
        return Case(
            kind=bench.kind,
            world=bench.world,
            desired=document(free_port()),
            root=bench.directory,
            withdrawn=make_desired(),
            canaries=(CANARY,),
            irreversible=frozenset({"remove"}),
            close=bench.close,
        )
