"""What keeps a child from writing what it prints is known before it is started."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from resources.service.keeper.process import output_obstacle


def a_link_at(root: Path, name: str) -> None:
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to("nowhere")


@pytest.mark.req("PLAN-17")
@pytest.mark.parametrize(
    ("make", "place", "why"),
    [
        (lambda root: None, "", ""),
        (lambda root: (root / "logs").mkdir(), "", ""),
        (lambda root: (root / "logs").symlink_to(root), "", ""),
        (lambda root: (root / "logs").touch(), "logs", "it is no directory"),
        (lambda root: a_link_at(root, "logs"), "logs", "it is a link that leads nowhere"),
        (lambda root: (root / "logs" / "gateway.out.log").mkdir(parents=True), "logs/gateway.out.log", "it is not a"),
        (
            lambda root: a_link_at(root, "logs/gateway.out.log"),
            "logs/gateway.out.log",
            "it is not a",
        ),
    ],
)
def test_what_is_in_the_way_of_an_output_file_is_named(
    tmp_path: Path, make: Callable[[Path], None], place: str, why: str
) -> None:
    make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = output_obstacle(str(tmp_path / "logs/gateway.out.log"))
    if not why:
        assert found is None
    else:
        assert found is not None
        assert found[0] == str(tmp_path / place)
        assert found[1].startswith(why)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.req("PLAN-17")
@pytest.mark.parametrize("there", [True, False])
def test_where_nothing_can_be_written_is_named(tmp_path: Path, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "logs/gateway.out.log"
    if there:
        path.parent.mkdir()
        path.write_text("")
    monkeypatch.setattr(os, "access", lambda _path, mode: not mode & os.W_OK)
    found = (str(path), "it cannot be written") if there else (str(tmp_path), "nothing can be made in it")
    assert output_obstacle(str(path)) == found


def test_output_that_is_discarded_has_nothing_in_its_way() -> None:
    assert output_obstacle(os.devnull) is None
