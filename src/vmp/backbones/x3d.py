"""X3D through pytorchvideo's builder, cleaned so that it trains on logits and compiles to one graph.

Notable here:
- pytorchvideo 0.1.5 ends X3D with a Softmax, also in training: cross-entropy on that learns badly and in silence;
- it leaves numpy integers in strides and pool sizes and a Swish with a hand-written backward, which break
  torch.compile into a dozen graphs; plain integers and SiLU are the same numbers;
- importing it takes seconds (torchvision), so that happens when a model is built.
"""

from torch import nn

DEPTH = {"xs": 2.2, "s": 2.2, "m": 2.2, "l": 5.0}


def build_x3d(size: str, *, num_classes: int, frames: int, crop: int, dropout: float = 0.5) -> nn.Module:
    """X3D-XS, -S, -M or -L with random weights; frames and crop fix the size of the last pooling window."""
    from pytorchvideo.models.x3d import create_x3d

    model = create_x3d(
        input_channel=3,
        input_clip_length=frames,
        input_crop_size=crop,
        model_num_class=num_classes,
        dropout_rate=dropout,
        width_factor=2.0,
        depth_factor=DEPTH[size],
        head_activation=None,
    )
    return clean(model)


def clean(model: nn.Module) -> nn.Module:
    """Plain integers for numpy ones, SiLU for Swish; in place."""
    from pytorchvideo.layers.swish import Swish

    for module in model.modules():
        for name in ("stride", "padding", "dilation", "kernel_size"):
            value = getattr(module, name, None)
            if isinstance(value, list | tuple):
                setattr(module, name, tuple(int(v) for v in value))
        for name, child in module.named_children():
            if isinstance(child, Swish):
                setattr(module, name, nn.SiLU())
    return model
