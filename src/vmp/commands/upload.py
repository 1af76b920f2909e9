"""Build one complete wandb run from a run's files: metrics.jsonl, result.json, per_class.csv, predictions.csv.

vmp upload outputs/motions-static/tiny-motions/learned_lambda1/seed0            to wandb's server
vmp upload outputs/motions-static/tiny-motions/learned_lambda1/seed0 --offline  for wandb sync
"""

import sys
from pathlib import Path
from typing import Any

from vmp.cli import parser_of
from vmp.config import Config
from vmp.errors import RunError, UserError
from vmp.runs.folder import load_config
from vmp.runs.records import METRICS_FILE
from vmp.runs.run import read_run
from vmp.tracking import check_tracker
from vmp.tracking.summary import format_error


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="a run's folder")
    parser.add_argument("--offline", action="store_true", help="only write wandb's files")
    own = "default: as in the run's config, else"
    parser.add_argument("--project", help=f"{own} WANDB_PROJECT, else video-motion-prompts")
    parser.add_argument("--entity", help=f"a user or team; {own} WANDB_ENTITY, else the owner of the key")
    parser.add_argument("--group", help=f"{own} WANDB_RUN_GROUP, else dataset/backbone")
    options = parser.parse_args()
    from vmp.tracking.wandb_run import rebuild

    given = {key: value for key in ("project", "entity", "group") if (value := getattr(options, key))}
    failed = False
    for folder in options.runs:
        try:
            config = with_wandb(folder, given)
            check_tracker(config.logger)
            if not read_run(folder).finished:
                print(
                    f"note: {folder} is not finished; this sends the rows that it has so far", file=sys.stderr
                )
            print(rebuild(config, folder, offline=options.offline), flush=True)
        except RunError as error:  # the others may be whole
            print(f"error: {error}", file=sys.stderr)
            failed = True
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{folder}: wandb rejected it ({format_error(error)})") from None
    return 2 if failed else 0


def with_wandb(folder: Path, chosen: dict[str, Any]) -> Config:
    """The run's config, with the wandb logger that it had and these options."""
    raw = read_run(folder).config
    if not (folder / METRICS_FILE).is_file():
        raise RunError(f"{folder}: nothing was logged there (no {METRICS_FILE})")
    kept = raw.get("logger", {})
    kept = kept if kept.get("kind") == "wandb" else {}
    return load_config(folder, {**raw, "logger": {**kept, "kind": "wandb", **chosen}})
