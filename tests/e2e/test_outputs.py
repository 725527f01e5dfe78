"""What the commands print: valid against the published schemas, the same bytes everywhere, and nothing for eyes alone."""

from __future__ import annotations

import itertools
import json
import os
import pty
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
from jsonschema.validators import Draft202012Validator

from reconciler.cli.main import COMMANDS, cli
from reconciler.cli.schemas import OUTPUTS
from tests.beds.processes import wait_until
from tests.beds.site import OPENCLAW, Answer, Site

pytestmark = pytest.mark.real

# What each output must hold by name, whatever its schema says: other programs were promised these.
PROMISED: Mapping[str, Any] = {
    "plan": {"generation", "complete", "applyable", "actions"},
    "status": {"generation", "resources"},
    "service-status": {
        "manager", "runtime", "state", "pid", "restarts", "last_exit", "since", "limits", "keeper", "last_keeper", "port",
        "hold", "drift",
    },
    "history": {"generations"},
    "apply": {"run", "result", "actions", "rolled_back_to"},
    "validate": {"problems"},
}  # fmt: skip
PROMISED_ITEMS: Mapping[tuple[str, str], set[str]] = {
    ("plan", "actions"): {
        "id", "key", "verb", "cause", "impact", "because", "differences", "consequences", "undo", "needs"
    },
    ("status", "resources"): {"key", "conditions", "detail"},
    ("history", "generations"): {"number", "digest", "at", "cause", "author", "commit", "result", "reason"},
    ("apply", "actions"): {"id", "key", "verb", "result", "seconds", "error"},
    ("validate", "problems"): {"file", "line", "column", "path", "code", "message", "expected", "hint"},
}  # fmt: skip
BECAUSE = {"file", "line", "column", "text"}
DIFFERENCE = {"path", "desired", "observed", "last_applied"}
CONDITION = {"type", "status", "reason", "message", "since", "observed_generation"}

# The command line of each output that only reads.
READING: Mapping[str, tuple[str, ...]] = {
    "plan": ("plan",),
    "drift": ("drift",),
    "status": ("status",),
    "why": ("why", "service/gateway"),
    "history": ("history",),
    "diff": ("diff", "1"),
    "validate": ("validate",),
    "service-status": ("service", "status"),
    "gateway-health": ("gateway", "health"),
    "config-get": ("config", "get", "gateway.port"),
    "config-explain": ("config", "explain", "gateway.port"),
}


@pytest.fixture(scope="module")
def published() -> Mapping[str, Draft202012Validator]:
    """The schemas as `openclaw schema NAME` prints them."""
    validators = {}
    for name in OUTPUTS:
        done = subprocess.run([OPENCLAW, "schema", name], capture_output=True, text=True, check=True)
        schema = json.loads(done.stdout)
        Draft202012Validator.check_schema(schema)
        validators[name] = Draft202012Validator(schema)
    return validators


Published = Mapping[str, Draft202012Validator]


def unpublished(schema: Mapping[str, Any], data: Any, place: str = "") -> Iterator[str]:
    """The places of all keys in `data` that the schema does not name, where it names any."""
    if isinstance(data, list):
        for item in data:
            yield from unpublished(schema.get("items", {}), item, f"{place}[]")
    elif isinstance(data, dict) and "properties" in schema:
        for key, value in data.items():
            if key not in schema["properties"]:
                yield f"{place}.{key}"
            yield from unpublished(schema["properties"].get(key, {}), value, f"{place}.{key}")


