"""What a change of a path in `openclaw.json` costs: applied while running, nothing to do, or a restart. Pure data.

Paths are written with dots (`gateway.auth.token`); the longest prefix in the table decides, by whole segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias

Impact: TypeAlias = Literal["hot", "none", "restart"]

BUILTIN: Mapping[str, Impact] = {
    # Nothing in the built-in gateway reads the other sections, so a change of them changes nothing.
    "": "none",
    "logging": "hot",
    # These two are only kept for the real product: see gateway.config, the list of what is passed through.
    "logging.redactSensitive": "none",
    "logging.redactPatterns": "none",
    # Listeners, secret and TLS context are made once, at start.
    "gateway": "restart",
    "gateway.mode": "none",
    "gateway.reload": "hot",
    "gateway.remote": "none",
    "gateway.controlUi": "none",
    "gateway.tailscale": "none",
    "gateway.trustedProxies": "none",
    "gateway.http": "none",
    "gateway.nodes": "none",
    "gateway.tools": "none",
    "gateway.channelHealthCheckMinutes": "none",
    "gateway.auth.rateLimit": "none",
    "gateway.auth.allowTailscale": "none",
    "gateway.auth.trustedProxy": "none",
    "gateway.tls.autoGenerate": "none",
    "gateway.tls.caPath": "none",
}
"""The gateway in this package."""

OPENCLAW_2026_2_17: Mapping[str, Impact] = {
    # A path without a rule restarts the real product (auth, diagnostics, env, ...).
    "": "restart",
    "hooks": "hot",
    "agents.defaults.heartbeat": "hot",
    "cron": "hot",
    "browser": "hot",
    "channels": "hot",
    "agents": "none",
    "models": "none",
    "tools": "none",
    # Read at every line, but a subsystem keeps the level and the file of its first line for the life of the process:
    # what says "none" there needs a new process to be true.
    "logging": "restart",
    "logging.consoleLevel": "none",
    "logging.consoleStyle": "none",
    "logging.redactSensitive": "none",
    "logging.redactPatterns": "none",
    "session": "none",
    "messages": "none",
    "skills": "none",
    "bindings": "none",
    "meta": "none",
    "wizard": "none",
    "gateway.reload": "none",
    "gateway.remote": "none",
}
"""The npm package of that version: measured, not read in its documentation."""


def impact_of(path: str, table: Mapping[str, Impact] = BUILTIN) -> Impact:
    """What a change at `path` costs."""
    prefix = path
    while prefix:
        if (impact := table.get(prefix)) is not None:
            return impact
        prefix = prefix.rpartition(".")[0]
    return table[""]


def worst(paths: Iterable[str], table: Mapping[str, Impact] = BUILTIN) -> Impact:
    """The dearest impact of several paths; "none" for no path at all."""
    impacts = {impact_of(path, table) for path in paths}
    return "restart" if "restart" in impacts else "hot" if "hot" in impacts else "none"


def changed_paths(old: object, new: object, prefix: str = "") -> tuple[str, ...]:
    """Where two configs differ, as dotted paths of leaves, in the order of the keys (old ones first).

    An object that one side lacks counts as its leaves; a list counts as one leaf, equal when its items are.
    """
    if isinstance(old, Mapping) or isinstance(new, Mapping):
        before = old if isinstance(old, Mapping) else {}
        after = new if isinstance(new, Mapping) else {}
        if before or after:
            found: list[str] = []
            for key in dict.fromkeys((*before, *after)):
                found += changed_paths(before.get(key), after.get(key), f"{prefix}.{key}" if prefix else str(key))
            if found or (isinstance(old, Mapping) and isinstance(new, Mapping)):
                return tuple(found)
    return () if _same(old, new) else (prefix,)


def _same(old: object, new: object) -> bool:
    """Equal as JSON: `true` is not 1, and NaN equals itself."""
    if type(old) is not type(new) and (isinstance(old, bool) or isinstance(new, bool)):
        return False
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(_same(a, b) for a, b in zip(old, new, strict=True))
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return old.keys() == new.keys() and all(_same(old[key], new[key]) for key in old)
    return old == new or (old != old and new != new)
