import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import (
    MAX_CONFIG_BYTES,
    PASSED,
    REFUSED,
    SENTINEL,
    WORKS,
    Snapshot,
    check_text,
    read_file,
    redact,
    redact_resolved,
    redact_text,
)
from gateway.wire import json5
from gateway.wire.connect import AuthMode
from gateway.wire.reload import impact_of


def check(text: str | bytes, **environ: str) -> Snapshot:
    return check_text("/x/openclaw.json", text.encode() if isinstance(text, str) else text, environ)


def messages(snapshot: Snapshot) -> list[tuple[str, str]]:
    return [(issue.path, issue.message) for issue in snapshot.issues]


def test_an_empty_config_runs_by_the_defaults() -> None:
    snapshot = check("{}")
    assert snapshot.settings is not None
    assert (snapshot.settings.port, snapshot.settings.bind, snapshot.settings.level) == (18789, "loopback", "info")
    assert snapshot.settings.secret.mode is AuthMode.NONE
    assert snapshot.effective["logging"]["level"] == "info"
    assert snapshot.resolved == {}
    assert snapshot.hash == hashlib.sha256(b"{}").hexdigest()


@pytest.mark.req("GW-6", "GW-14")
@pytest.mark.parametrize(
    ("text", "issues"),
    [
        ("", [("", "JSON5 parse failed: SyntaxError: JSON5: invalid end of input at 1:1")]),
        ('{"gateway": {', [("", "JSON5 parse failed: SyntaxError: JSON5: invalid end of input at 1:14")]),
        ("[]", [("", "Invalid input: expected object, received array")]),
        ("{hookz: {}}", [("", 'Unrecognized key: "hookz"')]),
        ("{gateway: {prt: 1}}", [("gateway", 'Unrecognized key: "prt"')]),
        ("{gateway: 5}", [("gateway", "Invalid input: expected object, received number")]),
        (
            "{gateway: {port: 70000}}",
            [("gateway.port", "Invalid input: expected a port from 1 to 65535, received 70000")],
        ),
        (
            "{gateway: {port: '1'}}",
            [("gateway.port", "Invalid input: expected a port number (integer), received string")],
        ),
        (
            "{logging: {level: 'loud'}, gateway: {port: true}}",
            [
                ("gateway.port", "Invalid input: expected a port number (integer), received boolean"),
                (
                    "logging.level",
                    ('Invalid option: expected one of "silent"|"fatal"|"error"|"warn"|"info"|"debug"|"trace"'),
                ),
            ],
        ),
        (
            "{models: {a: '${NOPE_KEY}'}}",
            [("", 'Missing env var "NOPE_KEY" referenced at config path: models.a')],
        ),
        (
            "{gateway: {auth: {mode: 'trusted-proxy'}}}",
            [("gateway.auth.mode", "the built-in gateway cannot trust a proxy; use token or password")],
        ),
        (
            "{agents: {$include: './a.json'}}",
            [("agents.$include", "$include is not supported by the built-in gateway")],
        ),
        ("{gateway: {bind: 'custom'}}", [("gateway.customBindHost", 'bind "custom" needs a customBindHost')]),
        ("{gateway: {auth: {mode: 'token'}}}", [("gateway.auth.token", "auth mode token without a token")]),
        (
            "{gateway: {bind: 'lan'}}",
            [
                (
                    "gateway.auth",
                    (
                        "refusing to bind gateway to lan without auth (set gateway.auth.token/password, or set "
                        "OPENCLAW_GATEWAY_TOKEN/OPENCLAW_GATEWAY_PASSWORD)"
                    ),
                )
            ],
        ),
        (
            "{gateway: {tls: {enabled: true, certPath: '/c'}}}",
            [("gateway.tls.keyPath", "needed with gateway.tls.enabled: the built-in gateway makes no certificate")],
        ),
    ],
)
def test_everything_wrong_is_said_with_its_path_and_nothing_of_it_is_in_force(
    text: str, issues: list[tuple[str, str]]
) -> None:
    snapshot = check(text)
    assert messages(snapshot) == issues
    assert not snapshot.valid
    assert (snapshot.parsed, snapshot.resolved, snapshot.effective) == (None, {}, {})
    assert snapshot.hash == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.req("DOC-9")