def check(published: Published, name: str, answer: Answer) -> Any:
    """Holds one `--json` output against everything that was promised of it; returns its data."""
    data = json.loads(answer.out)
    assert answer.out.endswith("}\n")
    assert next(iter(data)) == "schema"
    assert data["schema"] == f"openclaw.{name}/1"
    errors = [f"{error.json_path}: {error.message}" for error in published[name].iter_errors(data)]
    assert not errors, (name, errors)
    # Of the health only what everybody sees is promised.
    assert name == "gateway-health" or not list(unpublished(OUTPUTS[name], data)), name
    assert PROMISED.get(name, set()) <= data.keys()
    for (output, field), keys in PROMISED_ITEMS.items():
        if output == name:
            assert all(item.keys() >= keys for item in data[field]), (name, field)
    for action in data["actions"] if name in ("plan", "drift") else ():
        assert set(action["because"]) == BECAUSE
        assert all(item.keys() >= DIFFERENCE for item in action["differences"])
    for resource in data["resources"] if name == "status" else ():
        assert all(set(item) == CONDITION for item in resource["conditions"])
    return data


def check_all(published: Published, site: Site) -> dict[str, tuple[int, Any]]:
    """Runs every reading command with `--json`; the exit codes and data of those that printed."""
    found: dict[str, tuple[int, Any]] = {}
    for name, argv in READING.items():
        answer = site.call(*argv, "--json")
        assert "\x1b" not in answer.out + answer.err
        if not answer.out:
            # Nothing to show is an error, with words.
            assert answer.code not in (0, 2), (argv, answer)
            assert answer.err.startswith("openclaw: "), (argv, answer)
            continue
        found[name] = (answer.code, check(published, name, answer))
    return found


def test_every_output_has_a_command_here() -> None:
    assert {*READING, "apply"} == set(OUTPUTS)


@pytest.mark.req("PLAN-1", "PLAN-12", "PLAN-8", "DOC-8")
def test_outputs_in_every_state_of_the_host(site: Site, published: Published) -> None:
    site.write(verify="300ms")
    new = check_all(published, site)
    assert set(new) == set(READING) - {"diff", "gateway-health"}
    assert new["plan"][1]["generation"] == 0
    assert [code for code, _data in new.values()] == [0] * len(new)
    assert new["history"][1]["generations"] == []
    assert list(site.state.iterdir()) == []

    with socket.create_server(("127.0.0.1", site.port)):
        held = check_all(published, site)
        assert (held["plan"][0], held["plan"][1]["applyable"]) == (3, False)
        assert held["plan"][1]["blocked"][0]["key"] == "service/gateway"

    applied = check(published, "apply", site.call("apply", "--yes", "--json"))
    assert (applied["result"], applied["rolled_back_to"]) == ("confirmed", None)
    assert {item["result"] for item in applied["actions"]} == {"done"}
    converged = check_all(published, site)
    assert set(converged) == set(READING)
    assert converged["plan"][1]["actions"] == []
    assert converged["service-status"][1]["pid"] == site.gateway_pid()
    assert check(published, "apply", site.call("apply", "--yes", "--json"))["run"] is None

    site.edit("level: info", "level: debug")
    changed = check_all(published, site)
    assert changed["plan"][1]["actions"][0]["differences"] == [
        {"path": "logging.level", "desired": "debug", "observed": "info", "last_applied": "info", "cause": "change"}
    ]
    assert changed["diff"][1]["differences"] == [{"path": "logging.level", "from": "info", "to": "debug"}]
    assert changed["drift"] == (0, {**changed["drift"][1], "actions": []})
    site.edit("level: debug", "level: info")

    config = site.state / "openclaw.json"
    good = config.read_text()
    config.write_text(good.replace('"info"', '"warn"'))
    drifted = check_all(published, site)
    assert drifted["drift"][0] == 2
    assert drifted["drift"][1]["actions"][0]["cause"] == "drift"
    config.write_text(good)
    wait_until(lambda: site.level() == "info", 10, "the gateway runs by it")
    config.write_text("{ no JSON")
    damaged = check_all(published, site)
    assert (damaged["plan"][0], damaged["plan"][1]["actions"]) == (0, [])
    assert [note["code"] for note in damaged["plan"][1]["notes"]] == ["config_not_used"]
    (site.state / "openclaw.json.last-good").unlink()
    unknown = check_all(published, site)
    assert (unknown["plan"][0], unknown["plan"][1]["complete"]) == (1, False)
    assert unknown["plan"][1]["unknown"][0]["key"] == "gateway-config/gateway"
    config.write_text(good)

    site.write(site.document.read_text().replace("  auth:", "  bind: custom\n  host: 203.0.113.77\n  auth:", 1))
    rolled_back = check(published, "apply", site.call("apply", "--yes", "--json"))
    assert (rolled_back["result"], rolled_back["rolled_back_to"]) == ("rolled-back", 1)
    after = check_all(published, site)
    assert after["history"][1]["generations"][0]["result"] == "rolled-back"
    assert any(note["code"] == "quarantined" for note in after["status"][1]["notes"])

    site.write(verify="300ms")
    for verb in ("stop", "start", "restart", "stop"):
        service = check(published, "service-status", site.call("service", verb, "--json"))
        assert service["state"] == ("stopped" if verb == "stop" else "ready")
    stopped = check_all(published, site)
    assert "gateway-health" not in stopped
    assert stopped["plan"][1]["actions"] == []
    conditions = {item["key"]: item["conditions"] for item in stopped["status"][1]["resources"]}
    assert any(item["type"] == "Suspended" and item["status"] == "True" for item in conditions["service/gateway"])
    back = check(published, "apply", site.call("rollback", "1", "--yes", "--json"))
    assert back["result"] in ("confirmed", "superseded")


