"""Whatever happens to a host, the next process leads it to its document: nothing is lost, repeated, or taken from others.

What a failing campaign prints is a test: with `Campaign` and `Trouble` of this package, and `Absent` of `reconciler.model`.
"""

from __future__ import annotations

import os
import secrets

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.reconciler.engine.campaigns.machine import Campaign

# Two thousand lives in `make test`, fifty thousand in `make soak`, each part with a seed of its own.
EXAMPLES = 500
PARTS = 4
SOAKS = 100
# Each soak is another one, also in CI. Its seeds are in the names of its tests; this makes them the same again.
SEED = int(os.environ.get("OPENCLAW_CAMPAIGN_SEED") or secrets.randbits(32))
# Ten steps are enough for a fault or two and a few processes; what leads there is mostly one step. The seed alone decides.
SETTINGS = settings(
    derandomize=False,
    database=None,
    max_examples=EXAMPLES,
    stateful_step_count=10,
    print_blob=True,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow],
)


def live_through(number: int) -> None:
    # Hypothesis takes a seed from the function or class that it is given.
    run_state_machine_as_test(seed(number)(type("Campaign", (Campaign,), {})), settings=SETTINGS)


@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-10", "PLAN-13", "PLAN-15")
@pytest.mark.parametrize("number", range(PARTS))
def test_a_short_campaign(number: int) -> None:
    """The same lives in every run, so that a failure means a change."""
    live_through(number)


@pytest.mark.soak
@pytest.mark.parametrize("number", [pytest.param(SEED + part, id=f"seed-{SEED + part}") for part in range(SOAKS)])
def test_a_long_campaign(number: int) -> None:
    """New lives in every run."""
    live_through(number)
