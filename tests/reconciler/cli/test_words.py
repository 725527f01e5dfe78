"""What a person reads who typed something wrong, or asks before anything is there."""

from __future__ import annotations

import json
import os
import pwd
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete

from reconciler.cli.commands import document
from reconciler.cli.commands.apply import who
from reconciler.cli.commands.config import yaml_value
from reconciler.cli.main import cli
from reconciler.cli.options import Number
from reconciler.cli.session import Session
from reconciler.cli.supervisor import Silent
from reconciler.control.calls import apply_call
from reconciler.document import load
from reconciler.document.compose import compose
from reconciler.document.nodes import Scalar, Source, walk
from reconciler.document.problems import render_problems
from reconciler.document.schema import SECTIONS
from reconciler.engine.lock import WriterLock
from reconciler.errors import DocumentError, UsageError
from reconciler.values import join_path, split_path
from resources.service import proc
from tests.beds.users import directory_of_nobody, nobody
from tests.reconciler.cli.conftest import Shell

ROOT = Path(__file__).parents[3]
SETTINGS = ROOT / "docs" / "reference" / "settings.md"


@pytest.mark.parametrize("words", [(), ("config",), ("service",), ("gateway",)])
def test_without_a_command_the_help_is_shown_on_stderr_as_wrong_usage(shell: Shell, words: tuple[str, ...]) -> None:
    said = shell(*words)
    assert (said.code, said.out) == (64, "")
    assert said.err.startswith("Usage: openclaw")
    assert "hint" not in said.err
    assert "..." not in said.err.partition("Commands:")[2], "a line of the list is cut"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("pln",), "no such command: 'pln'; did you mean 'plan'?"),
        (("config", "get"), "missing argument 'PATH'"),
        (("completion", "tcsh"), "invalid value for 'SHELL'"),
        (("logs", "--since", "soon", "--file", "d.yaml"), "cannot use --since: cannot read 'soon' as a duration"),
        (("why", "nope", "--file", "d.yaml"), "cannot tell why: not a key: 'nope'"),
    ],
)
def test_wrong_usage_is_one_line_with_a_hint(shell: Shell, words: tuple[str, ...], text: str) -> None:
    said = shell(*words)
    assert said.code == 64
    assert said.err.startswith(f"openclaw: {text}")
    assert "\n  hint: " in said.err


def every_number() -> Iterator[tuple[tuple[str, ...], str | None]]:
    """The path of every command with an integer, and the option that it belongs to; None for an argument."""
    waiting: list[tuple[tuple[str, ...], click.Command]] = [((), cli)]
    while waiting:
        path, command = waiting.pop()
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                waiting.append(((*path, name), inner))
        for parameter in command.params:
            if isinstance(parameter.type, click.types.IntParamType | Number):
                assert isinstance(parameter.type, Number), path
                yield path, parameter.opts[0] if isinstance(parameter, click.Option) else None


@pytest.mark.parametrize("number", ["9" * 20, "9" * 5000, "0", "1_0", "²", "1.5", ""])
def test_a_number_out_of_range_is_wrong_usage_everywhere(shell: Shell, number: str) -> None:
    shell("init", "--port", "18989")
    found = list(every_number())
    assert len(found) == 7
    for path, option in found:
        said = shell(*path, *((option, number) if option else (number,)))
        assert (said.code, said.out) == (64, ""), (path, option)
        assert "is no whole number from 1 to" in said.err
        assert len(said.err) < 300


def test_the_greatest_number_is_only_one_that_there_is_not(shell: Shell) -> None:
    shell("init", "--port", "18989")
    greatest = str((1 << 63) - 1)
    assert shell("history", "-n", greatest).code == 0
    assert "cannot read the logs" in shell("logs", "-n", greatest).err
    assert "nothing was applied" in shell("rollback", greatest).err


def test_a_width_that_is_none_is_not_believed(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell("init", "--port", "18989")
    monkeypatch.setenv("COLUMNS", "9" * 5000)
    assert shell("validate").code == 0


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 32)


