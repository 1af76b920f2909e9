"""Train the small networks that `weights=motions` loads, and write their files into the package.

    only='tiny slowfast'   networks of conf/pretraining/motions.yaml; default: all
    launch=warm            single | warm | torchrun=N | 'hydra/launcher=slurm ...'
    dry=1                  only list the runs
    output=FOLDER          folder of the runs (default: outputs/pretraining)
    data.root=... and the like: overrides for every run, as for train.py

Finished runs are not repeated, and unfinished ones are continued. `make mini-weights` does the same.
"""

from functools import partial
from pathlib import Path

from vmp.cli import friendly  # first: it sets how Hydra reports errors

with friendly():
    from vmp.paper.arguments import read_request, run_script
    from vmp.paper.pretraining import WeightsRequest, make_weights

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "src" / "vmp" / "backbones" / "motions"

if __name__ == "__main__":
    run_script(__doc__, partial(read_request, WeightsRequest), partial(make_weights, out=OUT), ROOT)
