"""The quick way through the schema gives what the models give, or nothing; never more than they accept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from pydantic import ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from reconciler.document import fast
from reconciler.document.checked import Flag, from_spec
from reconciler.document.environment import read_overrides
from reconciler.document.fast import canonical_section, copied, shape_data
from reconciler.document.load import load, load_text
from reconciler.document.nodes import plain
from reconciler.document.schema import SECTIONS, Section
from reconciler.document.shape import describe, document_shape
from reconciler.document.sources import read_document, read_text
from reconciler.document.template import init_text

ROOT = Path(__file__).parents[3]
BROKEN = ROOT / "tests/data/broken"
SHAPE = shape_data()
NAMES = sorted(SHAPE["sections"])

# Every field of every section, with another value than its default wherever it has one.
FULL = """\
service:
  runtime: openclaw
  manager: embedded
  state: stopped
  environment: {TZ: Europe/Berlin, KEY: "${KEY}", PASS: {file: secrets/pass}, MORE: {exec: [pass, show, x]}, EMPTY: ""}
  limits: {memory: 1.5GiB, cpu: 12.5%, files: 4096}
  restart: {delay: 500ms, max_delay: 1h30m, burst: 7, window: 1d, never_on_exit: [0, 255]}
  stop: {drain: 0, grace: 1w}
  openclaw: {version: 2026.2.17-beta.1, command: [node, dist/index.js]}
gateway:
  port: 1
  bind: custom
  host: 0:0::1
  auth: {mode: password, token: "${TOKEN}", password: {file: /x}}
  tls: {enabled: true, cert: a.pem, key: b.pem}
  settings: {agents: {list: [{id: main, deep: [[], {}, null, 1.0, 1e3, true]}]}, "é": ""}
logging:
  level: silent
  console: {level: trace, style: json}
  redact: "off"
  redact_patterns: ['x+', y]
  directory: /var/log
  max_file: 64KiB
  retention: {age: null, total: 0, files: null, compress_after: 1ms}
diagnostics:
  stuck_after: 1s
  flags: ["gateway.*"]
  prometheus: {enabled: false}
  otel:
    endpoint: HTTPS://collector:4318/x
    service_name: mine
    headers: {authorization: {env: OTEL}}
    traces: false
    metrics: false
    logs: true
    sample: 0.1234567
    flush: 5s
heartbeats:
  defaults: {every: 1h, prompt: p, target: last, model: m, ack_max_chars: 0, active: "8:00 - 24:00"}
  agents: {main: {}, env: {every: 0, active: "22:00-08:00 Europe/Berlin"}}
  late_after: 2.5
auth:
  profiles:
    a:key: {type: api_key, key: {env: KEY}, provider: a, email: a@b}
    b:token: {type: token, token: "${TOKEN}", expires: 2027-01-31, provider: b, email: b@c}
    c:oauth: {type: oauth, refresh: {file: r}, access: {file: a}, provider: c, email: c@d}
  order: {a: ["a:key"], b: []}
  cooldowns: {rate_limit: 1s, billing: 2s, timeout: 3s, disable_after: 1, reset: []}
  expiry: {check: 1s, warn: 2s}
tunnels:
  one:
    type: ssh
    host: ops@bastion
    port: 2222
    identity: ~/.ssh/id
    known_hosts: ~/.ssh/known
    direction: remote
    local: 1
    remote: 65535
    keepalive: 1m
  two: {type: tailscale, mode: funnel, port: 8443, local: 2, path: /x}
  three: {type: ngrok, local: 3, token: {env: NGROK}, domain: x.example}
  four: {type: cloudflared, local: 4, token: {env: CLOUDFLARED}, hostname: y.example}
audit:
  every: null
  at: "0  */6 * jan-mar mon,5"
  fail_on: never
  fix: ["fs.*"]
  waive: [{check: c, reason: r, until: 2027-01-01}]
notifications:
  routes: [{min: high, to: ops}, {to: ops}]
  channels: {ops: {url: {env: OPS_URL}}}
  repeat_after: 1s
  per_hour: 1
