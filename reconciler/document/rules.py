"""What the schema's fields cannot say alone: contradictions between fields, and the free keys of `gateway.settings`. Pure.

Each rule looks at its own few paths, so that it also speaks when other parts of the document are wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from reconciler.document.masking import (
    REFERENCE,
    assigns_secret,
    is_reference_text,
    is_sensitive,
    is_sensitive_list,
    is_sensitive_variable,
    looks_secret,
    shown_name,
)
from reconciler.document.problems import Suggestions, safe
from reconciler.document.units import render_duration
from reconciler.model import DocumentPath


@dataclass(frozen=True, slots=True)
class Issue:
    """A problem without its place: the document path instead. `message` follows "cannot "; `on_name` points at the
    name; `beside_secret` says that what follows an unknown name may be a secret, `name_is_secret` that it may be one itself.
    """

    path: DocumentPath
    code: str
    message: str
    expected: str = ""
    hint: str = ""
    on_name: bool = False
    beside_secret: bool = False
    name_is_secret: bool = False


# Keys of openclaw.json that have a typed field: one owner for each.
TYPED_SETTINGS: Final[dict[tuple[str, ...], str]] = {
    ("gateway", "port"): "gateway.port",
    ("gateway", "bind"): "gateway.bind",
    ("gateway", "customBindHost"): "gateway.host",
    ("gateway", "auth", "mode"): "gateway.auth.mode",
    ("gateway", "auth", "token"): "gateway.auth.token",
    ("gateway", "auth", "password"): "gateway.auth.password",
    ("gateway", "tls", "enabled"): "gateway.tls.enabled",
    ("gateway", "tls", "certPath"): "gateway.tls.cert",
    ("gateway", "tls", "keyPath"): "gateway.tls.key",
    ("logging", "level"): "logging.level",
    ("logging", "consoleLevel"): "logging.console.level",
    ("logging", "consoleStyle"): "logging.console.style",
    ("logging", "redactSensitive"): "logging.redact",
    ("logging", "redactPatterns"): "logging.redact_patterns",
    ("logging", "file"): "logging.directory",
    ("logging", "maxFileBytes"): "logging.max_file",
}
# Written by the reconciler itself: it alone restarts the gateway.
_RESERVED_SETTINGS: Final = (("gateway", "reload", "mode"),)
_RESERVED_VARIABLES: Final = (
    "OPENCLAW_SPEC_DIGEST",
    "OPENCLAW_KEEPER_ATTEMPT",
    "OPENCLAW_STATE_DIR",
    "OPENCLAW_CONFIG_PATH",
)
# All together; reading them takes some ten microseconds a character.
_MAX_PATTERNS: Final = 16_384
_GROUP_NAME: Final = re.compile(r"\(\?<(?=[A-Za-z_])")
_LOOPBACK: Final = ("127.", "::1")


def check_rules(data: dict[str, Any], canonical: dict[str, Any], suggestions: Suggestions) -> list[Issue]:
    """All contradictions. `data` is the document as written, `canonical` the sections of it that the schema accepts."""
    return [
        issue
        for issues in (
            _service(data, canonical),
            _gateway(canonical),
            _settings(data),
            _logging(data, canonical),
            _tunnels(canonical),
            _auth(data, suggestions),
            _notifications(data, suggestions),
            _audit(data),
            _source(data),
            _diagnostics(canonical),
        )
        for issue in issues
    ]


def _mapping(data: Any, *path: str) -> dict[str, Any]:
    for name in path:
        data = data.get(name) if isinstance(data, dict) else None
    return data if isinstance(data, dict) else {}


def _service(data: dict[str, Any], canonical: dict[str, Any]) -> Iterator[Issue]:
    for name, value in _mapping(data, "service", "environment").items():
        path = ("service", "environment", name)
        if not (name.isascii() and name.isidentifier()):
            yield Issue(
                path,
                "bad_key",
                f"use '{shown_name(name)}' as the name of a variable",
                "letters, digits and _",
                on_name=True,
            )
        elif name in _RESERVED_VARIABLES:
            yield Issue(path, "conflict", f"set {name}: the reconciler sets it itself", on_name=True)
        elif (
            is_sensitive_variable(name)
            and isinstance(value, str)
            and not REFERENCE.fullmatch(value)
            and not looks_secret(value)
        ):
            yield _literal(path)
    service = canonical.get("service")
    if service is None:
        return
    if service["openclaw"] is not None and service["runtime"] != "openclaw":
        yield Issue(
            ("service", "openclaw"),
            "conflict",
            f"use 'openclaw' with runtime '{service['runtime']}'",
            "runtime: openclaw, or no 'openclaw'",
            on_name=True,
        )
    restart = service["restart"]
    if restart["delay"] > restart["max_delay"]:
        yield Issue(
            ("service", "restart", "delay" if "delay" in _mapping(data, "service", "restart") else "max_delay"),
            "conflict",
            f"use a delay of {restart['delay']} s: it is longer than max_delay ({restart['max_delay']} s)",
        )


def _gateway(canonical: dict[str, Any]) -> Iterator[Issue]:
    gateway = canonical.get("gateway")
    if gateway is None:
        return
    bind, host = gateway["bind"], gateway["host"]
    auth, tls = gateway["auth"] or {}, gateway["tls"] or {}
    if host is not None and bind not in {None, "custom"}:
        yield Issue(
            ("gateway", "host"),
            "conflict",
            f"use 'host' with bind '{bind}'",
            hint="write 'bind: custom', or remove one of the two",
        )
    if bind == "custom" and host is None:
        yield Issue(("gateway", "bind"), "conflict", "use bind 'custom' without 'host'", hint="add 'host: ADDRESS'")
    exposed = bind in {"lan", "tailnet", "auto"} or (host is not None and not host.startswith(_LOOPBACK))
    if auth.get("mode") == "none" and exposed:
        where = f"bind '{bind}'" if bind in {"lan", "tailnet", "auto"} else f"host '{host}'"
        yield Issue(
            ("gateway", "auth", "mode"),
            "conflict",
            f"use mode 'none' with {where}: everybody who reaches the port could command the gateway",
            "mode 'token' or 'password', or 'bind: loopback'",
        )
    for mode, other in (("token", "password"), ("password", "token")):
        if auth.get("mode") == mode and auth.get(mode) is None and auth.get(other) is not None:
            yield Issue(
                ("gateway", "auth", "mode"),
                "conflict",
                f"use mode '{mode}' with a {other} only",
                f"mode '{other}', or a {mode}",
            )
    if (tls.get("cert") is None) != (tls.get("key") is None):
        there, missing = ("cert", "key") if tls.get("key") is None else ("key", "cert")
        yield Issue(
            ("gateway", "tls", there),
            "conflict",
            f"use '{there}' without '{missing}'",
            f"both '{there}' and '{missing}'",
        )


def _settings(data: dict[str, Any]) -> Iterator[Issue]:
    settings = _mapping(data, "gateway").get("settings")
    if not isinstance(settings, dict):
        return
    base: tuple[str, ...] = ("gateway", "settings")
    for path, field in TYPED_SETTINGS.items():
        for depth in range(1, len(path) + 1):
            parent = _mapping(settings, *path[: depth - 1])
            name = path[depth - 1]
            if name not in parent:
                break
            if depth == len(path):
                yield Issue(
                    (*base, *path),
                    "conflict",
                    f"set '{'.'.join(path)}' here: it has a field of its own",
                    f"'{field}' instead",
                    on_name=True,
                )
            elif not isinstance(parent[name], dict):
                if path == next(each for each in TYPED_SETTINGS if each[:depth] == path[:depth]):
                    yield Issue(
                        (*base, *path[:depth]), "wrong_type", f"use this as '{'.'.join(path[:depth])}'", "a mapping"
                    )
                break
    for path in _RESERVED_SETTINGS:
        if path[-1] in _mapping(settings, *path[:-1]):
            yield Issue(
                (*base, *path), "conflict", f"set '{'.'.join(path)}': the reconciler sets it itself", on_name=True
            )
    yield from _literals(settings, base, False)


def _logging(data: dict[str, Any], canonical: dict[str, Any]) -> Iterator[Issue]:
    logging = canonical.get("logging") or {}
    retention = logging.get("retention") or {}
    age, compress = retention.get("age"), retention.get("compress_after")
    # Of the defaults each is right beside any other: who shortens one of them has not asked for the other.
    both = _mapping(data, "logging", "retention").keys() >= {"age", "compress_after"}
    if both and age is not None and compress is not None and compress > age:
        yield Issue(
            ("logging", "retention", "compress_after"),
            "conflict",
            f"compress after {render_duration(compress)}: files are deleted after {render_duration(age)} ('age')",
            hint="shorten it, or write 'compress_after: null'",
        )
    patterns = logging.get("redact_patterns") or []
    path: DocumentPath = ("logging", "redact_patterns")
    if (total := sum(map(len, patterns))) > _MAX_PATTERNS:
        yield Issue(
            path, "bad_value", f"use patterns of {total:,} characters", f"at most {_MAX_PATTERNS:,} characters in all"
        )
        return
    for number, pattern in enumerate(patterns):
        if (reason := _why_no_pattern(pattern)) is not None:
            yield Issue(
                (*path, number),
                "bad_value",
                f"use this as a regular expression: {reason}",
                r"a regular expression such as 'sk-[\w-]+'",
            )


def _why_no_pattern(pattern: str) -> str | None:
    """Why `pattern` is no regular expression; None where it is one. It is only parsed: compiling one can take seconds."""
    import warnings
    from re import _parser  # type: ignore[attr-defined]

    with warnings.catch_warnings():
        # Of what a later Python might read otherwise; who redacts may be no Python at all.
        warnings.simplefilter("ignore")
        # The real product's are JavaScript's, which writes the names of groups without the P.
        ours = _GROUP_NAME.sub("(?P<", pattern)
        try:
            _parser.parse(ours)
        except re.error as err:
            where = f" at character {err.pos + 1}" if err.pos is not None and ours == pattern else ""
            return f"{safe(err.msg)}{where}"
        except (RecursionError, OverflowError):
            return "it is too large"
    return None


def _literals(value: Any, path: DocumentPath, hidden: bool) -> Iterator[Issue]:
    """Every literal under a name that says secret, or with the shape of one."""
    if isinstance(value, dict):
        for name, item in value.items():
            below = isinstance(item, list) and is_sensitive_list(name)
            yield from _literals(item, (*path, name), is_sensitive(name) or below)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _literals(item, (*path, number), hidden)
    elif isinstance(value, str):
        if value and (looks_secret(value) or assigns_secret(value) or (hidden and not is_reference_text(value))):
            yield Issue(
                path,
                "secret_literal",
                "use a literal value for a secret",
                "exactly ${NAME}",
                "keep the value in the environment, and refer to it by name",
            )
    elif hidden and isinstance(value, (int, float)) and not isinstance(value, bool):
        yield Issue(path, "secret_literal", "use a literal value for a secret", "exactly ${NAME}")


def _literal(path: DocumentPath) -> Issue:
    return Issue(
        path,
        "secret_literal",
        "use a literal value for a secret",
        "{env: NAME}, {file: PATH}, {exec: [PROGRAM, ARGUMENT]} or ${NAME}",
        "keep the value in the environment or in a file, and refer to it",
    )


def _auth(data: dict[str, Any], suggestions: Suggestions) -> Iterator[Issue]:
    profiles = _mapping(data, "auth", "profiles")
    for name, profile in profiles.items():
        if not name.partition(":")[0] and not (isinstance(profile, dict) and profile.get("provider")):
            yield Issue(
                ("auth", "profiles", name),
                "bad_key",
                f"tell the provider of '{safe(name)}'",
                "a name such as anthropic:default",
                on_name=True,
            )
    for provider, names in _mapping(data, "auth", "order").items():
        if not isinstance(names, list):
            continue
        seen: set[str] = set()
        for number, name in enumerate(names):
            path = ("auth", "order", provider, number)
            if not isinstance(name, str):
                continue
            if name not in profiles:
                near = suggestions.near(name, profiles)
                yield Issue(
                    path,
                    "unknown_name",
                    f"find the profile '{shown_name(name)}'",
                    "the name of one of auth.profiles",
                    f"did you mean '{safe(near)}'?" if near else "",
                )
            elif _provider(name, profiles[name]) != provider:
                yield Issue(path, "conflict", f"use '{safe(name)}' for '{safe(provider)}': it is of another provider")
            elif name in seen:
                yield Issue(path, "conflict", f"use '{safe(name)}' twice in one order")
            seen.add(name)


def _provider(name: str, profile: Any) -> str:
    declared = profile.get("provider") if isinstance(profile, dict) else None
    return declared if isinstance(declared, str) else name.partition(":")[0]


def _notifications(data: dict[str, Any], suggestions: Suggestions) -> Iterator[Issue]:
    channels = _mapping(data, "notifications", "channels")
    routes = _mapping(data, "notifications").get("routes")
    for number, route in enumerate(routes if isinstance(routes, list) else ()):
        target = route.get("to") if isinstance(route, dict) else None
        if isinstance(target, str) and target and target not in channels:
            near = suggestions.near(target, channels)
            yield Issue(
                ("notifications", "routes", number, "to"),
                "unknown_name",
                f"find the channel '{shown_name(target)}'",
                "the name of one of notifications.channels",
                f"did you mean '{safe(near)}'?" if near else "",
            )


def _audit(data: dict[str, Any]) -> Iterator[Issue]:
    declared = _mapping(data, "audit")
    if declared.get("at") is not None and declared.get("every") is not None:
        yield Issue(("audit", "at"), "conflict", "use both 'every' and 'at'", hint="remove one of the two")


def _tunnels(canonical: dict[str, Any]) -> Iterator[Issue]:
    """Tunnels that bring a port here listen on it. All others lead from a port of ours, which several of them may do."""
    listening: dict[int, str] = {}
    for name, tunnel in (canonical.get("tunnels") or {}).items():
        if tunnel["type"] != "ssh" or tunnel["direction"] != "local":
            continue
        if (first := listening.setdefault(tunnel["local"], name)) != name:
            yield Issue(
                ("tunnels", name, "local"),
                "conflict",
                f"listen on port {tunnel['local']} for two tunnels: '{safe(first)}' does so already",
                hint="give each a port of its own, or write 'direction: remote' for one that leads from here",
            )


def _source(data: dict[str, Any]) -> Iterator[Issue]:
    address = _mapping(data, "source").get("git")
    if looks_secret(address):
        yield Issue(
            ("source", "git"),
            "secret_literal",
            "use an address with a password or a token in it",
            "an address without one; a user has at most 16 characters",
            "use an ssh key or a credential helper of git",
        )


def _diagnostics(canonical: dict[str, Any]) -> Iterator[Issue]:
    otel = (canonical.get("diagnostics") or {}).get("otel")
    if otel is not None and otel["flush"] < 1:
        yield Issue(("diagnostics", "otel", "flush"), "bad_value", "export more than once a second", "1s or longer")
