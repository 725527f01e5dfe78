"""What can be asked of a supervisor, as values, and the one who answers, as a Protocol.

Bodies are checked here and nowhere else: an unknown name, a wrong type or a missing value is a `UsageError` that names it.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import trio

from reconciler.control.client import environment_digest
from reconciler.errors import UsageError
from reconciler.model import Key
from reconciler.values import one_line

T = TypeVar("T")

Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who serves: the absolute path of its document, the program's version, and the environment that it reads.

    `names` are all environment variables by which a document could mean something else: those that it refers to, every
    `OPENCLAW_*` override, `HOME`. `digest` stands for their values here; `salt` makes it worthless elsewhere.
    """

    document: str
    version: str
    names: tuple[str, ...]
    salt: bytes = field(repr=False)
    digest: str

    @classmethod
    def of(cls, document: str, version: str, names: tuple[str, ...], environ: Mapping[str, str]) -> Identity:
        """The identity of this process, with a salt of its own."""
        salt = os.urandom(32)
        return cls(
            document=document,
            version=version,
            names=names,
            salt=salt,
            digest=environment_digest(names, environ, salt),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """What the client's end is: which of its three streams are terminals, their width in columns, whether colour is wanted."""

    stdin: bool = False
    stdout: bool = False
    stderr: bool = False
    width: int = 80
    colour: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandCall:
    """A command line to carry out for a client: `command` is plan, apply or status, `argv` all arguments after the
    program's name, `directory` what relative paths begin at, `uid` who asks.
    """

    command: str
    argv: tuple[str, ...]
    directory: str
    document: str
    terminal: Terminal
    environment_digest: str | None
    uid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyCall:
    """An apply of the document as it is saved now, without a question. `approve` grants keys or kinds of consent, `author`
    and `commit` go into the history.
    """

    approve: tuple[str, ...] = ()
    take_over: bool = False
    author: str | None = None
    commit: str | None = None
    wait: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StopCall:
    """An end of the supervisor: `on_exit` is stop or leave, None for what it was started with."""

    on_exit: str | None = None


class Session(Protocol):
    """The client's end of a command that runs.

    `interrupted` is set when the client pressed Ctrl-C or went away: finish the step, then end. What is printed to a
    client that went away is dropped.
    """

    @property
    def interrupted(self) -> trio.Event:
        """Set once, when nobody wants more."""

    def out(self, text: str) -> None:
        """Prints on the client's stdout; never waits."""

    def err(self, text: str) -> None:
        """Prints on the client's stderr; never waits."""

    async def ask(self) -> str | None:
        """The next line of the client's stdin without its end; None where that ended or the client was interrupted."""


class Handlers(Protocol):
    """Who answers. Errors are `OpenClawError`s and reach the client as such; every answer is plain JSON data."""

    def identity(self) -> Identity:
        """Who serves; asked anew each time, because a reload may change the names."""

    async def run_command(self, call: CommandCall, session: Session) -> int:
        """Carries out a command line as a process of its own would, printing through `session`; its exit code."""

    async def apply(self, call: ApplyCall) -> Data:
        """Applies the document; the form of `apply --json`."""

    async def status(self, deep: bool) -> Data:
        """The form of `status --json`; `deep` probes."""

    async def history(self, limit: int | None) -> Data:
        """The form of `history --json`, newest first."""

    async def reconcile(self, key: Key | None) -> Data:
        """Puts one key, or every one, in the queue and resets its backoff; says which. UsageError where there is no such key."""

    async def reload(self) -> Data:
        """Reads document and environment files anew, like SIGHUP."""

    async def stop(self, call: StopCall) -> Data:
        """Begins the end of the supervisor and returns; the answer is sent before it ends."""

    async def events(self, send: Callable[[Data], Awaitable[None]]) -> None:
        """Sends what happens until cancelled; a slow receiver may miss some, and is then told how many."""


def command_call(command: str, body: Data, uid: int) -> CommandCall:
    """The call that the body of a command request describes; UsageError where it is not one."""
    _only(body, "argv", "directory", "document", "terminal", "environment_digest")
    argv = _strings(body, "argv")
    terminal = _get(body, "terminal", dict, {})
    _only(terminal, "stdin", "stdout", "stderr", "width", "colour")
    directory = _get(body, "directory", str, None)
    document = _get(body, "document", str, None)
    if not (directory and directory.startswith("/") and document and document.startswith("/")):
        raise UsageError('cannot read the request: "directory" and "document" must be absolute paths')
    return CommandCall(
        command=command,
        argv=argv,
        directory=directory,
        document=document,
        terminal=Terminal(
            **{name: _get(terminal, name, bool, False) for name in ("stdin", "stdout", "stderr", "colour")},
            width=max(1, min(_get(terminal, "width", int, 80), 10_000)),
        ),
        environment_digest=_get(body, "environment_digest", str, None),
        uid=uid,
    )


def apply_call(body: Data) -> ApplyCall:
    """The call that the body of `POST /v1/apply` describes; UsageError where it is not one."""
    _only(body, "approve", "take_over", "author", "commit", "wait")
    return ApplyCall(
        approve=_strings(body, "approve"),
        take_over=_get(body, "take_over", bool, False),
        author=_line(body, "author"),
        commit=_line(body, "commit"),
        wait=_get(body, "wait", bool, True),
    )


def stop_call(body: Data) -> StopCall:
    """The call that the body of `POST /v1/stop` describes; UsageError where it is not one."""
    _only(body, "on_exit")
    on_exit = _get(body, "on_exit", str, None)
    if on_exit not in (None, "stop", "leave"):
        raise UsageError('cannot read the request: "on_exit" must be "stop" or "leave"')
    return StopCall(on_exit=on_exit)


def reconcile_key(body: Data) -> Key | None:
    """The key that the body of `POST /v1/reconcile` names, None for all; UsageError where it is not one."""
    _only(body, "key")
    text = _get(body, "key", str, None)
    try:
        return None if text is None else Key.parse(text)
    except ValueError as err:
        raise UsageError(f"cannot read the request: {err}") from err


def answer_of(body: Data) -> str | None:
    """The answer that the body of `POST /v1/answers/{id}` holds, None for the end of stdin."""
    _only(body, "answer")
    answer: str | None = _get(body, "answer", str, None)
    return answer


def _only(body: Data, *names: str) -> None:
    if unknown := sorted(body.keys() - set(names)):
        raise UsageError(f'cannot read the request: unknown name "{unknown[0]}"', hint=f"known are: {', '.join(names)}")


def _get(body: Data, name: str, kind: type[T], default: Any) -> Any:
    value = body.get(name, default)
    if value is default or value is None:
        return default
    # bool is an int to Python, not to people.
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f'cannot read the request: "{name}" must be of type {kind.__name__}')
    return value


def _line(body: Data, name: str) -> str | None:
    text: str | None = _get(body, name, str, None)
    try:
        return one_line(text) if text else None
    except ValueError as err:
        raise UsageError(f'cannot read the request: "{name}": {err}') from err


def _strings(body: Data, name: str) -> tuple[str, ...]:
    value = _get(body, name, list, [])
    if not all(isinstance(item, str) for item in value):
        raise UsageError(f'cannot read the request: "{name}" must be a list of strings')
    return tuple(value)
