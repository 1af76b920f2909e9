"""Frames, differences, attention and motion prompts of a video, as MP4 and PNG (Fig. 5).

vmp visualize                                  a street, or an embedded clip if it is not installed
vmp visualize my.mp4 --slope 12 --shift -0.3
vmp visualize my.mp4 run=outputs/.../seed0 --start 40 --out picture.png
vmp visualize my.mp4 backbone=i3d_inception weights=k400

With a backbone the frames are a clip as it takes them, at its rate, size and normalisation, and what its weights say of
the clip is printed and drawn: of the plain frames, and of the prompts.
"""

import argparse
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vmp.cli import parser_of
from vmp.errors import UserError, VideoReadError
from vmp.overrides import Source, model_source

if TYPE_CHECKING:
    from vmp.layer import MotionPrompt

DEFAULTS, STRIDE = {"slope": 11.0, "shift": 0.1}, 2
SMALLEST = 96  # pixels; smaller videos are enlarged by a whole factor, so that names fit
FULL = 0.1  # the difference of grey levels in [0, 1] that has the full colour
BAND = 16  # pixels above a picture, for its name


def main() -> None:
    options = _parser().parse_intermixed_args()
    source = model_source(options.what, vmp="learned")
    options.run = source.run
    if len(source.rest) > 1:
        raise UserError(f"{source.rest[1]}: one video at a time, and {source.rest[0]} is the first")
    options.video = Path(source.rest[0]) if source.rest else None
    if source.overrides and options.stride:
        raise UserError(
            f"--stride {options.stride}: a backbone has its own; set backbone.stride={options.stride}"
        )
    options.stride = STRIDE if options.stride is None else options.stride
    for name, low in {"start": 0, "stride": 1, "fps": 0, "columns": 1, "frames": 0, "side": 16}.items():
        if getattr(options, name) < low:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least {low}")
    layer = None if source.overrides else find_layer(options)
    if options.video is None:
        from vmp.figures.clips import natural_clip

        options.video = natural_clip()
        options.title = options.title or ("a street with bicycles" if options.video else None)
    if layer is None:
        draw_seen(options, source)
    else:
        draw(options, layer, choose_output(options))


def choose_output(options: argparse.Namespace) -> Path:
    """The pictures' path without a suffix: from --out, or a new one below outputs/.

    Raises:
        UserError: the MP4 or the PNG would overwrite the video.
    """
    if options.out:
        out: Path = options.out.with_suffix("")
        for path in (out.with_name(f"{out.name}.png"), out.with_name(f"{out.name}.mp4")):
            if options.video and path.exists() and path.samefile(options.video):
                raise UserError(f"--out {options.out}: {path} is the video itself; choose another name")
        return out
    stem = f"{options.video.stem if options.video else 'motions'}-prompts"
    names = (stem if number == 1 else f"{stem}-{number}" for number in count(1))
    free = (
        name for name in names if not any(Path(f"outputs/{name}.{kind}").exists() for kind in ("png", "mp4"))
    )
    return Path("outputs", next(free))


def _parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    parser.add_argument(
        "what",
        nargs="*",
        help="a video or frame folder; run=FOLDER takes the prompts of a run; backbone=NAME weights=NAME|FILE",
    )
    parser.add_argument("--pathway", help="slow or fast, where there are several pathways")
    parser.add_argument("--start", type=int, default=0, help="first frame")
    parser.add_argument(
        "--stride", type=int, help="step from one frame to the next (default: 2, or a backbone's own)"
    )
    fps = "frames per second of a frame folder, which does not say it; needed with a backbone"
    parser.add_argument("--fps", type=float, default=0.0, help=fps)
    parser.add_argument("--columns", type=int, default=5, help="prompts in the PNG, from --start on")
    parser.add_argument("--frames", type=int, default=300, help="most prompts in the MP4; 0: no MP4")
    parser.add_argument("--side", type=int, default=224, help="longest short side of a picture")
    parser.add_argument("--slope", type=float, help="default: 11; not with a run")
    parser.add_argument("--shift", type=float, help="default: 0.1; not with a run")
    parser.add_argument("--title", help="above the PNG; default: the video's name")
    out = "the PNG; the MP4 goes beside it (default: a new outputs/NAME-prompts[-2].png)"
    parser.add_argument("--out", type=Path, help=out)
    return parser


def find_layer(options: argparse.Namespace) -> "MotionPrompt":
    from vmp.figures.layers import layer_with, layers_of
    from vmp.runs.run import read_run

    given = {name: value for name in ("slope", "shift") if (value := getattr(options, name)) is not None}
    if not options.run:
        return layer_with(**(DEFAULTS | given))
    if given:
        names = " and ".join(f"--{name}" for name in given)
        raise UserError(f"{names} and a run contradict each other: leave one of them out")
    layers = layers_of(read_run(options.run))
    if options.pathway is None:
        return next(iter(layers.values()))
    if options.pathway not in layers:
        raise UserError(f"--pathway {options.pathway}: the run has prompts on {', '.join(layers)}")
    return layers[options.pathway]


