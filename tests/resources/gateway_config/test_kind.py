"""The gateway-config kind on a real file: field ownership, foreign bytes, secrets, take-over, and what is refused."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import trio

from gateway.config import read_file
from gateway.last_good import copy_path
from gateway.live import LiveConfig
from gateway.wire.json5 import load
from reconciler.desired import Desired, Gateway, Logging, Retention, SecretRef
from reconciler.errors import StaleError, TemporaryError
from reconciler.kinds import Applied, AppliedField, Observation, Step
from reconciler.model import ABSENT, Action, Because, Cause, DocumentPath, Impact, Secret
from reconciler.planning.differences import differences
from resources.gateway_config import kind as kinds
from resources.gateway_config.fields import KEY
from resources.gateway_config.kind import SERVICE, GatewayConfigKind, Seen, _serves_as_declared
from resources.gateway_config.running import Loaded
from resources.gateway_config.store import read_config
from resources.testing import FakeSecrets, make_desired, make_world
from tests.resources.contract import Case, KindContract, carry_out, look
from tests.resources.service.worlds import service

CANARY = "canary-0123456789abcdef"
NONE: dict[str, Any] = dict.fromkeys(
    ("port", "bind", "host", "auth_mode", "token", "password", "tls_enabled", "tls_cert", "tls_key")
)
FOREIGN = """// mine
{
  agents: { list: [ { id: 'main', }, ], }, // as it is
  gateway: {
    port: 0x4965, // the usual
    auth: { token: 'CANARY', mode: "token" },
  },
}
""".replace("CANARY", CANARY)


def gateway(settings: dict[str, Any] | None = None, **fields: Any) -> Gateway:
    return Gateway(**{**NONE, **fields}, settings=settings or {})


def logging(**fields: Any) -> Logging:
    none = dict.fromkeys(
        ("level", "console_level", "console_style", "redact", "redact_patterns", "directory", "max_file_bytes")
    )
    retention = Retention(age_seconds=None, total_bytes=None, files=None, compress_after_seconds=None)
    return Logging(**{**none, **fields}, retention=retention)


def desired(port: int | None = 1, **fields: Any) -> Desired:
    return make_desired(gateway=gateway(port=port, **fields))


def make_case(directory: Path, document: Desired, text: str | None = None) -> Case:
    world = make_world(directory, secrets=FakeSecrets({"env:TOKEN": CANARY}))
    if text is not None:
        world.host.state.config.write_text(text)
    return Case(kind=GatewayConfigKind(), world=world, desired=document, root=directory, canaries=(CANARY,))


def config(case: Case) -> Path:
    return case.world.host.state.config


class TestNewFileContract(KindContract):
    def make(self, directory: Path) -> Case:
        document = make_desired(
            gateway=gateway({"cron": {"jobs": ["a"]}}, port=free_of_listeners(), token=SecretRef("env", "TOKEN")),
            logging=logging(level="debug", redact_patterns=("x",)),
        )
        case = make_case(directory, document)
        case.move = lambda: config(case).write_text(json.dumps({"gateway": {"port": 7}}))  # type: ignore[assignment]
        return case


class TestForeignFileContract(KindContract):
    def make(self, directory: Path) -> Case:
        document = make_desired(
            gateway=gateway(port=free_of_listeners(), auth_mode="token", token=SecretRef("env", "TOKEN")),
            logging=logging(level="debug"),
        )
        case = make_case(directory, document, FOREIGN.replace("0x4965", "2"))
        case.move = lambda: config(case).write_text(FOREIGN.replace("0x4965", "3"))  # type: ignore[assignment]
        return case


def free_of_listeners() -> int:
    """A port that nothing listens on: the discard port of root's range."""
    return 9


@pytest.mark.req("PLAN-3", "PLAN-10")
@pytest.mark.parametrize("auth", [{"mode": "none", "token": "${OPENCLAW_GATEWAY_TOKEN}"}, None], ids=["none", "gone"])
async def test_that_the_document_lost_what_protects_is_told_whatever_the_file_says_meanwhile(
    tmp_path: Path, auth: dict[str, Any] | None
) -> None:
    case = make_case(tmp_path, desired(auth_mode="token", token=SecretRef("env", "TOKEN")))
    applied = await carry_out(case, await look(case, case.desired))
    config(case).write_text(json.dumps({"gateway": {"port": 1, **({"auth": auth} if auth else {})}}))
    (plan,) = (await look(case, desired(), applied)).plans
    assert [item.what for item in plan.exposed] == ["authentication_off"]
    assert bool(plan.actions) == bool(auth)
    # Whoever cures it by the document in force opens nothing.
    (plan,) = (await look(case, case.desired, applied)).plans
    assert plan.exposed == ()
    assert plan.actions


