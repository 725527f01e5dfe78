"""What campaigns have found, each at its smallest: the steps of the machine as it printed them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.reconciler.engine.campaigns.machine import NO_TROUBLE, Campaign, Fakes, Trouble


def one(value: object, impact: str = "none") -> Fakes:
    """A document with `a` alone."""
    return {"a": {"fields": {"p": value}, "needs": [], "impact": impact}}


@contextmanager
def lived() -> Iterator[Campaign]:
    """A campaign, led to its end where nothing failed before that."""
    campaign = Campaign()
    try:
        yield campaign
    finally:
        campaign.teardown()


@pytest.mark.req("PLAN-10")
def test_an_action_that_fails_after_its_effect_keeps_what_was_there_before() -> None:
    with lived() as campaign:
        campaign.interfere(name="a", path="p", value=1)
        campaign.save(document=one(0))
        campaign.fail(name="a", times=1, after=True, for_good=False)
        campaign.apply(trouble=NO_TROUBLE, wait=True)


@pytest.mark.req("PLAN-5", "PLAN-10")
def test_a_dead_writers_effect_that_cannot_be_seen_keeps_what_was_there_before() -> None:
    with lived() as campaign:
        campaign.save(document=one(0))
        campaign.apply(trouble=Trouble(die=5), wait=True)
        campaign.blind(name="a")
        campaign.apply(trouble=NO_TROUBLE, wait=True)
