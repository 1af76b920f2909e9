"""Compare settings (arms) on datasets (sets), over folds and seeds: python scripts/study.py real [seeds=3] [only=...]

    FILE.yaml                   in place of real: a study of your own (docs/extending.md)
    only='SET ... ARM ...'      sets and arms, as in only='handwash12 none learned' (default: all), and settings of the
                                search, as in only='ut_set2 none lr0.005'
    search=1                    run every arm at every setting of the search (default: at the first one)
    launch=warm                 single | warm | torchrun=N | 'hydra/launcher=slurm ...'
    dry=1                       only list the runs
    data.root=... and the like  overrides for every run, as for train.py

It makes the missing runs, continues unfinished ones, and writes the table, the figure, and the records of all
runs (study_runs.csv, study_clips.csv.gz) to OUTPUT/results; runs recorded in the study's published folder count as
finished. `make real` does the same, and `make publish PROFILE=real` copies the results to docs/results/real.
"""

import os
from pathlib import Path

from vmp.cli import friendly  # first: it sets how Hydra reports errors

with friendly():
    from vmp.errors import ConfigError
    from vmp.paper import arguments
    from vmp.paper.study_command import StudyRequest, run_study

ROOT = Path(__file__).resolve().parent.parent


def read_request(words: list[str]) -> StudyRequest:
    """Raises ConfigError where there is no study's name, or an argument is wrong."""
    if not words or "=" in words[0]:
        raise ConfigError(
            "which study? A file of conf/study without its suffix, such as real, or a file of yours"
        )
    name, *rest = words
    name = os.path.abspath(name) if name.endswith(".yaml") else name
    return arguments.read_request(StudyRequest, rest, name=name)


if __name__ == "__main__":
    arguments.run_script(__doc__, read_request, run_study, ROOT)
