"""Slow and plain: Eq. 1-6 of the paper in float64 NumPy, one pixel formula at a time, to test the layer against."""

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])


def slope(m: float, alpha: float = 5.0, beta: float = 0.45, epsilon: float = 0.1) -> float:
    return alpha / (beta * abs(np.tanh(m)) + epsilon)


def shift(n: float, gamma: float = 0.6) -> float:
    return gamma * np.tanh(n)


def power_norm(d: np.ndarray, m: float, n: float) -> np.ndarray:
    z = slope(m) * (d - shift(n))
    return np.where(z >= 0, 1 / (1 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))))


def prompts(
    pixels: np.ndarray, m: float, n: float, *, mean: float = 0.45, std: float = 0.225, luma: np.ndarray = LUMA
):
    """pixels (B, 3, T+1, H, W) in [0, 1] -> normalised prompts by "normalized" and by "pixel", attention, V by "mean"
    and by "frobenius"."""
    pixels = pixels.astype(np.float64)
    grey = np.einsum("bcthw,c->bthw", pixels, luma)
    a = power_norm(np.diff(grey, axis=1), m, n)
    frames = pixels[:, :, 1:]
    normalized = a[:, None] * ((frames - mean) / std)
    pixel = (a[:, None] * frames - mean) / std
    pairs = np.diff(a, axis=1)
    if pairs.shape[1] == 0:
        return normalized, pixel, a, 0.0, 0.0
    per_clip = (pairs**2).sum(axis=(1, 2, 3)) / pairs.shape[1]
    h, w = pixels.shape[-2:]
    return normalized, pixel, a, per_clip.mean() / (h * w), per_clip.mean()
