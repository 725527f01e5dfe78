"""Where things lie: the same for whatever way a program was started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from reconciler.errors import UsageError
from reconciler.host import host_from, interpreter


def test_every_name_of_an_interpreter_leads_to_one(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("python", "python3", "python3.11"):
        (tmp_path / "bin" / name).symlink_to(sys.executable)
    found = {interpreter(str(tmp_path), str(tmp_path / "bin" / name)) for name in ("python", "python3", "python3.11")}
    assert found == {str(tmp_path / "bin" / "python3")}


def test_an_interpreter_with_another_layout_is_taken_as_it_is(tmp_path: Path) -> None:
    assert interpreter(str(tmp_path), "/opt/odd/python") == "/opt/odd/python"


@pytest.mark.req("SVC-14")
@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({"HOME": "/h"}, "/h/.openclaw"),
        ({"HOME": "/h", "OPENCLAW_STATE_DIR": "~/elsewhere"}, "/h/elsewhere"),
        ({"HOME": "/h", "OPENCLAW_STATE_DIR": "/abs//./x"}, "/abs/x"),
        ({"HOME": "/h", "OPENCLAW_PROFILE": "work"}, "/h/.openclaw-work"),
        ({"HOME": "/h", "OPENCLAW_PROFILE": "default"}, "/h/.openclaw"),
    ],
)
def test_the_state_directory_is_where_the_real_product_has_it(environ: dict[str, str], root: str) -> None:
    assert str(host_from(environ, 1000).state.root) == root


@pytest.mark.parametrize("profile", ["../../x", "a/b", ".hidden", "-x", "a b", "ü", "\udcff"])
def test_a_profile_that_is_no_plain_name_leads_nowhere(profile: str) -> None:
    with pytest.raises(UsageError, match="cannot use OPENCLAW_PROFILE=") as caught:
        host_from({"HOME": "/h", "OPENCLAW_PROFILE": profile}, 1000)
    assert caught.value.hint is not None
    named = {"HOME": "/h", "OPENCLAW_PROFILE": profile, "OPENCLAW_STATE_DIR": "/s"}
    assert str(host_from(named, 1000).state.root) == "/s"


@pytest.mark.parametrize("environ", [{"OPENCLAW_STATE_DIR": "/a\udcff"}, {"HOME": "/a\udcff"}])
def test_a_state_directory_whose_path_is_not_utf_8_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r'cannot use the state directory "/a\\udcff.*": its path is not UTF-8'):
        host_from(environ, 1000)


def test_a_socket_of_a_deep_state_directory_lies_in_the_runtime_directory() -> None:
    deep = host_from({"HOME": "/h", "OPENCLAW_STATE_DIR": "/" + "d" * 100, "XDG_RUNTIME_DIR": "/run/u"}, 1000)
    path = deep.socket_path("keeper/keeper.sock")
    assert len(str(path)) <= 107
    assert str(path).startswith("/run/u/openclaw-")
    near = host_from({"HOME": "/h", "XDG_RUNTIME_DIR": "/run/u"}, 1000)
    assert str(near.socket_path("control.sock")) == "/h/.openclaw/reconciler/control.sock"
