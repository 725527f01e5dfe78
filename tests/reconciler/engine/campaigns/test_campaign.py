"""Whatever happens to a host, the next process leads it to its document: nothing is lost, repeated, or taken from others."""

from __future__ import annotations

import secrets

import pytest
from hypothesis import seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.reconciler.engine.campaigns.machine import Campaign

EXAMPLES = 2000
SOAKS = 25
# Enough for a document, its change, a fault or two and a few processes.
STEPS = 10
SHORT = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, print_blob=True, report_multiple_bugs=False)
# In CI too each soak is another one; what it finds is printed as a test, and its seed.
LONG = settings(SHORT, derandomize=False, database=None)


@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-10", "PLAN-13", "PLAN-15")
def test_a_short_campaign() -> None:
    run_state_machine_as_test(Campaign, settings=SHORT)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(SOAKS))
def test_a_long_campaign(part: int) -> None:
    number = secrets.randbits(32)
    print(f"part {part + 1} of {SOAKS}: {EXAMPLES} examples with seed {number}")
    # Hypothesis takes a seed from the function or class that it is given.
    run_state_machine_as_test(seed(number)(type("Campaign", (Campaign,), {})), settings=LONG)