@pytest.mark.req("PLAN-10")
async def test_foreign_bytes_stay_and_a_withdrawn_key_gets_its_former_bytes_back(tmp_path: Path) -> None:
    case = make_case(
        tmp_path,
        make_desired(gateway=gateway({"tools": {"x": 1}}, port=9, token=SecretRef("env", "TOKEN"))),
        FOREIGN,
    )
    applied = await carry_out(case, await look(case, case.desired))
    written = config(case).read_text()
    assert (
        written.replace('"${OPENCLAW_GATEWAY_TOKEN}"', f"'{CANARY}'")
        .replace("port: 9,", "port: 0x4965,")
        .replace("  tools: {\n    x: 1\n  },\n", "")
        == FOREIGN
    )
    await carry_out(case, await look(case, case.withdrawn, applied))
    assert config(case).read_text() == FOREIGN


@pytest.mark.req("PLAN-9", "PLAN-10")
async def test_each_field_is_owned_by_itself(tmp_path: Path) -> None:
    case = make_case(tmp_path, desired(9, bind="lan"))
    applied = await carry_out(case, await look(case, case.desired))
    # Theirs beside ours is no difference, theirs in the place of ours is drift, ours moved is change.
    data = json.loads(config(case).read_text())
    data["gateway"] |= {"bind": "loopback", "foreign": True}
    config(case).write_text(json.dumps(data))
    seen = await look(case, desired(10, bind="lan"), applied)
    assert {item.path: item.cause for item in seen.steps[0].differences} == {
        "gateway.port": Cause.CHANGE,
        "gateway.bind": Cause.DRIFT,
    }
    await carry_out(case, seen)
    assert load(config(case).read_text()) == {"gateway": {"port": 10, "bind": "lan", "foreign": True}}


@pytest.mark.req("PLAN-10")
async def test_what_somebody_else_changed_since_is_not_given_back(tmp_path: Path) -> None:
    case = make_case(tmp_path, desired(9), '{"gateway": {"port": 5}}')
    applied = await carry_out(case, await look(case, case.desired))
    config(case).write_text('{"gateway": {"port": 6}}')
    assert (await look(case, case.withdrawn, applied)).converged


@pytest.mark.req("DOC-4")
async def test_a_secret_is_in_the_file_as_a_name_only(tmp_path: Path) -> None:
    document = make_desired(
        gateway=gateway(auth_mode="token", token=SecretRef("env", "TOKEN"), password=SecretRef("env", "TOKEN"))
    )
    case = make_case(tmp_path, document)
    await carry_out(case, await look(case, document))
    auth = json.loads(config(case).read_text())["gateway"]["auth"]
    assert auth == {
        "mode": "token",
        "token": "${OPENCLAW_GATEWAY_TOKEN}",
        "password": "${OPENCLAW_GATEWAY_PASSWORD}",
    }


@pytest.mark.req("DOC-4")
async def test_a_secret_found_in_the_file_leaves_it_as_a_digest_only(tmp_path: Path) -> None:
    document = make_desired(gateway=gateway({"hooks": {"mappings": []}}, token=SecretRef("env", "TOKEN")))
    case = make_case(
        tmp_path,
        document,
        json.dumps({"gateway": {"auth": {"token": CANARY}}, "hooks": {"mappings": [{"secret": CANARY, "n": 1}]}}),
    )
    seen = await look(case, document)
    fields = seen.observations[0].fields
    assert isinstance(fields["gateway.auth.token"], Secret)
    assert fields["hooks.mappings"] == ({"secret": fields["gateway.auth.token"], "n": 1},)
    assert CANARY not in repr(seen)
    await carry_out(case, seen)
    assert CANARY not in config(case).read_text()
    for path in case.world.host.state.backups.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.req("DOC-4", "PLAN-10")
@pytest.mark.parametrize("name", ["credentials", "passwd", "signing_key", "cookie", "anything"])
async def test_where_a_reference_is_declared_whatever_stood_there_was_a_secret(tmp_path: Path, name: str) -> None:
    document = make_desired(gateway=gateway({"channels": {"x": {name: "${TOKEN}"}}}, port=9))
    text = json.dumps({"gateway": {"port": 9}, "channels": {"x": {name: CANARY}}})
    case = make_case(tmp_path, document, text)
    seen = await look(case, document)
    assert CANARY not in repr(seen)
    applied = await carry_out(case, seen)
    assert CANARY not in repr(applied)
    assert (await look(case, document, applied)).converged
    await carry_out(case, await look(case, case.withdrawn, applied))
    assert config(case).read_text() == text


