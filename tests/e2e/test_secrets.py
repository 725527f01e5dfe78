"""A secret is written into one 0600 file for the gateway and nowhere else, whatever is done and whatever goes wrong."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.beds.canary import Canary, canary, leaking_files, leaking_processes, leaks, loose_modes
from tests.beds.needs import needs_programs
from tests.beds.processes import wait_until
from tests.beds.site import Answer, Site

pytestmark = [pytest.mark.real, pytest.mark.req("DOC-4")]

# Where the values may stand below the state directory (docs/reference/files.md).
ENVIRONMENT_FILE = "reconciler/run/gateway.env"
BACKUPS = "reconciler/backups/"

DOCUMENT = """\
version: 1
service:
  manager: embedded
  restart: {{delay: 200ms, max_delay: 2s}}
  stop: {{drain: 2s, grace: 2s}}
  environment: {{SERVICE_FILE: {{file: service-secret}}, SERVICE_NAME: "${{SERVICE_CANARY}}"}}
gateway:
  port: {port}
  auth: {auth}
  settings: {{channels: {{telegram: {{botToken: "${{BOT_CANARY}}", greeting: "hi ${{GREETING_CANARY}}!"}}}}}}
logging: {{level: trace}}
auth: {{profiles: {{"anthropic:default": {{type: api_key, key: {{env: PROFILE_CANARY}}}}}}}}
notifications: {{routes: [{{min: high, to: ops}}], channels: {{ops: {{url: {{env: URL_CANARY}}}}}}}}
tunnels: {{door: {{type: ngrok, local: 18789, token: {{env: TUNNEL_CANARY}}}}}}
diagnostics: {{otel: {{endpoint: "http://127.0.0.1:4318", headers: {{X-Auth: {{env: HEADER_CANARY}}}}}}}}
policy: {{verify: 300ms}}
"""


class Trail:
    """Everything that came out of the program on one host, held against every canary that ever stood there."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.canaries: list[Canary] = []

    def plant(self, place: str, shape: str = "{}") -> str:
        """A new canary; returns its value."""
        planted = canary(place, shape)
        self.canaries.append(planted)
        return planted.value

    def export(self, name: str, shape: str = "{}") -> str:
        """A new canary in the environment of the applying process."""
        self.site.extra[name] = self.plant(name, shape)
        return self.site.extra[name]

    def keep(self, name: str) -> str:
        """A new canary in a file beside the document."""
        value = self.plant(name)
        path = self.site.home / name
        path.write_text(value + "\n")
        path.chmod(0o600)
        return value

    def run(self, *argv: str, code: int | None = 0, inside: bool = False) -> Answer:
        """Runs a command whose output must show nothing; `inside` this process where only what it prints counts."""
        answer = self.site.call(*argv) if inside else self.site.run(*argv)
        self.clean(answer.out, f"{argv} stdout")
        self.clean(answer.err, f"{argv} stderr")
        assert code is None or answer.code == code, (argv, answer.code, answer.out, answer.err)
        return answer

    def clean(self, text: str | bytes, where: str) -> None:
        """No canary stands in `text`."""
        found = leaks(text, self.canaries)
        assert not found, f"{where} shows {found}: {text!r}"

    def check(self) -> None:
        """No canary stands in a file or a command line where it may not, and nothing of the state is open to others."""
        found = leaking_files(self.site.state, self.canaries)
        elsewhere = {name: places for name, places in found.items() if name != ENVIRONMENT_FILE and BACKUPS not in name}
        assert not elsewhere
        assert not leaking_processes(self.site.state, self.canaries)
        assert not loose_modes(self.site.state)
        assert all(stat.S_IMODE((self.site.state / name).stat().st_mode) == 0o600 for name in found)


@pytest.fixture
def trail(site: Site) -> Iterator[Trail]:
    """A host with a canary in every place but the gateway's own secret, and an umask that hides nothing."""
    trail = Trail(site)
    trail.keep("service-secret")
    trail.export("SERVICE_CANARY")
    trail.export("BOT_CANARY")
    trail.export("GREETING_CANARY")
    trail.export("PROFILE_CANARY")
    trail.export("URL_CANARY", "https://user:{}@ops.example.org/hook")
    trail.export("TUNNEL_CANARY")
    trail.export("HEADER_CANARY", "Bearer {}")
    before = os.umask(0)
    try:
        yield trail
    finally:
        os.umask(before)


def by_env(trail: Trail) -> tuple[str, str]:
    return "{mode: token, token: {env: TOKEN_CANARY}}", trail.export("TOKEN_CANARY")


