"""A change that does not serve is taken back by itself, told, and not tried again until the document changes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.beds.processes import wait_until
from tests.beds.site import Site
from tests.beds.tls import certificate, mismatch, with_tls

pytestmark = pytest.mark.real


@pytest.mark.req("PLAN-7", "PLAN-15", "PLAN-8", "PLAN-18")
def test_a_key_that_does_not_fit_is_rolled_back_and_the_corrected_document_applied(site: Site) -> None:
    site.write()
    site.apply()
    good = site.document.read_text()
    bad = site.write(with_tls(site, good, *mismatch(site)))
    done = site.apply(code=5)
    assert (done["result"], done["rolled_back_to"]) == ("rolled-back", 1)
    assert site.health()[0] == 200
    assert site.document.read_text() == bad
    newest = site.generations()[0]
    assert newest["result"] == "rolled-back"
    assert site.run("history", "--json").json["in_force"] == 1
    assert newest["reason"]
    why = site.run("why", "service/gateway").out
    assert "rolled-back" in why
    assert "held back" in site.run("status").out
    supervisor = site.supervisor("--on-exit", "stop")
    supervisor.wait_event(lambda event: event["event"] == "held_back", "the document is held back")
    assert site.generations()[0]["number"] == newest["number"]
    site.write(good.replace("level: info", "level: debug"))
    wait_until(lambda: site.level() == "debug", 20, "the corrected document in force")
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "confirmed")


@pytest.mark.req("PLAN-7", "PLAN-8", "PLAN-10")
def test_a_mapping_that_became_a_flag_is_a_mapping_again_on_the_way_back(site: Site) -> None:
    plain = site.write(verify="300ms")
    good = site.write(plain.replace("logging:", "  settings: {web: {enabled: true}}\nlogging:", 1))
    site.apply()
    flag = good.replace("{enabled: true}", "false")
    site.write(with_tls(site, flag, *mismatch(site)))
    assert site.apply(code=5)["rolled_back_to"] == 1
    assert site.health()[0] == 200
    assert site.config()["web"] == {"enabled": True}
    site.write(flag)
    site.apply()
    assert site.config()["web"] is False
    back = site.run("rollback", "--yes", "--json")
    assert back.code == 0, back.err
    assert site.config()["web"] == {"enabled": True}
    site.write(plain)
    site.apply()
    assert "web" not in site.config()


@pytest.mark.req("PLAN-7", "SVC-13")
def test_a_limit_of_open_files_that_starves_the_gateway_is_taken_back_and_nobody_restarted(site: Site) -> None:
    text = site.write()
    site.apply()
    pid = site.gateway_pid()
    with contextlib.ExitStack() as stack:
        for _ in range(90):
            peer = stack.enter_context(socket.create_connection(("127.0.0.1", site.port)))
            # One that has asked may stay for longer than one that says nothing.
            peer.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        site.write(text.replace("manager: embedded,", "manager: embedded, limits: {files: 64},"))
        done = site.apply(code=5)
        assert (done["result"], done["rolled_back_to"]) == ("rolled-back", 1)
        assert site.gateway_pid() == pid
    assert "service/gateway is not ready" in site.generations()[0]["reason"]
    assert site.service()["limits"]["files"]["declared"] is None


@pytest.mark.req("PLAN-7")
def test_a_first_apply_that_does_not_serve_leaves_nothing_running(site: Site) -> None:
    site.write(with_tls(site, site.write(), *mismatch(site)))
    done = site.apply(code=5)
    assert (done["result"], done["rolled_back_to"]) == ("rolled-back", 0)
    assert site.health()[0] == 0
    assert site.service()["state"] in ("stopped", "absent")
    assert not (site.state / "openclaw.json").exists()


@pytest.mark.req("PLAN-8")
def test_rollback_goes_back_by_name_and_the_document_waits(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    site.edit("level: info", "level: debug")
    site.apply()
    back = site.run("rollback", "--yes", "--json")
    assert back.code == 0, back.err
    assert site.config()["logging"]["level"] == "info"
    supervisor = site.supervisor("--on-exit", "stop")
    supervisor.wait_event(lambda event: event["event"] == "held_back", "the document waits")
    assert site.config()["logging"]["level"] == "info"
    site.edit("level: debug", "level: warn")
    wait_until(lambda: site.level() == "warn", 20, "a new document is applied")


@pytest.mark.req("PLAN-8")
def test_diff_shows_what_lies_between_two_generations(site: Site) -> None:
    site.write(verify="300ms")
    site.apply()
    site.edit("level: info", "level: debug  # louder")
    site.apply()
    assert site.run("diff", "1", "2").out == 'logging.level: "info" -> "debug"\n'
    assert "+  level: debug  # louder" in site.run("diff", "1", "--text").out
    assert site.run("diff", "1", "9").code == 64


@pytest.mark.req("PLAN-8")
def test_what_to_put_back_is_shown_while_the_document_is_not_valid(site: Site) -> None:
    site.write(verify="300ms")
    text = site.document.read_text()
    site.apply()
    put_back = "".join(f"-{line}\n" for line in text.splitlines())
    site.write("")
    assert site.run("diff", "1", "--text").out.endswith(put_back)
    site.write(text.replace("level: info", "level: many  # oops"))
    assert "-  level: info\n+  level: many  # oops\n" in site.run("diff", "1", "--text").out
    assert site.run("diff", "1").code == 78
    site.document.unlink()
    gone = site.run("diff", "1", "--text")
    assert (gone.code, gone.out) == (78, "")
    assert "there is no such file" in gone.err


class Meanwhile:
    """Does something as soon as the gateway's config names a thing: after the plan looked, before the gateway starts anew."""

    def __init__(self, config: Path, named: str, act: Callable[[], None]) -> None:
        self._config, self._named, self._act = config, named, act
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.acted = False

    def __enter__(self) -> Meanwhile:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.001):
            if self._named in self._config.read_text():
                self._act()
                self.acted = True
                return