@pytest.mark.req("PLAN-2")
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (os.mkfifo, "not a regular file"),
        (Path.mkdir, "not a regular file"),
        (partial(os.symlink, "/dev/zero"), "not a regular file"),
        (sparse, "it is larger than 64 MiB"),
    ],
)
def test_what_is_no_file_of_the_size_of_a_plan_is_never_read_as_one(
    shell: Shell, tmp_path: Path, make: Callable[[Path], object], why: str
) -> None:
    shell("init", "--port", "18989")
    make(tmp_path / "kept")
    applied = shell("apply", "kept", "--yes")
    assert (applied.code, applied.out, applied.err) == (64, "", f'openclaw: cannot read the plan "kept": {why}\n')


@pytest.mark.parametrize("deep", ["[" * 100_000, "[" * 400 + "]" * 400, '{"a":' * 400 + "1" + "}" * 400])
def test_json_that_is_nested_too_deeply_is_wrong_usage(shell: Shell, tmp_path: Path, deep: str) -> None:
    shell("init", "--port", "18989")
    (tmp_path / "deep.json").write_text(deep)
    applied = shell("apply", "deep.json")
    assert (applied.code, applied.out) == (64, "")
    assert 'cannot read the plan "deep.json": more than 250 levels, one inside the other' in applied.err
    called = shell("gateway", "call", "health", "--params", deep)
    assert (called.code, called.out) == (64, "")
    assert "cannot read --params: more than 250 levels, one inside the other" in called.err
    assert shell("config", "get", f"a{deep}").code == 64


def test_a_line_of_the_log_that_is_nested_too_deeply_is_shown_as_it_stands(shell: Shell, tmp_path: Path) -> None:
    shell("init", "--port", "18989")
    logs = Path(os.environ["OPENCLAW_STATE_DIR"]) / "logs"
    logs.mkdir(parents=True)
    (logs / "openclaw-2026-01-01.log").write_text("[" * 5000 + "\n")
    assert shell("logs").out == "[" * 5000 + "\n"


@pytest.mark.req("PLAN-8")
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a\nb", "U+000A, which is not printable"),
        ("\x1b[31mred", "U+001B, which is not printable"),
        ("left\u202eright", "U+202E, which is not printable"),
        ("a\u2028b", "U+2028, which is not printable"),
        ("x" * 201, "it has 201 characters, at most 200 are kept"),
        (" ", "it is empty"),
    ],
)
@pytest.mark.parametrize(
    "words", [("apply", "--author"), ("apply", "--commit"), ("rollback", "--author"), ("service", "stop", "--why")]
)
def test_what_the_history_keeps_is_fit_to_be_printed(
    shell: Shell, words: tuple[str, ...], text: str, problem: str
) -> None:
    said = shell(*words, text)
    assert (said.code, said.out) == (64, "")
    assert f"invalid value for '{words[-1]}'" in said.err
    assert problem in said.err
    with pytest.raises(UsageError, match=r"cannot read the request: \"author\": it "):
        apply_call({"author": text})


@pytest.mark.req("PLAN-8")
@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"USER": "Zoë"}, "Zoë"),
        ({"SUDO_USER": "ada", "USER": "root"}, "ada"),
        ({"USER": "a\nb", "LOGNAME": "ada"}, "ada"),
        ({"USER": "", "LOGNAME": "\x1b"}, pwd.getpwuid(os.getuid()).pw_name),
        ({}, pwd.getpwuid(os.getuid()).pw_name),
    ],
)
def test_somebody_has_a_name(environ: dict[str, str], name: str) -> None:
    session = Session(environ={"HOME": "/", **environ}, directory="/", console=Silent(), kinds=tuple)
    assert who(session) == name


def test_without_a_document_it_is_said_where_one_comes_from(shell: Shell) -> None:
    said = shell("validate")
    assert said.code == 78
    assert "there is no ./openclaw.yaml either; `openclaw init` writes a first document" in said.err