async def test_a_plain_value_below_a_name_that_says_secret_converges(tmp_path: Path) -> None:
    document = make_desired(
        gateway=gateway({"channels": {"x": {"credentials": {"path": "a.json", "list": ["b"]}}}}, port=9)
    )
    case = make_case(
        tmp_path, document, '{"gateway": {"port": 9}, "channels": {"x": {"credentials": {"path": "old"}}}}'
    )
    applied = await carry_out(case, await look(case, document))
    assert (await look(case, document, applied)).converged
    data = json.loads(config(case).read_text())
    assert data["channels"]["x"]["credentials"] == {"path": "a.json", "list": ["b"]}


async def test_a_secret_whose_kept_text_is_gone_is_said_before_anything_is_done(tmp_path: Path) -> None:
    document = make_desired(gateway=gateway(token=SecretRef("env", "TOKEN")))
    case = make_case(tmp_path, document, FOREIGN)
    applied = await carry_out(case, await look(case, document))
    for path in case.world.host.state.backups.glob("*.json"):
        path.unlink()
    (plan,) = (await look(case, case.withdrawn, applied)).plans
    assert [item.code for item in plan.blocked] == ["config_not_restorable"]
    assert not plan.actions


@pytest.mark.req("PLAN-16")
async def test_a_file_that_was_there_before_us_needs_consent_and_is_kept(tmp_path: Path) -> None:
    case = make_case(tmp_path, desired(9), FOREIGN)
    seen = await look(case, case.desired)
    (write,) = seen.actions
    assert write.consents == ("take-over",)
    await carry_out(case, seen)
    (kept,) = case.world.host.state.backups.glob("openclaw.json.*")
    assert kept.read_text() == FOREIGN
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@pytest.mark.parametrize("text", [None, "{}", "// nothing\n{ }\n"])
async def test_a_file_that_is_not_there_or_empty_needs_no_consent(tmp_path: Path, text: str | None) -> None:
    case = make_case(tmp_path, desired(9), text)
    assert [action.consents for action in (await look(case, case.desired)).actions] == [()]


@pytest.mark.parametrize(("before", "after"), [(None, 0o600), (0o644, 0o600), (0o600, 0o600), (0o400, 0o400)])
async def test_the_mode_is_private_and_a_stricter_one_stays(tmp_path: Path, before: int | None, after: int) -> None:
    case = make_case(tmp_path, desired(9), None if before is None else "{}")
    if before is not None:
        config(case).chmod(before)
    await carry_out(case, await look(case, case.desired))
    assert stat.S_IMODE(config(case).stat().st_mode) == after


async def test_undoing_the_first_write_takes_the_file_away(tmp_path: Path) -> None:
    case = make_case(tmp_path, desired(9))
    seen = await look(case, case.desired)
    await carry_out(case, seen)
    (write,) = seen.actions
    assert write.undo is not None
    back = replace(write, verb=write.undo.verb, arguments=write.undo.arguments, precondition=None)
    await case.kind.apply(back, None, case.world)
    assert not config(case).exists()


async def test_foreign_changes_between_plan_and_apply_stay(tmp_path: Path) -> None:
    case = make_case(tmp_path, desired(9), '{"gateway": {"port": 5}}')
    seen = await look(case, case.desired)
    config(case).write_text('{"gateway": {"port": 5}, "new": [1, 2]} // theirs')
    await carry_out(case, seen)
    assert config(case).read_text() == '{"gateway": {"port": 9}, "new": [1, 2]} // theirs'


async def test_a_write_of_somebody_else_in_the_last_moment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(tmp_path, desired(9), '{"gateway": {"port": 5}}')
    seen = await look(case, case.desired)
    sync = os.fsync

    def write_theirs(descriptor: int) -> None:
        sync(descriptor)
        if not config(case).read_text().endswith("theirs"):
            config(case).write_text('{"gateway": {"port": 5}} // theirs')

    monkeypatch.setattr(os, "fsync", write_theirs)
    with pytest.raises(StaleError, match="changed since it was read"):
        await carry_out(case, seen)
    assert config(case).read_text() == '{"gateway": {"port": 5}} // theirs'
    assert not list(config(case).parent.glob(".*tmp"))


