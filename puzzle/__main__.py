"""`python -m puzzle` is the console script."""

import sys

from puzzle.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
