"""TLS by files that are relative to the state directory, and a certificate that is renewed while the gateway serves by it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site
from tests.beds.tls import certificate, with_tls
from tests.e2e.test_rollback import Meanwhile

pytestmark = pytest.mark.real

OWED = "`openclaw service restart` takes over what lies there now"


def relative(site: Site) -> str:
    """A host that serves TLS by files named relative to its state directory; the document."""
    cert, key = certificate(site)
    site.state.mkdir(mode=0o700, exist_ok=True)
    shutil.move(cert, site.state / "c.pem")
    shutil.move(key, site.state / "c.key")
    text = site.write(with_tls(site, site.write(verify="300ms"), Path("c.pem"), Path("c.key")))
    site.apply()
    return text


def renewed(site: Site) -> tuple[Path, Path]:
    """The next certificate and its key, not in their place yet."""
    return certificate(site, "new")


def put(site: Site, new: tuple[Path, Path]) -> None:
    """What `cp` does: the same files with another content."""
    shutil.copyfile(new[0], site.state / "c.pem")
    shutil.copyfile(new[1], site.state / "c.key")


def served(site: Site) -> str:
    """The certificate that the port shows to clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", site.port), 5) as plain,
        context.wrap_socket(plain) as stream,
    ):
        shown = stream.getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown)


def conditions(site: Site) -> dict[str, dict[str, Any]]:
    """What `status` says of openclaw.json and of the service: type of condition, and the condition."""
    resources = {item["key"]: item["conditions"] for item in site.run("status", "--json").json["resources"]}
    return {
        key: {each["type"]: each for each in resources[key]} for key in ("gateway-config/gateway", "service/gateway")
    }


@pytest.mark.req("GW-1", "PLAN-6", "PLAN-10")
@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        pytest.param(", cert: c.pem, key: c.key", "", "gateway.tls.certPath: needed", id="withdrawn"),
        pytest.param("logging:\n", "  settings: {bogusKey: 1}\nlogging:\n", 'key: "bogusKey"', id="unknown"),
    ],
)
def test_what_the_gateway_would_refuse_to_run_by_is_refused_in_planning(
    site: Site, old: str, new: str, complaint: str
) -> None:
    text = relative(site)
    before, pid = (site.state / "openclaw.json").read_bytes(), site.gateway_pid()
    site.write(text.replace(old, new))
    for command in (("plan",), ("apply", "--yes")):
        refused = site.run(*command)
        assert (refused.code, complaint in refused.err + refused.out) == (3, True), refused
    assert (site.state / "openclaw.json").read_bytes() == before
    assert [each["number"] for each in site.generations()] == [1]
    # What is corrected is applied to the gateway that was there all the time.
    site.write(text.replace("level: info", "level: debug"))
    site.apply()
    assert (site.level(), site.gateway_pid()) == ("debug", pid)


@pytest.mark.req("GW-1", "GW-5")
def test_the_gateway_is_asked_from_everywhere_whatever_lies_there_by_the_name_of_its_certificate(
    site: Site, tmp_path: Path
) -> None:
    relative(site)
    for put_there in (None, b"no certificate", renewed(site)[0].read_bytes()):
        if put_there is not None:
            (tmp_path / "c.pem").write_bytes(put_there)
        asked = site.run("gateway", "health", cwd=tmp_path)
        assert (asked.code, asked.out.split(",")[0]) == (0, f"127.0.0.1:{site.port} is ok")
    assert site.run("gateway", "call", "config.get", cwd=tmp_path).code == 0


@pytest.mark.req("GW-1", "PLAN-12")
def test_a_renewed_certificate_makes_nothing_sick_and_is_taken_over_by_a_restart(site: Site) -> None:
    text = relative(site)
    old, new = served(site), renewed(site)
    assert all("Outdated" not in each for each in conditions(site).values())
    put(site, new)
    shown = conditions(site)
    assert [each["Ready"]["status"] for each in shown.values()] == ["True", "True"]
    outdated = shown["gateway-config/gateway"]["Outdated"]
    assert (outdated["status"], outdated["reason"]) == ("True", "CertificateRenewed")
    assert OWED in outdated["message"]
    assert OWED in site.run("status").out
    # Nobody restarts it by himself, and nothing else stands still for it.
    plan = site.run("plan")
    assert plan.code == 0
    assert OWED in plan.out + plan.err
    assert site.plan()["actions"] == []
    assert site.run("gateway", "health").code == 0
    site.write(text.replace("level: info", "level: debug"))
    assert [step["verb"] for step in site.plan()["actions"]] == ["write", "reload"]
    site.apply()
    assert site.level() == "debug"
    assert served(site) == old
    assert site.run("service", "restart").code == 0
    assert served(site) == new[0].read_text()
    assert "Outdated" not in conditions(site)["gateway-config/gateway"]
    assert site.plan()["notes"] == []


