"""Whatever a client sends is answered by HTTP, or by the end of the connection, and never costs a report of a bug."""

from __future__ import annotations

import json
import re

import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from reconciler.control.routes import ROUTES
from tests.reconciler.control.conftest import FakeSupervisor
from tests.reconciler.control.test_connection import talking

# One never ends by itself, the other one is where the fake has its bug.
_PATHS = [route.path for route in ROUTES if route.name not in ("events", "reload")]
_ODD = ["*", "//[", "http://[bad/v1", "http://x/v1?limit=%ff", "/v1/history?limit=-1", "/%00/..//v1;a?&=#"]
_METHODS = ["GET", "HEAD", "POST", "PUT", "OPTIONS", "CONNECT", "TRACE", "get", ""]
_FIELDS = [
    ("Connection", "close"),
    ("Connection", "upgrade"),
    ("Upgrade", "websocket"),
    ("Expect", "100-continue"),
    ("Host", "x"),
    ("Transfer-Encoding", "chunked"),
    ("Transfer-Encoding", "gzip"),
    ("Content-Length", "0"),
    ("Content-Length", "2"),
    ("Content-Length", "-1"),
]
_BODIES = [b"", b"{}", b"[]", b"zz\r\n", b"0\r\n\r\n", b'{"key":"\\ud800/x"}', b"\xff\x00"]
_WORD = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF), max_size=12)
_TARGET = st.one_of(
    st.sampled_from(_PATHS), st.sampled_from(_ODD), st.text(st.sampled_from("/v1[]:@?#%&=.*a0\xff"), max_size=12)
)


@st.composite
def _request(draw: st.DrawFn) -> bytes:
    method, version = draw(st.sampled_from(_METHODS)), draw(st.sampled_from(["HTTP/1.1"] * 3 + ["HTTP/1.0", "HTTP/2"]))
    fields = draw(st.lists(st.one_of(st.sampled_from(_FIELDS), st.tuples(_WORD, _WORD)), max_size=3))
    lines = [f"{method} {draw(_TARGET)} {version}", "Host: x", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + draw(st.sampled_from(_BODIES))


@settings(max_examples=200, deadline=None)
@given(requests=st.lists(_request(), min_size=1, max_size=3))
def test_whatever_is_sent_is_answered_by_http_and_never_by_an_exception(requests: list[bytes]) -> None:
    supervisor = FakeSupervisor()

    async def converse() -> bytes:
        async with talking(supervisor) as peer:
            await peer.send(b"".join(requests))
            await peer.stream.send_eof()
            return await peer.rest()

    received = trio.run(converse, clock=MockClock(autojump_threshold=0))
    assert supervisor.crashes == []
    assert received
    while received:
        received = _after_answer(received)


def _after_answer(received: bytes) -> bytes:
    """What follows the first answer, which must be a whole one."""
    head, end, rest = received.partition(b"\r\n\r\n")
    assert end, received
    assert re.fullmatch(rb"HTTP/1\.1 [1-5]\d\d [^\r\n]*(\r\n[!-9;-~]+: [^\r\n]*)*", head), head
    if head.startswith(b"HTTP/1.1 100 "):
        return rest
    length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    assert length is not None, head
    if not rest.startswith(b"{"):
        # It was HEAD that asked: then this is how long the body would have been.
        return rest
    body, rest = rest[: int(length[1])], rest[int(length[1]) :]
    json.loads(body)
    return rest