def test_a_document_that_may_be_there_and_cannot_be_looked_for_is_not_called_missing(
    shell: Shell,
) -> None:
    # It loads what nobody may not read, where these tests lie in a directory of root's.
    assert "`openclaw init` writes a first document" in shell("validate", "--file", "nothing.yaml").err
    with directory_of_nobody() as closed:
        closed.chmod(0o600)
        with nobody():
            said = shell("validate", "--file", str(closed / "openclaw.yaml"))
    assert said.code == 78
    assert "cannot read it: permission denied" in said.err
    assert "hint" not in said.err


@pytest.mark.req("OPS-1")
def test_init_names_whoever_holds_the_usual_port_and_takes_the_twentieth_above(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        monkeypatch.setattr(document, "DEFAULT_PORT", port)
        said = shell("init")
        free = load.load("openclaw.yaml", {}).desired.gateway
        assert free is not None
        assert free.port is not None
        assert (free.port - port) % 20 == 0
        name = Path(sys.executable).name
        who = f"process {os.getpid()} ({name}) of user {os.geteuid()}"
        assert said.err == f"note: port {port} is held by {who}: the document gets port {free.port}\n"
        monkeypatch.setattr(proc, "holds_inode", lambda *_: False)
        said = shell("init", "--file", "other.yaml")
        assert said.err.startswith(f"note: port {port} is held by a process that this user may not see: ")


def test_init_says_how_the_directory_comes_that_is_not_there(shell: Shell, tmp_path: Path) -> None:
    said = shell("init", "--file", "no where/x.yaml", "--port", "18989")
    assert (said.code, said.out) == (1, "")
    place = tmp_path / "no where"
    assert said.err == (
        f'openclaw: cannot write "{place}/.openclaw-token": its directory is not there\n'
        f"  hint: mkdir -p '{place}' makes it\n"
    )


def test_init_keeps_a_token_that_only_we_know_and_says_so(shell: Shell) -> None:
    token = Path(".openclaw-token")
    token.write_text("keep\n")
    token.chmod(0o600)
    said = shell("init", "--port", "18989")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("wrote openclaw.yaml; kept the token in .openclaw-token, which was there already\n")
    assert token.read_text() == "keep\n"
    assert shell("validate", "--resolve").code == 0


def known(token: Path) -> str:
    token.write_text("keep\n")
    token.chmod(0o644)
    return "others may use it (mode 0644), so the token in it may be known"


def empty(token: Path) -> str:
    token.touch(0o600)
    return "it is empty"


def dangling(token: Path) -> str:
    token.symlink_to("nowhere")
    return "it is a symbolic link"


def linked(token: Path) -> str:
    target = token.with_name("elsewhere")
    target.write_text("keep\n")
    target.chmod(0o600)
    token.symlink_to(target)
    return "it is a symbolic link"


def directory(token: Path) -> str:
    token.mkdir(0o700)
    return "not a regular file"


def fifo(token: Path) -> str:
    os.mkfifo(token, 0o600)
    return "not a regular file"


@pytest.mark.parametrize("there", [known, empty, dangling, linked, directory, fifo])
def test_init_takes_over_no_token_that_others_may_know_and_writes_nothing(
    shell: Shell, there: Callable[[Path], str]
) -> None:
    why = there(Path(".openclaw-token").absolute())
    before = sorted(os.listdir())
    said = shell("init", "--port", "18989")
    assert (said.code, said.out) == (3, "")
    assert said.err.startswith(f'openclaw: cannot use ".openclaw-token", which is there already: {why}\n')
    assert "  hint: move .openclaw-token away for a new token" in said.err
    assert sorted(os.listdir()) == before


@pytest.mark.req("DOC-5", "DOC-6")
def test_config_set_names_the_file_that_it_wrote(shell: Shell) -> None:
    Path("openclaw.yaml").write_text("version: 1\ninclude: parts/common.yaml\n")
    Path("parts").mkdir()
    common = Path("parts/common.yaml")
    common.write_text('logging: {redact: "off"}\n')
    said = shell("config", "set", "logging.redact", "tools")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("parts/common.yaml, which openclaw.yaml includes: logging.redact is set; ")
    assert common.read_text() == 'logging: {redact: "tools"}\n'
    said = shell("config", "set", "logging.max_file", "2MiB")
    assert said.out.startswith("openclaw.yaml: logging.max_file is set; ")
    assert common.read_text() == 'logging: {redact: "tools"}\n'
    assert shell("config", "get", "logging.redact").out == "tools\n"
    assert shell("config", "get", "logging.max_file").out == "2MiB\n"


@pytest.mark.parametrize(
    ("words", "begun", "offered"),
    [
        (["schema"], "pl", ["plan"]),
        (["schema"], "do", ["document"]),
        (
            ["config", "get"],
            "gateway.au",
            ["gateway.auth", "gateway.auth.mode", "gateway.auth.token", "gateway.auth.password"],
        ),
        (["config", "set"], "logging.console.", ["logging.console.level", "logging.console.style"]),
        (["config", "explain"], "auth.profiles.any.exp", ["auth.profiles.any.expires"]),
        (["config", "get"], "tunnels.office.ident", ["tunnels.office.identity"]),
        (["config", "get"], "nothing.of", []),
        (["config", "get"], "gateway.port.", []),
    ],
)
def test_a_shell_is_offered_names_of_outputs_and_paths_of_settings(
    words: list[str], begun: str, offered: list[str]
) -> None:
    found = ShellComplete(cli, {}, "openclaw", "_OPENCLAW_COMPLETE").get_completions(words, begun)
    assert [item.value for item in found] == offered


def test_a_shell_is_offered_every_section(shell: Shell) -> None:
    found = ShellComplete(cli, {}, "openclaw", "_OPENCLAW_COMPLETE").get_completions(["config", "get"], "")
    assert {"service", "gateway", "logging", "policy", "tunnels"} <= {item.value for item in found}


@pytest.mark.req("DOC-3")
def test_get_and_explain_tell_of_a_default_without_its_section(shell: Shell) -> None:
    Path("openclaw.yaml").write_text("version: 1\n")
    said = shell("config", "get", "audit.every")
    assert (said.code, said.out) == (0, "6h\n")
    assert said.err == "note: audit.every: default, once the document has audit\n"
    said = shell("config", "explain", "audit.every")
    assert (said.code, said.out, said.err) == (0, 'audit.every = "6h"  (default, once the document has audit)\n', "")
    said = shell("config", "get", "service.limits.files")
    assert (said.code, said.out) == (0, "null\n")
    assert said.err == "note: service.limits.files: not declared, it has no default\n"
    said = shell("config", "get", "policy.verify")
    assert (said.code, said.out, said.err) == (0, "15s\n", "")
    said = shell("config", "explain", "audit.every", "--json")
    data = json.loads(said.out)
    assert (data["value"], data["origin"], data["condition"]) == ("6h", "default", "once the document has audit")


def settings() -> dict[str, str]:
    """All that the reference lists, as one types it, with the default that stands there. `any` is a free name."""
    listed = SETTINGS.read_text().partition("## top level")[2]
    rows = [line.split(" | ") for line in listed.splitlines() if line.startswith("| `")]
    names = [row[0].strip("| `").replace("<name>", "any").replace("[]", "[0]") for row in rows]
    return {name: row[2].strip("` ") for name, row in zip(names, rows, strict=True)}


def completed(begun: str = "") -> Iterator[str]:
    """All that a shell is offered, down to the last level."""
    for found in ShellComplete(cli, {}, "openclaw", "_OPENCLAW_COMPLETE").get_completions(["config", "get"], begun):
        yield found.value
        yield from completed(f"{found.value}.")


# What a section must say that has no default, so that it may be there.
NEEDED: dict[str, dict[str, Any]] = {
    "source": {"git": "ssh://git@host/ops.git"},
    "fleet": {"endpoints": ["https://etcd:2379"]},
    "diagnostics.otel": {"endpoint": "http://127.0.0.1:4318"},
}


@pytest.mark.req("DOC-3", "DOC-8")
def test_every_setting_that_is_listed_or_offered_is_known_whatever_the_document_has() -> None:
    empty = load.load_text("version: 1\n", {})
    sections = "".join(f"{name}: {json.dumps(NEEDED.get(name, {}))}\n" for name in SECTIONS)
    whole = load.load_text(f"version: 1\n{sections}", {})
    listed, offered = settings(), set(completed())
    assert offered - listed.keys() == set(SECTIONS)
    assert {path for path in listed.keys() - offered if "any" not in path and "[" not in path} == set()
    for path in listed.keys() | offered:
        for loaded in (empty, whole):
            found = loaded.explain(split_path(path))
            assert found.value is not None or found.origin != "default", path


@pytest.mark.req("DOC-4")
@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("notifications.channels.ops.url", '"https://hooks/canary'),
        ("diagnostics.otel.headers", "{X-Auth: canary"),
        ("notifications.channels", "{ops: {url: canary"),
        ("gateway.auth.token", "[canary"),
    ],
)
def test_a_secret_that_is_no_yaml_is_not_quoted(where: str, value: str) -> None:
    with pytest.raises(DocumentError) as caught:
        yaml_value(value, split_path(where))
    assert "canary" not in render_problems(caught.value.problems) + caught.value.message  # type: ignore[arg-type]


