"""Which parameters of a model are trained, and how its batch normalisation behaves (Tables 2 and 4 of the paper).

Notes:
- frozen means frozen: no gradient, no weight decay, no running statistics, no dropout;
- the head is the last Linear with the dropout in front of it;
- normalisation layers are found by type, never by name.
"""

from collections.abc import Container, Iterator, Sequence

from torch import nn

from vmp.choices import BatchNorm, Freeze, check_choice
from vmp.errors import ConfigError
from vmp.layer import MotionPrompt
from vmp.model import PromptedClassifier
from vmp.pathways import learned_name

SEQUENCES = ("blocks", "stages", "features", "layers")  # `features`: torchvision's Swin, S3D and the like


def freeze(model: PromptedClassifier, what: str) -> None:
    """Freeze part of a model, in place.

    Args:
        what: "none"; "backbone": all of it but the head, so prompts and head are trained; "backbone_and_head": only
            the prompts are trained; "all_but_head": only the head is.

    Raises:
        ValueError: `what` is none of these, or nothing would be left to train.
    """
    check_choice("freeze", what, Freeze)
    if what == "none":
        return
    head = {id(module) for module in head_of(model.backbone)}
    trained_ids = set() if what == "backbone_and_head" else head
    frozen = [module for module in model.backbone.modules() if id(module) not in trained_ids]
    frozen += [*model.prompts.modules(), *model.inside.modules()] if what == "all_but_head" else []
    _freeze_modules(model, frozen)
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"freeze = {what!r}: nothing is left to train")


def check_frozen(
    model: PromptedClassifier, loaded: Container[str], prompts: Container[str], why: Sequence[str] = ()
) -> None:
    """Check that no parameter is frozen that nothing has trained.

    Args:
        loaded, prompts: names of the backbone's parameters, and of m and n, that were loaded.
        why: reasons why parts of the start weights were not loaded, for the message.

    Raises:
        ConfigError: a frozen parameter was not loaded, and of m and n neither set.
    """
    random = [n for n, p in model.backbone.named_parameters() if not p.requires_grad and n not in loaded]
    layers = [(n, p) for n, p in model.named_parameters() if n.startswith(("prompts.", "inside."))]
    frozen = [learned_name(n) for n, p in layers if not p.requires_grad]
    random += [f"{name} of the prompts" for name in frozen if name not in prompts]
    if random:
        raise ConfigError(
            f"train.freeze would freeze randomly initialised parameters: {', '.join(random[:6])}. The initial weights "
            "do not have them (other classes, or no such prompts); freeze less, use vmp=none, or start from another run"
            + "".join(f"\n  {reason}" for reason in why)
        )


def set_batch_norm(model: PromptedClassifier, how: str) -> PromptedClassifier:
    """Choose the statistics of batch normalisation.

    Args:
        how: "train": each device's batch gives the statistics; "frozen": running statistics, scale and offset stay as
            loaded, for small batches; "sync": statistics over all devices (CUDA).

    Returns:
        the model; with "sync" its batch normalisation layers are new modules.
    """
    check_choice("batch_norm", how, BatchNorm)
    if how == "frozen":
        _freeze_modules(model, [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)])
    if how == "sync":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def head_of(backbone: nn.Module) -> Iterator[nn.Module]:
    """The last Linear and the dropout in front of it."""
    name: str = backbone.head_name  # type: ignore[assignment]
    parent = backbone.get_submodule(name.rpartition(".")[0])
    yield backbone.get_submodule(name)
    if isinstance(dropout := getattr(parent, "dropout", None), nn.Module):
        yield dropout


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The trained parameters: (those of other layers, those of normalisation layers)."""
    types = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
    norms = [p for m in model.modules() if isinstance(m, types) for p in m.parameters(recurse=False)]
    taken = {id(p) for p in norms}
    others = [p for p in model.parameters() if id(p) not in taken]
    return [p for p in others if p.requires_grad], [p for p in norms if p.requires_grad]


def blocks_of(backbone: nn.Module) -> list[list[nn.Parameter]]:
    """All parameters, each once, from the input to the output: the stem or the embeddings, each block or stage, and
    what follows the last one, up to the head. Without a sequence of one of the names in SEQUENCES, the children are the
    blocks; a module around a single other one has the blocks of that one."""
    children = dict(backbone.named_children())
    rows = (name for name in SEQUENCES if isinstance(children.get(name), nn.ModuleList | nn.Sequential))
    found = [list(backbone.parameters(recurse=False))]
    if row := next(rows, None):
        parts, at = list(children.values()), list(children).index(row)
        found[0] += [p for part in parts[:at] for p in part.parameters()]
        found += [list(block.parameters()) for block in children[row].children()]
        found.append([p for part in parts[at + 1 :] for p in part.parameters()])
    elif len(children) == 1 and not found[0]:
        return blocks_of(*children.values())
    else:
        found += [list(child.parameters()) for child in children.values()]
    # the first that has it
    owner = {id(p): number for number, block in reversed([*enumerate(found)]) for p in block}
    once = [[p for p in dict.fromkeys(block) if owner[id(p)] == number] for number, block in enumerate(found)]
    return [block for block in once if block]


def _freeze_modules(model: PromptedClassifier, modules: list[nn.Module]) -> None:
    for module in modules:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
    # the mode of a prompt layer says only where its attention comes from (controls.OtherClipPrompt)
    model.frozen_modules += [module for module in modules if not isinstance(module, MotionPrompt)]


def trained(model: nn.Module) -> int:
    """How many numbers training can change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
