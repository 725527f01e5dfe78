"""`openclaw config get|set|explain`: settings of the document, by path. `set` edits the file; nothing here touches the host."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final

import click

from reconciler.cli.commands.completion import setting_paths
from reconciler.cli.options import file_option, json_option
from reconciler.cli.session import Session
from reconciler.errors import DocumentError, StaleError, UsageError

if TYPE_CHECKING:
    from reconciler.document.edit import Edit
    from reconciler.document.load import Loaded

# An editor saves once; what changes under each of these is a program at work.
EDIT_TRIES: Final = 5


@click.group("config")
def config_command() -> None:
    """Get, set and explain settings of the document."""


@config_command.command("get", short_help="Print the value at PATH.")
@file_option
@json_option
@click.argument("path", shell_complete=setting_paths)
@click.pass_obj
def get_command(session: Session, as_json: bool, path: str) -> int:
    """Print the value at PATH, with defaults and the environment applied, as `config set` takes it.

    A note says where a default holds on a condition only, and where there is no value.
    """
    from reconciler.cli.render.text import json_text
    from reconciler.document.edit import value_text
    from reconciler.document.fields import NOT_DECLARED

    found = session.load().explain(parsed(path))
    value = found.value
    if as_json:
        session.console.out(json_text({"schema": "openclaw.config-get/1", "path": path, "value": value}))
    else:
        session.console.out(value_text(value) + "\n")
    if found.condition or found.origin == NOT_DECLARED:
        session.console.err(f"note: {path}: {found}\n")
    return 0


@config_command.command("explain", short_help="Say where the value at PATH comes from.")
@file_option
@json_option
@click.argument("path", shell_complete=setting_paths)
@click.pass_obj
def explain_command(session: Session, as_json: bool, path: str) -> int:
    """Say where the value at PATH comes from: the environment, a line of the document, or a default."""
    from reconciler.cli.render.text import json_text

    found = session.load().explain(parsed(path))
    if as_json:
        data = {
            "schema": "openclaw.config-explain/1",
            "path": path,
            "value": found.value,
            "origin": found.origin,
            "condition": found.condition,
        }
        session.console.out(json_text(data))
    else:
        session.console.out(f"{path} = {json.dumps(found.value, ensure_ascii=False)}  ({found})\n")
    return 0


@config_command.command("set", short_help="Set PATH to VALUE in the document.")
@file_option
@click.argument("path", shell_complete=setting_paths)
@click.argument("value")
@click.pass_obj
def set_command(session: Session, path: str, value: str) -> int:
    """Set PATH to VALUE in the document; comments, order and quoting stay as they are.

    What an include sets is changed there. VALUE is read as YAML: `true`, `19000`, `30s`, `[a, b]`, `{env: NAME}`.
    """
    from reconciler.values import join_path

    where = parsed(path)
    edit, loaded = edited(session, where, yaml_value(value, where))
    console = session.console
    included = "" if edit.name == session.named else f", which {session.named} includes"
    console.out(f"{edit.name}{included}: {path} is set; a running supervisor applies it, else `openclaw apply` does\n")
    if edit.lost:
        many = "s" if edit.lost > 1 else ""
        console.err(
            f"note: {edit.lost} comment{many} inside the value that was replaced {'are' if many else 'is'} gone\n"
        )
    for override in loaded.overrides:
        if override.path[: len(where)] == where or where[: len(override.path)] == override.path:
            sets = f"{join_path(override.path)} is {json.dumps(override.value, ensure_ascii=False)}"
            console.err(f"note: {override.name} in this environment wins over the document: {sets} with it\n")
    return 0


def edited(session: Session, where: tuple[Any, ...], value: Any) -> tuple[Edit, Loaded]:
    """Writes the edit and returns it, with the document as it is then. Each of several at once finds what the others wrote.

    Where somebody else changes the file between reading and writing, the edit is made anew, from what is there then.

    Raises:
        DocumentError: the document cannot be read, or would not be valid; it is untouched.
        UsageError: there is no place for such a value.
        LockedError: another process holds the lock of the directory.
        StaleError: it changed under each try.
        OpenClawError: it cannot be written.
    """
    from reconciler.document.edit import set_in_files
    from reconciler.document.load import load_edited
    from reconciler.engine.files import directory_lock, replace_text
    from reconciler.values import join_path

    directory = directory_of(session.document)
    for _try in range(EDIT_TRIES):
        with directory_lock(directory):
            edit = set_in_files(session.document, where, value, name=session.named)
            # Who edits an include by way of another document must meet the same lock: it is that of the file to be written.
            if (wanted := directory_of(edit.file)) != directory:
                directory = wanted
                continue
            # What would not be valid is refused before it is written.
            loaded = load_edited(session.document, session.environ, edit, name=session.named)
            try:
                replace_text(edit.file, edit.before, edit.text)
            except StaleError:
                continue
            return edit, loaded
    raise StaleError(
        f"cannot set '{join_path(where)}': somebody else changed the file in each of {EDIT_TRIES} tries",
        hint="try again when its writer is done",
    )


def directory_of(file: str) -> str:
    """Where the file really lies, whatever links lead to it."""
    return os.path.dirname(os.path.realpath(file))


def yaml_value(text: str, where: tuple[Any, ...] = ()) -> Any:
    """What `text`, meant for the place `where` of a document, means as YAML.

    Raises:
        UsageError: there is nothing in it, as where a variable of a script is not set.
        DocumentError: it is none; what may be a secret by its place is not quoted.
    """
    from dataclasses import replace

    from reconciler.document.compose import compose
    from reconciler.document.masking import is_below_secret
    from reconciler.document.nodes import Source, plain

    node, problems = compose(Source("VALUE", "VALUE", text))
    if problems:
        names = tuple(part for part in where if isinstance(part, str))
        if is_below_secret(names) or is_below_secret((*names, "")):
            problems = tuple(replace(problem, text="", caret=-1) for problem in problems)
        raise DocumentError("cannot use the value: it cannot be read as YAML", problems)
    if node is None:
        raise UsageError("cannot use an empty value", hint="`null` withdraws the setting, `'\"\"'` is the empty text")
    return plain(node)


def parsed(path: str) -> tuple[Any, ...]:
    """The parts of a path as people write it.

    Raises:
        UsageError: it is not one.
    """
    from reconciler.values import split_path

    try:
        parts = split_path(path)
    except ValueError as err:
        raise UsageError(
            f"cannot use {path!r}: {err}",
            hint='write it like gateway.auth.token, policy.windows[0] or gateway.settings["a b"].c',
        ) from err
    if not parts:
        raise UsageError("cannot use an empty path", hint="write it like gateway.port")
    return parts
