"""The rules that are data: scopes, schemas, and what a change of config costs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire import reload
from gateway.wire.reload import OPENCLAW_2026_2_17, changed_paths, impact_of, worst
from gateway.wire.schema import ListOf, MapOf, Record, Text, Whole, complaints
from gateway.wire.scopes import refusal


@pytest.mark.req("GW-3")
@pytest.mark.parametrize(
    ("method", "role", "scopes", "answer"),
    [
        ("health", "operator", (), "missing scope: operator.read"),
        ("health", "operator", ("operator.read",), None),
        ("health", "operator", ("operator.write",), None),
        ("health", "operator", ("operator.pairing",), "missing scope: operator.read"),
        ("chat.send", "operator", ("operator.read",), "missing scope: operator.write"),
        ("config.reload", "operator", ("operator.read",), "missing scope: operator.write"),
        ("device.pair.list", "operator", ("operator.write",), "missing scope: operator.pairing"),
        ("exec.approval.resolve", "operator", ("operator.write",), "missing scope: operator.approvals"),
        ("config.set", "operator", ("operator.write",), "missing scope: operator.admin"),
        ("nope", "operator", ("operator.write",), "missing scope: operator.admin"),
        ("nope", "operator", ("operator.admin",), None),
        ("node.event", "operator", ("operator.admin",), "unauthorized role: operator"),
        ("node.event", "node", (), None),
        ("health", "node", ("operator.admin",), "unauthorized role: node"),
    ],
)
def test_role_comes_before_scope_and_admin_passes(
    method: str, role: str, scopes: tuple[str, ...], answer: str | None
) -> None:
    assert refusal(method, role, scopes) == answer


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "must have required property 'n'"),
        ({"n": 0, "x": 1}, "at root: unexpected property 'x'; at /n: must be >= 1"),
        ({"n": 9}, "at /n: must be <= 5"),
        ({"n": True}, "at /n: must be integer"),
        ({"n": 2.0}, None),
        ({"n": 1, "l": ["", 1]}, "at /l/0: must NOT have fewer than 1 characters; at /l/1: must be string"),
        ({"n": 1, "m": {"a/b": 1}}, "at /m/a~1b: must be string"),
        ([], "must be object"),
    ],
)
def test_complaints_read_as_the_real_products(value: Any, text: str | None) -> None:
    schema = Record(
        required={"n": Whole(minimum=1, maximum=5)}, optional={"l": ListOf(Text(non_empty=True)), "m": MapOf(Text())}
    )
    assert complaints(schema, value) == text


@pytest.mark.req("GW-6")
@pytest.mark.parametrize(
    ("path", "builtin", "real"),
    [
        ("logging.level", "hot", "restart"),
        ("logging.consoleStyle", "hot", "none"),
        ("gateway.port", "restart", "restart"),
        ("gateway.auth.token", "restart", "restart"),
        ("gateway.tls.certPath", "restart", "restart"),
        ("gateway.reload.mode", "hot", "none"),
        ("gateway.remote.token", "none", "none"),
        ("agents.defaults.model", "none", "none"),
        ("agents.defaults.heartbeat.every", "none", "hot"),
        ("agents.defaults.heartbeatX", "none", "none"),
        ("session.store", "none", "none"),
        ("auth.order", "none", "restart"),
        ("hooks.token", "none", "hot"),
    ],
)
def test_the_longest_prefix_decides_what_a_change_costs(path: str, builtin: str, real: str) -> None:
    assert impact_of(path) == builtin
    assert impact_of(path, OPENCLAW_2026_2_17) == real


def test_the_dearest_of_several_changes_counts() -> None:
    assert worst(()) == "none"
    assert worst(("agents.x", "logging.level")) == "hot"
    assert worst(("logging.level", "gateway.port")) == "restart"


@pytest.mark.parametrize(
    ("old", "new", "paths"),
    [
        ({"a": 1}, {"a": 1}, ()),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 2, "d": 3}}, ("a.b", "a.c", "a.d")),
        ({}, {"a": {"b": {"c": 1}}}, ("a.b.c",)),
        ({"a": {}}, {}, ("a",)),
        ({"a": {"b": 1}}, {"a": 5}, ("a.b",)),
        ({"a": [1, {"x": 1}]}, {"a": [1, {"x": 1}]}, ()),
        ({"a": [1]}, {"a": [2]}, ("a",)),
        ({"a": True}, {"a": 1}, ("a",)),
        ({"a": 1}, {"a": 1.0}, ()),
    ],
)
def test_changes_are_named_by_their_leaves(old: Any, new: Any, paths: tuple[str, ...]) -> None:
    assert changed_paths(old, new) == paths


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(_json, _json)
def test_a_difference_is_found_exactly_when_there_is_one(old: Any, new: Any) -> None:
    assert changed_paths(old, old) == ()
    assert bool(changed_paths({"k": old}, {"k": new})) == bool(changed_paths({"k": new}, {"k": old}))


def test_every_rule_of_the_table_is_an_impact() -> None:
    for table in (reload.BUILTIN, reload.OPENCLAW_2026_2_17):
        assert set(table.values()) <= {"hot", "none", "restart"}
        assert "" in table
