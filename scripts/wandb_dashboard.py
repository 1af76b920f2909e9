"""Build a wandb workspace for slope and shift: the curves and pairs of the paper's Fig. 4, and accuracy against λ.

examples:
  python scripts/wandb_dashboard.py --json dashboard.json          write it to a file; needs no login and no network
  python scripts/wandb_dashboard.py --entity TEAM                  add it to the project video-motion-prompts
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmp.cli import friendly, parser_of
from vmp.errors import UserError
from vmp.files import write_json
from vmp.tracking.wandb_run import PROJECT, has_key

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

NAME = "Slope and shift"
PATHWAYS = ("", "slow/", "fast/")  # "" for backbones without pathways
LAMBDA, DATASET, MODEL, SEED = "vmp.lambda", "about.dataset", "about.model", "seed"  # keys of a run's config
MEAN_AND_RANGE: Any = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}  # of the runs in a group


def main() -> None:
    parser = parser_of(__doc__)
    to_file = "write the workspace to this file (-: print it) and send nothing"
    parser.add_argument("--json", type=Path, help=to_file)
    parser.add_argument("--entity", help="a user or team; default: the owner of the key")
    parser.add_argument("--project", default=PROJECT, help=f"default: {PROJECT}")
    options = parser.parse_args()
    if find_spec("wandb_workspaces") is None:
        raise UserError(
            "this needs the package wandb-workspaces: run pip install '.[wandb-workspaces]' in the repository's folder"
        )
    if options.json:
        spec = as_json(workspace(options.entity or "ENTITY", options.project))
        if str(options.json) == "-":
            print(json.dumps(spec, indent=1, ensure_ascii=False))
        else:
            write_json(options.json, spec)
            print(options.json)
        return
    print(push(options.entity, options.project))


def workspace(entity: str, project: str) -> "Workspace":
    """A workspace with sections a to d of Fig. 4, then accuracies."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    slopes, shifts = ([f"vmp/{pathway}{name}" for pathway in PATHWAYS] for name in ("slope", "shift"))

    def curves(title: str, y: list[Any], *, by: str) -> Any:
        return wr.LinePlot(
            title=title,
            x="epoch",
            y=y,
            title_x="epoch",
            groupby=wr.Config(by),
            max_runs_to_show=100,
            **MEAN_AND_RANGE,
        )

    def pairs(title: str, pathway: str, *, by: str) -> Any:
        return wr.ScatterPlot(
            title=title,
            x=wr.SummaryMetric(f"vmp/{pathway}slope"),
            y=wr.SummaryMetric(f"vmp/{pathway}shift"),
            legend_template=f"${{config:{by}}} λ ${{config:{LAMBDA}}} seed ${{config:{SEED}}}",
        )

    def learned(by: str, what: str) -> list[Any]:
        found = [curves(f"slope a by {what}", slopes, by=by), curves(f"shift b by {what}", shifts, by=by)]
        for pathway in PATHWAYS:
            of = f", {pathway[:-1]} pathway" if pathway else ""
            found.append(pairs(f"learned (a, b) by {what}{of}", pathway, by=by))
        return found

    def against(title: str, metric: str) -> Any:
        return wr.ScatterPlot(
            title=title,
            x=wr.Config(LAMBDA),
            y=wr.SummaryMetric(metric),
            legend_template=f"${{config:{DATASET}}} ${{config:{MODEL}}} seed ${{config:{SEED}}}",
        )

    def by_backbone(title: str, metric: str) -> Any:
        return wr.BarPlot(title=title, metrics=[metric], groupby=wr.Config(MODEL), **MEAN_AND_RANGE)

    sections = {
        "Slope and shift by λ (Fig. 4a, 4b)": [
            curves("slope a by λ", slopes, by=LAMBDA),
            curves("shift b by λ", shifts, by=LAMBDA),
            curves("variation V on val by λ", ["val/variation"], by=LAMBDA),
        ],
        "Learned pairs by dataset (Fig. 4c)": learned(DATASET, "dataset"),
        "Learned pairs by backbone (Fig. 4d)": learned(MODEL, "backbone"),
        "Accuracy against λ": [
            against("top-1 against λ", "result/top1"),
            against("top-5 against λ", "result/top5"),
            against("mean class accuracy against λ", "result/mean_class"),
        ],
        "Top-1 and top-5": [
            curves("top-1 on val by λ", ["val/top1"], by=LAMBDA),
            curves("top-5 on val by λ", ["val/top5"], by=LAMBDA),
            by_backbone("top-1 by backbone", "result/top1"),
            by_backbone("top-5 by backbone", "result/top5"),
        ],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        settings=ws.WorkspaceSettings(x_axis="epoch", max_runs=100),
        runset_settings=ws.RunsetSettings(
            pinned_columns=[
                *(f"config:{key}" for key in (DATASET, MODEL, LAMBDA, SEED)),
                *(f"summary:{key}" for key in ("result/top1", "result/top5", "vmp/slope", "vmp/shift")),
            ]
        ),
    )


def as_json(built: "Workspace") -> dict[str, Any]:
    """What would be sent. The model of a workspace is private in wandb-workspaces, hence the extra's upper bound."""
    return json.loads(built._to_model().model_dump_json(by_alias=True, exclude_none=True))


def push(entity: str | None, project: str) -> str:
    """Save the workspace on the server and return its address.

    Raises:
        UserError: there is no API key, or the server rejects the workspace.
    """
    import wandb

    settings = wandb.setup(wandb.Settings(silent=True)).settings
    if not has_key(settings):
        raise UserError(
            f"no API key for {settings.base_url}: run `wandb login` first, or write the workspace with --json FILE"
        )
    try:
        entity = entity or str(wandb.Api(timeout=20).default_entity)
        return str(workspace(entity, project).save().url)
    except Exception as error:
        raise UserError(
            f"{settings.base_url} rejected the workspace: {type(error).__name__}: {error}"
        ) from None


if __name__ == "__main__":
    with friendly():
        main()
        sys.stdout.flush()