async def test_a_link_is_read_but_never_written(tmp_path: Path) -> None:
    case = make_case(tmp_path, desired(9))
    target = tmp_path / "shared.json"
    target.write_text('{"gateway": {"port": 5}}')
    config(case).symlink_to(target)
    (plan,) = (await look(case, case.desired)).plans
    assert [item.code for item in plan.blocked] == ["config_is_a_link"]
    assert str(target) in plan.blocked[0].message
    assert (await look(case, desired(5))).converged


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{\n  "gateway": %', ":2:14: JSON5: invalid character '%'"),
        ("", ":1:1: JSON5: invalid end of input"),
        ("\udcff", "is not UTF-8 at byte 0"),
        ("{}" + " " * (4 << 20), "it has more than 4 MiB"),
    ],
)
async def test_a_file_that_cannot_be_read_is_unknown_with_its_place(tmp_path: Path, text: str, reason: str) -> None:
    case = make_case(tmp_path, desired(9))
    config(case).write_bytes(text.encode("utf-8", "surrogateescape"))
    seen = await look(case, case.desired)
    assert reason in (seen.observations[0].unknown or "")
    assert not seen.actions
    # What it says goes: without it what is declared is written anew.
    if "move it away" in (seen.observations[0].unknown or ""):
        config(case).rename(tmp_path / "aside")
        await carry_out(case, await look(case, case.desired))
        assert json.loads(config(case).read_text())["gateway"]["port"] == 9


@pytest.mark.req("PLAN-6", "GW-3")
@pytest.mark.parametrize("mode", ["token", "password"])
async def test_a_mode_that_asks_for_a_secret_needs_one_from_somewhere(tmp_path: Path, mode: str) -> None:
    asking = gateway(**{**NONE, "port": 9, "auth_mode": mode})
    case = make_case(tmp_path, make_desired(gateway=asking, service=service(9)))
    (plan,) = (await look(case, case.desired)).plans
    (blocked,) = plan.blocked
    assert blocked.code == "auth_without_secret"
    assert f"gateway.auth.{mode}: {{env: OPENCLAW_GATEWAY_{mode.upper()}}}" in blocked.hint
    # From the file of somebody else, or by the process's environment.
    config(case).write_text(json.dumps({"gateway": {"auth": {mode: "theirs"}}}))
    assert not (await look(case, case.desired)).plans[0].blocked
    config(case).unlink()
    given = service(9, environment={f"OPENCLAW_GATEWAY_{mode.upper()}": SecretRef("env", "X")})
    assert not (await look(case, make_desired(gateway=asking, service=given))).plans[0].blocked


@pytest.mark.req("PLAN-6", "GW-3")
@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"tls_enabled": True}, "gateway.tls.certPath: needed with gateway.tls.enabled"),
        ({"tls_enabled": True, "tls_cert": "c"}, "gateway.tls.keyPath: needed with gateway.tls.enabled"),
        ({"auth_mode": "trusted-proxy"}, "gateway.auth.mode: the built-in gateway cannot trust a proxy"),
        ({"bind": "custom"}, 'gateway.customBindHost: bind "custom" needs a customBindHost'),
        ({"settings": {"nonsense": 1}}, 'Unrecognized key: "nonsense"'),
    ],
)
async def test_what_the_gateway_would_refuse_is_found_before_it_is_written(
    tmp_path: Path, fields: dict[str, Any], complaint: str
) -> None:
    case = make_case(tmp_path, make_desired(gateway=gateway(**{"port": 9, **fields}), service=service(9)))
    (plan,) = (await look(case, case.desired)).plans
    (blocked,) = plan.blocked
    assert blocked.code == "config_unusable"
    assert f"the gateway would refuse it: {complaint}" in blocked.message


def test_a_file_that_no_gateway_would_start_by_is_found_in_planning_and_nothing_is_guessed(tmp_path: Path) -> None:
    text = '{"gateway": {"port": 5}, "logging": {"consoleLevel": "CONSOLE"}, "bogus": 1}'
    (blocked,) = GatewayConfigKind().plan(step(tmp_path, LEVEL, loaded=None, planned="start", text=text)).blocked
    assert blocked.code == "config_unusable"
    assert 'Unrecognized key: "bogus"; logging.consoleLevel: Invalid option' in blocked.message
    guess = text.replace("CONSOLE", "${LEVEL}").replace(', "bogus": 1', "")
    assert "write" in verbs(step(tmp_path, LEVEL, loaded=None, planned="start", text=guess))
    # Where none is started it is nobody's affair.
    assert "write" in verbs(step(tmp_path, LEVEL, loaded=None, text=text))


