"""Opens a trained model: the only way to load weights outside training, of a run, a shared folder or published ones."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmp.backbones import zoo
from vmp.build import attach_prompts, build_model, make_backbone
from vmp.config import Config, CustomBackbone, CustomPrompts, Prompts, TimeSformerConfig, check_start
from vmp.errors import ConfigError, RunError, WeightsError
from vmp.invocation import command_line
from vmp.pathways import scalar_name
from vmp.prompts import build_prompts
from vmp.runs.folder import checkpoints_of, load_config
from vmp.runs.heads import classes_of, names_beside, run_of
from vmp.runs.records import CONFIG_FILE, read_classes, read_result
from vmp.runs.run import read_run

if TYPE_CHECKING:
    from vmp.backbones import Spec
    from vmp.engine.dist import Processes
    from vmp.model import PromptedClassifier

MODEL_FILE = "model.safetensors"  # of a shared folder (sharing.py)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A model in evaluation mode, and what it takes to use it."""

    config: Config
    model: "PromptedClassifier"
    classes: tuple[str, ...]
    checkpoint: str = ""  # its name; empty for published weights, or if only the prompts were opened
    notes: tuple[str, ...] = ()  # what a user of the model should know

    @property
    def spec(self) -> "Spec":
        """Input sizes and test protocol of the backbone."""
        return self.config.backbone.spec

    @property
    def prompts(self) -> dict[str, Any]:
        """Pathway -> MotionPrompt; empty without prompts."""
        return dict(self.model.prompts.items())

    def frames_of(self, pathway: str) -> list[int]:
        """Indices, into the frames that the model takes, of those that a pathway's layer sees."""
        of_pathways = self.model.pathway_frames
        if of_pathways is None:
            return list(range(self.spec.frames + (1 if self.prompts else 0)))
        return list(of_pathways.indices.get(pathway, range(of_pathways.frames)))


def open_run(
    folder: Path,
    *,
    checkpoint: str | None = None,
    device: Any = "cpu",
    processes: "Processes | None" = None,
) -> Opened:
    """Build the model of a run and load its weights.

    Args:
        checkpoint: "best" or "last"; None takes the one that the run was tested with (trainer.select).
        processes: if given, all of them load the checkpoint that the first one chooses.

    Raises:
        RunError: there is no run or no such checkpoint, the checkpoint is damaged or does not fit the config and the
            classes, another version of the project made the run, or the processes see different files.
    """
    from vmp.engine import checkpoint as checkpoints
    from vmp.runs.resume import agree_on_checkpoint, load_into

    run = read_run(folder)
    if checkpoint and checkpoint not in ("best", "last"):
        raise RunError(f"checkpoint {checkpoint}: must be best or last")
    config, kept = run.checked_config, checkpoints_of(folder)
    select = checkpoint or config.trainer.select
    choose = checkpoints.best if select == "best" else checkpoints.newest
    model = build_model(config, len(run.classes)).to(device)
    found = agree_on_checkpoint(kept, choose, processes) if processes else choose(kept)
    if found is None and is_shared(folder):
        raise RunError(
            f"{folder}: a shared model, which has no checkpoints; name the run that it was made of. vmp.load, "
            f"{command_line('predict')} and {command_line('export')} open it as it is"
        )
    if found is None:
        raise RunError(f"{folder}: no such checkpoint in it yet ({select})")
    load_into(model, found.model, found.path)
    unfinished = f"{folder} is not finished; these are the weights of its checkpoint {found.path.name}"
    return Opened(
        config=config,
        model=model.eval(),
        classes=tuple(run.classes),
        checkpoint=found.path.name,
        notes=() if run.finished else (unfinished,),
    )


def is_shared(folder: Path) -> bool:
    """Whether the folder is one that `write_shared` has written, rather than a run's."""
    return (folder / MODEL_FILE).is_file() and (folder / CONFIG_FILE).is_file()


