"""`openclaw init`, `validate` and `schema`: the document itself. None of them looks at the host, but for a free port."""

from __future__ import annotations

import os

import click

from reconciler.cli.options import PORT, file_option, json_option
from reconciler.cli.session import Session
from reconciler.errors import BlockedError, DocumentError, NotPermittedError, OpenClawError, UsageError

DEFAULT_PORT = 18789
# 48 hexadecimal digits, as the real product generates them.
TOKEN_BYTES = 24


@click.command("init")
@file_option
@click.option("--port", type=PORT, help="The gateway's port [default: 18789, or the next free one].")
@click.pass_obj
def init_command(session: Session, port: int | None) -> int:
    """Write a first document with comments, and a random token in a file of its own (0600)."""
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
    chosen = port if port is not None else free_port(session)
    if not os.path.lexists(token_path):
        create(token_path, os.urandom(TOKEN_BYTES).hex() + "\n")
    create(path, init_text(os.path.basename(token_path), port=chosen), mode=0o644)
    console = session.console
    console.out(f"wrote {session.named} and {os.path.relpath(token_path, session.directory)}\n")
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
    if as_json:
        console.out(json_text(validate_json(())))
    else:
        console.out(f"{session.named} is valid.\n")
    return 0


@click.command("schema")
@click.argument("name", required=False, default="document")
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
    except OSError as err:
        raise OpenClawError(f'cannot write "{path}": {(err.strerror or "").lower()}') from err


def free_port(session: Session) -> int:
    """The usual port, or where a stranger holds it the next free one, with a line that names who."""
    from resources.service.proc import listening_inodes, port_owner, program

    port = DEFAULT_PORT
    # Ten gateways of the real product side by side, with the three further ports of each (its browser relay).
    while listening_inodes(port) and port < DEFAULT_PORT + 200:
        port += 20
    if port != DEFAULT_PORT:
        owner = port_owner(DEFAULT_PORT)
        who = f"pid {owner} ({program(owner)})" if owner is not None else "a process that this user may not see"
        session.console.err(f"note: port {DEFAULT_PORT} is held by {who}: the document gets port {port}\n")
    return port
