"""Prompts, backbones and data of a user's own (docs/extending.md): built from their targets, and tried before training.

What each has to be:
- prompts: a module from differences (B, T, H, W) in [-1, 1] to attention of the same shape, or a subclass of
  `MotionPrompt`, which is given the options of that layer;
- a backbone: a module from normalised clips (B, 3, T, H, W) to logits, made by a call with num_classes=N;
- data: rows with the columns of a list (docs/data.md) and the column split.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from vmp.errors import ConfigError
from vmp.layer import MotionPrompt
from vmp.targets import call, describe, find

SPLITS = ("train", "val", "test")
_CLASSES = 7  # of a backbone that is tried
_CUT_OFF = (
    "depend on its parameters (a detach() or no_grad() cuts them off), so training would not change them"
)


def build_prompt(target: str, options: Mapping[str, Any], **layer: Any) -> MotionPrompt:
    """A prompt layer. layer: the options of `MotionPrompt`.

    Raises:
        ConfigError: the target cannot be imported or built, or is no module.
    """
    part = find("vmp", target, options)
    if not isinstance(part, type) or not issubclass(part, nn.Module):
        raise ConfigError(f"vmp.target = {target}: must be a class of torch.nn.Module")
    if issubclass(part, MotionPrompt):
        return call("vmp", target, **{**layer, **options})
    return MotionPrompt(power_norm=call("vmp", target, **options), **layer)


def build_backbone(target: str, options: Mapping[str, Any], *, num_classes: int) -> nn.Module:
    """A backbone; its `head_name` is the last Linear where it has none of its own.

    Raises:
        ConfigError: the target cannot be imported or built, is no module, is lazy, or has no Linear.
    """
    model = call("backbone", target, num_classes=num_classes, **options)
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"backbone.target = {target}: made a {type(model).__name__}; it must be a torch.nn.Module"
        )
    if lazy := [name for name, p in model.named_parameters() if is_lazy(p)]:
        raise ConfigError(
            f"backbone.target = {target}: the size of {', '.join(lazy[:3])} is left open until a clip comes (a lazy "
            "module of torch), and weights, optimizer and checkpoints need it before; give the module its size"
        )
    if not hasattr(model, "head_name"):
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise ConfigError(
                f"backbone.target = {target}: has no Linear that could be its head; give it the attribute head_name, "
                "the dotted name of its last layer"
            )
        model.head_name = linear[-1]
    return model


def list_rows(target: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Split -> the text of a list with a header, from rows of the user's own.

    Raises:
        ConfigError: the target fails, a row is no dict or has no such split, or there are no rows to train or to test
            on.
    """
    found = call("dataset", target, **options)
    where = f"dataset.target = {target}"
    if not isinstance(found, Iterable):
        raise ConfigError(f"{where}: returned a {type(found).__name__}; it must return or yield rows")
    rows: dict[str, list[dict[str, Any]]] = {}
    try:
        listed = list(found)
    except Exception as error:  # of a generator, it is raised here
        raise ConfigError(f"{where}: fails: {describe(error)}") from error
    for row in listed:
        if not isinstance(row, Mapping):
            raise ConfigError(
                f"{where}: gave {row!r:.60} as a row; a row is a dict with split, path and label (those of a pandas "
                "table: table.to_dict('records'))"
            )
        # pandas has NaN where a cell is empty
        rest = {
            key: "" if isinstance(value, float) and value != value else value for key, value in row.items()
        }
        rows.setdefault(rest.pop("split", ""), []).append(rest)
    if wrong := [split for split in rows if split not in SPLITS]:
        shown = rows[wrong[0]][0]
        raise ConfigError(f"{where}: split = {wrong[0]!r} of {shown}: must be one of {', '.join(SPLITS)}")
    if "train" not in rows or len(rows) < 2:
        raise ConfigError(
            f"{where}: has rows of {', '.join(rows) or 'no split'}; train, and val or test, are needed"
        )
    texts = {}
    for split, part in rows.items():
        text = io.StringIO()
        writer = csv.DictWriter(
            text, list(dict.fromkeys(key for row in part for key in row)), lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(part)
        texts[split] = text.getvalue()
    return texts


def try_prompt(target: str, layer: MotionPrompt, *, frames: int, crop: int) -> None:
    """Run a layer forwards and backwards on a clip that is still in places.

    Raises:
        ConfigError: it fails; its attention, prompts or V have another shape; they or a gradient are not finite; its
            scalars are no numbers, or a slope without a shift.
    """
    where, clip = f"vmp.target = {target}", _clip(frames + 1, crop)
    shape = (len(clip), frames, crop, crop)
    a = _run(where, layer.attention, clip)
    _check(where, "attention", a, shape, f"as the differences have, {shape}")
    # a subclass may leave the parameters of the paper's layer unused
    learned = type(layer) is MotionPrompt and any(p.requires_grad for p in layer.parameters())
    if learned and not a.requires_grad:
        raise ConfigError(f"{where}: its attention does not {_CUT_OFF}")
    prompts, v = _run(where, layer, clip)
    _check(where, "prompts", prompts, (len(clip), 3, frames, crop, crop), "one frame less than the clip")
    _check(where, "variation", v, (), "one number")
    _check_gradients(where, layer, prompts.float().square().mean() + v)
    _check_scalars(where, layer)


def try_backbone(target: str, options: Mapping[str, Any], *, frames: int, crop: int) -> None:
    """Build a backbone and run it forwards and backwards on a clip.

    Raises:
        ConfigError: it fails; its logits have another shape or are probabilities; they or a gradient are not finite;
            nothing of it learns, or not its head.
    """
    where, clip = f"backbone.target = {target}", _clip(frames, crop).float() / 127.5 - 1
    model = build_backbone(target, options, num_classes=_CLASSES)
    head = dict(model.named_modules()).get(str(model.head_name))
    if head is None:
        raise ConfigError(f"{where}: head_name = {model.head_name!r}: it has no such part")
    size = f"backbone.frames = {frames} and backbone.crop = {crop} give its size"
    logits = _run(where, model, clip, size)
    _check_logits(where, "output", logits)
    learned = [p for p in model.parameters() if p.requires_grad]
    if learned and not logits.requires_grad:
        raise ConfigError(f"{where}: its logits do not {_CUT_OFF}")
    _check_gradients(where, model, logits.float().square().mean())
    own = [p for p in head.parameters() if p.requires_grad]
    if own and all(p.grad is None for p in own):
        raise ConfigError(
            f"{where}: the logits do not depend on {model.head_name}, which is taken as its head; give it the "
            "attribute head_name, the dotted name of its last layer"
        )
    with torch.no_grad():
        _check_logits(where, "output in evaluation mode", _run(where, model.eval(), clip, size))


def _check_logits(where: str, what: str, logits: Any) -> None:
    shape = (2, _CLASSES)
    _check(where, what, logits, shape, f"(clips, num_classes) = {shape}")
    sums = logits.float().sum(dim=1)
    if logits.min() >= 0 and torch.allclose(sums, torch.ones_like(sums), atol=1e-2):
        raise ConfigError(
            f"{where}: its {what} consists of probabilities, which sum to 1; leave the softmax out: the loss applies it"
        )


def _clip(frames: int, crop: int) -> Tensor:
    """(2, 3, frames, crop, crop) uint8; the upper half does not move."""
    generator = torch.Generator().manual_seed(0)
    clip = torch.randint(0, 256, (2, 3, frames, crop, crop), dtype=torch.uint8, generator=generator)
    clip[..., : crop // 2, :] = clip[:, :, :1, : crop // 2]
    return clip


def _run(where: str, function: Callable[[Tensor], Any], clip: Tensor, size: str = "") -> Any:
    """size: which keys decide the shape of the clip."""
    try:
        return function(clip)
    except Exception as error:
        shape = f"{tuple(clip.shape)}{size and f' ({size})'}"
        raise ConfigError(f"{where}: fails on a clip of shape {shape}: {describe(error)}") from error


def _check(where: str, what: str, value: Any, shape: tuple[int, ...], wanted: str) -> None:
    if not isinstance(value, Tensor) or tuple(value.shape) != shape:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
        raise ConfigError(f"{where}: its {what} has {found}; it must have shape {shape}: {wanted}")
    if not value.isfinite().all():
        raise ConfigError(f"{where}: its {what} is not finite on a clip with still regions")


def _check_gradients(where: str, module: nn.Module, loss: Tensor) -> None:
    if not loss.requires_grad:
        return  # it learns nothing
    loss.backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            raise ConfigError(f"{where}: the gradient of {name} is not finite on a clip with still regions")


def _check_scalars(where: str, layer: MotionPrompt) -> None:
    try:
        with torch.no_grad():  # float() warns of a tensor that requires a gradient
            names = {name for name, value in layer.scalars().items() if float(value) is not None}
    except Exception as error:
        raise ConfigError(
            f"{where}: scalars() fails: {describe(error)}; it must return name -> one number"
        ) from error
    for one, other in (("slope", "shift"), ("shift", "slope")):
        for name in sorted(names):
            if name.endswith(one) and name.removesuffix(one) + other not in names:
                raise ConfigError(
                    f"{where}: scalars() has {name} without {name.removesuffix(one)}{other}, and figures show the two "
                    "together as those of Eq. 2; return both, or choose another name"
                )
