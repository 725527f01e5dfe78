"""What a running gateway goes by although openclaw.json says otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.kinds import Observation
from reconciler.model import ABSENT, Cause, Difference, Fields
from resources.gateway_config.fields import KEY
from resources.gateway_config.kind import Seen, _foreseen
from resources.gateway_config.outlived import is_put_back, outlived
from resources.gateway_config.running import Loaded
from resources.gateway_config.store import File

pytestmark = pytest.mark.req("GW-5", "PLAN-13")

FILE = File(path=Path("openclaw.json"), text="{}")


def observation(loaded: Loaded | None, *paths: str) -> Observation:
    return Observation(key=KEY, fields=dict.fromkeys(paths, "x"), detail=Seen(file=FILE, loaded=loaded))


def moved(path: str, observed: Any, desired: Any) -> Difference:
    return Difference(path=path, cause=Cause.DRIFT, desired=desired, observed=observed, last_applied=desired)


def by_this_file(*owed: str, **named: Any) -> Loaded:
    return Loaded(digest=FILE.digest, owed=owed, **named)


def test_what_is_declared_and_owed_is_named_and_nothing_that_others_wrote() -> None:
    seen = observation(by_this_file("gateway.port", "gateway.bind", "logging.level"), "gateway.port", "logging.level")
    assert outlived(seen, ()) == "the gateway was started by another openclaw.json: gateway.port"
    assert outlived(observation(by_this_file("gateway.bind"), "gateway.port"), ()) is None
    assert outlived(observation(by_this_file("gateway.tls.certPath"), "gateway.tls"), ()) is not None


@pytest.mark.parametrize(
    ("loaded", "found"),
    [
        (None, False),
        (Loaded(), False),
        (by_this_file("gateway.port", error="it is half", refused=FILE.digest), False),
        (Loaded(digest="of another file", owed=("gateway.port",)), False),
        (Loaded(shut=True), True),
        (Loaded(shut=True, error="it is half", refused=FILE.digest), False),
    ],
)
def test_only_a_gateway_that_runs_by_this_very_file_is_believed(loaded: Loaded | None, found: bool) -> None:
    assert (outlived(observation(loaded, "gateway.port"), ()) is not None) is found
    assert outlived(None, ()) is None


@pytest.mark.parametrize(("text", "refuses"), [('{"bogus": 1}', True), ('{"gateway": {"port": "${PORT}"}}', False)])
def test_one_that_is_shut_to_us_is_believed_to_refuse_what_is_known_to_be_wrong(text: str, refuses: bool) -> None:
    """What a variable gives there only the gateway knows."""
    file = replace(FILE, text=text)
    loaded = _foreseen(Loaded(shut=True), file, None)
    assert loaded is not None
    assert loaded.refuses(file.digest) is refuses


def test_one_that_is_shut_to_us_begins_anew_with_the_cure_of_a_file_that_it_would_refuse() -> None:
    seen = observation(Loaded(shut=True, error="it is half", refused=FILE.digest), "logging.level")
    assert outlived(seen, (moved("logging.level", 5, "info"),)) is not None


@pytest.mark.parametrize(
    ("owed", "difference", "found"),
    [
        # It began with what the file has now, and the cure takes that away.
        ((), moved("gateway.port", 1, 2), True),
        # It began before the file moved, and the cure puts back what it goes by.
        (("gateway.port",), moved("gateway.port", 1, 2), False),
        # What is missing counts as its default.
        ((), moved("gateway.bind", ABSENT, "loopback"), False),
        ((), moved("gateway.bind", ABSENT, "lan"), True),
        ((), moved("gateway.customBindHost", ABSENT, "::1"), True),
        # Taken up while it runs.
        ((), moved("logging.level", "info", "debug"), False),
    ],
)
def test_what_is_to_be_cured_counts_where_the_process_goes_by_it(
    owed: tuple[str, ...], difference: Difference, found: bool
) -> None:
    seen = observation(by_this_file(*owed), difference.path)
    assert (outlived(seen, (difference,)) is not None) is found


PORT = moved("gateway.port", 1, 2)
NEVER_OURS = replace(PORT, cause=Cause.CHANGE, last_applied=ABSENT)


@pytest.mark.parametrize(
    ("loaded", "running", "difference", "managed", "found"),
    [
        # It has read the file and did not begin with it: its service says that it began with what is declared.
        (by_this_file("gateway.port"), {}, PORT, True, True),
        (by_this_file("gateway.port"), {}, PORT, False, True),
        (by_this_file("gateway.port"), {}, NEVER_OURS, True, True),
        # Nobody knows what one of somebody else's began with.
        (by_this_file("gateway.port"), {}, NEVER_OURS, False, False),
        # It began with what the file has.
        (by_this_file(), {}, PORT, True, False),
        (by_this_file(), {}, moved("gateway.bind", ABSENT, "loopback"), True, True),
        (by_this_file("gateway.bind"), {}, moved("gateway.bind", ABSENT, "loopback"), True, False),
        # It has not read the file yet, or refuses it.
        (Loaded(digest="before"), {"gateway.port": 2}, PORT, True, True),
        (Loaded(digest="before"), {"gateway.port": 3}, PORT, True, False),
        (Loaded(digest="before"), {}, PORT, True, False),
        (Loaded(digest="before", owed=("gateway.port",)), {"gateway.port": 2}, PORT, True, False),
        (Loaded(digest="before", error="no", refused=FILE.digest), {"gateway.port": 2}, PORT, True, True),
        # It says nothing, or there is none.
        (Loaded(shut=True), {"gateway.port": 2}, PORT, True, False),
        (None, {}, PORT, True, False),
    ],
)
def test_a_cure_costs_nothing_where_the_process_is_known_to_go_by_it(
    loaded: Loaded | None, running: Fields, difference: Difference, managed: bool, found: bool
) -> None:
    seen = Seen(file=FILE, loaded=loaded, running=running)
    assert is_put_back(seen, difference, managed=managed) is found
