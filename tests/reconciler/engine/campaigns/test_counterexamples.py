"""What campaigns have found, each at its smallest: the steps of the machine as it printed them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from reconciler.model import ABSENT
from tests.reconciler.engine.campaigns.machine import Campaign, Fakes, Trouble
from tests.reconciler.engine.campaigns.model import BAD


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
        campaign.fail(name="a", times=1, after=True, for_good=False)
        campaign.apply(document=one(0))


@pytest.mark.req("PLAN-5", "PLAN-10")
def test_a_dead_writers_effect_that_cannot_be_seen_keeps_what_was_there_before() -> None:
    with lived() as campaign:
        campaign.apply(document=one(0), trouble=Trouble(die=5))
        campaign.blind(name="a")
        campaign.apply()


@pytest.mark.req("PLAN-7", "PLAN-10")
def test_undoing_a_run_leaves_ours_what_was_ours_before_it() -> None:
    with lived() as campaign:
        two = {**one(0), "b": one(0)["a"]}
        campaign.fail(name="b", times=1, after=False, for_good=False)
        campaign.apply(document=two)
        campaign.apply(document={**two, **one(BAD, "restart")})


@pytest.mark.req("PLAN-10")
def test_what_was_withdrawn_and_is_gone_is_no_longer_ours_although_nothing_was_done() -> None:
    with lived() as campaign:
        campaign.apply()
        campaign.apply(document=one(0), wait=False)
        campaign.interfere(name="a", path="p", value=ABSENT)
        campaign.apply(document={})
        # Somebody else makes one that looks like ours.
        campaign.interfere(name="a", path="p", value=0)
        campaign.apply()
        assert campaign.kind.state == {"a": {"p": 0}}


@pytest.mark.req("PLAN-5", "PLAN-7", "PLAN-10")
@pytest.mark.parametrize("died_at", range(24, 46))
def test_what_a_dead_writer_took_back_is_not_taken_back_again(died_at: int) -> None:
    with lived() as campaign:
        campaign.apply(document={**one(BAD, "restart"), "b": one(1)["a"]}, trouble=Trouble(die=died_at))
        campaign.interfere(name="a", path="p", value=3)
        campaign.apply()


@pytest.mark.req("PLAN-7", "PLAN-10")
def test_undoing_a_run_takes_back_what_it_had_given_back() -> None:
    with lived() as campaign:
        campaign.interfere(name="a", path="p", value=1)
        campaign.apply(document=one(0), wait=False)
        campaign.apply(document={"a": {"fields": {"q": BAD}, "needs": [], "impact": "none"}})


@pytest.mark.req("PLAN-5", "PLAN-7")
@pytest.mark.parametrize("full", range(1, 20))
def test_a_way_back_that_meets_a_full_disk_is_gone_on_with(full: int) -> None:
    with lived() as campaign:
        campaign.apply(document=one(1), wait=False)
        campaign.apply(document={"b": one(BAD, "restart")["a"]}, trouble=Trouble(full=full))


@pytest.mark.req("PLAN-5", "PLAN-7")
@pytest.mark.parametrize("trouble", [Trouble(die=6), Trouble(full=3)], ids=["died", "full"])
def test_a_generation_whose_window_nobody_has_open_any_more_is_confirmed_by_the_next(trouble: Trouble) -> None:
    with lived() as campaign:
        fakes = {**one(0), "b": one(0, "restart")["a"], "c": {"fields": {"p": 0}, "needs": ["a"], "impact": "none"}}
        campaign.supervise(document=fakes, looks=2, trouble=Trouble(stop=3), watch=True)
        campaign.rescue(trouble=trouble)
