"""What the process is to be, from the document: fields, origins, digest. No process, no file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.desired import Desired, Limits, Logging, Retention, SecretRef
from reconciler.host import Host, StatePaths
from reconciler.kinds import Resource
from reconciler.model import Key, Secret
from resources.service import spec
from resources.service.spec import ServiceSpec, builtin_program, declare, keeper_spec, policy_of_keeper
from resources.testing import FakeSecrets, make_desired
from tests.resources.service.worlds import CANARY, TOKEN, document, gateway, service

HOST = Host(
    state=StatePaths(Path("/srv/state")),
    environ={"PATH": "/bin", "HOME": "/home/ann", "LOGS": "/var/log/oc", "TZ": "UTC", "SHELL_SECRET": CANARY},
    home=Path("/home/ann"),
    runtime_directory=Path("/run/user/1"),
    python="/venv/bin/python",
)
SECRETS = FakeSecrets({str(TOKEN): CANARY, "env:WORD": "one", "env:OTHER": "two", "file:/k": "three"})


def made(desired: Desired) -> Resource:
    resource = declare(desired, HOST, SECRETS, builtin_program(HOST), "0f3a")
    assert resource is not None
    return resource


def digest(desired: Desired) -> str:
    found: ServiceSpec = made(desired).spec
    return found.digest


def logging(directory: str | None, level: str | None = None) -> Logging:
    return Logging(
        level=level,
        console_level=None,
        console_style=None,
        redact=None,
        redact_patterns=None,
        directory=directory,
        max_file_bytes=None,
        retention=Retention(age_seconds=None, total_bytes=None, files=None, compress_after_seconds=None),
    )


def test_without_a_service_section_nothing_is_declared() -> None:
    assert declare(make_desired(gateway=gateway(1)), HOST, SECRETS, builtin_program(HOST), "0f3a") is None


def test_the_fields_are_the_flattened_parts_of_the_process() -> None:
    resource = made(document(19000))
    assert {path: value for path, value in resource.fields.items() if not path.startswith("restart.")} == {
        "state": "running",
        "keeper": True,
        "keeper.program": "0f3a",
        "spec": Secret(resource.spec.digest),
        "argv": ("/venv/bin/python", "-P", "-m", "gateway", "run"),
        "stop.drain": 0.0,
        "stop.grace": 5.0,
        "logging.directory": "/srv/state/logs",
        "environment.OPENCLAW_GATEWAY_TOKEN": SECRETS.digest(TOKEN),
        "environment.PORT": "19000",
        "config.gateway.port": 19000,
        "config.gateway.auth.token": "${OPENCLAW_GATEWAY_TOKEN}",
    }
    assert resource.needs == {Key("gateway-config", "gateway")}


def test_each_field_knows_where_it_was_asked_for_and_what_is_a_default() -> None:
    declared = frozenset({("gateway", "port"), ("service", "restart", "delay"), ("gateway", "auth", "token")})
    resource = made(document(19000, declared=declared))
    assert resource.origins == {
        "config.gateway.port": ("gateway", "port"),
        "config.gateway.auth.token": ("gateway", "auth", "token"),
        "environment.OPENCLAW_GATEWAY_TOKEN": ("gateway", "auth", "token"),
        "restart.delay": ("service", "restart", "delay"),
    }
    assert {"restart.burst", "argv", "state"} <= resource.defaulted
    assert "restart.delay" not in resource.defaulted


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        pytest.param({"logging": {"level": "debug"}}, {}, id="hot: no field"),
        pytest.param({"agents": {"defaults": {"maxConcurrent": 4}}}, {}, id="read by nobody: no field"),
        pytest.param({"gateway": {"customBindHost": "::1"}}, {"config.gateway.customBindHost": "::1"}, id="restart"),
        pytest.param(
            {"a": {"b": ["x ${WORD}"]}},
            {"environment.WORD": SECRETS.digest(SecretRef("env", "WORD"))},
            id="a reference",
        ),
    ],
)
def test_settings_count_as_far_as_a_running_gateway_cannot_take_them_up(
    settings: dict[str, Any], fields: dict[str, Any]
) -> None:
    plain, more = made(document(1)), made(document(1, gateway_section=gateway(1, settings=settings)))
    assert {path: value for path, value in more.fields.items() if path not in plain.fields} == fields
    assert (plain.spec.digest == more.spec.digest) == (not fields)


def test_the_digest_follows_what_needs_a_restart_and_nothing_else() -> None:
    base = digest(document(1))
    other_limits = Limits(memory_bytes=1, cpu_percent=1.0, files=5)
    assert digest(document(1, state="stopped")) == base
    assert digest(document(1, limits=other_limits)) == base
    assert digest(document(1, logging=logging(None, "debug"))) == base
    assert digest(document(2)) != base
    assert digest(document(1, environment={"A": "1"})) != base
    assert digest(document(1, logging=logging("/var/log/oc"))) != base


def test_a_secret_is_a_field_by_its_digest_and_stands_only_in_the_environment() -> None:
    resource = made(document(1, environment={"KEY": SecretRef("file", "/k")}))
    assert isinstance(resource.fields["environment.KEY"], Secret)
    told = keeper_spec(resource.spec, HOST, 1)
    assert CANARY not in f"{resource} {told} {spec.render_fields(resource.spec)}"
    environment = spec.process_environment(resource.spec, HOST, SECRETS)
    assert (environment["KEY"], environment["OPENCLAW_GATEWAY_TOKEN"]) == ("three", CANARY)
    assert (environment["PATH"], environment["TZ"], environment["OPENCLAW_DRAIN_SECONDS"]) == ("/bin", "UTC", "0")
    assert "SHELL_SECRET" not in environment
    assert "LANG" not in environment


def test_the_documents_word_wins_over_the_shell_and_ours_over_both() -> None:
    environment = {"TZ": "Europe/Berlin", "OPENCLAW_RELOAD_MODE": "restart"}
    found = spec.process_environment(made(document(1, environment=environment)).spec, HOST, SECRETS)
    assert (found["TZ"], found["OPENCLAW_RELOAD_MODE"]) == ("Europe/Berlin", "hot")


def test_any_change_of_the_service_section_is_seen_in_its_digest() -> None:
    sections = [
        made(make_desired(service=one)).spec.section
        for one in (
            service(1),
            service(2),
            service(1, state="stopped"),
            service(1, environment={"A": SecretRef("env", "WORD")}),
            service(1, environment={"A": SecretRef("env", "OTHER")}),
            service(1, limits=Limits(memory_bytes=1, cpu_percent=None, files=None)),
        )
    ]
    assert len(set(sections)) == len(sections)
    assert made(document(5)).spec.section == made(document(5, gateway_section=gateway(6))).spec.section


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/../b", "/b"),
        ("logs", "/srv/state/logs"),
        ("~", "/home/ann"),
        ("~/x", "/home/ann/x"),
        ("~bob/x", "/srv/state/~bob/x"),
        ("${LOGS}/x", "/var/log/oc/x"),
        ("${NONE}/x", "/srv/state/${NONE}/x"),
    ],
)
def test_paths_of_the_document_are_those_of_this_host(path: str, expected: str) -> None:
    assert spec.expand_path(path, HOST) == expected


@given(st.integers(1, 2**31) | st.none())
def test_what_the_keeper_is_told_comes_back_as_fields(files: int | None) -> None:
    resource = made(document(1, limits=Limits(memory_bytes=None, cpu_percent=None, files=files)))
    assert policy_of_keeper(keeper_spec(resource.spec, HOST, 1)) == resource.spec.policy_fields


@given(st.dictionaries(st.sampled_from(["A", "B", "C", "D.E", "F G"]), st.text(max_size=5)))
def test_fields_and_digest_do_not_depend_on_the_order_of_the_document(environment: dict[str, str]) -> None:
    backwards = dict(reversed(environment.items()))
    one, other = made(document(1, environment=environment)), made(document(1, environment=backwards))
    assert (one.fields, one.spec.digest) == (other.fields, other.spec.digest)
    assert spec.parse_fields(spec.render_fields(one.spec)) == (one.spec.spec_fields, one.spec.policy_fields)


@pytest.mark.parametrize("data", [None, [], {}, {"spec": {}}, {"spec": [], "policy": {}}])
def test_what_are_no_fields_is_refused(data: Any) -> None:
    with pytest.raises(ValueError, match="not the fields"):
        spec.parse_fields(data)