@pytest.mark.req("PLAN-7", "PLAN-15", "PLAN-17")
def test_a_port_taken_between_plan_and_bind_is_rolled_back(site: Site, free_port: Callable[[], int]) -> None:
    site.write()
    site.apply()
    new = free_port()
    bad = site.write(port=new)
    with contextlib.ExitStack() as held:

        def take() -> None:
            held.enter_context(socket.create_server(("127.0.0.1", new)))

        with Meanwhile(site.state / "openclaw.json", f'"port": {new}', take) as thief:
            done = site.apply(code=5)
        assert thief.acted
    assert (done["result"], done["rolled_back_to"]) == ("rolled-back", 1)
    assert str(new) in done["reason"] or "already listening" in done["reason"]
    assert site.health()[0] == 200
    assert site.document.read_text() == bad
    assert site.generations()[0]["result"] == "rolled-back"
    # The port is free again: the operator's word applies the very same document.
    assert site.apply()["result"] == "confirmed"
    assert site.health(new)[0] == 200


def bound_by_modes(argv: Sequence[str | Path], _cwd: Path) -> Sequence[str | Path]:
    """A command line that runs `argv` bound by file modes, as every user but root is."""
    if os.geteuid() != 0:
        return argv
    return [
        "setpriv",
        "--bounding-set=-dac_override,-dac_read_search",
        "--inh-caps=-dac_override,-dac_read_search",
        *argv,
    ]


def forbid(key: Path) -> None:
    key.chmod(0)


def remove(key: Path) -> None:
    key.unlink()


def fill_with_a_directory(key: Path) -> None:
    key.unlink()
    key.mkdir()


def fill_with_a_pipe(key: Path) -> None:
    key.unlink()
    os.mkfifo(key)


