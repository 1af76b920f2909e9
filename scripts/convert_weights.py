"""vmp convert, from a checkout that need not be installed: src/vmp/commands.convert.py."""

from vmp.cli import friendly
from vmp.commands.convert import main

if __name__ == "__main__":
    with friendly():
        main()
