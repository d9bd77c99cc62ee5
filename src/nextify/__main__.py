"""``python -m nextify``: the command line."""

import sys

from nextify.cli import main

if __name__ == "__main__":
    sys.exit(main())
