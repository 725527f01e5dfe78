"""The page about the control API and the code that serves it agree."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from reconciler.control import connection, routes, server
from reconciler.control.calls import ApplyCall, StopCall, Terminal
from reconciler.control.client import environment_digest
from reconciler.control.routes import ROUTES, Form, Miss, Route

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "control-api.md").read_text(encoding="utf-8")


def test_the_page_lists_exactly_the_routes_that_are_served() -> None:
    listed = re.findall(r"^\| (GET|POST) \| `([^`]+)` \| (202: )?", PAGE, re.MULTILINE)
    assert [(method, path, bool(begun)) for method, path, begun in listed] == [
        (route.method, route.path, route.accepted) for route in ROUTES
    ]


@pytest.mark.parametrize("shape", [ApplyCall, StopCall, Terminal])
def test_the_page_names_every_member_of_a_body(shape: type) -> None:
    assert [item.name for item in dataclasses.fields(shape) if f"`{item.name}`" not in PAGE] == []


def test_the_page_states_the_limits_that_hold() -> None:
    assert connection.MAX_BODY_BYTES == 1 << 20
    assert connection.MAX_HEAD_BYTES == 16 << 10
    assert (connection.REQUEST_SECONDS, connection.WRITE_SECONDS, connection.STREAM_SECONDS) == (10, 30, 600)
    assert server.MAX_CONNECTIONS == 64
    for text in ("1 MiB", "16 KiB", "10 s", "30 s", "10 minutes", "64 clients"):
        assert text in PAGE.replace("\n", " ")


def test_the_digest_is_the_one_that_the_page_describes() -> None:
    from hashlib import blake2b

    salt = bytes(range(32))
    expected = blake2b(b"A=1:x\0B=\0", key=salt, digest_size=32).hexdigest()
    assert environment_digest(["B", "A"], {"A": "x"}, salt) == expected


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_found_by_its_path(route: Route) -> None:
    path = re.sub(r"\{\w+\}", "value", route.path)
    found = routes.find(route.method, path)
    assert found == (route, "value" if "{" in route.path else "")
    assert routes.find("DELETE", path) == Miss((route.method,))
    assert routes.find(route.method, path + "/x") == Miss()
    assert route.form is Form.JSON or not route.accepted
