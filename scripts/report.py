"""vmp report, from a checkout that need not be installed: src/vmp/commands/report.py."""

from vmp.cli import friendly
from vmp.commands.report import main

if __name__ == "__main__":
    with friendly():
        main()