@pytest.mark.req("PLAN-1", "PLAN-12")
def test_a_supervisor_prints_the_same_bytes(site: Site, published: Published) -> None:
    site.write(verify="300ms")
    site.apply()
    supervisor = site.supervisor("--on-exit", "leave")
    site.wait_healthy()
    wait_until(lambda: site.plan()["actions"] == [], 20, "nothing left to do")
    commands = (["plan"], ["plan", "--json"], ["status", "--json"])
    asked = [site.run(*argv) for argv in commands]
    alone = bytes_printed(site, commands).decode()
    assert "".join(f"{answer.out}{argv} {answer.code}\n" for argv, answer in zip(commands, asked, strict=True)) == alone
    check(published, "plan", asked[1])
    check(published, "status", asked[2])
    assert supervisor.stop() == 0


@pytest.mark.req("DOC-2", "DOC-8")
def test_the_problems_of_a_document_as_data(site: Site, published: Published) -> None:
    site.write(
        "version: 1\ngatway: {}\ngateway: {port: many, auth: {token: literal-secret}}\nlogging: {level: verbose}\n"
    )
    answer = site.call("validate", "--json")
    assert answer.code == 78
    problems = check(published, "validate", answer)["problems"]
    assert [(item["line"], item["path"]) for item in problems] == [
        (2, "gatway"),
        (3, "gateway.port"),
        (3, "gateway.auth.token"),
        (4, "logging.level"),
    ]
    assert "literal-secret" not in answer.out + answer.err


# The same bytes everywhere

PROGRAM = """
import json, sys
from reconciler.cli.main import main
for argv in json.loads(sys.argv[1]):
    code = main(argv)
    print(argv, code)
    sys.stdout.flush()
"""
PRINTED = (
    ["validate"],
    ["validate", "--json"],
    ["validate", "--file", "broken.yaml"],
    ["validate", "--file", "broken.yaml", "--json"],
    ["schema"],
    ["schema", "plan"],
    ["plan"],
    ["plan", "--json"],
    ["history"],
    ["history", "--json"],
    ["config", "get", "gateway"],
    ["diff", "1"],
    ["diff", "1", "--json"],
)
BROKEN = """\
version: 1
gatway: {}
loging: {}
gateway: {prt: 1, prot: 2, bnd: 3, port: 70000, settings: {ä: ["ü", ☃]}}
service: {environment: {B: 1, A: 2, C: 3}, limits: {memroy: 1, cpu: 2}}
"""
ZONES = ("UTC", "Asia/Kolkata", "America/St_Johns", "<+13>-13")
LOCALES = ("C", "C.UTF-8", "POSIX", "de_DE.ISO-8859-1", "tr_TR.UTF-8")


