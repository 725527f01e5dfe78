"""The copy of the config that the gateway last ran by: when it is made, and when it stands in for the file."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gateway.app import _config
from gateway.config import Issue, Snapshot, objections, read_file
from gateway.last_good import copy_path, keep, read_last_good
from gateway.live import LiveConfig

pytestmark = pytest.mark.req("GW-5")


def write(path: Path, data: Any) -> Snapshot:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return read_file(path, {})


def test_the_copy_is_that_of_a_valid_file_private_and_written_only_when_it_differs(tmp_path: Path) -> None:
    path = tmp_path / "openclaw.json"
    copy = copy_path(path)
    assert keep(path, read_file(path, {})) is None
    assert not copy.exists()
    good = write(path, {"logging": {"level": "debug"}})
    assert keep(path, good) is None
    assert (copy.read_bytes(), copy.stat().st_mode & 0o777) == (path.read_bytes(), 0o600)
    os.utime(copy, ns=(1, 1))
    assert keep(path, good) is None
    assert copy.stat().st_mtime_ns == 1
    assert keep(path, write(path, "{")) is None
    assert copy.stat().st_mtime_ns == 1
    assert keep(path, write(path, {"logging": {"level": "warn"}})) is None
    assert copy.read_bytes() == path.read_bytes()


def test_a_copy_that_cannot_be_written_is_told_and_harms_nothing(tmp_path: Path) -> None:
    path = tmp_path / "openclaw.json"
    copy_path(path).mkdir()
    told = keep(path, write(path, {}))
    assert told is not None
    assert told.startswith(f"cannot write {copy_path(path)}: ")


@pytest.mark.parametrize("damage", ["{", "", "[]", '{"bogus": 1}', '{"logging": {"level": "${GONE}"}}'])
def test_a_file_that_cannot_be_used_is_stood_in_for_and_its_repair_taken_over(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "openclaw.json"
    good = write(path, {"gateway": {"port": 20001}})
    keep(path, good)
    refused = write(path, damage)
    config = _config(path, {}, None)
    assert isinstance(config, LiveConfig)
    assert config.current.settings is not None
    assert (config.current.hash, config.current.settings.port) == (good.hash, 20001)
    part = config.part()
    assert (part["ok"], part["error"], part["refusedHash"]) == (False, refused.error, refused.hash)
    assert config.read().issues == refused.issues
    path.write_text('{"gateway": {"port": 20001}, "logging": {"level": "debug"}}')
    assert config.reload().hot == ("logging.level",)
    assert (config.part()["ok"], config.part()["refusedHash"]) == (True, None)


def test_it_is_stood_in_for_only_by_what_can_be_run_by_now(tmp_path: Path) -> None:
    path = tmp_path / "openclaw.json"
    path.write_text('{"gateway": {"auth": {"token": "${GIVEN}"}}}')
    keep(path, read_file(path, {"GIVEN": "value"}))
    assert read_last_good(path, {"GIVEN": "value"}) is not None
    path.write_text("{")
    without = _config(path, {}, None)
    assert isinstance(without, Snapshot)
    assert "JSON5" in (without.error or "")


@pytest.mark.parametrize("how", ["deleted", "a link to nothing"])
def test_a_missing_file_is_an_accident_where_there_was_one(tmp_path: Path, how: str) -> None:
    path = tmp_path / "openclaw.json"
    good = write(path, {"gateway": {"port": 20001}})
    path.unlink()
    fresh = _config(path, {}, None)
    assert isinstance(fresh, LiveConfig)
    assert (fresh.current.exists, fresh.error) == (False, None)
    keep(path, good)
    if how != "deleted":
        path.symlink_to(tmp_path / "nowhere")
    missing = _config(path, {}, None)
    assert isinstance(missing, LiveConfig)
    assert (missing.current.hash, missing.error) == (good.hash, "the file is missing")


def test_what_is_wrong_with_a_text_does_not_depend_on_what_its_references_give() -> None:
    assert objections('{"gateway": {"auth": {"token": "${SOMEWHERE}"}}}') == ()
    assert objections('{"bogus": 1}') == (Issue("", 'Unrecognized key: "bogus"', key="bogus"),)


def test_where_a_reference_stands_for_no_text_its_complaint_is_a_guess() -> None:
    text = '{"logging": {"level": "${LEVEL}", "consoleLevel": "loud"}, "bogus": 1}'
    assert [(issue.path, issue.guessed) for issue in objections(text)] == [
        ("", False),
        ("logging.level", True),
        ("logging.consoleLevel", False),
    ]


def test_a_secret_that_the_environment_gives_is_known_by_its_name() -> None:
    asking = '{"gateway": {"bind": "lan", "auth": {"mode": "token"}}}'
    assert objections(asking) == (Issue("gateway.auth.token", "auth mode token without a token"),)
    assert objections(asking, ["OPENCLAW_GATEWAY_TOKEN", "OPENCLAW_GATEWAY_PORT"]) == ()


def test_a_missing_file_is_an_empty_config_unless_somebody_named_it(tmp_path: Path) -> None:
    path = tmp_path / "openclaw.json"
    assert isinstance(_config(path, {}, None), LiveConfig)
    refused = _config(path, {}, None, named=True)
    assert isinstance(refused, Snapshot)
    assert refused.issues == (Issue("", f"there is no such file: {path}"),)
    keep(path, write(path, {"gateway": {"port": 20001}}))
    path.unlink()
    assert isinstance(_config(path, {}, None, named=True), LiveConfig)