@pytest.mark.req("GW-1")
def test_a_key_that_is_gone_while_it_serves_is_told_before_the_next_start_fails(site: Site) -> None:
    relative(site)
    (site.state / "c.key").unlink()
    shown = conditions(site)
    assert [each["Ready"]["status"] for each in shown.values()] == ["True", "True"]
    outdated = shown["gateway-config/gateway"]["Outdated"]
    assert outdated["reason"] == "CertificateUnreadable"
    assert f"cannot read {site.state / 'c.key'}: No such file or directory" in outdated["message"]


@pytest.mark.req("GW-1")
def test_half_of_a_renewal_is_told_before_the_next_start_fails(site: Site) -> None:
    relative(site)
    new = renewed(site)
    shutil.copy(new[0], site.state / "c.pem")
    outdated = conditions(site)["gateway-config/gateway"]["Outdated"]
    assert outdated["reason"] == "CertificateUnusable"
    assert f"{site.state / 'c.key'} cannot be used with {site.state / 'c.pem'} (" in outdated["message"]
    planned = site.run("plan")
    assert (planned.code, outdated["message"] in planned.err) == (0, True)
    put(site, new)
    assert conditions(site)["gateway-config/gateway"]["Outdated"]["reason"] == "CertificateRenewed"


@pytest.mark.req("GW-1", "PLAN-7")
def test_a_change_in_whose_window_the_certificate_is_renewed_is_confirmed(site: Site) -> None:
    text = relative(site)
    new = renewed(site)
    site.write(text.replace("level: info", "level: debug"))
    with Meanwhile(site.state / "openclaw.json", '"debug"', lambda: put(site, new)) as renewal:
        done = site.apply()
    assert renewal.acted
    assert done["result"] == "confirmed"


@pytest.mark.req("GW-1", "PLAN-13")
@pytest.mark.parametrize("began", ["tls", "plain"])
def test_whoever_turns_tls_over_in_the_file_by_hand_is_undone(site: Site, began: str) -> None:
    """The process serves as it began: it is asked in that way, whatever the file says."""
    if began == "tls":
        relative(site)
        turned = ('"enabled": true', '"enabled": false')
    else:
        cert, key = certificate(site)
        site.write(with_tls(site, site.write(verify="300ms"), cert, key).replace("enabled: true", "enabled: false"))
        site.apply()
        turned = ('"enabled": false', '"enabled": true')
    config = site.state / "openclaw.json"
    text = config.read_text()
    assert turned[0] in text
    config.write_text(text.replace(*turned))
    assert site.run("gateway", "health").code == 0
    assert "write" in [step["verb"] for step in site.plan()["actions"]]
    site.apply()
    assert config.read_text() == text
    assert site.plan()["actions"] == []


@pytest.mark.req("GW-1", "SVC-7", "SVC-12")
def test_a_gateway_that_met_a_key_without_its_certificate_serves_again_once_they_fit(site: Site) -> None:
    """Renewed one after the other, and a crash in between: 78 is no word for ever."""
    text = site.write(verify="500ms")
    cert, key = certificate(site, "one")
    mine = site.home / "mine.key"
    shutil.copy(key, mine)
    site.write(with_tls(site, text, cert, mine))
    supervisor = site.supervisor("--on-exit", "stop")
    wait_until(lambda: [each["result"] for each in site.generations()] == ["confirmed"], 30, "it serves")
    shutil.copy(certificate(site, "two")[1], mine)
    os.kill(site.service()["pid"], signal.SIGKILL)
    supervisor.wait_event(
        lambda event: event["event"] == "degraded" and event["reason"] == "HeldDown", "it is held down"
    )
    shutil.copy(key, mine)
    wait_until(lambda: site.service()["state"] == "ready", 90, "it serves again")
    supervisor.wait_event(lambda event: event["event"] == "recovered", "and that is said")
    assert [each["result"] for each in site.generations()] == ["confirmed"]
