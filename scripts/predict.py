"""vmp predict, from a checkout that need not be installed: src/vmp/commands/predict.py."""

import sys

from vmp.cli import friendly
from vmp.commands.predict import main

if __name__ == "__main__":
    with friendly():
        sys.exit(main())