def by_name(trail: Trail) -> tuple[str, str]:
    return '{mode: token, token: "${TOKEN_CANARY}"}', trail.export("TOKEN_CANARY")


def by_file(trail: Trail) -> tuple[str, str]:
    return "{mode: token, token: {file: gateway-secret}}", trail.keep("gateway-secret")


def by_program(trail: Trail) -> tuple[str, str]:
    return "{mode: token, token: {exec: [cat, gateway-secret]}}", trail.keep("gateway-secret")


def password(trail: Trail) -> tuple[str, str]:
    return "{mode: password, password: {file: gateway-secret}}", trail.keep("gateway-secret")


def everything_that_prints(trail: Trail, *, inside: bool = True) -> None:
    """Every command that shows something, in a host where a generation is in force."""
    for argv in (
        ["validate"],
        ["validate", "--resolve"],
        ["validate", "--json", "--resolve"],
        ["plan"],
        ["plan", "--json"],
        ["plan", "--out", "plan.json"],
        ["status"],
        ["status", "--json"],
        ["why", "service/gateway"],
        ["why", "gateway-config/gateway", "--json"],
        ["history"],
        ["history", "--json"],
        ["diff", "1"],
        ["diff", "1", "--text"],
        ["diff", "1", "--json"],
        ["drift"],
        ["config", "get", "gateway"],
        ["config", "get", "service.environment", "--json"],
        ["config", "get", "notifications"],
        ["config", "get", "auth"],
        ["config", "get", "tunnels"],
        ["config", "get", "diagnostics"],
        ["config", "explain", "gateway.auth"],
        ["config", "explain", "gateway.settings.channels.telegram.botToken"],
        ["config", "explain", "gateway.settings.channels.telegram.greeting"],
        ["service", "status"],
        ["service", "status", "--json"],
        ["gateway", "health"],
        ["gateway", "health", "--json"],
        ["gateway", "call", "config.get"],
        ["gateway", "call", "status"],
        ["logs"],
        ["logs", "--json", "--level", "trace"],
    ):
        trail.run(*argv, code=None if argv[0] in ("drift", "plan") else 0, inside=inside)
    plan = trail.site.home / "plan.json"
    trail.clean(plan.read_bytes(), "the plan file")
    assert stat.S_IMODE(plan.stat().st_mode) == 0o600


@pytest.mark.parametrize("way", [by_env, by_name, by_file, by_program, password])
def test_every_way_to_refer_to_the_gateways_secret(trail: Trail, way: Callable[[Trail], tuple[str, str]]) -> None:
    site = trail.site
    auth, secret = way(trail)
    site.write(DOCUMENT.format(port=site.port, auth=auth))
    trail.run("plan", "--out", "first.json")
    trail.clean((site.home / "first.json").read_bytes(), "the plan file")
    trail.run("apply", "--yes", "--json")
    # It is the secret that was given: the canary is looked for in the right place.
    status, body = site.health(secret=secret)
    assert (status, "parts" in body) == (200, True)
    assert "parts" not in site.health(secret="wrong")[1]
    assert set(leaking_files(site.state, trail.canaries)) == {ENVIRONMENT_FILE}
    everything_that_prints(trail)
    trail.check()


