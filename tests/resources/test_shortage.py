"""What cannot be looked at because this process lacks descriptors is no sickness of what is looked at."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from reconciler.desired import Desired
from reconciler.kinds import Kind
from resources.gateway_config.kind import GatewayConfigKind
from resources.logs.directory import held_files
from resources.logs.kind import LogsKind
from resources.service import keeper_client
from resources.service.kind import ServiceKind
from resources.testing import FakeSecrets, make_desired, make_world
from tests.resources.logs.test_kind import logging
from tests.resources.service.worlds import CANARY, TOKEN, document


def with_logs(directory: Path) -> Desired:
    return make_desired(logging=logging(directory, age=1))


def with_gateway(_directory: Path) -> Desired:
    return replace(document(1), service=None)


def with_service(_directory: Path) -> Desired:
    return document(1)


@pytest.mark.req("PLAN-3", "PLAN-7")
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
@pytest.mark.parametrize(
    ("kind", "make"),
    [(LogsKind(), with_logs), (GatewayConfigKind(), with_gateway), (ServiceKind(), with_service)],
    ids=["logs", "gateway-config", "service"],
)
async def test_a_probe_that_lacks_descriptors_says_so_and_nothing_about_the_resource(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, make: Callable[[Path], Desired], number: int
) -> None:
    world = make_world(tmp_path, secrets=FakeSecrets({str(TOKEN): CANARY}))
    (resource,) = kind.declare(make(tmp_path), world.host, world.secrets)

    def refuse(*_arguments: object, **_named: object) -> int:
        raise OSError(number, os.strerror(number))

    async def refused(_path: str) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(keeper_client, "_open", refused)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        await kind.probe(resource.key, resource, world)
    assert caught.value.errno == number


@pytest.mark.req("LOG-3", "PLAN-3")
def test_a_log_file_of_which_nobody_can_see_whether_it_is_open_is_not_taken_for_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listdir = os.listdir

    def refuse(path: str) -> list[str]:
        if path.endswith("/fd"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        held_files()
