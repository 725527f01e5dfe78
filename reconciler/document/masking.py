"""Which names hold secrets, and how a line of a document is shown without any. Pure.

Two layers: what could be read is masked by position (`marks` has the spans), and a text that could not be goes through `Guess`
besides, which must work on lines that are no YAML at all.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

from reconciler.model import MASK, DocumentPath

REFERENCE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

# Endings of names, compared without separators and case: botToken, bot_token and BOT-TOKEN are one.
_ENDINGS: Final = (
    "token",
    "password",
    "passwd",
    "passphrase",
    "secret",
    "apikey",
    "privatekey",
    "secretkey",
    "accesskey",
    "signingkey",
    "encryptionkey",
    "authorization",
    "credential",
    "credentials",
    "cookie",
)
_PLURALS: Final = ("tokens", "passwords", "secrets", "apikeys", "cookies")
_VARIABLE: Final = re.compile(
    r"TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|PRIVATE_?KEY|ACCESS_?KEY", re.IGNORECASE
)

# Names that are secrets only in our own sections (`auth.profiles.*.key`), where a quoted line must still hide them.
_OWN: Final = frozenset({"key", "access", "refresh"})

# The same where nobody could read in what section they are, and the name of what holds secrets by names of their own.
_UNREAD: Final = frozenset({"url"})
# The sections where these mean something else or nothing; in all others, also unknown ones, they need not be in their place.
OTHER_SECTIONS: Final = frozenset(
    {"service", "gateway", "logging", "heartbeats", "tunnels", "audit", "policy", "source", "fleet"}
)
# What holds secrets deeper down, where it begins a document instead.
_MISPLACED: Final = frozenset({"profiles", "channels", "otel", "headers", "environment"})
OVER_SECRETS: Final = frozenset({"headers"})

# Where a block text begins there is nothing behind the mark but its indicators.
_BLOCK_OPENS: Final = re.compile(r"[|>][-+1-9]{0,2}\s*(?:#|$)")
_NAME: Final = r"""["']?[A-Za-z_]\w*["']?\s*"""
_REFERENCE_OPENS: Final = re.compile(rf"""\{{\s*(?:$|["']?(?:env["']?\s*:\s*{_NAME}(?:[,}}#]|$)|(?:file|exec)\b))""")
# What says to be the name of a variable and is none.
_NO_NAME: Final = re.compile(rf"""\s*["']?env["']?\s*:\s+(?!{_NAME}(?:\#|$))\S""")
# A quote in front may be missing, and one behind too many; an address is no pair.
_PAIR: Final = re.compile(r"""(?<![\w.\-])([\w.\-]+)["']?\s*[:=](?!//)\s*""")
_BEGINS: Final = re.compile(rf"""[\s\-{{}}\[\],?"']*{_PAIR.pattern}""")
_COMPLEX: Final = re.compile(r"""\s*\?\s+["']?([\w.\-]+)["']?\s*$""")
_QUOTES: Final = {'"': re.compile(r'"(?:[^"\\]|\\.)*"'), "'": re.compile(r"'(?:[^']|'')*'")}
# A quoted text that goes on in the next line, whatever its indentation.
_UNCLOSED: Final = re.compile(r"""[:=,{\[]\s*(["'])(?:(?!\1).)*$""")
# A whole word that is no part of a path.
_WORD: Final = re.compile(r"(?<![\w.\-/])[\w.\-]+(?![\w.\-/])")
# No name of a secret is without one of these.
_ALERTS: Final = re.compile("key|token|secret|pass|auth|credential|cookie|access|refresh|url", re.IGNORECASE)
# Below these every address is one with its credentials.
_ADDRESSED: Final = re.compile(r"""\b(?:notifications|channels)["']?\s*[:=]""")
_ADDRESS: Final = re.compile(r"""[A-Za-z][\w+.\-]{0,20}://[^\s"'{}\[\],]+""")
_ARGUMENTS: Final = re.compile(r"""\bexec["']?\s*:\s*\[""")
_AFTER: Final = re.compile(r"\s*(?:[,}\]#]|$)")
# Shapes of well-known keys, wherever they stand.
_SHAPES: Final = re.compile(
    r"\b(?:sk-|sk_|pk_|rk_|ghp_|gho_|ghs_|github_pat_|glpat-|xox[a-z]-|xapp-|gsk_|AIza|AKIA|pplx-|npm_|hf_)[\w.\-]{6,}"
    r"|-----BEGIN [A-Z ]+-----.*"
    r"|(?i:bearer|basic)\s+[\w.\-+/=]{8,}"
    r"|\b\d{8,10}:[\w\-]{30,}"
)
# No shape is shorter, and no key stands further in: searching megabytes would take a second.
_SHORTEST: Final = 8
_SEARCHED: Final = 65_536
# No name is longer (YAML allows 1,024 characters), and no text in the place of one needs more.
_NAMED: Final = 2_000
_URL_SECRET: Final = re.compile(r"(\b[a-z][a-z0-9+.\-]*://[^/\s:@]*:)([^/\s@]+)(@)", re.IGNORECASE)


def is_sensitive(name: str) -> bool:
    """True when a text below `name` is taken for a secret."""
    folded = name.replace("_", "").replace("-", "").lower()
    return folded.endswith(_ENDINGS)


def is_sensitive_list(name: str) -> bool:
    """True when the texts of a list below `name` are taken for secrets (`maxTokens: 5` is no list)."""
    return name.replace("_", "").replace("-", "").lower().endswith(_PLURALS)


def is_sensitive_variable(name: str) -> bool:
    """True when an environment variable of this name is taken for a secret."""
    return _VARIABLE.search(name) is not None


@lru_cache(4096)
def resembles_secret(name: str) -> bool:
    """True when `name` may be a mistyped name of a secret, or of what holds some."""
    from difflib import get_close_matches

    folded = name.replace("_", "").replace("-", "").lower()[:64]
    return is_sensitive(name) or bool(get_close_matches(folded, _ENDINGS, n=1, cutoff=0.75)) or resembles_holder(name)


@lru_cache(4096)
def resembles_holder(name: str) -> bool:
    """True when `name` may be a mistyped name of what holds secrets by names of their own."""
    from difflib import get_close_matches

    return bool(get_close_matches(name.lower()[:64], OVER_SECRETS, n=1, cutoff=0.75))


def is_reference_text(text: str) -> bool:
    """True for exactly `${NAME}`, or the same behind an authorization scheme."""
    return REFERENCE.fullmatch(text.removeprefix("Bearer ").removeprefix("Basic ")) is not None


def looks_secret(value: Any) -> bool:
    """True for a text with the shape of a well-known key, or a URL with a password."""
    if not isinstance(value, str) or len(value) < _SHORTEST:
        return False
    head = value[:_SEARCHED]
    return _SHAPES.search(head) is not None or ("@" in head and _URL_SECRET.search(head) is not None)


def is_secret_place(path: tuple[str, ...]) -> bool:
    """True when the schema has a secret at `path`, or its last name says that it is one; lists have no part in `path`."""
    match path:
        case ("auth", "profiles", _, "key" | "token" | "access" | "refresh"):
            return True
        case ("notifications", "channels", _, "url") | ("diagnostics", "otel", "headers", _):
            return True
        case ("service", "environment", name):
            return is_sensitive_variable(name)
    if is_sensitive(path[-1]) or path[0] in OTHER_SECTIONS or path[0].startswith("x-"):
        return is_sensitive(path[-1])
    return path[0] in _MISPLACED or path[-1] in _OWN | _UNREAD or path[-2:-1] == ("headers",)


def is_secret_holder(path: tuple[str, ...]) -> bool:
    """True when the schema has a mapping of little but secrets at `path`: a text or a list there is one without its name."""
    match path:
        case ("auth" | "notifications",) | ("auth", "profiles", *_) | ("notifications", "channels", *_):
            return len(path) <= 3
        case (
            ("gateway", "auth")
            | ("service", "environment")
            | ("diagnostics", "otel")
            | ("diagnostics", "otel", "headers")
        ):
            return True
    return False


def is_below_secret(path: tuple[str, ...]) -> bool:
    """True when `path` is the place of a secret, or leads through one."""
    return any(is_secret_place(path[:count]) for count in range(1, len(path) + 1))


def is_harmless(path: tuple[str, ...], value: Any) -> bool:
    """True when `value`, at the place of a secret or below it, is none: a reference, or nothing."""
    if value is None or isinstance(value, bool):
        return True
    if not isinstance(value, str):
        return False
    if path and path[-1] == "env":
        return value.isidentifier() and value.isascii() and not looks_secret(value)
    if path and path[-1] in {"file", "exec"}:
        return not looks_secret(value)
    return REFERENCE.fullmatch(value) is not None or is_reference_text(value) or value == ""


def mask_text(text: str) -> str:
    """`text` with everything that has the shape of a secret masked."""
    return _URL_SECRET.sub(rf"\g<1>{MASK}\g<3>", _SHAPES.sub(MASK, text))


class Guess:
    """Shows the lines of one text, each after the one before it, without what may be a secret, as far as their looks tell.

    For a text that could not be read: too much is masked rather than a secret shown. `read` says that its secrets are known and
    masked already, so that only names tell of others; `near` has names count that may be mistyped ones of secrets.
    """

    def __init__(self, *, near: bool = False, read: bool = False) -> None:
        self._hidden = hides_nearly if near else hides
        self._near = near
        self._read = read
        # The indentation of a name below which a secret may go on for any number of lines, and whether nothing else can.
        self._below: int | None = None
        self._is_text = False
        # The quote that ends a secret, the brackets that are open around some, and whether the next line may be more of one.
        self._until = ""
        self._depth = 0
        self._goes_on = False
        # The indentation of a name below which addresses are secrets.
        self._addressed: int | None = None

    def show(self, line: str, marked: str | None = None) -> str:
        """The next line as it may be shown; `marked` is the same without what is known to be a secret.

        Both are heeded: a mark may go too far where a quote is missing, and cover a name.
        """
        shown = self._shown(line)
        if marked is None or marked == line:
            return shown
        if marked.strip() == MASK:
            self._goes_on = True
        return marked if shown == line else line[: min(_same(line, shown), _same(line, marked))] + MASK

    def _shown(self, line: str) -> str:
        bare = line.lstrip()
        if not bare:
            return line
        indent = len(line) - len(bare)
        if self._inside(line, bare, indent):
            return line[:indent] + MASK
        return mask_text(self._addresses(self._words(self._scan(line, indent), indent), indent))

    def _inside(self, line: str, bare: str, indent: int) -> bool:
        """Whether the line is taken for a part of a secret that began above it."""
        if self._until:
            _, quote, after = line.partition(self._until)
            if quote:
                self._until = ""
                self._scan(after, indent)
            return True
        if self._depth:
            self._depth = max(0, self._depth + _brackets(line))
            return True
        if self._below is not None and not bare.startswith(MASK):
            in_list = bare.startswith("- ") and indent == self._below
            if indent < self._below or (indent == self._below and not in_list):
                self._below = None
        if bare == MASK:
            self._goes_on = True
            return True
        begins = _BEGINS.match(line) is not None
        if self._below is not None and self._is_text:
            if not self._read and (match := _UNCLOSED.search(line)) is not None:
                self._until = match[1]
            return True
        if bare[0] == "#":
            return False
        if self._below is not None and (not begins or _NO_NAME.match(line) is not None):
            # What began as a text goes on as one.
            self._is_text = True
            return True
        return self._goes_on and not begins and bare.strip("]}, ") != ""

    def _scan(self, line: str, indent: int) -> str:
        """The line without the values of hidden names; remembers what may go on below it."""
        if bare := line.lstrip():
            self._goes_on = self._goes_on and bare[0] == "#"
        if not self._read and (match := _COMPLEX.match(line)) is not None:
            if self._holds(match[1]) or self._hides(match[1], ""):
                self._open(indent - 1, is_text=True)
            return line
        at = 0
        while match := _PAIR.search(line, at):
            rest = line[match.end() :]
            if self._holds(match[1]):
                self._open(indent, is_text=True)
                self._depth = max(0, _brackets(rest))
                return line if _is_nothing(rest) else line[: match.end()] + MASK
            if not self._hides(match[1], rest):
                at = match.end()
                continue
            end = _value_end(rest)
            if _is_nothing(rest[:end]):
                self._open(indent, is_text=False)
            elif _BLOCK_OPENS.match(rest) is not None:
                self._open(indent, is_text=True)
            elif not _harmless(rest[:end]):
                closed = rest[0] in _QUOTES and _QUOTES[rest[0]].match(rest) is not None
                self._until = "" if closed or rest[0] not in _QUOTES else rest[0]
                self._goes_on = not closed
                if not closed and not self._read and not rest.rstrip().endswith(","):
                    self._open(indent, is_text=True)
                # Where a quote is closed may be the very mistake.
                end = end if self._read else len(rest)
                line = line[: match.end()] + MASK + rest[end:]
                end = len(MASK)
            elif end == 1:
                self._goes_on = True
            at = match.end() + max(end, 1)
        return line

    def _words(self, line: str, indent: int) -> str:
        """The line without what follows the name of a secret that no sign for a value comes after."""
        if self._read or _ALERTS.search(line) is None:
            return line
        for match in _WORD.finditer(line):
            name = match[0]
            if not (hides(name) or name in _UNREAD):
                continue
            before, rest = line[: match.start()], line[match.end() :]
            ahead = before.removesuffix("export ").rstrip(" \t-?\"'")
            named = not ahead or ahead[-1] in "{[,"
            # Short words are names only where a name stands; in prose they are words.
            if not named and name in _OWN | _UNREAD:
                continue
            if not rest.strip() and named and "-" not in before:
                self._open(indent, is_text=False)
            elif not (_PAIR.match(line, match.start()) or _tells_nothing(rest) or _ARGUMENTS.search(before)):
                return f"{line[: match.end()]} {MASK}"
        return line

    def _addresses(self, line: str, indent: int) -> str:
        """The line without the addresses that may be those of channels."""
        if self._read or line[indent : indent + 1] == "#":
            return line
        if self._addressed is not None and indent <= self._addressed:
            self._addressed = None
        start = 0
        if self._addressed is None:
            if (match := _ADDRESSED.search(line)) is None:
                return line
            self._addressed, start = indent, match.end()
        return line[:start] + _ADDRESS.sub(MASK, line[start:])

    def _open(self, indent: int, *, is_text: bool) -> None:
        self._below, self._is_text, self._goes_on = indent, is_text, True

    def _holds(self, name: str) -> bool:
        """Whether everything below `name` may be a secret."""
        last = name.rpartition(".")[2]
        return not self._read if last in OVER_SECRETS else self._near and resembles_holder(last)

    def _hides(self, name: str, rest: str) -> bool:
        if self._hidden(name):
            return True
        last = name.rpartition(".")[2]
        return not self._read and (
            last in _UNREAD or (is_sensitive_list(last) and (_is_nothing(rest) or rest[0] == "["))
        )


def mask_name(name: str) -> str:
    """A name, or a text in the place of one, without what follows the name of a secret in it."""
    head = name[:_NAMED]
    # Most names are plain words, and a document may have 50,000.
    if _WORD.fullmatch(head) is not None or _ALERTS.search(head) is None:
        return mask_text(name) if looks_secret(name) else name
    shown = Guess().show(head)
    return name if shown == head else shown


def shown_name(name: str) -> str:
    """A name inside a message: as `safe`, without a secret that stands in it."""
    from reconciler.document.problems import safe

    return safe(mask_name(name))


def shown_path(path: DocumentPath) -> str:
    """A path for people, without the secrets that stand in its names."""
    from reconciler.document.problems import safe
    from reconciler.values import join_path

    return safe(join_path(tuple(part if isinstance(part, int) else mask_name(part) for part in path)))


@lru_cache(4096)
def hides_nearly(name: str) -> bool:
    """As `hides`, or a name that may be a mistyped one of those."""
    last = name.rpartition(".")[2]
    return hides(name) or (last not in OVER_SECRETS and resembles_secret(last))


@lru_cache(4096)
def hides(name: str) -> bool:
    """True when what follows `name` in a line of any section may be a secret; too often rather than too rarely."""
    last = name.rpartition(".")[2]
    return is_sensitive(last) or is_sensitive_variable(last) or last in _OWN


def _same(line: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(line, other, strict=False))
    return next((at for at, (one, two) in pairs if one != two), min(len(line), len(other)))


def _brackets(text: str) -> int:
    """How many brackets `text` leaves open."""
    return text.count("{") + text.count("[") - text.count("}") - text.count("]")


def _is_nothing(rest: str) -> bool:
    return not (bare := rest.strip()) or bare[0] == "#"


def _value_end(rest: str) -> int:
    """Where the value that `rest` begins with may end; too far rather than too near."""
    if rest[:1] in _QUOTES:
        match = _QUOTES[rest[0]].match(rest)
        return match.end() if match is not None and _AFTER.match(rest, match.end()) is not None else len(rest)
    return 1 if _REFERENCE_OPENS.match(rest) else len(rest)


def _tells_nothing(rest: str) -> bool:
    """Whether what follows a word is no value of it: nothing, a reference, an opening or closing bracket, the next name."""
    bare = rest.lstrip("\"' ")
    if bare.startswith(","):
        return _PAIR.match(bare[1:].lstrip("\"' ")) is not None or bare.strip(", ") == ""
    return bare[:1] in {"", "#", "}", "]"} or _REFERENCE_OPENS.match(bare) is not None or _harmless(bare)


def _harmless(value: str) -> bool:
    """References, openings of mappings, and words that cannot be a secret."""
    bare = value.split(" #", 1)[0].strip().rstrip(",}] ").strip("\"'")
    return (
        value == "{"
        or value[0] == "#"
        or _BLOCK_OPENS.match(value) is not None
        or bare in {"", "null", "~", "true", "false", MASK}
        or is_reference_text(bare + ("}" if bare.startswith("${") and not bare.endswith("}") else ""))
    )
