"""Which names hold secrets, and how a line of a document is shown without any. Pure.

Two layers: what could be read is masked by position (`marks` has the spans). Of a text that could not be read nobody knows what
stands where, so `Unread` shows only what is known to be none: names, and the plain values of settings that are never secrets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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
SECRET_SECTIONS: Final = frozenset({"auth", "notifications", "diagnostics"})
OTHER_SECTIONS: Final = frozenset(
    {"service", "gateway", "logging", "heartbeats", "tunnels", "audit", "policy", "source", "fleet"}
)
# What holds secrets deeper down, where it begins a document instead.
_MISPLACED: Final = frozenset({"profiles", "channels", "otel", "headers", "environment"})
# What holds secrets by names that anybody gives.
_OF_FREE_NAMES: Final = frozenset(
    {
        ("auth", "profiles"),
        ("notifications", "channels"),
        ("service", "environment"),
        ("diagnostics", "otel", "headers"),
    }
)
OVER_SECRETS: Final = frozenset({"headers"})

# A whole word that is no part of a path.
_WORD: Final = re.compile(r"(?<![\w.\-/])[\w.\-]+(?![\w.\-/])")
# No name of a secret is without one of these.
_ALERTS: Final = re.compile("key|token|secret|pass|auth|credential|cookie|access|refresh|url", re.IGNORECASE)
# Shapes of well-known keys, wherever they stand.
_SHAPES: Final = re.compile(
    r"\b(?:sk-|sk_|pk_|rk_|ghp_|gho_|ghs_|github_pat_|glpat-|xox[a-z]-|xapp-|gsk_|AIza|AKIA|pplx-|npm_|hf_)[\w.\-]{6,}"
    r"|-----BEGIN [A-Z ]+-----.*"
    r"|(?i:bearer|basic)\s+[\w.\-+/=]{8,}"
    r"|\b\d{8,10}:[\w\-]{30,}"
)
# Prefixes of keys with which names of variables begin as well, and what a key has behind them and no name.
_WORDS: Final = ("npm_", "hf_")
_KEY: Final = re.compile(r"[A-Za-z0-9]{16}")
_ASSIGNMENT: Final = re.compile(r"""\s*["']?([A-Za-z_][\w.\-]{0,63})["']?(\s*[:=]\s*|\s+)["']?(\S+?)["']?\s*""")
_COMPOUND: Final = re.compile(r"[a-z][A-Z]|[\d_.\-]")
_NOTHING: Final = frozenset({"null", "none", "true", "false", "off", "on", "no", "yes"})
_REFERENCES: Final = ("env:", "file:", "exec:")
# No shape is shorter, and no key stands further in: searching megabytes would take a second.
_SHORTEST: Final = 8
_SEARCHED: Final = 65_536
# No name is longer (YAML allows 1,024 characters), and no text in the place of one needs more.
_NAMED: Final = 2_000
# What follows a name: a sign for its value, or no more than space.
_SIGN: Final = re.compile(r"""["']?\s*([:=]?)(?!//)\s*""")

# Lines of a text that could not be read. What stands between names and values; where a name begins, and one without a sign.
_GAP: Final = re.compile(r"(?:[\s{}\[\],]|[-?:](?=\s|$))*")
_NAME: Final = re.compile(
    r"""(?:([A-Za-z_][\w.\-]{0,63})["']?|"([\w.\-:@/ ]{1,64})"|'([\w.\-:@/ ]{1,64})')\s*([:=])(?!//)\s*"""
)
_BARE_NAME: Final = re.compile(r"([A-Za-z_][\w\-]{0,63})(?![\w.\-/])\s*")
_ENDS: Final = r"(?=\s*(?:[,}\]]|\s#|$))"
# What is no secret whatever it belongs to: nothing, references, the mark of a block text, the beginning of a reference. Between
# the braces of one that cannot be read may be the secret itself; a variable is written in capitals.
_HARMLESS: Final = re.compile(
    rf"""(?:null|true|false|~|{re.escape(MASK)}|(["']?)(?:(?:Bearer|Basic)\s)?\$\{{[A-Z_][A-Z0-9_]*\}}\1){_ENDS}"""
    r"""|[|>][-+1-9]{0,2}\s*$|\{(?=\s*(?:$|["']?(?:env|file|exec)["']?\s*:))"""
)
# What is too short for a secret, and with what no value may begin.
_TINY: Final = re.compile(rf"[\w*]{{1,2}}{_ENDS}")
_SIGNS: Final = "*&!@`%"
_PLAIN: Final = re.compile(rf"""(["']?)[\w.\-+:/%*]{{1,32}}\1{_ENDS}""")
_QUOTED: Final = re.compile(rf"""(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'){_ENDS}""")
_REFERRED: Final = {
    "env": re.compile(rf"""(["']?)[A-Za-z_]\w*\1{_ENDS}"""),
    "file": re.compile(rf"""(["']?)[\w.\-~/]{{1,160}}\1{_ENDS}"""),
}
_REFERENCE_BEGINS: Final = re.compile(r"""(?:-\s+)?["']?(?:env|file|exec)["']?\s*:""")
# Kinds of settings that have few values, none of which anybody would keep to himself.
_OPEN_KINDS: Final = frozenset(
    {"choice", "integer", "number", "duration", "size", "size_from", "flag", "percent", "date"}
)
# The password of an address, and a user as long as only tokens are (people's have a `+` or an escaped `@` where they are long).
_URL_SECRET: Final = re.compile(
    r"(\b[a-z][a-z0-9+.\-]*://[^/\s:@]*:|\bhttps?://(?=[\w.\-~]{17,}@))([^/\s@]+)(@)", re.IGNORECASE
)


