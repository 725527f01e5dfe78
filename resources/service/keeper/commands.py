"""What each command of the protocol does. A command answers once; `wait`, `shutdown` and `upgrade` answer later.

hello      versions                    the agreed version; must come first
status                                 the keeper and all its children
ensure     name, spec                  takes a spec, starts nothing, restarts nothing
start      name, reset (true)          lifts a hold and runs it; reset false is one more try of a broken child
stop       name, hold                  ends it for good, with who and why
restart    name                        ends it and starts it
signal     name, signal                to the main process
wait       name                        answers when the child serves, or runs no longer
remove     name                        forgets a child that is stopped
subscribe                              events from now on
upgrade    argv, environ               becomes the program that is started so; without them its own, as installed now
shutdown   stop (true)                 ends the children (unless false), then the keeper
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

from resources.service.keeper import protocol
from resources.service.keeper.protocol import ProtocolError
from resources.service.keeper.store import Record

if TYPE_CHECKING:
    from resources.service.keeper.child import Child
    from resources.service.keeper.main import Connection, Keeper


class Commands:
    """See the module."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def run(self, connection: Connection, message: dict[str, Any]) -> None:
        """Does one command and answers; a wrong one is refused and changes nothing."""
        number = message.get("id")
        name = message.get("command")
        version = connection.version or protocol.VERSION
        try:
            if name not in protocol.COMMANDS:
                raise ProtocolError("unknown_command", f"there is no command {name!r}")
            if connection.version is None and name != "hello":
                raise ProtocolError("hello_first", "the first command must be hello")
            answer = getattr(self, f"_{name}")(connection, message)
        except ProtocolError as err:
            connection.send({"id": number, **protocol.failure(err.code, str(err), version)})
            return
        except Exception:  # the crash boundary of a command: the children must not pay for a bug in one
            self._keeper.log(f"bug in {name}: {traceback.format_exc()}")
            connection.send({"id": number, **protocol.failure("bug", "see keeper.log", version)})
            return
        if answer is not None:
            connection.send({"id": number, "ok": True, **answer})

    def _child(self, message: dict[str, Any]) -> Child:
        name = protocol.check_name(message.get("name"))
        child = self._keeper.children.get(name)
        if child is None:
            raise ProtocolError("no_child", f"the keeper has no child {name!r}")
        return child

    def _hello(self, connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
        connection.version = protocol.agree(message.get("versions"))
        return {"version": connection.version, "pid": os.getpid(), "program": self._keeper.program}

    def _status(self, connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
        return {
            "keeper": {
                "pid": os.getpid(),
                "since": self._keeper.since,
                "version": protocol.VERSION,
                "replaced": self._keeper.replaced,
            },
            "children": {name: child.record.to_json() for name, child in sorted(self._keeper.children.items())},
        }

    def _ensure(self, connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
        name = protocol.check_name(message.get("name"))
        spec = protocol.check_spec(message.get("spec"))
        child = self._keeper.children.get(name)
        if child is None:
            record = Record(name, spec)
            record.since = time.time()
            child = self._keeper.add_new(record)
        child.update(spec)
        return _ordered(child)

    def _start(self, connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
        child = self._child(message)
        child.start(reset=message.get("reset") is not False)
        return _ordered(child)

    def _stop(self, connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
        child = self._child(message)
        hold = message.get("hold")
        if hold is not None and not isinstance(hold, dict):
            raise ProtocolError("hold", "hold is not an object")
        child.stop(hold)
        return _ordered(child)

    def _restart(self, connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
        child = self._child(message)
        child.restart()
        return _ordered(child)

    def _signal(self, connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
        child = self._child(message)
        number = message.get("signal")
        if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 65:
            raise ProtocolError("signal", "signal is not a number from 1 to 64")
        if not child.signal(number):
            raise ProtocolError("not_running", f"{child.record.name} does not run")
        return _shown(child)

    def _wait(self, connection: Connection, message: dict[str, Any]) -> None:
        child = self._child(message)
        number = message.get("id")
        child.when_settled(lambda: connection.send({"id": number, "ok": True, **_shown(child)}))

    def _remove(self, connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
        name = protocol.check_name(message.get("name"))
        child = self._keeper.children.get(name)
        if child is not None:
            if child.running or child.record.goal != "down" or not child.settled:
                raise ProtocolError("running", f"{name} must be stopped before it is removed")
            child.remove()
            del self._keeper.children[name]
        return {}

    def _subscribe(self, connection: Connection, message: dict[str, Any]) -> dict[str, Any]:
        connection.subscribed = True
        return self._status(connection, message)

    def _upgrade(self, connection: Connection, message: dict[str, Any]) -> None:
        number = message.get("id")
        version = connection.version or protocol.VERSION
        argv, environ = protocol.check_program(
            message.get("argv", [sys.executable, "-P", "-m", "resources.service.keeper"]),
            message.get("environ", dict(os.environ)),
        )
        self._keeper.upgrade(
            argv,
            environ,
            lambda why: connection.send({"id": number, **protocol.failure("upgrade", why, version)}),
        )

    def _shutdown(self, connection: Connection, message: dict[str, Any]) -> None:
        number = message.get("id")
        children = list(self._keeper.children.values()) if message.get("stop") is not False else []
        for child in children:
            child.stop(child.record.hold)
            child.flush()
        left = set(children)

        def one_less(child: Child) -> None:
            left.discard(child)
            end()

        def end() -> None:
            if not left:
                connection.send({"id": number, "ok": True})
                self._keeper.loop.stop()

        if not children:
            end()
        for child in children:
            child.when_settled(lambda child=child: one_less(child))  # type: ignore[misc]


def _ordered(child: Child) -> dict[str, Any]:
    """The answer to an order: what was asked for outlives a power cut from now on."""
    child.flush()
    return _shown(child)


def _shown(child: Child) -> dict[str, Any]:
    return {"child": child.record.to_json()}
