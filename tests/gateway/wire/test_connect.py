import base64
import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.connect import AuthMode, Client, Peer, Refusal, Secret, decide

TOKEN = Secret(mode=AuthMode.TOKEN, value="right-token")
PASSWORD = Secret(mode=AuthMode.PASSWORD, value="right-password")
NONE = Secret(mode=AuthMode.NONE)
NOW = 1_795_246_711_967
LOCAL = Peer(local=True, host="127.0.0.1:18789", nonce="the-nonce", now_ms=NOW)
REMOTE = replace(LOCAL, local=False, host="gw.example:18789")

KEY = bytes(range(32))
DEVICE = {
    "id": hashlib.sha256(KEY).hexdigest(),
    "publicKey": base64.urlsafe_b64encode(KEY).rstrip(b"=").decode(),
    "signature": "c2lnbmF0dXJl",
    "signedAt": NOW,
    "nonce": "the-nonce",
}


def params(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = {
        "minProtocol": 3,
        "maxProtocol": 3,
        "client": {"id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend"},
        "scopes": ["operator.read"],
        "auth": {"token": "right-token"},
    }
    data |= changes
    return {key: value for key, value in data.items() if value is not None}


def client(**changes: Any) -> dict[str, Any]:
    return {"id": "gateway-client", "version": "1", "platform": "linux", "mode": "backend", **changes}


@pytest.mark.req("GW-2", "GW-3")
@pytest.mark.parametrize(
    ("data", "peer", "code", "close", "message"),
    [
        ({}, LOCAL, "INVALID_REQUEST", 1008, "invalid connect params: must have required property 'minProtocol'"),
        (
            params(client=None),
            LOCAL,
            "INVALID_REQUEST",
            1008,
            "invalid connect params: must have required property 'client'",
        ),
        (params(x=1), LOCAL, "INVALID_REQUEST", 1008, "invalid connect params: at root: unexpected property 'x'"),
        (
            params(client=client(x=1)),
            LOCAL,
            "INVALID_REQUEST",
            1008,
            "invalid connect params: at /client: unexpected property 'x'",
        ),
        (
            params(client=client(mode="nope")),
            LOCAL,
            "INVALID_REQUEST",
            1008,
            (
                "invalid connect params: at /client/mode: must be equal to constant; "
                "at /client/mode: must match a schema in anyOf"
            ),
        ),
        (params(minProtocol=4, maxProtocol=9), LOCAL, "INVALID_REQUEST", 1002, "protocol mismatch"),
        (params(role="king"), LOCAL, "INVALID_REQUEST", 1008, "invalid role"),
        (
            params(client=client(id="webchat-ui", mode="webchat")),
            replace(LOCAL, origin="http://evil.example"),
            "INVALID_REQUEST",
            1008,
            (
                "origin not allowed (open the Control UI from the gateway host or allow it in "
                "gateway.controlUi.allowedOrigins)"
            ),
        ),
        (
            params(client=client(id="openclaw-control-ui", mode="ui")),
            replace(LOCAL, origin="http://localhost:5173"),
            "INVALID_REQUEST",
            1008,
            "control ui requires HTTPS or localhost (secure context)",
        ),
        (params(auth=None), LOCAL, "NOT_PAIRED", 1008, "device identity required"),
        (
            params(auth={"token": "wrong"}),
            LOCAL,
            "INVALID_REQUEST",
            1008,
            "unauthorized: gateway token mismatch (provide gateway auth token)",
        ),
        (
            params(auth={"token": "wrong"}, client=client(id="cli", mode="cli")),
            LOCAL,
            "INVALID_REQUEST",
            1008,
            "unauthorized: gateway token mismatch (set gateway.remote.token to match gateway.auth.token)",
        ),
        (
            params(auth={"token": "wrong"}, device=DEVICE),
            LOCAL,
            "INVALID_REQUEST",
            1008,
            "unauthorized: device token mismatch (rotate/reissue device token)",
        ),
        (
            params(auth=None, device=DEVICE),
            LOCAL,
            "INVALID_REQUEST",
            1008,
            "unauthorized: gateway token missing (provide gateway auth token)",
        ),
        (params(device={**DEVICE, "id": "00"}), LOCAL, "INVALID_REQUEST", 1008, "device identity mismatch"),
        (params(device={**DEVICE, "publicKey": "short"}), LOCAL, "INVALID_REQUEST", 1008, "device public key invalid"),
        (
            params(device={**DEVICE, "signedAt": NOW - 600_001}),
            LOCAL,
            "INVALID_REQUEST",
            1008,
            "device signature expired",
        ),
        (
            params(device={key: value for key, value in DEVICE.items() if key != "nonce"}),
            REMOTE,
            "INVALID_REQUEST",
            1008,
            "device nonce required",
        ),
        (params(device={**DEVICE, "nonce": "other"}), LOCAL, "INVALID_REQUEST", 1008, "device nonce mismatch"),
        (params(device=DEVICE), REMOTE, "NOT_PAIRED", 1008, "pairing required"),
    ],
)
def test_each_mistake_gets_its_own_words(data: Any, peer: Peer, code: str, close: int, message: str) -> None:
    refused = decide(data, TOKEN, peer)
    assert isinstance(refused, Refusal)
    assert (refused.code, refused.close_code) == (code, close)
    assert refused.message.startswith(message)


def test_a_protocol_mismatch_says_which_one_is_spoken() -> None:
    refused = decide(params(minProtocol=1, maxProtocol=2), TOKEN, LOCAL)
    assert isinstance(refused, Refusal)
    assert refused.details == {"expectedProtocol": 3}


@pytest.mark.req("GW-3")
def test_a_password_is_wanted_where_the_mode_is_password() -> None:
    assert isinstance(decide(params(auth={"password": "right-password"}), PASSWORD, LOCAL), Client)
    refused = decide(params(auth={"password": "wrong"}), PASSWORD, LOCAL)
    assert isinstance(refused, Refusal)
    assert refused.message == "unauthorized: gateway password mismatch (provide gateway auth password)"
    assert isinstance(decide(params(), PASSWORD, LOCAL), Refusal)


@pytest.mark.req("GW-3")
@pytest.mark.parametrize(
    ("data", "peer", "scopes"),
    [
        (params(), LOCAL, ("operator.read",)),
        (params(client=client(id="cli", mode="probe")), LOCAL, ("operator.read",)),
        (params(device=DEVICE), LOCAL, ("operator.read",)),
        (params(), REMOTE, ()),
        (params(), replace(LOCAL, origin="http://127.0.0.1:18789"), ()),
        (params(client=client(id="test", mode="test")), LOCAL, ()),
        (params(client=client(id="openclaw-macos", mode="ui")), LOCAL, ()),
    ],
)
def test_only_programs_of_this_host_keep_their_scopes_without_a_device(
    data: Any, peer: Peer, scopes: tuple[str, ...]
) -> None:
    accepted = decide(data, TOKEN, peer)
    assert isinstance(accepted, Client)
    assert accepted.scopes == scopes


@pytest.mark.req("GW-3")
def test_without_a_secret_only_direct_programs_of_this_host_come_in() -> None:
    assert isinstance(decide(params(auth=None), NONE, LOCAL), Client)
    assert isinstance(decide(params(auth=None), NONE, REMOTE), Refusal)
    assert isinstance(decide(params(auth=None), NONE, replace(LOCAL, origin="https://evil.example")), Refusal)


def test_the_secret_is_never_printed_and_an_empty_one_matches_nothing() -> None:
    assert "right-token" not in repr(TOKEN)
    assert not Secret(mode=AuthMode.TOKEN, value="").matches("")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_fields = st.fixed_dictionaries(
    {},
    optional={
        name: _json | st.just(value)
        for name, value in params(device=DEVICE, role="operator", caps=["tool-events"], locale="de").items()
    },
)


@given(data=_json | _fields, secret=st.sampled_from([TOKEN, PASSWORD, NONE]), origin=st.none() | st.text(max_size=20))
def test_whatever_comes_is_decided_and_nobody_gets_in_without_the_secret(
    data: Any, secret: Secret, origin: Any
) -> None:
    decision = decide(data, secret, replace(LOCAL, origin=origin))
    if isinstance(decision, Client) and secret is not NONE:
        assert data["auth"][secret.mode.value] == secret.value
