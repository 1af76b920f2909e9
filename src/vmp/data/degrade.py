"""Degraded videos for tests (Sec. E.1, Table 5 of the paper). Frames are degraded before they are resized and cropped.

Notes:
- a frame's noise is a function of (clip, frame): the same in every view, reader and run;
- frames are (H, W, 3) uint8, and the degraded ones have the same size.
"""

import numpy as np

from vmp.choices import Degradation, check_choice
from vmp.data.opencv import opencv
from vmp.data.sampler import NOISE, generator

PROBABILITY = 0.01


def degrade(frame: np.ndarray, kind: str, *, key: tuple[int, ...]) -> np.ndarray:
    """Args:
    kind: "salt_pepper": each pixel turns white or black, equally often, with probability 0.01; "half": to half the
        height and width (area average), and back (bilinear).
    key: whole numbers that determine the noise.
    """
    if kind == "salt_pepper":
        u = generator(NOISE, *key).random(frame.shape[:2], dtype=np.float32)
        out = frame.copy()
        out[u < PROBABILITY / 2] = 0
        out[(u >= PROBABILITY / 2) & (u < PROBABILITY)] = 255
        return out
    if kind == "half":
        cv2 = opencv()
        h, w = frame.shape[:2]
        small = cv2.resize(frame, (max(1, w // 2), max(1, h // 2)), interpolation=cv2.INTER_AREA)
        return cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR)
    check_choice("degrade", kind, Degradation)
    return frame