@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\xff\xfe{\x00}\x00", "the file is not UTF-8: byte 0 is not valid"),
        (b"{" + b" " * MAX_CONFIG_BYTES + b"}", "the file is larger than 1024 KiB"),
        (b"\xef\xbb\xbf{}", None),
        (b"{\r\n\t}\r\n", None),
    ],
)
def test_odd_bytes_are_an_issue_or_harmless(raw: bytes, message: str | None) -> None:
    assert messages(check(raw)) == ([("", message)] if message else [])


def test_a_directory_a_fifo_and_a_missing_file_are_no_crash(tmp_path: Path) -> None:
    assert messages(read_file(tmp_path, {})) == [("", "cannot read the file: not a regular file")]
    os.mkfifo(tmp_path / "fifo")
    assert messages(read_file(tmp_path / "fifo", {})) == [("", "cannot read the file: not a regular file")]
    missing = read_file(tmp_path / "openclaw.json", {})
    assert missing.valid
    assert not missing.exists
    assert missing.hash == hashlib.sha256(b"").hexdigest()


@pytest.mark.req("DOC-4")
def test_references_come_from_the_environment_then_from_the_config_and_can_be_escaped() -> None:
    text = "{env: {vars: {A: 'a', B: 'b'}, C: 'c'}, models: {x: '${A}-${B}-${C}', y: '$${A}', z: '${lower}'}}"
    models = check(text, A="env").resolved["models"]
    assert models == {"x": "env-b-c", "y": "${A}", "z": "${lower}"}


@pytest.mark.req("GW-3")
@pytest.mark.parametrize(
    ("auth", "environ", "mode", "value"),
    [
        ("{token: 'cfg'}", {"OPENCLAW_GATEWAY_TOKEN": "env"}, AuthMode.TOKEN, "cfg"),
        ("{token: '${OPENCLAW_GATEWAY_TOKEN}'}", {"OPENCLAW_GATEWAY_TOKEN": "env"}, AuthMode.TOKEN, "env"),
        ("{}", {"OPENCLAW_GATEWAY_TOKEN": "env"}, AuthMode.TOKEN, "env"),
        ("{token: 'cfg', password: 'pw'}", {}, AuthMode.PASSWORD, "pw"),
        ("{mode: 'token', token: 'cfg', password: 'pw'}", {}, AuthMode.TOKEN, "cfg"),
        ("{mode: 'none'}", {"OPENCLAW_GATEWAY_TOKEN": "env"}, AuthMode.NONE, ""),
    ],
)
def test_the_secret_is_found_as_the_real_product_finds_it(
    auth: str, environ: dict[str, str], mode: AuthMode, value: str
) -> None:
    settings = check(f"{{gateway: {{auth: {auth}}}}}", **environ).settings
    assert settings is not None
    assert (settings.secret.mode, settings.secret.value) == (mode, value)


def test_command_line_wins_over_environment_over_file_for_the_port(tmp_path: Path) -> None:
    path = tmp_path / "openclaw.json"
    path.write_text("{gateway: {port: 1001}}")
    environ = {"OPENCLAW_GATEWAY_PORT": "1002"}
    ports = [read_file(path, {}), read_file(path, environ), read_file(path, environ, port=1003)]
    assert [snapshot.settings and snapshot.settings.port for snapshot in ports] == [1001, 1002, 1003]
    assert messages(check("{}", OPENCLAW_GATEWAY_PORT="x1")) == [
        ("OPENCLAW_GATEWAY_PORT", 'expected a port from 1 to 65535, received "x1"')
    ]


@pytest.mark.req("GW-14")
def test_every_key_is_in_exactly_one_list_and_what_passes_through_costs_nothing() -> None:
    assert not set(WORKS) & PASSED
    assert set(REFUSED) <= set(WORKS)
    for path in PASSED:
        assert impact_of(path) == "none", path
    assert check(json.dumps({"agents": {"list": [1]}, "hooks": {"token": "x"}, "cron": {}})).valid


