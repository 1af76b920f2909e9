"""vmp upload, from a checkout that need not be installed: src/vmp/commands/upload.py."""

import sys

from vmp.cli import friendly
from vmp.commands.upload import main

if __name__ == "__main__":
    with friendly():
        sys.exit(main())
