"""The motion prompt layer (Sec. 2 of the paper): two learned scalars turn frame differences into attention.

Notes:
- the code follows Eq. 1-6: grey frames, differences, power normalisation, product, variation;
- the layer takes T+1 frames and returns T prompts: frame t+1 times the attention to its change since frame t (Eq. 4);
- grey frames and differences are float32 (float64 for float64 clips), also for bfloat16 clips and under autocast: with
  a slope of up to 50, rounding a frame to bfloat16 would change the sigmoid's argument by up to 0.1;
- uint8 clips are normalised in the same pass;
- kernels/ computes the same in one pass over memory. A layer that differs uses the formulas of this file: a subclass,
  another power normalisation, or this one with an edited formula, which is noticed at the first clip.

Shapes: B clips, T prompts, H x W pixels; a clip is (B, 3, T+1, H, W), RGB.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vmp.kernels import one_pass
from vmp.kernels.constants import Constants
from vmp.power_norm import LearnedPowerNorm
from vmp.slope_shift import START_M, START_N, Start

LUMA = {"rgb": (0.299, 0.587, 0.114), "bgr": (0.114, 0.587, 0.299)}  # ITU-R BT.601, the authors' weights


# a floating clip with larger values is surely not normalised, unless mean and std make them as large
LARGE = 20.0


class Prompted(NamedTuple):
    prompts: Tensor  # (B, 3, T, H, W)
    variation: Tensor  # ()


class MotionPrompt(nn.Module):
    """Motion prompts Z = f(D) * F and their temporal attention variation V (Eq. 1-6).

    Args:
        alpha, beta, gamma, epsilon, m, n: slope a = alpha / (beta |tanh m| + epsilon), shift b = gamma tanh n (Eq. 2).
        mean, std: the backbone's input normalisation, one number or one per channel, for pixels in [0, 1].
        grey: "rgb" uses the weights of BT.601; "bgr" exchanges those of red and blue, as in the authors' code.
        modulate: what the attention multiplies. "normalized": the normalised frame, as in the authors' code, so
            attention 0 gives mean grey; "pixel": the frame in [0, 1], as in Eq. 4, so attention 0 gives black.
        variation: "mean" averages Eq. 6 over pixels, as in the authors' code and as the paper's lambdas suggest;
            "frobenius" is Eq. 6 as printed, H*W times larger. Both average over the batch.
        power_norm: any module from differences in [-1, 1] to attention in [0, 1], which replaces the learned one.

    Raises:
        ValueError: an option or a constant is not allowed, or a clip has the wrong shape or type.

    Warns:
        UserWarning: the first floating clip looks like pixels in [0, 1] or 0..255, which nobody has normalised.
    """

    _range_seen = False  # whether a floating clip has come

    def __init__(
        self,
        *,
        alpha: float = 5.0,
        beta: float = 0.45,
        gamma: float = 0.6,
        epsilon: float = 0.1,
        mean: float | tuple[float, ...] = 0.45,
        std: float | tuple[float, ...] = 0.225,
        grey: str = "rgb",
        modulate: str = "normalized",
        variation: str = "mean",
        m: Start = START_M,
        n: Start = START_N,
        power_norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("grey", grey, ("rgb", "bgr")),
            ("modulate", modulate, ("normalized", "pixel")),
            ("variation", variation, ("mean", "frobenius")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} = {value!r}: must be one of {', '.join(allowed)}")
        if power_norm is None:
            power_norm = LearnedPowerNorm(alpha=alpha, beta=beta, gamma=gamma, epsilon=epsilon, m=m, n=n)
        if not isinstance(power_norm, nn.Module):
            raise ValueError(
                f"power_norm = {power_norm!r}: must be an nn.Module, an instance and not its class"
            )
        self.power_norm = power_norm
        self.mean, self.std = per_channel(mean, "mean"), per_channel(std, "std")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if not all(value <= 1 for value in values):  # not max, which may pass over a NaN
                raise ValueError(
                    f"{name} = {values}: must be for pixels in [0, 1]; divide those for 0..255 by 255"
                )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std = {std}: must be greater than 0")
        self.grey, self.modulate, self.variation = grey, modulate, variation

    def forward(self, clip: Tensor, *, variation: bool = True) -> Prompted:
        """Turn clips into prompts.

        Args:
            clip: (B, 3, T+1, H, W), T >= 1; uint8 in 0..255, or floating and already normalised by mean and std.
            variation: False skips Eq. 6 and returns 0 for it.

        Returns:
            prompts (B, 3, T, H, W), normalised, in the clip's floating type (uint8: autocast's type, else float32);
            variation, a scalar, 0 where no clip has two attention maps.
        """
        check_clip(clip, least_frames=2)
        usable = one_pass.is_usable()
        if usable and clip.dtype != torch.uint8 and not self._range_seen:
            self._check_range(clip)
        norm = self.power_norm
        # the kernels compute exactly this layer; a subclass of the layer or of the power norm may differ
        exact = type(norm) is LearnedPowerNorm and not _overrides_attention(type(self))
        waiting = norm._forward_hooks or norm._forward_pre_hooks  # for the power norm's call
        options = self.grey, self.modulate, self.variation
        if exact and not waiting and usable and _kernels_agree(options, _formulas()):
            return self._by_kernels(clip, variation=variation)
        return self._by_formulas(clip, variation=variation)

    def _check_range(self, clip: Tensor) -> None:
        """Warn if a floating clip looks like pixels that are not normalised. It waits for the device, once for a layer:
        a clip that cannot be looked at (without values, of a type without order, in a CUDA graph) leaves that to the
        next one."""
        plain = type(clip) is Tensor and not clip.is_meta and clip.dtype.itemsize > 1
        if not plain or not clip.numel() or (clip.is_cuda and torch.cuda.is_current_stream_capturing()):
            return
        self._range_seen = True
        least, most = torch.stack(clip.detach().aminmax()).tolist()
        low = min(-mean / std for mean, std in zip(self.mean, self.std, strict=True))
        high = max((1 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))
        as_pixels = 0 <= least < most <= 1 and not (low >= -0.01 and high <= 1.01)
        if not as_pixels and not max(-least, most) > max(LARGE, 1.5 * max(-low, high)):
            return
        warnings.warn(
            f"the first float clip has values from {least:.4g} to {most:.4g}: it looks as if it were not normalised, "
            "and then the differences have the wrong scale. MotionPrompt takes uint8 clips (0..255), or floating ones "
            f"normalised with its mean={self.mean} and std={self.std}, from {low:.3g} to {high:.3g}. Pass uint8, or "
            "(x - mean) / std of pixels x in [0, 1], or give the layer the mean and std of your model: mean=0 and "
            "std=1 if that takes pixels in [0, 1], std=1/255 if it takes 0..255",
            stacklevel=5,  # where the module is called
        )

    def _by_formulas(self, clip: Tensor, *, variation: bool) -> Prompted:
        return apply_attention(self, clip, self.attention(clip), variation=variation)

    def _by_kernels(self, clip: Tensor, *, variation: bool) -> Prompted:
        def formulas(clip: Tensor, slope: Tensor, shift: Tensor) -> Prompted:
            return compute_prompts(
                self, clip, lambda d: torch.sigmoid(slope * (d - shift)), variation=variation
            )

        constants = Constants(
            grey=self.grey_weights(clip.dtype),
            mean=self.mean,
            std=self.std,
            pixel=self.modulate == "pixel",
            frobenius=self.variation == "frobenius",
            dtype=output_dtype(clip),
        )
        norm = self._learned()
        found = one_pass.apply(
            clip, norm.slope, norm.shift, constants, variation=variation, formulas=formulas
        )
        return Prompted(*found)

    def differences(self, clip: Tensor) -> Tensor:
        """D_t = F'_{t+1} - F'_t for grey frames F' in [0, 1]: (B, 3, T+1, H, W) -> (B, T, H, W)."""
        grey = self.grey_frames(clip)
        return grey[:, 1:] - grey[:, :-1]

    def grey_frames(self, clip: Tensor) -> Tensor:
        """Grey frames on the scale of [0, 1]: (B, 3, T+1, H, W) -> (B, T+1, H, W).

        For normalised clips they lack a constant, which cancels in differences.
        """
        check_clip(clip, least_frames=2)
        wide = clip if clip.dtype == torch.float64 else clip.float()
        w = self.grey_weights(clip.dtype)
        return wide[:, 0] * w[0] + wide[:, 1] * w[1] + wide[:, 2] * w[2]

    def attention(self, clip: Tensor) -> Tensor:
        """f(D) in [0, 1] (Eq. 3): (B, 3, T+1, H, W) -> (B, T, H, W)."""
        return self.power_norm(self.differences(clip))

    def grey_weights(self, dtype: torch.dtype) -> tuple[float, float, float]:
        """Channel weights for a clip of this type, such that grey differences are on the scale of [0, 1]."""
        r, g, b = LUMA[self.grey]
        s = (1 / 255,) * 3 if dtype == torch.uint8 else self.std
        return r * s[0], g * s[1], b * s[2]

    @property
    def m(self) -> nn.Parameter:
        """The free parameter behind the slope, shape (1,)."""
        return self._learned().m

    @property
    def n(self) -> nn.Parameter:
        """The free parameter behind the shift, shape (1,)."""
        return self._learned().n

    @property
    def slope(self) -> Tensor:
        """a(m), shape (1,), in [alpha / (beta + epsilon), alpha / epsilon] (Eq. 2)."""
        return self._learned().slope

    @property
    def shift(self) -> Tensor:
        """b(n), shape (1,), in (-gamma, gamma) (Eq. 2)."""
        return self._learned().shift

    def scalars(self) -> dict[str, Tensor]:
        """Scalars to log: `power_norm.scalars()`, or none if it has no such method."""
        scalars = getattr(self.power_norm, "scalars", None)
        return scalars() if scalars else {}

    def __dir__(self) -> list[str]:
        # TorchScript reads every name; these raise TypeError without a learned power normalisation
        norm = getattr(self, "power_norm", None)  # a subclass may still be building it
        without = set() if isinstance(norm, LearnedPowerNorm) else {"m", "n", "slope", "shift"}
        return [name for name in super().__dir__() if name not in without]

    def extra_repr(self) -> str:
        options = f"grey={self.grey!r}, modulate={self.modulate!r}, variation={self.variation!r}"
        return f"mean={self.mean}, std={self.std}, {options}"

    def _learned(self) -> LearnedPowerNorm:
        if not isinstance(self.power_norm, LearnedPowerNorm):
            # TypeError, not AttributeError: nn.Module would turn the latter into "no attribute 'slope'"
            raise TypeError(f"{type(self.power_norm).__name__} has no learned slope and shift; use scalars()")
        return self.power_norm


