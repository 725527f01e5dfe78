"""The words between the keeper and those who command it: JSON lines, versioned. Pure: bytes in, values out.

A client says hello first, with the versions that it speaks; the keeper answers with the highest that both do: its own or
the one before, so that a supervisor and a keeper of neighbouring releases understand each other.

    > {"id": 1, "command": "hello", "versions": [1, 2]}
    < {"id": 1, "ok": true, "version": 2, "pid": 4711, "program": "0f3a..."}
    > {"id": 2, "command": "start", "name": "gateway"}
    < {"id": 2, "ok": true, "child": {...}}
    < {"event": "ready", "name": "gateway", "child": {...}}            after `subscribe` only

`program` names the source that the keeper was loaded from; a client that has another one installed asks for `upgrade`.
An error is `{"id", "ok": false, "error": {"code", "message"}}`; version 1 had the message alone.
"""

from __future__ import annotations

import json
from typing import Any

VERSION = 2
VERSIONS = (VERSION - 1, VERSION)
# A spec is a few kilobytes; a status of a hundred children some hundred.
MAX_LINE_BYTES = 1 << 20

COMMANDS = frozenset(
    {
        "ensure",
        "hello",
        "remove",
        "restart",
        "shutdown",
        "signal",
        "start",
        "status",
        "stop",
        "subscribe",
        "upgrade",
        "wait",
    }
)


class ProtocolError(Exception):
    """What the peer sent is wrong; `code` is a constant word, the text is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Lines:
    """Cuts a stream of bytes into messages."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that are whole now.

        Raises:
            ProtocolError: no JSON object, or a line above `MAX_LINE_BYTES`; the connection is of no more use.
        """
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        if len(rest) > MAX_LINE_BYTES or any(len(line) > MAX_LINE_BYTES for line in lines):
            raise ProtocolError("too_long", f"a line is longer than {MAX_LINE_BYTES} bytes")
        return [_message(bytes(line)) for line in lines if line.strip()]


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as err:
        raise ProtocolError("not_json", "a line is not JSON") from err
    if not isinstance(message, dict):
        raise ProtocolError("not_json", "a line is not a JSON object")
    return message


def encode(message: dict[str, Any]) -> bytes:
    """One line."""
    return json.dumps(message, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"


def agree(versions: Any) -> int:
    """The highest version that both speak.

    Raises:
        ProtocolError: there is none.
    """
    theirs = versions if isinstance(versions, list) else []
    common = [version for version in VERSIONS if version in theirs]
    if not common:
        ours = " and ".join(map(str, VERSIONS))
        other = " and ".join(map(str, theirs)) or "none"
        raise ProtocolError("version", f"it speaks versions {ours} of its protocol, this program {other}")
    return common[-1]


def failure(code: str, message: str, version: int) -> dict[str, Any]:
    """The body of an answer that says no."""
    return {"ok": False, "error": message if version < 2 else {"code": code, "message": message}}


_NUMBER = (int, float)


def check_spec(spec: Any) -> dict[str, Any]:
    """`spec` with its defaults filled in. Keys:

    `argv`; `cwd`; `env_file` (None: empty environment); `output` (file for stdout and stderr, None: discarded);
    `restart` {delay, max_delay, burst, window, never_on_exit}; `stop` {drain, grace} in seconds; `limits` {files};
    `ready` (`exec`, `notify`, `port:N`); `start_seconds` (longest time until Ready, None: any); `spec_digest`; `port`;
    `exit_file`; `section`;
    `validate` (an argv that exits 0 when the child's configuration is good).

    Raises:
        ProtocolError: something is missing or of the wrong type.
    """
    if not isinstance(spec, dict):
        raise ProtocolError("spec", "a spec is a JSON object")
    full = {
        "cwd": "/",
        "env_file": None,
        "output": None,
        "limits": {},
        "ready": "exec",
        "start_seconds": None,
        "spec_digest": None,
        "port": None,
        "validate": None,
        "exit_file": None,
        "section": None,
        **spec,
        "restart": {
            "delay": 5.0,
            "max_delay": 300.0,
            "burst": 5,
            "window": 300.0,
            "never_on_exit": [],
            **(spec.get("restart") or {}),
        },
        "stop": {"drain": 0.0, "grace": 10.0, **(spec.get("stop") or {})},
    }
    _check_argv(full.get("argv"), "argv")
    if full["validate"] is not None:
        _check_argv(full["validate"], "validate")
    for section, names in (("restart", ("delay", "max_delay", "burst", "window")), ("stop", ("drain", "grace"))):
        for name in names:
            value = full[section][name]
            if isinstance(value, bool) or not isinstance(value, _NUMBER) or not 0 <= value < float("inf"):
                raise ProtocolError("spec", f"{section}.{name} is not a number of at least 0")
    _check_ready(full["ready"])
    _check_rest(full)
    return full


def check_program(argv: Any, environ: Any) -> tuple[list[str], dict[str, str]]:
    """How a program is started: its words, the first an absolute path, and its whole environment.

    Raises:
        ProtocolError: it is none.
    """
    _check_argv(argv, "argv")
    if not argv[0].startswith("/"):
        raise ProtocolError("spec", "argv does not begin with an absolute path")
    if not isinstance(environ, dict) or not all(
        isinstance(value, str) and "\0" not in name + value and name and "=" not in name
        for name, value in environ.items()
    ):
        raise ProtocolError("spec", "environ is not an object of texts")
    return argv, environ


def _check_argv(argv: Any, name: str) -> None:
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) and "\0" not in word for word in argv):
        raise ProtocolError("spec", f"{name} is not a list of words")


def _check_rest(spec: dict[str, Any]) -> None:
    """What the keeper would otherwise fall over later, when it has no one to complain to."""
    for name in ("cwd", "env_file", "output", "exit_file", "spec_digest", "section"):
        value = spec[name]
        if not (isinstance(value, str) and "\0" not in value) and not (value is None and name != "cwd"):
            raise ProtocolError("spec", f"{name} is not a text")
    start = spec["start_seconds"]
    if start is not None and (
        isinstance(start, bool) or not isinstance(start, _NUMBER) or not 0 < start < float("inf")
    ):
        raise ProtocolError("spec", "start_seconds is not a number above 0")
    limits, port, never = spec["limits"], spec["port"], spec["restart"]["never_on_exit"]
    if not isinstance(limits, dict) or not (limits.get("files") is None or _is_count(limits["files"])):
        raise ProtocolError("spec", "limits.files is not a number of at least 1")
    if port is not None and not (_is_count(port) and port < 65536):
        raise ProtocolError("spec", "port is not a number from 1 to 65535")
    if not isinstance(never, list) or not all(isinstance(code, int) for code in never):
        raise ProtocolError("spec", "restart.never_on_exit is not a list of numbers")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_ready(ready: Any) -> None:
    port = ready.removeprefix("port:") if isinstance(ready, str) else ""
    if ready not in ("exec", "notify") and not (port != ready and port.isdigit() and 0 < int(port) < 65536):
        raise ProtocolError("spec", "ready is neither exec, notify nor port:N")


def check_name(name: Any) -> str:
    """A child's name: it becomes a file name, so letters, digits, `.`, `_`, `-`, no leading dot, at most 100.

    Raises:
        ProtocolError: it is none.
    """
    if (
        not isinstance(name, str)
        or not 0 < len(name) <= 100
        or name.startswith(".")
        or not all(char.isascii() and (char.isalnum() or char in "._-") for char in name)
    ):
        raise ProtocolError("name", "a child's name is 1 to 100 letters, digits, '.', '_' or '-'")
    return name