@pytest.mark.req("LOG-4")
def test_a_stranger_who_guesses_is_not_quoted_in_the_log(trail: Trail) -> None:
    site = trail.site
    auth, _secret = by_env(trail)
    site.write(DOCUMENT.format(port=site.port, auth=auth))
    trail.run("apply", "--yes")
    guess = trail.plant("guess")
    for path, headers in (
        ("/health", {"Authorization": f"Bearer {guess}"}),
        (f"/health?token={guess}", {}),
        (f"/no/{guess}?password={guess}", {"Cookie": guess}),
    ):
        request = urllib.request.Request(f"http://127.0.0.1:{site.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                trail.clean(answer.read(), path)
        except urllib.error.HTTPError as err:
            with err:
                trail.clean(err.read(), path)
    site.extra["TOKEN_CANARY"] = guess
    refused = trail.run("gateway", "call", "config.get", code=None)
    assert refused.code != 0
    trail.run("logs")
    trail.check()


def test_a_rotated_secret_and_the_way_back(trail: Trail) -> None:
    site = trail.site
    auth, first = by_env(trail)
    site.write(DOCUMENT.format(port=site.port, auth=auth))
    trail.run("apply", "--yes")
    site.edit("level: trace", "level: debug")
    trail.run("apply", "--yes")
    second = trail.export("TOKEN_CANARY")
    trail.export("BOT_CANARY")
    planned = trail.run("plan", "--json")
    assert "environment.OPENCLAW_GATEWAY_TOKEN" in planned.out
    trail.run("plan")
    trail.run("apply", "--yes")
    assert "parts" in site.health(secret=second)[1]
    assert "parts" not in site.health(secret=first)[1]
    back = trail.run("rollback", "1", "--yes")
    assert "cannot be restored" in back.out + back.err
    assert "parts" in site.health(secret=second)[1]
    everything_that_prints(trail)
    trail.check()


def test_an_apply_that_fails_and_is_rolled_back(trail: Trail) -> None:
    site = trail.site
    auth, _secret = by_env(trail)
    text = site.write(DOCUMENT.format(port=site.port, auth=auth))
    trail.run("apply", "--yes")
    trail.export("BOT_CANARY")
    # TEST-NET-3: an address that no interface has.
    site.write(text.replace("  auth:", "  bind: custom\n  host: 203.0.113.77\n  auth:", 1))
    trail.run("plan", "--json", code=None)
    failed = trail.run("apply", "--yes", code=None)
    assert failed.code == 5, (failed.code, failed.out, failed.err)
    everything_that_prints(trail)
    trail.check()


@pytest.mark.req("LOG-4")
def test_a_supervisor_with_saves_a_rotation_and_its_control_api(trail: Trail) -> None:
    needs_programs("curl")
    site = trail.site
    auth, first = by_file(trail)
    site.write(DOCUMENT.format(port=site.port, auth=auth))
    supervisor = site.supervisor("--on-exit", "stop")
    site.wait_healthy()
    site.edit("level: trace", "level: debug")
    wait_until(lambda: (site.state / "openclaw.json").read_text().find('"debug"') > 0, 10, "the save is applied")
    second = trail.keep("gateway-secret")
    site.edit("level: debug", "level: trace")
    wait_until(lambda: "parts" in (site.health(secret=second)[1] or {}), 20, "the new secret rules")
    assert "parts" not in site.health(secret=first)[1]
    everything_that_prints(trail, inside=False)
    events = subprocess.Popen(curl(site, "/v1/events"), stdout=subprocess.PIPE)
    site.edit("drain: 2s", "drain: 1s")
    for argv in (
        ["/v1"],
        ["/v1/status?deep=1"],
        ["/v1/history"],
        ["-XPOST", "-d", "{}", "/v1/apply"],
        ["-XPOST", "-d", '{"nonsense": 1}', "/v1/apply"],
        ["-XPOST", "-d", "{}", "/v1/commands/plan"],
        ["-XPOST", "-d", "{}", "/v1/reload"],
    ):
        done = subprocess.run(curl(site, *argv), capture_output=True, timeout=30, check=True)
        assert done.stdout
        trail.clean(done.stdout, f"control API {argv}")
    wait_until(lambda: site.plan()["actions"] == [], 20, "everything is applied")
    trail.check()
    events.terminate()
    trail.clean(events.communicate(timeout=10)[0], "control API events")
    # A document that is not valid, with a literal in it.
    literal = trail.plant("literal in a save")
    site.edit("token: {file: gateway-secret}", f"token: {literal}")
    supervisor.wait_event(lambda event: event["event"] == "document_invalid", "the supervisor refuses it")
    trail.run("status", "--json")
    assert supervisor.stop() == 0
    trail.clean(supervisor.text(), "the supervisor's log")
    trail.check()


def curl(site: Site, *argv: str) -> list[str]:
    """`curl` on the control socket; the last of `argv` is the path."""
    *options, path = argv
    socket = str(site.state / "reconciler/control.sock")
    return ["curl", "-sS", "-N", "--unix-socket", socket, *options, f"http://openclaw{path}"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("token: {env: TOKEN_CANARY}", "token: {}"),
        ("token: {env: TOKEN_CANARY}", 'token: "prefix {} ${{TOKEN_CANARY}}"'),
        ("token: {env: TOKEN_CANARY}", "token: {{env: [{}]}}"),
        ("token: {env: TOKEN_CANARY}", "token: {{env: {}-x}}"),
        ("token: {env: TOKEN_CANARY}", "token: {{value: {}}}"),
        ("token: {env: TOKEN_CANARY}", "token: [{}]"),
        ("token: {env: TOKEN_CANARY}", "tokn: {}"),
        ("token: {env: TOKEN_CANARY}", "token: !!binary {}"),
        ("token: {env: TOKEN_CANARY}", "token: *{}"),
        ("token: {env: TOKEN_CANARY}", "token: &{}"),
        ("token: {env: TOKEN_CANARY}", "token: !{} "),
        ("token: {env: TOKEN_CANARY}", "token: |{}"),
        ("token: {env: TOKEN_CANARY}", "token: >{}"),
        ("token: {env: TOKEN_CANARY}", "token: @{}"),
        ("token: {env: TOKEN_CANARY}", "token: '{}"),
        ("token: {env: TOKEN_CANARY}", "token: {{file: [{}]}}"),
        ("token: {env: TOKEN_CANARY}", "token: {{env: TOKEN_CANARY}}, password: {}"),
        ('botToken: "${BOT_CANARY}"', "botToken: {}"),
        ('botToken: "${BOT_CANARY}"', 'botToken: "x${{BOT_CANARY}}{}"'),
        ('botToken: "${BOT_CANARY}"', "botToken: [{}, {}]"),
        ("key: {env: PROFILE_CANARY}", "key: {}"),
        ("url: {env: URL_CANARY}", "url: 'https://user:{}@ops.example.org/'"),
        ("SERVICE_FILE: {file: service-secret}", "API_TOKEN: {}"),
        ("SERVICE_FILE: {file: service-secret}", "SERVICE_FILE: sk-{}"),
        ("version: 1", "version: 1\nx-token: &{} 1\ny: 2"),
    ],
)
def test_a_literal_is_refused_and_not_echoed(trail: Trail, old: str, new: str) -> None:
    site = trail.site
    auth, _secret = by_env(trail)
    literal = trail.plant("literal")
    text = DOCUMENT.format(port=site.port, auth=auth)
    assert old in text
    site.write(text.replace(old, new.format(literal, literal)))
    for argv in (["validate"], ["validate", "--json"], ["plan"], ["apply", "--yes"]):
        answer = site.call(*argv)
        assert answer.code == 78, (argv, answer)
        trail.clean(answer.out + answer.err, str(argv))
    assert list(site.state.iterdir()) == []


