"""What `apply` and `rollback` ask at a terminal, and what they do when the answer is no, or cannot be had."""

from __future__ import annotations

import json
import os
import pty
import subprocess

import pytest

from tests.beds.site import OPENCLAW, Answer, Site

pytestmark = pytest.mark.real

CTRL_D = "\x04"


def at_terminal(site: Site, *argv: str, typed: str = "", stdout: int = subprocess.PIPE) -> Answer:
    """Runs a command whose stdin is a terminal at which `typed` was typed already; its output goes to pipes."""
    leader, follower = pty.openpty()
    try:
        os.write(leader, typed.encode())
        done = subprocess.run(
            [OPENCLAW, *argv],
            cwd=site.home,
            env=site.environ,
            stdin=follower,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(leader)
        os.close(follower)
    return Answer(done.returncode, done.stdout or "", done.stderr)


def two_generations(site: Site) -> None:
    site.write(verify="0s")
    site.apply()
    site.edit("level: info", "level: debug")
    site.apply()


@pytest.mark.req("PLAN-1", "PLAN-3")
@pytest.mark.parametrize("typed", ["n\n", "\n", CTRL_D], ids=["no", "nothing", "the end"])
def test_who_does_not_say_yes_is_told_that_nothing_was_done(site: Site, typed: str) -> None:
    two_generations(site)
    site.edit("level: debug", "level: warn")
    config = (site.state / "openclaw.json").read_bytes()
    for argv, question in (
        (["apply"], "Apply this plan? [y/N] "),
        (["rollback", "1"], "Go back to generation 1? [y/N] "),
    ):
        answer = at_terminal(site, *argv, typed=typed)
        assert answer.code == 3
        assert answer.out.startswith("gateway-config/gateway write")
        end = "\n" if typed == CTRL_D else ""
        assert answer.err.endswith(f"{question}{end}nothing was done\n")
    assert (site.state / "openclaw.json").read_bytes() == config
    assert at_terminal(site, "apply", typed="y\n").code == 0


@pytest.mark.req("PLAN-1")
def test_json_asks_nothing_and_says_that_it_is_the_reason(site: Site) -> None:
    two_generations(site)
    site.edit("level: debug", "level: warn")
    for argv in (["apply"], ["rollback", "1"]):
        refused = at_terminal(site, *argv, "--json", typed="y\n")
        assert (refused.code, refused.out) == (3, "")
        assert "--json prints one document and nothing else" in refused.err
        assert "--yes" in refused.err
    assert len(site.generations()) == 2


@pytest.mark.req("PLAN-1")
def test_a_rollback_to_what_is_there_prints_its_result_only(site: Site) -> None:
    two_generations(site)
    for flags in ((), ("--yes",)):
        answer = site.run("rollback", "2", "--json", *flags)
        assert (answer.code, answer.err) == (0, "")
        assert json.loads(answer.out)["actions"] == []
    text = site.run("rollback", "2")
    assert (text.code, text.out, text.err) == (0, "No changes: nothing to do.\n", "")


@pytest.mark.req("PLAN-1")
def test_who_cannot_read_the_plan_is_not_asked(site: Site) -> None:
    two_generations(site)
    site.edit("level: debug", "level: warn")
    with open("/dev/full", "w") as full:
        answer = at_terminal(site, "apply", typed="y\n", stdout=full.fileno())
    assert answer.code == 3
    assert "[y/N]" not in answer.err
    assert "nothing was done\n" in answer.err
    assert len(site.generations()) == 2