@pytest.mark.req("DOC-3", "DOC-8")
def test_a_default_that_is_listed_is_the_value_that_one_gets() -> None:
    """Written out, it is the same as what is told where neither it nor its section is there."""
    empty = load.load_text("version: 1\n", {})
    for path, default in settings().items():
        if default in ("", "required") or "any" in path or "[" in path or path == "include":
            continue
        told = empty.explain(split_path(path))
        section, *inside = path.split(".")
        value = yaml_value(default)
        for place in range(len(inside), 0, -1):
            needed = NEEDED.get(".".join((section, *inside[: place - 1])), {})
            value = {**needed, inside[place - 1]: value}
        written = load.load_text(f"version: 1\n{section}: {json.dumps(value)}\n", {})
        wanted = written.explain(split_path(path)).value
        assert told.value == wanted or told.condition.startswith(f"its default is {json.dumps(wanted)} "), path


@pytest.mark.req("DOC-6", "DOC-7")
def test_what_config_get_prints_is_what_config_set_takes(shell: Shell) -> None:
    """Every single value of the example, printed either way and set again, leaves the document as it is."""
    text = (ROOT / "openclaw.yaml.example").read_text()
    before = load.load_text(text, {})
    node, _ = compose(Source("", "", text))
    assert node is not None
    paths = [path for path, each in walk(node) if isinstance(each, Scalar) and not isinstance(path[-1], int)]
    assert {("service", "limits", "memory"), ("policy", "verify"), ("service", "limits", "cpu")} <= set(paths)
    for path in paths:
        if not isinstance(before.explain(path).value, str | int | float):
            # A reference to a secret is a mapping, however it is written.
            continue
        Path("openclaw.yaml").write_text(text)
        name = join_path(path)
        value = json.dumps(json.loads(shell("config", "get", "--json", name).out)["value"])
        assert shell("config", "set", name, value).code == 0, (name, value)
        after = load.load_text(Path("openclaw.yaml").read_text(), {})
        assert after.desired.canonical == before.desired.canonical, (name, value)


