"""Includes, overrides, explanations, and the cache that makes the second load cheap."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reconciler.document import cache as store
from reconciler.document import sources
from reconciler.document.edit import set_in_files
from reconciler.document.load import Loaded, load, load_edited, load_text, write_cache
from reconciler.document.sources import is_part
from reconciler.errors import DocumentError, UsageError
from reconciler.values import split_path

TEXT = "version: 1\nservice: {}\ngateway:\n  port: 18789\n  auth: {token: {env: TOKEN}}\nlogging: {level: info}\nauth: {}\n"


def write(directory: Path, **files: str) -> str:
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path = path.with_name(path.name + ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(directory / "openclaw.yaml")


NO_RETENTION = 'not declared, its default is "24h" once the document has logging.retention'


def explained(loaded: Loaded, path: str) -> tuple[object, str]:
    found = loaded.explain(split_path(path))
    return found.value, str(found)


@pytest.mark.req("DOC-5")
def test_the_including_file_wins_and_positions_stay_with_their_file(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        openclaw="version: 1\ninclude: [parts/a.yaml, b.yaml]\ngateway: {port: 3}\n",
        parts__a="include: ../c.yaml\ngateway: {port: 1, bind: lan, settings: {x: {p: 1, l: [1, 2]}}}\n",
        b="gateway:\n  settings: {x: {q: 2, l: [3]}}\n",
        c="logging: {level: debug}\ngateway: {bind: tailnet}\n",
    )
    loaded = load(main, {})
    gateway, logging = loaded.desired.gateway, loaded.desired.logging
    assert gateway is not None
    assert logging is not None
    assert (gateway.port, gateway.bind, logging.level) == (3, "lan", "debug")
    assert gateway.settings == {"x": {"p": 1, "q": 2, "l": [3]}}
    assert [os.path.relpath(file, tmp_path) for file in loaded.files] == [
        "openclaw.yaml",
        "parts/a.yaml",
        "c.yaml",
        "b.yaml",
    ]
    assert set(loaded.texts) == {"openclaw.yaml", "parts/a.yaml", "b.yaml", "c.yaml"}
    assert str(loaded.locate(("gateway", "settings", "x", "q"))) == f"{tmp_path}/b.yaml:2:18"
    assert str(loaded.locate(("logging", "level"))) == f"{tmp_path}/c.yaml:1:11"


@pytest.mark.req("DOC-5")
def test_the_same_file_may_be_included_twice_but_not_by_itself(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        openclaw="version: 1\ninclude: [a.yaml, b.yaml]\n",
        a="include: c.yaml\n",
        b="include: c.yaml\n",
        c="logging: {}\n",
    )
    assert load(main, {}).desired.logging is not None


@pytest.mark.req("DOC-5")
@pytest.mark.parametrize(
    "part",
    ["", "# later\n", "{}", "x-a: 1\n", "{logging: {}}", '"gateway": {}', "\ufefflogging: {}\n", "# # # #\n" * 9],
)
def test_what_may_be_a_part_of_a_document_is_understood_as_one(tmp_path: Path, part: str) -> None:
    assert is_part(part.encode())
    main = write(tmp_path, openclaw="version: 1\ninclude: a.yaml\n", a=part)
    if ":" in part or part == "{}":
        load(main, {})
        return
    with pytest.raises(DocumentError) as refused:
        load(main, {})
    assert "empty document" in str(refused.value.problems[0])


@pytest.mark.req("DOC-5", "DOC-4")
@pytest.mark.parametrize(
    "text",
    ["sk-canary", "PW: canary", "A=canary\nB='canary", "- canary", '{"user": "canary"}', "[canary", "&canary x", "\0canary",
     "canary \ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "# # # # # # # # # # # # # # # # # #\ncanary"],
)  # fmt: skip
def test_of_a_file_that_is_no_part_of_a_document_nothing_is_shown(tmp_path: Path, text: str) -> None:
    main = write(tmp_path, openclaw="version: 1\ninclude: [secret]\n")
    (tmp_path / "secret").write_text(text, encoding="latin-1")
    with pytest.raises(DocumentError) as refused:
        load(main, {})
    (problem,) = refused.value.problems
    assert "it has no section of a document" in str(problem)
    assert "canary" not in str(problem) + repr(problem)


@pytest.mark.req("DOC-5")
def test_a_cycle_through_a_symbolic_link_is_found(tmp_path: Path) -> None:
    main = write(tmp_path, openclaw="version: 1\ninclude: again.yaml\n")
    (tmp_path / "again.yaml").symlink_to("openclaw.yaml")
    with pytest.raises(DocumentError) as caught:
        load(main, {})
    assert [each.code for each in caught.value.problems] == ["include_cycle"]  # type: ignore[attr-defined]


@pytest.mark.req("DOC-3")
def test_environment_over_file_over_defaults() -> None:
    environ = {
        "OPENCLAW_GATEWAY_PORT": "19000",
        "OPENCLAW_LOG_LEVEL": "DEBUG",
        "LOG_LEVEL": "error",
        "WARN_HOURS": "48",
    }
    loaded = load_text(TEXT, environ, name="d.yaml")
    assert explained(loaded, "gateway.port") == (19000, "environment OPENCLAW_GATEWAY_PORT")
    assert explained(loaded, "logging.level") == ("debug", "environment OPENCLAW_LOG_LEVEL")
    assert explained(loaded, "auth.expiry.warn") == ("48h", "environment WARN_HOURS")
    plain = load_text(TEXT, {}, name="d.yaml")
    assert explained(plain, "gateway.port") == (18789, "d.yaml:4:3")
    assert explained(plain, "auth.expiry.warn") == ("24h", "default")
    assert explained(plain, "audit") == (None, "not declared")
    assert plain.digest != loaded.digest


@pytest.mark.req("DOC-3")
@pytest.mark.parametrize(
    ("text", "path", "value", "origin"),
    [
        ("", "audit.every", "6h", "default, once the document has audit"),
        ("audit: {}", "audit.every", "6h", "default"),
        ("audit: {every: null, at: 0 6 * * *}", "audit.every", None, "d.yaml:2:9"),
        ("", "policy.verify", "15s", "default"),
        ("", "service.limits.files", None, "not declared, it has no default"),
        ("service: {}", "service.limits.files", None, "not declared, it has no default"),
        ("", "diagnostics.otel.flush", "1m", "default, once the document has diagnostics.otel"),
        ("diagnostics: {}", "diagnostics.otel.flush", "1m", "default, once the document has diagnostics.otel"),
        ("diagnostics: {}", "diagnostics.otel.endpoint", None, "not declared, required once the document has diagnostics.otel"),
        ("", "source.git", None, "not declared, required once the document has source"),
        ("", "source.branch", "main", "default, once the document has source"),
        # What the host shares with others: a default there is nobody's wish.
        ("", "gateway.bind", "loopback", "default, where the host has no value"),
        ("gateway: {}", "gateway.bind", "loopback", "default, where the host has no value"),
        ("gateway: {bind: null}", "gateway.bind", None, "d.yaml:2:11"),
        ("", "gateway.auth.mode", "token", "default, where the host has no value"),
        ("", "gateway.host", None, "not declared, it has no default"),
        ("", "gateway.auth", None, "not declared"),
        # Without its section nothing is deleted, whatever the section would say.
        ("", "logging.retention.age", None, NO_RETENTION),
        ("logging: {}", "logging.retention.age", None, NO_RETENTION),
        ("logging: {retention: {}}", "logging.retention.age", "24h", "default"),
        ("", "heartbeats.defaults.every", "30m", "default, where the host has no value"),
        ("", "heartbeats.agents.main.every", "30m", "default, where the host has no value"),
        ("heartbeats: {defaults: {every: 1h}, agents: {main: {}}}", "heartbeats.agents.main.every", "1h", "d.yaml:2:25"),
        ("heartbeats: {defaults: {every: 1h}, agents: {main: {every: 2h}}}", "heartbeats.agents.main.every", "2h", "d.yaml:2:53"),
        ("", "service.environment.TZ", None, "not declared"),
        ("", "gateway.settings.agents.defaults", None, "not declared"),
        ("", "policy.windows", [], "default"),
        ("", "policy.windows[0].hours", None, "not declared, required once the document has policy.windows[0]"),
        ("", "tunnels.office.keepalive", None, "not declared, its default depends on the type"),
        ("tunnels: {office: {type: tailscale, local: 1}}", "tunnels.office.port", 443, "default"),
        ("", "version", 1, "d.yaml:1:1"),
        ("", "include", [], "default"),
        ("x-a: {b: 1}", "x-a.b", 1, "d.yaml:2:7"),
    ],
)  # fmt: skip
def test_what_holds_for_a_field_and_on_what_condition(text: str, path: str, value: object, origin: str) -> None:
    assert explained(load_text(f"version: 1\n{text}\n", {}, name="d.yaml"), path) == (value, origin)


@pytest.mark.req("DOC-3")
@pytest.mark.parametrize("text", ["", "service: {}\ngateway: {}\naudit: {}\n"])
@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("gateway.prot", "did you mean 'port'?"),
        ("audit.evry", "did you mean 'every'?"),
        ("gatway.port", "did you mean 'gateway'?"),
        ("audit.every.x", None),
        ("audit[0]", None),
        ("x-none", None),
        ("heartbeats.agents.main.evry", "did you mean 'every'?"),
    ],
)
def test_what_the_schema_does_not_have_is_no_field_whatever_the_document_has(text: str, path: str, hint: str) -> None:
    loaded = load_text(f"version: 1\n{text}", {})
    with pytest.raises(UsageError) as caught:
        explained(loaded, path)
    assert str(caught.value) == f"cannot find '{path}': there is no such field"
    assert caught.value.hint == hint


@pytest.mark.req("DOC-3", "DOC-5")
def test_an_include_is_explained_from_the_document_itself(tmp_path: Path) -> None:
    main = write(tmp_path, openclaw="version: 1\ninclude: [a.yaml]\n", a="include: b.yaml\n", b="logging: {}\n")
    loaded = load(main, {}, name="openclaw.yaml")
    assert explained(loaded, "include") == (["a.yaml"], "openclaw.yaml:2:1")
    assert explained(loaded, "include[0]") == ("a.yaml", "openclaw.yaml:2:11")


@pytest.mark.req("DOC-3")
def test_overrides_create_only_what_is_sensible() -> None:
    """A gateway for a declared service, but never a logging section: that would be consent to delete files."""
    environ = {"OPENCLAW_GATEWAY_PORT": "19000", "DEBUG": "http,openclaw:*", "WARN_HOURS": "1"}
    bare = load_text("version: 1\n", environ).desired
    assert (bare.gateway, bare.logging, set(bare.canonical)) == (None, None, {"version", "policy"})
    service = load_text("version: 1\nservice: {}\n", environ).desired
    assert service.gateway is not None
    assert service.gateway.port == 19000
    assert service.logging is None
    logging = load_text("version: 1\nlogging: {}\n", environ).desired.logging
    assert logging is not None
    assert logging.level == "debug"


@pytest.mark.req("DOC-3")
def test_a_host_override_takes_the_place_of_bind() -> None:
    loaded = load_text("version: 1\ngateway: {bind: loopback}\n", {"OPENCLAW_GATEWAY_HOST": "192.168.1.4"})
    gateway = loaded.desired.gateway
    assert gateway is not None
    assert (gateway.bind, gateway.host) == ("custom", "192.168.1.4")
    assert loaded.names == tuple(
        sorted(
            ["OPENCLAW_GATEWAY_PORT", "OPENCLAW_GATEWAY_HOST", "OPENCLAW_LOG_LEVEL", "LOG_LEVEL", "DEBUG", "WARN_HOURS"]
        )
    )


def test_byte_order_mark_and_crlf_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "openclaw.yaml"
    path.write_bytes("\ufeffversion: 1\r\ngateway:\r\n  port: 5\r\n".encode())
    loaded = load(path, {}, name="openclaw.yaml")
    assert loaded.desired.gateway is not None
    assert str(loaded.locate(("gateway", "port"))) == "openclaw.yaml:3:3"


def test_a_file_that_is_being_replaced_is_read_whole(tmp_path: Path) -> None:
    """Old or new, never a mixture, while another thread swaps a symbolic link between two documents."""
    for number in (1, 2):
        (tmp_path / f"{number}.yaml").write_text(
            f"version: 1\ngateway: {{port: {number}}}\n" + "# pad\n" * 2000 + f"x-end: {number}\n"
        )
    path = tmp_path / "openclaw.yaml"
    path.symlink_to("1.yaml")
    done = threading.Event()

    def swap() -> None:
        for turn in range(200):
            (tmp_path / "new").symlink_to(f"{turn % 2 + 1}.yaml")
            (tmp_path / "new").rename(path)
        done.set()

    thread = threading.Thread(target=swap)
    thread.start()
    while not done.is_set():
        desired = load(path, {}).desired
        assert desired.gateway is not None
        assert desired.extra["x-end"] == desired.gateway.port
    thread.join()


def test_cache_gives_the_same_and_is_dropped_when_anything_moves(tmp_path: Path) -> None:
    main = write(tmp_path, openclaw=TEXT + "include: a.yaml\n", a="policy: {verify: 1m}\n")
    cache = tmp_path / "cache"
    environ = {"OPENCLAW_GATEWAY_PORT": "19000", "OTHER": "x"}
    first = load(main, environ, cache=cache)
    assert not cache.exists()
    assert write_cache(cache, first, environ)
    assert cache.stat().st_mode & 0o777 == 0o600
    assert store.read_cache(cache, main, environ) is not None
    second = load(main, {**environ, "OTHER": "y"}, cache=cache)
    assert second.cached
    assert replace(second, cached=False) == first
    assert second.locate(("gateway", "port")) == first.locate(("gateway", "port"))
    assert second.locate(("policy", "verify")) == first.locate(("policy", "verify"))
    assert store.read_cache(cache, main, {}) is None
    assert store.read_cache(cache, main, {**environ, "LOG_LEVEL": "info"}) is None
    (tmp_path / "a.yaml").write_text("policy: {verify: 2m}\n")
    assert store.read_cache(cache, main, environ) is None
    assert load(main, environ, cache=cache).desired.policy.verify_seconds == 120
    (tmp_path / "a.yaml").unlink()
    with pytest.raises(DocumentError):
        load(main, environ, cache=cache)


@pytest.mark.parametrize("spoil", ["mode", "link", "directory", "garbage", "empty", "list", "cut", "fifo"])
def test_cache_that_could_be_another_ones_is_not_trusted(tmp_path: Path, spoil: str) -> None:
    main = write(tmp_path, openclaw=TEXT)
    cache = tmp_path / "cache"
    assert write_cache(cache, load(main, {}), {})
    good = cache.read_bytes()
    match spoil:
        case "mode":
            cache.chmod(0o640)
        case "link":
            cache.rename(tmp_path / "real")
            cache.symlink_to("real")
        case "directory":
            cache.unlink()
            cache.mkdir()
        case "fifo":
            cache.unlink()
            os.mkfifo(cache, 0o600)
        case _:
            cache.write_bytes({"garbage": b"\xff{", "empty": b"", "list": b"[[1]]", "cut": good[:-20]}[spoil])
    assert store.read_cache(cache, main, {}) is None
    assert load(main, {}, cache=cache).desired.gateway is not None


def test_cache_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    loaded = load_text(TEXT, {})
    assert not write_cache(tmp_path / "no" / "such" / "cache", loaded, {})


def test_a_load_from_the_cache_imports_neither_pydantic_nor_yaml(tmp_path: Path) -> None:
    main = write(tmp_path, openclaw=TEXT)
    cache = tmp_path / "cache"
    assert write_cache(cache, load(main, {}), {})
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from reconciler.document.load import load\n"
        "light = set(sys.modules)\n"
        "load(sys.argv[1], {}, cache=Path(sys.argv[2]))\n"
        "bad = {'pydantic', 'pydantic_core', 'ruamel.yaml', '_ruamel_yaml', 'click', 'trio', 'subprocess', 'socket', 'difflib',\n"
        "       'zoneinfo', 'reconciler.document.nodes', 'reconciler.document.schema'}\n"
        "print(sorted(bad & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, main, str(cache)], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "[]\n"


def test_an_edit_can_be_checked_before_it_is_written(tmp_path: Path) -> None:
    main = write(tmp_path, openclaw="version: 1\ninclude: a.yaml\n", a="gateway: {port: 1}\n")
    good = set_in_files(main, ("gateway", "port"), 2)
    assert good.file == str(tmp_path / "a.yaml")
    desired = load_edited(main, {}, good).desired
    assert desired.gateway is not None
    assert desired.gateway.port == 2
    with pytest.raises(DocumentError):
        load_edited(main, {}, set_in_files(main, ("gateway", "port"), 0))
    assert (tmp_path / "a.yaml").read_text() == "gateway: {port: 1}\n"


@pytest.mark.req("DOC-9")
@pytest.mark.real
def test_one_document_is_taken_apart_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many threads load one: the memory of a process is that of one load."""
    path = tmp_path / "openclaw.yaml"
    path.write_text("version: 1\n")
    at_once = most = 0
    read = sources.read_document

    def slow(*arguments: Any, **named: Any) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.01)
        found = read(*arguments, **named)
        at_once -= 1
        return found

    monkeypatch.setattr(sources, "read_document", slow)
    with ThreadPoolExecutor(4) as pool:
        for loaded in [pool.submit(load, path, {}) for _ in range(8)]:
            assert loaded.result().digest
    assert most == 1


@pytest.mark.req("DOC-9")
def test_an_error_keeps_no_text_of_the_document(tmp_path: Path) -> None:
    """Whoever holds the error holds neither the tree nor the texts that were read."""
    path = tmp_path / "openclaw.yaml"
    path.write_text("version: 1\ngatewy: 1\n")
    with pytest.raises(DocumentError) as caught:
        load(path, {})
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-1] == "load"
