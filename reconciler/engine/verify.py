"""Watches whether what was applied serves: gates are probed until the window is over, or until waiting cannot help."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import trio

from reconciler.errors import shortage
from reconciler.kinds import Health, Kind, Resource, World
from reconciler.model import Key

# Until everything is ready a person waits; after that the window only looks for what breaks again.
EAGER_SECONDS = 0.2
CALM_SECONDS = 1.0
PROBE_SECONDS = 5.0
# A window whose time is over is found at a moment that may be the worst: a process that is just being adopted, or started.
LATE_SECONDS = 5.0

# Is told that a window begins anew, and how many seconds it has.
Prolong: TypeAlias = "Callable[[float], Awaitable[None]]"

# Is told at each look what has ended and was not started again, and may start it.
KeepUp: TypeAlias = "Callable[[Collection[Key]], Awaitable[None]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a window showed: the health of each gate at its end, and which made it sick (only what we decide ourselves)."""

    health: Mapping[Key, Health]
    sick: tuple[Key, ...]

    @property
    def healthy(self) -> bool:
        """True when no gate is sick."""
        return not self.sick

    @property
    def reason(self) -> str:
        """Why it is not healthy, in one line; empty when it is."""
        return "; ".join(
            f"{key} is not ready: {self.health[key].message or self.health[key].reason}" for key in self.sick
        )

    @property
    def moved(self) -> bool:
        """True when all that is wrong is that somebody else changed what was applied: that is drift, and no sickness."""
        return bool(self.sick) and all(self.health[key].moved for key in self.sick)

    @property
    def unseen(self) -> str:
        """What could not show whether it serves, because a person keeps it from serving, in one line; empty for nothing."""
        return "; ".join(
            f"{key} is not running: {found.message or found.reason}"
            for key, found in sorted(self.health.items())
            if found.excused
        )


async def verify(
    gates: Mapping[Key, Resource],
    kinds: Sequence[Kind],
    world: World,
    window_seconds: float,
    *,
    undone: Collection[Key] = frozenset(),
    undisturbed: Collection[Key] = frozenset(),
    whole_seconds: float = 0.0,
    since: float | None = None,
    prolong: Prolong | None = None,
    keep_up: KeepUp | None = None,
) -> Verdict:
    """Probes `gates` for `window_seconds` and tells how they were at its end. A window of 0 is one look.

    What was well and falls, and be it between two looks, has the window begin anew, once: it may have been an accident. It has
    `whole_seconds` then, where that is more, which `prolong` is told. What falls a second time does not stay up: that is sick,
    whatever it is at that moment. Where it was down before the first look, the window begins anew when it is well: a lucky look
    at its end shows nothing. The next start of what is down is waited for, whatever its delay; not the one after it. What is
    restarted by hand over its end is waited for until it is ready, or has fallen. Ends early when a gate says that waiting cannot
    help. Cancellation passes at once.

    A window of which less is left than the whole was begun by one who died: what is sick in it has `LATE_SECONDS` to be well.

    `since` is when somebody else began the window (seconds since the epoch): what fell later fell in this window.

    `keep_up` is for a window beside which nobody else could start what has fallen.

    `undone` are keys of which an action was not done: that these are not as declared is known, and makes nobody sick.
    `undisturbed` are keys to which nothing was done that could bring them down: what is about to be started was so before.

    Raises:
        OSError: as `probe`; in a group.
    """
    external = {kind.name for kind in kinds if kind.external}
    end = trio.current_time() + window_seconds
    late = trio.current_time() + min(LATE_SECONDS, whole_seconds)
    steady = Steady(since)
    # Whether the next start of what is down was waited for already: that the one after it fails as well is no reason to.
    waited = False
    while True:
        health = await probe_all(gates, kinds, world)
        sick = tuple(
            key
            for key, found in sorted(health.items())
            if not (found.ready or found.excused or key.kind in external or (found.lagging and key in undone))
            and not (key in undisturbed and found.due_seconds > 0)
        )
        fell = steady.look(health, sick)
        if len(steady.falls) > 1:
            return steady.verdict(health, sick)
        left = end - trio.current_time()
        if sick and left <= 0:
            left = late - trio.current_time()
        if left <= 0 and steady.are_restarted(health, sick):
            left = max(health[key].due_seconds for key in sick)
            end = trio.current_time() + left
            if prolong is not None:
                # Whoever finds it without us has not seen it serve, and gives it a whole one.
                await prolong(max(left, window_seconds, whole_seconds))
        if any(health[key].final for key in sick) or (left <= 0 and not (fell or steady.rose)):
            return Verdict(health=health, sick=sick)
        # It is not over before what fell could be started again, and be well for as long as the rest.
        waited = waited and not (fell or steady.rose)
        due = max((found.due_seconds for found in health.values()), default=0.0) if steady.down and not waited else 0.0
        if fell or steady.rose or due > left:
            waited = due > 0.0
            left = max(window_seconds, whole_seconds) + due
            end = trio.current_time() + left
            if prolong is not None:
                await prolong(left)
        down = [key for key in sick if health[key].life == ""]
        if down and keep_up is not None:
            await keep_up(down)
        await trio.sleep(min(left, EAGER_SECONDS if sick else CALM_SECONDS))


