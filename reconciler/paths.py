"""Where things lie, as plain strings: the rules that the command line needs before it can afford an import. Pure.

Nothing but the language itself is imported here: `openclaw plan` through a supervisor costs little more than starting
Python, and pathlib or dataclasses alone would double that. `reconciler.host` gives the same rules as paths.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# sockaddr_un.sun_path holds 108 bytes with its closing NUL (unix(7)).
MAX_SOCKET_BYTES = 107
DOCUMENT_NAME = "openclaw.yaml"


def here() -> str:
    """The working directory; `/` where it was deleted, so that only whole paths lead anywhere."""
    # A builtin module, as below.
    from posix import getcwd

    try:
        return getcwd()
    except FileNotFoundError:
        return "/"


def state_root(environ: Mapping[str, str], home: str) -> str:
    """The state directory as the real product finds it: `OPENCLAW_STATE_DIR`, else `~/.openclaw` with the profile.

    Raises:
        UsageError: the profile is no plain name, and would lead anywhere; or the path cannot be written down.
    """
    root = _root(environ, home)
    if odd := not_utf8(root):
        raise _usage(f'cannot use the state directory "{odd}": its path is not UTF-8')
    return root


def _root(environ: Mapping[str, str], home: str) -> str:
    if named := environ.get("OPENCLAW_STATE_DIR", "").strip():
        return home + named[1:] if named == "~" or named.startswith("~/") else named
    profile = environ.get("OPENCLAW_PROFILE", "").strip()
    if not profile or profile == "default":
        return f"{home}/.openclaw"
    if not (profile.isascii() and profile[0].isalnum() and all(sign.isalnum() or sign in "._-" for sign in profile)):
        raise _usage(
            f"cannot use OPENCLAW_PROFILE={profile!r}: a profile is a name of letters, digits, dots, hyphens and "
            "underscores that begins with a letter or a digit",
            "name a directory by OPENCLAW_STATE_DIR where a name is not enough",
        )
    return f"{home}/.openclaw-{profile}"


def _usage(message: str, hint: str | None = None) -> Exception:
    from reconciler.errors import UsageError

    return UsageError(message, hint=hint)


def config_directory(environ: Mapping[str, str], home: str) -> str:
    """Where a document lies that no one named: `XDG_CONFIG_HOME/openclaw`, else `~/.config/openclaw`."""
    named = environ.get("XDG_CONFIG_HOME", "")
    return f"{named if named.startswith('/') else home + '/.config'}/openclaw"


def runtime_directory(environ: Mapping[str, str], uid: int) -> str:
    """`XDG_RUNTIME_DIR`, else a directory of this user below /tmp (made 0700 and checked by whoever uses it)."""
    named = environ.get("XDG_RUNTIME_DIR", "")
    return named if named.startswith("/") else f"/tmp/openclaw-run-{uid}"  # noqa: S108 - private, checked by its users


def socket_path(root: str, name: str, runtime: str) -> str:
    """`<root>/reconciler/<name>`, or a short path in the runtime directory where that would not fit a socket address."""
    path = f"{root}/reconciler/{name}"
    if len(path.encode("utf-8", "surrogateescape")) <= MAX_SOCKET_BYTES:
        return path
    # A builtin module: hashlib would cost a cold client several milliseconds.
    from _blake2 import blake2b

    short = blake2b(root.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return f"{runtime}/openclaw-{short}/{name.rpartition('/')[2]}"


def absolute(path: str, directory: str) -> str:
    """`path` as seen from `directory`, without `.` and doubled slashes; links and `..` stay as they are."""
    whole = path if path.startswith("/") else f"{directory}/{path}"
    return "/" + "/".join(part for part in whole.split("/") if part not in ("", "."))


def not_utf8(text: str) -> str:
    """What to call a text from the system in words where it holds bytes that are not UTF-8; empty where it holds none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return ""


def document_path(
    named: str | None, environ: Mapping[str, str], home: str, directory: str, exists: Callable[[str], bool]
) -> str:
    """The absolute path of the document: what `--file` names, `OPENCLAW_FILE`, `./openclaw.yaml` if there is one, else
    that of the configuration directory. For `exists` a link that leads nowhere is there: what it leads to may come later.
    """
    if named or (named := environ.get("OPENCLAW_FILE")):
        return absolute(named, directory)
    here, at_home = usual_documents(environ, home, directory)
    return here if exists(here) else at_home


def usual_documents(environ: Mapping[str, str], home: str, directory: str) -> tuple[str, str]:
    """Where a document is looked for that no one named: `./openclaw.yaml`, and in the configuration directory."""
    there = f"{config_directory(environ, home)}/{DOCUMENT_NAME}"
    return absolute(DOCUMENT_NAME, directory), absolute(there, directory)
