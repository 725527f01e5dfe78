"""`openclaw init`, `validate` and `schema`: the document itself. None of them looks at the host, but for a free port."""

from __future__ import annotations

import errno
import os
import stat
from shlex import quote
from typing import TYPE_CHECKING

import click

from reconciler.cli.commands.completion import output_names
from reconciler.cli.options import PORT, file_option, json_option
from reconciler.cli.session import Session
from reconciler.errors import BlockedError, DocumentError, NotPermittedError, OpenClawError, UsageError

if TYPE_CHECKING:
    from reconciler.document.load import Loaded

DEFAULT_PORT = 18789
# 48 hexadecimal digits, as the real product generates them.
TOKEN_BYTES = 24


@click.command("init")
@file_option
@click.option(
    "--port", type=PORT, help="The gateway's port [default: 18789, else the first free one of 18809, 18829, ...]."
)
@click.pass_obj
def init_command(session: Session, port: int | None) -> int:
    """Write a first document with comments, and a random token in a file of its own (0600).

    A token that is there already is kept, if nobody else can have read it.
    """
    from reconciler.document.template import init_text

    if session.file is None and not session.environ.get("OPENCLAW_FILE"):
        # A first document belongs where the person stands, not in the configuration directory that is looked at last.
        session.file = "openclaw.yaml"
    path = session.document
    token_path = os.path.join(os.path.dirname(path), ".openclaw-token")
    if os.path.lexists(path):
        raise BlockedError(
            f'cannot write "{session.named}": it is there already', hint="edit it, or name another with --file"
        )
    token_name = os.path.relpath(token_path, session.directory)
    kept = os.path.lexists(token_path)
    if kept:
        refuse_known_token(token_path, token_name)
    chosen = port if port is not None else free_port(session)
    if not kept:
        create(token_path, os.urandom(TOKEN_BYTES).hex() + "\n")
    create(path, init_text(os.path.basename(token_path), port=chosen), mode=0o644)
    console = session.console
    if kept:
        console.out(f"wrote {session.named}; kept the token in {token_name}, which was there already\n")
    else:
        console.out(f"wrote {session.named} and {token_name}\n")
    console.out("next: `openclaw plan` shows what it would do, `openclaw apply` does it, `openclaw run` keeps it so\n")
    return 0


@click.command("validate")
@file_option
@json_option
@click.option("--resolve", is_flag=True, help="Read the secrets that it refers to as well.")
@click.pass_obj
def validate_command(session: Session, as_json: bool, resolve: bool) -> int:
    """Check the document and show everything that is wrong with it."""
    from reconciler.cli.render.problems import validate_json
    from reconciler.cli.render.text import json_text

    console = session.console
    try:
        loaded = session.load()
        if resolve:
            from reconciler.document.secrets import resolve as resolve_secrets

            resolve_secrets(loaded, session.environ, salt=b"")
    except DocumentError as err:
        if not as_json:
            raise
        console.out(json_text(validate_json(err.problems)))
        return err.exit_code
    for text in open_secrets(loaded, session):
        console.err(f"note: {text}\n")
    if as_json:
        console.out(json_text(validate_json(())))
    else:
        console.out(f"{session.named} is valid.\n")
    return 0


def open_secrets(loaded: Loaded, session: Session) -> list[str]:
    """A text for each file of a secret that other users may read or change."""
    from reconciler.document.secrets import secret_files

    found = []
    for path in dict.fromkeys(secret_files(loaded, session.environ)):
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)
        except OSError:
            continue  # `--resolve` says why
        if mode & 0o077:
            relative = os.path.relpath(path, session.directory)
            name = path if relative.startswith("..") else relative
            found.append(f'other users may use the secret file "{name}" (mode {mode:04o}); chmod 600 keeps them out')
    return found


@click.command("schema")
@click.argument("name", required=False, default="document", shell_complete=output_names)
@click.pass_obj
def schema_command(session: Session, name: str) -> int:
    """Print the JSON Schema of the document, or of an output: plan, apply, status, history, ..."""
    from reconciler import document
    from reconciler.cli.main import meant
    from reconciler.cli.render.text import json_text
    from reconciler.cli.schemas import OUTPUTS

    if name == "document":
        # Made from the models by `make docs`, and held against them by a check.
        with open(os.path.join(os.path.dirname(document.__file__), "openclaw.schema.json"), encoding="utf-8") as file:
            session.console.out(file.read())
        return 0
    if name not in OUTPUTS:
        known = ["document", *OUTPUTS]
        raise UsageError(
            f"cannot print a schema: there is no output {name!r}{meant(name, known)}", hint=", ".join(known)
        )
    session.console.out(json_text(OUTPUTS[name]))
    return 0


def refuse_known_token(path: str, name: str) -> None:
    """Refuses what stands at `path` unless it is a token that only we can have read and written; `name` is for people.

    Raises:
        BlockedError: it is a link, empty, somebody else's, open to others, or cannot be read.
    """
    from reconciler.document.files import reason_of
    from reconciler.files import open_regular

    hint = f"move {name} away for a new token, and say `openclaw init` again"
    try:
        with open_regular(path, follow=False) as file:
            found, text = os.fstat(file.fileno()), file.read(4096)
    except OSError as err:
        link = os.path.islink(path)
        why = "it is a symbolic link" if link else err.strerror if err.errno == errno.EINVAL else reason_of(err)
        raise BlockedError(f'cannot use "{name}", which is there already: {why}', hint=hint) from err
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.geteuid():
        why = f"it belongs to another user (uid {found.st_uid})"
    elif mode & 0o077:
        why = f"others may use it (mode {mode:04o}), so the token in it may be known"
        hint += f"; to keep the token all the same: chmod 600 {name}"
    elif not text.strip():
        why = "it is empty"
    else:
        return
    raise BlockedError(f'cannot use "{name}", which is there already: {why}', hint=hint)


def create(path: str, text: str, mode: int = 0o600) -> None:
    """Writes a new file, never over one that is there.

    Raises:
        BlockedError: it is there.
        NotPermittedError: the system refuses.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as err:
        raise BlockedError(f'cannot write "{path}": it is there already') from err
    except PermissionError as err:
        raise NotPermittedError(f'cannot write "{path}": {(err.strerror or "").lower()}') from err
    except FileNotFoundError as err:
        directory = os.path.dirname(path)
        raise OpenClawError(
            f'cannot write "{path}": its directory is not there', hint=f"mkdir -p {quote(directory)} makes it"
        ) from err
    except OSError as err:
        raise OpenClawError(f'cannot write "{path}": {(err.strerror or "").lower()}') from err


def free_port(session: Session) -> int:
    """The usual port, or where a stranger holds it the first free one of every twentieth above, with a line that names who."""
    from resources.service.proc import described, listening_inodes, port_owner

    port = DEFAULT_PORT
    # Ten gateways of the real product side by side, with the three further ports of each (its browser relay).
    while listening_inodes(port) and port < DEFAULT_PORT + 200:
        port += 20
    if port != DEFAULT_PORT:
        who = described(port_owner(DEFAULT_PORT) or 0)
        session.console.err(f"note: port {DEFAULT_PORT} is held by {who}: the document gets port {port}\n")
    return port