def draw(options: argparse.Namespace, layer: "MotionPrompt", out: Path) -> None:
    """Write out.png and out.mp4."""
    from vmp.data.encode import write_video
    from vmp.figures.clips import check_enough_clips, embedded_clip, stream, to_clip
    from vmp.figures.panels import panel_rows

    most = max(options.columns, options.frames) + 1
    kept: list[np.ndarray] = []  # the frames of the PNG
    fault: list[str] = []
    frames: Iterator[np.ndarray]
    if options.video is None:
        clip, name = embedded_clip("moving", count=min(most, 32), stride=options.stride, size=128)
        frames, fps = iter(clip), Fraction(25, options.stride)
    else:
        name = options.video.name
        read = {"start": options.start, "stride": options.stride, "most": most, "short_side": options.side}
        frames, fps = stream(options.video, **read), rate(options.video, options.stride, options.fps)

    def shown() -> Iterator[np.ndarray]:
        """Yield four pictures in one for every frame but the first; at a fault in the file, record it and stop."""
        before: np.ndarray | None = None
        number = options.start
        try:
            for frame in frames:
                if len(kept) <= options.columns:
                    kept.append(frame)
                if before is not None:
                    yield quad(np.stack([before, frame]), layer, number)
                before, number = frame, number + options.stride
        except VideoReadError as error:
            if len(kept) < 2:
                raise
            fault.append(f"{error}: stopped before frame {number}")

    pictures = shown()
    first = next(pictures, None)
    check_enough_clips(Path(name), len(kept), start=options.start, stride=options.stride)
    assert first is not None
    out.parent.mkdir(parents=True, exist_ok=True)
    if options.frames:
        path = out.with_name(f"{out.name}.mp4")
        written = write_video(path, islice(chain([first], pictures), options.frames), fps=fps, crf=20)
        print(f"{path}  ({written} frames at {float(fps):.3g}/s)")
    while len(kept) <= options.columns and next(pictures, None) is not None:
        pass
    rows = panel_rows(to_clip(np.stack(kept)), layer)
    print(save_grid(rows, layer, out, title=options.title or name))
    for text in fault:
        print(f"note: {text}")


def draw_seen(options: argparse.Namespace, source: Source) -> None:
    """Write the PNG and the MP4 of a backbone's clip, and print what its weights say of it."""
    from vmp.compose import CONF, composer
    from vmp.config import check
    from vmp.data.encode import write_video
    from vmp.figures.panels import panel_rows
    from vmp.figures.seen import in_words, look

    if options.video is None:
        raise UserError("name a video: what weights say of an embedded clip means nothing")
    start = {"slope": options.slope, "shift": options.shift}
    if not any(word.startswith(("vmp=", "vmp.")) for word in options.what):
        start = {name: value if start[name] is None else start[name] for name, value in DEFAULTS.items()}
    given = [f"vmp.{name}={value}" for name, value in start.items() if value is not None]
    rest = [word for word in source.overrides if not word.startswith("vmp")]
    compose = composer(CONF)
    config, plain = check(compose([*source.overrides, *given])), check(compose([*rest, "vmp=none"]))
    chosen = {"start": options.start, "pathway": options.pathway, "fps": options.fps}
    seen = look(config, plain, options.video, **chosen)
    for note in seen.notes:
        print(f"note: {note}")
    lines = [f"{name}: {in_words(said)}" for name, said in seen.said.items()]
    print(*lines, sep="\n")
    out = choose_output(options)
    frames = seen.clip.permute(1, 2, 3, 0).numpy()  # (T + 1, H, W, 3)
    if options.frames:
        path = out.with_name(f"{out.name}.mp4")
        path.parent.mkdir(parents=True, exist_ok=True)
        numbered = list(enumerate(seen.numbers))[1 : options.frames + 1]
        pictures = (quad(frames[i - 1 : i + 1], seen.layer, number) for i, number in numbered)
        written = write_video(path, pictures, fps=seen.fps, crf=20)
        print(f"{path}  ({written} frames at {float(seen.fps):.3g}/s)")
    rows = panel_rows(seen.clip, seen.layer, columns=options.columns)
    title = "\n".join([options.title or options.video.name, *lines])
    print(save_grid(rows, seen.layer, out, title=title))


def save_grid(rows: list[np.ndarray], layer: "MotionPrompt", out: Path, *, title: str) -> Path:
    """Write out.png: frames, differences, attention and prompts in named rows."""
    from vmp.figures.canvas import save
    from vmp.figures.panels import draw_rows

    return save(draw_rows(rows, layer, title=title), out, kinds=("png",))[0]


def quad(pair: np.ndarray, layer: "MotionPrompt", number: int) -> np.ndarray:
    """Named frame, difference, attention and prompt of two frames (2, H, W, 3) as one picture with even sides.

    Colours of differences have one scale throughout the video, so that moments can be compared.
    """
    import cv2

    from vmp.figures.clips import to_clip
    from vmp.figures.panels import color_differences, nothing_is, panel_rows

    clip = to_clip(pair)
    frame, _, attention, prompt = (row[0] for row in panel_rows(clip, layer))
    difference = color_differences(layer.differences(clip[None])[0, 0].numpy(), limit=FULL)
    factor = -(-SMALLEST // min(frame.shape[:2]))
    names = (f"frame {number}", "difference", "attention", f"prompt ({nothing_is(layer)}: 0)")
    tiles = []
    for name, picture in zip(names, (frame, difference, attention, prompt), strict=True):
        large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
        band = np.full((BAND, large.shape[1], 3), 255, np.uint8)
        cv2.putText(band, name, (3, BAND - 4), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
        tiles.append(np.concatenate([band, large]))
    whole = np.concatenate([np.concatenate(tiles[:2], axis=1), np.concatenate(tiles[2:], axis=1)])
    h, w = whole.shape[:2]
    return np.pad(whole, ((0, h % 2), (0, w % 2), (0, 0)), constant_values=255)


def rate(path: Path, stride: int, given: float) -> Fraction:
    """Frames per second of the MP4, in 1..60, if the video does not say its own those given, or 25, over the stride."""
    from vmp.data.decode import decoder_of
    from vmp.prepare.source import packet_times

    decoder_of(path)  # fails if it is neither a video nor a frame folder
    own = Fraction(packet_times(path).rate or given or 25)
    return min(max(own / stride, Fraction(1)), Fraction(60)).limit_denominator(1001)
