"""The paper's figures by number: what each needs, and where it is drawn.

Notable here:
- a figure of runs takes those that are named, or looks for fitting ones below `outputs`: first of the paper's dataset,
  else of any, and the title says which;
- where there are none it says which commands make them (MissingRuns);
- without a video, clips are of the runs' own dataset, or embedded ones, which are drawn anew and need no file.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vmp.errors import UserError, shortlist
from vmp.runs.records import is_run
from vmp.runs.run import Run, read_run, readable_runs

if TYPE_CHECKING:
    from vmp.layer import MotionPrompt

KEY = "D: orange brighter, blue darker; attention: white 0, dark red 1"


def key(layer: "MotionPrompt") -> str:
    """What the colours of a figure mean."""
    from vmp.figures.panels import nothing_is

    return f"{KEY}; prompt: {nothing_is(layer)} where it is 0"


class MissingRuns(UserError):
    """A figure whose runs are not there."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What may be asked of a figure.

    runs: named ones, in order; none: look below `outputs`. found: they were found below a folder, to choose from.
    slope, shift: of the layer where no run is named. start, stride, frames: of the videos; frames are prompts drawn, a
    row. classes: to draw, or to take a clip of. clips: of the test split, for features.
    """

    runs: tuple[Run, ...] = ()
    found: bool = False
    outputs: Path = Path("outputs")
    videos: tuple[Path, ...] = ()
    start: int = 0
    stride: int = 2
    frames: int = 6
    slope: float = 11.0
    shift: float = 0.1
    classes: tuple[str, ...] = ()
    clips: int = 8


@dataclass(frozen=True)
class Paper:
    """What the paper draws in a figure, to look for runs and to say which to make."""

    dataset: str
    backbone: str = "timesformer"
    weights: str = "_k600"
    action: str = ""
    weight: float = 0.0  # lambda of the run with regularisation

    @property
    def experiment(self) -> str:
        return f"experiment={self.dataset}_{self.backbone}{self.weights if self.backbone == 'timesformer' else ''}"


PAPER: dict[int, Paper] = {
    4: Paper("finegym", weight=2.5),
    6: Paper("finegym", action="uneven bar", weight=2.5),
    7: Paper("mpii_cooking2"),
    8: Paper("finegym", "x3d"),
    9: Paper("finegym", "slowfast"),
    10: Paper("mpii_cooking2"),
    11: Paper("mpii_cooking2"),
    12: Paper("mpii_cooking2", weight=0.1),
    13: Paper("mpii_cooking2", action="shake", weight=0.1),
    14: Paper("mpii_cooking2", action="throw in garbage", weight=0.1),
    15: Paper("hmdb51", action="pour", weight=0.001),
    16: Paper("hmdb51", action="pushup", weight=0.001),
}
MINIATURE = {
    "finegym": "moving",
    "mpii_cooking2": "static",
    "hmdb51": "noisy",
}  # names in conf/table/profile/mini.yaml
OBJECT_CENTRIC = ("cut dice", "gather", "slice", "wash")  # Fig. 10


def draw(number: int, wanted: Wanted) -> Any:
    """Figure `number` as a matplotlib Figure; draw and save it under `canvas.style()`.

    Raises:
        MissingRuns: it needs runs that are not there.
        UserError: no such figure, or a video or run that cannot be used.
    """
    if number not in FIGURES:
        raise UserError(
            f"figure {number}: must be one of {', '.join(map(str, FIGURES))} (2 is a drawing of the layer)"
        )
    from vmp.figures import canvas

    with canvas.style():
        return FIGURES[number](number, wanted)


# --- clips and runs ------------------------------------------------------------------------------------------------


def named_runs(names: Iterable[str]) -> tuple[tuple[Run, ...], bool]:
    """The runs of folders, and whether some were found below a folder that is not a run itself.

    Raises:
        RunError: a folder without runs.
    """
    runs: list[Run] = []
    found = False
    for name in names:
        folder = Path(name)
        below = [] if is_run(folder) else list(readable_runs(folder))
        found = found or bool(below)
        runs += below or [read_run(folder)]
    return tuple(runs), found


def look_clips(wanted: Wanted, *, count: int) -> dict[str, np.ndarray]:
    """Name -> (T, H, W, 3) uint8: the videos asked for; else a natural one, where it is installed, and the embedded
    ones of both cameras."""
    from vmp.figures.looking import embedded_clip, natural_clip, read_clip

    if wanted.videos:
        read = {"start": wanted.start, "stride": wanted.stride, "count": count}
        return {video.name: read_clip(video, **read) for video in wanted.videos}
    clips = {}
    if natural := natural_clip():
        clips["street (moving camera)"] = read_clip(natural, start=200, stride=wanted.stride, count=count)
    for camera in ("static", "moving"):
        frames, name = embedded_clip(camera, count=count, stride=wanted.stride)
        clips[name] = frames
    return clips


def look_layer(wanted: Wanted) -> "MotionPrompt":
    """Of the run that is named, its first pathway's; else with the slope and shift asked for."""
    from vmp.figures.looking import layer_with, layers_of

    if wanted.runs:
        return next(iter(layers_of(wanted.runs[0]).values()))
    return layer_with(wanted.slope, wanted.shift)


