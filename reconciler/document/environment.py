"""Variables of the environment that override the document: environment over file over defaults.

| variable | sets | creates the section |
|---|---|---|
| `OPENCLAW_GATEWAY_PORT` | `gateway.port` | `gateway`, when the document has `service` |
| `OPENCLAW_GATEWAY_HOST` | `gateway.host`, and `gateway.bind: custom` | `gateway`, when the document has `service` |
| `OPENCLAW_LOG_LEVEL`, else `LOG_LEVEL`, else `DEBUG` with `openclaw:*` (debug) | `logging.level` | never |
| `WARN_HOURS` | `auth.expiry.warn` | never |

Without the section, and where it is not created, the variable is left to the gateway's process. `logging` is never created: a
section is the consent to manage what it names. An empty variable is no override.

Passed on and never read here: `ANTHROPIC_API_KEY`, `OPENAI_API_KEY`, `GOOGLE_API_KEY`, `DISCORD_BOT_TOKEN`, `SLACK_BOT_TOKEN`,
`OPENCLAW_GATEWAY_TOKEN`, `OPENCLAW_GATEWAY_PASSWORD` (secrets: the document refers to them by name), `OPENCLAW_DISABLE_BONJOUR`,
`OPENCLAW_MDNS_HOSTNAME`, `NODE_ENV` (the gateway's own). `OPENCLAW_STATE_DIR`, `OPENCLAW_HOME`, `OPENCLAW_PROFILE` and
`OPENCLAW_FILE` say where things lie, which is not the document's business.

Pure: takes the environment as a mapping. An override becomes a node of the tree, so it passes through the same schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from reconciler.model import DocumentPath

# Everything that this module reads, in the order of the table; the loader's cache depends on exactly these.
VARIABLES: Final = (
    "OPENCLAW_GATEWAY_PORT",
    "OPENCLAW_GATEWAY_HOST",
    "OPENCLAW_LOG_LEVEL",
    "LOG_LEVEL",
    "DEBUG",
    "WARN_HOURS",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One field that the environment sets: from which variable, and the value as the document would have it."""

    name: str
    path: DocumentPath
    value: Any

    @property
    def file(self) -> str:
        """How its place is named in problems and explanations."""
        return f"environment {self.name}"


def read_overrides(environ: Mapping[str, str], sections: frozenset[str]) -> tuple[Override, ...]:
    """The overrides that apply to a document with these sections."""
    found: list[Override] = []
    if sections & {"gateway", "service"}:
        if port := environ.get("OPENCLAW_GATEWAY_PORT", "").strip():
            found.append(Override(name="OPENCLAW_GATEWAY_PORT", path=("gateway", "port"), value=_number(port)))
        if host := environ.get("OPENCLAW_GATEWAY_HOST", "").strip():
            found.append(Override(name="OPENCLAW_GATEWAY_HOST", path=("gateway", "host"), value=host))
            found.append(Override(name="OPENCLAW_GATEWAY_HOST", path=("gateway", "bind"), value="custom"))
    if "logging" in sections:
        found.extend(_level(environ))
    if "auth" in sections and (hours := environ.get("WARN_HOURS", "").strip()):
        found.append(Override(name="WARN_HOURS", path=("auth", "expiry", "warn"), value=f"{hours}h"))
    return tuple(found)


def _level(environ: Mapping[str, str]) -> list[Override]:
    for name in ("OPENCLAW_LOG_LEVEL", "LOG_LEVEL"):
        if level := environ.get(name, "").strip():
            return [Override(name=name, path=("logging", "level"), value=level.lower())]
    words = environ.get("DEBUG", "").replace(",", " ").split()
    if any(word.startswith("openclaw:") for word in words):
        return [Override(name="DEBUG", path=("logging", "level"), value="debug")]
    return []


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else text
