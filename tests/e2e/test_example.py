"""The tour, `openclaw.yaml.example`: valid and planned as it stands, and of what this version does not do it is told so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reconciler.desired import MANAGED
from tests.beds.canary import Canary, canary, leaks
from tests.beds.site import Site

pytestmark = [pytest.mark.real, pytest.mark.req("DOC-1", "DOC-8")]

EXAMPLE = Path(__file__).parents[2] / "openclaw.yaml.example"
# The one secret of the tour that lies outside of what a test may write.
PASSWORD_FILE = "/etc/openclaw/etcd-password"
PASS = """\
#!/bin/sh
test "$*" = "show anthropic/backup" && cat "$(dirname "$0")/backup-key"
"""


@pytest.fixture
def toured(site: Site) -> tuple[Site, list[Canary]]:
    """A host on which everything that the tour refers to is there, each secret a canary."""
    canaries = []

    def plant(place: str, shape: str = "{}") -> str:
        canaries.append(canary(place, shape))
        return canaries[-1].value

    text = EXAMPLE.read_text(encoding="utf-8")
    assert text.count(PASSWORD_FILE) == 1
    password = site.home / "etcd-password"
    password.write_text(plant("etcd password"))
    site.write(text.replace(PASSWORD_FILE, str(password)))
    programs = site.home / "bin"
    programs.mkdir()
    (programs / "backup-key").write_text(plant("backup key"))
    (programs / "pass").write_text(PASS)
    (programs / "pass").chmod(0o755)
    site.extra |= {
        "PATH": f"{programs}:{site.environ['PATH']}",
        "OPENCLAW_GATEWAY_TOKEN": plant("gateway token"),
        "ANTHROPIC_API_KEY": plant("api key"),
        "TELEGRAM_BOT_TOKEN": plant("bot token"),
        "OPS_URL": plant("ops url", "https://ops:{}@ops.example.org/"),
        # Its own port may be somebody's on this machine; the environment wins over the file.
        "OPENCLAW_GATEWAY_PORT": str(site.port),
    }
    return site, canaries


def sections_of(site: Site) -> list[str]:
    """The sections that a document may have, by its schema."""
    found: dict[str, Any] = site.call("schema").json["properties"]
    return [name for name in found if name not in ("version", "include")]


def test_it_shows_every_section(site: Site) -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# yaml-language-server: $schema=")
    for section in sections_of(site):
        assert any(line.startswith(f"{section}:") for line in lines), section


@pytest.mark.req("DOC-4")
def test_it_is_valid_with_and_without_its_secrets(toured: tuple[Site, list[Canary]]) -> None:
    site, canaries = toured
    for argv in (["validate"], ["validate", "--resolve"], ["validate", "--json", "--resolve"]):
        answer = site.run(*argv)
        assert answer.code == 0, answer.err
        assert not leaks(answer.out + answer.err, canaries)
    del site.extra["OPS_URL"]
    assert site.call("validate").code == 0
    missing = site.call("validate", "--resolve")
    assert missing.code == 78
    assert "OPS_URL: it is not set" in missing.err


@pytest.mark.req("PLAN-1")
def test_it_is_planned_and_never_silent(toured: tuple[Site, list[Canary]]) -> None:
    site, canaries = toured
    answer = site.run("plan", "--json")
    assert answer.code == 0, answer.err
    assert not leaks(answer.out + answer.err, canaries)
    plan = answer.json
    assert (plan["complete"], plan["applyable"]) == (True, True)
    assert [action["id"] for action in plan["actions"]] == ["gateway-config/gateway:write", "service/gateway:start"]
    lines = site.document.read_text().splitlines()
    told = {}
    for note in plan["notes"]:
        if note["code"] == "not_managed":
            section = lines[note["line"] - 1].partition(":")[0]
            assert f"`{section.strip()}`" in note["message"] or section.startswith(" "), note
            assert note["file"] == "openclaw.yaml"
            told[section] = note
    unmanaged = {section for section in sections_of(site) if section not in MANAGED}
    assert unmanaged <= told.keys()
    assert not MANAGED & told.keys()
    words = site.run("plan")
    for note in plan["notes"]:
        assert f"note: openclaw.yaml:{note['line']}:" in words.err
        assert note["message"] in words.err
    assert not leaks(words.out + words.err, canaries)
    assert list(site.state.iterdir()) == []


@pytest.mark.req("DOC-1")
def test_each_section_alone_is_valid_and_told(toured: tuple[Site, list[Canary]]) -> None:
    """Every section is optional: each one stands by itself, and one that is not managed says so by itself."""
    site, _canaries = toured
    text = site.document.read_text()
    parts: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line and line[0].isalpha():
            name = line.partition(":")[0]
        parts.setdefault(name, []).append(line)
    for section in sections_of(site):
        site.write("\n".join(["version: 1", *parts[section]]) + "\n")
        answer = site.call("plan", "--json")
        assert answer.code == 0, (section, answer)
        notes = [note["message"] for note in json.loads(answer.out)["notes"] if note["code"] == "not_managed"]
        if section not in MANAGED:
            assert len(notes) == 1
            assert f"`{section}`" in notes[0]
    site.write("version: 1\n")
    answer = site.call("plan")
    assert (answer.code, answer.err) == (0, "")
    assert "No changes" in answer.out
