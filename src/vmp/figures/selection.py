"""Chooses the runs and clips of a figure: those that the user names, or suitable ones that are there.

Notes:
- without named runs, those below `outputs` are searched: on the paper's dataset first, then on any;
- where there are none, MissingRuns says which commands make them;
- without a video, clips come from the run's own dataset, at its stride, or are generated on the spot;
- a layer is that of a run on videos, if there is one and neither slope nor shift is given.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vmp.data.decode import read_frames
from vmp.datasets import find_splits
from vmp.errors import UserError, shortlist
from vmp.figures.layers import layer_with, layers_of, of_papers_layer
from vmp.invocation import command_line
from vmp.runs.folder import matters_but_for
from vmp.runs.records import is_run
from vmp.runs.run import Run, read_run, readable_runs

if TYPE_CHECKING:
    from vmp.layer import MotionPrompt

SLOPE, SHIFT = 11.0, 0.1  # of a layer that no run has learned


class MissingRuns(UserError):
    """A figure whose runs do not exist yet."""


@dataclass(frozen=True, kw_only=True)
class FigureOptions:
    """What the user asks of a figure.

    runs: the named ones, in order; if there are none, runs below `outputs` are used. found: the runs were found below a
    folder, to choose from. slope, shift: of a layer, instead of a run's. start, stride: of the videos; None: 2, or the
    run's own. frames: prompts drawn in a row. classes: to draw, or to take a clip of. clips: of the test split, for
    features.
    """

    runs: tuple[Run, ...] = ()
    found: bool = False
    outputs: Path = Path("outputs")
    videos: Sequence[Path] = ()
    start: int = 0
    stride: int | None = None
    frames: int = 6
    slope: float | None = None
    shift: float | None = None
    classes: tuple[str, ...] = ()
    clips: int = 8

    @cached_property
    def all_runs(self) -> list[Run]:
        """Those named, or else those below `outputs`."""
        return list(self.runs or (readable_runs(self.outputs) if self.outputs.is_dir() else ()))


@dataclass(frozen=True)
class PaperFigure:
    """What the paper draws in a figure of runs: which runs to look for, and which to make."""

    dataset: str
    backbone: str = "timesformer"
    action: str = ""
    weight: float = 0.0  # lambda of the run with regularisation

    @property
    def experiment(self) -> str:
        weights = "_k600" if self.backbone == "timesformer" else ""
        return f"experiment={self.dataset}_{self.backbone}{weights}"


PAPER: dict[int, PaperFigure] = {
    4: PaperFigure("finegym", weight=2.5),
    6: PaperFigure("finegym", action="uneven bar", weight=2.5),
    7: PaperFigure("mpii_cooking2"),
    8: PaperFigure("finegym", "x3d"),
    9: PaperFigure("finegym", "slowfast"),
    10: PaperFigure("mpii_cooking2"),
    11: PaperFigure("mpii_cooking2"),
    12: PaperFigure("mpii_cooking2", weight=0.1),
    13: PaperFigure("mpii_cooking2", action="shake", weight=0.1),
    14: PaperFigure("mpii_cooking2", action="throw in garbage", weight=0.1),
    15: PaperFigure("hmdb51", action="pour", weight=0.001),
    16: PaperFigure("hmdb51", action="pushup", weight=0.001),
}
# as in conf/table/profile/mini.yaml
MINIATURE = {"finegym": "moving", "mpii_cooking2": "static", "hmdb51": "noisy"}
# datasets of Fig. 8 and 9, and what stands for them in miniature
LAYERS_ON = {"finegym", "mpii_cooking2", "hmdb51-split1", "moving", "static", "noisy-split1"}
SHOWN = 3  # clips of a run in a figure of several clips
OBJECT_CENTRIC = ("cut dice", "gather", "slice", "wash")  # the classes of Fig. 10


# --- clips and layers ----------------------------------------------------------------------------------------------


def choose_clips(options: FigureOptions, *, count: int, run: Run | None = None) -> dict[str, np.ndarray]:
    """Name -> (T, H, W, 3) uint8: the given videos, or clips of the run's tested split if it has seen videos; else a
    natural one, where it is installed, and a generated one with a static and one with a moving camera."""
    from vmp.figures.clips import generated_clip, natural_clip, read_clip

    stride = options.stride or 2
    if options.videos:
        chosen = {"start": options.start, "stride": stride, "count": count}
        return {video.name: read_clip(video, **chosen) for video in options.videos}
    if run and shows_videos(run):
        names = options.classes or run.classes[:: max(1, len(run.classes) // SHOWN)][:SHOWN]
        found = [_clip_of(run, options, [name], count=count) for name in names]
        return {name: frames for name, _, frames in found}
    clips = {}
    if natural := natural_clip():
        clips["street (moving camera)"] = read_clip(natural, start=200, stride=stride, count=count)
    for camera in ("static", "moving"):
        frames, name = generated_clip(camera, count=count, stride=stride)
        clips[name] = frames
    return clips


def choose_clip_of(run: Run, options: FigureOptions, action: str) -> tuple[str, np.ndarray]:
    """Name and frames (T + 1, H, W, 3) uint8 of the first video given, or of a clip of the run's tested split: of a
    class in the options, of the paper's action, or the first there is."""
    from vmp.figures.clips import generated_clip

    count = options.frames + 1
    if options.videos:
        return next(iter(choose_clips(options, count=count).items()))
    dataset = run.checked_config.dataset
    if dataset.kind == "motions":
        frames, name = generated_clip(dataset.camera, count=count)
        return name, frames
    name, clip, frames = _clip_of(run, options, [*options.classes, action], count=count)
    return f"{name}, {clip}", frames


