"""Who is let in: the params of `connect`, and the decision on them, with the real product's texts and close codes.

Pure: what the decision needs of the world (the secret, the nonce, the time, where the client sits) comes in as
values. Order of the checks: schema, protocol, role, origin, device, secret, pairing, scopes.

Device identity is not verified by this version (it needs Ed25519). Three consequences, each narrow and each in
`docs/explanation/gateway-differences.md`: a device block is checked for everything but its signature and gives no
rights; device tokens are not issued; and `TRUSTED_LOCAL_CLIENTS` keep the scopes that they ask for, where the real
product would want a device for that.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from gateway.wire.connection import CLOSE_POLICY, CLOSE_PROTOCOL_MISMATCH
from gateway.wire.frames import INVALID_REQUEST, NOT_PAIRED, PROTOCOL
from gateway.wire.schema import Flag, ListOf, MapOf, Record, Text, Whole, complaints
from gateway.wire.scopes import OPERATOR, ROLES

CLIENT_IDS = (
    "webchat-ui",
    "openclaw-control-ui",
    "webchat",
    "cli",
    "gateway-client",
    "openclaw-macos",
    "openclaw-ios",
    "openclaw-android",
    "node-host",
    "test",
    "fingerprint",
    "openclaw-probe",
)
CLIENT_MODES = ("webchat", "cli", "ui", "backend", "node", "probe", "test")

# The one deliberate extension, to be removed with device identity: on the gateway's own host the shared secret alone
# already gives full rights in the real product (a fresh device key is approved at once there), so these programs may
# skip the key. (client ids, client modes)
TRUSTED_LOCAL_CLIENTS = (frozenset({"gateway-client", "cli"}), frozenset({"backend", "cli", "probe"}))

# The real product's limit on the clock difference of a device's signature.
MAX_CLOCK_SKEW_MS = 10 * 60 * 1000
_PUBLIC_KEY_BYTES = 32

_NAME = Text(non_empty=True)
_SCHEMA = Record(
    required={
        "minProtocol": Whole(minimum=1),
        "maxProtocol": Whole(minimum=1),
        "client": Record(
            required={
                "id": Text(one_of=CLIENT_IDS),
                "version": _NAME,
                "platform": _NAME,
                "mode": Text(one_of=CLIENT_MODES),
            },
            optional={"displayName": _NAME, "deviceFamily": _NAME, "modelIdentifier": _NAME, "instanceId": _NAME},
        ),
    },
    optional={
        "caps": ListOf(_NAME),
        "commands": ListOf(_NAME),
        "permissions": MapOf(Flag()),
        "pathEnv": Text(),
        "role": _NAME,
        "scopes": ListOf(_NAME),
        "device": Record(
            required={"id": _NAME, "publicKey": _NAME, "signature": _NAME, "signedAt": Whole(minimum=0)},
            optional={"nonce": _NAME},
        ),
        "auth": Record(optional={"token": Text(), "password": Text()}),
        "locale": Text(),
        "userAgent": Text(),
    },
)


class AuthMode(Enum):
    """What a client must show."""

    NONE = "none"
    TOKEN = "token"  # noqa: S105 - the name of a mode
    PASSWORD = "password"  # noqa: S105 - the name of a mode


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Secret:
    """What the gateway wants to see. Never printed: `repr` is a mask."""

    mode: AuthMode
    value: str = ""

    def __repr__(self) -> str:
        return f"Secret({self.mode.value})"

    def matches(self, offered: str) -> bool:
        """Whether `offered` is the secret; the time tells nothing about where they differ, nor about the length."""
        return bool(self.value) and hmac.compare_digest(_digest(self.value), _digest(offered))


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """What the server knows of a client apart from its words.

    Attributes:
        local: a direct connection from this host: loopback address, loopback `Host`, nothing forwarded.
        origin: the `Origin` header; browsers send one, programs do not.
        host: the `Host` header.
        nonce: the challenge that was sent.
        now_ms: the wall clock.
    """

    local: bool
    origin: str | None = None
    host: str | None = None
    nonce: str
    now_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client that was let in."""

    id: str
    mode: str
    version: str
    platform: str
    role: str
    scopes: tuple[str, ...]
    caps: tuple[str, ...]
    display_name: str | None
    device_family: str | None
    model_identifier: str | None
    instance_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a client was not let in: the error of the answer, the close code, and a word for the log (`cause`)."""

    code: str
    message: str
    close_code: int = CLOSE_POLICY
    cause: str
    details: Any = None


def decide(params: Any, secret: Secret, peer: Peer) -> Client | Refusal:
    """Whether a client with these `connect` params is let in, as what and with which scopes."""
    data = {} if params is None else params
    refused = (
        _refuse_shape(data)
        or _refuse_origin(data["client"], peer)
        or _refuse_device(data, peer)
        or _refuse_secret(data, secret, peer)
        or _refuse_unpaired(data, peer)
    )
    return refused or _client(data, peer)


def _refuse_shape(data: Any) -> Refusal | None:
    if wrong := complaints(_SCHEMA, data):
        return Refusal(code=INVALID_REQUEST, message=f"invalid connect params: {wrong}", cause="invalid-params")
    if not data["minProtocol"] <= PROTOCOL <= data["maxProtocol"]:
        return Refusal(
            code=INVALID_REQUEST,
            message="protocol mismatch",
            close_code=CLOSE_PROTOCOL_MISMATCH,
            cause="protocol-mismatch",
            details={"expectedProtocol": PROTOCOL},
        )
    if data.get("role", OPERATOR) not in ROLES:
        return Refusal(code=INVALID_REQUEST, message="invalid role", cause="invalid-role")
    return None


def _refuse_origin(client: dict[str, Any], peer: Peer) -> Refusal | None:
    """Pages of a browser must come from the gateway itself, or both must be on this host."""
    page = client["id"] in ("openclaw-control-ui", "webchat-ui") or client["mode"] == "webchat"
    if page and not _same_site(peer):
        text = (
            "origin not allowed (open the Control UI from the gateway host or allow it in "
            "gateway.controlUi.allowedOrigins)"
        )
        return Refusal(code=INVALID_REQUEST, message=text, cause="origin-mismatch")
    return None


def _same_site(peer: Peer) -> bool:
    try:
        origin, host = urlsplit(peer.origin or ""), urlsplit(f"//{peer.host or ''}")
        if not origin.hostname or not host.hostname:
            return False
        return origin.netloc.lower() == host.netloc.lower() or (
            is_loopback_name(origin.hostname) and is_loopback_name(host.hostname)
        )
    except ValueError:  # a bracket without its fellow, or the like
        return False


def is_loopback_name(name: str) -> bool:
    """Whether a host name without port and brackets can only mean this host."""
    return name.lower() in ("localhost", "::1") or re.fullmatch(r"127(?:\.\d{1,3}){3}", name) is not None


def _refuse_secret(data: dict[str, Any], secret: Secret, peer: Peer) -> Refusal | None:
    if secret.mode is AuthMode.NONE:
        # Without a secret the host itself is the border: no page of a browser (any site can open a socket to
        # loopback), no forwarded connection, no foreign name that was pointed at 127.0.0.1.
        if peer.local and peer.origin is None:
            return None
        return Refusal(code=INVALID_REQUEST, message="unauthorized", cause="unauthorized")
    word = secret.mode.value
    offered = (data.get("auth") or {}).get(word)
    if offered and secret.matches(offered):
        return None
    device = data.get("device")
    if device is None and not offered:
        return Refusal(code=NOT_PAIRED, message="device identity required", cause="device-required")
    if device is not None and offered and secret.mode is AuthMode.TOKEN:
        text = "unauthorized: device token mismatch (rotate/reissue device token)"
        return Refusal(code=INVALID_REQUEST, message=text, cause="device_token_mismatch")
    what = "mismatch" if offered else "missing"
    text = f"unauthorized: gateway {word} {what} ({_hint(data['client'], word)})"
    return Refusal(code=INVALID_REQUEST, message=text, cause=f"{word}_{what}")


def _hint(client: dict[str, Any], word: str) -> str:
    if client["mode"] == "cli":
        return f"set gateway.remote.{word} to match gateway.auth.{word}"
    if client["id"] == "openclaw-control-ui" or client["mode"] == "webchat":
        if word == "token":
            return "open the dashboard URL and paste the token in Control UI settings"
        return "enter the password in Control UI settings"
    return f"provide gateway auth {word}"


def _refuse_device(data: dict[str, Any], peer: Peer) -> Refusal | None:
    device = data.get("device")
    if device is None:
        if data["client"]["id"] == "openclaw-control-ui":
            return _device_refusal("control ui requires HTTPS or localhost (secure context)")
        return None
    key = _public_key(device["publicKey"])
    if key is None:
        return _device_refusal("device public key invalid")
    if hashlib.sha256(key).hexdigest() != device["id"]:
        return _device_refusal("device identity mismatch")
    if abs(peer.now_ms - device["signedAt"]) > MAX_CLOCK_SKEW_MS:
        return _device_refusal("device signature expired")
    nonce = device.get("nonce")
    if nonce is None and not peer.local:
        return _device_refusal("device nonce required")
    if nonce is not None and nonce != peer.nonce:
        return _device_refusal("device nonce mismatch")
    return None


def _refuse_unpaired(data: dict[str, Any], peer: Peer) -> Refusal | None:
    """A device from elsewhere needs an approval, and this version keeps no devices to approve."""
    if data.get("device") is None or peer.local:
        return None
    return Refusal(code=NOT_PAIRED, message="pairing required", cause="pairing-required")


def _device_refusal(message: str) -> Refusal:
    return Refusal(code=INVALID_REQUEST, message=message, cause=message.replace(" ", "-"))


def _public_key(text: str) -> bytes | None:
    """The 32 raw bytes of a key given as base64url or base64, padded or not."""
    plain = text.strip().rstrip("=").replace("+", "-").replace("/", "_")
    try:
        key = base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == _PUBLIC_KEY_BYTES else None


def _client(data: dict[str, Any], peer: Peer) -> Client:
    about = data["client"]
    ids, modes = TRUSTED_LOCAL_CLIENTS
    trusted = peer.local and peer.origin is None and about["id"] in ids and about["mode"] in modes
    return Client(
        id=about["id"],
        mode=about["mode"],
        version=about["version"],
        platform=about["platform"],
        role=data.get("role", OPERATOR),
        scopes=tuple(dict.fromkeys(data.get("scopes", ()))) if trusted else (),
        caps=tuple(data.get("caps", ())),
        display_name=about.get("displayName"),
        device_family=about.get("deviceFamily"),
        model_identifier=about.get("modelIdentifier"),
        instance_id=about.get("instanceId"),
    )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
