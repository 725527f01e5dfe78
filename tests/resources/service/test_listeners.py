"""The kernel's two accounts of who listens agree, and each finds a listener by its port alone."""

from __future__ import annotations

import os
import socket

import pytest

from resources.service import listeners
from resources.service.listeners import Listener

FAMILIES = (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6))


def told(found: list[Listener]) -> set[tuple[str, int, int, str]]:
    return {(item.host, item.port, item.uid, item.inode) for item in found}


@pytest.mark.parametrize(
    ("family", "address", "dialled"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, "", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "::1"),
    ],
)
def test_a_listener_is_found_by_its_port_as_one_would_dial_it(
    family: socket.AddressFamily, address: str, dialled: str
) -> None:
    with socket.create_server((address, 0), family=family) as server:
        port = server.getsockname()[1]
        inode = str(os.fstat(server.fileno()).st_ino)
        expected = {(dialled, port, os.getuid(), inode)}
        assert told(listeners.listeners(port)) == expected
        assert expected <= told(listeners.listeners())
        assert expected <= told([item for table, each in FAMILIES for item in listeners._read(table, each)])
    assert listeners.listeners(port) == []


def test_a_connection_is_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert listeners.listeners(client.getsockname()[1]) == []


def test_without_netlink_the_tables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(family: int, port: int) -> list[Listener]:
        raise PermissionError("netlink")

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        asked = told(listeners.listeners(port))
        monkeypatch.setattr(listeners, "_ask", refused)
        assert told(listeners.listeners(port)) == asked
