"""What tests of figures share: the runs that they are drawn from (two_runs in conftest.py), and copies of them."""

import shutil
from pathlib import Path

import yaml
from runs import folder

from vmp.runs.run import Run, read_run


def both(home: Path) -> tuple[Run, Run]:
    """Without prompts, and with them."""
    return tuple(read_run(folder(home / "out", m, "seed0-a")) for m in ("none", "learned_lambda1"))


def changed_copy(run: Run, to: Path, **changes) -> Run:
    """A copy of a run with another config: whole values, or entries of a section."""
    shutil.copytree(run.folder, to)
    config = yaml.safe_load((to / "config.yaml").read_text())
    for key, value in changes.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    (to / "config.yaml").write_text(yaml.safe_dump(config))
    return Run(to)