def test_a_literal_that_was_there_before_us_is_kept_and_given_back(trail: Trail) -> None:
    site = trail.site
    auth, secret = by_env(trail)
    foreign = trail.plant("foreign token")
    others = {
        name: trail.plant(f"foreign {name}")
        for name in ("botToken", "secretKey", "credentials", "accessKey", "passwd", "cookie", "clientSecret")
    }
    config = site.state / "openclaw.json"
    before = json.dumps(
        {"gateway": {"auth": {"mode": "token", "token": foreign}}, "channels": {"telegram": others}}, indent=3
    )
    config.write_text(before)
    config.chmod(0o600)
    names = ", ".join(f'{name}: "${{BOT_CANARY}}"' for name in others)
    text = DOCUMENT.format(port=site.port, auth=auth).replace('botToken: "${BOT_CANARY}"', names)
    site.write(text)
    trail.run("plan", code=3)
    trail.run("plan", "--json", code=3)
    trail.run("apply", "--yes", code=3)
    assert config.read_text() == before
    trail.run("apply", "--yes", "--take-over")
    assert "parts" in site.health(secret=secret)[1]
    trail.check()
    everything_that_prints(trail)
    trail.check()
    site.write(
        f"version: 1\nservice: {{manager: embedded}}\ngateway: {{port: {site.port}}}\npolicy: {{verify: 300ms}}\n"
    )
    trail.run("plan")
    trail.run("plan", "--json")
    trail.run("apply", "--yes", "--approve", "gateway-config/gateway", "--approve", "service/gateway")
    back = json.loads(config.read_text())
    assert back["gateway"]["auth"]["token"] == foreign
    assert back["channels"]["telegram"] == others
    assert "parts" in site.health(secret=foreign)[1]
    for argv in (["plan"], ["why", "gateway-config/gateway", "--json"], ["history"], ["diff", "1"], ["logs"]):
        trail.run(*argv)
    left = leaking_files(site.state, trail.canaries)
    # Where it was found and is given back, in the gateway's own copy of that, and in what is kept to give it back.
    places = ("openclaw.json", "openclaw.json.last-good", ENVIRONMENT_FILE)
    assert [name for name in left if name not in places and BACKUPS not in name] == []
    assert not loose_modes(site.state)


# A kind that fails while it holds a secret, in a variable and in the text of what it raises. Arguments: where, then the command.
BUG = """
import sys
from functools import partial
from reconciler.cli import entry, main
from reconciler.desired import SecretRef
from resources.service.kind import ServiceKind

def fail(world):
    held = world.secrets.reveal(SecretRef("env", "TOKEN_CANARY"))
    try:
        {}[held]
    except KeyError as err:
        raise RuntimeError(f"cannot use {held}", held) from err

class Observing(ServiceKind):
    async def observe(self, wanted, world):
        fail(world)

class Applying(ServiceKind):
    async def apply(self, action, resource, world):
        fail(world)

kind = {"observe": Observing, "apply": Applying}[sys.argv.pop(1)]
main.main = partial(main.main, kinds=lambda: (kind(),))
sys.exit(entry.main())
"""


