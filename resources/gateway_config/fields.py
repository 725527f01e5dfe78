"""Which paths of openclaw.json the document declares, with which values, and how a value found there may be shown. Pure.

A field is one leaf of the file, named by its path (`gateway.port`; a list is a leaf). Only what the document says is a
field: the file is shared with its owner and with the gateway. An empty mapping in `gateway.settings` declares nothing.

What an `$include` brings is not read: openclaw.json itself is all that is read and written. Its own keys win over those
of an include, so a declared field stands in the file even where an include says the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gateway.wire.json5 import Node, Object, to_plain
from gateway.wire.reload import BUILTIN, OPENCLAW_2026_2_17, impact_of
from reconciler.desired import Desired, Gateway, Logging, SecretRef
from reconciler.kinds import Resource, Secrets
from reconciler.model import ABSENT, DocumentPath, Fields, Impact, Key, Note, Secret, Value
from reconciler.values import join_path, same, split_path
from resources.gateway_config.edit import Path, node_at

if TYPE_CHECKING:
    from gateway.config import Issue

KEY = Key("gateway-config", "gateway")
TOKEN_TEXT = "${OPENCLAW_GATEWAY_TOKEN}"  # noqa: S105 - the reference that stands for it
PASSWORD_TEXT = "${OPENCLAW_GATEWAY_PASSWORD}"  # noqa: S105
DEFAULT_PORT = 18789

# Every text below such a name is a secret unless it is a reference; names that merely end alike (`maxTokens`) hold no text.
_SENSITIVE = re.compile(
    r"(?:tokens?|passwords?|passwd|passphrase|secrets?|credentials?|cookies?|authorization"
    r"|(?:api|private|secret|access|signing|encryption)[-_]?keys?)$",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"(?:Bearer |Basic )?\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_HOLDS_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
# Fields with a section of their own that the built-in gateway may not heed; all others of them it does.
_REDACTION = frozenset({"logging.redactSensitive", "logging.redactPatterns"})
# Of openclaw.json, and not for a gateway to act upon: what it is checked by, who wrote it, values for its references.
_ABOUT_THE_FILE = frozenset({("$schema",), ("meta",), ("env",)})
_IMPACTS = {"none": Impact.NONE, "hot": Impact.HOT_RELOAD, "restart": Impact.RESTART}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSpec:
    """What the shell needs beside the fields: which runtime reads the file, how its gateway is spoken to, and which variables
    the document gives to its process.
    """

    runtime: str
    managed: bool
    token: SecretRef | None
    password: SecretRef | None
    variables: frozenset[str]


def declared(desired: Desired) -> tuple[dict[str, Value], dict[str, DocumentPath]]:
    """The declared fields, and for each the document path that asks for it.

    Settings by their path, then the sections: the order of keys in the document makes no difference, not to the eye either.
    """
    fields: dict[str, Value] = {}
    origins: dict[str, DocumentPath] = {}
    if desired.gateway is not None:
        # First, so that a section's own word wins over the same path in `settings`.
        for path, value in sorted(leaves(desired.gateway.settings, ()), key=lambda leaf: leaf[0]):
            fields[join_path(path)] = value
            origins[join_path(path)] = ("gateway", "settings", *path)
        _add(fields, origins, "gateway", _gateway(desired.gateway, runtime_of(desired)))
    if desired.logging is not None:
        _add(fields, origins, "logging", _logging(desired.logging))
    return fields, origins


def runtime_of(desired: Desired) -> str:
    """Which gateway reads the file: ours, where the document says nothing."""
    return desired.service.runtime if desired.service is not None else "builtin"


def unheeded(resource: Resource | None) -> tuple[Note, ...]:
    """A note for each declared key that is written to the file and that the built-in gateway, where it is that, does not read."""
    if resource is None or resource.spec is None or resource.spec.runtime != "builtin":
        return ()
    doubtful = [path for path in resource.fields if path in _REDACTION or resource.origins[path][1] == "settings"]
    if not doubtful:
        return ()
    # Loaded here: it comes with all that the gateway knows of its config.
    from gateway.config import passed

    places: dict[DocumentPath, None] = {}
    for path in doubtful:
        keys, origin = parts(path), resource.origins[path]
        found = passed(keys)
        if found is not None and found not in _ABOUT_THE_FILE:
            places[origin[: len(origin) - len(keys) + len(found)] if origin[1] == "settings" else origin] = None
    return tuple(
        Note(
            code="not_managed",
            message=f"`{join_path(place)}` is valid, but the built-in gateway does not heed it: it is written to openclaw.json "
            "and has no effect",
            path=place,
        )
        for place in places
    )


def _declared_at(resource: Resource | None, keys: Path) -> DocumentPath | None:
    """Which part of the document asks for what is at or below `keys` of the file; None for what is not ours."""
    for path, origin in resource.origins.items() if resource is not None else ():
        own = parts(path)
        if own[: len(keys)] == keys:
            return origin[: len(origin) - len(own) + len(keys)] if origin[1] == "settings" else origin
    return None


def blamed(resource: Resource | None, wrong: Collection[Issue]) -> tuple[DocumentPath | None, str]:
    """What of the document is to blame for what is wrong with the file, the first of it, and what to do, with everything that is
    wrong where that is several; nothing where it is not the document.
    """
    first: DocumentPath | None = None
    hints: dict[str, None] = {}
    for issue in wrong:
        place = tuple(key for key in (*issue.path.split("."), issue.key) if key)
        path = _declared_at(resource, place)
        if path is None:
            found = (
                "it stands in the file only, take it out there" if issue.key else "declare it, or repair it in the file"
            )
            hints[f"{join_path(place)}: {found}"] = None
            continue
        first = path if first is None else first
        hint = _mended(path, issue)
        hints[hint if len(wrong) == 1 else f"{join_path(path)}: {hint}"] = None
    return (first, "; ".join(hints)) if first is not None else (None, "")


def _mended(path: DocumentPath, issue: Issue) -> str:
    """What to do with what the document has at `path`."""
    from difflib import get_close_matches

    from gateway.config import known_below

    if not issue.key:
        return f"mend {join_path(path)} in the document"
    near = get_close_matches(issue.key[:64], sorted(known_below(issue.path)), n=1)
    return f"did you mean '{near[0]}'?" if near else "take it out of the document: no gateway knows it"


def impact(paths: Iterator[str] | list[str], runtime: str) -> Impact:
    """The gravest impact that a change of `paths` has on a gateway of this runtime while it runs."""
    table = BUILTIN if runtime == "builtin" else OPENCLAW_2026_2_17
    found = (_IMPACTS[impact_of(path, table)] for path in paths)
    return max(found, key=lambda one: one.severity, default=Impact.NONE)


def parts(path: str) -> Path:
    """The keys of a field's path; those of openclaw.json are texts only."""
    return tuple(str(part) for part in split_path(path))


