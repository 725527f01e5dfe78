"""No secret is shown of a document that is broken as YAML, wherever the schema has one, and whatever is broken."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from reconciler.desired import SecretRef
from reconciler.document.compose import compose
from reconciler.document.fast import shape_data
from reconciler.document.load import load_text
from reconciler.document.masking import OTHER_SECTIONS, Unread, is_secret_holder, is_secret_place
from reconciler.document.nodes import Source
from reconciler.document.problems import problem_json, render_problems
from reconciler.document.raw import texts_beside
from reconciler.document.secrets import resolve_references
from reconciler.errors import DocumentError
from tests.beds.pace import slowness

pytestmark = pytest.mark.req("DOC-4")


def refused(text: str) -> str:
    with pytest.raises(DocumentError) as caught:
        load_text(text, {})
    return render_problems(caught.value.problems)  # type: ignore[arg-type]


def diffed(tmp_path: Path, text: str) -> str:
    path = tmp_path / "openclaw.yaml"
    path.write_text(text)
    found = texts_beside(str(path), {}, name="openclaw.yaml")
    assert found is not None
    return found["openclaw.yaml"]


def secret_places(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    match node:
        case {"check": ["secret" | "or_null", *_]} if "secret" in repr(node["check"]):
            yield path
        case {"map": below}:
            yield from secret_places(below, (*path, "some"))
        case {"list": below}:
            yield from secret_places(below, path)
        case {"model": name}:
            for field, below in shape_data()["models"][name].items():
                yield from secret_places(below, (*path, field))
        case {"tag": _, "models": names}:
            for name in names.values():
                yield from secret_places({"model": name}, path)


PLACES = sorted({each for name, node in shape_data()["sections"].items() for each in secret_places(node, (name,))})


def test_every_secret_of_the_schema_is_one_by_its_place() -> None:
    assert ("notifications", "channels", "some", "url") in PLACES
    assert ("diagnostics", "otel", "headers", "some") in PLACES
    assert len(PLACES) >= 9
    assert all(map(is_secret_place, PLACES))


def test_every_mapping_around_a_secret_is_one_by_its_place() -> None:
    around = {path[:-1] for path in PLACES} - {("fleet",), ("tunnels", "some")}
    assert all(map(is_secret_holder, {*around, ("auth",), ("notifications",), ("service", "environment")}))
    assert not any(map(is_secret_holder, {*PLACES, ("gateway", "settings")}))
    assert {"auth", "notifications", "diagnostics"} == shape_data()["sections"].keys() - OTHER_SECTIONS


def block(path: tuple[str, ...], value: str) -> str:
    lines = [f"{'  ' * depth}{name}:" for depth, name in enumerate(path)]
    return "\n".join(lines) + f"{value}\n"


def flow(path: tuple[str, ...], value: str) -> str:
    return f"{path[0]}: " + "".join(f"{{{name}: " for name in path[1:]) + value.strip() + "}" * (len(path) - 1) + "\n"


VALUES = (
    " https://hooks/kanari",
    ' "https://hooks/kanari"',
    ' "https://hooks/\\"kanari"',
    " 'https://hooks/kanari\n    kanari: x'",
    "\n          https://hooks/kanari\n          kanari: x",
    "\n\n          # why\n          https://u:p@hooks/kanari",
    " |\n          one\n\n          two: kanari",
    " https://hooks/\n          one\n          kanari",
)
BREAKS = (
    "{}x: 'unclosed\n",
    "x: [\n{}",
    "x: 'unclosed\n{}",
    "x: \"unclosed\n{}y: 'unclosed\n",
    "x-a: {{\n{}",
    "{}  }}\n",
    "{}\tx: 1\n",
)


@pytest.mark.parametrize("path", PLACES, ids=".".join)
@pytest.mark.parametrize("write", [block, flow])
def test_where_nothing_can_be_read(tmp_path: Path, path: tuple[str, ...], write: Any) -> None:
    for value in VALUES:
        for broken in BREAKS:
            text = broken.format("version: 1\n" + write(path, value))
            assert "kanari" not in refused(text), text
            assert "kanari" not in diffed(tmp_path, text), text


@pytest.mark.parametrize("path", PLACES, ids=".".join)
@pytest.mark.parametrize(
    "line",
    [
        " https://hooks/kanari: x",
        ' "https://hooks/kanari',
        ' "https://hooks/"kanari"',
        " [https://hooks/kanari",
        " {https://hooks/kanari",
        " {env: https://hooks/kanari",
        " @https://hooks/kanari",
        ' "https://hooks/\\kanari"',
        " !kanari https://hooks/kanari",
        " &kanari &x https://hooks/kanari",
        " *kanari",
    ],
)
def test_where_its_own_line_is_broken(tmp_path: Path, path: tuple[str, ...], line: str) -> None:
    for text in (block(path, line), f"{path[0]}: " + "".join(f"{{{name}: " for name in path[1:]) + line + "\n"):
        assert "kanari" not in refused("version: 1\n" + text), text
        assert "kanari" not in diffed(tmp_path, "version: 1\n" + text), text


@pytest.mark.parametrize(
    "text",
    [
        "notifications:\n  channels:\n    ops:\n      url: https://hooks/kanari\n      url: https://hooks/kanariNEW\n",
        "notifications: {channels: {ops: {url: https://hooks/kanari, url: https://hooks/kanariNEW}}}\n",
        "diagnostics: {otel: {endpoint: http://x, headers: {X-Auth: kanariA, X-Auth: kanariB}}}\n",
        "diagnostics: {otel: {headers: {X-Auth: a}, headers: {X-Auth: kanari}}}\n",
        "diagnostics: {otel: {headers: {1: kanari, ? [x] : kanari, <<: kanari}}}\n",
        "notifications: {channels: {ops: {<<: {url: kanari}}}}\n",
        "notifications: {}\nnotifications:\n  channels: {ops: {url: kanari}}\n",
        "gateway: {auth: {token: {a: kanari, a: kanari}}}\n",
        "gateway: {settings: {cookies: [{a: {env: x}, x: {}, x: [kanari]}]}}\n",
        "gateway: {auth: {token: !kanari {a: kanari}}}\n",
        "notifications: {channels: {ops: {url: !kanari x}}}\n",
        "notifications: {channels: {ops: {url: &kanari }}}\n",
        "gateway: {auth: {tokne: kanari, tokne: kanari}}\n",
        "gateway: {auth: {tokne: {a: kanari}, tokne: [kanari]}}\n",
        'gateway: {auth: {tokne: kanari, b: "\n',
        "diagnostics: {otel: {endpoint: http://x, haeders: {X-Auth: kanari}}}\n",
        'diagnostics: {otel: {haeders: {X-Auth: kanari}, b: "\n',
        "diagnostics:\n  otel:\n    endpoint: http://x\n    haeders:\n      X-Auth: kanari\n      Other: kanari\n",
        "diagnostics:\n  otel:\n    haeders:\n      X-Auth: kanari\n      Other: kanari\n    x: [\n",
    ],
)
def test_what_the_tree_has_no_place_for(tmp_path: Path, text: str) -> None:
    assert "kanari" not in refused("version: 1\n" + text)
    assert "kanari" not in diffed(tmp_path, "version: 1\n" + text)


@pytest.mark.parametrize("quote", ['"', "'"])
@pytest.mark.parametrize(
    "lines",
    [
        "gateway:\n  auth:\n    token: Qx\n    password: QkanariQ\n",
        "gateway:\n  auth:\n    token: Qx\n    mode: token\n    password: QkanariQ\n    tokens: [QaQ, QkanariQ]\n",
        "service:\n  environment:\n    ANTHROPIC_API_KEY: Qsk-ant-x\n    DATABASE_PASSWORD: QkanariQ\n",
        "gateway:\n  auth:\n    token: Qx\n    tokens: [Qkanari-1Q, Qkanari-2Q]\n",
        "notifications:\n  channels:\n    a: {url: Qhttps://h/x}\n    b: {url: Qhttps://h/kanariQ}\n",
        "gateway:\n  auth:\n    token: Qx\ndiagnostics:\n  otel:\n    headers:\n      a: Qb\n      c: kanari\n",
        "notifications: {channels: {a: {url: Qhttps://h/x, b: 1}, c: {url: Qhttps://h/kanariQ}}}\n",
    ],
)
def test_a_closing_quote_is_forgotten(tmp_path: Path, lines: str, quote: str) -> None:
    text = "version: 1\n" + lines.replace("Q", quote)
    assert "kanari" not in refused(text)
    assert "kanari" not in diffed(tmp_path, text)


@pytest.mark.parametrize(
    "text",
    [
        "gateway:\n  auth:\n    mode: token\n    password kanari\n",
        "gateway:\n  auth:\n    mode: token\n    token kanari\n  port: 1\n",
        "gateway:\n  auth:\n    token kanari\n",
        "gateway:\n  auth:\n    mode: token\n    password\n      kanari\n",
        "gateway:\n  auth:\n    mode: token\n    password\uff1a \u201ckanari\u201d\n",
        "service:\n  environment:\n    LANG: C\n    OPENAI_API_KEY kanari\n",
        "service:\n  environment:\n    LANG: C\n    export OPENAI_API_KEY=kanari\n",
        "service:\n  environment:\n    export OPENAI_API_KEY=kanari\n",
        "service:\n  environment:\n    - OPENAI_API_KEY=kanari\n    - LANG=C\n",
        "service: {environment: [{name: OPENAI_API_KEY, value: kanari}]}\n",
        "service:\n  environment: ANTHROPIC_API_KEY=kanari\n",
        "auth:\n  profiles:\n    a:\n      type: api_key\n      key kanari\n",
        "auth:\n  profiles:\n    a:\n      key kanari\n",
        "notifications:\n  channels:\n    ops:\n      url:https://hooks/kanari\n",
        "notifications:\n  channels:\n    ops:\n      type: x\n      url:https://hooks/kanari\n",
        "notifications:\n  channels:\n    ops:\n      type: x\n      url https://hooks/kanari\n",
        "notifications:\n  channels:\n    ops:\n      url https://hooks/kanari\n",
        "notifications:\n  channels:\n    ops: {url=https://hooks/kanari\n",
        "notifications:\n  channels:\n    ops:\n      url=https://hooks/kanari\n",
        "diagnostics:\n  otel:\n    headers: x-api=kanari\n",
        "diagnostics:\n  otel:\n    headers:\n      x-api=kanari\n",
        "diagnostics:\n  otel:\n    headers: [x-api, kanari]\n",
        "diagnostics:\n  otel:\n    headers: [x-api, kanari\n",
        "fleet: password kanari\n",
        "tunnels: {a: token kanari}\n",
    ],
)
def test_the_sign_between_a_name_and_its_value_is_missing(tmp_path: Path, text: str) -> None:
    assert "kanari" not in refused("version: 1\n" + text)
    assert "kanari" not in diffed(tmp_path, "version: 1\n" + text)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("    mode: token", None),
        ("a: {mode: token, port: 1", None),
        ("key: {env: MY_KEY}, b: {env: OPENAI_API_KEY}", None),
        ("file: /run/secrets/gateway", None),
        ("file: secrets/gateway-password", None),
        ("token ${GATEWAY_TOKEN}", None),
        ("token: ${Hidden9}}", "token: ********"),
        ("token: ${AKIAHIDDEN123}}", "token: ********"),
        ("  port 18789", None),
        ("- [{gateway:", None),
        ("  'anthropic:default': {type: api_key, verify: 1h30m", None),
        ("never_on_exit: [78,", None),
        ("token: null, x: ~, key: true", None),
        ("level: info debug", "level: ********"),
        ("level: 'info", "level: ********"),
        ("    mode: token  # why", "    mode: token  # ********"),
        ("exec: [get-secret, gateway", "exec: [********"),
        ("name: the key to it", "name: ********"),
        ("MY_API_KEY=shown", "MY_API_KEY=********"),
        ("MY_KEY=hidden", "********"),
        ("hidden:hidden", "********"),
        ("aGlkZGVu==", "********"),
        ("MY_KEY: hidden", "MY_KEY: ********"),
        ("    mode: hidden", "    mode: ********"),
        ("mode: tokn", None),
        ("- word", "- ********"),
        ("prot 18789", "********"),
        ("x-a: @ops", "x-a: @********"),
        ("token: @ops", "token: ********"),
        ("a: {mode: token, 'b c': 1", "a: {mode: token, ********"),
    ],
)
def test_of_a_line_of_no_known_place_only_names_and_values_of_plain_settings_are_shown(
    line: str, shown: str | None
) -> None:
    assert Unread().show(line) == (line if shown is None else shown)


@pytest.mark.parametrize(
    "text",
    [
        "notifications: {ops: {url: https://hooks/kanari}}\n",
        "notifications: {channels: {url: https://hooks/kanari}}\n",
        "notifications: {channels: {ops: 'https://hooks/kanari'}}\n",
        "notifications:\n  channels:\n    ops: https://hooks/kanari\n",
        "notifications:\n  channels:\n    ops: https://hooks/kanari\nx: [\n",
        "notifications: {url: https://hooks/kanari}\n",
        "notifications: {channels: {ops: https://hooks/kanari}}\n",
        "notifications: {channels: {ops: [https://hooks/kanari]}}\n",
        "notifications: {channels: {ops: {more: {url: kanari}}}}\n",
        "notifications: {channels: [{name: ops, address: kanari}]}\n",
        "notifications: {ops: {url: &kanari }}\n",
        "notificatons: {channels: {ops: {url: kanari}}}\n",
        "auth: {profiles: {key: kanari}}\n",
        "auth: {key: kanari}\n",
        "auth: kanari\n",
        "auth: {profiles: kanari}\n",
        "auth: {profiles: {x: kanari}}\n",
        "profiles: {x: kanari}\n",
        "channels: {ops: {url: kanari}}\n",
        "diagnostics: {headers: {X-Auth: kanari}}\n",
        "diagnostics: {otel: {endpoint: 'http://x', key: kanari}}\n",
    ],
)
def test_a_secret_stands_one_level_off_its_place(tmp_path: Path, text: str) -> None:
    assert "kanari" not in refused("version: 1\n" + text)
    assert "kanari" not in diffed(tmp_path, "version: 1\n" + text)


@pytest.mark.parametrize(
    "text",
    [
        "gateway: {auth: {mode: token, token kanari}}\n",
        "gateway: {auth: {mode: token, token kanari: {a: b, a: c}}}\n",
        "gateway: {auth: {mode: token, token kanari: 1, token kanari: 2}}\n",
        "gateway: {auth: {mode: token, ? token kanari}}\n",
        "gateway: {auth: {token kanari: , port: [}}\n",
        "gateway: {auth: {token: {kanari}}}\n",
        "gateway: {auth: {mode: token, sk-ant-kanari123}}\n",
        "tunnels: {a: {type: ssh, 'password=kanari': 1}}\n",
        "tunnels: {'password kanari': {type: ssh}}\n",
        'service:\n  environment:\n    "OPENAI_API_KEY=kanari":\n',
        'service:\n  environment:\n    "OPENAI_API_KEY=kanari": 1\n    "OPENAI_API_KEY=kanari": 2\n',
        'service:\n  environment:\n    "OPENAI_API_KEY=\\\n      kanari": x\n',
        "service: {environment: {OPENAI_API_KEY kanari}}\n",
        "notifications: {channels: {ops: {'url=https://hooks/kanari'}}}\n",
        "token kanari: 1\n",
        "[token kanari]: 1\n",
    ],
)
def test_a_secret_stands_in_a_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(DocumentError) as caught:
        load_text("version: 1\n" + text, {})
    problems: Any = caught.value.problems
    assert "kanari" not in render_problems(problems)
    assert "kanari" not in json.dumps([problem_json(each) for each in problems])
    assert "kanari" not in diffed(tmp_path, "version: 1\n" + text)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("gateway: {auth: {token: {file: sk-kanari-kanari}}}\n", "./NAME"),
        ("gateway: {auth: {token: {file: '123456789:kanariAAHkanariAAHkanariAAHkanariAAH'}}}\n", "./NAME"),
        ("gateway: {auth: {token: {file: 'postgres://u:kanari@h/x'}}}\n", "./NAME"),
        ("gateway: {auth: {token: {file: Bearer kanari/kanari}}}\n", "./NAME"),
        ("gateway: {auth: {token: {file: '-----BEGIN PRIVATE KEY-----kanari/kanari'}}}\n", "./NAME"),
        ("gateway: {auth: {token: {file: |\n  -----BEGIN PRIVATE KEY-----\n  kanari\n}}}\n", ""),
        ("notifications: {channels: {ops: {url: {file: 'https://hooks/kanari'}}}}\n", "./NAME"),
        ("gateway: {auth: {token: {exec: [sk-kanari-kanari]}}}\n", "./NAME"),
        ("gateway: {auth: {token: {exec: [Bearer kanari-kanari, x]}}}\n", "./NAME"),
        ("notifications: {channels: {ops: {url: {exec: ['https://hooks/kanari']}}}}\n", "./NAME"),
        ("gateway: {auth: {token: {env: ghp_kanarikanari}}}\n", "refer to it"),
        ("gateway: {auth: {token: '${ghp_kanarikanari}'}}\n", "refer to it"),
        ("gateway: {auth: {token: ${ghp_kanarikanari}}}\n", ""),
        ("service: {environment: {A_KEY: {file: sk-kanari-kanari}}}\n", "./NAME"),
    ],
)
def test_a_secret_stands_where_its_place_is_to_be_told(tmp_path: Path, text: str, hint: str) -> None:
    text = "version: 1\n" + text
    shown = refused(text)
    assert "kanari" not in shown
    assert hint in shown
    assert "kanari" not in diffed(tmp_path, text)


@pytest.mark.parametrize(
    "reference",
    [
        SecretRef("file", "sk-kanari-kanari"),
        SecretRef("exec", ("sk-kanari-kanari",)),
        SecretRef("env", "ghp_kanarikanari"),
    ],
    ids=str,
)
def test_a_secret_that_an_older_version_took_for_a_reference(reference: SecretRef) -> None:
    with pytest.raises(DocumentError) as caught:
        resolve_references(((("gateway",), reference),), {}, salt=b"", directory="/", locate=lambda _path: None)
    assert "kanari" not in render_problems(caught.value.problems)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "reference",
    [
        "{file: /run/secrets/sk-gateway-main}",
        "{file: secrets/hf_token.txt}",
        "{file: ./hf_token.txt}",
        "{file: '~/it: is one'}",
        "{exec: [op, read, 'op://vault/sk-gateway-main/password']}",
        "{exec: [/opt/sk-tools-1/get, gateway]}",
        "{env: OPENCLAW_GATEWAY_TOKEN}",
    ],
)
def test_a_file_or_program_may_be_called_like_a_secret(reference: str) -> None:
    assert load_text(f"version: 1\ngateway: {{auth: {{token: {reference}}}}}\n", {})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gateway: {auth: {mode: token, Kanari}}\n", "one of mode, password, token"),
        ("gateway:\n  auth:\n    ? Kanari\n", "one of mode, password, token"),
        ("gateway: {auth: {mode: token, Kanari, Kanari}}\n", "twice"),
        ("auth: {profiles: {x: {type: api_key, Kanari}}}\n", "one of email, key, provider, type"),
        ("notifications: {channels: {ops: {Kanari}}}\n", "cannot use the name"),
        ("notifications: {routes: [{min: high, to: 'https://hooks/Kanari'}]}\n", "one of notifications.channels"),
        ("auth: {order: {anthropic: ['https://Kanari']}}\n", "one of auth.profiles"),
        ("gateway: {auth: {mode: Kanari}}\n", "one of none, token, password, trusted-proxy"),
        ("gateway: {auth: {mode: token Kanari}}\n", "one of none, token, password, trusted-proxy"),
        ("gateway: {auth: {mode: Kanari}, x: [\n", "syntax"),
        ("auth: {profiles: {x: {type: Kanari}}}\n", "one of api_key, token, oauth"),
        ("source: {git: 'https://Kanari-Kanari-Kanari@host/r.git'}\n", "a password or a token"),
        ("source: {git: 'https://Kanari-Kanari-Kanari@host/r.git', x: 1}\n", "cannot use the name 'x'"),
        ("gateway: {settings: {telegram: botToken=Kanari}}\n", "exactly ${NAME}"),
        ("gateway: {settings: {telegram: 'botToken: Kanari'}}\n", "exactly ${NAME}"),
        ("gateway: {settings: {telegram: botToken Kanari}}\n", "exactly ${NAME}"),
        ("gateway: {settings: {telegram: [password=Kanari]}}\n", "exactly ${NAME}"),
        ("fleet:\n  password: |\nKanari:abc\nlogging: {level: info}\n", "logging"),
        ("auth:\n  profiles:\n    x:\n      access:\n   Kanari:abc\n      refresh: x\n", "x"),
        ("gateway:\n  auth:\n    token: >-\n  Kanari:abc\n  settings: {}\n", "token"),
    ],
)
def test_a_secret_stands_where_no_value_or_another_is_awaited(tmp_path: Path, text: str, shown: str) -> None:
    text = "version: 1\n" + text
    with pytest.raises(DocumentError) as caught:
        load_text(text, {})
    problems: Any = caught.value.problems
    found = render_problems(problems) + json.dumps([problem_json(each) for each in problems])
    assert "Kanari" not in found
    difference = diffed(tmp_path, text)
    assert "Kanari" not in difference
    assert shown in found + difference


@pytest.mark.parametrize("name", ["npm_config_token", "hf_TOKEN_MAIN", "SK_TOKEN"])
def test_a_variable_may_begin_like_a_key(name: str) -> None:
    assert load_text(f"version: 1\ngateway: {{auth: {{token: {{env: {name}}}}}}}\n", {}).desired.gateway is not None
    with pytest.raises(DocumentError):
        load_text("version: 1\ngateway: {auth: {token: {env: npm_Kanari0123456789Kanari}}}\n", {})


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gateway: {auth: {mod: token}}\n", "'mod'"),
        ("gateway: {auth: {mode: tokn}}\n", "'tokn'"),
        ("service: {environment: {TZ: }}\n", "service.environment.TZ"),
        ("auth: {profiles: {'anthropic:default': }}\n", "anthropic:default"),
        ("notifications: {routes: [{min: high, to: osp}]}\n", "'osp'"),
        (
            "source: {git: 'https://gitlab+deploy-token-123456@host/r.git', x: 1}\n",
            "https://gitlab+deploy-token-123456@host/r.git",
        ),
        ("source: {git: 'ssh://a-very-long-user-name@host/r.git', x: 1}\n", "ssh://a-very-long-user-name@host/r.git"),
    ],
)
def test_what_is_no_secret_is_still_told(text: str, shown: str) -> None:
    assert shown in refused("version: 1\n" + text)


@pytest.mark.parametrize(
    "value",
    ["Password reset", "token", "Ask for the token first", "token: none", "Authorization: Bearer ${X}", "key=1"],
)
def test_words_about_secrets_are_none(value: str) -> None:
    assert load_text(f"version: 1\ngateway: {{settings: {{title: '{value}'}}}}\n", {})


WHOLE = """version: 1
service:
  manager: embedded
  environment:
    OPENAI_API_KEY: "kanari1"
    DATABASE_PASSWORD: kanari2
    PLAIN: hello
