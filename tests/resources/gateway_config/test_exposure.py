"""What a write to openclaw.json opens to others, and whether the document says that it is meant."""

from __future__ import annotations

import json

import pytest

from gateway.wire.json5 import parse
from reconciler.model import ABSENT, Value
from resources.gateway_config.exposure import exposure

pytestmark = pytest.mark.req("PLAN-3", "PLAN-10")

MODE, TOKEN, PASSWORD, TLS = "gateway.auth.mode", "gateway.auth.token", "gateway.auth.password", "gateway.tls.enabled"
LOCKED = {"auth": {"mode": "token", "token": "${T}"}, "tls": {"enabled": True}}


@pytest.mark.parametrize(
    ("gateway", "changes", "opened"),
    [
        (LOCKED, {MODE: ABSENT, TOKEN: ABSENT}, ["authentication_off"]),
        (LOCKED, {MODE: "none"}, ["authentication_off"]),
        (LOCKED, {TLS: ABSENT}, ["encryption_off"]),
        (LOCKED, {TLS: False}, ["encryption_off"]),
        (LOCKED, {MODE: ABSENT, TOKEN: ABSENT, TLS: ABSENT}, ["authentication_off", "encryption_off"]),
        ({"auth": {"token": "${T}"}}, {TOKEN: ABSENT}, ["authentication_off"]),
        ({"auth": {"password": "${P}"}}, {PASSWORD: ABSENT}, ["authentication_off"]),
        # From one secret to the other, another port, and what was open before.
        (LOCKED, {MODE: "password", TOKEN: ABSENT, PASSWORD: "${P}"}, []),
        ({"auth": {"token": "${T}"}}, {TOKEN: ABSENT, PASSWORD: "${P}"}, []),
        (LOCKED, {MODE: ABSENT}, []),
        (LOCKED, {"gateway.port": 7}, []),
        ({"auth": {"mode": "none", "token": "${T}"}}, {TOKEN: ABSENT}, []),
        ({}, {MODE: "none"}, []),
        ({"tls": {"enabled": False}}, {TLS: ABSENT}, []),
    ],
)
def test_what_protected_the_gateway_and_is_gone_is_named(
    gateway: dict[str, object], changes: dict[str, Value], opened: list[str]
) -> None:
    root = parse(json.dumps({"gateway": gateway}))
    consequences, silent = exposure(root, changes, {})
    assert [item.what for item in consequences] == opened
    assert silent == bool(opened)


def test_a_document_that_says_so_means_it() -> None:
    root = parse(json.dumps({"gateway": LOCKED}))
    said: dict[str, Value] = {MODE: "none", TLS: False}
    consequences, silent = exposure(root, said, said)
    assert len(consequences) == 2
    assert not silent
    # The real product knows no such mode: there it is said by having none.
    assert exposure(root, {MODE: ABSENT, TOKEN: ABSENT}, {MODE: ABSENT})[1] is False
    assert exposure(root, {MODE: "none", TLS: ABSENT}, {MODE: "none"})[1]


def test_a_file_that_is_not_there_protected_nothing() -> None:
    assert exposure(None, {"gateway.port": 1}, {}) == ((), False)
