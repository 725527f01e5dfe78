"""The schema's canonical form is what the rest of the program reads, and the example and the first document are valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from reconciler.desired import SecretRef, from_canonical
from reconciler.document.compose import compose
from reconciler.document.jsonschema import document_schema
from reconciler.document.load import load, load_text
from reconciler.document.nodes import Mapping, Source, plain
from reconciler.document.references import references
from reconciler.document.schema import SECTIONS
from reconciler.document.template import init_text
from reconciler.errors import DocumentError

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "openclaw.yaml.example"


def data_of(text: str) -> Any:
    node, problems = compose(Source("t", "t", text))
    assert isinstance(node, Mapping)
    assert problems == ()
    return plain(node)


@pytest.mark.req("DOC-1")
def test_a_three_line_document_is_valid_and_useful() -> None:
    desired = load_text("version: 1\nservice: {}\ngateway: {port: 18789}\n", {}).desired
    assert desired.service is not None
    assert desired.service.runtime == "builtin"
    assert desired.service.restart.never_on_exit == (78,)
    assert desired.gateway is not None
    assert desired.gateway.port == 18789
    assert desired.gateway.bind is None
    assert desired.logging is None
    assert desired.policy.verify_seconds == 15
    assert desired.declared == {("version",), ("service",), ("gateway",), ("gateway", "port")}


@pytest.mark.req("DOC-1")
def test_only_the_version_is_mandatory() -> None:
    desired = load_text("version: 1\n", {}).desired
    assert (desired.service, desired.gateway, desired.logging) == (None, None, None)
    assert set(desired.canonical) == {"version", "policy"}


MINIMAL: dict[str, str] = {
    "fleet": "{endpoints: ['http://e:1']}",
    "source": "{git: 'ssh://git@host/x.git'}",
}


@pytest.mark.req("DOC-1")
@pytest.mark.parametrize("section", sorted(SECTIONS))
def test_every_section_feeds_the_desired_state_with_its_defaults(section: str) -> None:
    """Present and empty, each section is accepted, and its canonical form is plain JSON that `from_canonical` takes."""
    loaded = load_text(f"version: 1\n{section}: {MINIMAL.get(section, '{}')}\n", {})
    canonical = loaded.desired.canonical
    assert json.loads(json.dumps(canonical)) == canonical
    assert from_canonical(canonical, loaded.desired.declared) == loaded.desired
    managed = section in {"service", "gateway", "logging", "policy"}
    assert loaded.desired.unmanaged == (() if managed else (section,))


@pytest.mark.req("DOC-1", "DOC-8")
def test_the_example_is_valid_and_shows_every_section() -> None:
    loaded = load(str(EXAMPLE), {})
    assert set(loaded.desired.canonical) == {"version", *SECTIONS}
    assert from_canonical(loaded.desired.canonical, loaded.desired.declared) == loaded.desired
    assert EXAMPLE.read_text().startswith("# yaml-language-server: $schema=openclaw.schema.json\n")


def test_the_example_in_canonical_form() -> None:
    desired = load(str(EXAMPLE), {}).desired
    assert desired.service is not None
    assert desired.gateway is not None
    assert desired.logging is not None
    assert desired.service.limits.memory_bytes == 1 << 30
    assert desired.service.limits.cpu_percent == 150
    assert desired.service.environment["ANTHROPIC_API_KEY"] == SecretRef("env", "ANTHROPIC_API_KEY")
    assert desired.gateway.token == SecretRef("env", "OPENCLAW_GATEWAY_TOKEN")
    assert desired.gateway.settings["channels"]["telegram"]["botToken"] == "${TELEGRAM_BOT_TOKEN}"
    assert desired.logging.retention.age_seconds == 7 * 86400
    assert desired.canonical["heartbeats"]["defaults"]["active"] == {
        "start": "08:00",
        "end": "22:00",
        "zone": "Europe/Berlin",
    }
    found = dict(references(desired.canonical))
    assert found["auth", "profiles", "anthropic:backup", "key"] == SecretRef(
        "exec", ("pass", "show", "anthropic/backup")
    )
    assert found["gateway", "settings", "channels", "telegram", "botToken"] == SecretRef("env", "TELEGRAM_BOT_TOKEN")
    assert len(found) == 7


def test_what_init_writes_is_valid() -> None:
    text = init_text("secrets/gateway-token", port=18790, time_zone="Europe/Berlin")
    loaded = load_text(text, {})
    desired = loaded.desired
    assert desired.gateway is not None
    assert desired.gateway.port == 18790
    assert desired.gateway.bind == "loopback"
    assert desired.gateway.token == SecretRef("file", "secrets/gateway-token")
    assert desired.service is not None
    assert desired.service.manager == "embedded"
    assert desired.unmanaged == ()
    assert load_text(init_text('a "b"\\c'), {}).desired.gateway is not None


def test_undeclared_retention_deletes_nothing() -> None:
    """The declaration is the consent; a logging section alone is none."""
    silent = load_text("version: 1\nlogging: {level: info}\n", {}).desired.logging
    assert silent is not None
    assert silent.retention.age_seconds is silent.retention.total_bytes is silent.retention.files is None
    declared = load_text("version: 1\nlogging: {retention: {files: null}}\n", {}).desired.logging
    assert declared is not None
    assert (declared.retention.age_seconds, declared.retention.files) == (86400, None)


def test_free_sections_are_kept_and_sections_without_a_kind_are_named() -> None:
    desired = load_text("version: 1\nx-any: {a: [1, {b: null}]}\naudit: {}\ntunnels: {}\n", {}).desired
    assert desired.extra == {"x-any": {"a": [1, {"b": None}]}}
    assert desired.unmanaged == ("audit", "tunnels")


@pytest.mark.req("DOC-8")
def test_json_schema_accepts_the_example_and_describes_every_field() -> None:
    schema = document_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(data_of(EXAMPLE.read_text()))
    validator.validate(data_of(init_text("token")))
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"version": 1, "gateway": {"prot": 1}})
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"version": 1, "gateway": {"port": 70000}})
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({"service": {}})
    for model in [schema, *schema["$defs"].values()]:
        for name, field in model["properties"].items():
            assert "$ref" in field or field.get("description"), (model.get("description"), name)


# Broken documents that no schema of JSON could refuse, by what it would have to know.
BEYOND_A_SCHEMA: dict[str, set[str]] = {
    "what one field says of another": {
        "conflict_audit_times",
        "conflict_bind_host",
        "conflict_bind_none",
        "conflict_compress_after",
        "conflict_custom_without_host",
        "conflict_host_none",
        "conflict_openclaw_builtin",
        "conflict_password_mode",
        "conflict_restart_delay",
        "conflict_settings",
        "conflict_settings_shape",
        "conflict_tls",
        "conflict_token_mode",
        "conflict_tunnel_ports",
    },
    "names that stand elsewhere": {"order_unknown_profile", "route_unknown_channel"},
    "the number that a text means": {
        "cron_values",
        "duration_too_long",
        "log_file_too_small",
        "size_fraction",
        "size_too_large",
    },
    "1.0 from 1": {"version_float"},
    "regular expressions": {"redact_pattern"},
    "the host": {"include_address", "window_path_zone", "window_unknown_zone"},
    "a secret from a text": {
        "secret_for_a_path",
        "secret_for_its_place",
        "secret_in_environment",
        "secret_in_settings",
        "secret_in_url",
    },
}


@pytest.mark.req("DOC-8")
def test_json_schema_refuses_what_a_schema_can() -> None:
    validator = jsonschema.Draft202012Validator(document_schema())
    passed, count = set(), 0
    for path in sorted((ROOT / "tests" / "data" / "broken").glob("*.yaml")):
        if path.with_suffix(".options.json").exists():
            continue
        try:
            node, problems = compose(Source("t", "t", path.read_bytes().decode("utf-8-sig")))
        except UnicodeDecodeError:
            continue
        if node is not None and not problems:
            count += 1
            passed |= {path.stem} if validator.is_valid(plain(node)) else set()
    assert count > 100
    assert passed == set().union(*BEYOND_A_SCHEMA.values())


@pytest.mark.req("DOC-7", "DOC-8")
@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("policy.verify", ["30s", "1h30m", "1w2d", "1.5h", " 7d ", "500ms", "5m10ms", "0", 0]),
        ("service.limits.memory", ["64k", "512M", "1GiB", "1 gb", "10B", "1.5T", " 1K ", 0]),
        ("service.limits.cpu", ["150%", "0.5 %", "10.05%", " 7%"]),
        ("heartbeats.defaults.active", ["08:00-22:00 Europe/Berlin", "8:00 - 24:00", "22:00-6:30"]),
        ("audit.at", ["0 */6 * * *", "0  1 * jan mon-fri"]),
        ("gateway.host", ["192.168.1.10", "::1", "fe80::1%eth0", "::ffff:1.2.3.4"]),
        ("diagnostics.otel.endpoint", ["http://127.0.0.1:4318", "HTTPS://a/b?c"]),
    ],
)
def test_json_schema_takes_every_way_to_write_a_value(path: str, values: list[Any]) -> None:
    validator = jsonschema.Draft202012Validator(document_schema())
    for value in values:
        data: Any = value
        for name in reversed(path.split(".")):
            data = {name: data}
        data = {"version": 1, **({"gateway": {"bind": "custom", "host": value}} if path == "gateway.host" else data)}
        validator.validate(data)
        load_text(json.dumps(data), {})


@pytest.mark.req("DOC-8")
def test_json_schema_takes_no_null_for_a_section() -> None:
    validator = jsonschema.Draft202012Validator(document_schema())
    assert not any(validator.is_valid({"version": 1, name: None}) for name in SECTIONS)


@pytest.mark.req("DOC-8")
def test_json_schema_defaults_are_what_the_schema_fills_in() -> None:
    """A default as one would write it is the same as leaving the field out, for everything that we create."""
    schema = document_schema()
    stop = schema["$defs"]["Stop"]["properties"]
    assert stop["drain"]["default"] == "30s"
    explicit = {name: field["default"] for name, field in schema["$defs"]["Restart"]["properties"].items()}
    text = "version: 1\nservice: {restart: " + json.dumps(explicit) + "}\n"
    written = load_text(text, {}).desired.service
    assert written == load_text("version: 1\nservice: {}\n", {}).desired.service


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("0600", 600),
        ("1:30", "1:30"),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("+5", 5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("~", None),
        ("", None),
        ("Null", None),
        ("nUll", "nUll"),
        ("TRUE", True),
        ("false", False),
        ("2027-01-01", "2027-01-01"),
        ("'1'", "1"),
        ("-", [None]),
        ("0b1", "0b1"),
    ],
)
def test_plain_values_follow_yaml_1_2(text: str, value: object) -> None:
    if text == "-":
        assert data_of("a:\n  -\n") == {"a": value}
        return
    result = data_of(f"a: {text}\n")["a"]
    assert result == value
    assert type(result) is type(value)


def test_positions_are_those_of_the_text() -> None:
    loaded = load_text("version: 1\ngateway:\n  settings:\n    a: [x, {b: 1}]\n", {}, name="d.yaml")
    place = loaded.locate(("gateway", "settings", "a", 1, "b"))
    assert place is not None
    assert (str(place), place.text) == ("d.yaml:4:13", "    a: [x, {b: 1}]")
    nearest = loaded.locate(("gateway", "auth", "token"))
    assert str(nearest) == "d.yaml:2:1"
    assert loaded.locate(("audit",)) is None


def test_comments_order_and_quoting_do_not_change_the_digest() -> None:
    one = load_text("version: 1\ngateway: {port: 1, bind: lan}\nlogging: {}\n", {})
    two = load_text("# c\nlogging:   {}\n\nversion: 1\ngateway:\n  bind: 'lan'\n  port: 0x1 # d\n", {})
    three = load_text("version: 1\ngateway: {port: 2, bind: lan}\nlogging: {}\n", {})
    assert one.digest == two.digest != three.digest


def test_text_that_includes_is_refused() -> None:
    with pytest.raises(DocumentError):
        load_text("version: 1\ninclude: a.yaml\n", {})
