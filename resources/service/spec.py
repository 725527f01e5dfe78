"""What the gateway's process is to be: the owned fields of `service/gateway`, their digest, and what it is started with. Pure.

Two classes of fields. *Spec* fields are what a running process cannot take up: a difference in one of them means a
restart. They are what `OPENCLAW_SPEC_DIGEST` is the digest of. *Policy* fields belong to the keeper and change under a
running process.

A process carries only the digest; the fields behind it lie in `spec-<digest>.json`, so that a later look can say which
one differs. The field `spec` is that digest itself: it differs alone where the fields behind it are not to be had.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reconciler.desired import Desired, Gateway, SecretRef, Service
from reconciler.host import Host
from reconciler.kinds import Resource, Secrets
from reconciler.model import ABSENT, DocumentPath, Fields, Impact, Key, Secret, Value
from reconciler.values import decode, digest, digest_fields, encode, join_path
from resources.gateway_config.fields import declared, impact

KEY: Final = Key("service", "gateway")
CHILD: Final = "gateway"
# Managers and runtimes that this version drives.
MANAGERS: Final = frozenset({"auto", "embedded"})
RUNTIMES: Final = frozenset({"builtin"})
# Which program the keeper is: the installed one, by its digest.
KEEPER_PROGRAM: Final = "keeper.program"
POLICY_FIELDS: Final = frozenset(
    {
        "limits.files",
        "restart.burst",
        "restart.delay",
        "restart.max_delay",
        "restart.never_on_exit",
        "restart.window",
        "stop.grace",
    }
)
# From exec to Ready, on a machine that is busy with other things; a gateway that hangs before is ended and tried again.
START_SECONDS: Final = 60.0
# Taken over from the applying process, and no fields: another terminal is no reason to restart.
_PASSED_ON: Final = ("PATH", "HOME", "LANG", "TZ")
# The real product's form of a reference; the gateway looks the name up in its environment.
_REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
OUTPUT_NAME: Final = "gateway.out.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """How the gateway is started: `argv`, `check` (exits 0 when its configuration is good; None: there is no such check) and
    `ready`, how it is known to serve (`notify`, `port`, `exec`).
    """

    argv: tuple[str, ...]
    check: tuple[str, ...] | None = None
    ready: str = "notify"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """All that the adapter needs of the document.

    `environment` holds the plain values and references that the document declares; `section` is the digest of the `service`
    section, by which a hold knows that it was changed. `port` is None where the document does not declare one.
    """

    service: Service
    program: Program
    environment: Mapping[str, str | SecretRef]
    log_directory: str
    section: str
    digest: str
    spec_fields: Fields
    policy_fields: Fields
    port: int | None
    tls: bool
    tls_files: tuple[tuple[str, str], ...]
    auth: SecretRef | None


def builtin_program(host: Host) -> Program:
    """The gateway of this distribution. `-P`: a folder of the state directory is never taken for a module."""
    return Program(argv=(host.python, "-P", "-m", "gateway", "run"))


def declare(desired: Desired, host: Host, secrets: Secrets, program: Program, keeper: str) -> Resource | None:
    """The resource that the document declares; None without a `service` section. `keeper` is the installed keeper's digest."""
    service = desired.service
    if service is None:
        return None
    environment = _environment(service, desired.gateway)
    directory = _log_directory(desired, host)
    spec_fields, origins = _spec_fields(desired, program, environment, directory, secrets)
    policy_fields = _policy_fields(service)
    gateway = desired.gateway
    config, _ = declared(desired)
    port = config.get("gateway.port")
    spec = ServiceSpec(
        service=service,
        program=program,
        environment=environment,
        log_directory=directory,
        section=_section_digest(service),
        digest=digest_fields(spec_fields),
        spec_fields=spec_fields,
        policy_fields=policy_fields,
        port=port if isinstance(port, int) and not isinstance(port, bool) else None,
        tls=config.get("gateway.tls.enabled") is True,
        tls_files=tls_files(config, host),
        auth=_auth(gateway),
    )
    origins |= {"state": ("service", "state"), **{path: ("service", *path.split(".")) for path in policy_fields}}
    fields: dict[str, Value] = {
        "state": service.state,
        "keeper": True,
        KEEPER_PROGRAM: keeper,
        # Covers digests of secrets: before there is a journal with a salt of its own they could be guessed from it.
        "spec": Secret(spec.digest),
        **spec_fields,
        **policy_fields,
    }
    return Resource(
        key=KEY,
        fields=fields,
        origins={path: origin for path, origin in origins.items() if origin in desired.declared},
        defaulted=frozenset(path for path in fields if origins.get(path) not in desired.declared),
        needs=frozenset(
            {Key("gateway-config", "gateway")} if gateway is not None or desired.logging is not None else ()
        ),
        spec=spec,
    )