def open_shared(folder: Path, *, device: Any = "cpu") -> Opened:
    """Raises:
    RunError: a file is missing or damaged, or the weights are not those of the config's model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from vmp.runs.resume import load_into

    config = load_config(folder)
    classes = read_classes(folder)
    model = build_model(config, len(classes))
    try:
        weights = load_file(folder / MODEL_FILE)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{folder / MODEL_FILE}: cannot be read ({error})") from None
    load_into(model, weights, folder / MODEL_FILE)
    found = read_result(folder)
    note = f"shared model: top-1 {found['top1']:.2f} on {config.name} ({found['split']})"
    return Opened(config=config, model=model.eval().to(device), classes=tuple(classes), notes=(note,))


def open_published(config: Config, *, device: Any = "cpu") -> Opened:
    """The backbone of a config with the head of its weights, published ones or a file; and the prompts, if any.

    Classes are those of FILE.classes.txt or of the published weights; numbers where neither says them.

    Raises:
        ConfigError: the config names no weights, or a run. WeightsError: they cannot be fetched or do not fit, have no
            head, or another number of classes than FILE.classes.txt.
    """
    import torch

    from vmp.backbones.layouts import read
    from vmp.backbones.weights import load_weights, resolve

    b, spec = config.backbone, config.backbone.spec
    if not b.weights:
        known = (
            ", ".join(row.name for row in (*zoo.WEIGHTS, *zoo.SHIPPED) if row.backbone == b.key)
            or "none are public"
        )
        raise ConfigError(
            f"backbone={b.name} without weights: name some ({known}) or a file, as in weights=FILE"
        )
    check_start(config)
    path, row = resolve(b.weights, b.key)
    if row is None and run_of(path):
        raise ConfigError(
            f"weights={path}: a run of this project, which has a config of its own; use run={path}"
        )
    custom = isinstance(b, CustomBackbone)
    with torch.device("cpu" if custom else "meta"):  # whose builder may compute with values
        blank: Any = make_backbone(config, 1)
    head = blank.head_name
    found = read(path, own=blank.state_dict() if custom else ()).state.get(f"{head}.weight")
    if found is None:
        raise WeightsError(f"{path}: no {head}.weight in it, and a network without its head cannot predict")
    names = classes_of(path, row.name if row else "")
    if names and len(names) != len(found):
        raise WeightsError(
            f"{names_beside(path)}: names {len(names)} classes, and the head of {path.name} has {len(found)}"
        )
    model = build_model(config, len(found))
    flip = isinstance(b, TimeSformerConfig) and b.flip_patch_embed
    report = load_weights(model.backbone, path, backbone=b.key, reverse_channels=flip)
    if report.reinitialised:
        raise WeightsError(f"{path}: its head does not fit {b.key}: {', '.join(report.reinitialised)}")
    start = config.vmp.start if isinstance(config.vmp, Prompts) else {}
    taken = report.take_prompts(model, leave=start)
    notes = [f"weights {report.source} ({report.layout})"]
    if row:
        notes[0] += f", trained on {row.dataset}, licence {row.licence}" + (
            f"; {row.note}" if row.note else ""
        )
    if row and (row.frames, row.crop) != (spec.frames, spec.crop):
        notes.append(
            f"the weights were trained on {row.frames} frames of {row.crop} pixels, and are used on {spec.frames} of "
            f"{spec.crop}"
        )
    if left := sorted(set(report.learned) - set(taken)):
        notes.append(f"its prompts ({', '.join(left)}) are not used; vmp=learned puts them in front")
    if not names:
        notes.append(
            f"classes are numbers: nothing says their names. Write them to {names_beside(path)}, one per line"
        )
    return Opened(
        config=config,
        model=model.eval().to(device),
        classes=names or tuple(map(str, range(len(found)))),
        notes=tuple(notes),
    )


def open_prompts(folder: Path) -> Opened:
    """The prompt layers of a finished run with nn.Identity as the backbone.

    Slope and shift come from the run's result, so this needs no checkpoint.

    Raises:
        RunError: there is no run, it is not finished, another version of the project made it, or its result lacks a
            learned scalar.
    """
    import torch

    run = read_run(folder)
    config = run.checked_config
    layers = build_prompts(config)
    scalars_only = all(
        parameter.numel() == 1 for layer in layers.values() for parameter in layer.parameters()
    ) and not any(list(layer.buffers()) for layer in layers.values())
    if isinstance(config.vmp, CustomPrompts) or not scalars_only:
        # more than scalars was learned or kept
        opened = open_shared(folder) if is_shared(folder) else open_run(folder)
        opened.model.backbone = torch.nn.Identity()
        return opened
    for pathway, layer in layers.items():
        for name, parameter in layer.power_norm.named_parameters():
            key, scalars = scalar_name(pathway, name), run.result.get("scalars", {})
            if key not in scalars:
                raise RunError(f"{folder}: its result has no learned {key}")
            torch.nn.init.constant_(parameter, scalars[key])
    model = attach_prompts(config, torch.nn.Identity(), layers)
    return Opened(config=config, model=model.eval(), classes=tuple(run.classes))
