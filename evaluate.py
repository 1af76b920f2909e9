"""Test a finished run: python evaluate.py run=outputs/motions-static/tiny/none/seed0 split=test views=10x3"""

from pathlib import Path

from vmp.commands.evaluate import main

if __name__ == "__main__":
    main(Path(__file__).parent / "conf")
