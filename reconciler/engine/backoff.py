"""How long a resource that failed waits for its next try: doubling, with jitter, up to the cap of its kind. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST_SECONDS = 0.5
# A tenth either way keeps many resources that failed together from coming back together.
JITTER = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """The memory of one key: tries that failed in a row, until when it waits, how long it last waited."""

    failures: int = 0
    until: float = 0.0
    waited_seconds: float = 0.0
    held_since: float | None = None


def failed(state: Backoff, *, now: float, cap_seconds: float, random: float) -> Backoff:
    """The state after one more failure at `now`; `random` is in 0..1.

    The wait is FIRST_SECONDS doubled for each failure before, at most `cap_seconds`, a tenth more or less.
    """
    # 2 ** 20 half-seconds are six days: past any cap, and the power stays small.
    bare = min(cap_seconds, FIRST_SECONDS * 2 ** min(state.failures, 20))
    wait = min(cap_seconds, bare * (1 + JITTER * (2 * random - 1)))
    return Backoff(failures=state.failures + 1, until=now + wait, waited_seconds=wait)


def held(state: Backoff, *, now: float) -> Backoff:
    """The state after it was found well at `now`: forgotten once that held for as long as it last waited."""
    if state.failures == 0:
        return state
    since = state.held_since if state.held_since is not None else now
    if now - since >= state.waited_seconds:
        return Backoff()
    return replace(state, held_since=since, until=0.0)
