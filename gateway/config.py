"""`openclaw.json` as the built-in gateway reads it: text, references, validation, effective values, redaction.

Three lists, as data, say what becomes of every key: `WORKS` (read and checked here), `PASSED` (only for the real product, kept
and shown, without effect) and `REFUSED` (would be dangerous to ignore, so the gateway does not start with it). A key in
none of them is unknown and an error, as in the real product.

The functions are synchronous and touch nothing but the one file given to `read_file`; the environment is an argument.
Text of messages: that of the real product where it has one.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from gateway.files import open_regular
from gateway.wire import json5
from gateway.wire.connect import AuthMode, Secret

DEFAULT_PORT = 18789
# As the real product's later versions have it (2026.9.6); a smaller cap than the least would turn a file at every few lines.
MAX_LOG_BYTES = 100 << 20
MIN_LOG_BYTES = 64 << 10
# The real product has no limit. Twenty times the largest config seen, and less than a second of reading, during which
# the event loop stands still.
MAX_CONFIG_BYTES = 1024 * 1024
SENTINEL = "__OPENCLAW_REDACTED__"

LEVELS = ("silent", "fatal", "error", "warn", "info", "debug", "trace")
STYLES = ("pretty", "compact", "json")
BINDS = ("loopback", "lan", "tailnet", "auto", "custom")
# In the gateway's environment they stand for a secret that the config has not.
SECRET_VARIABLES = frozenset({"OPENCLAW_GATEWAY_TOKEN", "OPENCLAW_GATEWAY_PASSWORD"})
RELOAD_MODES = ("hybrid", "hot", "restart", "off")


@dataclass(frozen=True, slots=True)
class Issue:
    """One thing that is wrong; `path` with dots, empty for the whole file. `guessed`: it depends on what a reference gives.
    `key` is the one below `path` that is not known, where that is what is wrong.
    """

    path: str
    message: str
    guessed: bool = False
    key: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def in_one_line(issues: Iterable[Issue]) -> str:
    """All that is wrong; empty for nothing."""
    return "; ".join(map(str, issues))


class ConfigError(Exception):
    """The config cannot be used. `issues` holds all of it."""

    def __init__(self, issues: tuple[Issue, ...]) -> None:
        super().__init__(in_one_line(issues))
        self.issues = issues


@dataclass(frozen=True, slots=True)
class _Key:
    """A key that works: what it may be (None: right; else the complaint), and its default where it has one."""

    check: Callable[[Any], str | None]
    default: Any = None


def _one_of(*words: str) -> Callable[[Any], str | None]:
    listed = "|".join(f'"{word}"' for word in words)
    return lambda value: None if value in words else f"Invalid option: expected one of {listed}"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else f"Invalid input: expected string, received {_type_name(value)}"


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else f"Invalid input: expected boolean, received {_type_name(value)}"


def _port(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return f"Invalid input: expected a port number (integer), received {_type_name(value)}"
    return None if 1 <= value <= 65535 else f"Invalid input: expected a port from 1 to 65535, received {value}"


def _whole(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return f"Invalid input: expected int, received {_type_name(value)}"
    return None if value >= 0 else "Too small: expected number to be >=0"


def _log_size(value: Any) -> str | None:
    if (problem := _whole(value)) is not None:
        return problem
    return None if value >= MIN_LOG_BYTES else f"Too small: expected number to be >={MIN_LOG_BYTES}"


WORKS: Mapping[str, _Key] = {
    "gateway.mode": _Key(_one_of("local", "remote")),
    "gateway.port": _Key(_port, DEFAULT_PORT),
    "gateway.bind": _Key(_one_of(*BINDS), "loopback"),
    "gateway.customBindHost": _Key(_text),
    "gateway.auth.mode": _Key(_one_of("token", "password", "none", "trusted-proxy")),
    "gateway.auth.token": _Key(_text),
    "gateway.auth.password": _Key(_text),
    "gateway.tls.enabled": _Key(_flag, default=False),
    "gateway.tls.certPath": _Key(_text),
    "gateway.tls.keyPath": _Key(_text),
    "gateway.tailscale.mode": _Key(_one_of("off", "serve", "funnel")),
    "gateway.reload.mode": _Key(_one_of(*RELOAD_MODES), "hybrid"),
    "gateway.reload.debounceMs": _Key(_whole, 300),
    "logging.level": _Key(_one_of(*LEVELS), "info"),
    "logging.file": _Key(_text),
    "logging.maxFileBytes": _Key(_log_size, MAX_LOG_BYTES),
    "logging.consoleLevel": _Key(_one_of(*LEVELS), "info"),
    "logging.consoleStyle": _Key(_one_of(*STYLES)),
}
"""Read by this gateway. Defaults stand in the effective config; no default there means: decided at run time."""

PASSED: frozenset[str] = frozenset(
    """
    $schema meta env wizard diagnostics update browser ui auth acp models nodeHost agents tools bindings broadcast audio
    media messages commands approvals session cron hooks web channels discovery canvasHost talk memory skills plugins
    secrets cli
    gateway.remote gateway.controlUi gateway.trustedProxies gateway.http gateway.nodes gateway.tools
    gateway.channelHealthCheckMinutes gateway.auth.rateLimit gateway.auth.allowTailscale gateway.auth.trustedProxy
    gateway.tls.autoGenerate gateway.tls.caPath gateway.tailscale.resetOnExit
    logging.redactSensitive logging.redactPatterns
    """.split()  # noqa: SIM905 - a table of words is easier to keep than fifty quoted ones
)
"""For the real product only: kept, shown by `config.get`, without effect here (`env` gives values to `${NAME}`)."""


def passed(keys: tuple[str, ...]) -> tuple[str, ...] | None:
    """The part of `keys` that names an entry of `PASSED`; None for what is read here, and for what is not known."""
    depths = range(1, len(keys) + 1)
    return next((keys[:depth] for depth in depths if ".".join(keys[:depth]) in PASSED), None)


def known_below(path: str) -> frozenset[str]:
    """The keys that the section at `path` may have; those of the whole file for an empty one."""
    start = f"{path}." if path else ""
    return frozenset(
        known.removeprefix(start).partition(".")[0] for known in (*PASSED, *WORKS) if known.startswith(start)
    )


REFUSED: Mapping[str, Mapping[str, str]] = {
    "gateway.mode": {"remote": 'the built-in gateway has no remote mode; set it to "local" or leave it out'},
    "gateway.auth.mode": {"trusted-proxy": "the built-in gateway cannot trust a proxy; use token or password"},
    "gateway.tailscale.mode": {
        "serve": "the built-in gateway starts no tailscale; declare a tunnel instead",
        "funnel": "the built-in gateway starts no tailscale; declare a tunnel instead",
    },
}
"""Values that this gateway must not ignore and cannot follow."""

# What the operator believes to be protected by it is not: said at every start instead of in silence.
_WARN_WHEN_SET = {
    "gateway.auth.rateLimit": "has no effect in the built-in gateway: attempts are not limited",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the gateway runs by, taken from a valid config and the environment."""

    port: int
    bind: str
    custom_host: str | None
    secret: Secret
    tls: tuple[str, str] | None
    reload_mode: str
    debounce_seconds: float
    level: str
    log_file: str | None
    max_log_bytes: int
    console_level: str
    console_style: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One reading of the file, valid or not.

    Attributes:
        exists: whether there is a file; a missing one counts as an empty config.
        hash: SHA-256 of the bytes of the file, of nothing when it is missing.
        text: the file as text; None when invalid.
        parsed: the data as written, still with `${NAME}`; None when invalid.
        resolved: with the references replaced; empty when invalid.
        effective: `resolved` with the defaults; empty when invalid.
        settings: None when invalid.
    """

    path: str
    exists: bool
    hash: str
    text: str | None
    parsed: dict[str, Any] | None
    resolved: dict[str, Any]
    effective: dict[str, Any]
    settings: Settings | None
    issues: tuple[Issue, ...]
    warnings: tuple[Issue, ...]

    @property
    def valid(self) -> bool:
        """Whether the gateway can run by it."""
        return self.settings is not None

    @property
    def error(self) -> str | None:
        """What is wrong, in one line; None when valid."""
        return in_one_line(self.issues) or None


def read_file(path: Path, environ: Mapping[str, str], *, port: int | None = None) -> Snapshot:
    """Read and check the config. `port` is the command line's, which wins over environment and file.

    It raises nothing: whatever is wrong, a directory or missing rights included, is in `issues`.
    """
    try:
        with open_regular(path) as file:
            raw = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return _check(str(path), None, environ, port)
    except OSError as err:
        return _invalid(str(path), b"", (Issue("", f"cannot read the file: {err.strerror}"),))
    return _check(str(path), raw, environ, port)


def check_text(path: str, raw: bytes, environ: Mapping[str, str], *, port: int | None = None) -> Snapshot:
    """As `read_file`, for bytes that are already there; `path` is only said again."""
    return _check(path, raw, environ, port)


def objections(text: str, variables: Iterable[str] = ()) -> tuple[Issue, ...]:
    """What is wrong with a config wherever it is read: each reference gives a text, and so do those of `variables` that can
    stand for a secret. Where a reference stands for something else than a text, what is said of it is `guessed`.
    """
    environ = {match.group(1): "x" for match in _REFERENCE.finditer(text)}
    environ |= {name: "x" for name in variables if name in SECRET_VARIABLES}
    issues = _check("", text.encode(), environ, None).issues
    try:
        parsed = _parse(text) if issues else {}
    except ConfigError:
        return issues
    return tuple(replace(issue, guessed=_refers(_get(parsed, issue.path))) for issue in issues)


def _check(path: str, raw: bytes | None, environ: Mapping[str, str], port: int | None) -> Snapshot:
    try:
        text = _decode(raw or b"")
        parsed = _parse(text) if raw is not None else {}
        resolved = _substitute(parsed, {**_config_environment(parsed), **environ})
        issues = tuple(_issues(resolved))
        if issues:
            raise ConfigError(issues)
        effective = _with_defaults(resolved)
        settings = _settings(parsed, effective, environ, port)
    except ConfigError as err:
        return _invalid(path, raw or b"", err.issues)
    warnings = tuple(Issue(key, message) for key, message in _WARN_WHEN_SET.items() if _get(resolved, key) is not None)
    return Snapshot(
        path=path,
        exists=raw is not None,
        hash=hashlib.sha256(raw or b"").hexdigest(),
        text=text,
        parsed=parsed,
        resolved=resolved,
        effective=effective,
        settings=settings,
        issues=(),
        warnings=warnings,
    )


def _invalid(path: str, raw: bytes, issues: tuple[Issue, ...]) -> Snapshot:
    return Snapshot(
        path=path,
        exists=True,
        hash=hashlib.sha256(raw).hexdigest(),
        text=None,
        parsed=None,
        resolved={},
        effective={},
        settings=None,
        issues=issues,
        warnings=(),
    )


def _decode(raw: bytes) -> str:
    if len(raw) > MAX_CONFIG_BYTES:
        raise ConfigError((Issue("", f"the file is larger than {MAX_CONFIG_BYTES // 1024} KiB"),))
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as err:
        raise ConfigError((Issue("", f"the file is not UTF-8: byte {err.start} is not valid"),)) from err


def _parse(text: str) -> dict[str, Any]:
    try:
        data = _doubles(json5.load(text))
    except json5.Json5Error as err:
        raise ConfigError((Issue("", f"JSON5 parse failed: SyntaxError: {err}"),)) from err
    if not isinstance(data, dict):
        raise ConfigError((Issue("", f"Invalid input: expected object, received {_type_name(data)}"),))
    if include := next(_find_key(data, "$include"), None):
        raise ConfigError((Issue(include, "$include is not supported by the built-in gateway"),))
    return data


def _doubles(value: Any) -> Any:
    """Integers that no double holds exactly become what JSON means by them; the wire cannot carry them either."""
    if isinstance(value, dict):
        return {key: _doubles(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_doubles(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**53:
        return float(value) if abs(value) < 2**1023 else math.copysign(math.inf, value)
    return value


def _find_key(value: Any, name: str, path: str = "") -> Iterator[str]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        place = f"{path}.{key}" if path else str(key)
        if key == name:
            yield place
        yield from _find_key(item, name, place)


# ${NAME} as the real product takes it: capitals only; $${NAME} stands for the text ${NAME} itself.
_REFERENCE = re.compile(r"\$?\$\{([A-Z_][A-Z0-9_]*)\}")


def _config_environment(parsed: Mapping[str, Any]) -> dict[str, str]:
    """The variables that the config itself gives: `env.vars` and the direct fields of `env`, non-empty texts."""
    env = parsed.get("env")
    if not isinstance(env, dict):
        return {}
    inner = env.get("vars")
    pairs = [*(inner.items() if isinstance(inner, dict) else ()), *env.items()]
    return {key: value for key, value in pairs if isinstance(value, str) and value}


def _substitute(data: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    missing: list[Issue] = []

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return {key: walk(item, f"{path}.{key}" if path else key) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, f"{path}[{index}]") for index, item in enumerate(value)]
        return _REFERENCE.sub(lambda match: put(match, path), value) if isinstance(value, str) else value

    def put(match: re.Match[str], path: str) -> str:
        if match.group().startswith("$$"):
            return match.group()[1:]
        value = environ.get(match.group(1))
        if value:
            return value
        missing.append(Issue(path, f'Missing env var "{match.group(1)}" referenced at config path: {path}'))
        return ""

    resolved = walk(data, "")
    if missing:
        # The real product names no path before the text, for the text has it.
        raise ConfigError(tuple(Issue("", issue.message) for issue in missing))
    assert isinstance(resolved, dict)  # it was one
    return resolved


def _issues(config: Mapping[str, Any]) -> Iterator[Issue]:
    yield from _unknown(config, "")
    for path, key in WORKS.items():
        value = _get(config, path)
        if value is None:
            continue
        if complaint := key.check(value) or REFUSED.get(path, {}).get(value):
            yield Issue(path, complaint)


def _unknown(config: Mapping[str, Any], prefix: str) -> Iterator[Issue]:
    """Keys in no list, and values where a section belongs."""
    for key, value in config.items():
        path = f"{prefix}.{key}" if prefix else key
        if path in PASSED or path in WORKS:
            continue
        if not any(known.startswith(f"{path}.") for known in (*PASSED, *WORKS)):
            yield Issue(prefix, f'Unrecognized key: "{key}"', key=key)
        elif isinstance(value, dict):
            yield from _unknown(value, path)
        else:
            yield Issue(path, f"Invalid input: expected object, received {_type_name(value)}")


def _with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    effective = dict(config)
    for path, key in WORKS.items():
        if key.default is None:
            continue
        *sections, last = path.split(".")
        holder = effective
        for section in sections:
            holder[section] = dict(holder.get(section) or {})
            holder = holder[section]
        if holder.get(last) is None:
            holder[last] = key.default
    return effective


def _settings(
    parsed: Mapping[str, Any], effective: Mapping[str, Any], environ: Mapping[str, str], port: int | None
) -> Settings:
    def get(path: str) -> Any:
        return _get(effective, path)

    bind, custom = get("gateway.bind"), get("gateway.customBindHost")
    if bind == "custom" and not custom:
        raise ConfigError((Issue("gateway.customBindHost", 'bind "custom" needs a customBindHost'),))
    secret = _secret(effective, environ)
    if secret.mode is AuthMode.NONE and bind != "loopback":
        # As the file has it: issues are answers and log lines, and show nothing that a reference gave.
        place = _get(parsed, "gateway.customBindHost") or bind
        text = (
            f"refusing to bind gateway to {place} without auth (set gateway.auth.token/password, or set "
            "OPENCLAW_GATEWAY_TOKEN/OPENCLAW_GATEWAY_PASSWORD)"
        )
        raise ConfigError((Issue("gateway.auth", text),))
    return Settings(
        port=port or _environment_port(environ) or get("gateway.port"),
        bind=bind,
        custom_host=custom,
        secret=secret,
        tls=_tls(effective),
        reload_mode=_reload_mode(environ) or get("gateway.reload.mode"),
        debounce_seconds=get("gateway.reload.debounceMs") / 1000,
        level=get("logging.level"),
        log_file=get("logging.file"),
        max_log_bytes=get("logging.maxFileBytes"),
        console_level=get("logging.consoleLevel"),
        console_style=get("logging.consoleStyle"),
    )


def _secret(effective: Mapping[str, Any], environ: Mapping[str, str]) -> Secret:
    """The config wins over the environment; without a mode a password makes it password mode, else a token token mode."""
    token = _get(effective, "gateway.auth.token") or environ.get("OPENCLAW_GATEWAY_TOKEN") or ""
    password = _get(effective, "gateway.auth.password") or environ.get("OPENCLAW_GATEWAY_PASSWORD") or ""
    mode = _get(effective, "gateway.auth.mode") or ("password" if password else "token" if token else "none")
    value = {"token": token, "password": password, "none": ""}[mode]
    if mode != "none" and not value:
        raise ConfigError((Issue(f"gateway.auth.{mode}", f"auth mode {mode} without a {mode}"),))
    return Secret(mode=AuthMode(mode), value=value)


def _tls(effective: Mapping[str, Any]) -> tuple[str, str] | None:
    if not _get(effective, "gateway.tls.enabled"):
        return None
    paths = tuple(_get(effective, f"gateway.tls.{name}") or "" for name in ("certPath", "keyPath"))
    missing = [name for name, path in zip(("certPath", "keyPath"), paths, strict=True) if not path]
    if missing:
        text = "needed with gateway.tls.enabled: the built-in gateway makes no certificate"
        raise ConfigError(tuple(Issue(f"gateway.tls.{name}", text) for name in missing))
    return paths[0], paths[1]


def _reload_mode(environ: Mapping[str, str]) -> str | None:
    """The mode that whoever runs the gateway sets: a manager that owns the restarts says "hot"."""
    mode = environ.get("OPENCLAW_RELOAD_MODE") or None
    if mode is not None and (complaint := _one_of(*RELOAD_MODES)(mode)):
        raise ConfigError((Issue("OPENCLAW_RELOAD_MODE", complaint),))
    return mode


def _environment_port(environ: Mapping[str, str]) -> int | None:
    text = environ.get("OPENCLAW_GATEWAY_PORT", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:6]) <= 65535):
        raise ConfigError((Issue("OPENCLAW_GATEWAY_PORT", f'expected a port from 1 to 65535, received "{text[:32]}"'),))
    return int(text)


def _get(config: Mapping[str, Any], path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value


def _type_name(value: Any) -> str:
    """The type as the real product calls it."""
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


# --- redaction -------------------------------------------------------------------------------------------------------

# The real product's four (token, password, secret, API key) and those further names under which the document takes
# no literal either: what must be a reference there must not be shown resolved here.
_SENSITIVE = re.compile(
    r"token$|password|passwd$|passphrase$|secret|credentials?$|cookies?$|authorization$"
    r"|api.?key$|(?:private|access|signing|encryption)[-_]?key$",
    re.IGNORECASE,
)
_ONE_REFERENCE = re.compile(r"\$\{[A-Z_][A-Z0-9_]*\}")


def redact(value: Any, *, sensitive: bool = False) -> Any:
    """A copy in which every text at a sensitive key is `SENTINEL`, unless it is exactly one `${NAME}`."""
    if isinstance(value, dict):
        return {key: redact(item, sensitive=_is_sensitive(key, item, sensitive)) for key, item in value.items()}
    if isinstance(value, list):
        return [redact(item, sensitive=sensitive) for item in value]
    if sensitive and isinstance(value, str) and not _ONE_REFERENCE.fullmatch(value):
        return SENTINEL
    return value


def redact_resolved(value: Any, written: Any, *, sensitive: bool = False) -> Any:
    """The same for data in which references are replaced; `written` is what the file has there.

    What a `${NAME}` gave is masked under any name, and with it the text around it: who reads may know the text, and
    would learn the rest. A default stands nowhere in `written` and is shown.
    """
    if isinstance(value, dict):
        below = written if isinstance(written, dict) else {}
        return {
            key: redact_resolved(item, below.get(key), sensitive=_is_sensitive(key, item, sensitive))
            for key, item in value.items()
        }
    if isinstance(value, list):
        beside = written if isinstance(written, list) else []
        pairs = zip_longest(value, beside[: len(value)])
        return [redact_resolved(item, source, sensitive=sensitive) for item, source in pairs]
    return SENTINEL if isinstance(value, str) and (sensitive or _refers(written)) else value


def _refers(written: Any) -> bool:
    return isinstance(written, str) and any(not match[0].startswith("$$") for match in _REFERENCE.finditer(written))


@lru_cache(maxsize=1)
def redact_text(text: str) -> str:
    """The text of a valid config with the secrets replaced in place, comments and all else kept."""
    pieces: list[str] = []
    end = 0
    for start, stop in sorted(_secret_spans(json5.parse(text), sensitive=False)):
        pieces += (text[end:start], f'"{SENTINEL}"')
        end = stop
    return "".join((*pieces, text[end:]))


def _secret_spans(node: json5.Node, *, sensitive: bool) -> Iterator[json5.Span]:
    match node:
        case json5.Object(members=members):
            for member in members:
                inner = json5.to_plain(member.value) if isinstance(member.value, json5.Scalar) else None
                yield from _secret_spans(member.value, sensitive=_is_sensitive(member.key, inner, sensitive))
        case json5.Array(items=items):
            for item in items:
                yield from _secret_spans(item, sensitive=sensitive)
        case json5.Scalar(value=str(value), span=span):
            if sensitive and not _ONE_REFERENCE.fullmatch(value):
                yield span
        case _:
            pass


def _is_sensitive(key: str, value: Any, inherited: bool) -> bool:
    """A sensitive name covers everything below it, except where it is a mere section (`gateway.auth.password` is a text)."""
    return inherited or (_SENSITIVE.search(key) is not None and not isinstance(value, bool))
