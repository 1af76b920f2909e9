"""vmp figure, from a checkout that need not be installed: src/vmp/commands/figure.py."""

import sys

from vmp.cli import friendly
from vmp.commands.figure import main

if __name__ == "__main__":
    with friendly():
        sys.exit(main())
