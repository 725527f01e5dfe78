"""A person goes back while a supervisor watches the document: what they chose stays, until the document changes."""

from __future__ import annotations

import json

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site

pytestmark = pytest.mark.real


def site_at_two(site: Site) -> None:
    """Two confirmed generations, `info` and then `debug`, and a supervisor that watches."""
    site.write(verify="1s")
    site.apply()
    site.edit("level: info", "level: debug")
    site.apply()
    supervisor = site.supervisor("--on-exit", "stop")
    supervisor.wait_event(lambda event: event["event"] == "watching", "the supervisor watches")


@pytest.mark.req("PLAN-8")
def test_the_supervisor_leaves_a_rollback_alone_until_the_document_changes(site: Site) -> None:
    site_at_two(site)
    back = site.run("rollback", "1", "--yes", "--json")
    assert back.code == 0, back.err
    assert site.config()["logging"]["level"] == "info"
    assert [item["result"] for item in site.generations()] == ["confirmed", "confirmed", "confirmed"]
    assert site.generations()[0]["cause"] == "rollback to 1"
    assert "held back" in site.run("status").out
    assert "held back" in site.run("plan").err
    # What is compared with the host is what stays in force, so that the state that is wanted shows as well.
    resources = json.loads(site.run("status", "--json").out)["resources"]
    synced = [item for entry in resources for item in entry["conditions"] if item["type"] == "Synced"]
    assert {item["status"] for item in synced} == {"True"}
    site.edit("level: debug", "level: warn")
    wait_until(lambda: site.level() == "warn", 20, "the corrected document in force")


@pytest.mark.req("PLAN-8")
def test_a_rollback_stays_while_the_document_is_not_valid(site: Site) -> None:
    site_at_two(site)
    site.edit("level: debug", "level: loud")
    back = site.run("rollback", "1", "--yes", "--json")
    assert back.code == 0, back.err
    assert site.config()["logging"]["level"] == "info"
    assert site.generations()[0]["result"] == "confirmed"


@pytest.mark.req("PLAN-8")
def test_a_document_may_be_named_from_another_directory(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    inner = site.document.parent / "inner"
    inner.mkdir()
    assert site.run("plan", "--file", f"{inner}/../{site.document.name}").code == 0
