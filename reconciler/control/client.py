"""The cheap client: lets the command line ask the supervisor, at hardly more than the price of starting Python.

It imports nothing but builtin C modules. `json` alone would cost as much as two thirds of the interpreter's start, so
its own C halves are called directly. It knows HTTP/1.1 only as our server speaks it (docs/reference/control-api.md); anything
else counts as no answer, and the command goes the long way.
"""

from __future__ import annotations

import _socket
import sys

from reconciler.streams import failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

# How long the supervisor may take to accept and to say who it is, before the command goes the long way.
ANSWER_SECONDS = 2.0
# Of the answer that says who it is; a stream of output has no limit, its lines have one.
MAX_BODY_BYTES = 1 << 20
MAX_LINE_BYTES = 4 << 20
# What the command ends with when the supervisor goes away in the middle, and when it is refused (docs/reference/exit-codes.md).
GONE = 69
BLOCKED = 3
_CHANGING = {"apply": "apply", "rollback": "go back"}
_REFUSED = """\
openclaw: cannot {do}: the supervisor that watches this document runs in another environment, and would take back what differs
  hint: let it apply (it does when the document is saved, and at `kill -HUP`), start it anew in this environment, or end it first
"""

_SO_PEERCRED = 17  # asm-generic/socket.h; the name is missing from the builtin module on some builds


class Unusable(Exception):
    """The supervisor cannot be asked; the text says why, empty where that is nobody's business."""


class _UnableError(Exception):
    """The supervisor lacks the means for the command, which has done and printed nothing; the text says what it lacks."""


class _ElsewhereError(Exception):
    """The supervisor serves the document in another environment than ours."""


def environment_digest(names: Iterable[str], environ: Mapping[str, str], salt: bytes) -> str:
    """The keyed digest (hex) of the values that `names` have in `environ`; an unset name differs from an empty one."""
    from _blake2 import blake2b

    state = blake2b(key=salt[:64], digest_size=32)
    for name in sorted(names):
        value = environ.get(name)
        line = f"{name}=" if value is None else f"{name}={len(value)}:{value}"
        state.update(line.encode("utf-8", "surrogateescape") + b"\0")
    return str(state.hexdigest())


def ask(
    path: str,
    command: str,
    argv: list[str],
    *,
    document: str,
    directory: str,
    environ: Mapping[str, str],
    terminal: Mapping[str, Any],
    uid: int,
    document_refused: Callable[[], int | None],
) -> int | None:
    """Has the supervisor at the socket `path` carry out a command line, and prints what it prints.

    Returns the exit code, or None when no supervisor serves `document` with the same environment: then nothing was done
    and nothing was printed but, where a person should know it, one line on stderr. A change in another environment is
    refused: what differs by it the supervisor would take back; but first an `apply` of a document that is not valid, which
    `document_refused` tells, with the exit code or None for a valid one. A first Ctrl-C asks the supervisor to finish its step, a
    second one is a KeyboardInterrupt.
    """
    try:
        exchange = _introduce(path, uid)
    except Unusable as err:
        if str(err):
            sys.stderr.write(f"openclaw: {err}; going on without the supervisor\n")
        return None
    try:
        if _accepted(exchange, command, argv, document, directory, environ, terminal):
            return _follow(exchange, path, command)
    except _UnableError as err:
        sys.stderr.write(f"openclaw: the supervisor cannot go on: {err}; going on without it\n")
    except _ElsewhereError:
        if command in _CHANGING:
            if command == "apply" and (code := document_refused()) is not None:
                return code
            sys.stderr.write(_REFUSED.format(do=_CHANGING[command]))
            return BLOCKED
        sys.stderr.write("openclaw: the supervisor runs in another environment; going on without it\n")
    finally:
        exchange.socket.close()
    return None