def nested(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Each two of `paths` of which the second lies below the first."""
    known = {parts(path): path for path in paths}
    return [
        (known[keys[:depth]], path)
        for keys, path in known.items()
        for depth in range(1, len(keys))
        if keys[:depth] in known
    ]


def observed(root: Node | None, paths: Mapping[str, Collection[Value]], secrets: Secrets) -> Fields:
    """The values at `paths`, secrets as their digests; ABSENT where there is none.

    With each path come the values that we declare or once wrote there: the document has them in plain, so they are no
    secrets; and where one of them is a reference, whatever else stands there was a secret, by whatever name. That holds for
    what lies inside of another path's value as well.
    """
    known = {path: tuple(values) for path, values in paths.items()}
    for path, values in paths.items():
        for keys, value in (leaf for each in values if isinstance(each, Mapping) for leaf in leaves(each, parts(path))):
            known[join_path(keys)] = (*known.get(join_path(keys), ()), value)
    found = {path: _observed(root, path, values, secrets.digest_text) for path, values in known.items()}
    for above, below in sorted(nested(known), key=lambda two: -len(parts(two[0]))):
        if found[below] is not ABSENT:
            found[above] = _with(found[above], parts(below)[len(parts(above)) :], found[below])
    return {path: found[path] for path in paths}


def obstacles(root: Node | None, paths: Mapping[str, Collection[Value]], secrets: Secrets) -> Fields:
    """What lies on the way to one of `paths` (as for `observed`) and is no object, so that nothing can be below it."""
    found: dict[str, Value] = {}
    for path, known in paths.items():
        keys, node = parts(path), root
        for depth, key in enumerate(keys[:-1], 1):
            node = node.get(key) if isinstance(node, Object) else None
            if node is not None and not isinstance(node, Object):
                sensitive = any(_refers(each) for each in known)
                value = guarded(keys[:depth], to_plain(node), secrets.digest_text, sensitive=sensitive)
                where = join_path(keys[:depth])
                # What is a secret to one of them is none to show.
                found[where] = value if sensitive else found.get(where, value)
    return found


def _with(data: Value, keys: Path, value: Value) -> Value:
    """`data` with `value` in the place of what is there at `keys`."""
    if not keys:
        return value
    assert isinstance(data, Mapping)
    return {**data, keys[0]: _with(data[keys[0]], keys[1:], value)}


def _observed(root: Node | None, path: str, known: Collection[Value], digest: Callable[[str], Secret]) -> Value:
    keys = parts(path)
    node = node_at(root, keys) if root is not None else None
    if node is None:
        return ABSENT
    value: Any = to_plain(node)
    if any(same(value, each) for each in known):
        return value  # type: ignore[no-any-return]
    return guarded(keys, value, digest, sensitive=any(_refers(each) for each in known))


def _refers(value: Value) -> bool:
    """Whether `value` says that its place is one for secrets: a reference, or what became of a secret."""
    if isinstance(value, (tuple, list)):
        return any(_refers(item) for item in value)
    return isinstance(value, Secret) or (isinstance(value, str) and _HOLDS_REFERENCE.search(value) is not None)


def guarded(keys: Path, value: Any, digest: Callable[[str], Secret], *, sensitive: bool = False) -> Value:
    """`value` as it may leave this package: every literal secret in it is a digest, or every text where `sensitive`."""
    return _guarded(value, sensitive or any(_SENSITIVE.search(key) for key in keys), digest)


def _guarded(value: Any, sensitive: bool, digest: Callable[[str], Secret]) -> Value:
    if isinstance(value, Mapping):
        return {key: _guarded(item, sensitive or bool(_SENSITIVE.search(key)), digest) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_guarded(item, sensitive, digest) for item in value)
    if sensitive and isinstance(value, str) and value and not _REFERENCE.fullmatch(value):
        return digest(value)
    return value  # type: ignore[no-any-return]


def holds_secret(value: Value) -> bool:
    """Whether a digest stands somewhere in `value`, so that it cannot be written as it is."""
    if isinstance(value, Mapping):
        return any(holds_secret(item) for item in value.values())
    if isinstance(value, (tuple, list)):
        return any(holds_secret(item) for item in value)
    return isinstance(value, Secret)


def leaves(data: Mapping[str, Any], prefix: Path) -> Iterator[tuple[Path, Value]]:
    """Every value of `data` that is no mapping, by its keys behind `prefix`."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*prefix, name))
        else:
            yield (*prefix, name), tuple(value) if isinstance(value, list) else value


def _gateway(gateway: Gateway, runtime: str) -> Iterator[tuple[str, Value, str]]:
    """Path below `gateway`, value (None: not declared), path in the document below `gateway`."""
    # The real product knows no mode "none": there, no mode is what says it.
    no_mode = runtime != "builtin" and gateway.auth_mode == "none"
    yield "port", gateway.port, "port"
    yield "bind", gateway.bind, "bind"
    yield "customBindHost", gateway.host, "host"
    yield "auth.mode", ABSENT if no_mode else gateway.auth_mode, "auth.mode"
    yield "auth.token", TOKEN_TEXT if gateway.token is not None else None, "auth.token"
    yield "auth.password", PASSWORD_TEXT if gateway.password is not None else None, "auth.password"
    yield "tls.enabled", gateway.tls_enabled, "tls.enabled"
    yield "tls.certPath", gateway.tls_cert, "tls.cert"
    yield "tls.keyPath", gateway.tls_key, "tls.key"


def _logging(logging: Logging) -> Iterator[tuple[str, Value, str]]:
    yield "level", logging.level, "level"
    yield "consoleLevel", logging.console_level, "console.level"
    yield "consoleStyle", logging.console_style, "console.style"
    yield "redactSensitive", logging.redact, "redact"
    yield "redactPatterns", logging.redact_patterns, "redact_patterns"
    yield "maxFileBytes", logging.max_file_bytes, "max_file"


def _add(
    fields: dict[str, Value],
    origins: dict[str, DocumentPath],
    section: str,
    found: Iterator[tuple[str, Value, str]],
) -> None:
    for path, value, origin in found:
        if value is not None:
            fields[f"{section}.{path}"] = value
            origins[f"{section}.{path}"] = (section, *origin.split("."))