@pytest.mark.req("PLAN-6", "DOC-2")
@pytest.mark.parametrize(
    ("fields", "path", "hint"),
    [
        ({"settings": {"nonsense": {"a": 1}}}, ("gateway", "settings", "nonsense"), "take it out of the document"),
        (
            {"settings": {"gateway": {"controlUI": {"enabled": True}}}},
            ("gateway", "settings", "gateway", "controlUI"),
            "did you mean 'controlUi'?",
        ),
        ({"auth_mode": "trusted-proxy"}, ("gateway", "auth", "mode"), "mend gateway.auth.mode in the document"),
        ({"tls_enabled": True}, None, "declare it, or repair it in the file"),
    ],
)
async def test_what_the_document_asks_for_is_to_blame_where_it_stands(
    tmp_path: Path, fields: dict[str, Any], path: DocumentPath | None, hint: str
) -> None:
    """A key that nobody declared is one of the file, and is repaired there."""
    case = make_case(tmp_path, make_desired(gateway=gateway(**{"port": 9, **fields}), service=service(9)))
    (plan,) = (await look(case, case.desired)).plans
    (blocked,) = plan.blocked
    assert blocked.path == path
    assert blocked.hint.startswith(hint)


@pytest.mark.req("PLAN-6", "DOC-2")
def test_of_several_keys_it_is_said_where_each_comes_from(tmp_path: Path) -> None:
    settings = {"nonsense": 1, "gateway": {"controlUI": {"enabled": True}}}
    document = make_desired(gateway=gateway(settings, port=9))
    text = '{"foreign": 1, "logging": {"consoleLevel": "CONSOLE"}}'
    (blocked,) = GatewayConfigKind().plan(step(tmp_path, document, loaded=None, planned="start", text=text)).blocked
    assert blocked.path in {("gateway", "settings", "nonsense"), ("gateway", "settings", "gateway", "controlUI")}
    assert set(blocked.hint.split("; ")) == {
        "gateway.settings.nonsense: take it out of the document: no gateway knows it",
        "gateway.settings.gateway.controlUI: did you mean 'controlUi'?",
        "foreign: it stands in the file only, take it out there",
        "logging.consoleLevel: declare it, or repair it in the file",
    }


@pytest.mark.req("PLAN-10")
async def test_a_file_that_we_made_is_left_without_a_key_and_not_taken_from_a_gateway_that_runs_by_it(
    tmp_path: Path,
) -> None:
    case = make_case(tmp_path, desired(9))
    applied = await carry_out(case, await look(case, case.desired))
    running = LiveConfig(config(case), {}, read_file(config(case), {}))
    await carry_out(case, await look(case, case.withdrawn, applied))
    assert load(config(case).read_text()) == {}
    assert (await look(case, case.withdrawn, applied)).converged
    taken = running.reload()
    assert (taken.error, taken.restart) == (None, ("gateway.port",))
    # Without the file it would go on by what was withdrawn.
    config(case).unlink()
    assert running.reload().error is not None


@pytest.mark.req("PLAN-6", "PLAN-10")
async def test_what_a_withdrawal_would_leave_behind_is_looked_at_as_well(tmp_path: Path) -> None:
    case = make_case(tmp_path, desired(9, tls_enabled=True, tls_cert="c", tls_key="k"))
    applied = await carry_out(case, await look(case, case.desired))
    less = desired(9, tls_enabled=True)
    (plan,) = (await look(case, less, applied)).plans
    assert [item.code for item in plan.blocked] == ["config_unusable"]
    # A former value that somebody else wrote there serves as well as ours.
    case = make_case(tmp_path, case.desired, '{"gateway": {"tls": {"certPath": "a", "keyPath": "b"}}}')
    applied = await carry_out(case, await look(case, case.desired))
    assert not (await look(case, less, applied)).plans[0].blocked


