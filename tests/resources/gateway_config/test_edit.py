"""An edit of openclaw.json touches the bytes of one value, and taking it back leaves no trace."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.wire.json5 import load
from resources.gateway_config.edit import (
    Json5Error,
    NoObjectError,
    Source,
    remove_value,
    render_file,
    set_value,
    source_at,
)

TEXTS = {
    "empty": "{}",
    "empty with a space": "{ }\n",
    "empty on two lines": "{\n}\n",
    "only a comment": "// ours\n{ // nothing\n}\n",
    "only a block comment": "{ /* nothing */ }",
    "one line": '{"a": 1, "gateway": {}}',
    "one line with trailing comma": "{a: 1, }",
    "minified": '{"a":{"b":[1,{"c":2}]},"d":null}',
    "tabs": '{\n\t"a": {\n\t\t"b": 1\n\t}\n}\n',
    "CRLF": '{\r\n  "a": 1, // one\r\n  "gateway": {\r\n    "port": 1\r\n  }\r\n}\r\n',
    "byte order mark": '\ufeff{\n  "a": 1\n}\n',
    "comments everywhere": """// head
{
  // before a
  a: 1, // behind a
  /* before gateway */ gateway: /* here */ {
    // first
    port: 0x4965, // in hex
    'bind': 'loopback' /* quoted so */ // and so
    // last
  }, // behind
  list: [1, 2, // two
    3,],
}
// foot
""",
    "trailing comma and comment": "{\n  a: 1, // one\n}\n",
    "comment without comma": "{\n  a: 1 /* x */ // one\n  // own line\n}\n",
    "comment before comma": "{\n  a: 1 /* x */ , // one\n  b: {},\n}\n",
    "empty object on two lines": '{\n  "gateway": {\n  },\n  "b": { }\n}\n',
    "equal keys": '{"a": 1, "a": 2}',
}
PATHS = [
    ("gateway", "port"),
    ("gateway", "auth", "token"),
    ("gateway", "auth", "mode"),
    ("logging", "level"),
    ("b", "x"),
    ("new",),
    ("a b", 'quo"te'),
]
VALUES: list[Any] = [18789, "lan", True, None, ["a", "b"], [{"x": [1]}], {"deep": {"er": []}}, "ünï \u2028 \n"]


@pytest.mark.req("PLAN-10")
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("value", VALUES, ids=repr)
@pytest.mark.parametrize("path", PATHS, ids=".".join)
def test_set_reads_back_and_taking_it_back_gives_the_same_bytes(text: str, path: tuple[str, ...], value: Any) -> None:
    before = source_at(text, path)
    written = set_value(text, path, value)
    assert _at(load(written), path) == value
    assert _without(load(written), path) == _without(load(text), path)
    back = remove_value(written, path) if before is None else set_value(written, path, Source(before))
    assert back == text


@given(st.data())
def test_several_values_set_and_removed_in_any_order_leave_no_trace(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(list(TEXTS.values())))
    paths = data.draw(st.lists(st.sampled_from(PATHS), unique=True, min_size=1))
    former = {path: source_at(text, path) for path in paths}
    written = text
    for path in paths:
        written = set_value(written, path, data.draw(st.sampled_from(VALUES)))
    comments = [part for part in ("// behind a", "// in hex", "// two", "/* x */", "// foot") if part in text]
    assert all(part in written for part in comments)
    for path in data.draw(st.permutations(paths)):
        source = former[path]
        written = remove_value(written, path) if source is None else set_value(written, path, Source(source))
    assert written == text


@given(st.data())
def test_removing_anything_leaves_a_text_that_reads_as_the_rest(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(list(TEXTS.values())))
    leaves = list(_paths(load(text)))
    assume(leaves)
    path = data.draw(st.sampled_from(leaves))
    removed = remove_value(text, path)
    assert _pruned(load(removed)) == _pruned(_without(load(text), path))


def test_a_value_is_replaced_in_its_place() -> None:
    text = TEXTS["comments everywhere"]
    assert set_value(text, ("gateway", "port"), 1) == text.replace("0x4965", "1")


def test_a_new_member_follows_the_style_of_its_neighbours() -> None:
    assert set_value("{\n\ta: 1\n}\n", ("logging", "level"), "debug") == (
        '{\n\ta: 1,\n\tlogging: {\n\t\tlevel: "debug"\n\t}\n}\n'
    )
    assert set_value('{"a": 1}', ("b",), 2) == '{"a": 1, "b": 2}'


def test_what_is_no_object_is_never_replaced() -> None:
    with pytest.raises(NoObjectError, match=r"gateway\.auth"):
        set_value('{"gateway": {"auth": "token"}}', ("gateway", "auth", "token"), "x")
    with pytest.raises(NoObjectError, match="the whole file"):
        set_value("[]", ("gateway",), 1)


def test_a_text_that_is_not_json5_is_refused_with_its_place() -> None:
    with pytest.raises(Json5Error, match="2:3"):
        set_value("{\n  %", ("gateway",), 1)


def test_a_new_file_is_two_space_json() -> None:
    text = render_file({("gateway", "port"): 1, ("gateway", "auth", "mode"): "token", ("logging", "level"): "info"})
    assert text.startswith('{\n  "gateway": {\n    "port": 1,\n')
    assert json.loads(text) == {"gateway": {"port": 1, "auth": {"mode": "token"}}, "logging": {"level": "info"}}


def _at(data: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        data = data[part]
    return data


def _without(data: Any, path: tuple[str, ...]) -> Any:
    """The data without one path, and without the objects that are empty then: they may be made or taken along."""
    if not isinstance(data, dict):
        return data
    rest = {key: value for key, value in data.items() if key != path[0]}
    if len(path) > 1 and path[0] in data:
        inner = _without(data[path[0]], path[1:])
        if inner != {}:
            rest[path[0]] = inner
    return rest


def _pruned(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    return {key: value for key, item in data.items() if (value := _pruned(item)) != {}}


def _paths(data: Any, prefix: tuple[str, ...] = ()) -> Any:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _paths(value, (*prefix, key))
    elif prefix:
        yield prefix