policy:
  verify: 1s
  rollback: false
  windows: [{hours: "02:00-05:00 UTC", days: [sat]}, {hours: "23:00-01:00"}]
  restarts_per_hour: null
  approve: []
source: {git: "ssh://git@host/ops.git", branch: b, path: p, signers: s, every: 1s}
fleet:
  endpoints: ["https://e:1", "http://e:2"]
  name: n
  group: g
  prefix: /p
  lease: 1s
  username: u
  password: {env: ETCD}
  ca: ca.pem
  rollout: {batch: 2, pause: 1s, max_failures: 3}
"""


def by_models(name: str, value: Any) -> Any:
    """What the models make of a section; None when they refuse it."""
    try:
        dumped = SECTIONS[name].model_validate({name: value} if name == "tunnels" else value).model_dump()
    except ValidationError:
        return None
    return dumped[name] if name == "tunnels" else dumped


def exactly(value: Any) -> str:
    """Tells 1 from 1.0 and true, and one order from another; the same for any two texts that are the same."""
    return repr(value)


def agree(name: str, value: Any) -> Any:
    """The quick form of a section, after a look at whether the models say so too; else None."""
    before = exactly(value)
    quick = canonical_section(name, value)
    assert exactly(value) == before
    if quick is not None:
        assert exactly(quick) == exactly(by_models(name, value))
        assert not shared(quick, value)
        assert not shared(quick, SHAPE)
    return quick


def containers(value: Any) -> Iterator[int]:
    if isinstance(value, (dict, list)):
        yield id(value)
        for item in value.values() if isinstance(value, dict) else value:
            yield from containers(item)


def shared(one: Any, other: Any) -> bool:
    return not set(containers(one)).isdisjoint(containers(other))


def sections_of(text: str) -> dict[str, Any]:
    reading = read_text(text, "t.yaml")
    assert reading.root is not None
    assert reading.problems == []
    data: dict[str, Any] = plain(reading.root)
    return {name: value for name, value in data.items() if name in SECTIONS}


def test_every_section_is_described() -> None:
    assert set(NAMES) == set(SECTIONS)
    assert all(SHAPE["sections"].values())


def test_the_shape_that_is_shipped_is_that_of_the_models() -> None:
    assert document_shape() == SHAPE
    assert exactly(SHAPE) == exactly(json.loads(json.dumps(document_shape())))


def fields_of(node: Any, value: Any) -> Iterator[tuple[str, str]]:
    """The fields that `value` sets, each with its model."""
    if value is None:
        return
    model = node.get("model") or (node["models"][value[node["tag"]]] if "tag" in node else None)
    if model is not None:
        for name, item in value.items():
            yield model, name
            yield from fields_of(SHAPE["models"][model][name], item)
    elif "map" in node or "list" in node:
        for item in value.values() if "map" in node else value:
            yield from fields_of(node.get("map") or node["list"], item)


def test_the_full_document_sets_every_field_there_is() -> None:
    full = sections_of(FULL)
    found = {pair for name, value in full.items() for pair in fields_of(SHAPE["sections"][name], value)}
    assert found == {(model, field) for model, fields in SHAPE["models"].items() for field in fields}


@pytest.mark.req("DOC-1", "DOC-8")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(FULL, id="full"),
        pytest.param((ROOT / "openclaw.yaml.example").read_text(), id="example"),
        pytest.param(
            "version: 1\n" + init_text(".openclaw-token", time_zone="UTC").partition("version: 1")[2], id="init"
        ),
    ],
)
def test_valid_documents_go_the_quick_way_and_come_to_the_same(text: str, name: str) -> None:
    sections = sections_of(text)
    if name in sections:
        assert agree(name, sections[name]) is not None


@pytest.mark.parametrize("name", NAMES)
def test_each_field_may_be_absent_or_null_where_the_models_say_so(name: str) -> None:
    full = sections_of(FULL)[name]
    places = [path for path, _ in walk(full) if path]
    accepted = 0
    for path in places:
        for change in (without, lambda value, path: put(value, path, None)):
            changed = change(full, path)
            quick = agree(name, changed)
            assert (quick is None) == (by_models(name, changed) is None)
            accepted += quick is not None
    assert accepted > 0


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_section_takes_its_defaults_anew_each_time(name: str) -> None:
    first, second = agree(name, {}), agree(name, {})
    assert (first is None) == (by_models(name, {}) is None)
    assert first is None or not shared(first, second)


@pytest.mark.req("DOC-2")
def test_what_the_models_refuse_in_the_broken_documents_is_refused() -> None:
    refused = 0
    for path in [*BROKEN.glob("*.yaml"), *BROKEN.glob("*/openclaw.yaml")]:
        root = read_document(str(path)).root
        data = {} if root is None else plain(root)
        for name, value in data.items():
            if name not in SECTIONS:
                assert canonical_section(name, value) is None
            elif not isinstance(value, dict) or by_models(name, value) is None:
                assert canonical_section(name, value) is None
                refused += 1
            else:
                agree(name, value)
    assert refused >= 80


class Text(str):
    __slots__ = ()


class Names(dict[str, Any]):
    pass


@pytest.mark.parametrize(
    "settings_",
    [
        Names(),
        {Text("a"): 1},
        {"a": Text("b")},
        {"a": (1,)},
        {"a": {1: 2}},
        {"a": object()},
        {"\ud800": 1},
        [],
        "",
        1,
        True,
    ],
)
def test_what_no_document_holds_is_left_to_the_models(settings_: Any) -> None:
    assert canonical_section("gateway", {"settings": settings_}) is None


def test_without_its_data_every_section_is_left_to_the_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for content in (None, "{"):
        monkeypatch.setattr(fast, "SHAPE", str(tmp_path / "shape.json"))
        if content is not None:
            (tmp_path / "shape.json").write_text(content)
        shape_data.cache_clear()
        try:
            assert canonical_section("service", {}) is None
            assert load_text("version: 1\nservice: {}\n", {}).desired.service is not None
        finally:
            monkeypatch.undo()
            shape_data.cache_clear()


def test_overrides_of_the_environment_go_the_same_way(tmp_path: Path) -> None:
    environ = {"OPENCLAW_GATEWAY_PORT": "1234", "OPENCLAW_LOG_LEVEL": "DEBUG", "WARN_HOURS": "5"}
    document = tmp_path / "openclaw.yaml"
    document.write_text("version: 1\ngateway: {}\nlogging: {}\nauth: {}\n")
    canonical = load(document, environ).desired.canonical
    assert len(read_overrides(environ, frozenset({"gateway", "logging", "auth"}))) == 3
    assert exactly(canonical["gateway"]) == exactly(by_models("gateway", {"port": 1234}))
    assert canonical["logging"]["level"] == "debug"
    assert exactly(canonical["auth"]) == exactly(by_models("auth", {"expiry": {"warn": "5h"}}))


# -- what cannot be described --


class Plain(Section):
    """As those of the schema."""

    on: Flag = Field(default=True)


class WithValidator(Section):
    """Says no after its fields said yes."""

    on: Flag = True

    @model_validator(mode="after")
    def never(self) -> WithValidator:
        """No."""
        raise ValueError


class WithSerializer(Section):
    """Dumps another value than it holds."""

    on: Annotated[Flag, PlainSerializer(lambda value: not value)] = True


class WithAlias(Section):
    """Reads another name."""

    on: Flag = Field(default=True, alias="off")


class Open(Section):
    """Takes any name."""

    model_config = ConfigDict(extra="allow")


class Lax(Section):
    """Converts."""

    model_config = ConfigDict(strict=False)
    names: list[Flag] = Field(default=[])


class WithPlainType(Section):
    """A field that pydantic checks itself."""

    count: int = 0


class WithLimits(Section):
    """A constraint beyond those that are known."""

    flags: Annotated[list[Flag], Field(max_length=1)] = Field(default=[])


class WithUnion(Section):
    """Several forms that no word tells apart."""

    value: list[Flag] | dict[str, Flag] = Field(default=[])


class WithNumber(Section):
    """A word that is no text."""

    value: Literal[1] = 1


class WithCheckedDefault(Section):
    """A default that is checked."""

    on: Flag = Field(default=True, validate_default=True)


class WithTuple(Section):
    """A default that JSON would change."""

    flags: list[Flag] = Field(default=(True,))  # type: ignore[arg-type]


class WithFactory(Section):
    """A default that depends on other fields."""

    on: Flag = Field(default_factory=lambda data: not data)


class Nested(Section):
    """Something of that further down."""

    inner: dict[str, list[WithValidator | None]] = Field(default={})


def test_a_section_of_known_constructs_is_described() -> None:
    models: dict[str, Any] = {}
    assert describe("plain", Plain, models) == {"model": "Plain"}
    assert models == {"Plain": {"on": {"check": ["flag"], "default": True}}}


@pytest.mark.parametrize(
    "model",
    [
        WithValidator,
        WithSerializer,
        WithAlias,
        Open,
        Lax,
        WithPlainType,
        WithLimits,
        WithUnion,
        WithNumber,
        WithCheckedDefault,
        WithTuple,
        WithFactory,
        Nested,
    ],
)
def test_a_section_with_anything_else_in_it_is_not(model: type[Section]) -> None:
    models: dict[str, Any] = {}
    assert describe("other", model, models) is None
    assert models == {}


# -- any value --

# For each check, values that it accepts; the arguments of its spec are known to them.
GOOD: dict[str, Any] = {
    "duration": st.sampled_from([0, 0.0, "0", "500ms", "30s", "1h30m", " 7d ", "1.5h", "1w"]),
    "size": st.sampled_from([0, "64k", "1 GiB", "512M", "0B", "1.5K"]),
    "size_from": st.sampled_from(["64k", "1 GiB", "512M"]),
    "percent": st.sampled_from(["150%", "0.5 %", "100.0%"]),
    "window": st.sampled_from(["08:00-22:00", "8:00 - 24:00 UTC", "22:00-06:00 Europe/Berlin"]),
    "cron": st.sampled_from(["* * * * *", "0  */6 1-5 jan mon,fri"]),
    "date": st.dates().map(lambda each: each.isoformat()),
    "flag": st.booleans(),
    "address": st.ip_addresses().map(str),
    "url": st.sampled_from(["http://e", "https://e:1/x"]),
    "secret": st.sampled_from(["${A}", {"env": "A"}, {"file": "é"}, {"exec": ["a", ""]}]),
    "variable": st.one_of(st.sampled_from(["", "${A}", {"env": "A"}]), st.text("abcé", max_size=5)),
}
NAME = st.text(st.characters(), max_size=4)
LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(), max_size=8))
PLAIN = st.recursive(
    LEAF, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAME, inner, max_size=3)), max_leaves=6
)
# What stands in documents by mistake.
ODD = st.one_of(
    PLAIN,
    st.sampled_from(
        ["yes", "30", 30, 1.0, -1, "x" * 5000, "sk-0123456789", "${A} b", {"env": "A", "file": "b"}, 2**70]
    ),
    st.sampled_from([(), {1: 2}, {None: 1}, b"x", "\ud800", {"\ud800": 1}, float("nan")]),
)


def good(node: Any) -> st.SearchStrategy[Any]:
    """Values that the shape accepts."""
    inner = good_inner(node)
    return st.one_of(st.none(), inner) if "null" in node else inner


def good_inner(node: Any) -> st.SearchStrategy[Any]:
    match node:
        case {"check": ["integer", int(low), int(high), *_]}:
            return st.integers(low, high)
        case {"check": ["number", low, high]}:
            return st.one_of(st.floats(low, high), st.integers(low, high))
        case {"check": ["choice", *words]}:
            return st.sampled_from(words)
        case {"check": ["text", _, str(pattern), _, _]}:
            known = ["2026.2.17", "1.0.0-rc.1", "bastion", "ops@bastion", "[::1]"]
            return st.sampled_from([word for word in known if re.fullmatch(pattern, word, re.ASCII)])
        case {"check": ["text", _, None, int(limit), bool(empty)]}:
            return st.text(st.characters(), min_size=not empty, max_size=min(limit, 9))
        case {"check": [name, *_]}:
            return GOOD[name]  # type: ignore[no-any-return]
        case {"model": model}:
            return good_model(model)
        case {"map": inner}:
            return st.dictionaries(st.text(max_size=5), good(inner), max_size=3)
        case {"list": inner, "at_least": least}:
            return st.lists(good(inner), min_size=least, max_size=least + 2)
        case {"tag": _, "models": models}:
            return st.one_of([good_model(model) for model in models.values()])
        case {"word": word}:
            return st.just(word)
        case {"any": True}:
            return st.recursive(
                st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
                lambda each: st.one_of(
                    st.lists(each, max_size=3), st.dictionaries(st.text(max_size=5), each, max_size=3)
                ),
                max_leaves=5,
            )
    raise AssertionError(node)


def good_model(name: str) -> st.SearchStrategy[Any]:
    fields = SHAPE["models"][name]
    needed = {field: good(node) for field, node in fields.items() if "default" not in node}
    free = {field: good(node) for field, node in fields.items() if "default" in node}
    return st.fixed_dictionaries(needed, optional=free)


def walk(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in items:
        yield from walk(item, (*path, name))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of `value` with `new` at `path`."""
    if not path:
        return new
    changed = value.copy()
    changed[path[0]] = put(value[path[0]], path[1:], new)
    return changed


