"""`python -m gateway run [--config PATH] [--port N]`."""

import sys

from gateway.app import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
