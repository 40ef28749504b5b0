"""`python -m attnc` is the `attnc` command."""

import sys

from attnc.cli import main

if __name__ == "__main__":
    sys.exit(main())
