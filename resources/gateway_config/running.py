"""What the running gateway says about its config, and the word to it that the file has changed.

Nothing is sent to a port before the kernel says that the gateway of this state directory listens there: else anyone on the
host could take the port while it is down and collect the secret, and another gateway of ours be taken for this one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from gateway.wire.json5 import Node
from reconciler.desired import SecretRef
from reconciler.errors import OpenClawError, TemporaryError, TerminalError
from reconciler.kinds import World
from resources.gateway_config.edit import scalar_at
from resources.gateway_config.fields import DEFAULT_PORT, ConfigSpec
from resources.service import proc
from resources.service.listeners import Listener, listeners

# A gateway on this host answers within milliseconds; one that hangs must not hold up a plan.
ANSWER_SECONDS = 3.0
# The gateway writes it into its state directory once it serves.
PID_FILE = "gateway.pid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the gateway is spoken to, and with what. `state` is the state directory whose gateway must be the one there;
    `by_password` that it wants the password; `declared` that the one it wants is the document's.
    """

    host: str
    port: int
    state: str
    token: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    by_password: bool = False
    declared: bool = False
    encrypted: bool = False

    @property
    def secret(self) -> str | None:
        """What `/health` is asked with."""
        return self.password if self.by_password else self.token

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.encrypted else 'ws'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a running gateway says: the digest of the file that it runs by, why not the latest and the digest of that, and the
    hash of certificate and key. None: it does not say, or there is none.

    `owed` are the paths of that file that it goes by after its next start only; `shut`: it does not take the declared secret,
    and says no more than that it is there (what is refused is then what it would refuse).
    """

    digest: str | None = None
    error: str | None = None
    refused: str | None = None
    tls: str | None = None
    owed: tuple[str, ...] = ()
    shut: bool = False

    def refuses(self, digest: str) -> bool:
        """Whether it is the file of this digest that it does not run by, and not one that lay there before."""
        return self.error is not None and self.refused in (None, digest)


def address(root: Node | None, spec: ConfigSpec | None, world: World) -> Address:
    """Where the gateway that read this file listens, and the secret that it wants as far as we know it."""
    port, mode = scalar_at(root, "gateway.port"), scalar_at(root, "gateway.auth.mode")
    token, password = (spec.token, spec.password) if spec is not None else (None, None)
    by_password = mode == "password" or (mode is None and _has_password(root, spec))
    host = scalar_at(root, "gateway.customBindHost") if scalar_at(root, "gateway.bind") == "custom" else None
    return Address(
        host=host if isinstance(host, str) and host != "0.0.0.0" else "127.0.0.1",  # noqa: S104 - compared, not bound
        port=port if isinstance(port, int) and 0 < port < 65536 else DEFAULT_PORT,
        state=str(world.host.state.root),
        token=_secret(root, "token", token, world),
        password=_secret(root, "password", password, world),
        by_password=by_password,
        declared=(password if by_password else token) is not None,
        encrypted=scalar_at(root, "gateway.tls.enabled") is True,
    )


async def ask(where: Address) -> Loaded | None:
    """What the gateway there says; None where none of ours listens. Changes nothing.

    Raises:
        TemporaryError: it listens and cannot be asked or understood, so that what it runs by cannot be known.
    """
    found = await trio.to_thread.run_sync(serving, where)
    if found is None:
        return None
    # Loaded here: most plans find no gateway, or are made by the supervisor that has it loaded.
    from gateway.client import ClientError, get_own_health, in_header

    try:
        with trio.fail_after(ANSWER_SECONDS):
            _status, report = await get_own_health(found.host, found.port, found.secret, encrypted=found.encrypted)
    except trio.TooSlowError as err:
        raise TemporaryError(f"the gateway on port {found.port} does not answer within {ANSWER_SECONDS:g} s") from err
    except ClientError as err:
        failed = err
    else:
        # Nothing is said of it by a gateway that was not shown it, and no start cures what is not ours to declare.
        shown = found.declared and found.secret is not None and in_header(found.secret) is not None
        return replace(_loaded(report), shut=shown and "parts" not in report)
    if await trio.to_thread.run_sync(serving, where) is None:
        # It ended meanwhile.
        return None
    raise TemporaryError(f"the gateway on port {found.port} cannot be asked: {failed}") from failed


async def reload(where: Address) -> None:
    """Tells the gateway to take the file over, and waits until it has.

    Raises:
        TemporaryError: it does not answer.
        TerminalError: it refuses the file, with its reason.
    """
    found = await trio.to_thread.run_sync(serving, where)
    if found is None:
        raise TemporaryError(f"cannot reload the gateway: nothing of ours listens on port {where.port}")
    # It speaks TLS or not as it began, whatever was written since.
    answer = await _call(replace(found, encrypted=not await _speaks_plainly(found)))
    if not answer.get("ok"):
        reason = answer.get("error") or "it gave no reason"
        raise TerminalError(f"cannot reload the gateway: it refuses openclaw.json: {reason}")


async def _speaks_plainly(where: Address) -> bool:
    """Asked first, and without a secret: one that speaks no TLS would wait for the end of a request in our greeting."""
    from gateway.client import ClientError, get_health

    try:
        await get_health(where.host, where.port)
    except ClientError:
        return False
    return True


async def _call(where: Address) -> dict[str, Any]:
    from gateway.client import CallError, ClientError, open_client, unverified_context

    tls = unverified_context() if where.encrypted else None
    try:
        async with open_client(where.url, token=where.token, password=where.password, tls=tls) as client:
            answer = await client.call("config.reload", {})
    except CallError as err:
        raise TerminalError(f"cannot reload the gateway: {err.message}") from err
    except ClientError as err:
        raise TemporaryError(f"cannot reload the gateway: {err}") from err
    return answer if isinstance(answer, dict) else {}


def serving(where: Address) -> Address | None:
    """Where the gateway of this state directory really listens; None where it does not.

    The socket itself must be its own: somebody else may listen on another address with the same port. It may be another port
    than the file's: one that was written is taken with the next start only, and whoever wrote it may have died before that.
    """
    pid = _recorded(where.state)
    here = sorted(listeners(where.port), key=lambda each: each.host != where.host)
    found = _held(pid, here) or next((each for each in here if _started_for(proc.inode_owner(each.inode), where)), None)
    if found is None and _started_for(pid, where):
        found = _held(pid, listeners())
    return replace(where, host=found.host, port=found.port) if found is not None else None


def _recorded(state: str) -> int | None:
    """The process that the pid file names."""
    text = (proc.read_text(f"{state}/{PID_FILE}") or "").strip()
    return int(text) if text.isdecimal() else None


def _held(pid: int | None, candidates: Iterable[Listener]) -> Listener | None:
    if pid is None:
        return None
    return next((each for each in candidates if proc.holds_inode(pid, frozenset((each.inode,)))), None)


def _started_for(pid: int | None, where: Address) -> bool:
    """Also where it could not write a pid file (a full disk)."""
    return pid is not None and proc.environ_value(pid, "OPENCLAW_STATE_DIR") == where.state


def _has_password(root: Node | None, spec: ConfigSpec | None) -> bool:
    """Whether its file or its environment gives it a password: without a mode it asks for that then."""
    given = spec is not None and (spec.password is not None or "OPENCLAW_GATEWAY_PASSWORD" in spec.variables)
    return given or bool(scalar_at(root, "gateway.auth.password"))


def _secret(root: Node | None, name: str, reference: SecretRef | None, world: World) -> str | None:
    """The value that the document refers to, else the one in the file, itself or by the variable that it names."""
    if reference is not None:
        with suppress(OpenClawError):
            return world.secrets.reveal(reference)
        return None
    text = scalar_at(root, f"gateway.auth.{name}")
    if not isinstance(text, str):
        return None
    return world.host.environ.get(text[2:-1]) if text.startswith("${") and text.endswith("}") else text


def _loaded(report: Mapping[str, Any]) -> Loaded:
    config, listener = _part(report, "config"), _part(report, "listener")
    owed = config.get("restartOwed")
    return Loaded(
        digest=_text(config.get("hash")),
        error=_text(config.get("error")),
        refused=_text(config.get("refusedHash")),
        tls=_text(listener.get("tlsHash")),
        owed=tuple(path for path in owed if isinstance(path, str)) if isinstance(owed, list) else (),
    )


def _part(report: object, name: str) -> dict[str, Any]:
    parts = report.get("parts") if isinstance(report, dict) else None
    part = parts.get(name) if isinstance(parts, dict) else None
    return part if isinstance(part, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
