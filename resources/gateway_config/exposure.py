"""What protects the gateway before a write and does no longer after it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.wire.json5 import Node
from reconciler.kinds import Applied
from reconciler.model import ABSENT, Consequence, Value
from resources.gateway_config.edit import scalar_at

_MODE = "gateway.auth.mode"
_SECRETS = ("gateway.auth.token", "gateway.auth.password")
_AUTH = (_MODE, *_SECRETS)
_TLS = "gateway.tls.enabled"


def exposure(
    root: Node | None, changes: Mapping[str, Value], declared: Mapping[str, Value], applied: Applied
) -> tuple[tuple[Consequence, ...], tuple[Consequence, ...]]:
    """What is open to others after `changes` to the file, and what of that follows from what the document says no more.

    `changes` are new values by path (`ABSENT`: taken out), `declared` all that the document says, `applied` what we last
    wrote. What we applied and is declared no longer did protect the gateway, whoever has opened the file since: whether a
    person must consent does not hang on what the file happens to say at this moment. A document that says it in words
    (`auth: {mode: none}`, `tls: {enabled: false}`) means it.
    """
    before = {path: scalar_at(root, path) for path in (*_AUTH, _TLS)}
    after = {path: changes.get(path, value) for path, value in before.items()}
    ours: dict[str, object] = {path: applied[path].value if path in applied else ABSENT for path in before}
    withdrawn = applied.keys() - declared.keys()
    opened, silent = [], []
    if not _asks(after) and (_asks(before) or (_asks(ours) and not withdrawn.isdisjoint(_AUTH))):
        text = "whoever reaches the gateway is let in, without a token or password"
        opened.append(Consequence(what="authentication_off", text=text))
        silent += opened[-1:] if _MODE not in declared else []
    if after[_TLS] is not True and (before[_TLS] is True or (ours[_TLS] is True and _TLS in withdrawn)):
        text = "the gateway speaks without TLS: whoever listens in reads all"
        opened.append(Consequence(what="encryption_off", text=text))
        silent += opened[-1:] if _TLS not in declared else []
    return tuple(opened), tuple(silent)


def _asks(auth: Mapping[str, object]) -> bool:
    """Whether a gateway with this config asks for a token or a password: a secret that is there says so without a mode."""
    mode = auth[_MODE]
    if mode in (None, ABSENT):
        return any(auth[path] not in (None, ABSENT, "") for path in _SECRETS)
    return mode != "none"