def test_a_key_without_effect_that_looks_like_protection_is_a_warning() -> None:
    snapshot = check("{gateway: {auth: {token: 'abcdef', rateLimit: {}}}}")
    assert [warning.path for warning in snapshot.warnings] == ["gateway.auth.rateLimit"]


@pytest.mark.req("DOC-4", "LOG-4")
def test_secrets_are_hidden_in_data_and_in_text_and_single_references_stay() -> None:
    text = (
        "{ // token below\n gateway: {auth: {token: 'hunter2', password: \"${PW}\", mode: 'token'}},\n"
        " models: {p: {apiKey: '${A}${B}', maxTokens: 5, headers: {x_secret: ['s1', 's2']}}} }"
    )
    hidden = redact_text(text)
    assert hidden == text.replace("'hunter2'", f'"{SENTINEL}"').replace("'${A}${B}'", f'"{SENTINEL}"').replace(
        "['s1', 's2']", f'["{SENTINEL}", "{SENTINEL}"]'
    )
    assert json5.load(hidden) == redact(json5.load(text))


@pytest.mark.req("DOC-4", "LOG-4")
def test_what_a_reference_gave_is_hidden_under_any_name_with_the_text_around_it() -> None:
    text = (
        "{channels: {x: 'pre-${CANARY}-post', deep: [{enabled: '${CANARY}'}, 'plain'], y: '$${CANARY}', z: '$$${CANARY}',"
        " token: '$${OWN}'}, env: {vars: {OWN: 'own'}}, models: {o: '${OWN}'}, logging: {level: '${LEVEL}'}}"
    )
    snapshot = check(text, CANARY="hunter2", LEVEL="warn")
    channels = {
        "x": SENTINEL,
        "deep": [{"enabled": SENTINEL}, "plain"],
        "y": "${CANARY}",
        "z": "$${CANARY}",
        "token": SENTINEL,
    }
    shown = redact_resolved(snapshot.resolved, snapshot.parsed)
    assert shown["channels"] == channels
    assert shown["models"] == {"o": SENTINEL}
    assert shown["logging"] == {"level": SENTINEL}
    in_force = redact_resolved(snapshot.effective, snapshot.parsed)
    assert in_force["channels"] == channels
    # A default is nobody's secret.
    assert in_force["gateway"]["port"] == 18789
    assert snapshot.settings is not None
    assert snapshot.settings.level == "warn"


@pytest.mark.req("DOC-4")
def test_an_issue_names_a_place_as_the_file_has_it() -> None:
    snapshot = check("{gateway: {bind: 'custom', customBindHost: 'x.${CANARY}'}}", CANARY="hunter2")
    assert [path for path, _message in messages(snapshot)] == ["gateway.auth"]
    assert "refusing to bind gateway to x.${CANARY} without auth" in messages(snapshot)[0][1]


_keys = st.sampled_from(["token", "password", "apiKey", "clientSecret", "name", "list"])
_configs = st.recursive(
    st.sampled_from(["canary-value", "${NAME}", "plain"]) | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_keys, _configs, max_size=5))
def test_text_and_data_are_redacted_alike(config: dict[str, Any]) -> None:
    assert json5.load(redact_text(json.dumps(config))) == redact(config)


_references = st.sampled_from(["${NAME}", "a ${NAME}", "${NAME}${NAME} b", "$${NAME}", "$$${NAME}", "plain"])
_referring = st.recursive(
    _references | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_keys, _referring, max_size=5))
def test_no_answer_shows_what_a_reference_gave(models: dict[str, Any]) -> None:
    snapshot = check(json.dumps({"models": models}), NAME="canary-value")
    assert snapshot.parsed is not None
    for data in (snapshot.resolved, snapshot.effective):
        assert "canary-value" not in json.dumps(redact_resolved(data, snapshot.parsed))


@given(st.text() | st.dictionaries(st.sampled_from(["gateway", "logging", "x"]), _configs).map(json.dumps))
def test_no_text_makes_the_reader_raise(text: str) -> None:
    snapshot = check(text.encode("utf-8", "surrogatepass"))
    assert snapshot.valid != bool(snapshot.issues)