def is_spec_field(path: str) -> bool:
    """Whether a difference in this field means a restart."""
    return path not in POLICY_FIELDS and path not in ("state", "keeper", KEEPER_PROGRAM)


def _spec_fields(
    desired: Desired,
    program: Program,
    environment: Mapping[str, str | SecretRef],
    directory: str,
    secrets: Secrets,
) -> tuple[dict[str, Value], dict[str, DocumentPath]]:
    service = desired.service
    assert service is not None
    fields: dict[str, Value] = {
        "argv": program.argv,
        "stop.drain": service.stop.drain_seconds,
        "logging.directory": directory,
    }
    origins: dict[str, DocumentPath] = {
        "stop.drain": ("service", "stop", "drain"),
        "logging.directory": ("logging", "directory"),
    }
    for name, value in sorted(environment.items()):
        path = join_path(("environment", name))
        fields[path] = secrets.digest(value) if isinstance(value, SecretRef) else value
        origins[path] = _environment_origin(name, desired)
    config, config_origins = declared(desired)
    for path, setting in config.items():
        if setting is not ABSENT and impact([path], service.runtime) is Impact.RESTART:
            fields[f"config.{path}"] = setting
            origins[f"config.{path}"] = config_origins[path]
    return fields, origins


def _environment_origin(name: str, desired: Desired) -> DocumentPath:
    if name == "OPENCLAW_GATEWAY_TOKEN" and desired.gateway is not None and desired.gateway.token is not None:
        return ("gateway", "auth", "token")
    if name == "OPENCLAW_GATEWAY_PASSWORD" and desired.gateway is not None and desired.gateway.password is not None:
        return ("gateway", "auth", "password")
    if desired.service is not None and name in desired.service.environment:
        return ("service", "environment", name)
    return ("gateway", "settings")


def _policy_fields(service: Service) -> dict[str, Value]:
    fields: dict[str, Value] = {
        "restart.delay": service.restart.delay_seconds,
        "restart.max_delay": service.restart.max_delay_seconds,
        "restart.burst": service.restart.burst,
        "restart.window": service.restart.window_seconds,
        "restart.never_on_exit": tuple(sorted(service.restart.never_on_exit)),
        "stop.grace": service.stop.grace_seconds,
    }
    if service.limits.files is not None:
        fields["limits.files"] = service.limits.files
    return fields


