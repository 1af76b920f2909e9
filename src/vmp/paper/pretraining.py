"""The weights that this package ships: small networks trained on generated videos (dataset=motions_pretraining).

Notes:
- conf/pretraining/motions.yaml says what is trained; a network is a run like any other, and is continued like one;
- a file holds the run's last weights in half precision, head included; shipped.json beside the files has a row for
  each, which `vmp.backbones.zoo` reads.
"""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vmp.errors import ConfigError, WeightsError
from vmp.files import read_json, replacing, write_json
from vmp.jobs.launch import parse_launch
from vmp.paper.planning import PlannedRun, Planner
from vmp.paper.reproduce import run_missing
from vmp.paper.tables import PaperSection, RunSpec, conf_folder, load_section
from vmp.runs.folder import check_same_run
from vmp.runs.run import Run

WEIGHTS = "motions"
MOST_BYTES = 1_500_000
# keys of `backbone` that give a network's size; `size` of X3D and TimeSformer is part of its key
SIZES = ("width", "blocks", "beta_inv", "patch", "dim", "depth", "heads")


class Pretraining(PaperSection):
    """networks: name of a backbone -> overrides. again: those that are trained a second time, from their first weights
    with a new optimizer and schedule -> what differs from the first time."""

    output: str
    launch: str
    overrides: tuple[str, ...]
    networks: dict[str, tuple[str, ...]]
    again: dict[str, tuple[str, ...]]

    def spec(self, name: str) -> RunSpec:
        """The run whose weights are shipped."""
        first = RunSpec("motions-pretraining", name, (*self.overrides, *self.networks[name]))
        if name not in self.again:
            return first
        return replace(first, overrides=(*first.overrides, *self.again[name]), tag="again", start=first)


@dataclass(frozen=True)
class WeightsRequest:
    """The options of scripts/mini_weights.py. output: folder of the runs, None for that of conf/pretraining."""

    only: tuple[str, ...] = ()
    launch: str = ""
    dry: bool = False
    output: str | None = None
    overrides: tuple[str, ...] = ()


def make_weights(request: WeightsRequest, out: Path) -> int:
    """Train what is not trained and write the files of all that is to the folder `out`; the exit code."""
    pretraining: Pretraining = load_section(conf_folder() / "pretraining" / "motions.yaml", Pretraining)
    if unknown := [name for name in request.only if name not in pretraining.networks]:
        raise ConfigError(
            f"only={' '.join(request.only)}: no network {', '.join(unknown)}; there are "
            f"{', '.join(pretraining.networks)}"
        )
    output = request.output or pretraining.output
    planner = Planner(output=output, extra=request.overrides)
    runs = {
        name: planner.run(pretraining.spec(name), 0)
        for name in pretraining.networks
        if not request.only or name in request.only
    }
    every = [(name, run) for name, last in runs.items() for run in (*last.needs, last)]
    for _, run in every:
        check_same_run(run.folder, run.raw)
    if request.dry:
        for name, run in every:
            print(f"{name:24} {run.state:10} {run.folder}")
        return 0
    launch = parse_launch(request.launch or pretraining.launch)
    left = run_missing([run for _, run in every], [], launch, Path(output))
    for name, run in runs.items():
        if run.finished:
            command = shlex.join(["python", "scripts/mini_weights.py", f"only={name}", *request.overrides])
            print(write_weights(name, run, out, command=command))
    return 1 if left else 0


def write_weights(name: str, run: PlannedRun, out: Path, *, command: str) -> str:
    """Write the file of a finished run and its row; a line that says what it is.

    Raises:
        WeightsError: the file would be larger than a shipped one may be.
    """
    from safetensors.torch import save

    from vmp.backbones.layouts import read
    from vmp.transfer import sha256_of

    config, result = run.config, Run(run.folder).result
    state = {k: v.half().contiguous() for k, v in read(run.folder).state.items() if v.is_floating_point()}
    content = save(state, {"format": "pt", "vmp_backbone": config.backbone.key})
    if len(content) > MOST_BYTES:
        raise WeightsError(
            f"{name}: {len(content):,} bytes, more than the {MOST_BYTES:,} that a shipped file may have"
        )
    file = out / f"{config.backbone.key}-{WEIGHTS}.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_bytes(content)
    spec = config.backbone.spec
    row: dict[str, Any] = {
        "backbone": config.backbone.key,
        "name": WEIGHTS,
        "file": file.name,
        "sha256": sha256_of(file),
        "options": {
            key: value for key in SIZES if (value := getattr(config.backbone, key, None)) is not None
        },
        "classes": len(Run(run.folder).classes),
        "frames": spec.frames,
        "crop": spec.crop,
        "top1": round(result["top1"], 1),
        "command": command,
        "commit": result.get("commit"),
    }
    _put(out / "shipped.json", row)
    return f"-> {file}: {len(content):,} bytes, top-1 {row['top1']} of {row['classes']} classes"


def _put(path: Path, row: dict[str, Any]) -> None:
    """Write the row into the list, in place of the one for the same weights."""
    rows = read_json(path) if path.is_file() else []
    kept = [r for r in rows if (r["backbone"], r["name"]) != (row["backbone"], row["name"])]
    write_json(path, sorted([*kept, row], key=lambda r: (r["backbone"], r["name"])))
