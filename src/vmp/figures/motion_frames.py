"""Motion in a frame without attention (Fig. 1): the two published methods that the paper compares with.

Notes:
- time-colour reordering: Kim et al., "Capturing temporal information in a single frame", BMVC 2022. Each output frame
  takes one colour channel of three consecutive frames as its red, green and blue, and the channel alternates. Still
  pixels are grey, and what moves leaves coloured fringes;
- Taylor frames: Wang et al., "Taylor videos for action recognition", ICML 2024. A block of grey frames is expanded
  around its first one, and three sums of differences of increasing order (displacement, velocity, acceleration) become
  the channels. Still pixels are exactly 0.

Shapes: T frames of H x W pixels; frames are (T, H, W, 3), RGB.
"""

import math

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
TERMS = 5  # K


def time_color_reordering(frames: np.ndarray) -> np.ndarray:
    """(T, H, W, 3) -> the same shape and type: frame t is channel c = t mod 3 of frames t, t + 1 and t + 2.

    In the paper's words: 1R 2R 3R, 2G 3G 4G, 3B 4B 5B, 4R 5R 6R ...; past the end the last frame is repeated.
    """
    t = np.arange(len(frames))
    source = np.minimum(t[:, None] + np.arange(3), len(frames) - 1)  # (T, 3): the frame behind each channel
    channel = t % 3
    return np.stack([frames[source[:, k], :, :, channel] for k in range(3)], axis=-1)


def taylor_frame(frames: np.ndarray, *, terms: int = TERMS) -> np.ndarray:
    """The Taylor frame at frames[0], (H, W, 3) float64: signed displacement, velocity and acceleration.

    With grey frames g_0 ... g_{L-1} in [0, 1] and the forward differences at the first one, delta^k g_0, channel c is

        sum over k < K of  (sum over t of (g_t - g_0)^k / k!)  delta^(k + 1 + c) g_0

    Args:
        frames: (L, H, W, 3) uint8, at least K + 3, of which the first K + 3 are the block.
        terms: K.

    Raises:
        ValueError: there are too few frames for K terms.
    """
    length = terms + 3
    if terms < 1 or len(frames) < length:
        what = f"{terms} terms take {length} frames, and at least one term is needed"
        raise ValueError(f"{len(frames)} frames: {what}")
    grey = frames[:length].astype(np.float64) @ LUMA / 255  # (L, H, W)
    # delta^1 ... delta^(K+2), at g_0
    orders = [np.diff(grey, n=order, axis=0)[0] for order in range(1, length)]
    away = grey - grey[0]
    powers = [(away**k).sum(axis=0) / math.factorial(k) for k in range(terms)]  # K of (H, W)
    return np.stack([sum(powers[k] * orders[k + c] for k in range(terms)) for c in range(3)], axis=-1)


def show_taylor(frame: np.ndarray) -> np.ndarray:
    """A Taylor frame as a picture, (H, W, 3) uint8: grey where nothing moves, each channel scaled by the 99.5 %
    quantile of its absolute values."""
    limit = np.quantile(np.abs(frame), 0.995, axis=(0, 1))
    scaled = frame / np.where(limit > 0, limit, 1)
    return ((scaled.clip(-1, 1) / 2 + 0.5) * 255).round().astype(np.uint8)