def without(value: Any, path: tuple[Any, ...]) -> Any:
    """A copy of `value` without what stands at `path`."""
    changed = value.copy()
    if len(path) == 1:
        del changed[path[0]]
    else:
        changed[path[0]] = without(value[path[0]], path[1:])
    return changed


@st.composite
def damaged(draw: st.DrawFn, node: Any) -> Any:
    """A good value with a few changes at random places; some of them leave it good."""
    value = draw(good(node))
    for _ in range(draw(st.integers(1, 3))):
        path, found = draw(st.sampled_from(list(walk(value))))
        how = draw(st.sampled_from(["put", "drop", "add", "empty"]))
        if how == "put":
            value = put(value, path, draw(ODD))
        elif how == "drop" and path:
            value = without(value, path)
        elif how == "add" and isinstance(found, dict):
            value = put(value, path, {draw(st.one_of(NAME, FIELD)): draw(ODD), **found})
        elif how == "add" and isinstance(found, list):
            value = put(value, path, [*found, draw(ODD)])
        else:
            value = put(value, path, draw(st.sampled_from([None, {}, [], "", 0])))
    return value


FIELD = st.sampled_from(sorted({field for fields in SHAPE["models"].values() for field in fields}))
CALM = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.mark.parametrize("name", NAMES)
@CALM
@given(data=st.data())
def test_any_value_that_fits_the_shape_goes_the_quick_way(name: str, data: st.DataObject) -> None:
    assert agree(name, data.draw(good(SHAPE["sections"][name]))) is not None


@pytest.mark.parametrize("name", NAMES)
@settings(CALM, max_examples=150)
@given(data=st.data())
def test_any_damage_comes_to_what_the_models_say_or_to_nothing(name: str, data: st.DataObject) -> None:
    value = data.draw(damaged(SHAPE["sections"][name]))
    event("accepted" if agree(name, value) is not None else "refused")


@given(PLAIN)
def test_a_copy_is_the_same_and_shares_nothing(value: Any) -> None:
    try:
        copy = copied(value)
    except ValueError:
        assert any("\ud800" <= char <= "\udfff" for char in repr(value)) or "\\ud" in repr(value)
    else:
        assert exactly(copy) == exactly(value)
        assert not shared(copy, value)


def specs(node: Any) -> Iterator[list[Any]]:
    for _, each in walk(node):
        if isinstance(each, dict) and isinstance(each.get("check"), list):
            yield each["check"]


def test_a_check_that_is_made_again_is_the_same() -> None:
    found = list(specs(SHAPE["models"]))
    assert len(found) > 100
    for spec in found:
        assert list(from_spec(*spec).spec) == spec
    with pytest.raises(KeyError):
        from_spec("nothing")
