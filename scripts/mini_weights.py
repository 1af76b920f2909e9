"""The weights that `weights=motions` loads: trains the small networks and writes their files into the package.

    only='tiny slowfast'   networks of conf/pretraining/motions.yaml; default: all
    launch=warm            single | warm | torchrun=N | 'hydra/launcher=slurm ...'
    dry=1                  list what would be trained, and train nothing
    output=FOLDER          of the runs; default: outputs/pretraining
    data.root=... and the like: overrides for every run, as for train.py

Finished runs are not repeated and half-done ones are continued. `make mini-weights` does the same.
"""

import os
import sys
from pathlib import Path

from vmp.cli import friendly  # first: it sets how Hydra reports errors

with friendly():
    from vmp.paper.arguments import sort_arguments
    from vmp.paper.pretraining import WeightsRequest, make_weights

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "src" / "vmp" / "backbones" / "motions"


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    with friendly():
        own, overrides = sort_arguments(sys.argv[1:], ("only", "launch", "dry", "output"), flags=("dry",))
        os.chdir(ROOT)
        request = WeightsRequest(
            only=tuple(own.get("only", "").split()),
            launch=own.get("launch", ""),
            dry=own.get("dry") == "1",
            output=own.get("output"),
            overrides=overrides,
        )
        code = make_weights(request, ROOT, OUT)
    sys.exit(code)


if __name__ == "__main__":
    main()