gateway:
  port: 18789
  auth: {mode: token, token: "kanari3"}
  settings:
    channels:
      telegram:
        botToken: kanari0
auth:
  profiles:
    "anthropic:default": {type: api_key, key: "kanari4"}
    "openai:x":
      type: token
      token: kanari5
notifications:
  routes: [{min: high, to: ops}]
  channels:
    ops: {url: "https://hooks.example/kanari6"}
    other:
      url: 'https://hooks.example/kanari7'
diagnostics:
  otel:
    endpoint: http://127.0.0.1:4318
    headers:
      X-Auth: "kanari8"
      y-bar: kanari9
policy: {verify: 1s}
"""


# What a secret is written as instead, or what it is written for.
SLIPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"\n +", (" ",)),
    (r'"?kanari\d"?', ("{file: sk-ant-kanari}", "{exec: [Bearer kanari33]}")),
    (r'"?kanari[0-7]"?', (">-\nkanari:9", "|\n  kanari:9", "\n kanari:9")),
)


def once(random: Random, pattern: str, instead: tuple[str, ...], text: str) -> str:
    """`text` with one of the places of `pattern` replaced."""
    found = [match.span() for match in re.finditer(pattern, text)]
    start, end = random.choice(found or [(0, 0)])
    return text[:start] + random.choice(instead) + text[end:] if found else text


def mistaken(text: str, random: Random) -> str:
    """`text` after one to three mistakes of those that hands make."""
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(text))
        lines = text.splitlines(keepends=True)
        line = random.randrange(len(lines))
        match random.randrange(13):
            case 0:
                text = text[:at] + text[at + 1 :]
            case 1:
                text = text[:at] + random.choice("\"'{}[]:,#\n\t &*!|>-?=%") + text[at:]
            case 2:
                text = "".join([*lines[:line], random.choice(lines), *lines[line:]])
            case 3:
                text = "".join(lines[:line] + lines[line + 1 :])
            case 4:
                text = "".join([*lines[:line], " " * random.choice((1, 2, 4)), *lines[line:]])
            case 5:
                lines[line] = lines[line].replace(": ", random.choice((":", " ", "= ", " : ")), 1)
                text = "".join(lines)
            case 6:
                text = text[:at]
            case _:
                text = once(random, *random.choice(SLIPS), text)
        text = text or "x"
    return text


@pytest.mark.parametrize("seed", range(4))
def test_no_slip_of_a_hand_shows_one(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    for number in range(1_000):
        text = mistaken(WHOLE, random)
        try:
            load_text(text, {})
        except DocumentError as err:
            problems: Any = err.problems
            shown = err.message + render_problems(problems) + json.dumps([problem_json(each) for each in problems])
            assert "kanari" not in shown, text
            if number % 10 == 0:
                # Any name may be that of a variable which is no secret.
                assert not re.search("kanari[^12]", diffed(tmp_path, text)), text


@pytest.mark.parametrize(
    ("pattern", "count", "instead"),
    [
        (r"\b(?:token|key|url): (?=\S*kanari)", 5, ""),
        (r"\b(?:token|key|url): (?=\S*kanari)", 5, "? "),
        (r"(?:(?<=mode: )|(?<=type: ))\w+", 3, "kanari9"),
        (r"(?:(?<=mode: )|(?<=type: ))\w+", 3, "token kanari9"),
        (r"(?<=to: )\w+", 1, "https://hooks.example/kanari9"),
    ],
)
def test_one_is_written_without_its_name_or_for_another_value(
    tmp_path: Path, pattern: str, count: int, instead: str
) -> None:
    """In a mapping with names of its own; among variables and headers any name may be meant."""
    places = [match.span() for match in re.finditer(pattern, WHOLE)]
    assert len(places) == count
    for start, end in places:
        text = WHOLE[:start] + instead + WHOLE[end:]
        assert "kanari" not in refused(text), text
        assert not re.search("kanari[^12]", diffed(tmp_path, text)), text


def test_what_another_file_has_overlaid(tmp_path: Path) -> None:
    (tmp_path / "common.yaml").write_text("notifications: {channels: {ops: {url: kanari}}, rotues: []}\n")
    text = "version: 1\ninclude: common.yaml\nnotifications: {channels: {ops: {url: {env: URL}}}}\n"
    (tmp_path / "openclaw.yaml").write_text(text)
    found = texts_beside(str(tmp_path / "openclaw.yaml"), {}, name="openclaw.yaml")
    assert found is not None
    assert "kanari" not in found["common.yaml"]
    assert found["openclaw.yaml"] == text


def test_what_is_none_is_shown_while_nothing_can_be_read(tmp_path: Path) -> None:
    text = """version: 1