def _folded(name: str) -> str:
    """As names are compared; a sign too many makes another one of it."""
    name = name.lower()
    return name if name.isalnum() else "".join(filter(str.isalnum, name))


def is_sensitive(name: str) -> bool:
    """True when a text below `name` is taken for a secret."""
    return _folded(name).endswith(_ENDINGS)


def is_sensitive_list(name: str) -> bool:
    """True when the texts of a list below `name` are taken for secrets (`maxTokens: 5` is no list)."""
    return _folded(name).endswith(_PLURALS)


def is_sensitive_variable(name: str) -> bool:
    """True when an environment variable of this name is taken for a secret."""
    return _VARIABLE.search(name) is not None


@lru_cache(4096)
def resembles_secret(name: str) -> bool:
    """True when `name` may be a mistyped name of a secret, or of what holds some."""
    from difflib import get_close_matches

    folded = _folded(name[:64])
    return is_sensitive(name) or bool(get_close_matches(folded, _ENDINGS, n=1, cutoff=0.75)) or resembles_holder(name)


@lru_cache(4096)
def resembles_holder(name: str) -> bool:
    """True when `name` may be a mistyped name of what holds secrets by names of their own."""
    from difflib import get_close_matches

    return bool(get_close_matches(name.lower()[:64], OVER_SECRETS, n=1, cutoff=0.75))


def is_doubtful(path: DocumentPath) -> bool:
    """True when what stands at `path`, by a name that has no place there or a second time, may be a secret."""
    last = str(path[-1])
    return path[0] not in OTHER_SECTIONS or last in _OWN | _UNREAD or resembles_secret(last)


def is_reference_text(text: str) -> bool:
    """True for exactly `${NAME}`, or the same behind an authorization scheme."""
    return REFERENCE.fullmatch(text.removeprefix("Bearer ").removeprefix("Basic ")) is not None


def looks_secret(value: Any) -> bool:
    """True for a text with the shape of a well-known key, or a URL with a password."""
    if not isinstance(value, str) or len(value) < _SHORTEST:
        return False
    head = value[:_SEARCHED]
    return _SHAPES.search(head) is not None or ("@" in head and _URL_SECRET.search(head) is not None)


def assigns_secret(value: Any) -> bool:
    """True for a text that is no more than the name of a secret and its value, as `botToken=abc`."""
    if not isinstance(value, str) or len(value) > _NAMED or _ALERTS.search(value) is None:
        return False
    match = _ASSIGNMENT.fullmatch(value)
    if match is None or not is_sensitive(match[1]) or match[3].lower() in _NOTHING or is_reference_text(match[3]):
        return False
    # Two words without a sign may be a title, unless the first is of no language.
    return bool(match[2].strip()) or _COMPOUND.search(match[1]) is not None


def is_secret_itself(text: str) -> bool:
    """True for what should name the place of a secret, and is one or an address; behind a `/` a file may be called like one, and
    so may a variable (`npm_config_token`), in which keys have no words.
    """
    if text.startswith(_WORDS) and text.isidentifier() and _KEY.search(text) is None:
        return False
    is_path = "/" in text and ":" not in text
    return "://" in text or (looks_secret(text) and not (is_path and _SHAPES.match(text) is None))