def _overrides_attention(layer: type[MotionPrompt]) -> bool:
    """Whether a subclass computes its attention differently from the kernels."""
    names = ("grey_frames", "differences", "attention")
    return any(getattr(layer, name) is not getattr(MotionPrompt, name) for name in names)


def _formulas() -> tuple[Callable[..., Any], ...]:
    """All of this file and of power_norm.py that the kernels compute, too."""
    layer = MotionPrompt
    parts = (
        layer.grey_frames,
        layer.differences,
        layer.attention,
        layer.grey_weights,
        LearnedPowerNorm.forward,
    )
    return (*parts, apply_attention, temporal_attention_variation, as_normalized)


@cache
def _kernels_agree(options: tuple[str, str, str], formulas: tuple[Callable[..., Any], ...]) -> bool:
    """Whether the kernels return, on a small clip, what the formulas do. Where somebody has edited one of these, the
    formulas have precedence."""
    grey, modulate, variation = options
    with (
        torch.device("cpu"),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
    ):
        layer = MotionPrompt(grey=grey, modulate=modulate, variation=variation, mean=(0.4, 0.45, 0.5))
        i = torch.arange(3 * 4 * 8 * 8)
        clip = ((7 * i * i + 61 * i) % 251).to(torch.uint8).view(1, 3, 4, 8, 8)
        found = []
        for compute in (layer._by_kernels, layer._by_formulas):
            outs = [compute(each, variation=True) for each in (clip, clip.float() / 128 - 1)]
            loss = torch.stack([out.prompts.square().sum() + out.variation for out in outs]).sum()
            grads = torch.autograd.grad(loss, [*layer.parameters()], allow_unused=True)
            found.append([x.double() for x in (*outs[0], *outs[1], *grads) if x is not None])
    agree = len(found[0]) == len(found[1]) and all(
        a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(*found, strict=True)
    )
    if not agree:
        warnings.warn(
            "layer.py or power_norm.py was edited: their formulas are used, which is slower than the kernels that "
            "still compute the paper's (kernels/)",
            stacklevel=3,
        )
    return agree


