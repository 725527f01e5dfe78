"""The environment file and the protocol: what goes in comes out, what is wrong is said."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.service.keeper import envfile, protocol

pytestmark = pytest.mark.req("SVC-7")

names = st.text(st.characters(blacklist_characters="=\0\r\n", blacklist_categories=["Cs"]), min_size=1).filter(
    lambda name: name == name.strip() and not name.startswith("#")
)
values = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])) | st.binary().map(
    lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)


@given(st.dictionaries(names, values))
def test_every_environment_comes_back_as_it_was(environment: dict[str, str]) -> None:
    data = envfile.render(environment)
    assert envfile.parse(data) == environment
    assert data.count(b"\n") == len(environment)


@pytest.mark.parametrize("name", ["", "A=B", "A\nB", "#A", " A", "A\0"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a variable"):
        envfile.render({name: "x"})


def test_a_value_with_nul_is_refused_without_being_shown() -> None:
    with pytest.raises(ValueError, match=r"the value of 'TOKEN' holds NUL$") as caught:
        envfile.render({"TOKEN": "s3cret\0"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("A=1\ns3cret\n", "line 2 is not NAME=value"), ("=s3cret", "line 1"), ("A=s3cret\\x", "unknown escape on line 1")],
)
def test_a_broken_environment_file_is_named_by_line_and_never_quoted(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        envfile.parse(text.encode())
    assert "s3cret" not in str(caught.value)


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text()), max_size=5), st.integers(1, 7))
def test_messages_survive_any_cutting_of_the_stream(messages: list[dict[str, Any]], size: int) -> None:
    data = b"".join(protocol.encode(message) for message in messages)
    lines = protocol.Lines()
    found = [message for at in range(0, len(data), size) for message in lines.feed(data[at : at + size])]
    assert found == messages


def test_a_line_without_end_is_refused_before_it_fills_the_memory() -> None:
    lines = protocol.Lines()
    with pytest.raises(protocol.ProtocolError, match="longer than"):
        for _ in range(20):
            lines.feed(b"x" * 100_000)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([], "a spec is a JSON object"),
        ({}, "argv is not a list of words"),
        ({"argv": ["a\0b"]}, "argv is not"),
        ({"argv": ["a"], "validate": []}, "validate is not"),
        ({"argv": ["a"], "restart": {"delay": -1}}, "restart.delay is not a number"),
        ({"argv": ["a"], "restart": {"burst": True}}, "restart.burst is not a number"),
        ({"argv": ["a"], "stop": {"grace": "1"}}, "stop.grace is not a number"),
        ({"argv": ["a"], "ready": "port:0"}, "ready is neither"),
        ({"argv": ["a"], "ready": "soon"}, "ready is neither"),
        ({"argv": ["a"], "cwd": None}, "cwd is not a text"),
        ({"argv": ["a"], "output": 3}, "output is not a text"),
        ({"argv": ["a"], "limits": {"files": "many"}}, "limits.files is not"),
        ({"argv": ["a"], "limits": 3}, "limits.files is not"),
        ({"argv": ["a"], "port": True}, "port is not a number"),
        ({"argv": ["a"], "restart": {"never_on_exit": ["78"]}}, "restart.never_on_exit is not"),
    ],
)
def test_a_wrong_spec_is_refused(spec: Any, message: str) -> None:
    with pytest.raises(protocol.ProtocolError, match=message):
        protocol.check_spec(spec)


@pytest.mark.parametrize("name", ["", ".hidden", "../x", "a/b", "a b", "é", "x" * 101, None, 3])
def test_a_name_that_is_no_file_name_is_refused(name: Any) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.check_name(name)


def test_the_newest_common_version_is_agreed() -> None:
    assert protocol.agree([1, 2, 3, 4]) == protocol.VERSION
    assert protocol.agree([protocol.VERSION - 1]) == protocol.VERSION - 1
    for none in ([], None, [protocol.VERSION + 1], ["2"]):
        with pytest.raises(protocol.ProtocolError):
            protocol.agree(none)
