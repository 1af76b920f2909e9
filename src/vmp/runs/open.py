"""Opens a trained model: the only way to load a run's weights outside training."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmp.build import attach_prompts, backbone_spec, build_model, build_prompts
from vmp.config import Config
from vmp.errors import RunError
from vmp.pathways import scalar_name
from vmp.runs.folder import checkpoints_of
from vmp.runs.run import Run, read_run

if TYPE_CHECKING:
    from vmp.backbones import Spec
    from vmp.engine.dist import Processes
    from vmp.model import PromptedClassifier


@dataclass(frozen=True, kw_only=True)
class OpenedRun:
    """A run's model in evaluation mode, and what it takes to use it."""

    run: Run
    config: Config
    spec: "Spec"
    model: "PromptedClassifier"
    checkpoint: str  # its name; empty: only the prompts were opened

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.run.classes)

    @property
    def prompts(self) -> dict[str, Any]:
        """Pathway -> MotionPrompt; empty for a run without prompts."""
        return dict(self.model.prompts.items())


def open_run(
    folder: Path,
    *,
    checkpoint: str | None = None,
    device: Any = "cpu",
    processes: "Processes | None" = None,
) -> OpenedRun:
    """Build the model of a run and load its weights.

    Args:
        checkpoint: "best" or "last"; None takes the one that the run was tested with (trainer.select).
        processes: if given, all of them load the checkpoint that the first one chooses.

    Raises:
        RunError: there is no run or no such checkpoint, the checkpoint is damaged, another version of the project made
            the run, or the processes see different files.
    """
    from vmp.engine import checkpoint as checkpoints
    from vmp.runs.resume import agree_on_checkpoint

    run = read_run(folder)
    config, kept = run.checked_config, checkpoints_of(folder)
    spec = backbone_spec(config)
    select = checkpoint or config.trainer.select
    choose = checkpoints.best if select == "best" else checkpoints.newest
    model = build_model(config, len(run.classes), spec).to(device)
    found = agree_on_checkpoint(kept, choose, processes) if processes else choose(kept)
    if found is None:
        raise RunError(f"{folder}: no such checkpoint in it yet ({select})")
    model.load_state_dict(found.model)
    return OpenedRun(run=run, config=config, spec=spec, model=model.eval(), checkpoint=found.path.name)


def open_prompts(folder: Path) -> OpenedRun:
    """The prompt layers of a finished run with nn.Identity as the backbone.

    Slope and shift come from the run's result, so this needs no checkpoint.

    Raises:
        RunError: there is no run, it is not finished, another version of the project made it, or its result lacks a
            learned scalar.
    """
    import torch

    run = read_run(folder)
    config = run.checked_config
    spec = backbone_spec(config)
    layers = build_prompts(config, spec)
    for pathway, layer in layers.items():
        for name, parameter in layer.power_norm.named_parameters():
            key, scalars = scalar_name(pathway, name), run.result.get("scalars", {})
            if key not in scalars:
                raise RunError(f"{folder}: its result has no learned {key}")
            torch.nn.init.constant_(parameter, scalars[key])
    model = attach_prompts(config, spec, torch.nn.Identity(), layers)
    return OpenedRun(run=run, config=config, spec=spec, model=model.eval(), checkpoint="")