def compute_prompts(
    layer: MotionPrompt, clip: Tensor, power_norm: Callable[[Tensor], Tensor], *, variation: bool
) -> Prompted:
    """Eq. 1-6 in plain torch operations, with `power_norm` as Eq. 3."""
    return apply_attention(layer, clip, power_norm(layer.differences(clip)), variation=variation)


def apply_attention(layer: MotionPrompt, clip: Tensor, a: Tensor, *, variation: bool) -> Prompted:
    """Eq. 4-6: the frames after the first, multiplied by attention maps (B, T, H, W), and V of these."""
    frames = as_normalized(clip, layer.mean, layer.std)[:, :, 1:]  # (B, 3, T, H, W)
    if layer.modulate == "normalized":
        prompts = a.unsqueeze(1) * frames  # Eq. 4
    else:  # the product in [0, 1] is a (x std + mean); normalised again: a (x + mean / std) - mean / std
        offset = [mean / std for mean, std in zip(layer.mean, layer.std, strict=True)]
        prompts = torch.stack([a * (frames[:, c] + offset[c]) - offset[c] for c in range(3)], dim=1)
    v = temporal_attention_variation(a, reduction=layer.variation) if variation else a.new_zeros(())
    return Prompted(prompts.to(output_dtype(clip)), v)


