"""Which frames of a clip SlowFast's pathways take, with motion prompts on one of them or both.

Notable here (F fast frames, alpha fast frames per slow one; 32 and 4 as published):
- a pathway with prompts takes one more frame than its network, and differences are between the frames of the pathway.
  The paper leaves open which frames these are, so there are three interpretations:
      "plus_one"  F + 1 frames are decoded; the slow pathway takes every alpha-th of them, from the first
      "aligned"   F + alpha frames are decoded; prompts are at the same distances as the baseline's frames
      "shared"    one layer runs on all F + 1 frames, and the pathways select from its prompts
- the published indices of the slow pathway are not evenly spaced: 0, 4, 8, 13, 17, 22, 26, 31.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from vmp.choices import PathwaySplit, check_choice

if TYPE_CHECKING:
    from torch import Tensor

WHOLE = "video"  # the only pathway of a backbone that has no pathways


def scalar_name(pathway: str, name: str) -> str:
    """The key of a pathway's scalar: `slope` for the whole clip, `slow/slope` for one of several pathways."""
    return name if pathway == WHOLE else f"{pathway}/{name}"


def learned_name(key: str) -> str:
    """How messages call a parameter of a prompt layer in a model's state: `prompts.slow.power_norm.m` is `slow/m`, and
    `inside.res2.m` is `res2/m`."""
    _, place, name = key.split(".", 2)
    return scalar_name(place, name.removeprefix("power_norm."))


def split_scalar_name(key: str) -> tuple[str, str]:
    """(pathway, name) of a key that `scalar_name` made."""
    pathway, _, name = key.rpartition("/")
    return pathway or WHOLE, name


def shown_scalars(scalars: Mapping[str, float]) -> dict[str, float]:
    """The scalars of prompts that lines of text show: not m and n, which slope and shift are made of."""
    return {key: value for key, value in scalars.items() if split_scalar_name(key)[1] not in ("m", "n")}


def display_name(pathway: str) -> str:
    """The pathway's name in captions: empty for the whole clip."""
    return "" if pathway == WHOLE else pathway


class PathwayFrames(NamedTuple):
    """The frames of each pathway.

    frames: number of frames to decode.
    indices: pathway -> indices into these frames, or for shared pathways into the prompts; in the backbone's order.
    shared: pathways whose input is selected from the prompts of one layer on the whole clip.
    """

    frames: int
    indices: dict[str, tuple[int, ...]]
    shared: tuple[str, ...] = ()


def pathway_frames(
    *, frames: int, alpha: int, prompted: Sequence[str], split: str = "plus_one"
) -> PathwayFrames:
    """The frames of each pathway for `frames` fast frames. prompted: the pathways with prompts, of ("slow", "fast").

    Raises:
        ValueError: frames is not a multiple of alpha, or split is none of these.
    """
    if frames % alpha or frames // alpha < 2:
        raise ValueError(f"frames = {frames}: must be a multiple of {alpha}, at least {2 * alpha}")
    check_choice("split", split, PathwaySplit)
    slow_frames = frames // alpha
    slow = [i * (frames - 1) // (slow_frames - 1) for i in range(slow_frames)]  # as published
    fast = list(range(frames))
    if not prompted:
        return PathwayFrames(frames, {"slow": tuple(slow), "fast": tuple(fast)})
    if split == "shared":
        # prompt i is frame i + 1
        first = {pathway: 0 if pathway in prompted else 1 for pathway in ("slow", "fast")}
        indices = {
            "slow": tuple(first["slow"] + i for i in slow),
            "fast": tuple(first["fast"] + i for i in fast),
        }
        return PathwayFrames(frames + 1, indices, tuple(p for p in ("slow", "fast") if p in prompted))
    lead = 1 if split == "plus_one" else alpha  # decoded frames before the baseline's first
    slow, fast = [lead + i for i in slow], [lead + i for i in fast]
    if "slow" in prompted:
        slow = list(range(0, frames + 1, alpha)) if split == "plus_one" else [slow[0] - alpha, *slow]
    if "fast" in prompted:
        fast = [fast[0] - 1, *fast]
    return PathwayFrames(frames + lead, {"slow": tuple(slow), "fast": tuple(fast)})


def select_frames(clips: "Tensor", indices: Sequence[int]) -> "Tensor":
    """Frames of (B, C, T, H, W) by index; a view where they are evenly spaced, and no index tensor on the device."""
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    if list(indices) == list(range(indices[0], indices[-1] + 1, step)):
        return clips[:, :, indices[0] : indices[-1] + 1 : step]
    import torch

    return torch.stack([clips[:, :, i] for i in indices], dim=2)
