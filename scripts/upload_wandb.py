"""Build one clean wandb run from a run's files: metrics.jsonl, result.json, per_class.csv, predictions.csv.

python scripts/upload_wandb.py outputs/motions-static/tiny/learned_lambda1/seed0            to wandb's server
python scripts/upload_wandb.py outputs/motions-static/tiny/learned_lambda1/seed0 --offline  to files, for wandb sync
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from vmp.cli import friendly, parser_of
from vmp.config import Config
from vmp.errors import RunError, UserError
from vmp.runs.folder import config_of
from vmp.runs.records import read_config
from vmp.tracking.tracker import first_line


def main() -> None:
    options = _parser().parse_args()
    from vmp.tracking.wandb_run import rebuild

    for folder in options.runs:
        chosen = {key: getattr(options, key) for key in ("project", "entity", "group")}
        config = with_wandb(folder, {key: value for key, value in chosen.items() if value})
        try:
            print(rebuild(config, folder, offline=options.offline))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{folder}: wandb did not take it ({first_line(error)})") from None


def with_wandb(folder: Path, chosen: dict[str, Any]) -> Config:
    """The run's config, with a wandb logger of these options."""
    if not (folder / "config.yaml").is_file() or not (folder / "metrics.jsonl").is_file():
        raise RunError(f"{folder}: no run there (config.yaml and metrics.jsonl)")
    raw = read_config(folder / "config.yaml")
    kept = raw.get("logger", {})
    kept = kept if kept.get("kind") == "wandb" else {}
    return config_of(folder, {**raw, "logger": {**kept, "kind": "wandb", **chosen}})


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder")
    parser.add_argument("--offline", action="store_true", help="write wandb's files only")
    parser.add_argument("--project"), parser.add_argument("--entity"), parser.add_argument("--group")
    return parser


if __name__ == "__main__":
    with friendly():
        main()
        sys.stdout.flush()