class Steady:
    """Whether what runs in a window stays up. `falls`: what ended, and why; `down`: and is not well again, or was down before;
    `rose`: as of this look it is.

    What only does not answer, or is behind, has not fallen: that counts at the end of the window.
    """

    def __init__(self, since: float | None = None) -> None:
        self._since = since
        self.falls: list[tuple[Key, str]] = []
        self.rose = False
        self._lives: dict[Key, str] = {}
        self._well: set[Key] = set()
        # The life in which it last was well, or was kept from serving by a person's word.
        self._served: dict[Key, str | None] = {}
        self.down = False

    def look(self, health: Mapping[Key, Health], sick: Sequence[Key]) -> bool:
        """Takes one look in; True where something fell since the one before that was well, or may have been."""
        fallen = is_accident = False
        for key, found in health.items():
            if found.excused or key not in sick:
                self._served[key] = found.life
            if found.life is None or found.excused:
                continue
            late = self._since is not None and found.fell is not None and found.fell > self._since
            if self._lives.get(key, "") not in ("", found.life) or (key not in self._lives and late):
                fallen = True
                is_accident = is_accident or key in self._well or key not in self._lives
                self.falls.append((key, found.message or "it ended, and was started again"))
            elif key not in self._lives and not found.life and key in sick:
                self.down = True
            self._lives[key] = found.life
            (self._well.discard if key in sick else self._well.add)(key)
        self.down = self.down or fallen
        self.rose = self.down and not sick
        self.down = self.down and bool(sick)
        return is_accident

    def are_restarted(self, health: Mapping[Key, Health], sick: Sequence[Key]) -> bool:
        """True where all that is sick is being started because somebody asked: it did not end by itself since it served."""
        return bool(sick) and all(
            health[key].life and health[key].life == self._served.get(key) and health[key].due_seconds > 0
            for key in sick
        )

    def verdict(self, health: Mapping[Key, Health], sick: Sequence[Key]) -> Verdict:
        """That of what does not stay up."""
        key, why = self.falls[-1]
        text = f"it does not stay up: it fell {len(self.falls)} times in its window, the last time: {why}"
        unsteady = Health(ready=False, reason="Unsteady", message=text)
        return Verdict(health={**health, key: unsteady}, sick=tuple(sorted({*sick, key})))


async def probe(kind: Kind, key: Key, resource: Resource, world: World) -> Health:
    """`kind.probe` with its deadline: no answer is not ready.

    Raises:
        OSError: this process lacks what it takes to look (`reconciler.errors.shortage`).
    """
    with trio.move_on_after(PROBE_SECONDS):
        health = await kind.probe(key, resource, world)
        if not health.ready:
            _check_sight()
        return health
    return Health(ready=False, reason="ProbeTimeout", message=f"no answer within {PROBE_SECONDS:g} s")


def _check_sight() -> None:
    """Raises what the system refuses us descriptors by: a kind may have seen nothing for that reason alone, without a word."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as err:
        if shortage(err):
            raise


async def probe_all(resources: Mapping[Key, Resource], kinds: Sequence[Kind], world: World) -> dict[Key, Health]:
    """`probe` of every resource, side by side."""
    by_name = {kind.name: kind for kind in kinds}
    health: dict[Key, Health] = {}

    async def one(key: Key, resource: Resource) -> None:
        health[key] = await probe(by_name[key.kind], key, resource, world)

    async with trio.open_nursery() as nursery:
        for key, resource in resources.items():
            nursery.start_soon(one, key, resource)
    return health
