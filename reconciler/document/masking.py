"""Which names hold secrets, and how a line of a document is shown without any. Pure.

Two layers: a document that could be read is masked by position (`sources.mask_tree` marks the spans), and every line that is
ever quoted goes through `mask_line` besides, which must work on lines that are no YAML at all.
"""

from __future__ import annotations

import re
from typing import Any, Final

from reconciler.model import MASK

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

# Where a block text begins there is nothing behind the mark but its indicators.
_BLOCK_OPENS: Final = re.compile(r"[|>][-+1-9]{0,2}\s*(?:#|$)")
_REFERENCE_OPENS: Final = re.compile(r"\{\s*(?:$|[\"']?(?:env|file|exec)\b)")
_PAIR: Final = re.compile(r"""(["']?)([A-Za-z_][\w.\-]*)\1\s*[:=]\s*""")
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


def resembles_secret(name: str) -> bool:
    """True when `name` may be a mistyped name of a secret."""
    from difflib import get_close_matches

    folded = name.replace("_", "").replace("-", "").lower()[:64]
    return is_sensitive(name) or bool(get_close_matches(folded, _ENDINGS, n=1, cutoff=0.75))


def is_reference_text(text: str) -> bool:
    """True for exactly `${NAME}`, or the same behind an authorization scheme."""
    return REFERENCE.fullmatch(text.removeprefix("Bearer ").removeprefix("Basic ")) is not None


def looks_secret(value: Any) -> bool:
    """True for a text with the shape of a well-known key, or a URL with a password."""
    if not isinstance(value, str) or len(value) < _SHORTEST:
        return False
    head = value[:_SEARCHED]
    return _SHAPES.search(head) is not None or ("@" in head and _URL_SECRET.search(head) is not None)


def mask_text(text: str) -> str:
    """`text` with everything that has the shape of a secret masked."""
    return _URL_SECRET.sub(rf"\g<1>{MASK}\g<3>", _SHAPES.sub(MASK, text))


def mask_line(line: str, before: str = "", *, near: bool = False) -> str:
    """One line as it may be shown: what follows a sensitive name is masked unless it is a reference.

    `before` is the line above: a text may go on from there. `near`: a name counts that may be a mistyped one of these, too.
    """
    hidden = hides_nearly if near else hides
    found = False
    at = 0
    while match := _PAIR.search(line, at):
        found = True
        if not hidden(match[2]):
            at = match.end()
            continue
        rest = line[match.end() :]
        end = _value_end(rest)
        if not rest[:end].strip() or _harmless(rest[:end]):
            at = match.end() + max(end, 1)
        else:
            line = line[: match.end()] + MASK + rest[end:]
            at = match.end() + len(MASK)
    if not found and line.strip() and not line.lstrip().startswith("#"):
        previous = [match[2] for match in _PAIR.finditer(before[:10_000])]
        if previous and hidden(previous[-1]):
            return line[: len(line) - len(line.lstrip())] + MASK
    return mask_text(line)


def opens_hidden_text(line: str) -> bool | None:
    """Whether the lines below this one, indented further, may be a secret: True where they are its text, whatever they look
    like, False where they may be a mapping as well, None where they are none.
    """
    pairs = list(_PAIR.finditer(line[:10_000]))
    if not pairs or not hides_nearly(pairs[-1][2]):
        return None
    rest = line[pairs[-1].end() :]
    if _BLOCK_OPENS.match(rest) is not None:
        return True
    return None if rest.strip() else False


def hides_nearly(name: str) -> bool:
    """As `hides`, or a name that may be a mistyped one of those."""
    return hides(name) or resembles_secret(name.rpartition(".")[2])


def hides(name: str) -> bool:
    """True when what follows `name` in a line of any section may be a secret; too often rather than too rarely."""
    last = name.rpartition(".")[2]
    return is_sensitive(last) or is_sensitive_variable(last) or last in _OWN


def _value_end(rest: str) -> int:
    """Where the value that `rest` begins with may end; too far rather than too near."""
    if rest[:1] in "\"'" and rest:
        end = rest.find(rest[0], 1)
        return len(rest) if end < 0 else end + 1
    return 1 if _REFERENCE_OPENS.match(rest) else len(rest)


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