def _environment(service: Service, gateway: Gateway | None) -> dict[str, str | SecretRef]:
    """The declared part of the environment: what settings refer to, then the section, then the gateway's own secrets."""
    found: dict[str, str | SecretRef] = {}
    if gateway is not None:
        found |= {name: SecretRef("env", name) for name in _references(gateway.settings)}
    found |= service.environment
    if gateway is not None and gateway.token is not None:
        found["OPENCLAW_GATEWAY_TOKEN"] = gateway.token
    if gateway is not None and gateway.password is not None:
        found["OPENCLAW_GATEWAY_PASSWORD"] = gateway.password
    return found


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _references(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _references(item)
    elif isinstance(value, str):
        yield from _REFERENCE.findall(value)


def tls_files(config: Mapping[str, object], host: Host) -> tuple[tuple[str, str], ...]:
    """The files that must be readable before TLS can be served: field of openclaw.json, path on this host."""
    if config.get("gateway.tls.enabled") is not True:
        return ()
    named = ((path, config.get(path)) for path in ("gateway.tls.certPath", "gateway.tls.keyPath"))
    return tuple((path, expand_path(value, host)) for path, value in named if isinstance(value, str))


def _auth(gateway: Gateway | None) -> SecretRef | None:
    if gateway is None:
        return None
    return gateway.password if gateway.auth_mode == "password" else gateway.token


def _log_directory(desired: Desired, host: Host) -> str:
    directory = desired.logging.directory if desired.logging is not None else None
    return str(host.state.logs) if directory is None else expand_path(directory, host)


def expand_path(path: str, host: Host) -> str:
    """A path of the document on this host: `~`, `${NAME}` of the applying process, relative to the state directory."""
    path = _REFERENCE.sub(lambda match: host.environ.get(match[1], match[0]), path)
    if path == "~" or path.startswith("~/"):
        path = f"{host.home}{path[1:]}"
    return os.path.normpath(os.path.join(host.state.root, path))


def _section_digest(service: Service) -> str:
    environment = {
        name: value if isinstance(value, str) else {"reference": str(value)}
        for name, value in service.environment.items()
    }
    limits, restart, stop = service.limits, service.restart, service.stop
    return digest(
        {
            "runtime": service.runtime,
            "manager": service.manager,
            "state": service.state,
            "environment": environment,
            "limits": [limits.memory_bytes, limits.cpu_percent, limits.files],
            "restart": [
                restart.delay_seconds,
                restart.max_delay_seconds,
                restart.burst,
                restart.window_seconds,
                sorted(restart.never_on_exit),
            ],
            "stop": [stop.drain_seconds, stop.grace_seconds],
        }
    )


# -- what the process is started with --


def env_path(host: Host) -> Path:
    """The environment file of the gateway."""
    return host.state.run / f"{CHILD}.env"


def exit_path(host: Host) -> Path:
    """Where the gateway leaves why it ended."""
    return host.state.run / f"{CHILD}.exit"


def spec_path(host: Host, spec_digest: str) -> Path:
    """The fields behind a digest."""
    return host.state.run / f"spec-{spec_digest}.json"


def output_path(spec: ServiceSpec) -> str:
    """Where what the gateway prints goes, beside its own log."""
    return f"{spec.log_directory}/{OUTPUT_NAME}"


def process_environment(spec: ServiceSpec, host: Host, secrets: Secrets) -> dict[str, str]:
    """The whole environment of the gateway, secrets revealed: only for the 0600 file.

    Raises:
        OpenClawError: a secret cannot be had.
    """
    passed = {name: host.environ[name] for name in _PASSED_ON if host.environ.get(name)}
    declared = {
        name: secrets.reveal(value) if isinstance(value, SecretRef) else value
        for name, value in spec.environment.items()
    }
    files = spec.service.limits.files
    return {
        **passed,
        "NODE_ENV": "production",
        **declared,
        # The gateway would else help itself to as many as its connections may need.
        **({"OPENCLAW_FILES_LIMIT": str(files)} if files is not None else {}),
        "OPENCLAW_STATE_DIR": str(host.state.root),
        "OPENCLAW_SPEC_DIGEST": spec.digest,
        "OPENCLAW_LOG_DIR": spec.log_directory,
        "OPENCLAW_RELOAD_MODE": "hot",
        "OPENCLAW_EXIT_FILE": str(exit_path(host)),
        "OPENCLAW_DRAIN_SECONDS": f"{spec.service.stop.drain_seconds:g}",
    }


def keeper_spec(spec: ServiceSpec, host: Host, port: int) -> dict[str, Any]:
    """What the keeper is told (`keeper.protocol.check_spec`)."""
    restart, stop = spec.service.restart, spec.service.stop
    return {
        "argv": list(spec.program.argv),
        "cwd": str(host.state.root),
        "env_file": str(env_path(host)),
        "output": output_path(spec),
        "restart": {
            "delay": restart.delay_seconds,
            "max_delay": restart.max_delay_seconds,
            "burst": restart.burst,
            "window": restart.window_seconds,
            "never_on_exit": sorted(restart.never_on_exit),
        },
        "stop": {"drain": stop.drain_seconds, "grace": stop.grace_seconds},
        "limits": {"files": spec.service.limits.files},
        "start_seconds": START_SECONDS,
        "ready": f"port:{port}" if spec.program.ready == "port" else spec.program.ready,
        "spec_digest": spec.digest,
        "port": port,
        "exit_file": str(exit_path(host)),
        "validate": list(spec.program.check) if spec.program.check is not None else None,
        "section": spec.section,
    }


def policy_of_keeper(told: Mapping[str, Any]) -> dict[str, Value]:
    """The policy fields as the keeper has them; the turn of `keeper_spec`."""
    restart, files = told["restart"], told["limits"].get("files")
    fields: dict[str, Value] = {
        "restart.delay": restart["delay"],
        "restart.max_delay": restart["max_delay"],
        "restart.burst": restart["burst"],
        "restart.window": restart["window"],
        "restart.never_on_exit": tuple(restart["never_on_exit"]),
        "stop.grace": told["stop"]["grace"],
    }
    if files is not None:
        fields["limits.files"] = files
    return fields


def render_fields(spec: ServiceSpec) -> dict[str, Any]:
    """The content of `spec-<digest>.json`: plain data, secrets as their salted digests."""
    return {
        "spec": {path: encode(value) for path, value in spec.spec_fields.items()},
        "policy": {path: encode(value) for path, value in spec.policy_fields.items()},
    }


def parse_fields(data: Any) -> tuple[dict[str, Value], dict[str, Value]]:
    """Spec and policy fields from the content of `spec-<digest>.json`.

    Raises:
        ValueError: it is not what `render_fields` makes.
    """
    if not isinstance(data, dict) or not all(isinstance(data.get(part), dict) for part in ("spec", "policy")):
        raise ValueError("not the fields of a process")
    spec, policy = ({path: decode(value) for path, value in data[part].items()} for part in ("spec", "policy"))
    return spec, policy
