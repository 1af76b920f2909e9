"""The examples in docs/ run as they stand."""

import re
from pathlib import Path

import pytest
import torch

from vmp.backbones import SPECS, build_backbone
from vmp.backbones.zoo import WEIGHTS

ROOT = Path(__file__).resolve().parent.parent
BACKBONES = (ROOT / "docs/backbones.md").read_text(encoding="utf-8")
PAGE = ROOT / "docs/extend.md"
BLOCKS = re.findall(
    r"^## ([^\n]+)$(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S
)


def test_the_page_has_its_examples():
    titles = ["torchvision", "Hugging Face", "Our backbones, from Python", "Your own power normalisation"]
    assert [title for title, _ in BLOCKS] == titles


@pytest.mark.slow
@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title.split()[0] for title, _ in BLOCKS])
def test_examples_run(title, code, capsys):
    values = {"__name__": "example"}
    exec(compile(code, f"{PAGE.name}: {title}", "exec"), values)
    assert capsys.readouterr().out
    prompt = values.get("prompt") or getattr(values.get("model"), "prompt", None)
    if prompt is not None:  # the two training examples: the loss reached the layer
        assert prompt.m.grad.abs().item() > 0


def lines_for(name: str) -> list[str]:
    words = set(name.split("_"))
    rows = [line for line in BACKBONES.splitlines() if line.startswith("|")]
    return [row for row in rows if words <= set(re.findall(r"[^\W_]+", row.replace("size=", "")))]


@pytest.mark.parametrize("row", WEIGHTS, ids=lambda row: f"{row.backbone}-{row.name}")
def test_the_table_of_weights_is_the_zoos(row):
    assert any(
        row.name in line and f"{row.top1:g}" in line.replace("62.0", "62") for line in lines_for(row.backbone)
    )


@pytest.mark.parametrize("name", [name for name in SPECS if name not in ("tiny", "x3d_xs")])
def test_the_table_of_backbones_is_the_specs(name):
    spec = SPECS[name]
    with torch.device("meta"):
        numbers = sum(p.numel() for p in build_backbone(name, num_classes=400).parameters())
    temporal, spatial = spec.views
    wanted = (
        f"{spec.frames} × {spec.stride}",
        f"{spec.crop} of {spec.jitter[0]}-{spec.jitter[1]}",
        f"{temporal} × {spatial}, {spec.test_crop}",
        {"probs": "probabilities", "logits": "logits"}[spec.reduce],
        f"{numbers:,}",
    )
    assert any(all(value in line for value in wanted) for line in lines_for(name.removesuffix("_m")))
