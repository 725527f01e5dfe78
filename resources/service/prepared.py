"""The files that the next start of the gateway reads: its environment, and the fields behind the digest in it. Blocking.

Before a run overwrites them for the first time it keeps what was there in `backups/`, with what the keeper had been told, so
that an undo of the same run finds them whatever happened since.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reconciler.errors import NotPermittedError, TemporaryError, TerminalError
from reconciler.files import private_directory, remove_file, replace_file
from reconciler.host import Host
from reconciler.kinds import World
from reconciler.model import Value
from reconciler.values import dump
from resources.service import proc
from resources.service.keeper import envfile
from resources.service.keeper.process import DIGEST
from resources.service.spec import (
    CHILD,
    ServiceSpec,
    env_path,
    exit_path,
    parse_fields,
    process_environment,
    render_fields,
    spec_path,
)

# More than the generations that anybody goes back at once; each is a few kilobytes.
KEPT_BACKUPS: Final = 10
KEPT_SPECS: Final = 10
_MAX_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What a run found: the bytes of the environment file (None: there was none), and what the keeper had been told."""

    environment: bytes | None
    told: Mapping[str, Any] | None


def prepare(spec: ServiceSpec, world: World, told: Mapping[str, Any] | None) -> None:
    """Writes what the next start reads, each file only where it differs. `told` is what the keeper knows now.

    Raises:
        OpenClawError: a secret cannot be had, a value cannot stand in an environment, a file cannot be written.
    """
    host = world.host
    try:
        environment = envfile.render(process_environment(spec, host, world.secrets))
    except ValueError as err:
        raise TerminalError(str(err)) from err
    try:
        private_directory(host.state.run)
        private_directory(Path(spec.log_directory))
        _keep(host, world.run, told)
        _write(spec_path(host, spec.digest), dump(render_fields(spec)).encode("utf-8", "surrogatepass"))
        _write(env_path(host), environment)
        _forget_old(host.state.run, "spec-", KEPT_SPECS)
    except PermissionError as err:
        raise NotPermittedError(f"cannot write {err.filename}: {err.strerror}") from err
    except OSError as err:
        raise TemporaryError(f"cannot write {err.filename or host.state.run}: {err.strerror}") from err


def restore(world: World) -> Before | None:
    """Puts the environment file back that this run found; None where this run never overwrote it.

    Raises:
        TemporaryError: it cannot be written.
    """
    host = world.host
    try:
        note = json.loads(_backup(host, world.run, "json").read_bytes())
        environment = _backup(host, world.run, "env").read_bytes() if note["environment"] else None
        if environment is None:
            remove_file(env_path(host))
        else:
            replace_file(env_path(host), environment, 0o600)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise TemporaryError(f"cannot put {env_path(host)} back: {err.strerror}") from err
    return Before(environment=environment, told=note["told"])


def remove(host: Host) -> None:
    """Forgets all that was prepared."""
    remove_file(env_path(host))
    remove_file(exit_path(host))
    with suppress(FileNotFoundError):
        for path in host.state.run.glob("spec-*.json"):
            remove_file(path)


def prepared_digest(host: Host) -> str | None:
    """The digest of what the next start reads; None where nothing is prepared.

    Raises:
        OSError: the environment file is there and cannot be read.
    """
    try:
        return envfile.parse(env_path(host).read_bytes()).get(DIGEST)
    except (FileNotFoundError, ValueError):
        return None


def former_values(host: Host) -> Iterator[str]:
    """What the variables of the gateway hold, or held before a run that overwrote them; the newest first. What cannot be read is
    left out.
    """
    with suppress(OSError):
        yield from _values(env_path(host))
        with os.scandir(host.state.backups) as entries:
            kept = [
                (entry.stat().st_mtime_ns, entry.path) for entry in entries if entry.name.startswith(f"{CHILD}.env.")
            ]
        for _, path in sorted(kept, reverse=True):
            yield from _values(Path(path))


def _values(path: Path) -> tuple[str, ...]:
    try:
        return tuple(envfile.parse(path.read_bytes()).values())
    except (OSError, ValueError):
        return ()


def values_behind(host: Host, digest: str | None, pid: int | None) -> Mapping[str, str]:
    """The environment of what carries this digest: of the process that runs, else what the next start reads; empty where neither
    carries it. It holds secrets.

    Raises:
        OSError: it is there and cannot be read.
    """
    found = proc.environ(pid) if pid is not None else {}
    if digest is not None and found.get(DIGEST) != digest:
        try:
            found = envfile.parse(env_path(host).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
    return found if digest is not None and found.get(DIGEST) == digest else {}


def fields_behind(host: Host, digest: str | None) -> tuple[dict[str, Value], dict[str, Value]] | None:
    """Spec and policy fields behind a digest; None where they are not to be had."""
    # A digest comes from a file or a process: it must not lead anywhere else.
    if digest is None or not digest.isalnum():
        return None
    try:
        with open(spec_path(host, digest), "rb") as file:
            return parse_fields(json.loads(file.read(_MAX_BYTES)))
    except (OSError, ValueError):
        return None


def _keep(host: Host, run: str, told: Mapping[str, Any] | None) -> None:
    note = _backup(host, run, "json")
    if note.exists():
        return
    private_directory(host.state.backups)
    try:
        replace_file(_backup(host, run, "env"), env_path(host).read_bytes(), 0o600)
        had = True
    except FileNotFoundError:
        had = False
    # Last: with it the backup is whole.
    replace_file(note, dump({"environment": had, "told": told}).encode("utf-8", "surrogatepass"), 0o600)
    _forget_old(host.state.backups, f"{CHILD}.env.", KEPT_BACKUPS)
    _forget_old(host.state.backups, f"{CHILD}.json.", KEPT_BACKUPS)


def _backup(host: Host, run: str, part: str) -> Path:
    return host.state.backups / f"{CHILD}.{part}.{run or 'by-hand'}"


def _write(path: Path, data: bytes) -> None:
    with suppress(FileNotFoundError):
        if path.read_bytes() == data and path.stat().st_mode & 0o777 == 0o600:
            return
    replace_file(path, data, 0o600)


def _forget_old(directory: Path, prefix: str, kept: int) -> None:
    with os.scandir(directory) as entries:
        found = [(entry.stat().st_mtime_ns, entry.path) for entry in entries if entry.name.startswith(prefix)]
    for _, path in sorted(found)[:-kept]:
        remove_file(Path(path))
