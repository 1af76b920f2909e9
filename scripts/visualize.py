"""vmp visualize, from a checkout that need not be installed: src/vmp/commands/visualize.py."""

from vmp.cli import friendly
from vmp.commands.visualize import main

if __name__ == "__main__":
    with friendly():
        main()