service:
  environment: {MY_KEY: shown, LANG: C}
gateway:
  port: 18789
  auth:
    token: {env: OPENCLAW_GATEWAY_TOKEN}
    password:
      exec:
        - pass
  settings: {webhook: https://shown/here}
notifications:
  channels:
    ops: {url: {env: OPS_URL}}
    other: {url: "${OTHER_URL}"}
policy: {verify: 15s}
x: 'unclosed
"""
    shown = text.replace("- pass", "********").replace("shown, LANG: C}", "********")
    assert diffed(tmp_path, text) == shown.replace("https://shown/here}", "********").replace("'unclosed", "********")


@pytest.mark.parametrize(
    "piece", ["url: a\n", "headers: {\n", "a: b, ", "url: 'a', ", "token:\n", "x" * 40, "- -a.", "[{"]
)
def test_it_takes_no_longer_than_a_second(piece: str) -> None:
    source = Source("f", "f", piece * (4 * 1024 * 1024 // len(piece)))
    began = time.thread_time()
    for _ in range(1000):
        source.shown(1, 1)
        source.shown(source.line_count, 1)
    assert time.thread_time() - began < slowness()


def test_spans_that_lie_over_each_other_are_one() -> None:
    source = Source("f", "f", "a: one two three", mapped=True)
    source.masked[1] = {(4, None), (4, 7), (8, 11)}
    assert source.shown(1, 1)[0] == "a: ********"
    source.masked[1] = {(4, 11), (4, 7), (8, 11)}
    assert source.shown(1, 1)[0] == "a: ******** three"


def test_the_lines_of_a_broken_text_are_shown_in_their_order() -> None:
    guess = Unread()
    assert [guess.show(line) for line in ("url:", "  https://a/b", "  c: d", "port: 1")] == [
        "url:",
        "  ********",
        "  ********",
        "port: 1",
    ]


def test_a_text_that_could_be_read_is_known_and_another_is_not() -> None:
    for text, known in (("a: 1\na: 2", True), ("a: [", False)):
        source = Source("f", "f", text)
        compose(source)
        assert source.mapped is known