UNREADABLE: dict[Callable[[Path], None], str] = {
    forbid: "Permission denied",
    remove: "No such file or directory",
    fill_with_a_directory: "not a regular file",
    fill_with_a_pipe: "not a regular file",
}


@pytest.mark.req("PLAN-7", "PLAN-8", "PLAN-15")
@pytest.mark.parametrize("spoil", UNREADABLE)
def test_a_key_that_becomes_unreadable_after_the_plan_is_rolled_back(site: Site, spoil: Callable[[Path], None]) -> None:
    site.inside = bound_by_modes
    good = site.write()
    site.apply()
    cert, key = certificate(site)
    bad = site.write(with_tls(site, good, cert, key))
    with Meanwhile(site.state / "openclaw.json", str(key), lambda: spoil(key)) as spoiler:
        done = site.apply(code=5)
    assert spoiler.acted
    assert (done["result"], done["rolled_back_to"]) == ("rolled-back", 1)
    assert site.health()[0] == 200
    assert site.document.read_text() == bad
    newest = site.generations()[0]
    assert newest["result"] == "rolled-back"
    assert f"cannot read the TLS key (gateway.tls.keyPath) {key}: {UNREADABLE[spoil]}" in newest["reason"]
    assert str(key) in site.run("why", "service/gateway").out
    assert "held back" in site.run("status").out
    # A document that is held back is not tried by the loop, and a corrected one is applied at once.
    supervisor = site.supervisor("--on-exit", "stop")
    supervisor.wait_event(lambda event: event["event"] == "held_back", "the document is held back")
    site.write(with_tls(site, good, *certificate(site, "new")))
    wait_until(lambda: site.generations()[0]["result"] == "confirmed", 20, "the corrected document confirmed")
    assert site.run("gateway", "health").code == 0


@pytest.mark.req("PLAN-6", "PLAN-17")
@pytest.mark.parametrize("spoil", UNREADABLE)
def test_a_key_that_is_unreadable_already_is_found_in_planning(site: Site, spoil: Callable[[Path], None]) -> None:
    site.inside = bound_by_modes
    good = site.write()
    site.apply()
    cert, key = certificate(site)
    spoil(key)
    site.write(with_tls(site, good, cert, key))
    before = (site.state / "openclaw.json").read_bytes(), site.gateway_pid()
    refused = site.run("apply", "--yes")
    assert refused.code == 3
    assert f"cannot read {key}: {UNREADABLE[spoil]}" in refused.out + refused.err
    assert "gateway.tls.key" in refused.out + refused.err
    assert ((site.state / "openclaw.json").read_bytes(), site.gateway_pid()) == before
    assert [each["number"] for each in site.generations()] == [1]


@pytest.mark.req("PLAN-7", "PLAN-13")
def test_what_only_the_rejected_document_added_does_not_stay_in_the_process(site: Site) -> None:
    """The way back starts the gateway itself, at once, instead of leaving it to the next try of a crash loop."""
    good = site.write(verify="200ms")
    # The next try of a start that failed comes long after the window.
    good = site.write(good.replace("delay: 200ms, max_delay: 2s", "delay: 20s, max_delay: 40s"))
    site.apply()
    # TEST-NET-3: an address that no interface has.
    site.write(good.replace("  auth:", "  bind: custom\n  host: 203.0.113.77\n  auth:", 1))
    done = site.apply(code=5)
    assert (done["result"], done["rolled_back_to"]) == ("rolled-back", 1)
    assert site.health()[0] == 200
    site.write(good)
    assert site.plan()["actions"] == []


