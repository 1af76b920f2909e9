"""One picture per frame of a video that explains its prompts: frame, difference, attention and prompt, with the frame's
number, what was learned, what the model says of the video, and the colours' scales.

Notes:
- colours of differences have one scale throughout the video, so that moments can be compared.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vmp.figures.clips import to_clip
from vmp.figures.layers import named_slope_and_shift
from vmp.figures.panels import BAR, color_attention, color_differences, nothing_is, panel_rows, words

if TYPE_CHECKING:
    from vmp.layer import MotionPrompt

# pixels per side of a picture; smaller videos are enlarged by a whole factor, so that words fit
SMALLEST = 192
FULL = 0.1  # the difference of grey levels in [0, 1] that has the full colour


def explain(
    frames: np.ndarray, layer: "MotionPrompt", numbers: Sequence[int], said: Sequence[str] = ()
) -> Iterator[np.ndarray]:
    """One picture, with even sides, for each of the last frames of a clip.

    Args:
        frames: (T + 1, H, W, 3), all that the layer sees.
        numbers: of the frames to show, in the video: at most T.
        said: lines about the whole video, which stand on top.
    """
    clip = to_clip(frames)
    rows = panel_rows(clip, layer, columns=slice(-len(numbers), None), limit=FULL)
    learned = named_slope_and_shift(layer, clip)
    lines = [*said, *([learned] if learned else [])]
    for number, *pictures in zip(numbers, *rows, strict=True):
        yield _picture(pictures, layer, number, lines)


def _picture(
    pictures: Sequence[np.ndarray], layer: "MotionPrompt", number: int, lines: Sequence[str]
) -> np.ndarray:
    frame, difference, attention, prompt = pictures
    factor = -(-SMALLEST // min(frame.shape[:2]))
    width = frame.shape[1] * factor
    ramp = np.linspace(-1, 1, width)[None].repeat(BAR, axis=0)  # (BAR, width)
    nothing = f"{nothing_is(layer)} where attention is 0"
    ends = f"-{FULL:g} darker", "0", f"brighter {FULL:g}"
    tiles = [
        _tile(f"frame {number}", frame, factor, None, ()),
        _tile("difference D", difference, factor, color_differences(ramp), ends),
        _tile("attention f(D)", attention, factor, color_attention((ramp + 1) / 2), ("0", "0.5", "1")),
        _tile("motion prompt", prompt, factor, None, (nothing,)),
    ]
    halves = [np.concatenate(tiles[at : at + 2], axis=1) for at in (0, 2)]
    whole = np.concatenate([*(words(line, halves[0].shape[1]) for line in lines), *halves])
    h, w = whole.shape[:2]
    return np.pad(whole, ((0, h % 2), (0, w % 2), (0, 0)), constant_values=255)


def _tile(
    name: str, picture: np.ndarray, factor: int, bar: np.ndarray | None, scale: Sequence[str]
) -> np.ndarray:
    """A picture under its name, and above a bar of colours and the words at its left, middle and right."""
    large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    bar = np.full((BAR, large.shape[1], 3), 255, np.uint8) if bar is None else bar
    return np.concatenate([words(name, large.shape[1]), large, bar, words(scale, large.shape[1])])