def run_clip(run: Run, wanted: Wanted, action: str) -> tuple[str, np.ndarray]:
    """Name and frames (T + 1, H, W, 3) uint8: of the video asked for, else of the run's test split, of a class asked
    for, the paper's, or the first there is."""
    from vmp.build import find_splits
    from vmp.data.decode import read_frames
    from vmp.figures.looking import embedded_clip

    count = wanted.frames + 1
    if wanted.videos:
        return next(iter(look_clips(wanted, count=count).items()))
    config = run.checked_config
    if config.dataset.kind == "motions":
        frames, name = embedded_clip(config.dataset.camera, count=count)
        return name, frames
    _, manifest = find_splits(config, progress=False).tested
    names = [name.replace("_", " ").lower() for name in manifest.classes]
    usable = [clip for clip in manifest.clips if clip.status == "ok" and clip.length > 1]
    for word in (*wanted.classes, action):
        chosen = [clip for clip in usable if names[clip.label] == word.replace("_", " ").lower()]
        if chosen and word:
            break
    else:
        chosen = usable
    if not chosen:
        raise UserError(f"{manifest.path}: no clip to draw")
    clip = chosen[0]
    stride = max(1, min(wanted.stride, (clip.length - 1) // wanted.frames))
    at = clip.start + stride * np.arange(min(count, clip.length))
    return f"{names[clip.label]}, {clip.id}", read_frames(manifest.file(clip), at, short_side=160)


def label(run: Run) -> str:
    """`learned_lambda2.5/seed0`: what a run is, but for its dataset and backbone."""
    return "/".join(run.folder.parts[-2:])


def about(run: Run) -> str:
    return f"{run.config['name']}, {run.config['backbone']['name']}"


def regularised_pair(number: int, wanted: Wanted) -> tuple[Run, Run]:
    """A run without the regulariser and one with it, alike otherwise."""
    from vmp.figures.curves import same_but_lambda

    paper = PAPER[number]
    if len(wanted.runs) == 2 and not wanted.found:
        a, b = sorted(wanted.runs, key=_weight)
        return a, b
    groups = []
    for group in same_but_lambda([run for run in _candidates(wanted, paper) if run.finished]):
        ordered = sorted(group, key=_weight)
        if len(ordered) > 1 and _weight(ordered[0]) == 0 < _weight(ordered[-1]):
            near = min(ordered[1:], key=lambda run: abs(_weight(run) - paper.weight))
            groups.append((ordered[0], near))
    if not groups:
        raise missing(
            number,
            "two finished runs that differ in λ only, one with λ = 0",
            [f"{paper.experiment} vmp.lambda={weight:g}" for weight in (0, paper.weight)],
            [f"dataset.camera=moving vmp.lambda={weight:g}" for weight in (0, 2.5)],
        )
    return groups[0]


def baseline_pairs(number: int, wanted: Wanted) -> list[tuple[Run, Run]]:
    """A baseline without prompts, with each of the runs that have them and are alike otherwise; of several lambdas the
    run with the best top-1, a placement each."""
    paper = PAPER[number]
    if len(wanted.runs) > 1 and not wanted.found:
        return [(wanted.runs[0], run) for run in wanted.runs[1:]]
    finished = [run for run in _candidates(wanted, paper) if run.finished]
    groups: dict[str, list[Run]] = {}
    for run in finished:
        same: dict[str, Any] = {key: run.config.get(key) for key in ("name", "backbone", "seed", "tag")}
        same["epochs"] = run.config["trainer"].get("epochs")
        groups.setdefault(repr(same), []).append(run)
    for group in groups.values():
        plain = [run for run in group if run.config["vmp"]["kind"] == "none"]
        prompted = [run for run in group if run.config["vmp"]["kind"] == "learned"]
        if plain and prompted:
            best: dict[str, Run] = {}
            for run in prompted:
                v = run.config["vmp"]
                of = repr([v.get(key) for key in ("name", "placement", "split")])
                if of not in best or run.result["top1"] > best[of].result["top1"]:
                    best[of] = run
            return [(plain[0], run) for run in best.values()]
    raise missing(
        number,
        "a finished run without prompts and one with them, alike otherwise",
        [f"{paper.experiment} {method}" for method in ("vmp=none", "vmp=learned")],
        ["vmp=none", "vmp=learned"],
    )


def missing(number: int, what: str, commands: Sequence[str], small: Sequence[str]) -> MissingRuns:
    return MissingRuns(
        f"figure {number} needs {what}. The paper's:\n"
        + shortlist([f"python train.py {command}" for command in commands])
        + "\nThe same in miniature, on the embedded dataset, in minutes:\n"
        + shortlist([f"python train.py {command}" for command in small])
        + "\nOr name runs that are elsewhere: runs=FOLDER,FOLDER"
    )


def _candidates(wanted: Wanted, paper: Paper) -> list[Run]:
    """Runs to choose from, those of the paper's dataset and backbone first."""
    runs = list(wanted.runs) or (list(readable_runs(wanted.outputs)) if wanted.outputs.is_dir() else [])

    def distance(run: Run) -> tuple[bool, bool]:
        config = run.config
        known = str(config["name"]).startswith((paper.dataset, MINIATURE[paper.dataset]))
        return not known, config["backbone"]["name"] != paper.backbone

    return sorted(runs, key=distance)


def _weight(run: Run) -> float:
    return float(run.config["vmp"]["lambda"])


# --- the figures ---------------------------------------------------------------------------------------------------


def _blind(number: int, wanted: Wanted) -> Any:
    """1: frame, difference, time-colour reordering, Taylor frame; attention and prompt beside them."""
    from vmp.figures import blind
    from vmp.figures.family import wrapped
    from vmp.figures.looking import describe, to_clip
    from vmp.figures.panels import draw_grid, panel_rows

    layer = look_layer(wanted)
    rows, names = [], []
    for name, frames in look_clips(wanted, count=blind.TERMS + 3).items():
        if len(frames) < blind.TERMS + 3:
            raise UserError(
                f"{name}: figure 1 takes {blind.TERMS + 3} frames, and {len(frames)} are left there"
            )
        _, difference, attention, prompt = (row[0] for row in panel_rows(to_clip(frames[:2]), layer))
        taylor = blind.show_taylor(blind.taylor_frame(frames))
        rows.append(
            [frames[1], difference, blind.time_color_reordering(frames)[0], taylor, attention, prompt]
        )
        names.append(wrapped(name))
    columns = ("frame", "difference D", "time-colour\nreordering", "Taylor frame", "attention f(D)", "prompt")
    return draw_grid(
        rows,
        rows=names,
        columns=columns,
        title=f"{describe(layer)}; {key(layer)}",
        width=1.6,
    )


def _family(number: int, wanted: Wanted) -> Any:
    """3: power normalisation functions, a(m), b(n), a surface before and after."""
    from vmp.figures.family import draw_family
    from vmp.figures.looking import describe

    slope, shift = wanted.slope, wanted.shift
    if wanted.runs:
        scalars = look_layer(wanted).scalars()
        if "slope" not in scalars:
            raise UserError(f"{wanted.runs[0].folder}: {describe(look_layer(wanted))} has no slope and shift")
        slope, shift = (round(float(scalars[key]), 2) for key in ("slope", "shift"))
    clips = list(look_clips(wanted, count=4).values())
    frames = clips[0] if wanted.videos else clips[-2]
    return draw_family(frames, slope=slope, shift=shift)


def _curves(number: int, wanted: Wanted) -> Any:
    """4: slope and shift against epochs by λ; learned pairs."""
    from vmp.figures.curves import by_lambda, draw_slopes_and_shifts

    paper = PAPER[number]
    runs = _candidates(wanted, paper)
    if not by_lambda(runs):
        weights = (0, 0.5, 2.5, 5, 10)
        raise missing(
            number,
            "runs with learned prompts that differ in λ",
            [f"{paper.experiment} vmp.lambda={weight:g}" for weight in weights],
            [f"dataset.camera=moving vmp.lambda={weight:g}" for weight in weights],
        )
    return draw_slopes_and_shifts(runs)


def _pairs_of_frames(number: int, wanted: Wanted) -> Any:
    """5: two frames in a row, their difference, attention and prompt; a row a clip."""
    from vmp.figures.family import wrapped
    from vmp.figures.looking import describe, to_clip
    from vmp.figures.panels import draw_grid, panel_rows

    layer = look_layer(wanted)
    rows, names = [], []
    for name, frames in look_clips(wanted, count=2).items():
        _, difference, attention, prompt = (row[0] for row in panel_rows(to_clip(frames), layer))
        rows.append([frames[0], frames[1], difference, attention, prompt])
        names.append(wrapped(name))
    columns = ("frame t", "frame t+1", "difference D", "attention f(D)", "prompt")
    return draw_grid(
        rows,
        rows=names,
        columns=columns,
        title=f"{describe(layer)}; {key(layer)}",
        width=1.7,
    )


def _regularisation(number: int, wanted: Wanted) -> Any:
    """6, 12-16: attention and prompts of a clip without and with the regulariser."""
    from vmp.figures.looking import describe, layers_of, to_clip
    from vmp.figures.panels import draw_grid, panel_rows

    pair = regularised_pair(number, wanted)
    name, frames = run_clip(pair[1], wanted, PAPER[number].action)
    rows: list[list[np.ndarray | None]] = []
    names: list[str] = []
    for run in pair:
        layer = next(iter(layers_of(run).values()))
        frame, difference, attention, prompt = panel_rows(to_clip(frames), layer)
        if not rows:
            rows, names = [list(frame), list(difference)], ["frame", "difference D"]
        rows += [list(prompt), list(attention)]
        learned = describe(layer).replace(", ", "\n")
        names += [f"prompt, λ = {_weight(run):g}", f"attention\n{learned}"]
    return draw_grid(
        rows,
        rows=names,
        title=f"{about(pair[1])}: {name}. {key(layer)}",
        width=1.05,
    )


def _layers(number: int, wanted: Wanted) -> Any:
    """7-9: similarity of layers, of runs without prompts to runs with them."""
    from vmp.figures.similarity import compare_layers, draw_layers

    pairs = baseline_pairs(number, wanted)
    found: dict[str, Mapping[str, Mapping[str, float]]] = {}
    for a, b in pairs:
        found[f"{label(a)} vs. {label(b)}"] = compare_layers(a, b, clips=wanted.clips)
    return draw_layers(found, title=f"{about(pairs[0][0])}; features over {wanted.clips} test clips")


def _per_class(number: int, wanted: Wanted) -> Any:
    """10, 11: accuracy by class of two runs; 10: of a few classes."""
    from vmp.figures.paired import class_accuracies, draw_class_accuracies

    a, b = baseline_pairs(number, wanted)[0]
    before, after = class_accuracies(a), class_accuracies(b)
    chosen = [name for name in before if name in after]
    if wanted.classes:
        chosen = [
            name for name in chosen if name.replace("_", " ") in [c.replace("_", " ") for c in wanted.classes]
        ]
        if not chosen:
            raise UserError(f"--classes {','.join(wanted.classes)}: {a.folder} was tested on none of them")
    elif number == 10:
        paper = [name for name in chosen if name.replace("_", " ").lower() in OBJECT_CENTRIC]
        chosen = paper or sorted(chosen, key=lambda name: -abs(after[name] - before[name]))[:4]
    return draw_class_accuracies(
        {name: before[name] for name in chosen}, after, labels=(label(a), label(b)), title=about(a)
    )


def _modulation(number: int, wanted: Wanted) -> Any:
    """17: power normalisation functions side by side, maps and surfaces."""
    from vmp.figures.family import draw_modulation

    return draw_modulation(look_clips(wanted, count=2), look_layer(wanted))


def _family_prompts(number: int, wanted: Wanted) -> Any:
    """18: power normalisation functions side by side, attention and prompts."""
    from vmp.figures.family import draw_prompts_of_family

    return draw_prompts_of_family(look_clips(wanted, count=2), look_layer(wanted))


FIGURES: dict[int, Callable[[int, Wanted], Any]] = {
    1: _blind,
    3: _family,
    4: _curves,
    5: _pairs_of_frames,
    6: _regularisation,
    **dict.fromkeys((7, 8, 9), _layers),
    **dict.fromkeys((10, 11), _per_class),
    **dict.fromkeys((12, 13, 14, 15, 16), _regularisation),
    17: _modulation,
    18: _family_prompts,
}