def temporal_attention_variation(attention: Tensor, *, reduction: str = "mean") -> Tensor:
    """V of Eq. 6 for attention maps (B, T, H, W): a scalar, averaged over the batch; 0 without a clip of two maps.

    reduction: "mean" averages the squared differences over pixels, "frobenius" sums them.
    """
    b, t, h, w = attention.shape
    if t < 2 or not attention.numel():
        return attention.new_zeros(())
    # mean over B, T-1 pairs and H*W pixels; the paper counts T+1 frames as T, hence its 1 / (T - 2)
    v = (attention[:, 1:] - attention[:, :-1]).square().mean()
    return v if reduction == "mean" else v * (h * w)


def normalize(clip: Tensor, mean: float | tuple[float, ...], std: float | tuple[float, ...]) -> Tensor:
    """The input of a backbone without prompts: (B, 3, T, H, W), uint8 -> floating, (x / 255 - mean) / std."""
    check_clip(clip, least_frames=1)
    return as_normalized(clip, per_channel(mean, "mean"), per_channel(std, "std")).to(output_dtype(clip))


def as_normalized(clip: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 -> normalised float32; floating clips are already normalised and only widened."""
    if clip.dtype != torch.uint8:
        return clip if clip.dtype == torch.float64 else clip.float()
    x = clip.float()
    if len(set(mean)) == 1 and len(set(std)) == 1:
        return x * (1 / (255 * std[0])) - mean[0] / std[0]
    # Python numbers per channel, so the module needs no buffer that moves between devices
    return torch.stack([x[:, c] * (1 / (255 * std[c])) - mean[c] / std[c] for c in range(3)], dim=1)


def output_dtype(clip: Tensor) -> torch.dtype:
    """The type of the backbone's input: the clip's own; for uint8, autocast's if it is on, else float32."""
    if clip.dtype != torch.uint8:
        return clip.dtype
    device = clip.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32


def check_clip(clip: Tensor, *, least_frames: int) -> None:
    if not isinstance(clip, Tensor):
        raise ValueError(f"clip is a {type(clip).__name__}: must be a torch.Tensor")
    if clip.dim() != 5 or clip.shape[1] != 3:
        raise ValueError(f"clip has shape {tuple(clip.shape)}: must be (batch, 3, frames, height, width)")
    if clip.shape[2] < least_frames:
        raise ValueError(
            f"clip has {clip.shape[2]} frame(s): at least {least_frames} needed, since T prompts take T + 1 frames"
        )
    if 0 in clip.shape[3:]:
        raise ValueError(f"clip has shape {tuple(clip.shape)}: it has no pixels")
    if clip.dtype != torch.uint8 and not clip.is_floating_point():
        raise ValueError(f"clip is {clip.dtype}: must be uint8 (0..255) or floating (normalised)")


def per_channel(value: float | tuple[float, ...], name: str) -> tuple[float, float, float]:
    if not isinstance(value, int | float | tuple):
        value = getattr(value, "tolist", lambda: value)()  # of arrays and tensors
    try:
        values = (value,) * 3 if isinstance(value, int | float) else tuple(float(v) for v in value)
    except (TypeError, ValueError):
        values = ()
    if len(values) != 3:
        raise ValueError(f"{name} = {value!r}: must be one number or three, one per channel")
    return values[0], values[1], values[2]