async def test_a_last_good_config_with_what_was_withdrawn_does_not_serve_as_declared(tmp_path: Path) -> None:
    case = make_case(tmp_path, make_desired(gateway=gateway(port=9), logging=logging(level="debug")), "{}")
    await carry_out(case, await look(case, case.desired))
    written = config(case).read_text()
    less = desired(9)
    (resource,) = case.kind.declare(less, case.world.host, case.world.secrets)
    copy_path(config(case)).write_text(written)
    good = sha256(written.encode()).hexdigest()
    for now, serves in (
        ('{"gateway": {"port": 9}, "bogus": 1}', False),
        (written.rstrip()[:-1] + ', "bogus": 1}', True),
    ):
        config(case).write_text(now)
        file = read_config(config(case))
        told = Loaded(digest=good, error="it is bogus", refused=file.digest)
        seen = Seen(file=file, kept={"logging.level": {"digest": "former"}}, loaded=told)
        assert _serves_as_declared(seen, resource, case.world) is serves


async def test_a_damaged_file_is_seen_as_what_the_gateway_goes_on_by_and_never_written(tmp_path: Path) -> None:
    case = make_case(tmp_path, desired(9), "{")
    copy = copy_path(config(case))
    copy.write_text('{"gateway": {"port": 9}}')
    seen = await look(case, case.desired)
    assert seen.converged
    (condition,) = [item for item in seen.observations[0].conditions if item.type == "Degraded"]
    assert condition.reason == "Damaged"
    assert f"repair it, or copy {copy} over it" in condition.message
    (plan,) = (await look(case, desired(8))).plans
    assert [item.code for item in plan.blocked] == ["config_damaged"]
    # Nothing that can be run by either: what stood there is not known.
    copy.write_text("[")
    assert (await look(case, case.desired)).observations[0].unknown is not None


async def test_a_directory_or_a_pipe_in_its_place_hangs_nothing(tmp_path: Path) -> None:
    case = make_case(tmp_path, desired(9))
    os.mkfifo(config(case))
    assert "not a regular file" in ((await look(case, case.desired)).observations[0].unknown or "")
    config(case).unlink()
    config(case).mkdir()
    assert "not a regular file" in ((await look(case, case.desired)).observations[0].unknown or "")


@pytest.mark.parametrize("text", ["[]", '{"gateway": 5}', '{"gateway": null}'])
async def test_what_is_no_object_is_never_replaced(tmp_path: Path, text: str) -> None:
    case = make_case(tmp_path, desired(9), text)
    (plan,) = (await look(case, case.desired)).plans
    assert [item.code for item in plan.blocked] == ["config_no_object"]


async def test_a_directory_that_cannot_be_written_is_temporary_and_leaves_the_file(tmp_path: Path) -> None:
    case = make_case(tmp_path, desired(9), '{"gateway": {"port": 5}}')
    seen = await look(case, case.desired)
    case.world.host.state.ours.write_text("a file where the directory should be")
    with pytest.raises(TemporaryError, match=r"cannot (keep|write)"):
        await carry_out(case, seen)
    assert config(case).read_text() == '{"gateway": {"port": 5}}'


