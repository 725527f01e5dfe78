"""Everyone who is connected, and what is said to all of them. It knows neither sockets nor methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import trio

from gateway.wire.connect import Client
from gateway.wire.frames import Event, render


class Session(Protocol):
    """A connected client, as the rest of the gateway sees it."""

    conn_id: str

    @property
    def client(self) -> Client:
        """Who it is."""

    def offer(self, message: str, *, drop_if_slow: bool) -> None:
        """Queue a message; a client that is too slow misses it, or loses its connection for it."""


class Clients:
    """The registry of sessions, with the counter of broadcasts and that of requests in work."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.in_flight = 0
        self._seq = 0
        self._idle = trio.Event()
        self._idle.set()

    def broadcast(
        self,
        event: str,
        payload: Any,
        *,
        drop_if_slow: bool = True,
        state_version: Mapping[str, int] | None = None,
        to: Callable[[Client], bool] | None = None,
    ) -> None:
        """Say `event` to everyone, or to those that `to` lets through. The counter rises for all alike."""
        if not self.sessions:
            return
        self._seq += 1
        message = render(Event(event=event, payload=payload, seq=self._seq, state_version=state_version))
        for session in tuple(self.sessions.values()):
            if to is None or to(session.client):
                session.offer(message, drop_if_slow=drop_if_slow)

    def request_began(self) -> None:
        """One more request is in work."""
        if not self.in_flight:
            self._idle = trio.Event()
        self.in_flight += 1

    def request_ended(self) -> None:
        """One request less is in work."""
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no request is in work."""
        await self._idle.wait()
