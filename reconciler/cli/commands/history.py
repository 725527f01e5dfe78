"""`openclaw history` and `openclaw diff`: which generations there were, and what lies between two of them. Both only read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from reconciler.cli.options import Number, file_option, json_option
from reconciler.cli.session import Session
from reconciler.errors import DocumentError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from reconciler.journal import Journal
    from reconciler.model import Generation


@click.command("history")
@file_option
@json_option
@click.option("-n", "--limit", type=Number(1), help="Show at most N generations.")
@click.pass_obj
def history_command(session: Session, as_json: bool, limit: int | None) -> int:
    """List the generations that were in force, newest first."""
    from reconciler.cli.render.history import history_json, history_text
    from reconciler.cli.render.text import json_text

    generations: tuple[Generation, ...] = ()
    lost, in_force = None, None
    if (journal := session.reader()) is not None:
        with journal:
            generations, lost, kept = journal.generations(limit), journal.history_lost, journal.in_force()
            in_force = kept.number if kept is not None else None
    console = session.console
    if as_json:
        console.out(json_text(history_json(generations, in_force)))
    else:
        console.out(history_text(generations, in_force, colour=console.terminal.colour))
    if lost is not None:
        console.err(f"note: the earlier history is lost: {lost}\n")
    return 0


@click.command("diff")
@file_option
@json_option
@click.argument("a", type=Number(1), metavar="A")
@click.argument("b", type=Number(1), metavar="[B]", required=False)
@click.option("--text", "as_text", is_flag=True, help="Compare the texts of the files, comments and all.")
@click.pass_obj
def diff_command(session: Session, as_json: bool, a: int, b: int | None, as_text: bool) -> int:
    """Compare generation A with generation B, or with the document as it is now."""
    from reconciler.cli.render.history import fields_diff, fields_json, fields_text, text_diff
    from reconciler.cli.render.text import json_text

    if as_text and as_json:
        raise UsageError(
            "cannot print --text as --json", hint="say one of them: the fields come as JSON, the files as text"
        )
    with session.journal() as journal:
        old = side(session, journal, a)
        new = side(session, journal, b) if b is not None or not as_text else as_it_is(session, old["texts"])
    if as_text:
        session.console.out(text_diff(old["texts"], new["texts"], old["name"], new["name"]))
        return 0
    found = fields_diff(old["canonical"], new["canonical"])
    if as_json:
        session.console.out(json_text(fields_json(found, old["name"], new["name"])))
    else:
        session.console.out(fields_text(found, old["name"], new["name"]))
    return 0


def as_it_is(session: Session, beside: Mapping[str, str]) -> Mapping[str, Any]:
    """The texts of the document as it is now, valid or not: while it is not, one looks for what to put back.

    Raises:
        DocumentError: it cannot be read.
    """
    from reconciler.document.raw import texts_beside

    try:
        texts = session.load().texts
    except DocumentError:
        found = texts_beside(session.document, beside, name=session.named)
        if found is None:
            raise
        texts = found
    return {"name": session.named, "texts": texts}


def side(session: Session, journal: Journal, number: int | None) -> Mapping[str, Any]:
    """One side of a comparison: a generation by its number, or the document as it is now.

    Raises:
        UsageError: there is no such generation.
        DocumentError: the document is not valid.
    """
    if number is None:
        loaded = session.load()
        return {"name": session.named, "texts": loaded.texts, "canonical": loaded.desired.canonical}
    generation = journal.generation(number)
    if generation is None:
        raise UsageError(f"cannot compare: there is no generation {number}", hint="`openclaw history` lists them")
    return {
        "name": f"generation {generation.number}",
        "texts": generation.texts,
        "canonical": generation.canonical["canonical"],
    }
