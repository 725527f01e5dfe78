"""What says nothing of the thing that was asked for: this process, or the system, has no more descriptors or memory.

Standard library only: the keeper uses it.
"""

from __future__ import annotations

import errno

_NUMBERS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def is_shortage(err: BaseException) -> bool:
    """Whether `err` says only that this process, or the system, has no more descriptors or memory."""
    return isinstance(err, OSError) and err.errno in _NUMBERS