@pytest.mark.req("PLAN-7", "PLAN-13")
def test_a_gateway_that_hangs_in_the_window_of_a_restart_is_restarted_as_it_was(
    site: Site, free_port: Callable[[], int]
) -> None:
    site.write(verify="500ms")
    site.apply()
    old, new = site.port, free_port()
    site.edit("verify: 500ms", "verify: 4s")
    site.edit(f"port: {old}", f"port: {new}")
    apply = site.start("apply", "--yes")
    wait_until(lambda: site.generations()[0]["result"] == "verifying", 20, "its window is open")
    pid = site.service()["pid"]
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    _out, err = apply.communicate(timeout=90)
    assert apply.returncode == 5, err
    assert json.loads((site.state / "openclaw.json").read_text())["gateway"]["port"] == old
    assert site.health(old)[0] == 200
    assert site.health(new)[0] == 0
    site.document.write_text(site.document.read_text().replace(f"port: {new}", f"port: {old}"))
    assert site.plan()["actions"] == []


@pytest.mark.req("PLAN-7", "PLAN-13")
def test_a_gateway_that_hangs_in_the_window_of_a_reload_has_its_old_file_again_and_a_person_is_told(site: Site) -> None:
    good = site.write(verify="500ms")
    site.apply()
    config = site.state / "openclaw.json"
    before = json.loads(config.read_text())
    site.write(good.replace("verify: 500ms", "verify: 3s").replace("level: info", "level: debug"))
    apply = site.start("apply", "--yes")
    wait_until(lambda: site.generations()[0]["result"] == "verifying", 20, "its window is open")
    pid = site.gateway_pid()
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        _out, err = apply.communicate(timeout=90)
        assert apply.returncode == 6, err
        assert json.loads(config.read_text()) == before
    finally:
        os.kill(pid, signal.SIGCONT)
    # It goes on, and is led there without a restart.
    site.write(good)
    assert site.apply()["result"] == "confirmed"
    assert site.call("gateway", "call", "config.get").json["config"]["logging"]["level"] == "info"
    assert site.gateway_pid() == pid


@pytest.mark.req("PLAN-8")
def test_going_back_inside_a_window_that_nobody_watches_is_a_generation_with_its_author(site: Site) -> None:
    site.write(verify="4s")
    site.apply()
    site.edit("level: info", "level: debug")
    assert site.run("apply", "--yes", "--no-wait").code == 0
    assert site.generations()[0]["result"] == "verifying"
    back = site.run("rollback", "1", "--yes", "--author", "Ada")
    assert (back.code, back.out.split(";")[0]) == (0, "Generation 3: confirmed")
    found = [(each["number"], each["result"], each["cause"], each["author"]) for each in site.generations()]
    assert found[0] == (3, "confirmed", "rollback to 1", "Ada")
    assert found[1][:2] == (2, "superseded")
    assert site.level() == "info"


@pytest.mark.req("PLAN-8")
def test_going_back_to_what_is_there_already_says_that_it_is_recorded(site: Site) -> None:
    text = site.write(verify="300ms")
    site.apply()
    site.write(text.replace("verify: 300ms", "verify: 400ms"))
    applied = site.run("apply", "--yes")
    assert applied.out == "Generation 2: confirmed; nothing had to be changed.\n"
    back = site.run("rollback", "1", "--yes")
    assert back.out == "Generation 3: confirmed; nothing had to be changed.\n"
    assert site.generations()[0]["cause"] == "rollback to 1"


@pytest.mark.req("PLAN-7", "PLAN-10")
def test_what_somebody_writes_while_the_way_back_is_watched_is_drift(site: Site) -> None:
    good = site.write(verify="3s")
    site.apply()
    before = (site.state / "openclaw.json").read_bytes()
    site.write(with_tls(site, good, *mismatch(site)))
    apply = site.start("apply", "--yes")
    wait_until(lambda: (site.state / "openclaw.json").read_bytes() != before, 20, "the bad one is written")
    wait_until(lambda: (site.state / "openclaw.json").read_bytes() == before, 20, "the good one is written back")
    site.wait_healthy()
    (site.state / "openclaw.json").write_bytes(before.replace(b'"info"', b'"debug"'))
    out, err = apply.communicate(timeout=60)
    assert apply.returncode == 5, (out, err)
    assert site.run("drift").code == 2
