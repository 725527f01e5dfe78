"""Where a flush to the disk costs nothing."""

from __future__ import annotations

import os

# A file system in memory, or None where there is none: then the usual directory for temporary files has to do.
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None
