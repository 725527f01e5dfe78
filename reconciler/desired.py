"""The desired state as the rest of the program sees it: the validated document, as frozen values without pydantic.

Pure. It is built from the *canonical* document: plain JSON data, units turned into numbers (seconds, bytes, percent), every
default of a present section filled in, secrets as references. The schema (reconciler.document.schema) makes that form; a cache
of it lets a command skip the schema. Sections that no kind manages yet are kept in `canonical` only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.model import DocumentPath


@dataclass(frozen=True, slots=True)
class SecretRef:
    """Where a secret's value is to be had: `source` env (a name), file (a path) or exec (an argv)."""

    source: str
    value: str | tuple[str, ...]

    @classmethod
    def from_canonical(cls, data: Mapping[str, Any]) -> SecretRef:
        """From `{"env": NAME}`, `{"file": PATH}` or `{"exec": [ARGV]}`."""
        ((source, value),) = data.items()
        return cls(source, tuple(value) if isinstance(value, list) else value)

    def __str__(self) -> str:
        return f"{self.source}:{self.value if isinstance(self.value, str) else self.value[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the service may use at most; None is no limit. `cpu_percent` 100 is one core."""

    memory_bytes: int | None
    cpu_percent: float | None
    files: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """When and how fast a service that ended is started again."""

    delay_seconds: float
    max_delay_seconds: float
    burst: int
    window_seconds: float
    never_on_exit: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """How a service is ended: `drain_seconds` for running work, then `grace_seconds` from SIGTERM to SIGKILL."""

    drain_seconds: float
    grace_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The `service` section."""

    runtime: str
    manager: str
    state: str
    environment: Mapping[str, str | SecretRef]
    limits: Limits
    restart: Restart
    stop: Stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """The `gateway` section. Every field is None where the document does not declare it: openclaw.json is shared, and only
    written fields are owned. `settings` holds further keys of openclaw.json as nested plain data.
    """

    port: int | None
    bind: str | None
    host: str | None
    auth_mode: str | None
    token: SecretRef | None
    password: SecretRef | None
    tls_enabled: bool | None
    tls_cert: str | None
    tls_key: str | None
    settings: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long log files are kept; None switches that limit off."""

    age_seconds: float | None
    total_bytes: int | None
    files: int | None
    compress_after_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Logging:
    """The `logging` section; level, console and redaction are None where not declared (shared file)."""

    level: str | None
    console_level: str | None
    console_style: str | None
    redact: str | None
    redact_patterns: tuple[str, ...] | None
    directory: str | None
    max_file_bytes: int | None
    retention: Retention


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The `policy` section; all defaults where it is absent."""

    verify_seconds: float
    rollback: bool
    restarts_per_hour: int | None
    approve: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """One validated document.

    `declared` holds every path that the document or the environment sets (`("gateway", "port")`), so that a default is
    told apart from a word of the operator. `unmanaged` names present sections that this version does not manage.
    `extra` is for kinds of tests and benchmarks: top-level sections beginning with `x-`, as plain data.
    """

    service: Service | None
    gateway: Gateway | None
    logging: Logging | None
    policy: Policy
    declared: frozenset[DocumentPath]
    unmanaged: tuple[str, ...]
    extra: Mapping[str, Any]
    canonical: Mapping[str, Any]


def from_canonical(canonical: Mapping[str, Any], declared: frozenset[DocumentPath]) -> Desired:
    """The desired state that canonical data (see module) describes."""
    service, gateway, logging = (canonical.get(name) for name in ("service", "gateway", "logging"))
    return Desired(
        service=_service(service) if service is not None else None,
        gateway=_gateway(gateway) if gateway is not None else None,
        logging=_logging(logging) if logging is not None else None,
        policy=_policy(canonical["policy"]),
        declared=declared,
        unmanaged=tuple(name for name in canonical if name not in MANAGED and not name.startswith("x-")),
        extra={name: value for name, value in canonical.items() if name.startswith("x-")},
        canonical=canonical,
    )


# `policy` and `version` have no resource of their own: the engine itself obeys them.
MANAGED = frozenset({"version", "service", "gateway", "logging", "policy"})


def _reference(value: Any) -> Any:
    return SecretRef.from_canonical(value) if isinstance(value, Mapping) else value


def _service(data: Mapping[str, Any]) -> Service:
    limits, restart, stop = data["limits"], data["restart"], data["stop"]
    return Service(
        runtime=data["runtime"],
        manager=data["manager"],
        state=data["state"],
        environment={name: _reference(value) for name, value in data["environment"].items()},
        limits=Limits(memory_bytes=limits["memory"], cpu_percent=limits["cpu"], files=limits["files"]),
        restart=Restart(
            delay_seconds=restart["delay"],
            max_delay_seconds=restart["max_delay"],
            burst=restart["burst"],
            window_seconds=restart["window"],
            never_on_exit=tuple(restart["never_on_exit"]),
        ),
        stop=Stop(drain_seconds=stop["drain"], grace_seconds=stop["grace"]),
    )


def _gateway(data: Mapping[str, Any]) -> Gateway:
    auth, tls = data.get("auth") or {}, data.get("tls") or {}
    return Gateway(
        port=data["port"],
        bind=data["bind"],
        host=data["host"],
        auth_mode=auth.get("mode"),
        token=_reference(auth.get("token")),
        password=_reference(auth.get("password")),
        tls_enabled=tls.get("enabled"),
        tls_cert=tls.get("cert"),
        tls_key=tls.get("key"),
        settings=data["settings"],
    )


def _logging(data: Mapping[str, Any]) -> Logging:
    console, retention = data.get("console") or {}, data["retention"]
    patterns = data["redact_patterns"]
    return Logging(
        level=data["level"],
        console_level=console.get("level"),
        console_style=console.get("style"),
        redact=data["redact"],
        redact_patterns=tuple(patterns) if patterns is not None else None,
        directory=data["directory"],
        max_file_bytes=data["max_file"],
        retention=Retention(
            age_seconds=retention["age"],
            total_bytes=retention["total"],
            files=retention["files"],
            compress_after_seconds=retention["compress_after"],
        ),
    )


def _policy(data: Mapping[str, Any]) -> Policy:
    return Policy(
        verify_seconds=data["verify"],
        rollback=data["rollback"],
        restarts_per_hour=data["restarts_per_hour"],
        approve=tuple(data["approve"]),
    )
