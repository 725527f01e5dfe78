"""`python -m resources.service.keeper`: see `main`."""

from __future__ import annotations

import sys

from resources.service.keeper.main import main

sys.exit(main(sys.argv[1:]))