def bytes_printed(site: Site, commands: Sequence[Sequence[str]] = PRINTED, **environ: str) -> bytes:
    """All that these commands print, in one process that asks no supervisor."""
    # The very interpreter of the command: the one that starts the gateway is part of what is planned.
    interpreter = OPENCLAW.read_text().splitlines()[0].removeprefix("#!")
    done = subprocess.run(
        [interpreter, "-c", PROGRAM, json.dumps(commands)],
        cwd=site.home,
        env={**site.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")
    return done.stdout


def worlds(count: int, locales: tuple[str, ...], zones: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Environments that must make no difference: `count` hash seeds with each locale and zone."""
    for seed, locale, zone in itertools.product(range(1, count + 1), locales, zones):
        yield {"PYTHONHASHSEED": str(seed * 7919), "LC_ALL": locale, "LANG": locale, "TZ": zone}


def differing_host(site: Site) -> None:
    """A host where there is much to print: three generations, changes and drift, and texts of other scripts."""
    site.write(verify="0s")
    site.apply()
    site.edit("level: info", "level: debug")
    site.apply("--author", "Zoë Ünal 測試")
    site.edit("level: debug", "level: warn\n  console: {level: error, style: json}\n  redact_patterns: ['ß+', '☃']")
    site.edit(
        "restart: {delay: 200ms, max_delay: 2s}",
        "environment: {B: x, A: y, C: ı}, restart: {delay: 300ms, max_delay: 3s}",
    )
    config = site.state / "openclaw.json"
    config.write_text(config.read_text().replace('"mode": "token"', '"mode": "password"'))
    (site.home / "broken.yaml").write_text(BROKEN, encoding="utf-8")


@pytest.mark.req("PLAN-1", "PLAN-8", "DOC-8")
def test_the_same_bytes_for_every_seed_locale_and_zone(site: Site) -> None:
    differing_host(site)
    first = bytes_printed(site)
    assert first.count(b"\n") > 300
    assert "☃".encode() in first
    for world in worlds(4, LOCALES[:2], ZONES[1:3]):
        assert bytes_printed(site, **world) == first, world


@pytest.mark.req("PLAN-1")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_no_encoding_of_the_terminal_stops_it(site: Site, encoding: str) -> None:
    (site.home / "broken.yaml").write_text(BROKEN, encoding="utf-8")
    commands = (["validate", "--file", "broken.yaml"], ["validate", "--file", "broken.yaml", "--json"])
    usual = [site.run(*argv) for argv in commands]
    site.extra |= {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    assert [site.run(*argv) for argv in commands] == usual
    assert [answer.code for answer in usual] == [78, 78]
    # A name that is no text in any encoding.
    name = os.fsdecode(b"b\xff\xfed.yaml")
    (site.home / name).write_text(BROKEN, encoding="utf-8")
    odd = site.run("validate", "--file", name)
    assert odd.code == 64
    assert 'cannot read the argument "b\\udcff\\udcfed.yaml": it is not UTF-8' in odd.err


@pytest.mark.soak
@pytest.mark.req("PLAN-1", "PLAN-8", "DOC-8")
def test_the_same_bytes_for_a_hundred_seeds(site: Site) -> None:
    differing_host(site)
    first = bytes_printed(site)
    for number, world in enumerate(worlds(100, LOCALES, ZONES)):
        # Each seed once, with the locales and zones in turn.
        if number % (len(LOCALES) * len(ZONES)) == number // (len(LOCALES) * len(ZONES)) % (len(LOCALES) * len(ZONES)):
            assert bytes_printed(site, **world) == first, world


def without_places(data: Any) -> Any:
    """A plan without what follows from where in the text something stands."""
    for action in data["actions"]:
        action["because"] = {"text": action["because"]["text"]}
    for note in data["notes"]:
        note["line"] = None
    return data


ORDERED = """\
version: 1
service:
  manager: embedded
  restart: {{delay: 200ms, max_delay: 2s}}
  environment: {{A: x, B: y}}
gateway:
  port: {port}
  bind: loopback
  auth: {{mode: token, token: {{env: E2E_TOKEN}}}}
  settings:
    agents: {{defaults: {{maxConcurrent: 4, workspace: w}}}}
    tools: {{profile: full}}
logging:
  level: info
  console: {{level: warn, style: pretty}}
heartbeats: {{late_after: 2}}
audit: {{every: 6h}}
policy: {{verify: 300ms, rollback: true}}
"""


def turned(value: Any) -> Any:
    """The same mapping with its keys the other way round, at every depth."""
    return {name: turned(item) for name, item in reversed(value.items())} if isinstance(value, dict) else value


@pytest.mark.req("PLAN-1")
def test_the_order_of_keys_makes_no_difference(site: Site) -> None:
    from ruamel.yaml import YAML

    text = ORDERED.format(port=site.port)
    data = turned(YAML(typ="safe", pure=True).load(text))
    site.write(text)
    first = without_places(site.call("plan", "--json").json)
    # JSON is YAML.
    site.write(json.dumps(data))
    assert without_places(site.call("plan", "--json").json) == first
    # Two sections that are not managed, and two settings that the built-in gateway does not heed.
    assert len(first["notes"]) == 4


# For eyes and for programs


def on_terminal(site: Site, *argv: str, **environ: str) -> str:
    """What a command prints to a terminal, standard error included."""
    leader, follower = pty.openpty()
    try:
        process = site.spawned.start(
            [OPENCLAW, *argv],
            cwd=site.home,
            env={**site.environ, "TERM": "xterm-256color", **environ},
            stdout=follower,
            stderr=follower,
        )
        os.close(follower)
        pieces = []
        try:
            while piece := os.read(leader, 65536):
                pieces.append(piece)
        except OSError:
            pass  # EIO is how a terminal says that its last user is gone (pty(7)).
        process.wait(30)
    finally:
        os.close(leader)
    return b"".join(pieces).decode()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["config", "set", "logging.level", "debug"], 1),
        (["history"], 1),
        (["schema"], 1),
        (["plan", "--json"], 1),
        (["plan", "--detailed-exitcode"], 2),
        (["--help"], 1),
        (["validate", "--file", "none.yaml"], 78),
    ],
)
def test_a_full_disk_behind_the_output_is_no_bug(site: Site, argv: list[str], code: int) -> None:
    site.write()
    for both in (False, True):
        with open("/dev/full", "w") as full:
            stderr = full if both else subprocess.PIPE
            done = subprocess.run(
                [OPENCLAW, *argv], cwd=site.home, env=site.environ, stdout=full, stderr=stderr, text=True, check=False
            )
        assert done.returncode == code
        if not both and argv[0] != "validate":
            assert "openclaw: cannot write to standard output: no space left on device\n" in done.stderr
            assert "the command itself was carried out" in done.stderr
    assert ("level: debug" in site.document.read_text()) == (argv[:2] == ["config", "set"])
    assert list(site.state.iterdir()) == []


@pytest.mark.req("PLAN-1")
def test_colour_only_on_a_terminal_that_wants_it(site: Site) -> None:
    site.write(verify="300ms")
    for argv in (["plan"], ["status"], ["history"], ["validate"], ["--help"], ["plan", "--nonsense"]):
        assert "\x1b" not in on_terminal(site, *argv, NO_COLOR="1")
        assert "\x1b" not in on_terminal(site, *argv, TERM="dumb")
        answer = site.run(*argv)
        assert "\x1b" not in answer.out + answer.err
        site.extra["FORCE_COLOR"] = "1"
    assert "\x1b[" in on_terminal(site, "plan")
    shown = on_terminal(site, "plan", "--json")
    assert "\x1b" not in shown
    assert json.loads(shown)["schema"] == "openclaw.plan/1"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["plna"], "did you mean 'plan'?"),
        (["stauts", "--json"], "did you mean 'status'?"),
        (["service", "statsu"], "statsu"),
        (["schema", "plam"], "did you mean 'plan'?"),
        (["plan", "--jsn"], "--jsn"),
        (["--nonsense"], "--nonsense"),
        (["config"], "config"),
        (["config", "get"], "PATH"),
        (["config", "get", "gateway..port"], "gateway..port"),
        (["why", "nonsense"], "nonsense"),
        (["apply", "--approve", "nonsense", "--yes"], "nonsense"),
        (["apply", "no-such-plan.json"], "no-such-plan.json"),
        (["run", "--on-exit", "maybe"], "maybe"),
        (["completion", "tcsh"], "tcsh"),
        (["logs", "--lines", "0"], "--lines"),
        (["diff", "1", "--text", "--json"], "cannot print --text as --json"),
        (["gateway", "call", "health", "--params", "{"], "--params"),
    ],
)
def test_wrong_usage_is_64_with_words(site: Site, argv: list[str], said: str) -> None:
    site.write()
    answer = site.call(*argv)
    assert (answer.code, answer.out) == (64, ""), answer
    assert said in answer.err
    assert answer.err.startswith("openclaw: ") or argv == ["config"]
    assert "Traceback" not in answer.err
    assert list(site.state.iterdir()) == []


@pytest.mark.req("DOC-9")
@pytest.mark.parametrize("command", ["plan", "apply", "status", "drift", "validate", "run"])
def test_without_a_document_it_says_where_it_looked(site: Site, command: str) -> None:
    argv = [command, *(["--yes"] if command == "apply" else [])]
    answer = site.run(*argv)
    assert (answer.code, answer.out) == (78, "")
    assert "openclaw.yaml: cannot read it: there is no such file" in answer.err
    assert "openclaw init" in answer.err
    assert list(site.state.iterdir()) == []


def every_command(group: click.Group = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every command and group."""
    yield path
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_help_everywhere(site: Site, path: tuple[str, ...]) -> None:
    for flag in ("--help", "-h"):
        answer = site.call(*path, flag)
        assert (answer.code, answer.err) == (0, ""), answer
        assert answer.out.startswith(f"Usage: {' '.join(('openclaw', *path))}")
    assert list(site.state.iterdir()) == []


def test_version(site: Site) -> None:
    answer = site.run("--version")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith("openclaw-reconciler ")
    assert site.run().code in (0, 64)


SHELLS = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "--no-execute"]}


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts_are_what_their_shell_reads(site: Site, shell: str) -> None:
    answer = site.call("completion", shell)
    assert (answer.code, answer.err) == (0, "")
    assert "_OPENCLAW_COMPLETE" in answer.out
    if shutil.which(shell) is not None:
        script = site.home / "script"
        script.write_text(answer.out)
        done = subprocess.run([*SHELLS[shell], script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_bash_completes_commands(site: Site) -> None:
    """What the script asks the program for, and what it gets."""
    site.extra |= {"_OPENCLAW_COMPLETE": "bash_complete", "COMP_WORDS": "openclaw pl", "COMP_CWORD": "1"}
    answer = site.run()
    assert (answer.code, answer.out) == (0, "plain,plan\n")
    site.extra |= {"COMP_WORDS": "openclaw service st", "COMP_CWORD": "2"}
    assert {line.partition(",")[2] for line in site.run().out.splitlines()} == {"status", "start", "stop"}
    assert Path(site.state, "reconciler").exists() is False


def test_every_command_is_in_the_list(site: Site) -> None:
    shown = site.call("--help").out
    assert all(f"  {name} " in shown for name in COMMANDS)
