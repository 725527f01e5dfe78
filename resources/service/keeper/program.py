"""Which program a keeper is: a digest of all that it is made of, by which a client sees that another one is installed."""

from __future__ import annotations

import os

# A builtin module of CPython; it is what hashlib would give, whose OpenSSL costs a megabyte.
from _blake2 import blake2b

_DIRECTORY = os.path.dirname(os.path.abspath(__file__))
# Beside this package; tests hold that nothing else of ours is loaded.
_SHARED = ("listeners.py", "proc.py", "shortage.py")
_DIGEST_BYTES = 8


def files() -> list[str]:
    """The source files of the keeper, by name."""
    own = sorted(name for name in os.listdir(_DIRECTORY) if name.endswith(".py"))
    return [f"{_DIRECTORY}/{name}" for name in own] + [f"{os.path.dirname(_DIRECTORY)}/{name}" for name in _SHARED]


def digest() -> str:
    """16 hex digits over the source that is installed at this moment; the same text gives the same, wherever it lies.

    Raises:
        OSError: it cannot be read.
    """
    whole = blake2b(digest_size=_DIGEST_BYTES)
    for path in files():
        with open(path, "rb") as file:
            content = file.read()
        whole.update(f"{os.path.basename(path)} {len(content)}\n".encode())
        whole.update(content)
    return whole.hexdigest()
