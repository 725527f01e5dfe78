"""What both sides call a certificate and its key by, so that one can be told from the next. Pure."""

from __future__ import annotations

import hashlib

# A chain of several certificates is about 10 kB.
MAX_FILE_BYTES = 1024 * 1024


def files_hash(cert: bytes, key: bytes) -> str:
    """The SHA-256 of the two files' digests, in hexadecimal: another one after any change of either."""
    return hashlib.sha256(hashlib.sha256(cert).digest() + hashlib.sha256(key).digest()).hexdigest()