@pytest.mark.req("DOC-6", "DOC-7")
@pytest.mark.parametrize(
    ("value", "printed"),
    [
        ("plain words: 10:30, it's", '"plain words: 10:30, it\'s"'),
        ("10:30", "10:30"),
        ("it's", "it's"),
        ("yes", "yes"),
        ("", '""'),
        ("1", '"1"'),
        ("null", '"null"'),
        ("~", '"~"'),
        ("0o17", '"0o17"'),
        ("a #b", '"a #b"'),
        ("a:", '"a:"'),
        (" x ", '" x "'),
        ("[x", '"[x"'),
        ("one\ntwo\n", '"one\\ntwo\\n"'),
        ("\x7f\u2028", '"\\x7f\\u2028"'),
        (["\x7f", {"a": "1"}], '["\\x7f", {"a": "1"}]'),
        (1, "1"),
        (None, "null"),
    ],
)
def test_a_value_that_yaml_would_take_for_another_is_printed_in_quotes(
    shell: Shell, value: object, printed: str
) -> None:
    text = f"version: 1\ngateway:\n  settings:\n    x: {json.dumps(value)}\n"
    Path("openclaw.yaml").write_text(text.replace("\x7f", "\\x7f"))
    said = shell("config", "get", "gateway.settings.x")
    assert said.out == f"{printed}\n"
    assert shell("config", "set", "gateway.settings.x", said.out.rstrip("\n")).code == 0
    assert load.load_text(Path("openclaw.yaml").read_text(), {}).explain(("gateway", "settings", "x")).value == value


