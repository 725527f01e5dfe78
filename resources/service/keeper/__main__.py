"""`python -m resources.service.keeper`: see `main`."""

from __future__ import annotations

import sys

from resources.service.keeper import program

# Before the rest is loaded: where the files are exchanged in between, the keeper looks like the older program, and is upgraded
# once more. The other way round it would never be.
_PROGRAM = program.digest()

from resources.service.keeper.main import main  # noqa: E402 - see above

sys.exit(main(sys.argv[1:], _PROGRAM))