def with_bug(trail: Trail, where: str, *argv: str) -> Answer:
    """Runs a command of a program with that bug; nothing may be shown."""
    done = subprocess.run(
        [sys.executable, "-c", BUG, where, *argv],
        cwd=trail.site.home,
        env=trail.site.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    trail.clean(done.stdout, f"{argv} stdout")
    trail.clean(done.stderr, f"{argv} stderr")
    return Answer(done.returncode, done.stdout, done.stderr)


def test_a_crash_report_shows_none(trail: Trail) -> None:
    site = trail.site
    auth, _secret = by_env(trail)
    site.write(DOCUMENT.format(port=site.port, auth=auth))
    trail.run("apply", "--yes")
    for argv in (["plan"], ["plan", "--json"], ["status"], ["apply", "--yes"]):
        crashed = with_bug(trail, "observe", *argv)
        assert crashed.code == 70, crashed
        assert "a bug of ours (id " in crashed.err
    reports = list((site.state / "reconciler").glob("crash-*.txt"))
    assert len(reports) == 4
    for report in reports:
        text = report.read_text()
        trail.clean(text, "the report")
        assert "in fail" in text
        assert "RuntimeError" in text
        assert stat.S_IMODE(report.stat().st_mode) == 0o600
    trail.check()


def test_a_supervisor_with_a_bug_shows_none(trail: Trail) -> None:
    needs_programs("curl")
    site = trail.site
    auth, _secret = by_env(trail)
    site.write(DOCUMENT.format(port=site.port, auth=auth))
    trail.run("apply", "--yes")
    log = site.home / "supervisor.log"
    with log.open("wb") as file:
        process = site.spawned.start(
            [sys.executable, "-c", BUG, "observe", "run", "--on-exit", "leave"],
            cwd=site.home,
            env=site.environ,
            stdout=file,
            stderr=file,
        )
    wait_until(lambda: b"look_failed" in log.read_bytes(), 20, "a look fails")
    for argv in (["/v1/status"], ["-XPOST", "-d", "{}", "/v1/apply"], ["/v1/history"]):
        done = subprocess.run(curl(site, *argv), capture_output=True, timeout=30, check=True)
        trail.clean(done.stdout, f"control API {argv}")
        assert ('"exit": 70' in done.stdout.decode() or '"exit":70' in done.stdout.decode()) == (
            argv[-1] != "/v1/history"
        )
    # The command line asks the supervisor, and is told of its bug.
    assert trail.run("plan", code=None).code == 70
    process.terminate()
    assert process.wait(20) == 0
    trail.clean(log.read_bytes(), "the supervisor's log")
    reports = list((site.state / "reconciler").glob("crash-*.txt"))
    assert len(reports) >= 2
    trail.check()


def test_a_bug_inside_a_step_is_named_by_its_class_only(trail: Trail) -> None:
    site = trail.site
    auth, _secret = by_env(trail)
    site.write(DOCUMENT.format(port=site.port, auth=auth))
    failed = with_bug(trail, "apply", "apply", "--yes")
    assert failed.code != 0
    assert "RuntimeError" in failed.out + failed.err
    for argv in (["why", "service/gateway"], ["history"], ["status"]):
        trail.run(*argv, code=None)
    trail.check()


def test_the_first_document_keeps_its_token_in_a_file_of_its_own(site: Site) -> None:
    done = site.run("init", "--port", str(site.port))
    assert done.code == 0, done.err
    token_file = site.home / ".openclaw-token"
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    token = token_file.read_text().strip()
    made = [Canary("the first token", token, token)]
    assert not leaks(done.out + done.err, made)
    assert not leaks(site.document.read_bytes(), made)
    site.edit("logging:", "policy: {verify: 0s}\nlogging:")
    answer = site.run("apply", "--yes")
    assert answer.code == 0, answer.err
    assert "parts" in site.health(secret=token)[1]
    for argv in (["plan"], ["status", "--json"], ["service", "status"], ["config", "get", "gateway"], ["logs"]):
        answer = site.run(*argv)
        assert not leaks(answer.out + answer.err, made), argv
    # Eight digits of a token can be part of a digest by chance; all of it cannot.
    whole = {
        str(path.relative_to(site.state)) for path in site.state.rglob("*") if path.is_file() and holds(path, token)
    }
    assert whole == {ENVIRONMENT_FILE}


def holds(path: Path, text: str) -> bool:
    return text.encode() in path.read_bytes()
