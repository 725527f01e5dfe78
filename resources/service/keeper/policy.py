"""When a child that ended is started again: at once, after a delay, or not before somebody says so. Pure.

Times are seconds of one clock that never jumps (CLOCK_BOOTTIME); the caller has the clock.

- A code in `never_on_exit` holds the child down.
- An exit after at least `STABLE_SECONDS` of Ready is followed by a restart at once.
- An earlier exit waits: `delay`, doubled for each further one, up to `max_delay`. With `burst` of them inside `window` the
  child is *broken*: from then on it is only probed, `max_delay` apart.
- Nothing is given up for good, and nothing runs at full speed: delays have a floor.
- Another policy shortens a wait that has begun to what it would have given; it never lengthens one.
- The growth is forgotten when the child was Ready for as long as it last waited (and for `STABLE_SECONDS`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

STABLE_SECONDS = 10.0
# Even with `delay: 0s`: ten tries a second cost a core nothing much, and no log fills up overnight.
SHORTEST_DELAY_SECONDS = 0.1
# Between the tries of a broken child, even where max_delay is less.
SHORTEST_PROBE_SECONDS = 1.0
# Doubling more often changes nothing for any max_delay; it keeps the number small in a record that lives for years.
_MOST_DOUBLINGS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`service.restart`; seconds. `burst` at least 1."""

    delay: float
    max_delay: float
    burst: int
    window: float
    never_on_exit: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the policy remembers of a child: early exits inside the window, doublings so far, the last wait.

    `broken` stays until the growth is forgotten: probes lie further apart than the window is long.
    """

    early: tuple[float, ...] = ()
    doublings: int = 0
    waited: float = 0.0
    broken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Start again `after` seconds. `broken`: it ends too fast too often, and this is only a probe."""

    after: float
    broken: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldDown:
    """Do not start again until somebody says so; `why` is for people."""

    why: str


def after_exit(
    policy: Policy, history: History, *, code: int | None, ready_seconds: float | None, now: float
) -> tuple[Restart | HoldDown, History]:
    """What follows an exit that nobody asked for.

    `code` is the exit code, None where a signal ended it or nobody knows. `ready_seconds` is how long it had been Ready,
    None where it never was.
    """
    if code is not None and code in policy.never_on_exit:
        return HoldDown(why=f"exit code {code} is one of never_on_exit"), History()
    if ready_seconds is not None and ready_seconds >= STABLE_SECONDS:
        forgotten = ready_seconds >= history.waited
        return Restart(after=0.0), History() if forgotten else history
    early = (*(at for at in history.early if now - policy.window < at <= now), now)
    noted = History(
        # More than `burst` of them say nothing new.
        early=early[-max(policy.burst, 1) :],
        doublings=min(history.doublings + 1, _MOST_DOUBLINGS),
        broken=history.broken or len(early) >= policy.burst,
    )
    wait = wait_after(policy, noted)
    return Restart(after=wait, broken=noted.broken), replace(noted, waited=wait)


def wait_after(policy: Policy, history: History) -> float:
    """How many seconds follow the early exit that `history` noted last. It may have been noted under another policy."""
    ceiling = max(policy.max_delay, policy.delay, SHORTEST_DELAY_SECONDS)
    if history.broken:
        return max(ceiling, SHORTEST_PROBE_SECONDS)
    return min(ceiling, max(policy.delay, SHORTEST_DELAY_SECONDS) * 2.0 ** (history.doublings - 1))
