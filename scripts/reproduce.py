"""A table of the paper, ours beside theirs: python scripts/reproduce.py table=1 [profile=mini] [seeds=3] [dry=1] ...

    only='timesformer mpii'     only cells whose names contain all of these words
    launch=torchrun=4           single | warm | torchrun=N | 'hydra/launcher=slurm hydra.launcher.partition=gpu'
    dry=1                       print the plan, with an estimate from what was measured, and run nothing
    timing=1                    time a few steps of every model in the plan for the estimates, and run nothing
    output=outputs              folder of the runs; results=FOLDER: folder of the tables, else OUTPUT/results
    data.root=... and the like  overrides for every run, as for train.py

It runs what is not finished, continues what is half done, and writes outputs/results/table<n>.md, .csv and .tex. `make
table1 SEEDS=3` does the same; `make publish` copies the files into docs/results.
"""

import os
import sys
from pathlib import Path

from vmp.cli import friendly  # first: it sets how Hydra reports errors

with friendly():
    from vmp.errors import ConfigError
    from vmp.paper.arguments import sort_arguments
    from vmp.paper.reproduce import Request, reproduce

ROOT = Path(__file__).resolve().parent.parent
OWN = ("table", "profile", "seeds", "only", "dry", "timing", "launch", "output", "results")


def read_request(arguments: list[str]) -> Request:
    """Raises:
    ConfigError: an argument is not KEY=VALUE, a key is unknown, or a value is out of range.
    """
    own, others = sort_arguments(arguments, OWN, numbers=("table", "seeds"), flags=("dry", "timing"))
    if "table" not in own:
        raise ConfigError("table=N: which table of the paper, 1 to 8?")
    return Request(
        table=int(own["table"]),
        profile=own.get("profile", "paper"),
        seeds=int(own.get("seeds", 1)),
        only=tuple(own.get("only", "").split()),
        dry=own.get("dry") == "1",
        timing=own.get("timing") == "1",
        launch=own.get("launch", ""),
        output=own.get("output"),
        results=own.get("results"),
        overrides=others,
    )


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    with friendly():
        request = read_request(sys.argv[1:])
        os.chdir(ROOT)
        code = reproduce(request, ROOT)
    sys.exit(code)


if __name__ == "__main__":
    main()
