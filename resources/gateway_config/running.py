"""What the running gateway says about its config, and the word to it that the file has changed.

Nothing is sent to a port before the kernel says that the gateway of this state directory listens there: else anyone on the
host could take the port while it is down and collect the secret, and another gateway of ours be taken for this one.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import trio

from gateway.wire.json5 import Node, Scalar
from reconciler.desired import SecretRef
from reconciler.errors import OpenClawError, TemporaryError, TerminalError
from reconciler.kinds import World
from resources.gateway_config.edit import node_at
from resources.gateway_config.fields import DEFAULT_PORT, ConfigSpec
from resources.service import proc
from resources.service.listeners import listeners

if TYPE_CHECKING:
    import ssl

# A gateway on this host answers within milliseconds; one that hangs must not hold up a plan.
ANSWER_SECONDS = 3.0
# The gateway writes it into its state directory once it serves.
PID_FILE = "gateway.pid"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the gateway is spoken to, and with what. `state` is the state directory whose gateway must be the one there."""

    host: str
    port: int
    state: str
    token: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    certificate: str | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'wss' if self.certificate is not None else 'ws'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a running gateway says: the digest of the file that it runs by (None: it does not say), and why not the latest."""

    digest: str | None = None
    error: str | None = None


def address(root: Node | None, spec: ConfigSpec | None, world: World) -> Address:
    """Where the gateway that read this file listens, and the secret that it wants as far as we know it."""
    port = _scalar(root, "gateway", "port")
    host = _scalar(root, "gateway", "customBindHost") if _scalar(root, "gateway", "bind") == "custom" else None
    certificate = _scalar(root, "gateway", "tls", "certPath")
    encrypted = _scalar(root, "gateway", "tls", "enabled") is True and isinstance(certificate, str)
    return Address(
        host=host if isinstance(host, str) and host != "0.0.0.0" else "127.0.0.1",  # noqa: S104 - compared, not bound
        port=port if isinstance(port, int) and 0 < port < 65536 else DEFAULT_PORT,
        state=str(world.host.state.root),
        token=_secret(root, "token", spec.token if spec is not None else None, world),
        password=_secret(root, "password", spec.password if spec is not None else None, world),
        certificate=str(certificate) if encrypted else None,
    )


async def ask(where: Address) -> Loaded | None:
    """What the gateway there says; None where none of ours is there to be asked. Changes nothing.

    Raises:
        TemporaryError: it listens and says nothing, so that what it runs by cannot be known.
    """
    found = await trio.to_thread.run_sync(serving, where)
    if found is None:
        return None
    # Loaded here: most plans find no gateway, or are made by the supervisor that has it loaded.
    from gateway.client import ClientError, get_health

    try:
        with trio.fail_after(ANSWER_SECONDS):
            secret = found.token if found.token is not None else found.password
            status, report = await get_health(found.host, found.port, secret, tls_of(found) or False)
    except trio.TooSlowError as err:
        raise TemporaryError(f"the gateway on port {found.port} does not answer within {ANSWER_SECONDS:g} s") from err
    except (ClientError, OSError):
        return None
    part = _part(report) if status in (200, 503) else {}
    digest, error = part.get("hash"), part.get("error")
    return Loaded(
        digest=digest if isinstance(digest, str) else None,
        error=error if isinstance(error, str) else None,
    )


async def reload(where: Address) -> None:
    """Tells the gateway to take the file over, and waits until it has.

    Raises:
        TemporaryError: it does not answer.
        TerminalError: it refuses the file, with its reason.
    """
    found = await trio.to_thread.run_sync(serving, where)
    if found is None:
        raise TemporaryError(f"cannot reload the gateway: nothing of ours listens on port {where.port}")
    answer = await _call(found)
    if not answer.get("ok"):
        reason = answer.get("error") or "it gave no reason"
        raise TerminalError(f"cannot reload the gateway: it refuses openclaw.json: {reason}")


async def _call(where: Address) -> dict[str, Any]:
    from gateway.client import CallError, ClientError, open_client

    try:
        async with open_client(where.url, token=where.token, password=where.password, tls=tls_of(where)) as client:
            answer = await client.call("config.reload", {})
    except CallError as err:
        raise TerminalError(f"cannot reload the gateway: {err.message}") from err
    except (ClientError, OSError) as err:
        raise TemporaryError(f"cannot reload the gateway: {err}") from err
    return answer if isinstance(answer, dict) else {}


def tls_of(where: Address) -> ssl.SSLContext | None:
    """A context that trusts the gateway's own certificate, which need not name loopback. Raises OSError."""
    from gateway.client import pinned_context

    return pinned_context(where.certificate) if where.certificate is not None else None


def serving(where: Address) -> Address | None:
    """Where the gateway of this state directory really listens; None where it does not.

    It may be another port than the file's: one that was written is taken with the next start only, and whoever wrote it may
    have died before that.
    """
    if listener_is_ours(where):
        return where
    text = proc.read_text(f"{where.state}/{PID_FILE}")
    if text is None or not text.strip().isdigit():
        return None
    pid = int(text)
    if proc.environ_value(pid, "OPENCLAW_STATE_DIR") != where.state:
        return None
    found = next((each for each in listeners() if proc.holds_inode(pid, frozenset((each.inode,)))), None)
    return replace(where, host=found.host, port=found.port) if found is not None else None


def listener_is_ours(where: Address) -> bool:
    """Whether what listens there is the gateway of this state directory: the process that its pid file names, or, where it
    could not write one (a full disk), a process that was started for that directory.
    """
    inodes = proc.listening_inodes(where.port)
    if not inodes:
        return False
    text = proc.read_text(f"{where.state}/{PID_FILE}")
    if text is not None and text.strip().isdigit() and proc.holds_inode(int(text), inodes):
        return True
    owner = proc.port_owner(where.port)
    return owner is not None and proc.environ_value(owner, "OPENCLAW_STATE_DIR") == where.state


def _scalar(root: Node | None, *path: str) -> object:
    node = node_at(root, path) if root is not None else None
    return node.value if isinstance(node, Scalar) else None


def _secret(root: Node | None, name: str, reference: SecretRef | None, world: World) -> str | None:
    """The value that the document refers to, else the one in the file, itself or by the variable that it names."""
    if reference is not None:
        with suppress(OpenClawError):
            return world.secrets.reveal(reference)
        return None
    text = _scalar(root, "gateway", "auth", name)
    if not isinstance(text, str):
        return None
    return world.host.environ.get(text[2:-1]) if text.startswith("${") and text.endswith("}") else text


def _part(report: object) -> dict[str, Any]:
    parts = report.get("parts") if isinstance(report, dict) else None
    part = parts.get("config") if isinstance(parts, dict) else None
    return part if isinstance(part, dict) else {}
