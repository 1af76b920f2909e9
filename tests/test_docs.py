"""The examples in docs/ run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/plug_and_play.md"
BLOCKS = re.findall(r"^## (.+?)$.*?^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def test_the_page_has_its_examples():
    assert [title for title, _ in BLOCKS] == ["torchvision", "Hugging Face", "Our backbones, from Python"]


@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title.split()[0] for title, _ in BLOCKS])
def test_examples_run(title, code, capsys):
    values = {"__name__": "example"}
    exec(compile(code, f"{PAGE.name}: {title}", "exec"), values)
    assert capsys.readouterr().out
    prompt = values.get("prompt") or getattr(values["model"], "prompt", None)
    if prompt is not None:  # the two training examples: the loss reached the layer
        assert prompt.m.grad.abs().item() > 0