def test_a_document_without_shared_fields_declares_nothing(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    kind = GatewayConfigKind()
    assert kind.declare(make_desired(logging=logging()), world.host, world.secrets) == ()
    (resource,) = kind.declare(make_desired(gateway=gateway()), world.host, world.secrets)
    assert resource.fields == {}
    (resource,) = kind.declare(make_desired(logging=logging(console_style="json")), world.host, world.secrets)
    assert resource.fields == {"logging.consoleStyle": "json"}
    assert resource.origins == {"logging.consoleStyle": ("logging", "console", "style")}


def test_every_setting_has_its_place_in_the_file(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    document = make_desired(
        gateway=Gateway(
            port=1,
            bind="custom",
            host="10.0.0.1",
            auth_mode="password",
            token=None,
            password=SecretRef("env", "P"),
            tls_enabled=True,
            tls_cert="/c",
            tls_key="/k",
            settings={"gateway": {"port": 2, "reload": {"mode": "hot"}}, "a.b": {"c": [1], "empty": {}}},
        ),
        logging=logging(level="info", console_level="warn", console_style="json", redact="off", redact_patterns=("x",)),
    )
    (resource,) = GatewayConfigKind().declare(document, world.host, world.secrets)
    assert resource.fields == {
        "gateway.port": 1,
        "gateway.reload.mode": "hot",
        '["a.b"].c': (1,),
        "gateway.bind": "custom",
        "gateway.customBindHost": "10.0.0.1",
        "gateway.auth.mode": "password",
        "gateway.auth.password": "${OPENCLAW_GATEWAY_PASSWORD}",
        "gateway.tls.enabled": True,
        "gateway.tls.certPath": "/c",
        "gateway.tls.keyPath": "/k",
        "logging.level": "info",
        "logging.consoleLevel": "warn",
        "logging.consoleStyle": "json",
        "logging.redactSensitive": "off",
        "logging.redactPatterns": ("x",),
    }
    assert resource.origins["gateway.port"] == ("gateway", "port")
    assert resource.origins['["a.b"].c'] == ("gateway", "settings", "a.b", "c")
    assert resource.origins["gateway.tls.certPath"] == ("gateway", "tls", "cert")


def step(
    tmp_path: Path,
    document: Desired,
    *,
    loaded: Loaded | None,
    planned: str | None = None,
    text: str = '{"gateway": {"port": 5}}',
    applied: Applied | None = None,
) -> Step:
    """A step as the planner makes it, for a gateway that says `loaded` and a service kind that planned a verb."""
    world = make_world(tmp_path)
    world.host.state.config.write_text(text)
    (resource,) = GatewayConfigKind().declare(document, world.host, world.secrets)
    file = read_config(world.host.state.config)
    data: Any = load(text)
    fields: dict[str, Any] = {path: _at(data, path.split(".")) for path in resource.fields}
    observation = Observation(key=KEY, fields=fields, detail=Seen(file=file, loaded=loaded))
    action = Action(
        id=f"service/gateway:{planned}", key=SERVICE, verb=planned or "", cause=Cause.CHANGE, because=Because(text="x")
    )
    return Step(
        key=KEY,
        resource=resource,
        observation=observation,
        differences=differences(resource, observation, applied or {}),
        planned={SERVICE: (action,)} if planned else {},
        applied=applied or {},
    )


def _at(data: Any, path: list[str]) -> Any:
    for part in path:
        data = data.get(part, ABSENT) if isinstance(data, dict) else ABSENT
    return data


def verbs(one: Step) -> dict[str, Impact]:
    return {action.verb: action.impact for action in GatewayConfigKind().plan(one).actions}


LEVEL = make_desired(logging=logging(level="debug"))


def test_a_hot_path_is_written_and_reloaded_while_a_gateway_runs(tmp_path: Path) -> None:
    one = step(tmp_path, LEVEL, loaded=Loaded(digest="x"))
    assert verbs(one) == {"write": Impact.HOT_RELOAD, "reload": Impact.HOT_RELOAD}
    write, reload = GatewayConfigKind().plan(one).actions
    assert reload.needs == (write.id,)


def test_without_a_gateway_nothing_is_reloaded_and_nobody_disturbed(tmp_path: Path) -> None:
    assert verbs(step(tmp_path, desired(9), loaded=None)) == {"write": Impact.NONE}
    assert verbs(step(tmp_path, LEVEL, loaded=None, planned="start")) == {"write": Impact.NONE}


def test_a_restart_path_is_written_and_the_restart_left_to_the_service(tmp_path: Path) -> None:
    one = step(tmp_path, desired(9), loaded=Loaded(digest="x"), planned="restart")
    assert verbs(one) == {"write": Impact.RESTART}
    (write,) = GatewayConfigKind().plan(one).actions
    assert any("restarted" in item.text for item in write.consequences)


@pytest.mark.req("PLAN-2", "PLAN-10")
def test_a_cure_of_what_the_gateway_never_took_over_restarts_nothing_and_says_so(tmp_path: Path) -> None:
    text = '{"gateway": {"port": 5}}'
    file = sha256(text.encode()).hexdigest()
    ours = {"gateway.port": AppliedField(9, ABSENT)}
    one = step(tmp_path, desired(9), loaded=Loaded(digest=file, owed=("gateway.port",)), text=text, applied=ours)
    assert verbs(one) == {"write": Impact.NONE, "reload": Impact.HOT_RELOAD}
    assert GatewayConfigKind().plan(one).actions[0].consequences == ()
    # One that began with it goes on with it until somebody starts it anew.
    one = step(tmp_path, desired(9), loaded=Loaded(digest=file), text=text, applied=ours)
    assert verbs(one)["write"] is Impact.RESTART
    assert "next start" in GatewayConfigKind().plan(one).actions[0].consequences[0].text


@pytest.mark.req("PLAN-13")
async def test_what_a_gateway_runs_by_that_has_not_read_the_file_is_that_of_its_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(tmp_path, desired(9), '{"gateway": {"port": 5}}')
    before = '{"gateway": {"port": 9}}'

    async def ask(_where: object) -> Loaded:
        await trio.lowlevel.checkpoint()
        return Loaded(digest=sha256(before.encode()).hexdigest())

    monkeypatch.setattr(kinds, "ask", ask)
    assert (await look(case, case.desired)).observations[0].detail.running == {}
    copy_path(config(case)).write_text(before)
    assert (await look(case, case.desired)).observations[0].detail.running == {"gateway.port": 9}
    copy_path(config(case)).write_text("{}")
    assert (await look(case, case.desired)).observations[0].detail.running == {}


@pytest.mark.req("PLAN-13")
def test_a_reload_is_owed_as_long_as_the_gateway_runs_by_another_file(tmp_path: Path) -> None:
    one = step(tmp_path, desired(5), loaded=Loaded(digest="0" * 64))
    (action,) = GatewayConfigKind().plan(one).actions
    assert (action.verb, action.cause) == ("reload", Cause.OWED)
    same = read_config(tmp_path / "state" / "openclaw.json").digest
    assert verbs(step(tmp_path, desired(5), loaded=Loaded(digest=same))) == {}
    assert verbs(step(tmp_path, desired(5), loaded=Loaded())) == {}
    # What the gateway has refused already it would refuse again.
    assert verbs(step(tmp_path, desired(5), loaded=Loaded(digest="0" * 64, error="no", refused=same))) == {}
    for verb in ("restart", "stop", "start"):
        assert verbs(step(tmp_path, desired(5), loaded=Loaded(digest="0" * 64), planned=verb)) == {}


def test_nothing_is_written_into_a_file_that_the_gateway_would_go_on_to_refuse(tmp_path: Path) -> None:
    text = '{"gateway": {"port": 5}, "bogus": 1}'
    refused = sha256(text.encode()).hexdigest()
    told = Loaded(digest="0" * 64, error='Unrecognized key: "bogus"', refused=refused)
    (blocked,) = GatewayConfigKind().plan(step(tmp_path, LEVEL, loaded=told, text=text)).blocked
    assert (blocked.code, 'Unrecognized key: "bogus"' in blocked.message) == ("config_refused", True)
    # Where the write cures what it complains of, and of another file than that, it is for the gateway to say.
    cured = '{"logging": {"level": "loud"}}'
    ours = Loaded(digest="0" * 64, error="logging.level: no", refused=sha256(cured.encode()).hexdigest())
    assert "write" in verbs(step(tmp_path, LEVEL, loaded=ours, text=cured))
    assert "write" in verbs(step(tmp_path, LEVEL, loaded=replace(told, refused="1" * 64), text=text))


UNHEEDED = {
    "logging.redact": ("logging", "redact"),
    "logging.redact_patterns": ("logging", "redact_patterns"),
    "gateway.settings.agents": ("gateway", "settings", "agents"),
    "gateway.settings.gateway.controlUi": ("gateway", "settings", "gateway", "controlUi"),
}


@pytest.mark.req("DOC-1")
@pytest.mark.parametrize("converged", [False, True])
def test_what_the_built_in_gateway_does_not_read_is_said_beside_every_plan(tmp_path: Path, converged: bool) -> None:
    """Once for each key of it, however much is declared below; what it reads, and what is about the file, is not mentioned."""
    settings: dict[str, Any] = {
        "agents": {"defaults": {"maxConcurrent": 4}, "list": []},
        "gateway": {"controlUi": {"enabled": True}, "reload": {"debounceMs": 300}},
        "meta": {"x": 1},
        "env": {"A": "b"},
    }
    document = make_desired(
        gateway=gateway(settings, port=5), logging=logging(level="info", redact="off", redact_patterns=("x",))
    )
    words = {"redactSensitive": "off", "redactPatterns": ["x"], "level": "info"}
    whole = json.dumps({**settings, "gateway": {"port": 5, **settings["gateway"]}, "logging": words})
    one = step(tmp_path, document, loaded=None, text=whole if converged else "{}")
    assert bool(one.differences) is not converged
    notes = GatewayConfigKind().plan(one).notes
    assert {note.message.split("`")[1]: note.path for note in notes} == UNHEEDED
    assert {note.code for note in notes} == {"not_managed"}
    assert len(notes) == len(UNHEEDED)


@pytest.mark.req("DOC-1")
def test_of_what_the_real_gateway_reads_nothing_is_said(tmp_path: Path) -> None:
    document = make_desired(
        gateway=gateway({"agents": {"list": []}}, port=5),
        logging=logging(redact="off"),
        service=service(5, runtime="openclaw"),
    )
    assert GatewayConfigKind().plan(step(tmp_path, document, loaded=None, text="{}")).notes == ()
