"""The words and limits of config keys' values, written once for the config and for the code that acts on them.

It imports only `typing`, so that configs are checked without torch. The YAML files in conf/ explain the words.
"""

from typing import Any, Literal, get_args

# data/
MOST_FPS = 1_000_000  # frames per second, which no rate reaches
Camera = Literal["static", "moving", "both"]
MotionClasses = Literal["ten", "pretraining"]
Clock = Literal["file", "first_frame"]
Spacing = Literal["stride", "span"]
Short = Literal["stretch", "clamp", "loop"]
Anchor = Literal["start", "center"]
Degradation = Literal["none", "salt_pepper", "half"]
Reader = Literal["auto", "pyav_seek", "opencv", "pyav", "decord", "torchcodec", "torchcodec_cuda"]

# prompts
CameraMotion = Literal["none", "translation", "affine"]
Form = Literal["pixel", "two_sided", "patch", "per_clip"]
Pool = Literal["mean_abs", "mean", "rms"]
Regulariser = Literal["temporal", "spatial", "compensated"]
Upsample = Literal["bilinear", "nearest"]

# models
AttentionKind = Literal["divided", "joint", "space"]
TransformerInit = Literal["image", "scratch"]
X3DSize = Literal["xs", "s", "m", "l"]
PathwaySplit = Literal["plus_one", "aligned", "shared"]
Freeze = Literal["none", "backbone", "backbone_and_head", "all_but_head"]
BatchNorm = Literal["train", "frozen", "sync"]
Reduce = Literal["probs", "logits"]


def check_choice(key: str, value: object, allowed: Any) -> None:
    """Raise ValueError unless the value is a word of a Literal, or one of a tuple of words."""
    words = get_args(allowed) or allowed
    if value not in words:
        raise ValueError(f"{key} = {value!r}: must be one of {', '.join(words)}")
