"""vmp prepare, from a checkout that need not be installed: src/vmp/commands/prepare.py."""

from vmp.cli import friendly
from vmp.commands.prepare import main

if __name__ == "__main__":
    with friendly():
        main()
