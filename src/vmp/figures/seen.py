"""A clip of a video as a backbone takes it, and what its pretrained weights say of it with and without prompts."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vmp.build import attach_prompts, clip_shape
from vmp.config import Config
from vmp.errors import UserError
from vmp.runs.open import open_published
from vmp.runs.videos import measure_video, read_clip

if TYPE_CHECKING:
    from torch import Tensor

    from vmp.layer import MotionPrompt

PLAIN, PROMPTED = "plain frames", "motion prompts"


@dataclass(frozen=True)
class Seen:
    clip: "Tensor"  # (3, T + 1, H, W) uint8, of the layer's pathway
    numbers: tuple[int, ...]  # of these frames in the video
    fps: Fraction  # at which they are shown
    layer: "MotionPrompt"
    said: dict[str, list[tuple[str, float]]]  # PLAIN and PROMPTED -> class and probability, best first
    notes: tuple[str, ...]


def look(
    config: Config,
    plain: Config,
    video: Path,
    *,
    start: int = 0,
    pathway: str | None = None,
    fps: float = 0.0,
    top: int = 3,
) -> Seen:
    """Show a backbone the centre crop of the clip that begins with frame `start`, twice.

    Args:
        config, plain: with prompts and without, and otherwise the same.
        pathway: whose layer and frames are returned; None: the first that has prompts.
        fps: of a frame folder, which does not say it; 0: not known.

    Raises:
        UserError: no such pathway, too few frames after `start`, or weights that cannot
            be used.
        VideoReadError: the video cannot be read.
    """
    import torch

    measured = measure_video(video, fps=fps)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    opened = open_published(config, device=device)
    layers: dict[str, Any] = opened.prompts
    if not layers or (pathway is not None and pathway not in layers):
        raise UserError(f"--pathway {pathway}: there are prompts on {', '.join(layers) or 'none (vmp=none)'}")
    key = pathway or next(iter(layers))
    clip = read_clip(opened, video, measured, start=start)
    if opened.model.inside:  # its backbone has prompts of its own
        unprompted = open_published(plain, device=device).model
    else:
        unprompted = attach_prompts(plain, opened.model.backbone, {}).eval()
    count = clip_shape(plain, unprompted, crops=1).frames
    batch = clip.pixels[None].to(next(opened.model.parameters()).device)
    said = {}
    with torch.no_grad():
        for name, model, clips in (
            (PLAIN, unprompted, batch[:, :, -count:]),
            (PROMPTED, opened.model, batch),
        ):
            best = model(clips).logits[0].float().softmax(dim=0).cpu().topk(min(top, len(opened.classes)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            said[name] = [(opened.classes[i], p) for i, p in pairs]
    taken = opened.frames_of(key)
    step = float(np.diff(clip.offsets[taken]).mean())
    rate = Fraction(min(max((clip.fps or 25) / step, 1.0), 60.0)).limit_denominator(1001)
    numbers = tuple(int(n) for n in clip.numbers[taken])
    return Seen(clip.pixels[:, taken], numbers, rate, layers[key], said, opened.notes)


def in_words(said: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in said)
