"""What a write to openclaw.json opens to others, and whether the document says that it is meant."""

from __future__ import annotations

import json

import pytest

from gateway.wire.json5 import parse
from reconciler.kinds import AppliedField
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
    consequences, silent = exposure(root, changes, {}, {})
    assert [item.what for item in consequences] == opened
    assert silent == consequences


@pytest.mark.parametrize(
    ("applied", "declared", "gateway", "changes", "opened"),
    [
        # Somebody else has opened it, in one way or another: what is left to do opens nothing any more.
        ({MODE: "token", TOKEN: "${T}"}, {}, {"auth": {"mode": "none"}}, {TOKEN: ABSENT}, ["authentication_off"]),
        ({MODE: "token", TOKEN: "${T}"}, {}, {}, {}, ["authentication_off"]),
        ({TOKEN: "${T}"}, {}, {"auth": {"mode": "none", "token": "${T}"}}, {TOKEN: ABSENT}, ["authentication_off"]),
        ({MODE: "token", TOKEN: "${T}"}, {TOKEN: "${T}"}, {"auth": {"mode": "none"}}, {}, ["authentication_off"]),
        ({TLS: True}, {}, {"tls": {"enabled": False}}, {}, ["encryption_off"]),
        ({TLS: True}, {}, {}, {}, ["encryption_off"]),
        # What was there before us asks again, the document still declares it, or it never protected anything.
        ({MODE: "token", TOKEN: "${T}"}, {}, {"auth": {"token": "x"}}, {}, []),
        (
            {MODE: "token", TOKEN: "${T}"},
            {MODE: "token", TOKEN: "${T}"},
            {"auth": {"mode": "none"}},
            {MODE: "token"},
            [],
        ),
        ({TOKEN: "${T}"}, {TOKEN: "${T}"}, {"auth": {"mode": "none"}}, {}, []),
        ({MODE: "none", TOKEN: "${T}"}, {}, {}, {}, []),
        ({TLS: False}, {}, {}, {}, []),
        ({TLS: True}, {}, {"tls": {"enabled": True}}, {}, []),
    ],
)
def test_what_we_applied_protected_the_gateway_whoever_opened_it_since(
    applied: dict[str, Value],
    declared: dict[str, Value],
    gateway: dict[str, object],
    changes: dict[str, Value],
    opened: list[str],
) -> None:
    root = parse(json.dumps({"gateway": gateway}))
    ours = {path: AppliedField(value) for path, value in applied.items()}
    consequences, silent = exposure(root, changes, declared, ours)
    assert [item.what for item in silent] == opened
    assert silent == consequences


def test_a_document_that_says_so_means_it() -> None:
    root = parse(json.dumps({"gateway": LOCKED}))
    said: dict[str, Value] = {MODE: "none", TLS: False}
    ours = {path: AppliedField(value) for path, value in ((MODE, "token"), (TOKEN, "${T}"), (TLS, True))}
    consequences, silent = exposure(root, said, said, ours)
    assert len(consequences) == 2
    assert not silent
    # The real product knows no such mode: there it is said by having none.
    assert exposure(root, {MODE: ABSENT, TOKEN: ABSENT}, {MODE: ABSENT}, ours)[1] == ()
    consequences, silent = exposure(root, {MODE: "none", TLS: ABSENT}, {MODE: "none"}, ours)
    assert [item.what for item in consequences] == ["authentication_off", "encryption_off"]
    assert [item.what for item in silent] == ["encryption_off"]


def test_a_file_that_is_not_there_protected_nothing() -> None:
    assert exposure(None, {"gateway.port": 1}, {}, {}) == ((), ())