def is_secret_place(path: tuple[str, ...]) -> bool:
    """True when the schema has a secret at `path`, or its last name says that it is one; lists have no part in `path`."""
    match path:
        case ("auth", "profiles", _, "key" | "token" | "access" | "refresh"):
            return True
        case ("notifications", "channels", _, "url") | ("diagnostics", "otel", "headers", _):
            return True
        case ("service", "environment", name, *below):
            # A name that no variable has may be a mistyped one.
            return bool(below) or is_sensitive_variable(name) or not (name.isidentifier() and name.isascii())
    if is_sensitive(path[-1]) or path[0] in OTHER_SECTIONS or path[0].startswith("x-"):
        return is_sensitive(path[-1])
    if path[0] in _MISPLACED or path[-1] in _OWN | _UNREAD or path[-2:-1] == ("headers",):
        return True
    # A name of no setting may be a mistyped one.
    return (
        path[0] in SECRET_SECTIONS and len(path) > 3 and "order" not in path and path[-1] not in _names_of_schema()[0]
    )


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


def is_lost_value(path: tuple[str, ...], name: str, value: Any) -> bool:
    """True when `name`, which stands below `path` with the value `value`, may be a secret whose own name was forgotten."""
    if value is not None or path in _OF_FREE_NAMES:
        return False
    return is_secret_holder(path) and name not in _names_of_schema()[0]


