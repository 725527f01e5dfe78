"""What protects the gateway before a write and does no longer after it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.wire.json5 import Node
from reconciler.model import ABSENT, Consequence, Value
from resources.gateway_config.edit import scalar_at

# Granted by a person who applies; a save alone does not: half a document loses its last lines first.
CONSENT = "expose"

_MODE = "gateway.auth.mode"
_SECRETS = ("gateway.auth.token", "gateway.auth.password")
_TLS = "gateway.tls.enabled"


def exposure(
    root: Node | None, changes: Mapping[str, Value], declared: Mapping[str, Value]
) -> tuple[tuple[Consequence, ...], bool]:
    """What `changes` to the file open to others, and whether that follows from what the document says no more.

    `changes` are new values by path (`ABSENT`: taken out), `declared` all that the document says. False where nothing is
    opened, or the document itself says so (`auth: {mode: none}`, `tls: {enabled: false}`).
    """
    before = {path: scalar_at(root, path) for path in (_MODE, *_SECRETS, _TLS)}
    after = {path: changes.get(path, value) for path, value in before.items()}
    found, silent = [], False
    if _asks(before) and not _asks(after):
        text = "whoever reaches the gateway is let in, without a token or password"
        found.append(Consequence(what="authentication_off", text=text))
        silent = _MODE not in declared
    if before[_TLS] is True and after[_TLS] is not True:
        text = "the gateway speaks without TLS: whoever listens in reads all"
        found.append(Consequence(what="encryption_off", text=text))
        silent = silent or _TLS not in declared
    return tuple(found), silent


def _asks(auth: Mapping[str, object]) -> bool:
    """Whether a gateway with this config asks for a token or a password: a secret that is there says so without a mode."""
    mode = auth[_MODE]
    if mode in (None, ABSENT):
        return any(auth[path] not in (None, ABSENT, "") for path in _SECRETS)
    return mode != "none"
