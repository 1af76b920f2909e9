"""The examples in docs/ run as they stand."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from configs import ROOT, composed
from runs import Running

from vmp.backbones import SPECS, build_backbone
from vmp.backbones.zoo import WEIGHTS
from vmp.preflight import try_own_parts

BACKBONES = (ROOT / "docs/backbones.md").read_text(encoding="utf-8")
PAGE = ROOT / "docs/layer.md"
BLOCKS = re.findall(
    r"^## ([^\n]+)$(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S
)
EXTENDING = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```", EXTENDING, re.M | re.S))
COMMANDS = re.findall(r"^    ((?:vmp|PYTHONPATH).+)$", EXTENDING, re.M)
QUICK = [
    *("trainer=debug", "trainer.epochs=1", "trainer.clips=8", "trainer.batch_size=4", "trainer.device=cpu"),
    *("trainer.threads=1", "trainer.workers=0", "backbone.weights=none"),
]


def test_the_page_has_its_examples():
    titles = ["torchvision", "Hugging Face", "Our backbones, from Python"]
    assert [title for title, _ in BLOCKS] == titles
    assert list(FILES) == [
        f"my_project/{name}.{suffix}"
        for name, suffix in zip(
            ("norms", "networks", "data", "conf/vmp/gaussian", "study"),
            ("py", "py", "py", "yaml", "yaml"),
            strict=True,
        )
    ]
    assert all(text.count("\n") < 30 for text in FILES.values())
    assert len(COMMANDS) == 8


@pytest.mark.slow
@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title.split()[0] for title, _ in BLOCKS])
def test_examples_run(title, code, capsys):
    values = {"__name__": "example"}
    exec(compile(code, f"{PAGE.name}: {title}", "exec"), values)
    assert capsys.readouterr().out
    prompt = values.get("prompt") or getattr(values.get("model"), "prompt", None)
    if prompt is not None:  # the two training examples: the loss reached the layer
        assert prompt.m.grad.abs().item() > 0


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the page's files, and videos whose annotations are as the page says."""
    from vmp.data.motions import Motions, make_motions

    home = tmp_path_factory.mktemp("extending")
    for name, text in FILES.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    made = make_motions(home / "made", Motions(train=20, val=10, test=10), progress=False)
    clips = [
        {"file": path.name, "what": "abc"[i % 3], "person": i // 3}
        for i, path in enumerate(sorted((made / "videos/train").glob("*.mp4")))
    ]
    (home / "clips.json").write_text(json.dumps(clips))
    (home / "videos").symlink_to(made / "videos/train")
    return home


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command.split()[:4])[-40:])
def test_commands_with_parts_of_ones_own_run(project, command):
    words = shlex.split(command.replace("$PWD", str(project)))
    if "torchvision" in command:  # its training is the next example's
        small = ["backbone.frames=8", "backbone.crop=16"]
        return try_own_parts(composed(*words[2:], *small))
    if words[0].startswith("PYTHONPATH"):
        name, _, folder = words[0].partition("=")
        quick = [f"output={project}/mine", f"data.root={project}/data", "only=none gaussian"]
        done = subprocess.run(
            [sys.executable, ROOT / words[2], *words[3:], *quick],
            cwd=project, env={**os.environ, name: folder}, capture_output=True, text=True, timeout=250,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Gaussian" in (project / "mine/results/study_mine.md").read_text()
        return
    if words[1] == "evaluate":
        run = next(project.glob("outputs/*/*/narrow_lambda1/*"), None)
        if run is None:
            pytest.skip("the run of the first example was not made")
        words = [f"run={run}" if word.startswith("run=") else word for word in words] + ["device=cpu"]
    else:
        small = ["backbone.frames=8", "backbone.crop=16"] if "backbone=custom" in words else []
        words = [word.replace("vmp=gaussian,none", "vmp=gaussian") for word in words + QUICK + small]
    script = {"train": "train.py", "evaluate": "evaluate.py"}[words[1]]
    done = Running(words[2:], script=script, cwd=project, environment={"OMP_NUM_THREADS": "1"}).succeed(200)
    assert "top-1" in done.stdout


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = [
        re.sub(r"\[([^]]*)\]\([^)]*\)|[`*]", r"\1", title) for title in re.findall(r"^#+ (.+)$", text, re.M)
    ]
    slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
    return {f"{slug}-{n}" if n else slug for i, slug in enumerate(slugs) for n in [slugs[:i].count(slug)]}


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for link in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


def test_pages_that_messages_name_exist():
    """In the code, the configs and the Makefile."""
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml"), ROOT / "Makefile"]
    named = {
        (file, name)
        for file in files
        for name in re.findall(r"docs/\w+\.md", file.read_text(encoding="utf-8"))
    }
    assert len({name for _, name in named}) > 5
    assert not [(file, name) for file, name in named if not (ROOT / name).exists()]


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
