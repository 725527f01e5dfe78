"""What a running gateway goes on doing although openclaw.json says otherwise, or will once it is cured. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from reconciler.kinds import Observation
from reconciler.model import ABSENT, Cause, Difference, Impact, Value
from reconciler.values import same
from resources.gateway_config.fields import impact

if TYPE_CHECKING:
    from resources.gateway_config.kind import Seen


def outlived(observation: Observation | None, differences: Iterable[Difference]) -> str | None:
    """Why a gateway has to be started anew although its service was told nothing new; None where it has not.

    `observation` and `differences` are those of openclaw.json. Of what nobody declares or ever declared nothing is owed.
    """
    seen: Seen | None = observation.detail if observation is not None else None
    if observation is None or seen is None or seen.loaded is None:
        return None
    loaded = seen.loaded
    moved = {item.path: item for item in differences}
    # By a file that it refuses it does not begin: as long as nothing cures that, it would begin by the same as it did.
    if loaded.shut and (moved or not loaded.refuses(seen.file.digest)):
        return "the gateway does not take the declared secret: it was started by another openclaw.json"
    if loaded.error is not None or loaded.digest != seen.file.digest:
        # What it owes is said of a file that lies there no longer.
        return None
    # What the file has and the process too goes wrong with the cure; what the file has and the process has not is wrong now.
    paths = [
        path
        for path in observation.fields
        if impact([path], "builtin") is Impact.RESTART
        and (
            _is_owed(path, loaded.owed)
            if path not in moved
            else _alters(moved[path]) and not _is_owed(path, loaded.owed)
        )
    ]
    return f"the gateway was started by another openclaw.json: {', '.join(paths)}" if paths else None


def is_put_back(seen: Seen, difference: Difference, *, managed: bool) -> bool:
    """Whether the cure of `difference` gives a running gateway nothing to take over: it goes by that value already, because
    somebody wrote to the file after it had begun. Where that cannot be told, it has.

    `managed`: whatever it was not started with its service starts it anew for, and plans that for itself.
    """
    loaded = seen.loaded
    if loaded is None or loaded.shut:
        return False
    owed = _is_owed(difference.path, loaded.owed)
    if loaded.error is not None or loaded.digest != seen.file.digest:
        # It has not taken the file over, and perhaps never will: what counts is what it has in its place.
        before = seen.running.get(difference.path)
        return before is not None and not owed and _counts_as(difference.path, before, difference.desired)
    known = managed or difference.cause is Cause.DRIFT
    return known and owed if _alters(difference) else not owed


def _is_owed(path: str, owed: Iterable[str]) -> bool:
    return any(each == path or each.startswith(f"{path}.") or path.startswith(f"{each}.") for each in owed)


def _alters(difference: Difference) -> bool:
    """Whether its cure changes what the gateway goes by."""
    return not _counts_as(difference.path, difference.observed, difference.desired)


def _counts_as(path: str, value: Value, other: Value) -> bool:
    """Whether a gateway goes by the same with either value: what is not there counts as its default."""
    # Loaded here: it comes with all that the gateway knows of its config.
    from gateway.config import WORKS

    key = WORKS.get(path)
    default = key.default if key is not None else None
    before, after = (default if each is ABSENT else each for each in (value, other))
    return before is after or (before is not None and after is not None and same(before, after))