def _clip_of(
    run: Run, options: FigureOptions, classes: Sequence[str], *, count: int
) -> tuple[str, str, np.ndarray]:
    """Class, id and at most `count` frames (T, H, W, 3) uint8, from its middle, of a clip of the run's tested split, of
    the first of these classes that there is."""

    _, manifest = find_splits(run.checked_config, progress=False).tested
    names = [plain_name(name) for name in manifest.classes]
    usable = [clip for clip in manifest.clips if clip.status == "ok" and clip.length > 1]
    if not usable:
        raise UserError(f"{manifest.path}: no clip to draw")
    wanted = [plain_name(name) for name in classes]
    preferred = (clip for name in wanted for clip in usable if names[clip.label] == name)
    clip = next(preferred, usable[0])
    spec = run.checked_config.backbone.spec
    seen = max(1, round(spec.stride * (clip.fps / spec.fps if clip.fps and spec.fps else 1)))  # by the run
    stride = max(1, min(options.stride or seen, (clip.length - 1) // (count - 1)))
    offsets = stride * np.arange(min(count, clip.length))
    at = clip.start + (clip.length - 1 - offsets[-1]) // 2 + offsets
    frames = read_frames(manifest.file(clip), at, short_side=160)
    return names[clip.label], clip.id.rpartition("/")[2], frames


def shows_videos(run: Run) -> bool:
    """Whether its clips are videos, not generated ones."""
    return run.config["dataset"].get("kind") != "motions"


def choose_run(options: FigureOptions) -> Run | None:
    """The run whose layer and clips are drawn: the first of those named, or else, unless a slope or a shift is given,
    a finished one on videos that are here."""

    if options.runs and not options.found:
        return options.runs[0]
    if (options.slope, options.shift) != (None, None):
        return None
    for run in of_papers_layer(options.all_runs):
        if run.finished and shows_videos(run):
            try:
                find_splits(run.checked_config, progress=False)
            except UserError:
                continue
            return run
    return options.runs[0] if options.runs else None


def choose_layer(options: FigureOptions, run: Run | None) -> "MotionPrompt":
    """The run's layer, of its first pathway, or the layer with the given slope and shift."""
    if run:
        return next(iter(layers_of(run).values()))
    slope, shift = options.slope, options.shift
    return layer_with(SLOPE if slope is None else slope, SHIFT if shift is None else shift)


def plain_name(name: str) -> str:
    return name.replace("_", " ").lower()


# --- runs ----------------------------------------------------------------------------------------------------------


def named_runs(names: Iterable[str]) -> tuple[tuple[Run, ...], bool]:
    """The runs in these folders, and whether some were found below a folder that is not a run itself.

    Raises:
        RunError: a folder has no runs.
    """
    runs: list[Run] = []
    found = False
    for folder in map(Path, names):
        below = [] if is_run(folder) else list(readable_runs(folder))
        found = found or bool(below)
        runs += below or [read_run(folder)]
    return tuple(runs), found


def label(run: Run) -> str:
    """`learned_lambda2.5/seed0`: what a run is, apart from its dataset and backbone."""
    return "/".join(run.folder.parts[-2:])


def regularised_pair(number: int, options: FigureOptions) -> tuple[Run, Run]:
    """A run without the regulariser and one with it that are otherwise alike."""
    from vmp.figures.curves import same_but_lambda

    paper = PAPER[number]
    if len(options.runs) == 2 and not options.found:
        a, b = sorted(options.runs, key=lambda run: run.lambda_)
        return a, b
    for group in same_but_lambda([run for run in candidates(options, paper) if run.finished]):
        plain, *others = sorted(group, key=lambda run: run.lambda_)
        if others and plain.lambda_ == 0 < others[-1].lambda_:
            return plain, min(others, key=lambda run: abs(run.lambda_ - paper.weight))
    weights = [f"vmp.lambda={weight:g}" for weight in (0, paper.weight)]
    small = [f"dataset.camera=moving vmp.lambda={weight:g}" for weight in (0, 2.5)]
    what = "two finished runs that differ in λ only, one with λ = 0"
    raise missing_runs(number, what, weights, small, "learned weighted")


def baseline_pairs(number: int, options: FigureOptions) -> list[tuple[Run, Run]]:
    """A baseline without prompts, paired with runs that have them and are otherwise alike: of each placement the run
    with the best top-1."""
    if len(options.runs) > 1 and not options.found:
        return [(options.runs[0], run) for run in options.runs[1:]]
    for pairs in _pairs_among(candidates(options, PAPER[number])):
        return pairs
    methods = ["vmp=none", "vmp=learned"]
    what = "a finished run without prompts and one with them, alike otherwise"
    raise missing_runs(number, what, methods, methods, "none learned")


def _pairs_among(runs: Iterable[Run]) -> Iterator[list[tuple[Run, Run]]]:
    """The pairs of each group of runs that differ in their prompts only."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.finished:
            groups.setdefault(matters_but_for(run.config, "vmp"), []).append(run)
    for group in groups.values():
        plain = [run for run in group if run.config["vmp"]["kind"] == "none"]
        best: dict[str, Run] = {}
        for run in of_papers_layer(group):
            placement = repr([run.config["vmp"].get(key) for key in ("name", "placement", "split")])
            if placement not in best or run.result["top1"] > best[placement].result["top1"]:
                best[placement] = run
        if plain and best:
            yield [(plain[0], run) for run in best.values()]


def layer_pairs(number: int, options: FigureOptions) -> dict[str, tuple[Run, Run]]:
    """Label -> the runs whose layers Fig. 7 to 9 compare: a baseline with runs that have prompts. Fig. 7 adds the other
    variants of Table 2 that are there, Fig. 8 and 9 show each of the paper's datasets."""
    pairs, paper = baseline_pairs(number, options), PAPER[number]
    plain = {f"{label(a)} vs. {label(b)}": (a, b) for a, b in pairs}
    if options.runs and not options.found:
        return plain
    if number == 7:
        title = pairs[0][0].title
        of_title = [run for run in candidates(options, paper) if run.title == title]
        variants = [_variants(*group[0], options) for group in _pairs_among(of_title)]
        most = max(variants, key=len)
        return most if len(most) > 1 else plain
    by_dataset: dict[str, list[Run]] = {}
    for run in candidates(options, paper):
        name = str(run.config["name"])
        if name in LAYERS_ON and run.config["backbone"]["name"] == paper.backbone:
            by_dataset.setdefault(name, []).append(run)
    first = {name: next(_pairs_among(runs), []) for name, runs in by_dataset.items()}
    found = {f"{name}, {b.folder.parts[-2]}": (a, b) for name, of_it in first.items() for a, b in of_it}
    return found if sum(map(bool, first.values())) > 1 else plain


def _variants(baseline: Run, prompted: Run, options: FigureOptions) -> dict[str, tuple[Run, Run]]:
    """The comparisons of Fig. 7, without those whose runs are not there.

    The pretrained backbone is that of a run that trained a new head alone.
    """
    finished = [run for run in options.all_runs if run.finished]

    def alike(run: Run, *but_for: str) -> bool:
        return matters_but_for(run.config, *but_for) == matters_but_for(baseline.config, *but_for)

    def begins(run: Run) -> bool:
        return Path(run.config.get("init_from") or "").parts[-4:] == baseline.folder.resolve().parts[-4:]

    plain = [
        run for run in finished if run.config["vmp"]["kind"] == "none" and alike(run, "vmp", "train.freeze")
    ]
    pretrained = next((run for run in plain if run.config["train"]["freeze"] == "all_but_head"), None)
    second = [run for run in finished if begins(run) and alike(run, "vmp", "init_from", "tag")]
    found: dict[str, tuple[Run, Run]] = {}
    if pretrained:
        found["pretrained vs. baseline"] = pretrained, baseline
    found["baseline vs. prompts"] = baseline, prompted
    if second := of_papers_layer(second):
        again = max(second, key=lambda run: float(run.result["top1"]))
        found["baseline vs. second round, with prompts"] = baseline, again
        found["prompts vs. second round, with prompts"] = prompted, again
    return found


def folds_of(a: Run, b: Run, options: FigureOptions) -> list[tuple[Run, Run]]:
    """The pairs of runs like these two, one for each fold of their dataset; the two alone where there are no folds."""
    if not _fold(a):
        return [(a, b)]
    mine, theirs = dict[int, Run](), dict[int, Run]()
    for run in options.all_runs:
        if run.finished and _fold(run):
            for like, found in ((a, mine), (b, theirs)):
                if _across_folds(run) == _across_folds(like):
                    found[_fold(run)] = run
    return [(mine[fold], theirs[fold]) for fold in sorted(mine.keys() & theirs.keys())]


def _fold(run: Run) -> int:
    return run.config["dataset"].get("fold") or 0


def _across_folds(run: Run) -> str:
    """What runs on the folds of a dataset have in common."""
    name = str(run.config["name"]).replace(f"fold{_fold(run)}", "")
    return name + matters_but_for(run.config, "name", "dataset.fold")


def missing_runs(
    number: int, what: str, paper: Sequence[str], small: Sequence[str], arms: str
) -> MissingRuns:
    """paper: what is to be added to the command of the paper's experiment; small: to a run in miniature; arms: of the
    study on real clips."""
    full = shortlist([f"{command_line('train')} {PAPER[number].experiment} {words}" for words in paper])
    quick = shortlist([f"{command_line('train')} {words}" for words in small])
    return MissingRuns(
        f"figure {number} needs {what}. The paper's:\n{full}\nThe same in miniature, on the generated dataset, in "
        f"minutes:\n{quick}\nOn real clips:\n  make real ONLY='handwash12 {arms}'\nOr name runs that are elsewhere: "
        "runs=FOLDER,FOLDER"
    )


def candidates(options: FigureOptions, paper: PaperFigure) -> list[Run]:
    """Runs to choose from, those on the paper's dataset and with its backbone first."""

    def distance(run: Run) -> tuple[bool, bool]:
        config = run.config
        known = str(config["name"]).startswith((paper.dataset, MINIATURE[paper.dataset]))
        return not known, config["backbone"]["name"] != paper.backbone

    return sorted(options.all_runs, key=distance)
