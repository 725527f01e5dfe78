r"""The environment file of a child: one `NAME=value` on each line, in any bytes that a process can be given. Pure.

In a value a backslash is written `\\`, a line feed `\n`, a carriage return `\r`; nothing else is special: no quotes, no
comments after a value, no expansion. Empty lines and lines that begin with `#` are skipped. NUL cannot stand in an environment.
"""

from __future__ import annotations

_ESCAPES = {b"\\": b"\\", b"n": b"\n", b"r": b"\r"}


def render(values: dict[str, str]) -> bytes:
    """The file for `values`, sorted by name; bytes that are no UTF-8 (surrogates of os.environ) come out as they were.

    Raises:
        ValueError: a name that no environment can hold, or a value with NUL; the text names the name, never the value.
    """
    lines = []
    for name in sorted(values):
        value = values[name]
        if not name or any(char in name for char in "=\0\r\n") or name.startswith("#") or name != name.strip():
            raise ValueError(f"cannot write the environment: {name!r} is no name of a variable")
        if "\0" in value:
            raise ValueError(f"cannot write the environment: the value of {name!r} holds NUL")
        escaped = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        lines.append(f"{name}={escaped}\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def parse(data: bytes) -> dict[str, str]:
    """The values that `render` wrote.

    Raises:
        ValueError: a line without `=`, or an unknown escape; the text names the line by its number, never its content.
    """
    return {
        name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
        for name, value in parse_bytes(data).items()
    }


def parse_bytes(data: bytes) -> dict[bytes, bytes]:
    """The same as a process is given them.

    Raises:
        ValueError: as `parse`.
    """
    values = {}
    # Not splitlines: it also cuts at characters that are part of a value here.
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line or line.startswith(b"#"):
            continue
        name, equals, value = line.partition(b"=")
        if not (name and equals):
            raise ValueError(f"cannot read the environment: line {number} is not NAME=value")
        values[name] = _unescape(value, number) if b"\\" in value else value
    return values


def _unescape(value: bytes, number: int) -> bytes:
    parts = []
    rest = value
    while rest:
        plain, slash, rest = rest.partition(b"\\")
        parts.append(plain)
        if slash:
            if rest[:1] not in _ESCAPES:
                raise ValueError(f"cannot read the environment: unknown escape on line {number}")
            parts.append(_ESCAPES[rest[:1]])
            rest = rest[1:]
    return b"".join(parts)