def _accepted(
    exchange: Exchange,
    command: str,
    argv: list[str],
    document: str,
    directory: str,
    environ: Mapping[str, str],
    terminal: Mapping[str, Any],
) -> bool:
    """Hands the command over; False when the supervisor is not the one to carry it out.

    Raises:
        _ElsewhereError: it serves this very document, and in another environment.
    """
    try:
        who = exchange.body()
        if who["document"] != document:
            return False
        while True:
            digest = environment_digest(who["names"], environ, bytes.fromhex(who["salt"]))
            request = {
                "argv": argv,
                "directory": directory,
                "document": document,
                "terminal": terminal,
                "environment_digest": digest,
            }
            exchange.send("POST", f"/v1/commands/{command}", request)
            status = exchange.head()
            if status == 200:
                exchange.socket.settimeout(None)
                return True
            now = exchange.body() if status == 409 else {}
            if "names" not in now:
                return False
            if now["salt"] == who["salt"]:
                raise _ElsewhereError
            # It read another document since it told what its environment is measured by.
            who = now
    except (OSError, ValueError, KeyError, TypeError, Unusable):
        sys.stderr.write("openclaw: the supervisor does not answer as expected; going on without it\n")
        return False


def _introduce(path: str, uid: int) -> Exchange:
    """An exchange whose first answer's head was read and is good. Raises Unusable."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.settimeout(ANSWER_SECONDS)
        try:
            sock.connect(path)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError, PermissionError):
            raise Unusable from None
        # Whoever listens there gets our command line and answers in the supervisor's name.
        peer = int.from_bytes(sock.getsockopt(_socket.SOL_SOCKET, _SO_PEERCRED, 12)[4:8], sys.byteorder)
        if peer not in (uid, 0):
            raise Unusable(f'"{path}" belongs to another user (uid {peer})')
        exchange = Exchange(sock)
        exchange.send("GET", "/v1", None)
        if exchange.head() != 200:
            raise Unusable
    except TimeoutError:
        sock.close()
        raise Unusable(f"the supervisor did not answer within {ANSWER_SECONDS:g} s") from None
    except (OSError, ValueError):
        sock.close()
        raise Unusable("the supervisor does not answer") from None
    except BaseException:
        sock.close()
        raise
    return exchange


def _follow(exchange: Exchange, path: str, command: str) -> int:
    """Prints the stream of one command; from its first byte on there is no way back to doing it ourselves.

    Raises:
        _UnableError: instead of that first byte.
    """
    with _Interrupts(exchange.socket) as interrupts:
        while True:
            try:
                line = exchange.line()
            except (OSError, Unusable, ValueError):
                break
            if line is None:
                break
            # Outside of the `try`: a broken pipe of our own output is not the supervisor's.
            if (code := _print(line, path, interrupts)) is not None:
                return code
    sys.stderr.write(
        f'openclaw: cannot follow "{command}" to its end: the supervisor went away; `openclaw status` tells how far it came\n'
    )
    return GONE


class _Interrupts:
    """Ctrl-C while a command runs elsewhere: the first ends our half of the connection, which says "finish the step", and the
    other half still brings what is printed meanwhile; the second is a KeyboardInterrupt. A handler and no exception, so that
    nothing is cut off that was being read or printed.
    """

    def __init__(self, sock: _socket.socket) -> None:
        self._socket = sock
        self.pressed = False
        # Set while a person is asked: then the question is what is given up.
        self.asking = False

    def __enter__(self) -> _Interrupts:
        import _signal  # type: ignore[import-not-found]  # what `signal` is made of, without its enums

        self._signal = _signal
        self._before = _signal.signal(_signal.SIGINT, self._press)
        return self

    def __exit__(self, *exc: object) -> None:
        self._signal.signal(self._signal.SIGINT, self._before)

    def _press(self, number: int, frame: object) -> None:
        if self.pressed or self.asking:
            raise KeyboardInterrupt
        self.finish()

    def finish(self) -> None:
        """Asks the supervisor to finish its step."""
        self.pressed = True
        try:
            self._socket.shutdown(_socket.SHUT_WR)
        except OSError:
            pass  # it is gone already, and reading will tell


def _print(line: bytes, path: str, interrupts: _Interrupts) -> int | None:
    """Does what one line of the stream says; the exit code if it is the last."""
    message = loads(line.decode())
    if "out" in message:
        sys.stdout.write(message["out"])
        sys.stdout.flush()
    elif "err" in message:
        sys.stderr.write(message["err"])
        sys.stderr.flush()
    elif "ask" in message:
        _answer(path, message["ask"], interrupts)
    elif "unable" in message:
        raise _UnableError(message["unable"])
    elif "exit" in message:
        return int(message["exit"])
    return None


def _answer(path: str, question: str, interrupts: _Interrupts) -> None:
    """Sends the next line of our stdin as the answer; the end of stdin is an answer too, Ctrl-C is none."""
    try:
        interrupts.asking = True
        # In this order: a Ctrl-C from here on raises, one from before was heard, and its question is no longer asked.
        if interrupts.pressed:
            return
        # Who could not read what it is about is not asked.
        text = sys.stdin.readline() if failure(sys.stdout) is None else ""
    except KeyboardInterrupt:
        interrupts.finish()
        return
    finally:
        interrupts.asking = False
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        sock.connect(path)
        exchange = Exchange(sock)
        exchange.send("POST", f"/v1/answers/{question}", {"answer": text.rstrip("\n") if text else None})
        exchange.head()
    except (OSError, ValueError, Unusable):
        pass  # it is gone, and the stream will tell
    finally:
        sock.close()


class Exchange:
    """HTTP/1.1 over one connected socket, one request after the other."""

    def __init__(self, sock: _socket.socket) -> None:
        self.socket = sock
        self._buffer = b""
        self._length = 0
        self._chunked = False

    def send(self, method: str, target: str, body: Any) -> None:
        """Sends a request, with a JSON body unless that is None."""
        data = b"" if body is None else dumps(body).encode()
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: openclaw\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        self.socket.sendall(head.encode() + data)

    def head(self) -> int:
        """Reads the head of the answer; its status. Raises ValueError, or OSError of the socket."""
        lines = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        version, status = lines[0].split(" ")[:2]
        if version != "HTTP/1.1":
            raise ValueError("no HTTP/1.1")
        self._length, self._chunked = 0, False
        for line in lines[1:]:
            name, _, value = line.partition(":")
            match name.lower():
                case "content-length":
                    self._length = int(value)
                case "transfer-encoding":
                    self._chunked = value.strip().lower() == "chunked"
        return int(status)

    def body(self) -> Any:
        """The JSON body of an answer that is no stream."""
        if self._chunked or self._length > MAX_BODY_BYTES:
            raise ValueError("not a short answer")
        while len(self._buffer) < self._length:
            self._more()
        data, self._buffer = self._buffer[: self._length], self._buffer[self._length :]
        return loads(data.decode())

    def line(self) -> bytes | None:
        """The next line of a stream, None at its end. Our server sends one line as one chunk."""
        if not self._chunked:
            raise ValueError("not a stream")
        while self._length == 0:
            head, separator, rest = self._buffer.partition(b"\r\n")
            if separator:
                size = int(head, 16)
                if size > MAX_LINE_BYTES:
                    raise ValueError("a line too long")
                if size == 0:
                    return None
                self._buffer, self._length = rest, size
            else:
                self._more()
        # Nothing is taken out before all is there, so that an interrupt in the middle loses nothing.
        while len(self._buffer) < self._length + 2:
            self._more()
        data, self._buffer = self._buffer[: self._length], self._buffer[self._length + 2 :]
        self._length = 0
        return data

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            if len(self._buffer) > MAX_BODY_BYTES:
                raise ValueError("a head too long")
            self._more()
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise Unusable
        self._buffer += data


def loads(text: str) -> Any:
    """JSON as `json.loads` reads it, without the price of importing it."""
    try:
        from _json import make_scanner

        value, end = make_scanner(_Scanner)(text, 0)  # type: ignore[arg-type]  # it takes any object with these attributes
    except (ImportError, TypeError, AttributeError, StopIteration, SystemError):
        # SystemError: on bad text the scanner looks for the error class of a module that is not loaded.
        end = -1
    if end < 0 or text[end:].strip():
        import json

        return json.loads(text)
    return value


def dumps(data: Any) -> str:
    """JSON as `json.dumps` writes it, without the price of importing it."""
    try:
        from _json import encode_basestring_ascii, make_encoder
    except ImportError:
        import json

        return json.dumps(data, separators=(",", ":"))
    encoder = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)
    return "".join(encoder(data, 0))


def _refuse(value: object) -> object:
    raise TypeError(f"no JSON: {type(value).__name__}")


class _Scanner:
    """What `_json.make_scanner` wants to know of a decoder: the defaults of json.JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012 - the C scanner wants the attribute and clears it by itself