def is_lost_choice(path: tuple[str, ...], value: Any) -> bool:
    """True when `value`, where beside secrets a choice stands, is unlike all of its words and may be a secret."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return False
    return bool(path) and is_secret_holder(path[:-1]) and _is_unlike_choices(path[-1], str(value))


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
    if path and path[-1] == "file":
        return not is_secret_itself(value)
    if path and path[-1] == "exec":
        return not looks_secret(value)
    return REFERENCE.fullmatch(value) is not None or is_reference_text(value) or value == ""


def mask_text(text: str) -> str:
    """`text` with everything that has the shape of a secret masked."""
    return _URL_SECRET.sub(rf"\g<1>{MASK}\g<3>", _SHAPES.sub(MASK, text))


class Unread:
    """Shows the lines of one text that could not be read, each after the one before it.

    Shown are punctuation, names, references, and values that are plain and stand behind the name of a setting that is a secret
    nowhere in the schema. All else may be a secret that a mistake has moved, and is masked.
    """

    def __init__(self) -> None:
        # The indentation of the name of a secret that may go on below it, and the quote that ends what is not shown.
        self._below: int | None = None
        self._until = ""

    def show(self, line: str, marked: str | None = None) -> str:
        """The next line as it may be shown; `marked` is the same without what is known to be a secret.

        Both are heeded: a mark may go too far where a quote is missing, and cover a name.
        """
        shown = self._shown(line)
        if marked is None or marked == line:
            return shown
        return marked if shown == line else line[: min(_same(line, shown), _same(line, marked))] + MASK

    def _shown(self, line: str) -> str:
        bare = line.lstrip()
        indent = len(line) - len(bare)
        if not bare or bare == "---":
            return line
        if self._until:
            if self._until in bare:
                # Which of its quotes is the one that is missing nobody knows: what this line begins counts as well.
                self._until = ""
                self._read(line, indent)
            return line[:indent] + MASK
        if self._below is not None:
            if indent < self._below or (indent == self._below and not bare.startswith("- ")):
                self._below = None
            elif not _REFERENCE_BEGINS.match(bare) and bare.strip("]}, "):
                below = self._below
                self._read(line, indent)
                self._below = below
                return line[:indent] + MASK
        return self._read(line, indent)

    def _read(self, line: str, indent: int) -> str:
        """The line, of which the end is masked from the first thing on that nothing speaks for."""
        at = 0
        while (at := _end(_GAP, line, at)) < len(line):
            if line[at] == "#":
                return f"{line[:at]}# {MASK}"
            if (name := self._name(line, at)) is not None:
                word, at = name
                is_secret, end = self._value(word, line, at, indent)
            elif (match := _TINY.match(line, at)) is not None:
                is_secret, end = False, match.end()
            else:
                is_secret, end = False, None
            if end is None:
                # The sign that a value must not begin with is often the very mistake.
                at += not is_secret and line[at] in _SIGNS
                return line[:at] + MASK
            at = end
        return line

    def _name(self, line: str, at: int) -> tuple[str, int] | None:
        """The name that may be shown at `at`, and where its value begins."""
        if (match := _NAME.match(line, at)) is not None:
            plain, quoted = match[1], match[2] or match[3]
            # In the middle of a line a quoted text may be the value of a name that is gone.
            if plain is None and line[:at].strip(" -?") and quoted not in _names_of_schema()[0]:
                return None
            name: str = plain or quoted
            # A sign without a space makes no name of what only may be one, but is a part of many secrets.
            is_named = match[4] == ":" and not line[match.end(4) : match.end(4) + 1].strip()
            if not is_named and name not in _names_of_schema()[0] and not hides(name):
                return None
            return None if looks_secret(name) or mask_name(name) != name else (name, match.end())
        match = _BARE_NAME.match(line, at)
        return (match[1], match.end()) if match is not None and match[1] in _names_of_schema()[0] else None

    def _value(self, name: str, line: str, at: int, indent: int) -> tuple[bool, int | None]:
        """Whether `name` is one of a secret, and where what may be shown behind it ends; None where nothing may."""
        names, plain = _names_of_schema()
        last = name.rpartition(".")[2]
        is_secret = hides(last) or last in _UNREAD | OVER_SECRETS or is_sensitive_list(last)
        first = line[at : at + 1]
        if (match := _HARMLESS.match(line, at)) is not None and not looks_secret(match[0]):
            # A block text, or what belongs to a secret, goes on below.
            goes_on = first in "|>{" and not line[match.end() :].strip()
            if goes_on and (is_secret or (first != "{" and last not in names)):
                self._below = indent
            return is_secret, match.end()
        is_closed = _QUOTED.match(line, at) is not None
        if is_secret and not is_closed:
            self._below = indent
        if first in ("", "#") or (first in "{[" and not is_secret):
            return is_secret, at
        shape = _REFERRED.get(last, _PLAIN if last in plain else _TINY)
        if not is_secret and (match := shape.match(line, at)) is not None:
            value = match[0].strip("\"'")
            if not looks_secret(value) and (len(value) < 3 or not _is_unlike_choices(last, value)):
                return False, match.end()
        if first in "\"'" and not is_closed:
            self._until = first
        return is_secret, None


@lru_cache(1)
def _names_of_schema() -> tuple[frozenset[str], frozenset[str]]:
    """All names that the schema has, and those of settings of which every value may be shown."""
    from reconciler.document.fast import shape_data

    shape = shape_data()
    names, kept = {"version", *shape["sections"]}, set()
    for model in shape["models"].values():
        names |= model.keys()
        kept |= {name for name, node in model.items() if not _is_open(node)}
    return frozenset(names), frozenset(name for name in names - kept - shape["sections"].keys() if not hides(name))


@lru_cache(4096)
def _is_unlike_choices(name: str, text: str) -> bool:
    """True when `name` is that of a choice, of which `text` is no word and no mistyped one."""
    from reconciler.document.problems import closest

    words = _choices_of_schema().get(name)
    return words is not None and text not in words and (mask_words(text) != text or closest(text, words) is None)


@lru_cache(1)
def _choices_of_schema() -> Mapping[str, frozenset[str]]:
    """The names of all choices with the words of each."""
    from reconciler.document.fast import shape_data

    found: dict[str, frozenset[str]] = {}
    for model in shape_data()["models"].values():
        for name, node in model.items():
            check = node.get("check", ())
            words = check[1:] if check[:1] == ["choice"] else [node["word"]] if "word" in node else []
            if words:
                found[name] = found.get(name, frozenset()) | {*words}
    return found


def _is_open(node: Mapping[str, Any]) -> bool:
    return "word" in node or ("check" in node and node["check"][0] in _OPEN_KINDS)


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match is not None else at


def mask_name(name: str) -> str:
    """A name as it may be shown: an address is none, and is what a secret may be; else as `mask_words`."""
    return MASK if "://" in name[:_NAMED] else mask_words(name)


def mask_words(name: str) -> str:
    """A text without what follows the name of a secret in it."""
    head = name[:_NAMED]
    # Most names are plain words, and a document may have 50,000.
    if _WORD.fullmatch(head) is not None or _ALERTS.search(head) is None:
        return mask_text(name) if looks_secret(name) else name
    for match in _WORD.finditer(head):
        word = match[0].rpartition(".")[2]
        sign = _SIGN.match(head, match.end())
        if sign is None or not (hides(word) or word in _UNREAD):
            continue
        # In prose a short word is a word.
        is_named = sign[1] or not head[: match.start()].strip(" \"'{[") or word not in _OWN | _UNREAD
        rest = head[sign.end() :].strip("\"'{}[], ")
        if is_named and rest and not (is_reference_text(rest) or rest.startswith(_REFERENCES)):
            return mask_text(head[: sign.end()].rstrip() + (" " if not sign[1] else "")) + MASK
    return mask_text(name) if looks_secret(name) else name


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
def hides(name: str) -> bool:
    """True when what follows `name` in a line of any section may be a secret; too often rather than too rarely."""
    last = name.rpartition(".")[2]
    return is_sensitive(last) or is_sensitive_variable(last) or last in _OWN


def _same(line: str, other: str) -> int:
    """How many characters both begin with."""
    pairs = enumerate(zip(line, other, strict=False))
    return next((at for at, (one, two) in pairs if one != two), min(len(line), len(other)))