@pytest.mark.req("DOC-6")
@pytest.mark.parametrize("empty", ["", "  ", "# only a comment"])
def test_an_empty_value_sets_nothing(shell: Shell, empty: str) -> None:
    shell("init", "--port", "18989")
    before = Path("openclaw.yaml").read_bytes()
    said = shell("config", "set", "gateway.port", empty)
    assert (said.code, said.out) == (64, "")
    assert said.err == (
        "openclaw: cannot use an empty value\n  hint: `null` withdraws the setting, `'\"\"'` is the empty text\n"
    )
    assert Path("openclaw.yaml").read_bytes() == before


@pytest.mark.req("DOC-6")
@pytest.mark.parametrize("path", ['gateway.settings."a b".c', "gateway.settings.a b.c", "gateway.settings.it's"])
def test_a_name_with_quotes_or_blanks_stands_in_brackets_only(shell: Shell, path: str) -> None:
    document = Path("openclaw.yaml")
    document.write_text("version: 1\ngateway: {port: 18989}\n")
    for words in (("set", path, "1"), ("get", path), ("explain", path)):
        said = shell("config", *words)
        assert (said.code, said.out) == (64, "")
        assert 'write it like gateway.auth.token, policy.windows[0] or gateway.settings["a b"].c\n' in said.err
    assert shell("config", "set", 'gateway.settings["a b"].c', "1").code == 0
    assert document.read_text() == 'version: 1\ngateway: {port: 18989, settings: {"a b": {c: 1}}}\n'


@pytest.mark.req("DOC-7")
def test_values_with_a_unit_go_from_one_document_to_another(shell: Shell) -> None:
    Path("openclaw.yaml").write_text(
        "version: 1\nservice: {limits: {memory: 1536M, cpu: 150%}, restart: {delay: 0.5s}}\n"
    )
    for name, value in (("memory", "1536MiB"), ("cpu", "150%")):
        assert shell("config", "get", f"service.limits.{name}").out == f"{value}\n"
        assert shell("config", "set", f"service.limits.{name}", value).code == 0
    assert shell("config", "get", "service.restart.delay").out == "500ms\n"
    whole = json.loads(shell("config", "get", "--json", "service.restart").out)["value"]
    assert (whole["delay"], whole["max_delay"], whole["burst"]) == ("500ms", "5m", 5)
    assert shell("config", "set", "service.restart", json.dumps(whole)).code == 0


def the_document(path: Path) -> str:
    path.symlink_to("openclaw.yaml")
    return "it is no plan file"


def a_token(path: Path) -> str:
    path.write_text("0123456789abcdef\n")
    return "it is no plan file"


def another_output(path: Path) -> str:
    path.write_text('{"schema": "openclaw.plan/1"}\n')
    return "it is no plan file"


