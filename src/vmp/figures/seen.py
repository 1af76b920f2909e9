"""A clip of a video as a backbone takes it, and what its pretrained weights say of it with and without prompts."""

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vmp.build import attach_prompts, clip_shape
from vmp.config import Config
from vmp.data import sampling, transforms
from vmp.data.columns import Clip
from vmp.data.decode import read_frames
from vmp.data.frames import FRAMES
from vmp.data.manifest import Manifest
from vmp.data.present import Present, check_rates
from vmp.errors import UserError, VideoReadError
from vmp.prepare.measure import measure_all
from vmp.prepare.rows import with_measured
from vmp.runs.open import open_published

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
        UserError: no such pathway, too few frames after `start`, a frame folder of unknown rate, or weights that cannot
            be used.
        VideoReadError: the video cannot be read.
    """
    import torch

    _, found = next(iter(measure_all([video.absolute()])))
    if found.status != "ok":
        raise VideoReadError(video, found.reason)
    if FRAMES in found.readers:
        found = replace(found, fps=fps)
    opened = open_published(config, device="cuda" if torch.cuda.is_available() else "cpu")
    layers: dict[str, Any] = opened.prompts
    if not layers or (pathway is not None and pathway not in layers):
        raise UserError(f"--pathway {pathway}: there are prompts on {', '.join(layers) or 'none (vmp=none)'}")
    key = pathway or next(iter(layers))
    shape = clip_shape(config, opened.spec, opened.model, crops=1)
    clip = with_measured(Clip(str(video), str(video.absolute()), 0), found)
    check_rates(
        Manifest(video, Path("/"), opened.classes, (clip,)), Present((clip,), found.readers[:1], 1), shape.fps
    )
    shown, offsets = shape.grid(clip)
    if start and start + int(offsets[-1]) >= len(shown):
        raise UserError(
            f"--start {start}: {max(0, len(shown) - start)} frames are left, and a clip spans {offsets[-1] + 1}"
        )
    at = shown[sampling.frame_indices(len(shown), offsets, start=start, short=shape.short)]
    frames = read_frames(video, at, reader=found.readers[0], short_side=shape.test_side)
    ((top_edge, left),) = transforms.test_corners(*frames.shape[1:3], crop=shape.test_crop, positions=1)
    size = shape.test_crop
    whole = torch.from_numpy(
        transforms.to_clip(frames[:, top_edge : top_edge + size, left : left + size])
    )  # (3, frames, size, size)
    unprompted = attach_prompts(plain, opened.spec, opened.model.backbone, {}).eval()
    count = clip_shape(plain, opened.spec, unprompted, crops=1).frames
    batch = whole[None].to(next(opened.model.parameters()).device)
    said = {}
    with torch.no_grad():
        for name, model, clips in (
            (PLAIN, unprompted, batch[:, :, -count:]),
            (PROMPTED, opened.model, batch),
        ):
            best = model(clips).logits[0].float().softmax(dim=0).cpu().topk(min(top, len(opened.classes)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            said[name] = [(opened.classes[i], p) for i, p in pairs]
    cut = opened.model.cut
    taken = list(cut.take[key]) if cut and key in cut.take else list(range(len(at)))
    step = float(np.diff(offsets[taken]).mean())
    rate = Fraction(min(max((found.fps or 25) / step, 1.0), 60.0)).limit_denominator(1001)
    numbers = tuple(int(n) for n in at[taken])
    return Seen(whole[:, taken], numbers, rate, layers[key], said, opened.notes)


def in_words(said: list[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {100 * probability:.1f} %" for name, probability in said)
