"""vmp compare, from a checkout that need not be installed: src/vmp/commands/compare.py."""

from vmp.cli import friendly
from vmp.commands.compare import main

if __name__ == "__main__":
    with friendly():
        main()