def a_list(path: Path) -> str:
    path.write_text("[]")
    return "it is no plan file"


def nowhere(path: Path) -> str:
    path.symlink_to("nowhere")
    return "no such file or directory"


@pytest.mark.req("PLAN-2")
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("there", [a_token, the_document, another_output, a_list, nowhere, directory, fifo])
def test_a_plan_takes_the_place_of_no_other_file(
    shell: Shell, there: Callable[[Path], str], blocked: bool, free_port: Callable[[], int]
) -> None:
    port = free_port()
    shell("init", "--port", str(port))
    path = Path("kept")
    why = there(path)
    before = path.lstat(), Path("openclaw.yaml").read_bytes(), sorted(os.listdir())
    with socket.create_server(("127.0.0.1", port if blocked else 0)):
        assert shell("plan").code == (3 if blocked else 0)
        said = shell("plan", "--out", "kept")
    assert (said.code, said.out) == (64, "")
    assert said.err == (
        f'openclaw: cannot keep the plan in "kept", which is there already: {why}\n'
        "  hint: name another file, or move this one away\n"
    )
    now = path.lstat(), Path("openclaw.yaml").read_bytes(), sorted(os.listdir())
    assert (now[0].st_ino, now[0].st_mtime_ns, now[1:]) == (before[0].st_ino, before[0].st_mtime_ns, before[1:])


@pytest.mark.req("PLAN-2")
def test_a_plan_takes_the_place_of_an_earlier_one_and_of_an_empty_file(
    shell: Shell, free_port: Callable[[], int]
) -> None:
    shell("init", "--port", str(free_port()))
    path = Path("kept")
    path.touch()
    for _ in range(2):
        inode = path.stat().st_ino
        assert shell("plan", "--out", "kept").code == 0
        assert path.stat().st_ino != inode
        assert path.read_text().startswith('{"digest":"')


@pytest.mark.req("DOC-4")
def test_a_secret_file_that_others_may_read_is_noted(shell: Shell) -> None:
    shell("init", "--port", "18989")
    assert shell("validate").err == ""
    token = Path(".openclaw-token")
    token.chmod(0o640)
    for words in (("validate",), ("validate", "--resolve", "--json")):
        said = shell(*words)
        assert (said.code, said.err) == (
            0,
            'note: other users may use the secret file ".openclaw-token" (mode 0640); chmod 600 keeps them out\n',
        )


@pytest.mark.req("DOC-2")
@pytest.mark.parametrize("words", [("validate",), ("config", "set", "logging.level", "warn")])
def test_a_problem_names_the_file_as_the_operator_does_and_the_whole_path(shell: Shell, words: tuple[str, ...]) -> None:
    Path("openclaw.yaml").write_text("version: 1\nlogging:\n  level: !!str info\n")
    said = shell(*words)
    assert said.code == 78
    assert said.err.startswith("openclaw.yaml:3:10: cannot use the tag !!str: tags are not supported\n")
    assert "\n  at: logging.level\n" in said.err


@pytest.mark.req("DOC-2")
def test_problems_point_at_the_value_whether_it_is_invalid_or_unresolved(shell: Shell) -> None:
    document = Path("openclaw.yaml")
    for value, code in (("{file: nope}", "validate --resolve"), ("5", "validate")):
        document.write_text(f"version: 1\ngateway:\n  auth:\n    token: {value}\n")
        assert shell(*code.split()).err.startswith("openclaw.yaml:4:12: cannot ")


