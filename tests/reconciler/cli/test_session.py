"""Which document an invocation is about, where nobody names one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.cli.session import Session
from reconciler.cli.supervisor import Silent
from reconciler.errors import DocumentError
from reconciler.journal import Journal

pytestmark = [pytest.mark.req("DOC-9", "PLAN-17")]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """Called in `here`, of a user at home in `home`."""
    (tmp_path / "here").mkdir()
    environ = {"HOME": str(tmp_path / "home"), "OPENCLAW_STATE_DIR": str(tmp_path / "state")}
    return Session(environ=environ, directory=str(tmp_path / "here"), console=Silent(), kinds=tuple)


def owned(session: Session, document: str) -> None:
    journal = Journal.open_writer(session.host().state.journal, now=1.0)
    journal.set_document(document)
    journal.close()


@pytest.mark.parametrize(
    ("owner", "missed", "hint"),
    [
        (None, "home/.config/openclaw/openclaw.yaml", "there is no ./openclaw.yaml either"),
        ("here/openclaw.yaml", "here/openclaw.yaml", "belongs to it"),
        ("link/openclaw.yaml", "here/openclaw.yaml", "belongs to it"),
        ("home/.config/openclaw/openclaw.yaml", "home/.config/openclaw/openclaw.yaml", "belongs to it"),
        ("other/openclaw.yaml", "home/.config/openclaw/openclaw.yaml", "other/openclaw.yaml: name it by --file"),
    ],
)
def test_one_that_is_gone_is_missed_where_this_state_has_it(
    session: Session, tmp_path: Path, owner: str | None, missed: str, hint: str
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "here")
    if owner is not None:
        owned(session, str(tmp_path / owner))
    with pytest.raises(DocumentError) as caught:
        session.load()
    assert session.document == str(tmp_path / missed)
    assert caught.value.files == (session.document,)
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_a_link_that_leads_nowhere_is_a_document_that_is_there(session: Session, tmp_path: Path) -> None:
    os.symlink(tmp_path / "not-mounted", tmp_path / "here/openclaw.yaml")
    assert session.document == str(tmp_path / "here/openclaw.yaml")
