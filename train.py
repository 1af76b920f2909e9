"""Train, or continue, one run: python train.py dataset=motions backbone=tiny vmp.lambda=2.5"""

from pathlib import Path

from vmp.commands.train import main

if __name__ == "__main__":
    main(Path(__file__).parent / "conf")
