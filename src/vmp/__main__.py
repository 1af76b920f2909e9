"""python -m vmp NAME ...: the command vmp, where its folder is not on PATH, and under torchrun."""

from vmp.commands import main

if __name__ == "__main__":
    main()
