"""Run a table of the paper and write it next to the paper's: python scripts/reproduce.py table=1 [KEY=VALUE ...]

    profile=mini                in miniature (default: paper); seeds=3: runs per cell (default: 1)
    only='timesformer mpii'     only cells whose names contain all of these words
    launch=torchrun=4           single | warm | torchrun=N | 'hydra/launcher=slurm hydra.launcher.partition=gpu'
    dry=1                       only print the plan, with an estimate from earlier measurements
    timing=1                    only time a few steps of every model in the plan, for the estimates
    output=outputs              folder of the runs; results=FOLDER: folder of the tables, else OUTPUT/results
    data.root=... and the like  overrides for every run, as for train.py

It makes the missing runs, continues unfinished ones, and writes outputs/results/table<n>.md, .csv and .tex. `make
table1 SEEDS=3` does the same; `make publish` copies the files into docs/results.
"""

import re
from pathlib import Path

from vmp.cli import friendly  # first: it sets how Hydra reports errors

with friendly():
    from vmp.errors import ConfigError
    from vmp.paper import arguments
    from vmp.paper.reproduce import Request, reproduce

ROOT = Path(__file__).resolve().parent.parent


def read_request(words: list[str]) -> Request:
    """Raises ConfigError where no table is named, or an argument is wrong."""
    if not any(re.match("table=.", word) for word in words):
        raise ConfigError("table=N: which table of the paper, 1 to 8?")
    return arguments.read_request(Request, words)


if __name__ == "__main__":
    arguments.run_script(__doc__, read_request, reproduce, ROOT)
