"""`python -m puzzle.cli` is the console script."""

import sys

from puzzle.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