@pytest.mark.req("DOC-3")
def test_config_set_says_what_the_environment_sets_instead(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell("init", "--port", "18989")
    monkeypatch.setenv("OPENCLAW_LOG_LEVEL", "debug")
    said = shell("config", "set", "logging.level", "warn")
    assert said.code == 0
    wins = 'note: OPENCLAW_LOG_LEVEL in this environment wins over the document: logging.level is "debug" with it\n'
    assert said.err == wins
    assert shell("config", "set", "logging", "{level: error}").err.endswith(wins)
    assert shell("config", "set", "gateway.bind", "lan").err == ""


@pytest.mark.req("DOC-6")
def test_config_set_says_that_comments_inside_of_what_it_replaced_are_gone(shell: Shell) -> None:
    Path("openclaw.yaml").write_text("version: 1\nlogging:\n  # one\n  level: info\n")
    said = shell("config", "set", "logging", "{level: warn}")
    assert said.err == "note: 1 comment inside the value that was replaced is gone\n"


@pytest.mark.req("DOC-6")
def test_what_an_editor_saves_while_config_set_works_is_kept(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    document = Path("openclaw.yaml")
    document.write_text("version: 1\nlogging:\n  level: info\n")
    load_edited, saves = load.load_edited, iter(range(100))

    def saved_meanwhile(*args: Any, **options: Any) -> load.Loaded:
        if (number := next(saves)) < often:
            document.write_text(f"version: 1\nlogging:\n  level: info  # {number}\n")
        return load_edited(*args, **options)

    monkeypatch.setattr(load, "load_edited", saved_meanwhile)
    often = 2
    assert shell("config", "set", "logging.level", "warn").code == 0
    assert document.read_text() == "version: 1\nlogging:\n  level: warn  # 1\n"
    often = 100
    said = shell("config", "set", "logging.level", "debug")
    assert (said.code, said.out) == (4, "")
    assert said.err.startswith(
        "openclaw: cannot set 'logging.level': somebody else changed the file in each of 5 tries\n"
    )
    assert "level: info  # 7" in document.read_text()
    assert os.listdir() == ["openclaw.yaml"]


def test_health_asks_no_stranger_before_anything_was_applied(shell: Shell) -> None:
    shell("init", "--port", "18989")
    said = shell("gateway", "health")
    assert said.code == 69
    assert "nothing was applied here yet" in said.err


@pytest.mark.parametrize("words", [("health",), ("call", "status")])
def test_a_stranger_on_the_gateways_port_is_not_asked(
    shell: Shell, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        monkeypatch.setenv("OPENCLAW_STATE_DIR", str(tmp_path / "state"))
        (tmp_path / "state").mkdir(mode=0o700)
        (tmp_path / "state/openclaw.json").write_text(f"{{gateway: {{port: {port}, auth: {{token: 'hunter2'}}}}}}")
        Path("openclaw.yaml").write_text("version: 1\nlogging: {level: info}\n")
        said = shell("gateway", *words)
        assert (said.code, said.out) == (69, "")
        assert f"none of this state directory ({tmp_path / 'state'}) listens on port {port}" in said.err
        stranger.settimeout(0)
        with pytest.raises(BlockingIOError):
            stranger.accept()


@pytest.mark.req("PLAN-1")
def test_a_value_from_the_environment_is_named_without_a_line(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell("init", "--port", "18989")
    monkeypatch.setenv("OPENCLAW_GATEWAY_PORT", "18990")
    assert "because environment OPENCLAW_GATEWAY_PORT: gateway.port is absent" in shell("plan").out


@pytest.mark.req("PLAN-17")
def test_where_the_environment_gives_a_held_port_the_hint_says_so(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell("init", "--port", "18989").code == 0
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        monkeypatch.setenv("OPENCLAW_GATEWAY_PORT", str(stranger.getsockname()[1]))
        blocked = shell("plan")
    assert blocked.code == 3
    said = "OPENCLAW_GATEWAY_PORT in the environment sets gateway.port and wins over the document: change or unset it"
    assert said in blocked.err


async def test_a_state_directory_that_a_lock_creates_is_private(tmp_path: Path) -> None:
    root = tmp_path / "state"
    lock = WriterLock(root / "reconciler" / "lock", command="openclaw apply", now=lambda: 0.0)
    assert lock.acquire_nowait()
    lock.release()
    assert [path.stat().st_mode & 0o777 for path in (root, root / "reconciler")] == [0o700, 0o700]
