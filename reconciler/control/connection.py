"""One connection to the control API: HTTP/1.1 in, answers out, everything bounded.

h11 keeps the protocol; this module moves bytes and knows the routes. It never trusts what it reads, and never lets one client
cost another anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import h11
import trio

from reconciler.control import calls
from reconciler.control.calls import Handlers
from reconciler.control.routes import COMMANDS, LOOKING, Form, Miss, Route, find
from reconciler.control.session import Question, StreamSession
from reconciler.errors import NotPermittedError, OpenClawError, UnreachableError, UsageError, innermost, shortage
from reconciler.values import parse_json

# curl sends a head of 100 bytes, the longest path is a state directory's.
MAX_HEAD_BYTES: Final = 16 << 10
# argv is limited by the system to 2 MiB; no command line of a person comes near.
MAX_BODY_BYTES: Final = 1 << 20
# For a whole request to arrive, counted from the end of the one before: also the time an idle connection is kept.
REQUEST_SECONDS: Final = 10.0
# For a client to take what is sent to it, one piece at a time.
WRITE_SECONDS: Final = 30.0
# The same for what a command prints: it may go into a pager that is read at leisure.
STREAM_SECONDS: Final = 600.0
# After a refusal: a close with unread bytes would take the answer away from the client.
LINGER_SECONDS: Final = 1.0

# Exit codes (docs/reference/exit-codes.md) as statuses of HTTP; all others are 500.
_STATUS: Final = {3: 409, 4: 409, 64: 400, 69: 503, 75: 409, 77: 403, 78: 422}


class _Refused(Exception):
    """The request cannot be served; the connection ends after the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Connection:
    """The conversation with one client, one request after the other."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        handlers: Handlers,
        questions: dict[str, Question],
        crashed: Callable[[Exception], str],
        *,
        uid: int,
    ) -> None:
        self._stream = stream
        self._handlers = handlers
        self._questions = questions
        self._crashed = crashed
        self._uid = uid
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        # Whether the present request wants an answer without its body (RFC 9110, 9.3.2).
        self._bodiless = False

    async def converse(self) -> None:
        """Answers requests until the client leaves, errs or is idle for too long.

        Raises:
            trio.BrokenResourceError: the client went away in the middle of an answer.
        """
        try:
            while True:
                with trio.move_on_after(REQUEST_SECONDS) as limit:
                    request = await self._receive()
                if limit.cancelled_caught:
                    if self._http.their_state is h11.IDLE and not self._http.trailing_data[0]:
                        return
                    raise _Refused(408, f"cannot wait longer than {REQUEST_SECONDS:g} s for a request")
                if request is None:
                    return
                await self._answer(*request)
                if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                    return
                self._http.start_next_cycle()
        except _Refused as err:
            await self._refuse(err.status, str(err))
        except h11.RemoteProtocolError as err:
            await self._refuse(err.error_status_hint, f"cannot read the request: {err}")

    async def refuse_peer(self) -> None:
        """Takes one request and answers 403: whoever asks is another user."""
        try:
            with trio.move_on_after(REQUEST_SECONDS):
                await self._receive()
        except (_Refused, h11.RemoteProtocolError):
            pass  # refused anyway
        await self._refuse(403, "cannot serve another user", NotPermittedError.exit_code)

    async def refuse_crowd(self) -> None:
        """Answers 503 at once."""
        await self._refuse(503, "cannot serve more clients at once", UnreachableError.exit_code)

    async def _receive(self) -> tuple[h11.Request, bytes] | None:
        self._bodiless = False
        event = await self._next()
        if isinstance(event, h11.ConnectionClosed):
            return None
        assert isinstance(event, h11.Request)
        body = b""
        while isinstance(data := await self._next(), h11.Data):
            body += data.data
            if len(body) > MAX_BODY_BYTES:
                raise _Refused(413, f"cannot take a body of more than {MAX_BODY_BYTES} bytes")
        return event, body

    async def _next(self) -> h11.Event:
        while True:
            begins = self._http.their_state is h11.IDLE
            waiting = len(self._http.trailing_data[0]) if begins else 0
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                self._bodiless = event.method == b"HEAD"
                # h11 holds only that to the limit which has not arrived whole.
                if waiting - len(self._http.trailing_data[0]) > MAX_HEAD_BYTES:
                    raise _Refused(431, f"cannot take a head of more than {MAX_HEAD_BYTES} bytes")
            if event is h11.PAUSED:
                raise _Refused(400, "cannot switch protocols")
            if not isinstance(event, type):
                return event
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            try:
                data = await self._stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
            self._http.receive_data(bytes(data))

    async def _answer(self, request: h11.Request, body: bytes) -> None:
        try:
            parts = _target(request)
            found = find(request.method.decode("ascii"), unquote(parts.path))
            if isinstance(found, Miss):
                await self._miss(request, found.allowed)
                return
            route, parameter = found
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            if route.name == "command":
                await self._command(parameter, _object(body))
            elif route.form is Form.EVENTS:
                await self._events()
            else:
                answer = await self._plain(route, parameter, query, body)
                await self._json(202 if route.accepted else 200, answer)
        except OpenClawError as err:
            await self._json(_STATUS.get(err.exit_code, 500), _error(err.exit_code, err.message, err.hint))
        except (trio.BrokenResourceError, trio.TooSlowError):
            raise
        except Exception as err:
            name = self._crashed(err)
            if self._http.our_state is h11.SEND_RESPONSE:
                await self._json(500, _error(70, f"a bug of ours (id {name}): the supervisor's log tells more"))

    async def _miss(self, request: h11.Request, allowed: tuple[str, ...]) -> None:
        if not allowed:
            await self._json(404, _error(64, "no such route"))
            return
        methods = ", ".join(allowed)
        text = f"cannot answer {request.method.decode('ascii')} for this path: allowed is {methods}"
        await self._json(405, _error(64, text), [("Allow", methods)])

    async def _plain(self, route: Route, parameter: str, query: Mapping[str, str], body: bytes) -> Any:
        match route.name:
            case "identity":
                who = self._handlers.identity()
                return {
                    "server": "openclaw",
                    "version": who.version,
                    "pid": os.getpid(),
                    "document": who.document,
                    "names": list(who.names),
                    "salt": who.salt.hex(),
                    # One that only rises is a leak.
                    "tasks": trio.lowlevel.current_statistics().tasks_living,
                }
            case "answer":
                return self._take_answer(parameter, calls.answer_of(_object(body)))
            case "status":
                return await self._handlers.status(query.get("deep") in ("1", "true"))
            case "history":
                return await self._handlers.history(_limit(query.get("limit")))
            case "apply":
                return await self._handlers.apply(calls.apply_call(_object(body)))
            case "reconcile":
                return await self._handlers.reconcile(calls.reconcile_key(_object(body)))
            case "reload":
                return await self._handlers.reload()
            case "stop":
                return await self._handlers.stop(calls.stop_call(_object(body)))
            case name:
                raise AssertionError(f"a route without a handler: {name}")

    def _take_answer(self, name: str, answer: str | None) -> Mapping[str, Any]:
        question = self._questions.get(name)
        if question is None or question.answered.is_set():
            raise UsageError("cannot take the answer: no such question is open")
        question.answer = answer
        question.answered.set()
        return {"taken": True}

    async def _command(self, command: str, body: Mapping[str, Any]) -> None:
        if command not in COMMANDS:
            raise UsageError(f'cannot run "{command}"', hint=f"known are: {', '.join(sorted(COMMANDS))}")
        call = calls.command_call(command, body, self._uid)
        who = self._handlers.identity()
        if call.document != who.document:
            await self._json(409, _error(3, "cannot serve another document") | {"document": who.document})
            return
        if call.environment_digest != who.digest:
            differing = {"names": list(who.names), "salt": who.salt.hex()}
            await self._json(409, _error(3, "cannot act for another environment") | differing)
            return
        await self._begin(Form.LINES)
        session = StreamSession(self._questions)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, session.interrupted.set)
            nursery.start_soon(self._write, session)
            session.finish(await self._run(call, session))
            await session.written.wait()
            nursery.cancel_scope.cancel()
        if session.complete:
            await self._send(h11.EndOfMessage())
        else:
            # Perhaps cut off in the middle of a chunk: only the end of the connection can follow.
            self._http.send_failed()

    async def _run(self, call: calls.CommandCall, session: StreamSession) -> int:
        """The crash boundary of one command: an error ends it as it would end a process."""
        try:
            return await self._handlers.run_command(call, session)
        except OpenClawError as err:
            session.err(f"openclaw: {err.message}\n" + (f"  hint: {err.hint}\n" if err.hint else ""))
            return err.exit_code
        except Exception as err:
            if reason := shortage(innermost(err)):
                if call.command in LOOKING and not session.has_printed:
                    session.give_back(reason)
                session.err(f"openclaw: the supervisor cannot go on: {reason}\n")
                return 1
            session.err(f"openclaw: a bug of ours (id {self._crashed(err)}): the supervisor's log tells more\n")
            return 70

    async def _write(self, session: StreamSession) -> None:
        try:
            await session.write_all(self._line)
        except (trio.BrokenResourceError, trio.TooSlowError):
            session.leave()

    async def _watch(self, gone: Callable[[], None]) -> None:
        """Waits for the end of the client's half; a request sent ahead is kept for later."""
        try:
            data = await self._stream.receive_some(65536)
        except trio.BrokenResourceError:
            data = b""
        self._http.receive_data(bytes(data))
        if not data:
            gone()

    async def _events(self) -> None:
        await self._begin(Form.EVENTS)
        async with trio.open_nursery() as nursery:

            async def send(data: Mapping[str, Any]) -> None:
                try:
                    await self._send(h11.Data(data=b"data: " + _dump(data) + b"\n\n"))
                except (trio.BrokenResourceError, trio.TooSlowError):
                    self._http.send_failed()
                    nursery.cancel_scope.cancel()
                    await trio.lowlevel.checkpoint()

            nursery.start_soon(self._watch, nursery.cancel_scope.cancel)
            try:
                await self._handlers.events(send)
            except Exception as err:
                # The head is out, so the end of the stream is all that the client can be told.
                self._crashed(err)
            nursery.cancel_scope.cancel()
        if self._http.our_state is h11.SEND_BODY:
            await self._send(h11.EndOfMessage())

    async def _begin(self, form: Form) -> None:
        headers = [("Content-Type", form.value), ("Cache-Control", "no-store")]
        await self._send(h11.Response(status_code=200, headers=headers))

    async def _line(self, data: bytes) -> None:
        await self._send(h11.Data(data=data), seconds=STREAM_SECONDS)

    async def _json(self, status: int, answer: Any, headers: list[tuple[str, str]] | None = None) -> None:
        data = _dump(answer) + b"\n"
        fields = [("Content-Type", Form.JSON.value), ("Content-Length", str(len(data))), *(headers or [])]
        body = () if self._bodiless else (h11.Data(data=data),)
        await self._send(h11.Response(status_code=status, headers=fields), *body, h11.EndOfMessage())

    async def _send(self, *events: h11.Event, seconds: float = WRITE_SECONDS) -> None:
        """Sends events in one piece. Raises trio.TooSlowError when the client does not take it in time."""
        data = b"".join(self._http.send(event) or b"" for event in events)
        if data:
            with trio.fail_after(seconds):
                await self._stream.send_all(data)

    async def _refuse(self, status: int, message: str, code: int = UsageError.exit_code) -> None:
        """Answers as far as the protocol still allows, and reads on for a moment so that the answer arrives."""
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        try:
            await self._json(status, _error(code, message), [("Connection", "close")])
            with trio.move_on_after(LINGER_SECONDS):
                await self._stream.send_eof()
                for _ in range(MAX_BODY_BYTES // 65536):
                    if not await self._stream.receive_some(65536):
                        break
        except (trio.BrokenResourceError, trio.TooSlowError):
            pass  # who is refused need not listen


def _target(request: h11.Request) -> SplitResult:
    try:
        return urlsplit(request.target.decode("ascii"))
    except ValueError as err:
        raise UsageError("cannot read the request: its target is no address") from err


def _limit(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError('cannot read the request: "limit" must be a number from 0')
    return int(text)


def _object(body: bytes) -> Mapping[str, Any]:
    """The JSON object of a body; an empty body is an empty object."""
    try:
        data = parse_json(body) if body.strip() else {}
    except ValueError as err:
        raise UsageError("cannot read the request: the body is no JSON") from err
    if not isinstance(data, dict):
        raise UsageError("cannot read the request: the body is no JSON object")
    return data


def _error(code: int, message: str, hint: str | None = None) -> dict[str, Any]:
    return {"error": {"exit": code, "message": message, "hint": hint}}


def _dump(data: Any) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()
